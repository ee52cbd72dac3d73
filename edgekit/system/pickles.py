"""Pickles that every supported Python reads, and plain ones read without running anything: a child that somebody's file took over
writes whatever it likes."""

import copyreg
import enum
import io
import pickle
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError

# What they are made of besides our own classes.
_PLAIN = frozenset(
    (module, name)
    for module, names in {
        "builtins": "bytearray complex frozenset set",
        "collections": "Counter OrderedDict defaultdict",
        "numpy": "dtype ndarray",
        "numpy._core.multiarray": "_reconstruct scalar",
        "numpy._core.numeric": "_frombuffer",
        "numpy.core.multiarray": "_reconstruct scalar",
        __name__: "path",
        "types": "MappingProxyType",
    }.items()
    for name in names.split()
)


def path(text: str) -> Path:
    """What a path is pickled as: where its class lies differs from one Python to the next."""
    return Path(text)


def dumps(value: Any) -> bytes:
    """The pickle of `value`, for this Python and others."""
    written = io.BytesIO()
    pickler = pickle.Pickler(written)
    pickler.dispatch_table = copyreg.dispatch_table | {type(Path()): lambda place: (path, (str(place),))}
    pickler.dump(value)
    return written.getvalue()


def loads(content: bytes, package: str = "edgekit") -> Any:
    """The object, made of numbers, texts, arrays and dataclasses, enums and errors of edgekit and of `package`.

    Raises what `pickle.loads` raises, `UnpicklingError` for anything else."""
    return _Reader(content, package).load()


class _Reader(pickle.Unpickler):
    def __init__(self, content: bytes, package: str) -> None:
        super().__init__(io.BytesIO(content))
        self.packages = {"edgekit", package}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _PLAIN:
            return super().find_class(module, name)
        found = super().find_class(module, name) if module.split(".")[0] in self.packages else None
        # A dotted name reaches what the module imports, too.
        if (
            not isinstance(found, type)
            # Those that `import edgekit` gives say that they come from there.
            or found.__module__ not in (module, "edgekit")
            or not (is_dataclass(found) or issubclass(found, enum.Enum | EdgekitError))
        ):
            raise pickle.UnpicklingError(f"{module}.{name} is no plain data")
        return found
