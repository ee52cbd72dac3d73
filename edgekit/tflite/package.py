"""Write TFLite Model Metadata into a model in memory, and pack and read the files that travel behind it."""

import io
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import ModelFormatError
from edgekit.system.serial import parse_json
from edgekit.tflite import flatbuffer, metadata, signatures
from edgekit.tflite.metadata import AssociatedFile, ModelMetadata, TensorMetadata

# Names of the files that edgekit packs, beside those of the metadata format.
LABELS, VOCABULARY, TOKENIZER, SETTINGS = "labels.txt", "vocab.txt", "tokenizer.json", "edgekit.json"
# Versions of the metadata parser that first knew what a file uses: the schema itself, and a BERT tokenizer's units.
_FIRST_PARSER, _TOKENIZER_PARSER = "1.0.0", "1.1.0"
_FEATURE, _IMAGE = 1, 2
_ZIP_MEMBER, _ZIP_END = b"PK\x03\x04", b"PK\x05\x06"
# An archive's end record with the longest remark.
_LONGEST_END = 22 + 0xFFFF
# A fixed time, so that the same model always makes the same bytes.
_WRITTEN = (1980, 1, 1, 0, 0, 0)
# No vocabulary or tokenizer comes near it; a hostile archive may say anything.
_LARGEST_FILE = 256 * 2**20


def attach(model: bytes | memoryview, target: Path, described: bytes, files: Mapping[str, bytes], *, origin: str = "model") -> None:
    """Write `model` to `target` with `described` as its TFLITE_METADATA and `files` behind it, in place of any that it had.

    The archive is uncompressed, as the metadata format wants it. Raises `ModelFormatError` for what is no model."""
    parts = signatures.set_metadata(strip(model), flatbuffer.MODEL_METADATA, described, origin=origin)
    with target.open("wb") as stream:
        stream.writelines(parts)
    with zipfile.ZipFile(target, "a", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, _WRITTEN), content)


def strip(model: bytes | memoryview) -> bytes | memoryview:
    """`model` without the archive behind it."""
    # Looked for in the little that it may stand in: the archive's reader takes a copy of all.
    if _ZIP_END not in bytes(model[-_LONGEST_END:]):
        return model
    try:
        with zipfile.ZipFile(io.BytesIO(model)) as archive:
            start = min((item.header_offset for item in archive.infolist()), default=len(model))
    except (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError, OverflowError):
        return model
    return model[:start] if bytes(model[start : start + 4]) == _ZIP_MEMBER else model


def tokenizer_of(file: Path, target: Path) -> Path | None:
    """The folder of the tokenizer that travels in `file`, unpacked to `target`, else of one that lies beside it."""
    content = read_files(file, (TOKENIZER,)).get(TOKENIZER)
    if content is None:
        return file.parent if (file.parent / TOKENIZER).is_file() else None
    target.mkdir(parents=True, exist_ok=True)
    (target / TOKENIZER).write_bytes(content)
    return target


def read_files(path: Path, names: Sequence[str] | None = None) -> dict[str, bytes]:
    """Files behind the model, all or those in `names` that are there. Raises `ModelFormatError` for a damaged archive."""
    try:
        if not zipfile.is_zipfile(path):
            return {}
        with zipfile.ZipFile(path) as archive:
            items = [item for item in archive.infolist() if names is None or item.filename in names]
            if large := [item for item in items if item.file_size > _LARGEST_FILE]:
                raise ModelFormatError(f"{path}: {large[0].filename} behind the model is said to have {large[0].file_size} bytes")
            return {item.filename: archive.read(item) for item in items}
    except (zipfile.BadZipFile, OSError, struct.error, ValueError, NotImplementedError, OverflowError, EOFError) as error:
        raise ModelFormatError(f"{path}: the files behind the model are damaged ({error}); convert or download it again") from None


def settings(path: Path) -> dict[str, Any]:
    """What `SETTINGS` behind the model says; empty without one. Raises `ModelFormatError` if it is damaged."""
    try:
        said = parse_json(read_files(path, (SETTINGS,)).get(SETTINGS, b"{}"))
    except ValueError as error:
        raise ModelFormatError(f"{path}: its {SETTINGS} is damaged ({error}); convert or download it again") from None
    return said if isinstance(said, dict) else {}


def build(described: ModelMetadata) -> bytes:
    """The content of TFLITE_METADATA; `min_parser_version` is worked out here. `metadata.parse` reads it back."""
    import flatbuffers

    writer = _Writer(flatbuffers.Builder(1024))
    words = described.vocabulary
    units = [writer.unit(metadata.BERT_TOKENIZER, writer.table((0, writer.files([words]))))] if words else []
    inputs, outputs = (writer.vector([*map(writer.tensor, ends)]) for ends in (described.inputs, described.outputs))
    graph = writer.table((2, inputs), (3, outputs), (5, writer.vector(units)))
    root = writer.table(
        (0, writer.text(described.name)),
        (1, writer.text(described.description)),
        (2, writer.text(described.version)),
        (3, writer.vector([graph])),
        (4, writer.text(described.author)),
        (5, writer.text(described.license)),
        (6, writer.files(described.files)),
        (7, writer.text(_TOKENIZER_PARSER if described.vocabulary else _FIRST_PARSER)),
    )
    writer.builder.Finish(root, file_identifier=metadata.IDENTIFIER)
    return bytes(writer.builder.Output())


class _Writer:
    """Tables of the metadata schema by the places of their fields; what is empty is left out."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def table(self, *offsets: tuple[int, int | None], numbers: Sequence[tuple[int, str, float]] = ()) -> int:
        """A table of (place, offset) and of (place, flatbuffers' name of the type, number)."""
        places = [*(place for place, _ in offsets), *(place for place, _, _ in numbers)]
        self.builder.StartObject(max(places, default=-1) + 1)
        for place, offset in offsets:
            if offset is not None:
                self.builder.PrependUOffsetTRelativeSlot(place, offset, 0)
        for place, kind, number in numbers:
            getattr(self.builder, f"Prepend{kind}Slot")(place, number, 0)
        return int(self.builder.EndObject())

    def text(self, text: str) -> int | None:
        return int(self.builder.CreateString(text)) if text else None

    def vector(self, items: Sequence[int]) -> int | None:
        return signatures.vector(self.builder, items) if items else None

    def floats(self, values: Sequence[float]) -> int:
        return int(self.builder.CreateNumpyVector(np.array(values, np.float32)))

    def file(self, file: AssociatedFile) -> int:
        return self.table((0, self.text(file.name)), (1, self.text(file.description)), numbers=[(2, "Int8", file.kind)])

    def files(self, files: Sequence[AssociatedFile]) -> int | None:
        return self.vector([self.file(file) for file in files])

    def unit(self, kind: int, options: int) -> int:
        return self.table((1, options), numbers=[(0, "Uint8", kind)])

    def tensor(self, tensor: TensorMetadata) -> int:
        units = []
        if tensor.mean and tensor.std:
            options = self.table((0, self.floats(tensor.mean)), (1, self.floats(tensor.std)))
            units.append(self.unit(metadata.NORMALIZATION, options))
        if tensor.score_threshold is not None:
            options = self.table(numbers=[(0, "Float32", tensor.score_threshold)])
            units.append(self.unit(metadata.SCORE_THRESHOLD, options))
        colors = [] if tensor.color_space is None else [(0, "Int8", tensor.color_space)]
        kind, properties = _IMAGE if colors else _FEATURE, self.table(numbers=colors)
        return self.table(
            (0, self.text(tensor.name)),
            (1, self.text(tensor.description)),
            (3, self.table((1, properties), numbers=[(0, "Uint8", kind)])),
            (4, self.vector(units)),
            (6, self.files(tensor.files)),
        )
