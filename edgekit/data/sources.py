"""What lies in a file or folder, before any encoding: texts, image files or arrays, with their labels."""

import contextlib
import difflib
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any, TypeVar

import numpy as np

from edgekit.data import hub, tables
from edgekit.data.npz import read_npz
from edgekit.data.samples import Array
from edgekit.errors import DatasetError
from edgekit.spec import DataSpec, TensorSpec


@dataclass(frozen=True)
class ColumnNames:
    """Names that a task's columns are found by, regardless of case: groups of text columns and label columns, best first.

    `verbatim` labels are texts or objects, in which a number is a word like any other. `choices` are names of columns that hold a
    list of second texts, or, with numbers behind them, of columns that hold one each; a second text column begins them all."""

    texts: tuple[tuple[str, ...], ...]
    labels: tuple[str, ...]
    verbatim: bool = False
    choices: tuple[str, ...] = ()

    @property
    def pairs(self) -> bool:
        """Whether every row has two texts."""
        return bool(self.choices) or all(len(group) == 2 for group in self.texts)


COLUMNS = ColumnNames(
    texts=(
        ("sentence1", "sentence2"),
        ("premise", "hypothesis"),
        ("question1", "question2"),
        ("question", "sentence"),
        ("question", "passage"),
        ("text_a", "text_b"),
        ("text1", "text2"),
        *((name,) for name in ("sentence", "text", "review", "content", "comment", "tweet", "utterance", "document", "body")),
        ("message",),
    ),
    labels=("label", "labels", "class", "y", "target", "category", "score"),
)
# Tokenizers take a hundred times the memory of a text.
_LONGEST_TEXT = 10**6
_ARRAY_LABELS = ("labels", "label", "y")
_INTEGER = re.compile(r"[+-]?[0-9]+(\.0+)?")
_FRACTION = re.compile(r"[+-]?[0-9]*\.[0-9]*[1-9][0-9]*([eE][+-]?[0-9]+)?|[+-]?[0-9]+[eE]-[0-9]+")
_NUMBER = re.compile(r"0|-?[1-9][0-9]*")


class _Numbered:
    """Rows that know which row of their source each one is, counted from 0."""

    numbers: Sequence[int]

    def number(self, index: int) -> int:
        """The number in the source of the row at `index`."""
        return int(self.numbers[index]) if self.numbers else index


@dataclass(frozen=True)
class TextRows(_Numbered):
    """Texts (or lists of words), their second halves if there are any, and labels as the task reads them.

    A label is a class's number or its name, or what its column holds: a list, an object; a tuple of values where there are
    several `label_columns`. `class_names` are the source's own names of the numbers, where it has any."""

    texts: tuple[Any, ...]
    pairs: tuple[Any, ...] | None
    labels: tuple[Any, ...] | None
    origin: str
    class_names: tuple[str, ...] | None = None
    numbers: Sequence[int] = ()
    label_columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for index, text in enumerate(itertools.chain(self.texts, self.pairs or ())):
            if len(text) > _LONGEST_TEXT:
                row = self.number(index % len(self.texts)) + 1
                longer = f"has a text of {len(text):,} characters, above the {_LONGEST_TEXT:,} that are read"
                raise DatasetError(f"{self.origin}: row {row} {longer}; cut it, or leave it out")

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class ImageRows(_Numbered):
    """Image files and their class numbers; `class_names` has one name per number, if the folder says."""

    files: tuple[Path, ...]
    labels: tuple[int, ...] | None
    class_names: tuple[str, ...] | None
    origin: str
    numbers: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.files)


@dataclass(frozen=True, eq=False)
class ArrayRows(_Numbered):
    """Arrays (N, ...) by name, as stored, and labels (N,): int64, or floats if some are fractions.

    `doubtful` has the array that was taken for labels by its name alone: a model may have an input of that name. If it has none,
    `fault` says why the array cannot be labels."""

    arrays: Mapping[str, Array]
    labels: Array | None
    origin: str
    numbers: Sequence[int] = ()
    doubtful: Mapping[str, Array] = field(default_factory=dict)
    fault: str = ""

    def __len__(self) -> int:
        return next((len(array) for array in (*self.arrays.values(), *self.doubtful.values())), 0)


Rows = TextRows | ImageRows | ArrayRows
R = TypeVar("R", bound=Rows)


def read(spec: DataSpec, names: ColumnNames = COLUMNS, *, limit: int | None = None, labelled: bool = False) -> Rows:
    """Read a table (.tsv, .csv, .jsonl, .parquet), an .npz file, an image folder with labels.tsv, hub:NAME or rows in memory.

    Columns are found by `names` unless `spec` names them. A label that is written as a whole number is one. Rows without a
    label column are returned without labels, unless `labelled`. At most `limit` rows are read; `spec.samples` is not drawn
    here. Raises `DatasetError`."""
    if isinstance(spec.source, TextRows | ImageRows | ArrayRows):
        return spec.source
    if not isinstance(spec.source, str | Path):
        return _in_memory(spec, names, limit, labelled)
    reference = str(spec.source)
    if reference.startswith(hub.PREFIX):
        table = hub.open_hub(reference)
        return _table(spec, names, table.names, lambda columns: table.columns(columns, limit), table.class_names, labelled)
    path = Path(reference)
    if path.is_dir():
        return _image_folder(path, limit, labelled)
    suffix = path.suffix.lower()
    if suffix not in (*tables.SUFFIXES, ".npz"):
        cause = "is of no known format" if path.exists() else "does not exist"
        formats = " ".join((*tables.SUFFIXES, ".npz"))
        raise DatasetError(f"{path}: {cause}; give a {formats} file, an image folder with labels.tsv, or hub:NAME[/CONFIG][:SPLIT]")
    if not path.exists():
        raise DatasetError(f"{path}: does not exist; check the path")
    if not path.is_file():
        raise DatasetError(f"{path}: is a pipe or a device, not a file; write the rows to a file first")
    if suffix == ".npz":
        return _array_rows(read_npz(path, limit), str(path), spec.label_columns, labelled)
    return _table(spec, names, tables.column_names(path), lambda columns: tables.read_columns(path, columns, limit), {}, labelled)


def _in_memory(spec: DataSpec, names: ColumnNames, limit: int | None, labelled: bool) -> Rows:
    """Lists of dicts, columns by name, a DataFrame, a Dataset, or arrays by name."""
    source, origin = spec.source, spec.origin
    class_names: Mapping[str, tuple[str, ...]] = {}
    if hasattr(source, "to_dict") and hasattr(source, "columns"):
        source = source.to_dict("list")
    elif isinstance(getattr(source, "column_names", None), list) and hasattr(source, "__len__"):
        class_names, source = hub.class_names(source), source[:]
    elif _is_sequence(source) and all(isinstance(row, Mapping) for row in source):
        source = {name: [row.get(name) for row in source] for name in dict.fromkeys(name for row in source for name in row)}
    columns = {str(name): values for name, values in source.items()} if isinstance(source, Mapping) else {}
    lists = (values.ndim > 0 if isinstance(values, np.ndarray) else _is_sequence(values) for values in columns.values())
    if not columns or not all(lists):
        raise DatasetError(
            f"{origin}: a {type(spec.source).__name__} of this form is no rows; "
            "give a list of dicts, lists or arrays by column name, a DataFrame or a Dataset"
        )
    _check_counts(columns, origin, "columns")
    columns = {name: values[:limit] for name, values in columns.items()}
    arrays = {name: array for name, values in columns.items() if (array := _as_numbers(values)) is not None}
    if len(arrays) == len(columns):
        return _array_rows(arrays, origin, spec.label_columns, labelled)
    return _table(spec, names, tuple(columns), lambda chosen: {name: list(columns[name]) for name in chosen}, class_names, labelled)


def _check_counts(columns: Mapping[str, Sized], origin: str, what: str) -> None:
    counts = {name: len(values) for name, values in columns.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in itertools.islice(counts.items(), 8))
        raise DatasetError(f"{origin}: its {what} differ in their number of rows ({listed}); give one row of each per sample")
    if 0 in counts.values():
        raise DatasetError(f"{origin}: holds no rows; give at least one")


def _is_sequence(values: Any) -> bool:
    return isinstance(values, Sequence) and not isinstance(values, str)


def _as_numbers(values: Any) -> Array | None:
    """A column as an array, if it holds numbers, or lists of them that are equally long."""
    if isinstance(values[0], str | Mapping):
        return None
    try:
        array = np.asarray(values)
    except ValueError:
        return None
    return array if array.dtype.kind in "biuf" else None


def feeding(rows: R, inputs: Sequence[TensorSpec]) -> R:
    """The rows for a model with these inputs: an array of such a name is none of labels.

    Raises `DatasetError` for labels that are none."""
    if not isinstance(rows, ArrayRows):
        return rows
    if rows.doubtful.keys() & {spec.name for spec in inputs}:
        return replace(rows, arrays={**rows.arrays, **rows.doubtful}, labels=None, doubtful={}, fault="")
    if rows.fault:
        raise DatasetError(rows.fault)
    return rows


def take(rows: R, indices: Sequence[int] | Array) -> R:
    """The rows at `indices`, in that order, before the costly encoding."""
    chosen = [int(index) for index in indices]

    def pick(values: Any) -> Any:
        if values is None or isinstance(values, np.ndarray):
            return None if values is None else values[chosen]
        return tuple(values[index] for index in chosen)

    picked = {"labels": pick(rows.labels), "numbers": pick(rows.numbers) if rows.numbers else tuple(chosen)}
    if isinstance(rows, ArrayRows):
        for what, arrays in (("arrays", rows.arrays), ("doubtful", rows.doubtful)):
            picked[what] = {name: array[chosen] for name, array in arrays.items()}
    elif isinstance(rows, ImageRows):
        picked["files"] = pick(rows.files)
    else:
        picked |= {"texts": pick(rows.texts), "pairs": pick(rows.pairs)}
    return replace(rows, **picked)


def _table(
    spec: DataSpec,
    names: ColumnNames,
    present: Sequence[str],
    read_columns: Callable[[list[str]], Mapping[str, list[Any]]],
    class_names: Mapping[str, tuple[str, ...]],
    labelled: bool,
) -> TextRows:
    """Rows of the text and label columns among those `present`; `class_names` are those of the columns that have some."""
    origin = spec.origin
    text_columns, label_columns = _choose(spec, names, present, tuple(class_names), labelled)
    choices = _choice_columns(origin, names, present)
    values = read_columns([*text_columns, *label_columns, *choices])
    texts = [_texts(origin, name, values[name]) for name in text_columns]
    classes = class_names.get(label_columns[0]) if len(label_columns) == 1 else None
    held = [
        tuple(
            value if names.verbatim and isinstance(value, str) else _label(origin, name, row, value)
            for row, value in enumerate(values[name])
        )
        for name in label_columns
    ]
    labels: tuple[Any, ...] | None = (held[0] if len(held) == 1 else tuple(zip(*held, strict=True))) or None
    # Test splits on the hub carry -1 in every row: their labels were withheld.
    if labels and classes and all(label == -1 for label in labels):
        labels = None
    second = texts[1] if len(texts) > 1 else None
    if choices:
        second = _joined(second, [_texts(origin, name, values[name]) for name in choices])
    return TextRows(texts[0], second, labels, origin, classes, range(len(texts[0])), label_columns)


def _choice_columns(origin: str, names: ColumnNames, present: Sequence[str]) -> tuple[str, ...]:
    """The column of lists, or the numbered ones in their order, that hold a row's choices; none where the task has none."""
    for name in names.choices:
        parts = {column: re.fullmatch(rf"{name}_?([0-9]+)", column, re.IGNORECASE) for column in present}
        numbered = {int(part[1]): column for column, part in parts.items() if part}
        if len(numbered) > 1:
            return tuple(numbered[number] for number in sorted(numbered))
        if single := [column for column in present if column.casefold() == name]:
            return tuple(single[:1])
    if names.choices:
        listed = ", ".join(map(repr, present))
        raise DatasetError(f"{origin}: no choices among {listed}; give a column `choices` with lists, or choice1, choice2, …")
    return ()


def _joined(stems: Sequence[str] | None, columns: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
    """The choices of each row, each with the row's stem before it, where there is one."""
    single = len(columns) == 1
    rows = [(row,) if isinstance(row, str) else tuple(row) for row in columns[0]] if single else list(zip(*columns, strict=True))
    return tuple(row if stems is None else tuple(f"{stems[place]} {choice}" for choice in row) for place, row in enumerate(rows))


def _choose(
    spec: DataSpec, names: ColumnNames, present: Sequence[str], class_labels: tuple[str, ...], labelled: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    origin, listed = spec.origin, ", ".join(repr(name) for name in present)
    texts, labels = spec.text_columns, spec.label_columns
    for option, column in [*(("--text-column", text) for text in texts), *(("--label-column", label) for label in labels)]:
        if column not in present:
            near = difflib.get_close_matches(column, present, 1)
            hint = f"did you mean {near[0]}?" if near else f"set {option} to one of them"
            raise DatasetError(f"{origin}: no column {column!r} among {listed}; {hint}")
    if len(texts) > 2:
        raise DatasetError(f"{origin}: {len(texts)} text columns given; give --text-column once, or twice for pairs")
    folded = {name.casefold(): name for name in reversed(present)}
    labels = labels or tuple(folded[name] for name in names.labels if name in folded)[:1]
    labels = labels or (class_labels if len(class_labels) == 1 else ())
    if not labels and labelled:
        raise DatasetError(f"{origin}: no label column among {listed}; name it with --label-column")
    if not texts:
        groups = (tuple(folded.get(name) for name in group) for group in names.texts)
        texts = next((tuple(filter(None, group)) for group in groups if all(group) and not {*group} & {*labels}), ())
    if not texts:
        raise DatasetError(
            f"{origin}: no text column among {listed}; name it with --text-column (the first line must hold column names)"
        )
    return tuple(texts), tuple(labels)


def _texts(origin: str, column: str, values: list[Any]) -> tuple[Any, ...]:
    """Texts, or tuples of words where a column holds lists of them."""
    texts = []
    for row, value in enumerate(values):
        words = list(value) if isinstance(value, list | tuple | np.ndarray) else [value]
        for word in words:
            if not isinstance(word, str):
                held = "nothing" if word is None else type(word).__name__
                raise DatasetError(
                    f"{origin}: row {row} (from 0) holds {held} in column {column!r}, not text; mend it or set --text-column"
                )
            try:
                word.encode()
            except UnicodeEncodeError:
                raise DatasetError(
                    f"{origin}: row {row} (from 0) holds half of a surrogate pair in column {column!r}; mend that row"
                ) from None
        texts.append(value if isinstance(value, str) else tuple(words))
    return tuple(texts)


def _label(origin: str, column: str, row: int, value: Any) -> Any:
    """The class's number where the value is a whole number in any form, else its name; a list or an object as it is.

    A fraction, which a regression's data has, is a name in every format: only a head that chooses a class has to refuse it."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return tuple(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, float) and math.isfinite(value) and not value.is_integer():
        return str(value)
    if isinstance(value, str) and (name := value.strip()):
        return int(name.partition(".")[0]) if _INTEGER.fullmatch(name) and len(name) < 19 else name
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    held = "nothing" if value is None or value == "" else repr(value)[:40]
    raise DatasetError(
        f"{origin}: row {row} (from 0) holds {held} in column {column!r}, not a class; mend it or set --label-column"
    )


def _image_folder(folder: Path, limit: int | None, labelled: bool) -> ImageRows:
    """`labels.tsv` has the columns file and label, which may be missing: a name of `class_names.txt`, or a number.

    Where the names are numbers themselves, a number is a name."""
    table = folder / "labels.tsv"
    if not table.is_file():
        raise DatasetError(
            f"{folder}: holds no labels.tsv; give an image folder with one (columns file and label), "
            f"or hub:{folder} for a folder of .parquet, .jsonl or .csv files"
        )
    names = tables.column_names(table)
    if "file" not in names or (labelled and "label" not in names):
        raise DatasetError(f"{table}: needs the columns file and label but has {', '.join(names)}; rename them in its first line")
    values = tables.read_columns(table, [name for name in ("file", "label") if name in names], limit)
    files = tuple(_image_file(folder, name, row) for row, name in enumerate(values["file"]))
    listing = folder / "class_names.txt"
    class_names = _class_names(listing) if listing.is_file() else None
    labels = tuple(_image_label(table, row, value, class_names) for row, value in enumerate(values.get("label", ())))
    return ImageRows(files, labels or None, class_names, str(folder))


def is_fraction(label: int | str) -> bool:
    """Whether a label is a value, as a regression has them, and not a class."""
    return isinstance(label, str) and _FRACTION.fullmatch(label) is not None


def are_numbers(names: Iterable[str]) -> bool:
    """Whether classes are called by numbers (stars from 1 to 5): then a number in a label column is a name."""
    listed = list(names)
    return bool(listed) and all(map(_NUMBER.fullmatch, listed))


def _class_names(listing: Path) -> tuple[str, ...]:
    try:
        names = tuple(line.strip() for line in listing.read_text(encoding="utf-8").rstrip().split("\n"))
    except UnicodeDecodeError as error:
        raise DatasetError(f"{listing}: not UTF-8 at byte offset {error.start}; convert it, for example with iconv") from None
    if names == ("",):
        raise DatasetError(f"{listing}: is empty; give one class name a line or remove it")
    return names


def _image_file(folder: Path, name: str, row: int) -> Path:
    place = PurePath(name)
    for candidate in () if place.is_absolute() or ".." in place.parts else (folder / place, folder / "images" / place):
        with contextlib.suppress(OSError):  # a name too long
            if candidate.is_file():
                return candidate
    raise DatasetError(
        f"{folder}: labels.tsv names {name!r} in row {row} (from 0), which lies neither there nor in images/; add or remove it"
    )


def _image_label(table: Path, row: int, value: str, class_names: tuple[str, ...] | None) -> int:
    label = _label(str(table), "label", row, value)
    if class_names is not None and are_numbers(class_names):
        label = str(label)
    if isinstance(label, str):
        if class_names is None or label not in class_names:
            listing = "there is no class_names.txt" if class_names is None else "class_names.txt does not hold it"
            raise DatasetError(f"{table}: row {row} (from 0) has the label {label!r} but {listing}; add it there or use numbers")
        return class_names.index(label)
    if label < 0 or (class_names is not None and label >= len(class_names)):
        classes = f"the {len(class_names)} classes of class_names.txt" if class_names else "0 and upwards"
        raise DatasetError(f"{table}: row {row} (from 0) has the label {label}, outside {classes}; mend that row")
    return label


def _array_rows(arrays: Mapping[str, Array], origin: str, label_columns: Sequence[str], labelled: bool) -> ArrayRows:
    _check_counts(arrays, origin, "arrays")
    if missing := [name for name in label_columns if name not in arrays]:
        raise DatasetError(f"{origin}: no array {missing[0]!r} among {', '.join(arrays)}; set --label-column to one of them")
    if len(label_columns) > 1:
        raise DatasetError(f"{origin}: {len(label_columns)} label arrays given; give one, with a column for each label")
    name = next((name for name in label_columns or _ARRAY_LABELS if name in arrays), None)
    if name is None:
        if labelled:
            raise DatasetError(f"{origin}: no label array among {', '.join(arrays)}; name it with --label-column")
        return ArrayRows(arrays, None, origin)
    labels = arrays[name]
    rest = {other: array for other, array in arrays.items() if other != name}
    if labels.shape[1:] == (1,):
        labels = labels[:, 0]
    fault = ""
    if labels.ndim not in (1, 2) or labels.dtype.kind not in "iubf" or not np.isfinite(labels).all():
        fault = f"{origin}: labels {name!r} are {labels.dtype} {labels.shape}; give one integer per row or set --label-column"
    elif not rest:
        fault = f"{origin}: holds labels {name!r} but no input array; add one per model input"
    doubtful = {} if labelled or name in label_columns else {name: arrays[name]}
    if fault and not doubtful:
        raise DatasetError(fault)
    if fault:
        return ArrayRows(rest, None, origin, doubtful=doubtful, fault=fault)
    whole = labels.astype(np.int64)
    # Fractions are a regression's: only a head that chooses a class has to refuse them.
    return ArrayRows(rest, whole if (whole == labels).all() else labels, origin, doubtful=doubtful)
