"""Dataclasses as plain data and back: what the JSON and TOML files that edgekit writes and reads hold."""

import dataclasses
import difflib
import enum
import errno
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union

from edgekit.errors import ConfigError
from edgekit.spec import DataSpec, path_of

T = TypeVar("T")

# A tokenizer of 250,000 words takes 20 MB. Python takes ten times what it reads.
_MOST_JSON_BYTES = 2**28
_MODEL_SUFFIXES = {".h5", ".keras", ".onnx", ".pt2", ".tflite"}
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a string", Path: "a path"}


def plain(value: Any, *, sparse: bool = False) -> Any:
    """Dataclasses, enums, paths, sets, numpy numbers and arrays as what `json` can write; a float that is not finite is None.

    A data set of nothing but a source is that source, rows in memory are their name. `sparse` leaves out, as TOML must, what is
    None, and fields that no recipe sets."""
    if isinstance(value, DataSpec):
        changed = {name: item for name, default in _DATA.items() if (item := getattr(value, name)) != default}
        return plain({"source": value.origin, **changed}) if changed else value.origin
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        table: dict[str, Any] = {}
        for item in dataclasses.fields(value):
            held = getattr(value, item.name)
            if sparse and "inline" in item.metadata:
                table |= plain(held, sparse=True)
            elif not sparse or (held is not None and item.metadata.get("set", True)):
                table[item.name] = plain(held, sparse=sparse)
        return table
    if isinstance(value, Mapping):
        return {str(key): plain(item, sparse=sparse) for key, item in value.items()}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, set | frozenset):
        return sorted((plain(item) for item in value), key=str)
    if isinstance(value, list | tuple):
        return [plain(item, sparse=sparse) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int) or value is None else str(value)


_DATA = {item.name: item.default for item in dataclasses.fields(DataSpec) if item.name != "source"}


def parse_json(text: str | bytes) -> Any:
    """`json.loads` that raises `ValueError` for nesting beyond Python's depth, too."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def refuse_pipe(file: Path) -> None:
    """Raise `OSError` for a pipe, which would be waited for, or a device."""
    if file.exists() and not file.is_file() and not file.is_dir():
        raise OSError(errno.EINVAL, "not a regular file", str(file))


def read_json(file: Path) -> Any:
    """What `file` holds. Raises `ValueError` where that is no JSON, and `OSError`, for what is no regular file or large, too."""
    refuse_pipe(file)
    if file.stat().st_size > _MOST_JSON_BYTES:
        raise ValueError(f"more than {_MOST_JSON_BYTES >> 20} MB")
    return parse_json(file.read_text(encoding="utf-8"))


def to_json(value: Any) -> str:
    """`plain` as indented JSON."""
    return json.dumps(plain(value), indent=2, ensure_ascii=False)


def read(kind: type[T], content: Any, where: str = "", *, error: type[Exception] = ValueError, base: Path | None = None) -> T:
    """The dataclass `kind` from what `plain` gives; `where` opens each error. Relative paths start at `base`, if it is given.

    Raises `error` for an unknown or missing key, a value of another type, or one that `kind` itself refuses."""
    return typing.cast(T, _Reader(error, base).table(kind, content, where, ""))


@dataclasses.dataclass(frozen=True)
class _Reader:
    error: type[Exception]
    base: Path | None

    def table(self, kind: Any, content: Any, where: str, key: str) -> Any:
        if not isinstance(content, Mapping):
            # Only TOML's paths have a base.
            raise self.mismatch(where, key, f"a table that starts with [{key}]" if self.base and key else "an object", content)
        where = f"{where}: [{key}]" if where and key else where or (f"[{key}]" if key else "")
        names = keys(kind)
        for name in content:
            if name not in names:
                raise self.problem(where, f"unknown key '{name}'; {_nearest(str(name), names)}")
        values: dict[str, Any] = {}
        hints = typing.get_type_hints(kind, include_extras=True)
        for item in dataclasses.fields(kind):
            hint = hints[item.name]
            if "inline" in item.metadata:
                values[item.name] = self.table(hint, {name: content[name] for name in content if name in keys(hint)}, where, "")
            elif item.name in content:
                values[item.name] = self.value(hint, content[item.name], where, item.name)
            elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
                raise self.problem(where, f"'{item.name}' is missing; add it")
        try:
            return kind(**values)
        except ConfigError as refused:
            raise self.problem(where, str(refused)) from None

    def value(self, hint: Any, value: Any, where: str, key: str) -> Any:
        """`value` as `hint` asks for it: a dataclass, an enum, a tuple, a set, a mapping or a plain type, or None."""
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if hint is Any or (value is None and types.NoneType in arguments):
            return value
        if origin in (Union, types.UnionType):
            (hint,) = (argument for argument in arguments if argument is not types.NoneType)
            return self.value(hint, value, where, key)
        if origin is Annotated:
            return self.reference(self.value(str, value, where, key), arguments[1], where, key)
        if origin in (tuple, frozenset, Sequence):
            return self.items(origin, arguments, value, where, key)
        if origin in (dict, Mapping):
            if not isinstance(value, Mapping):
                raise self.mismatch(where, key, "a table", value)
            return {name: self.value(arguments[1], item, where, f"{key}.{name}") for name, item in value.items()}
        if hint is DataSpec and not isinstance(value, Mapping):
            if not isinstance(value, str):
                raise self.mismatch(where, key, "a dataset, or a table with its source", value)
            return DataSpec(self.reference(value, "dataset", where, key))
        if dataclasses.is_dataclass(hint):
            return self.table(hint, value, where, key)
        if isinstance(hint, type) and issubclass(hint, enum.Enum):
            choices = [str(member.value) for member in hint]
            if value not in choices:
                raise self.problem(where, f"{key} is {value!r}; choose from {', '.join(choices)}")
            return hint(value)
        return self.scalar(hint, value, where, key)

    def items(self, origin: Any, arguments: tuple[Any, ...], value: Any, where: str, key: str) -> Any:
        of = arguments[0]
        free = origin is not tuple or arguments[1:] == (...,)
        if not isinstance(value, list | tuple) or not (free or len(value) == len(arguments)):
            words = "a table" if dataclasses.is_dataclass(of) else _WORDS.get(of, "a string" if isinstance(of, type) else "a list")
            raise self.mismatch(where, key, f"a list, each item {words}" if free else f"a list of {len(arguments)}", value)
        hints = [of] * len(value) if free else arguments
        read = (
            self.value(hint, item, where, f"{key}[{place}]") for place, (hint, item) in enumerate(zip(hints, value, strict=True))
        )
        return frozenset(read) if origin is frozenset else tuple(read)

    def scalar(self, hint: Any, value: Any, where: str, key: str) -> Any:
        # bool is an int to Python, and a whole number is a number to a person.
        fits = {Path: (str,), float: (int, float)}.get(hint, (hint,))
        if type(value) not in fits or (isinstance(value, float) and not math.isfinite(value)):
            raise self.mismatch(where, key, _WORDS[hint], value)
        if isinstance(value, str) and "\0" in value:
            raise self.problem(where, f"{key} holds a NUL character; remove it")
        if hint is Path:
            return (self.base / path_of(value)).resolve() if self.base else Path(value)
        return hint(value)

    def reference(self, reference: str, kind: str, where: str, key: str) -> str:
        """A reference with its path made absolute; hub and package names stay as they are."""
        if not reference:
            raise self.problem(where, f"{key} is empty; name a {kind} or leave the key out")
        self.scalar(str, reference, where, key)
        if self.base is None or reference.startswith(("hub:", "package:")):
            return reference
        path = (self.base / path_of(reference)).resolve()
        is_path = kind == "dataset" or reference.startswith((".", "/", "~")) or path.suffix in _MODEL_SUFFIXES or path.exists()
        return str(path) if is_path else reference

    def problem(self, where: str, message: str) -> Exception:
        return self.error(f"{where}: {message}" if where else message)

    def mismatch(self, where: str, key: str, expected: str, value: Any) -> Exception:
        text = str(value).lower() if isinstance(value, bool) else repr(value)
        text = text if len(text) < _SHOWN else f"{text[:_SHOWN]}…"
        return self.problem(where, f"{key or 'it'} must be {expected}, not {text}")


_SHOWN = 80


def keys(kind: Any) -> tuple[str, ...]:
    """The keys of the table of a dataclass: its fields, those of a field marked `inline` in that field's place."""
    hints = typing.get_type_hints(kind)
    names: list[str] = []
    for item in dataclasses.fields(kind):
        if item.metadata.get("set", True):
            names += keys(hints[item.name]) if "inline" in item.metadata else [item.name]
    return tuple(names)


def _nearest(word: str, names: Sequence[str]) -> str:
    match = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean '{match[0]}'?" if match else f"known are {', '.join(names)}"
