"""What lies in a file or folder, before any encoding: texts, image files or arrays, with their labels."""

import difflib
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np

from edgekit.data import hub, tables
from edgekit.data.npz import read_npz
from edgekit.data.samples import Array
from edgekit.errors import DatasetError

TEXT_COLUMNS = ("sentence", "text", "review", "content", "comment", "tweet", "utterance", "document", "body", "message")
PAIR_COLUMNS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "passage"),
    ("text_a", "text_b"),
    ("text1", "text2"),
)
LABEL_COLUMNS = ("label", "labels", "class", "y", "target", "category")
_ARRAY_LABELS = ("labels", "label", "y")
_INTEGER = re.compile(r"[+-]?[0-9]+(\.0+)?")
_FRACTION = re.compile(r"[+-]?[0-9]*\.[0-9]*[1-9][0-9]*([eE][+-]?[0-9]+)?|[+-]?[0-9]+[eE]-[0-9]+")
_NUMBER = re.compile(r"0|-?[1-9][0-9]*")


@dataclass(frozen=True)
class Columns:
    """Which columns hold the text (two for pairs) and the label; found by name where nothing is said."""

    text_columns: tuple[str, ...] = ()
    label_column: str | None = None


@dataclass(frozen=True)
class TextRows:
    """Texts, their second halves if they are pairs, and labels: a class's number, or its name.

    `class_names` are the source's own names of the numbers, where it has any. `numbers` says which row of the source,
    counted from 0, each one is.
    """

    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None
    labels: tuple[int | str, ...] | None
    origin: str
    class_names: tuple[str, ...] | None = None
    numbers: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class ImageRows:
    """Image files and their class numbers; `class_names` has one name per number, if the folder says."""

    files: tuple[Path, ...]
    labels: tuple[int, ...] | None
    class_names: tuple[str, ...] | None
    origin: str

    def __len__(self) -> int:
        return len(self.files)


@dataclass(frozen=True, eq=False)
class ArrayRows:
    """Arrays (N, ...) by name, as stored, and labels (N,): int64, or floats if some are fractions; `numbers` as in `TextRows`."""

    arrays: Mapping[str, Array]
    labels: Array | None
    origin: str
    numbers: Sequence[int] = ()

    def __len__(self) -> int:
        return next((len(array) for array in self.arrays.values()), 0)


T = TypeVar("T")
Rows = TextRows | ImageRows | ArrayRows


def read(
    reference: str,
    *,
    text_columns: Sequence[str] = (),
    label_column: str | None = None,
    limit: int | None = None,
    labelled: bool = False,
) -> Rows:
    """Read a .tsv, .csv, .jsonl, .parquet or .npz file, an image folder with labels.tsv, or hub:NAME[/CONFIG][:SPLIT].

    Columns are found by the names in `PAIR_COLUMNS`, `TEXT_COLUMNS` and `LABEL_COLUMNS`, unless named: one text column, or two
    for pairs. A label that is written as a whole number is one. Rows without a label column are returned without
    labels, unless `labelled`. At most `limit` rows are read. Raises `DatasetError`.
    """
    if reference.startswith(hub.PREFIX):
        table = hub.open_hub(reference)
        columns = _choose(reference, table.names, text_columns, label_column, tuple(table.class_names), labelled)
        values = table.columns([name for name in (*columns.texts, columns.label) if name], limit)
        return _text_rows(reference, columns, values, table.class_names.get(columns.label or ""))
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
    if suffix == ".npz":
        return _array_rows(path, label_column, limit, labelled)
    columns = _choose(str(path), tables.column_names(path), text_columns, label_column, (), labelled)
    values = tables.read_columns(path, [name for name in (*columns.texts, columns.label) if name], limit)
    return _text_rows(str(path), columns, values, None)


@overload
def take(rows: TextRows, indices: Sequence[int] | Array) -> TextRows: ...


@overload
def take(rows: Rows, indices: Sequence[int] | Array) -> Rows: ...


def take(rows: Rows, indices: Sequence[int] | Array) -> Rows:
    """The rows at `indices`, in that order, before the costly encoding."""
    chosen = [int(index) for index in indices]
    if isinstance(rows, ArrayRows):
        arrays = {name: array[chosen] for name, array in rows.arrays.items()}
        numbers = _pick(rows.numbers, chosen) if rows.numbers else tuple(chosen)
        return replace(rows, arrays=arrays, labels=None if rows.labels is None else rows.labels[chosen], numbers=numbers)
    if isinstance(rows, ImageRows):
        return replace(rows, files=_pick(rows.files, chosen), labels=None if rows.labels is None else _pick(rows.labels, chosen))
    return replace(
        rows,
        texts=_pick(rows.texts, chosen),
        pairs=None if rows.pairs is None else _pick(rows.pairs, chosen),
        labels=None if rows.labels is None else _pick(rows.labels, chosen),
        numbers=_pick(rows.numbers, chosen) if rows.numbers else tuple(chosen),
    )


def _pick(values: Sequence[T], indices: Sequence[int]) -> tuple[T, ...]:
    return tuple(values[index] for index in indices)


@dataclass(frozen=True)
class _Columns:
    texts: tuple[str, ...]
    label: str | None


def _choose(
    origin: str, names: Sequence[str], texts: Sequence[str], label: str | None, class_labels: Sequence[str], labelled: bool
) -> _Columns:
    listed = ", ".join(repr(name) for name in names)
    for option, wanted in [*(("--text-column", text) for text in texts), *([("--label-column", label)] if label else [])]:
        if wanted not in names:
            near = difflib.get_close_matches(wanted, names, 1)
            hint = f"did you mean {near[0]}?" if near else f"set {option} to one of them"
            raise DatasetError(f"{origin}: no column {wanted!r} among {listed}; {hint}")
    if len(texts) > 2:
        raise DatasetError(f"{origin}: {len(texts)} text columns given; give --text-column once, or twice for pairs")
    folded = {name.casefold(): name for name in reversed(names)}
    if label is None:
        label = next((folded[name] for name in LABEL_COLUMNS if name in folded), None)
        if label is None and len(class_labels) == 1:
            label = class_labels[0]
    if label is None and labelled:
        raise DatasetError(f"{origin}: no label column among {listed}; name it with --label-column")
    found = tuple(texts)
    if not found:
        choices = [*PAIR_COLUMNS, *((name,) for name in TEXT_COLUMNS)]
        found = next((tuple(folded[name] for name in group) for group in choices if all(name in folded for name in group)), ())
    if not found:
        raise DatasetError(
            f"{origin}: no text column among {listed}; name it with --text-column (the first line must hold column names)"
        )
    return _Columns(found, label)


def _text_rows(origin: str, columns: _Columns, values: Mapping[str, list[Any]], class_names: tuple[str, ...] | None) -> TextRows:
    texts = [_texts(origin, name, values[name]) for name in columns.texts]
    labels: tuple[int | str, ...] | None = None
    if columns.label:
        labels = tuple(_label(origin, columns.label, row, value) for row, value in enumerate(values[columns.label]))
        # Test splits on the hub carry -1 in every row: their labels were withheld.
        if class_names and all(label == -1 for label in labels):
            labels = None
    return TextRows(texts[0], texts[1] if len(texts) > 1 else None, labels, origin, class_names, range(len(texts[0])))


def _texts(origin: str, column: str, values: list[Any]) -> tuple[str, ...]:
    for row, value in enumerate(values):
        if not isinstance(value, str):
            found = "nothing" if value is None else type(value).__name__
            raise DatasetError(
                f"{origin}: row {row} (from 0) holds {found} in column {column!r}, not text; mend it or set --text-column"
            )
        try:
            value.encode()
        except UnicodeEncodeError:
            raise DatasetError(
                f"{origin}: row {row} (from 0) holds half of a surrogate pair in column {column!r}; mend that row"
            ) from None
    return tuple(values)


def _label(origin: str, column: str, row: int, value: Any) -> int | str:
    """The class's number where the value is a whole number in any form, else its name.

    A fraction, which a regression's data has, is a name in every format: only a head that chooses a class has to refuse it.
    """
    if isinstance(value, float) and math.isfinite(value) and not value.is_integer():
        return str(value)
    if isinstance(value, str) and (name := value.strip()):
        return int(name.partition(".")[0]) if _INTEGER.fullmatch(name) and len(name) < 19 else name
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    found = "nothing" if value is None or value == "" else repr(value)[:40]
    raise DatasetError(
        f"{origin}: row {row} (from 0) holds {found} in column {column!r}, not a class; mend it or set --label-column"
    )


def _image_folder(folder: Path, limit: int | None, labelled: bool) -> ImageRows:
    """`labels.tsv` has the columns file and label, which may be missing: a name of `class_names.txt`, or a number.

    Where the names are numbers themselves, a number is a name.
    """
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
    labels: tuple[int, ...] | None = None
    if "label" in values:
        labels = tuple(_image_label(table, row, value, class_names) for row, value in enumerate(values["label"]))
    return ImageRows(files, labels, class_names, str(folder))


def is_fraction(label: int | str) -> bool:
    """Whether a label is a value, as a regression has them, and not a class."""
    return isinstance(label, str) and _FRACTION.fullmatch(label) is not None


def are_numbers(names: Iterable[str]) -> bool:
    """Whether classes are called by numbers (stars from 1 to 5): then a number in a label column is a name."""
    found = list(names)
    return bool(found) and all(_NUMBER.fullmatch(name) for name in found)


def _class_names(listing: Path) -> tuple[str, ...]:
    try:
        names = tuple(line.strip() for line in listing.read_text(encoding="utf-8").rstrip().split("\n"))
    except UnicodeDecodeError as error:
        raise DatasetError(f"{listing}: not UTF-8 at byte offset {error.start}; convert it, for example with iconv") from None
    if names == ("",):
        raise DatasetError(f"{listing}: is empty; give one class name a line or remove it")
    return names


def _image_file(folder: Path, name: str, row: int) -> Path:
    for candidate in (folder / name, folder / "images" / name):
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
        known = f"the {len(class_names)} classes of class_names.txt" if class_names else "0 and upwards"
        raise DatasetError(f"{table}: row {row} (from 0) has the label {label}, outside {known}; mend that row")
    return label


def _array_rows(path: Path, label_column: str | None, limit: int | None, labelled: bool) -> ArrayRows:
    arrays = read_npz(path, limit)
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in itertools.islice(counts.items(), 8))
        raise DatasetError(f"{path}: its arrays differ in their number of rows ({listed}); give one row of each per sample")
    if 0 in counts.values():
        raise DatasetError(f"{path}: holds no rows; give a file with at least one")
    if label_column is not None and label_column not in arrays:
        raise DatasetError(f"{path}: no array {label_column!r} among {', '.join(arrays)}; set --label-column to one of them")
    name = label_column or next((name for name in _ARRAY_LABELS if name in arrays), None)
    if name is None:
        if labelled:
            raise DatasetError(f"{path}: no label array among {', '.join(arrays)}; name it with --label-column")
        return ArrayRows(arrays, None, str(path))
    labels = arrays.pop(name)
    if labels.shape[1:] == (1,):
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iubf" or not np.isfinite(labels).all():
        raise DatasetError(
            f"{path}: labels {name!r} are {labels.dtype} {labels.shape}; give one integer per row or set --label-column"
        )
    if not arrays:
        raise DatasetError(f"{path}: holds labels {name!r} but no input array; add one per model input")
    whole = labels.astype(np.int64)
    # Fractions are a regression's: only a head that chooses a class has to refuse them.
    return ArrayRows(arrays, whole if (whole == labels).all() else labels, str(path))
