"""A float32 .tflite as ai-edge-quantizer reads it best: the same function, under the same names."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.stages.quantize.moments import BIAS, has_bias
from edgekit.tflite import flatbuffer, schema
from edgekit.tflite.tree import add_constant, add_like, constant, each_op, listed, load, op_name, operation, pack, reshape, sharers

# Ops that a RESHAPE can stand for.
_RESHAPING = ("SQUEEZE", "EXPAND_DIMS")
# Ops that look rows up, and where their table stands among the inputs.
_TABLES = {"GATHER": 0, "EMBEDDING_LOOKUP": 1}
# Columns of a table get ranges of their own where that takes this share off the mean square of what rounding adds: a bit.
_GAIN = 0.75
# Ranges are counted in so many steps of the largest, so that the multiplication's int8 constant holds them exactly.
_STEPS = 255


def prepare(model: bytes) -> bytes:
    """The file with what ai-edge-quantizer cannot read, or reads badly, written in another way.

    Up to schema 3a an op's code stood in a field that it does not look at; ranges and instructions go by tensor names, so no
    two are alike; of a fully connected op's bias of shape (1, N), such as a multiplication folded into it leaves, it makes one
    of N x N values; it knows RESHAPE, but neither SQUEEZE nor EXPAND_DIMS; a table that is looked up and multiplied with gets the
    weights' steps; and a look-up table has one step for all its values."""
    tree = load(model)
    if tree is None:
        return model
    changed = False
    for code in tree.operatorCodes:
        if code.builtinCode < code.deprecatedBuiltinCode:
            code.builtinCode, changed = code.deprecatedBuiltinCode, True
    tensors = [tensor for graph in tree.subgraphs for tensor in listed(graph.tensors)]
    counts = Counter(tensor.name for tensor in tensors)
    for number, tensor in enumerate(tensors):
        if not tensor.name or counts[tensor.name] > 1:
            tensor.name, changed = (tensor.name or b"tensor") + f"__{number}".encode(), True
    for graph, _, operator in each_op(tree, "FULLY_CONNECTED"):
        changed |= _flatten_bias(graph, operator)
    for graph, place, operator in each_op(tree, *_RESHAPING):
        changed |= _reshape(tree, graph, place, operator)
    for graph, _, operator in each_op(tree, *_TABLES):
        changed |= _own_table(tree, graph, operator, _TABLES[op_name(tree, operator)])
    for graph, place, operator in each_op(tree, "GATHER"):
        changed |= _scale_columns(tree, graph, place, operator)
    return pack(tree) if changed else model


def read_graph(model: Path) -> flatbuffer.Subgraph:
    """The main graph of a file with the names that it has in what `prepare` gives."""
    return flatbuffer.parse(prepare(model.read_bytes()), str(model)).subgraphs[0]


def _flatten_bias(graph: Any, operator: Any) -> bool:
    bias = graph.tensors[operator.inputs[BIAS]] if has_bias(operator) else None
    if bias is None or len(listed(bias.shape)) < 2:
        return False
    bias.shape, bias.shapeSignature = [int(np.prod(bias.shape))], None
    return True


def _reshape(tree: Any, graph: Any, place: int, operator: Any) -> bool:
    """Make a RESHAPE of an op that only adds or drops axes of length 1, where all lengths are known."""
    output = graph.tensors[operator.outputs[0]]
    shape = [int(size) for size in listed(output.shape)]
    if output.type != schema.TensorType.FLOAT32 or any(size < 0 for size in listed(output.shapeSignature)) or not shape:
        return False
    graph.operators[place] = reshape(tree, graph, operator.inputs[0], operator.outputs[0])
    return True


def _own_table(tree: Any, graph: Any, operator: Any, which: int) -> bool:
    """Give a look-up a copy of its table where that is a product's weights as well, as where a head is tied to the embeddings:
    weights get a step for each row, with which no look-up loads."""
    index = operator.inputs[which]
    others = (other for other in listed(graph.operators) if index in listed(other.inputs))
    if (values := constant(tree, graph, index)) is None or all(op_name(tree, other) in _TABLES for other in others):
        return False
    inputs = listed(operator.inputs)
    inputs[which] = add_constant(tree, graph, graph.tensors[index].name + b"_looked_up", values)
    operator.inputs = inputs
    return True


def _scale_columns(tree: Any, graph: Any, place: int, operator: Any) -> bool:
    """Divide each column of a look-up table by its range, and multiply what is looked up by it.

    A table has one step for all its values, so that one column with large ones, such as word embeddings have, would leave
    the others a handful of levels."""
    table, output = graph.tensors[operator.inputs[0]], graph.tensors[operator.outputs[0]].name
    buffer, options = tree.buffers[table.buffer], operator.builtinOptions
    users = sharers(tree, table) + sum(operator.inputs[0] in listed(other.inputs) for other in listed(graph.operators))
    plain = table.type == schema.TensorType.FLOAT32 and buffer.data is not None and table.sparsity is None
    if not plain or users > 2 or len(table.shape) < 2 or (options is not None and (options.axis or options.batchDims)):
        return False
    values = np.asarray(buffer.data).view(np.float32).reshape(table.shape)
    largest = np.abs(values).max(axis=tuple(range(values.ndim - 1)))
    if not 0 < largest.max() < np.inf or np.mean((largest / largest.max()) ** 2) > 1 - _GAIN:
        return False
    ranges = np.maximum(np.ceil(largest / largest.max() * _STEPS), 1).astype(np.float32) / _STEPS
    buffer.data = (values / ranges).astype(np.float32).reshape(-1).view(np.uint8)
    looked_up = add_like(graph, operator.outputs[0], output + b"_by_column")
    factors = add_constant(tree, graph, output + b"_column_ranges", ranges)
    graph.operators.insert(place + 1, operation(tree, "MUL", [looked_up, factors], operator.outputs, schema.MulOptionsT()))
    operator.outputs = [looked_up]
    return True
