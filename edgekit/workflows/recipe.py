"""A whole run as one TOML file, and back.

A table holds the fields of one dataclass; where a stage has its own config, that config's fields are the table's keys.
An unknown key, a wrong type and a missing key are errors that name the file, the table and the key. Relative paths start
at the recipe's own folder, so that a recipe means the same wherever it is called from.
"""

import dataclasses
import difflib
import enum
import math
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union

from edgekit.data.sources import Columns
from edgekit.errors import ConfigError
from edgekit.measure.judge import BenchmarkConfig
from edgekit.spec import DatasetReference, ModelReference, path_of
from edgekit.stages.prune.config import PruneConfig
from edgekit.stages.prune.surgery import Vocabulary
from edgekit.stages.train.config import DistilConfig, FinetuneConfig
from edgekit.workflows.convert.config import ConvertConfig

T = TypeVar("T")

_MODEL_SUFFIXES = {".h5", ".onnx", ".tflite"}
_INLINE = types.MappingProxyType({"inline": True})
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a string", Path: "a path"}


class Format(enum.StrEnum):
    """What a report can be written as."""

    MARKDOWN = "markdown"
    JSON = "json"
    HTML = "html"


@dataclass(frozen=True)
class Model:
    """`[model]`: what the run starts from."""

    source: ModelReference


@dataclass(frozen=True)
class Finetune:
    """`[finetune]`: training before the conversion; left out, the model is converted as it is."""

    dataset: DatasetReference
    evaluation: DatasetReference | None = None
    config: FinetuneConfig = field(default_factory=FinetuneConfig, metadata=_INLINE)


@dataclass(frozen=True)
class Prune:
    """`[prune]`: the model, fine-tuned first if there is a [finetune] table, is pruned.

    A `[prune.vocabulary]` table, also an empty one, cuts the vocabulary; `[prune.recovery]` trains after each of the `steps`.
    """

    dataset: DatasetReference
    evaluation: DatasetReference | None = None
    vocabulary: Vocabulary | None = None
    recovery: DistilConfig | None = None
    steps: int = 1
    config: PruneConfig = field(default_factory=PruneConfig, metadata=_INLINE)

    def __post_init__(self) -> None:
        if self.steps != 1 and self.recovery is None:
            raise ConfigError(f"steps is {self.steps} without recovery between them; add a [prune.recovery] table")


@dataclass(frozen=True)
class Distil:
    """`[distil]`: the model, fine-tuned first if there is a [finetune] table, is trained with a teacher."""

    teacher: ModelReference
    dataset: DatasetReference
    evaluation: DatasetReference | None = None
    config: DistilConfig = field(default_factory=DistilConfig, metadata=_INLINE)


@dataclass(frozen=True)
class Benchmark:
    """`[benchmark]`: how the files are measured; without `dataset`, on the evaluation data."""

    dataset: DatasetReference | None = None
    config: BenchmarkConfig = field(default_factory=BenchmarkConfig, metadata=_INLINE)


@dataclass(frozen=True)
class Report:
    """`[report]`: what is written beside the files."""

    formats: tuple[Format, ...] = tuple(Format)


@dataclass(frozen=True)
class Recipe:
    """The whole run; everything it writes lies below `out`."""

    name: str
    out: Path
    model: Model
    data: Columns = field(default_factory=Columns)
    finetune: Finetune | None = None
    prune: Prune | None = None
    distil: Distil | None = None
    convert: ConvertConfig = field(default_factory=ConvertConfig)
    benchmark: Benchmark = field(default_factory=Benchmark)
    report: Report = Report()

    def __post_init__(self) -> None:
        # Files and a checkpoint folder below `out` are called by it: `..` would put the folder in place of another.
        if Path(self.name).name != self.name or self.name in ("", "..") or not self.name.isprintable():
            raise ConfigError(f"name is {self.name!r}, which no file can be called; give one without / such as 'quickstart'")


def load(path: Path) -> Recipe:
    """The recipe in `path`, its paths made absolute.

    Raises `ConfigError` if the file is missing, is not UTF-8 or not TOML, or says something that no recipe knows.
    """
    try:
        table = tomllib.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); give the path of a recipe such as recipes/quickstart.toml"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    return from_mapping(Recipe, table, str(path), path.resolve().parent)


def dump(recipe: Recipe) -> str:
    """`recipe` as TOML, every default written out; `load` reads the same recipe from it, wherever it lies."""
    import tomli_w

    return tomli_w.dumps(to_mapping(recipe))


def from_mapping(cls: type[T], table: Mapping[str, Any], where: str, base: Path) -> T:
    """Build the dataclass `cls` from a TOML table; `where` opens each error, relative paths start at `base`.

    Raises `ConfigError` for an unknown or missing key, a value of another type, or one that `cls` itself refuses.
    """
    known = _keys(cls)
    for key in table:
        if key not in known:
            raise ConfigError(f"{where}: unknown key '{key}'; {_nearest(key, known)}")
    values: dict[str, Any] = {}
    hints = typing.get_type_hints(cls, include_extras=True)
    for item in dataclasses.fields(cls):  # type: ignore[arg-type]
        hint = hints[item.name]
        if "inline" in item.metadata:
            own = _keys(hint)
            values[item.name] = from_mapping(hint, {key: table[key] for key in table if key in own}, where, base)
        elif item.name in table:
            values[item.name] = _value(hint, table[item.name], where, item.name, base)
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where}: '{item.name}' is missing; add it")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def to_mapping(value: Any) -> dict[str, Any]:
    """The fields of a dataclass as a TOML table; what is None is left out."""
    table: dict[str, Any] = {}
    for item in dataclasses.fields(value):
        held = getattr(value, item.name)
        if "inline" in item.metadata:
            table |= to_mapping(held)
        elif held is not None and _is_told(item):
            table[item.name] = _plain(held)
    return table


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_mapping(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _keys(cls: Any) -> tuple[str, ...]:
    hints = typing.get_type_hints(cls)
    found: list[str] = []
    for item in dataclasses.fields(cls):
        if _is_told(item):
            found += _keys(hints[item.name]) if "inline" in item.metadata else [item.name]
    return tuple(found)


def _is_told(item: dataclasses.Field[Any]) -> bool:
    """Whether a recipe may set the field: some are found out from the model."""
    return bool(item.metadata.get("told", True))


def _nearest(word: str, known: Sequence[str]) -> str:
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean '{match[0]}'?" if match else f"known are {', '.join(known)}"


def _value(hint: Any, value: Any, where: str, key: str, base: Path) -> Any:
    """`value` as `hint` asks for it: a dataclass, an enum, a tuple, a mapping or a plain type, each also with `| None`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        (hint,) = (argument for argument in arguments if argument is not types.NoneType)
        return _value(hint, value, where, key, base)
    if origin is Annotated:
        reference = _value(arguments[0], value, where, key, base)
        if not reference:
            raise ConfigError(f"{where}: {key} is empty; name a {arguments[1]} or leave the key out")
        return _located(reference, arguments[1], base)
    if origin is tuple:
        if not isinstance(value, list):
            raise _mismatch(where, key, f"a list, each item {_WORDS.get(arguments[0], 'a string')}", value)
        return tuple(_value(arguments[0], item, where, f"{key}[{number}]", base) for number, item in enumerate(value))
    if origin in (dict, Mapping):
        if not isinstance(value, dict):
            raise _mismatch(where, key, "a table", value)
        return {name: _value(arguments[1], item, where, f"{key}.{name}", base) for name, item in value.items()}
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise _mismatch(where, key, f"a table that starts with [{key}]", value)
        return from_mapping(typing.cast(type[Any], hint), value, f"{where}: [{key}]", base)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        choices = [str(member.value) for member in hint]
        if value not in choices:
            raise ConfigError(f"{where}: {key} is {value!r}; choose from {', '.join(choices)}")
        return hint(value)
    return _scalar(hint, value, where, key, base)


def _scalar(hint: Any, value: Any, where: str, key: str, base: Path) -> Any:
    # bool is an int to Python, and a whole number is a number to a person.
    fits = {Path: (str,), float: (int, float)}.get(hint, (hint,))
    if type(value) not in fits or (isinstance(value, float) and not math.isfinite(value)):
        raise _mismatch(where, key, _WORDS[hint], value)
    if isinstance(value, str) and "\0" in value:
        raise ConfigError(f"{where}: {key} holds a NUL character; remove it")
    if hint is Path:
        return (base / path_of(value)).resolve()
    return hint(value)


def _mismatch(where: str, key: str, expected: str, value: Any) -> ConfigError:
    shown = {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
    return ConfigError(f"{where}: {key} must be {expected}, not {shown}")


def _located(reference: str, kind: str, base: Path) -> str:
    """A reference with its path made absolute; hub and package names stay as they are."""
    if reference.startswith(("hub:", "package:")):
        return reference
    path = (base / path_of(reference)).resolve()
    is_path = kind == "dataset" or reference.startswith((".", "/", "~")) or path.suffix in _MODEL_SUFFIXES or path.exists()
    return str(path) if is_path else reference
