"""Sizes that a .tflite leaves free though those of its inputs are fixed: onnx2tf 2 knows none behind a Split.

No quantizer takes an op that asks for a shape, and what rewrites a graph leaves free sizes alone."""

from typing import Any

import numpy as np

from edgekit.stages.export.fold import KEPT, sizes
from edgekit.tflite import schema
from edgekit.tflite.tree import ends, listed, op_name, shape_of


def settle(tree: Any, graph: Any) -> bool:
    """Give what the graph computes the sizes that the runtime finds, and make constants of shapes that are asked for.

    Whether anything changed; nothing does where an input's size is free. Sizes that depend on values stay free."""
    if any(_is_free(graph, index) for index in map(int, listed(graph.inputs))):
        return False
    changed, operators = False, listed(graph.operators)
    graph.operators = []
    for operator in operators:
        inputs, outputs = ends(operator)
        fixed = op_name(tree, operator) not in KEPT and not any(index >= 0 and _is_free(graph, index) for index in inputs)
        if fixed and op_name(tree, operator) == "SHAPE" and outputs[0] not in map(int, listed(graph.outputs)):
            _make_constant(tree, graph.tensors[outputs[0]], shape_of(graph, inputs[0]))
            changed = True
            continue
        graph.operators.append(operator)
        free = [index for index in outputs if _is_free(graph, index)]
        if fixed and free and (shapes := sizes(tree, graph, operator, free)) is not None:
            for index, shape in zip(free, shapes, strict=True):
                graph.tensors[index].shape, graph.tensors[index].shapeSignature = list(shape), None
            changed = True
    return changed


def _is_free(graph: Any, index: int) -> bool:
    tensor = graph.tensors[index]
    return any(size < 0 for size in (*listed(tensor.shapeSignature), *listed(tensor.shape)))


def _make_constant(tree: Any, tensor: Any, values: list[int]) -> None:
    dtype = np.int64 if tensor.type == schema.TensorType.INT64 else np.int32
    tree.buffers.append(schema.BufferT(data=np.array(values, dtype).view(np.uint8)))
    tensor.buffer, tensor.shape, tensor.shapeSignature = len(tree.buffers) - 1, [len(values)], None
