"""What a source is made of, whatever its kind."""

import contextlib
import math
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError, ModelFormatError, one_line
from edgekit.system.headers import refuse_no_model
from edgekit.system.serial import parse_json

# Bits of a value, by dtype; of others nobody knows.
_BITS = {
    **dict.fromkeys(("bool", "int8", "uint8", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"), 8),
    **dict.fromkeys(("float8_e8m0fnu",), 8),
    **dict.fromkeys(("int4", "uint4", "float4_e2m1fn"), 4),
    **dict.fromkeys(("int2", "uint2"), 2),
    **dict.fromkeys(("float16", "bfloat16", "int16", "uint16"), 16),
    **dict.fromkeys(("float32", "int32", "uint32"), 32),
    **dict.fromkeys(("float64", "int64", "uint64", "complex64"), 64),
    "complex128": 128,
}
# JSON takes some ten times its text in memory. So much is unpacked, or so many times the archive, but never more than the last.
_JSON_BYTES, _TIMES, _MOST_JSON_BYTES = 2**23, 50, 2**26
# An axis: its size, or its name where it is free; "?" where it has none.
Axis = int | str
FREE = "?"


@dataclass(frozen=True)
class SourceTensor:
    """An input or output as the source has it; `shape` is None where the source says none, `dtype` is numpy's name, or "?"."""

    name: str
    dtype: str
    shape: tuple[Axis, ...] | None


@dataclass(frozen=True)
class FreeSize:
    """What a free axis may be: from `least` to `most`, None without end; `example` is the size that it was exported with."""

    least: int
    most: int | None
    example: int | None

    def __str__(self) -> str:
        return f"{self.least} or more" if self.most is None else f"{self.least} to {self.most}"

    def taken(self, usual: int | None) -> int:
        """The size that a conversion takes, where `usual` is the one of such an axis; -1 where it has to be given."""
        size = self.example if usual is None else max(self.least, usual if self.most is None else min(usual, self.most))
        return -1 if size is None else size


@dataclass(frozen=True)
class OpCount:
    """`count` ops, layers or nodes of one name; `domain` is whose they are where that is not the format itself."""

    name: str
    domain: str
    count: int

    def __str__(self) -> str:
        return f"{self.domain}.{self.name}: {self.count}" if self.domain else f"{self.name}: {self.count}"


@dataclass(frozen=True)
class Weights:
    """All constant tensors of one dtype; `data_bytes` are those of their values as they are stored."""

    dtype: str
    tensors: int
    values: int
    data_bytes: int


@dataclass(frozen=True)
class Structure:
    """What a source is made of.

    `form` is the format with its versions, `producer` what wrote it. `parts` says what `ops` counts. `files` are those that hold it
    beside the one that was named, with their bytes. `slid` names the inputs of an ONNX graph that an op slides over, `sizes` what
    free axes may be, by name, where that is known.
    `obstacles` are causes, each with a remedy, for which `convert` would refuse it; `remarks` what else is worth knowing."""

    form: str
    producer: str = ""
    inputs: tuple[SourceTensor, ...] = ()
    outputs: tuple[SourceTensor, ...] = ()
    parts: str = "op"
    ops: tuple[OpCount, ...] = ()
    weights: tuple[Weights, ...] = ()
    files: Mapping[str, int] = field(default_factory=dict)
    slid: frozenset[str] = frozenset()
    sizes: Mapping[str, FreeSize] = field(default_factory=dict)
    obstacles: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


class Tally:
    """Adds up constant tensors by dtype."""

    def __init__(self) -> None:
        self._tensors: Counter[str] = Counter()
        self._values: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()

    def add(self, dtype: str, shape: Sequence[int], data_bytes: int | None = None) -> None:
        """A tensor of `data_bytes`, or of as many as its dtype takes."""
        self._tensors[dtype] += 1
        self._values[dtype] += math.prod(shape)
        self._bytes[dtype] += (bytes_of(dtype, shape) or 0) if data_bytes is None else data_bytes

    @property
    def weights(self) -> tuple[Weights, ...]:
        """The dtype with the most bytes first."""
        order = sorted(self._tensors, key=lambda dtype: (-self._bytes[dtype], dtype))
        return tuple(Weights(dtype, self._tensors[dtype], self._values[dtype], self._bytes[dtype]) for dtype in order)


@contextlib.contextmanager
def damaged_unless_read(path: Path, what: str, remedy: str) -> Iterator[None]:
    """Raise what goes wrong inside the block as a `ModelFormatError` about the file, which should be `what`."""
    refuse_no_model(path, remedy)
    try:
        yield
    except (EdgekitError, MemoryError):
        raise
    except Exception as error:  # libraries and what is described in another way fail in every way
        says = isinstance(error, OSError | ValueError | zipfile.BadZipFile | zlib.error | NotImplementedError)
        cause = one_line(error) if says else "it is described in a way that is not known"
        raise ModelFormatError(f"{path}: not a whole {what} ({cause}); {remedy}") from error


def member_json(archive: zipfile.ZipFile, name: str) -> Any:
    """What a JSON file in an archive holds. Raises `ValueError` where that is no JSON, or more than models have of it."""
    packed = sum(member.compress_size for member in archive.infolist())
    most = min(_MOST_JSON_BYTES, max(_JSON_BYTES, _TIMES * packed))
    with archive.open(name) as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{name} unpacks to more than {most >> 20} MB")
    return parse_json(content)


def bytes_of(dtype: str, shape: Sequence[int]) -> int | None:
    """How many the values of a tensor take; None for a dtype of no fixed size."""
    bits = _BITS.get(dtype)
    return None if bits is None else -(-math.prod(shape) * bits // 8)


def counted(counts: Mapping[tuple[str, str], int]) -> tuple[OpCount, ...]:
    """How often each (name, domain) occurs, the most frequent first."""
    return tuple(OpCount(*key, count) for key, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))
