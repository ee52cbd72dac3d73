"""Bring a .tflite to the inputs and outputs that MediaPipe Tasks takes, without changing what it computes."""

import copy
from typing import Any

from edgekit.errors import ConfigError, UnsupportedOpError
from edgekit.tflite import flatbuffer, schema, tree
from edgekit.tflite.flatbuffer import Entry, ModelFile
from edgekit.tflite.tree import listed

SEGMENTS, SCORES = "token_type_ids", "probabilities"
# What makes probabilities of logits: the op, and the class of its options where it has any.
ACTIVATIONS = {"softmax": "SOFTMAX", "sigmoid": "LOGISTIC"}
# Ops between an activation and the output that leave the order of the values as it is.
_PASSING = ("QUANTIZE", "DEQUANTIZE", "RESHAPE")


def gives_probabilities(file: ModelFile) -> bool:
    """Whether the first output comes from a SOFTMAX or LOGISTIC already."""
    entry = file.entry()
    makers = {index: operator for operator in file.subgraphs[entry.subgraph].operators for index in operator.outputs}
    index = next(iter(entry.outputs.values()))
    while (maker := makers.get(index)) is not None and maker.name in _PASSING:
        index = maker.inputs[0]
    return maker is not None and maker.name in ACTIVATIONS.values()


def adapt(model: bytes, *, origin: str, segments: bool, activation: str | None) -> bytes:
    """`model` with an input for segment ids where it has none, and with probabilities in place of its logits.

    The segments are read by no op: MediaPipe's TextClassifier feeds three inputs and fills the segments with zeros, which is
    what a model of single texts holds as a constant. `activation` is a key of `ACTIVATIONS`, or None to leave the output.
    Raises `ConfigError` for an output that is not float32, and `UnsupportedOpError` for a file above 2 GB."""
    file = flatbuffer.parse(model, origin)
    entry = file.entry()
    add_segments = segments and SEGMENTS not in entry.inputs
    if not add_segments and activation is None:
        return model
    root = tree.load(model)
    if root is None:
        raise UnsupportedOpError(f"{origin}: is above 2 GB; leave --mediapipe out")
    if add_segments:
        _add_segments(root, entry)
    if activation is not None:
        output = next(iter(file.signature(entry).outputs))
        if output.dtype != "float32":
            raise ConfigError(
                f"{origin}: MediaPipe takes float32 scores, output {output.name} is {output.dtype}; leave --outputs out"
            )
        _add_activation(root, entry, activation)
    return tree.pack(root)


def _add_segments(root: Any, entry: Entry) -> None:
    graph = root.subgraphs[entry.subgraph]
    index = _copied(graph, next(iter(entry.inputs.values())), f"serving_default_{SEGMENTS}:0")
    graph.inputs = [*listed(graph.inputs), index]
    for signature in _signatures(root, entry):
        signature.inputs = [*listed(signature.inputs), *tree.named({SEGMENTS: index})]


def _add_activation(root: Any, entry: Entry, activation: str) -> None:
    graph = root.subgraphs[entry.subgraph]
    logits = next(iter(entry.outputs.values()))
    index, name = _copied(graph, logits, SCORES), ACTIVATIONS[activation]
    options = schema.SoftmaxOptionsT(beta=1.0) if name == "SOFTMAX" else None
    graph.operators = [*listed(graph.operators), tree.operation(root, name, [logits], [index], options)]
    graph.outputs = [index if output == logits else output for output in listed(graph.outputs)]
    for signature in _signatures(root, entry):
        others = [output for output in listed(signature.outputs) if output.tensorIndex != logits]
        signature.outputs = [*tree.named({SCORES: index}), *others]


def _copied(graph: Any, index: int, name: str) -> int:
    tensor = copy.deepcopy(graph.tensors[index])
    tensor.name = name.encode()
    return tree.add_tensor(graph, tensor)


def _signatures(root: Any, entry: Entry) -> list[Any]:
    return [signature for signature in listed(root.signatureDefs) if signature.subgraphIndex == entry.subgraph]
