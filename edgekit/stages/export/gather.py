"""GatherElements at constant places as Gather, which TFLite has and onnx2tf converts whatever the shapes."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from edgekit.stages.export.graph import sizes


def flatten(model: Any) -> None:
    """Rewrite GatherElements with constant indices along the last axis, in place.

    data (B…, M, K) and indices (B…, M, N) become a Gather from (B…, M·K). Where the indices are the same for all of B, as
    DeBERTa's relative positions are for all heads, only (M, N) of them are kept. Needs inferred shapes."""
    from onnx import numpy_helper

    places = {tensor.name: tensor for tensor in model.graph.initializer}
    shapes = sizes(model)
    nodes: list[Any] = []
    constants: list[Any] = []
    for node in model.graph.node:
        tensor = places.get(node.input[1]) if node.op_type == "GatherElements" else None
        if tensor is None:
            nodes.append(node)
            continue
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        indices, shape = numpy_helper.to_array(tensor), shapes.get(node.input[0], ())
        if len(shape) < 2 or axis not in (-1, len(shape) - 1) or 0 in shape or tuple(shape[:-1]) != indices.shape[:-1]:
            nodes.append(node)
            continue
        arrays = dict(_constants(node.output[0], indices, shape))
        constants.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
        nodes.extend(_gather(node.input[0], node.output[0], reshaped=f"{node.output[0]}/shape" in arrays))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants)


def _constants(name: str, indices: np.ndarray, shape: tuple[int, ...]) -> Iterator[tuple[str, np.ndarray]]:
    *outer, rows, width = shape
    wrapped = np.where(indices < 0, indices + width, indices)
    if outer and not (wrapped == wrapped.reshape(-1, *wrapped.shape[-2:])[0]).all():
        outer, rows = [], int(np.prod(shape[:-1]))
    flat = wrapped.reshape(-1, rows, indices.shape[-1])[0] + width * np.arange(rows)[:, None]
    yield f"{name}/flat_shape", np.array([int(np.prod(outer)), rows * width], np.int64)
    yield f"{name}/places", flat.astype(np.int32)
    # A Reshape to the shape that is there already, onnx2tf takes for one that moves channels.
    if len(outer) != 1:
        yield f"{name}/shape", np.array(indices.shape, np.int64)


def _gather(data: str, result: str, *, reshaped: bool) -> Iterator[Any]:
    from onnx import helper

    yield helper.make_node("Reshape", [data, f"{result}/flat_shape"], [f"{result}/flat"], name=f"{result}/flatten")
    gathered = [f"{result}/gathered" if reshaped else result]
    yield helper.make_node("Gather", [f"{result}/flat", f"{result}/places"], gathered, name=f"{result}/gather", axis=1)
    if reshaped:
        yield helper.make_node("Reshape", [*gathered, f"{result}/shape"], [result], name=f"{result}/reshape")
