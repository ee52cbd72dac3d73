"""TFLITE_METADATA: what a file says about its inputs and outputs, and the files packed behind it.

The format: https://github.com/tensorflow/tflite-support/blob/master/tensorflow_lite_support/metadata/metadata_schema.fbs"""

import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import ModelFormatError

IDENTIFIER = b"M001"
# Kinds of process units and of associated files, and colour spaces, as the schema numbers them.
NORMALIZATION, SCORE_THRESHOLD, BERT_TOKENIZER = 1, 3, 4
PLAIN_FILE, AXIS_LABELS, VOCABULARY = 0, 2, 5
RGB, GREY = 1, 2
# Far more inputs and process units than any file has; a hostile file could nest lists without end.
_LONGEST_LIST = 256
_IMAGE_PROPERTIES = 2


class _Slot:
    """Places of the fields that are read, in bytes into a table's vtable."""

    NAME, DESCRIPTION, VERSION = 4, 6, 8
    SUBGRAPHS, AUTHOR, LICENSE, MODEL_FILES, PARSER = 10, 12, 14, 16, 18
    INPUTS, OUTPUTS, INPUT_UNITS = 8, 10, 14
    CONTENT, PROCESS_UNITS, TENSOR_FILES = 10, 12, 16
    OPTIONS_TYPE, OPTIONS = 4, 6
    MEAN, STD = 4, 6
    THRESHOLD, VOCABULARY_FILES, FILE_TYPE, COLOR_SPACE = 4, 4, 8, 4


@dataclass(frozen=True)
class AssociatedFile:
    """A file packed behind the model, and what it is for: `AXIS_LABELS`, `VOCABULARY` or another number of the schema."""

    name: str
    description: str = ""
    kind: int = PLAIN_FILE


@dataclass(frozen=True)
class TensorMetadata:
    """One input or output in the file's order; real = (pixel - mean) / std per channel, both empty where it says nothing.

    `color_space` is set for images; `score_threshold` is the least score that is worth telling."""

    name: str
    description: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    files: tuple[AssociatedFile, ...] = ()
    color_space: int | None = None
    score_threshold: float | None = None


@dataclass(frozen=True)
class ModelMetadata:
    """What the author says of the model and its first subgraph's ends; `vocabulary` is the word list of its BERT tokenizer."""

    name: str
    description: str = ""
    version: str = ""
    author: str = ""
    license: str = ""
    inputs: tuple[TensorMetadata, ...] = ()
    outputs: tuple[TensorMetadata, ...] = ()
    vocabulary: AssociatedFile | None = None
    files: tuple[AssociatedFile, ...] = ()
    min_parser_version: str = ""

    @property
    def all_files(self) -> tuple[AssociatedFile, ...]:
        """The files that it names anywhere."""
        of_tensors = (file for tensor in (*self.inputs, *self.outputs) for file in tensor.files)
        return tuple(dict.fromkeys((*self.files, *of_tensors, *([self.vocabulary] if self.vocabulary else []))))


def normalization(content: bytes) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and standard deviation of the first input where the metadata says both, else None for each."""
    inputs = parse(content).inputs if content else ()
    return (inputs[0].mean, inputs[0].std) if inputs and inputs[0].mean and inputs[0].std else (None, None)


def parse(content: bytes) -> ModelMetadata:
    """Read the buffer of the TFLITE_METADATA entry. Raises `ModelFormatError` if it is damaged."""
    from flatbuffers.table import Table

    if content[4:8] != IDENTIFIER:
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
            inputs=tuple(_tensor(item) for item in _tables(graphs[0], _Slot.INPUTS)) if graphs else (),
            outputs=tuple(_tensor(item) for item in _tables(graphs[0], _Slot.OUTPUTS)) if graphs else (),
            vocabulary=_vocabulary(graphs[0]) if graphs else None,
            files=_files(root, _Slot.MODEL_FILES),
            min_parser_version=_text(root, _Slot.PARSER),
        )
    except (struct.error, IndexError, TypeError, ValueError, OverflowError):
        raise ModelFormatError("its TFLITE_METADATA entry is damaged") from None


def associated_files(path: Path) -> dict[str, int]:
    """Name and bytes of each file (vocab.txt, labels.txt) in the zip archive that may follow the model; empty without one."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {item.filename: item.file_size for item in archive.infolist()}
    except (zipfile.BadZipFile, OSError, struct.error, ValueError, NotImplementedError, OverflowError):
        return {}


def _tensor(table: Any) -> TensorMetadata:
    units = dict(_units(table, _Slot.PROCESS_UNITS))
    pixels, scores = units.get(NORMALIZATION), units.get(SCORE_THRESHOLD)
    mean, std = (_floats(pixels, slot) if pixels else () for slot in (_Slot.MEAN, _Slot.STD))
    threshold = _number(scores, _Slot.THRESHOLD, "<f") if scores else None
    name, description = _text(table, _Slot.NAME), _text(table, _Slot.DESCRIPTION)
    return TensorMetadata(name, description, mean, std, _files(table, _Slot.TENSOR_FILES), _color_space(table), threshold)


def _color_space(table: Any) -> int | None:
    content = _child(table, _Slot.CONTENT)
    if content is None or _number(content, _Slot.OPTIONS_TYPE, "<B") != _IMAGE_PROPERTIES:
        return None
    properties = _child(content, _Slot.OPTIONS)
    return None if properties is None else int(_number(properties, _Slot.COLOR_SPACE, "<b"))


def _vocabulary(graph: Any) -> AssociatedFile | None:
    tokenizers = (options for kind, options in _units(graph, _Slot.INPUT_UNITS) if kind == BERT_TOKENIZER)
    return next((file for options in tokenizers for file in _files(options, _Slot.VOCABULARY_FILES)), None)


def _files(table: Any, slot: int) -> tuple[AssociatedFile, ...]:
    return tuple(
        AssociatedFile(_text(item, _Slot.NAME), _text(item, _Slot.DESCRIPTION), int(_number(item, _Slot.FILE_TYPE, "<b")))
        for item in _tables(table, slot)
    )


def _units(table: Any, slot: int) -> Iterator[tuple[int, Any]]:
    """Kind and options of each process unit that has any."""
    for unit in _tables(table, slot):
        if (options := _child(unit, _Slot.OPTIONS)) is not None:
            yield int(_number(unit, _Slot.OPTIONS_TYPE, "<B")), options


def _number(table: Any, slot: int, form: str) -> float:
    offset = table.Offset(slot)
    return float(struct.unpack_from(form, table.Bytes, table.Pos + offset)[0]) if offset else 0.0


def _child(table: Any, slot: int) -> Any | None:
    offset = table.Offset(slot)
    return _follow(table, table.Pos + offset) if offset else None


def _follow(table: Any, position: int) -> Any:
    return type(table)(table.Bytes, table.Indirect(position))


def _length(table: Any, offset: int) -> int:
    length = table.VectorLen(offset)
    if length > _LONGEST_LIST:
        raise ValueError(length)
    return int(length)


def _tables(table: Any, slot: int) -> list[Any]:
    if not (offset := table.Offset(slot)):
        return []
    return [_follow(table, table.Vector(offset) + 4 * index) for index in range(_length(table, offset))]


def _floats(table: Any, slot: int) -> tuple[float, ...]:
    offset = table.Offset(slot)
    return struct.unpack_from(f"<{_length(table, offset)}f", table.Bytes, table.Vector(offset)) if offset else ()


def _text(table: Any, slot: int) -> str:
    offset = table.Offset(slot)
    return table.String(table.Pos + offset).decode(errors="replace") if offset else ""
