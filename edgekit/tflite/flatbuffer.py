"""What lies in a .tflite file, read with the schema that ai-edge-litert ships; every index and length is checked.

The format: https://github.com/google-ai-edge/LiteRT/blob/main/tflite/converter/schema/schema.fbs"""

import math
import mmap
import struct
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import ModelFormatError
from edgekit.spec import Signature, TensorSpec
from edgekit.system.headers import NO_MODEL
from edgekit.tflite import schema

IDENTIFIER = b"TFL3"
DEFAULT_KEY = "serving_default"
MODEL_METADATA = "TFLITE_METADATA"
MIN_RUNTIME = "min_runtime_version"

_SMALLEST, _WORD = 16, 4
# Of one input: 1 GB of float32.
_MOST_VALUES = 2**28
# Of a zip archive: the record at its end, and that with the longest comment.
_END, _LONGEST_END = 22, 22 + 2**16
_MAX_TABLES = 1_000_000
_MAX_METADATA_BYTES = 16 * 2**20
# A buffer with an offset above 1 lies outside the flatbuffer, counted from the start of the file (files above 2 GB).
FIRST_EXTERNAL_OFFSET = 2
_OTHER_FORMATS = {
    **NO_MODEL,
    b"PK\x03\x04": "is a zip archive (a MediaPipe .task bundle, a .keras file?); give the .tflite file inside it",
    b"\x89HDF": "is an HDF5 file (Keras?); make a .tflite of it with `edgekit convert`",
    b"LITERTLM": "is a .litertlm bundle; give a .tflite file",
}


@dataclass(frozen=True)
class Tensor:
    """One tensor of a subgraph; `shape` has -1 where the axis is free, `buffer` is where its constant data lies.

    `scales` counts the quantization scales: 0 for none, 1 for per-tensor, more for per-channel; `scale` and
    `zero_point` are the first of them. `data_bytes` is 0 for a tensor that is computed."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    buffer: int
    data_bytes: int
    scales: int
    scale: float | None
    zero_point: int | None
    blockwise: bool
    sparse: bool

    def spec(self, name: str) -> TensorSpec:
        """This tensor as an input or output called `name`; scale and zero point only where one scale holds for all of it."""
        quantized = self.scales == 1 and self.dtype.lstrip("u").startswith("int")
        return TensorSpec(name, self.shape, self.dtype, self.scale if quantized else None, self.zero_point if quantized else None)


@dataclass(frozen=True)
class Operator:
    """One op: the schema's name of a built-in or the file's own of a custom op; tensor indices, -1 where an input is left out.

    `version` is the op version that the file states, which a quantizer may have left too low."""

    name: str
    custom: bool
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    version: int = 1

    @property
    def flex(self) -> bool:
        """Whether it is a TensorFlow op that needs the Select-TF-ops library."""
        return self.custom and self.name.startswith("Flex")


@dataclass(frozen=True)
class Subgraph:
    """Tensors and the ops between them, in order of execution."""

    name: str
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Entry:
    """A way into the file: names of inputs and outputs with the tensor each stands for in one subgraph."""

    key: str
    subgraph: int
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]


@dataclass(frozen=True)
class ModelFile:
    """A parsed .tflite file; its constant data stays on disk.

    `metadata` holds (name, bytes) of every entry, `model_metadata` the content of TFLITE_METADATA, `external_files`
    the names of files that hold constant data beside this one."""

    path: str
    size_bytes: int
    version: int
    description: str
    subgraphs: tuple[Subgraph, ...]
    entries: tuple[Entry, ...]
    metadata: tuple[tuple[str, int], ...]
    min_runtime_version: str
    model_metadata: bytes
    external_files: tuple[str, ...]

    def entry(self, key: str | None = None) -> Entry:
        """The signature `key`; without one `serving_default`, else the first, else the first subgraph by its tensors' names.

        Raises `ModelFormatError` if there is no such signature, or nothing to run."""
        by_key = {entry.key: entry for entry in reversed(self.entries)}
        if key is not None and key not in by_key:
            raise ModelFormatError(f"{self.path}: has no signature {key!r}; it has: {', '.join(reversed(by_key)) or 'none'}")
        if self.entries:
            return by_key[key] if key is not None else by_key.get(DEFAULT_KEY, self.entries[0])
        if not self.subgraphs:
            raise ModelFormatError(f"{self.path}: holds no graph; convert or download it again")
        graph = self.subgraphs[0]
        names = [tensor.name for tensor in graph.tensors]
        return Entry("", 0, by_name(names, graph.inputs), by_name(names, graph.outputs))

    def signature(self, entry: Entry) -> Signature:
        """Shapes and dtypes of what `entry` names. Raises `ModelFormatError` for an input of which one row fills the memory."""
        tensors = self.subgraphs[entry.subgraph].tensors
        for name, at in entry.inputs.items():
            shape = tensors[at].shape
            if math.prod(max(size, 1) for size in shape) > _MOST_VALUES:
                raise ModelFormatError(f"{self.path}: input {name} takes {list(shape)}, more than fits; convert it again")
        inputs, outputs = (tuple(tensors[at].spec(name) for name, at in ends.items()) for ends in (entry.inputs, entry.outputs))
        return Signature(inputs, outputs)

    @property
    def operators(self) -> Iterator[Operator]:
        """The ops of all subgraphs."""
        return (operator for graph in self.subgraphs for operator in graph.operators)

    @property
    def flex_ops(self) -> tuple[str, ...]:
        """Names of the ops that need the Select-TF-ops library, sorted."""
        return tuple(sorted({operator.name for operator in self.operators if operator.flex}))

    @property
    def custom_ops(self) -> tuple[str, ...]:
        """Names of the other custom ops, sorted."""
        return tuple(sorted({operator.name for operator in self.operators if operator.custom and not operator.flex}))


def by_name(names: list[str], indices: tuple[int, ...]) -> dict[str, int]:
    """Tensor index by name; a name that is empty or taken gets its index added."""
    places: dict[str, int] = {}
    for index in indices:
        name = names[index] or "tensor"
        places[name if name not in places else f"{name}_{index}"] = index
    return places


def read(path: Path) -> ModelFile:
    """Parse the file at `path`, mapped, not loaded. Raises `ModelFormatError` if it is missing, no .tflite file or damaged."""
    return parse(mapped(path), str(path))


def mapped(path: Path) -> memoryview:
    """The content of the file at `path`, mapped. Raises `ModelFormatError` if it is missing or cannot be read."""
    check_exists(path)
    try:
        with path.open("rb") as stream:
            # The map lives until the last view of it is collected; an empty file cannot be mapped.
            return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)) if path.stat().st_size else memoryview(b"")
    except OSError as error:
        raise ModelFormatError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None


def check_exists(path: Path) -> None:
    """Raise `ModelFormatError` unless `path` is a regular file."""
    if not path.exists():
        raise ModelFormatError(f"{path}: no such file; check the path")
    if not path.is_file():
        raise ModelFormatError(f"{path}: not a regular file; give a .tflite file")


def parse(data: bytes | memoryview, origin: str) -> ModelFile:
    """Parse a model in memory; `origin` is what errors call it. Raises `ModelFormatError`."""
    head = bytes(data[:64])
    for start, remark in _OTHER_FORMATS.items():
        if head.startswith(start):
            raise ModelFormatError(f"{origin}: {remark}")
    if len(data) < _SMALLEST:
        state = "too short for a .tflite file" if len(data) else "empty"
        raise ModelFormatError(f"{origin}: {state}; convert or download it again")
    if head[4:8] != IDENTIFIER:
        raise ModelFormatError(f"{origin}: not a .tflite file (no {IDENTIFIER.decode()} at byte 4); give one, or convert it first")
    try:
        reader = _Reader(memoryview(data), origin)
        model = reader.model()
        reader.check_end()
        return model
    except (struct.error, IndexError, TypeError, ValueError, OverflowError):
        raise ModelFormatError(
            f"{origin}: damaged: an offset leads out of its {len(data)} bytes; convert or download it again", traceback.format_exc()
        ) from None


class _Reader:
    """Walks one flatbuffer. What it reads is bounded by a budget, because tables of a hostile file may overlap without end."""

    def __init__(self, data: memoryview, origin: str) -> None:
        self.data, self.origin = data, origin
        self.budget = 2 * len(data)
        self.tables_left = _MAX_TABLES
        self.dtypes = {code: name.lower() for code, name in schema.names("TensorType").items()}
        self.appended = False

    def damaged(self, what: str) -> ModelFormatError:
        return ModelFormatError(f"{self.origin}: damaged: {what}; convert or download it again")

    def spend(self, amount: int) -> None:
        self.budget -= amount
        if self.budget < 0:
            raise self.damaged("its tables count more entries than it has bytes")

    def tables(self, table: Any, field: str) -> Iterator[Any]:
        length, get = getattr(table, f"{field}Length")(), getattr(table, field)
        self.spend(4 * length)
        self.tables_left -= length
        if self.tables_left < 0:
            raise self.damaged(f"more than {_MAX_TABLES} tables")
        return (get(index) for index in range(length))

    def text(self, raw: bytes | None) -> str:
        self.spend(len(raw or b""))
        return (raw or b"").decode(errors="replace")

    def numbers(self, vector: Any) -> tuple[int, ...]:
        # The generated accessors return the number 0 where the vector is absent.
        if isinstance(vector, int):
            return ()
        self.spend(vector.size)
        return tuple(vector.tolist())

    def index(self, value: int, length: int, what: str) -> int:
        if not 0 <= value < length:
            raise self.damaged(f"{what} {value} of {length}")
        return value

    def model(self) -> ModelFile:
        model = schema.Model.GetRootAs(self.data, 0)
        buffers = [self.buffer(item) for item in self.tables(model, "Buffers")]
        external = {item.Id(): item.Length() for item in self.tables(model, "ExternalBuffers")}
        codes = [self.code(item) for item in self.tables(model, "OperatorCodes")]
        sizes = [len(buffer) for buffer in buffers]
        subgraphs = tuple(self.subgraph(item, codes, sizes, external) for item in self.tables(model, "Subgraphs"))
        metadata = [
            (self.text(item.Name()), buffers[self.index(item.Buffer(), len(buffers), "a metadata entry refers to buffer")])
            for item in self.tables(model, "Metadata")
        ]
        contents = {name: bytes(data[:_MAX_METADATA_BYTES]) for name, data in metadata if name in (MODEL_METADATA, MIN_RUNTIME)}
        return ModelFile(
            path=self.origin,
            size_bytes=len(self.data),
            version=model.Version(),
            description=self.text(model.Description()),
            subgraphs=subgraphs,
            entries=tuple(self.entry(item, subgraphs) for item in self.tables(model, "SignatureDefs")),
            metadata=tuple((name, len(data)) for name, data in metadata),
            min_runtime_version=contents.get(MIN_RUNTIME, b"").split(b"\0")[0].decode(errors="replace").strip(),
            model_metadata=contents.get(MODEL_METADATA, b""),
            external_files=tuple(self.text(item.Name()) for item in self.tables(model, "ExternalBufferGroups")),
        )

    def check_end(self) -> None:
        """flatbuffers are padded to whole words; an archive behind one ends with a record (PKWARE's APPNOTE, 4.3.16)."""
        tail = bytes(self.data[-_LONGEST_END:])
        directory, end = tail.find(b"PK\x01\x02"), tail.rfind(b"PK\x05\x06")
        comment = int.from_bytes(tail[end + _END - 2 : end + _END], "little")
        if end >= 0 and len(tail) == end + _END + comment:
            return
        if 0 <= directory < end and len(tail) < end + _END + comment:
            raise self.damaged("the archive at its end is not whole")
        if len(self.data) % _WORD and not self.appended:
            raise self.damaged(f"its {len(self.data)} bytes are no whole words, so that some are missing at its end")

    def buffer(self, buffer: Any) -> memoryview:
        start, size = buffer.Offset(), buffer.Size()
        if start >= FIRST_EXTERNAL_OFFSET:
            if start + size > len(self.data):
                raise self.damaged(f"constant data ends at byte {start + size} of {len(self.data)}")
            self.appended = True
            return self.data[start : start + size]
        vector = buffer.DataAsNumpy()
        return memoryview(b"") if isinstance(vector, int) else memoryview(vector)

    def code(self, code: Any) -> tuple[str, bool, int]:
        # Up to schema 3a a code was one byte; the higher of the two fields is the true one.
        number = max(code.DeprecatedBuiltinCode(), code.BuiltinCode())
        if number == schema.BuiltinOperator.CUSTOM:
            return self.text(code.CustomCode()) or "unnamed custom op", True, code.Version()
        return schema.names("BuiltinOperator").get(number, f"BUILTIN_{number}"), False, code.Version()

    def subgraph(self, graph: Any, codes: list[tuple[str, bool, int]], buffers: list[int], external: dict[int, int]) -> Subgraph:
        tensors = tuple(self.tensor(item, buffers, external) for item in self.tables(graph, "Tensors"))
        count = len(tensors)
        operators = []
        for item in self.tables(graph, "Operators"):
            name, custom, version = codes[self.index(item.OpcodeIndex(), len(codes), "an op refers to operator code")]
            inputs, outputs = self.numbers(item.InputsAsNumpy()), self.numbers(item.OutputsAsNumpy())
            for index in {*inputs, *outputs} - {-1}:
                self.index(index, count, f"op {name} refers to tensor")
            operators.append(Operator(name, custom, inputs, outputs, version))
        inputs, outputs = self.numbers(graph.InputsAsNumpy()), self.numbers(graph.OutputsAsNumpy())
        for index in (*inputs, *outputs):
            self.index(index, count, "an input or output refers to tensor")
        return Subgraph(self.text(graph.Name()), tensors, tuple(operators), inputs, outputs)

    def tensor(self, tensor: Any, buffers: list[int], external: dict[int, int]) -> Tensor:
        name = self.text(tensor.Name())
        shape = self.numbers(tensor.ShapeAsNumpy())
        free = self.numbers(tensor.ShapeSignatureAsNumpy())
        buffer = self.index(tensor.Buffer(), len(buffers), f"tensor {name} refers to buffer") if buffers else 0
        data_bytes = buffers[buffer] if buffers else 0
        if identifier := tensor.ExternalBuffer():
            if identifier not in external:
                raise self.damaged(f"tensor {name} refers to external buffer {identifier}, which is not listed")
            data_bytes = external[identifier]
        quantization = tensor.Quantization()
        scales = quantization.ScaleLength() if quantization else 0
        blockwise = bool(quantization) and quantization.DetailsType() == schema.QuantizationDetails.BlockwiseQuantization
        return Tensor(
            name=name,
            shape=free if len(free) == len(shape) else shape,
            dtype=self.dtypes.get(tensor.Type(), f"type{tensor.Type()}"),
            buffer=buffer,
            data_bytes=data_bytes,
            scales=scales,
            scale=float(quantization.Scale(0)) if scales else None,
            zero_point=(int(quantization.ZeroPoint(0)) if quantization.ZeroPointLength() else 0) if scales else None,
            blockwise=blockwise,
            sparse=tensor.Sparsity() is not None,
        )

    def entry(self, signature: Any, subgraphs: tuple[Subgraph, ...]) -> Entry:
        key = self.text(signature.SignatureKey())
        subgraph = self.index(signature.SubgraphIndex(), len(subgraphs), f"signature {key} refers to subgraph")
        count = len(subgraphs[subgraph].tensors)

        inputs, outputs = (
            {
                self.text(item.Name()): self.index(item.TensorIndex(), count, f"signature {key} refers to tensor")
                for item in self.tables(signature, ends)
            }
            for ends in ("Inputs", "Outputs")
        )
        return Entry(key, subgraph, inputs, outputs)
