"""A .tflite file as the schema's object tree, to change it and write it again with its constants inside the flatbuffer."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.tflite import flatbuffer, schema

# The schema wants tensor data aligned so; flatbuffers' Python builder does not read that attribute.
_ALIGNMENT = 16
# Offsets of a flatbuffer are signed 32-bit numbers; a good part is left for all that is not constant data.
_LARGEST = 2**31 - 2**27
# What the old one-byte field of an op code holds for every code above it.
_PLACEHOLDER = 127
# Those of the schema's that numpy has, too.
_DTYPES = ("float32", "float16", "int8", "int16", "int32", "int64", "uint8", "bool")


def load(model: bytes | memoryview) -> Any | None:
    """The tree (`ModelT`), or None for a file that cannot be written again: above 2 GB, or with constants in other files.

    Data behind the flatbuffer, where ai-edge-quantizer puts it, comes inside: older runtimes and other tools do not look there."""
    if len(model) > _LARGEST:
        return None
    tree = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0))
    if any(tensor.externalBuffer for graph in tree.subgraphs for tensor in listed(graph.tensors)):
        return None
    for buffer in tree.buffers:
        if buffer.offset >= flatbuffer.FIRST_EXTERNAL_OFFSET:
            buffer.data = np.frombuffer(model, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    for operator in (operator for graph in tree.subgraphs for operator in listed(graph.operators)):
        if operator.largeCustomOptionsOffset >= flatbuffer.FIRST_EXTERNAL_OFFSET:
            size, offset = operator.largeCustomOptionsSize, operator.largeCustomOptionsOffset
            operator.customOptions = np.frombuffer(model, np.uint8, size, offset)
            operator.largeCustomOptionsOffset = operator.largeCustomOptionsSize = 0
    return tree


def pack(tree: Any) -> bytes:
    """The tree as a file; vectors of numbers that are equal are stored once.

    Symmetric weights have a zero point of 8 bytes for each channel, all of them 0: two thirds of what quantization adds."""
    return bytes(_packed(tree))


def write(tree: Any, path: Path) -> None:
    """Write what `pack` gives to `path`, which spares two copies of the model."""
    path.write_bytes(_packed(tree))


def _packed(tree: Any) -> memoryview:
    import flatbuffers

    class AlignedBuilder(flatbuffers.Builder):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self, size: int) -> None:
            super().__init__(size)
            self.written: dict[tuple[np.dtype[Any], bytes], Any] = {}

        def CreateNumpyVector(self, x: Any) -> Any:
            data = np.ascontiguousarray(x)
            content = data.reshape(-1).view(np.uint8).data
            key = data.dtype, hashlib.sha256(content).digest()
            if key not in self.written:
                self.StartVector(data.itemsize, data.size, _ALIGNMENT)
                self.head -= len(content)
                self.Bytes[self.head : self.head + len(content)] = content
                self.written[key] = self.EndVector()
            return self.written[key]

    size = sum(len(buffer.data) for buffer in tree.buffers if buffer.data is not None)
    builder = AlignedBuilder(size + 2**20)
    builder.Finish(tree.Pack(builder), file_identifier=flatbuffer.IDENTIFIER)
    # `Output` would copy it.
    return memoryview(builder.Bytes)[builder.head :]


def opcodes(root: Any, name: str) -> list[int]:
    """The places of a built-in op among the file's op codes: none, one, or one for each of its versions."""
    number = getattr(schema.BuiltinOperator, name)
    return [index for index, code in enumerate(root.operatorCodes) if _number(code) == number]


def _number(code: Any) -> int:
    # Up to schema 3a there was the one field only.
    return max(code.builtinCode, code.deprecatedBuiltinCode)


def opcode(root: Any, name: str, version: int = 1) -> int:
    """The place of a built-in op among the file's op codes, of at least that version; added if the file has none."""
    for index in opcodes(root, name):
        code = root.operatorCodes[index]
        code.version = max(code.version, version)
        return index
    number = getattr(schema.BuiltinOperator, name)
    code = schema.OperatorCodeT(deprecatedBuiltinCode=min(number, _PLACEHOLDER), builtinCode=number, version=version)
    root.operatorCodes.append(code)
    return len(root.operatorCodes) - 1


def op_name(root: Any, operator: Any) -> str:
    """The schema's name of a built-in op of the tree, CUSTOM for the others; empty for one that the schema does not know."""
    return schema.names("BuiltinOperator").get(_number(root.operatorCodes[operator.opcodeIndex]), "")


def constant(root: Any, graph: Any, index: int) -> np.ndarray | None:
    """The values of a constant tensor of the tree, a view; None for what is computed, left out or stored in another way."""
    if index < 0:
        return None
    tensor = graph.tensors[index]
    data, dtype = root.buffers[tensor.buffer].data, schema.names("TensorType").get(tensor.type, "").lower()
    if data is None or tensor.sparsity is not None or dtype not in _DTYPES:
        return None
    return np.asarray(data).view(dtype).reshape([int(size) for size in listed(tensor.shape)])


def add_tensor(graph: Any, tensor: Any) -> int:
    """Put a tensor into a graph of the tree and give its place there."""
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def add_like(graph: Any, index: int, name: bytes) -> int:
    """Put a computed float32 tensor of the shape of another into a graph of the tree and give its place there."""
    like = graph.tensors[index]
    return add_tensor(graph, schema.TensorT(shape=like.shape, shapeSignature=like.shapeSignature, buffer=0, name=name))


def add_constant(tree: Any, graph: Any, name: bytes, values: np.ndarray) -> int:
    """Put `values` into a graph of the tree and give their tensor's place there."""
    tree.buffers.append(schema.BufferT(data=np.ascontiguousarray(values).reshape(-1).view(np.uint8)))
    dtype = getattr(schema.TensorType, values.dtype.name.upper())
    return add_tensor(graph, schema.TensorT(shape=[*values.shape], type=dtype, buffer=len(tree.buffers) - 1, name=name))


def operation(tree: Any, name: str, inputs: Iterable[int], outputs: Iterable[int], options: Any = None) -> Any:
    """A built-in op of the tree's graphs, to be put where it belongs; `options` is its table, such as `MulOptionsT`."""
    made = schema.OperatorT(opcodeIndex=opcode(tree, name), inputs=[*map(int, inputs)], outputs=[*map(int, outputs)])
    if options is not None:
        made.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        made.builtinOptions = options
    return made


def drop_unread(tree: Any) -> None:
    """Leave out the tensors that no op and no end of a graph names, and the constants that no tensor holds."""
    for number, graph in enumerate(tree.subgraphs):
        ends = [graph, *listed(graph.operators)]
        entries = [end for one in listed(tree.signatureDefs) if one.subgraphIndex == number for end in _ends_of(one)]
        read = {int(index) for one in ends for index in (*listed(one.inputs), *listed(one.outputs), *_inner(one))} - {-1}
        read |= {end.tensorIndex for end in entries}
        places = {index: place for place, index in enumerate(sorted(read))} | {-1: -1}
        graph.tensors = [graph.tensors[index] for index in sorted(read)]
        for one in ends:
            one.inputs = [places[int(index)] for index in listed(one.inputs)]
            one.outputs = [places[int(index)] for index in listed(one.outputs)]
            if _inner(one):
                one.intermediates = [places[int(index)] for index in _inner(one)]
        for end in entries:
            end.tensorIndex = places[end.tensorIndex]
    held = {0, *(entry.buffer for entry in listed(tree.metadata))}
    held |= {tensor.buffer for graph in tree.subgraphs for tensor in listed(graph.tensors)}
    for place, buffer in enumerate(tree.buffers):
        if place not in held:
            buffer.data = None


def _ends_of(signature: Any) -> list[Any]:
    return [*listed(signature.inputs), *listed(signature.outputs)]


def _inner(operator: Any) -> list[Any]:
    """Tensors that a recurrent op keeps its quantization in."""
    return listed(getattr(operator, "intermediates", None))


def reshape(tree: Any, graph: Any, index: int, result: int) -> Any:
    """A RESHAPE of a graph's tensor to another that is there already, to be put where it belongs."""
    shape, name = shape_of(graph, result), graph.tensors[result].name or b""
    sizes = add_constant(tree, graph, name + b"_shape", np.array(shape, np.int32))
    return operation(tree, "RESHAPE", [index, sizes], [result], schema.ReshapeOptionsT(newShape=shape))


def listed(values: Any) -> list[Any]:
    """A vector of the tree, which is None where the file has none."""
    return [] if values is None else list(values)


def ends(operator: Any) -> tuple[list[int], list[int]]:
    """An op's inputs, -1 where one is left out, and its outputs."""
    return [*map(int, listed(operator.inputs))], [*map(int, listed(operator.outputs))]


def shape_of(graph: Any, index: int) -> list[int]:
    """Of a tensor of the tree; empty for one that is left out."""
    return [int(size) for size in listed(graph.tensors[index].shape)] if index >= 0 else []


def are_float(graph: Any, indices: Iterable[int]) -> bool:
    return all(graph.tensors[index].type == schema.TensorType.FLOAT32 for index in indices)


def readers(graph: Any) -> Counter[int]:
    """How many ends of ops, and of the graph itself, read each tensor."""
    count = Counter(map(int, listed(graph.outputs)))
    for operator in listed(graph.operators):
        count.update(ends(operator)[0])
    return count


def places_of_readers(graph: Any) -> dict[int, list[int]]:
    """The places of the ops that read each tensor."""
    places: dict[int, list[int]] = defaultdict(list)
    for place, operator in enumerate(listed(graph.operators)):
        for index in ends(operator)[0]:
            places[index].append(place)
    return places


def text(name: bytes | str | None) -> str:
    """A tensor's name in the tree."""
    return name.decode(errors="replace") if isinstance(name, bytes) else name or ""


def named(tensors: Mapping[str, int]) -> list[Any]:
    """Tensors by name as a signature of the tree lists them."""
    return [schema.TensorMapT(name.encode(), index) for name, index in tensors.items()]


def each_op(tree: Any, *names: str) -> Iterator[tuple[Any, int, Any]]:
    """Each op of these names with its graph and its place there, the last first, so that more may follow it."""
    codes = {index for name in names for index in opcodes(tree, name)}
    for graph in tree.subgraphs:
        for place, operator in reversed([*enumerate(listed(graph.operators))]):
            if operator.opcodeIndex in codes:
                yield graph, place, operator


def sharers(tree: Any, tensor: Any) -> int:
    """How many tensors of all graphs have the buffer of this one."""
    return sum(other.buffer == tensor.buffer for graph in tree.subgraphs for other in listed(graph.tensors))
