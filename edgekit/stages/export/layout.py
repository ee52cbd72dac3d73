"""Where channels lie in what a converted model gives, as far as its shapes do not tell."""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from edgekit.stages.export.onnx import distance
from edgekit.tflite import flatbuffer, schema
from edgekit.tflite.tree import add_constant, add_like, listed, load, operation, text, write


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
        for signature in listed(tree.signatureDefs):
            for end in listed(signature.outputs):
                if signature.subgraphIndex == entry.subgraph and text(end.name) == name:
                    end.tensorIndex = turned
    write(tree, path)
