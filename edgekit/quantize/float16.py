"""float16 weights: each large constant is stored in half precision, with a DEQUANTIZE op that the runtime runs once.

The same layout as TFLiteConverter's, made from the float32 file, so that every source has it and no second
conversion is paid for.
"""

from collections import defaultdict
from typing import Any

import numpy as np

# Smaller constants save nothing, and among them are LayerNorm's epsilons, which would become zero.
_LEAST_ELEMENTS = 128
_LARGEST = float(np.finfo(np.float16).max)
# The schema wants tensor data aligned so; flatbuffers' Python builder does not read that attribute.
_ALIGNMENT = 16


def to_float16(model: bytes) -> bytes:
    """A float32 .tflite as one with float16 weights; constants that float16 cannot hold stay as they are."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    class AlignedBuilder(flatbuffers.Builder):  # type: ignore[misc, name-defined, unused-ignore]
        def CreateNumpyVector(self, x: Any) -> Any:
            data = np.ascontiguousarray(x)
            self.StartVector(data.itemsize, data.size, _ALIGNMENT)
            self.head -= data.nbytes
            self.Bytes[self.head : self.head + data.nbytes] = data.tobytes()
            return self.EndVector()

    tree = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0))
    users: defaultdict[int, list[Any]] = defaultdict(list)
    for graph in tree.subgraphs:
        for tensor in graph.tensors:
            users[tensor.buffer].append(tensor)
    halved = {
        index: half
        for index, tensors in users.items()
        if all(tensor.type == schema.TensorType.FLOAT32 for tensor in tensors) and (half := _half(tree.buffers[index])) is not None
    }
    code = _dequantize_code(tree, schema)
    for graph in tree.subgraphs:
        _dequantize_constants(graph, halved, code, schema)
    for index, half in halved.items():
        tree.buffers[index].data = half.view(np.uint8)
    builder = AlignedBuilder(len(model))
    builder.Finish(tree.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _half(buffer: Any) -> np.ndarray | None:
    if buffer.data is None or len(buffer.data) < 4 * _LEAST_ELEMENTS:
        return None
    values = np.frombuffer(np.asarray(buffer.data, np.uint8).tobytes(), np.float32)
    return values.astype(np.float16) if np.abs(values).max() <= _LARGEST else None


def _dequantize_code(tree: Any, schema: Any) -> int:
    wanted = schema.BuiltinOperator.DEQUANTIZE
    for index, code in enumerate(tree.operatorCodes):
        if code.builtinCode == wanted:
            return index
    # Version 3 is the first to take float16.
    tree.operatorCodes.append(schema.OperatorCodeT(deprecatedBuiltinCode=wanted, builtinCode=wanted, version=3))
    return len(tree.operatorCodes) - 1


def _dequantize_constants(graph: Any, halved: dict[int, Any], code: int, schema: Any) -> None:
    fixed = {*graph.inputs, *graph.outputs}
    used = {int(index) for operator in graph.operators for index in operator.inputs}
    replaced: dict[int, int] = {}
    operators = []
    for index, tensor in enumerate(list(graph.tensors)):
        if tensor.buffer not in halved:
            continue
        tensor.type = schema.TensorType.FLOAT16
        if index not in used or index in fixed:
            continue
        restored = schema.TensorT(
            shape=tensor.shape, type=schema.TensorType.FLOAT32, buffer=0, name=(tensor.name or b"") + b"_float32", hasRank=True
        )
        graph.tensors.append(restored)
        replaced[index] = len(graph.tensors) - 1
        operators.append(schema.OperatorT(opcodeIndex=code, inputs=[index], outputs=[replaced[index]]))
    for operator in graph.operators:
        operator.inputs = [replaced.get(int(index), int(index)) for index in operator.inputs]
    graph.operators = operators + list(graph.operators)
