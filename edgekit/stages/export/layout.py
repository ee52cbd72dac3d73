"""Where channels lie in what a converted model takes and gives."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.models.channels import channels_first, channels_last
from edgekit.stages.export.onnx import distance
from edgekit.tflite import flatbuffer, schema
from edgekit.tflite.tree import add_constant, add_like, listed, load, operation, text, write


def take_images_channels_last(path: Path) -> tuple[str, ...]:
    """Have the model in `path` take images with their channels last, in place; the inputs that had them on axis 1, by name.

    In a worker child; a model above 2 GB stays as it is."""
    file = flatbuffer.read(path)
    entry, tree = file.entry(), load(path.read_bytes())
    shapes = {spec.name: spec.shape for spec in file.signature(entry).inputs}
    names = channels_first(shapes, slid=()) if tree is not None else ()
    if tree is None or not names:
        return ()
    graph = tree.subgraphs[entry.subgraph]
    for name in names:
        index = entry.inputs[name]
        inner = graph.tensors[index].name or b""
        taken = add_like(graph, index, inner)
        graph.tensors[taken].shape, graph.tensors[taken].shapeSignature = [*channels_last(shapes[name])], None
        graph.tensors[index].name = inner + b"_channels_first"
        axes = add_constant(tree, graph, inner + b"_order", np.array([0, 3, 1, 2], np.int32))
        graph.operators.insert(0, operation(tree, "TRANSPOSE", [taken, axes], [index], schema.TransposeOptionsT()))
        graph.inputs = [taken if int(one) == index else int(one) for one in graph.inputs]
        _name_end(tree, entry.subgraph, "inputs", name, taken)
    write(tree, path)
    return names


def is_turned(outputs: np.ndarray, reference: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether an output (N, …) of `shape` has its channels last though it looks like the source's, since sizes are equal."""
    axis = 1 if shape[:1] == (1,) else 2
    if outputs.shape != reference.shape or reference.ndim <= axis + 1:
        return False
    moved = np.moveaxis(reference, axis, -1)
    return moved.shape == outputs.shape and distance(outputs, moved) < distance(outputs, reference)


def turn_back(path: Path, names: Collection[str]) -> None:
    """Give these outputs of the model in `path` their channels on axis 1, in place. In a worker child."""
    entry = flatbuffer.read(path).entry()
    tree = load(path.read_bytes())
    if tree is None:
        return
    graph = tree.subgraphs[entry.subgraph]
    for name in names:
        index = entry.outputs[name]
        rank = len(listed(graph.tensors[index].shape))
        order = np.array([0, rank - 1, *range(1, rank - 1)], np.int32)
        # Its own name stays with what is given.
        inner = graph.tensors[index].name or b""
        turned = add_like(graph, index, inner)
        graph.tensors[turned].type, graph.tensors[index].name = graph.tensors[index].type, inner + b"_channels_last"
        axes = add_constant(tree, graph, inner + b"_order", order)
        graph.operators.append(operation(tree, "TRANSPOSE", [index, axes], [turned], schema.TransposeOptionsT()))
        graph.outputs = [turned if int(one) == index else int(one) for one in graph.outputs]
        _name_end(tree, entry.subgraph, "outputs", name, turned)
    write(tree, path)


def _name_end(tree: Any, subgraph: int, side: str, name: str, index: int) -> None:
    for signature in listed(tree.signatureDefs):
        for end in listed(getattr(signature, side)):
            if signature.subgraphIndex == subgraph and text(end.name) == name:
                end.tensorIndex = index
