"""float16 weights: each large constant is stored in half precision, with a DEQUANTIZE op that the runtime runs once.

The same layout as TFLiteConverter's, made from the float32 file, so that every source has it and no second
conversion is paid for."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgekit.errors import RefusedError, UnsupportedOpError
from edgekit.tflite import flatbuffer, schema, tree
from edgekit.tflite.tree import listed

# Smaller constants save nothing, and among them are LayerNorm's epsilons, which would become zero.
_LEAST_ELEMENTS = 128
_LARGEST = float(np.finfo(np.float16).max)
# DEQUANTIZE takes float16 from this version on.
_VERSION = 3


def to_float16(model: bytes, *, origin: str = "model") -> bytes:
    """A float32 .tflite as one with float16 weights.

    Constants stay as they are where float16 cannot hold them or something else refers to them: sparse ones, variables,
    inputs and outputs of a graph, and what graphs called by control flow use, where each call would convert them again.
    Raises `RefusedError` if nothing is left to halve and `UnsupportedOpError` for a file that `tree.load` does not take."""
    file = flatbuffer.parse(model, origin)
    root = tree.load(model)
    if root is None:
        raise UnsupportedOpError(f"{origin}: is above 2 GB or has constants in other files; choose dynamic instead of float16")
    entries = {entry.subgraph for entry in file.entries} or {0}
    halved = _halves(root, entries)
    if not halved:
        raise RefusedError(f"{origin}: has no float32 constant of {_LEAST_ELEMENTS} values or more to halve; choose float32")
    code = tree.opcode(root, "DEQUANTIZE", _VERSION)
    for index in entries:
        _dequantize_constants(root.subgraphs[index], halved, code)
    for index, half in halved.items():
        root.buffers[index].data = half.view(np.uint8)
    return tree.pack(root)


def _halves(root: Any, entries: set[int]) -> dict[int, np.ndarray]:
    """float16 values by buffer, for each buffer that all its users can do with."""
    users: defaultdict[int, list[bool]] = defaultdict(list)
    for number, graph in enumerate(root.subgraphs):
        ends = {*listed(graph.inputs), *listed(graph.outputs)}
        for index, tensor in enumerate(listed(graph.tensors)):
            plain = tensor.type == schema.TensorType.FLOAT32 and not tensor.isVariable and tensor.sparsity is None
            users[tensor.buffer].append(plain and number in entries and index not in ends)
    for entry in listed(root.metadata):
        users[entry.buffer].append(False)
    halves = {index: _half(root.buffers[index]) for index, plain in users.items() if index and all(plain)}
    return {index: half for index, half in halves.items() if half is not None}


def _half(buffer: Any) -> np.ndarray | None:
    if buffer.data is None or len(buffer.data) < 4 * _LEAST_ELEMENTS or len(buffer.data) % 4:
        return None
    values = np.frombuffer(np.asarray(buffer.data, np.uint8).tobytes(), np.float32)
    # False for NaN too.
    return values.astype(np.float16) if np.abs(values).max() <= _LARGEST else None


def _dequantize_constants(graph: Any, halved: Mapping[int, np.ndarray], code: int) -> None:
    used = {int(index) for operator in listed(graph.operators) for index in listed(operator.inputs)}
    replaced: dict[int, int] = {}
    operators = []
    for index, tensor in enumerate(listed(graph.tensors)):
        if tensor.buffer not in halved:
            continue
        tensor.type = schema.TensorType.FLOAT16
        # What a file trained for quantization says of a constant's range holds for no float16.
        tensor.quantization = None
        if index not in used:
            continue
        name = (tensor.name or b"") + b"_float32"
        replaced[index] = tree.add_tensor(graph, schema.TensorT(shape=tensor.shape, buffer=0, name=name, hasRank=True))
        operators.append(schema.OperatorT(opcodeIndex=code, inputs=[index], outputs=[replaced[index]]))
    for operator in listed(graph.operators):
        operator.inputs = [replaced.get(int(index), int(index)) for index in listed(operator.inputs)]
    graph.operators = operators + listed(graph.operators)
