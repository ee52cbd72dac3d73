"""TFLITE_METADATA: what a file says about its inputs, and the files packed behind it.

The format: https://github.com/tensorflow/tflite-support/blob/master/tensorflow_lite_support/metadata/metadata_schema.fbs
"""

import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import ModelFormatError

_IDENTIFIER = b"M001"
# Far more inputs and process units than any file has; a hostile file could nest lists without end.
_LONGEST_LIST = 256
_NORMALIZATION = 1


class _Slot:
    """Places of the fields that are read, in bytes into a table's vtable."""

    NAME, DESCRIPTION, VERSION = 4, 6, 8
    SUBGRAPHS, AUTHOR, LICENSE = 10, 12, 14
    INPUTS = 8
    PROCESS_UNITS = 12
    OPTIONS_TYPE, OPTIONS = 4, 6
    MEAN, STD = 4, 6


@dataclass(frozen=True)
class InputMetadata:
    """One input in the file's order; real = (pixel - mean) / std per channel, both empty where it says nothing."""

    name: str
    description: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class ModelMetadata:
    """What the author says of the model; `inputs` are those of its first subgraph."""

    name: str
    description: str
    version: str
    author: str
    license: str
    inputs: tuple[InputMetadata, ...]


def normalization(content: bytes) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and standard deviation of the first input where the metadata says both, else None for each."""
    inputs = parse(content).inputs if content else ()
    return (inputs[0].mean, inputs[0].std) if inputs and inputs[0].mean and inputs[0].std else (None, None)


def parse(content: bytes) -> ModelMetadata:
    """Read the buffer of the TFLITE_METADATA entry. Raises `ModelFormatError` if it is damaged."""
    from flatbuffers.table import Table

    if content[4:8] != _IDENTIFIER:
        raise ModelFormatError("its TFLITE_METADATA entry is not in the metadata format")
    try:
        root = Table(memoryview(content), struct.unpack_from("<I", content)[0])
        graphs = _tables(root, _Slot.SUBGRAPHS)
        return ModelMetadata(
            name=_text(root, _Slot.NAME),
            description=_text(root, _Slot.DESCRIPTION),
            version=_text(root, _Slot.VERSION),
            author=_text(root, _Slot.AUTHOR),
            license=_text(root, _Slot.LICENSE),
            inputs=tuple(_input(item) for item in _tables(graphs[0], _Slot.INPUTS)) if graphs else (),
        )
    except (struct.error, IndexError, TypeError, ValueError, OverflowError):
        raise ModelFormatError("its TFLITE_METADATA entry is damaged") from None


def associated_files(path: Path) -> tuple[str, ...]:
    """Names of the files (vocab.txt, labels.txt) in the zip archive that may follow the model; empty without a readable one."""
    try:
        with zipfile.ZipFile(path) as archive:
            return tuple(archive.namelist())
    except (zipfile.BadZipFile, OSError, struct.error, ValueError, NotImplementedError, OverflowError):
        return ()


def _input(table: Any) -> InputMetadata:
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    for unit in _tables(table, _Slot.PROCESS_UNITS):
        kind = unit.Offset(_Slot.OPTIONS_TYPE)
        options = unit.Offset(_Slot.OPTIONS)
        if kind and options and unit.Bytes[unit.Pos + kind] == _NORMALIZATION:
            normalization = _follow(unit, unit.Pos + options)
            mean, std = _floats(normalization, _Slot.MEAN), _floats(normalization, _Slot.STD)
    return InputMetadata(_text(table, _Slot.NAME), _text(table, _Slot.DESCRIPTION), mean, std)


def _follow(table: Any, position: int) -> Any:
    return type(table)(table.Bytes, table.Indirect(position))


def _length(table: Any, offset: int) -> int:
    length = table.VectorLen(offset)
    if length > _LONGEST_LIST:
        raise ValueError(length)
    return int(length)


def _tables(table: Any, slot: int) -> list[Any]:
    offset = table.Offset(slot)
    if not offset:
        return []
    start = table.Vector(offset)
    return [_follow(table, start + 4 * index) for index in range(_length(table, offset))]


def _floats(table: Any, slot: int) -> tuple[float, ...]:
    offset = table.Offset(slot)
    return struct.unpack_from(f"<{_length(table, offset)}f", table.Bytes, table.Vector(offset)) if offset else ()


def _text(table: Any, slot: int) -> str:
    offset = table.Offset(slot)
    return table.String(table.Pos + offset).decode(errors="replace") if offset else ""
