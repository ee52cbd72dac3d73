"""Make a float32 graph quantizable: the same function, in ops that have good integer forms."""

import copy
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.samples import Samples
from edgekit.stages.quantize.prepare import prepare
from edgekit.stages.quantize.tensors import Tensors, real_tokens, token_mask
from edgekit.tflite import flatbuffer, schema
from edgekit.tflite.batches import groups
from edgekit.tflite.tree import add_constant, add_tensor, each_op, listed, load, operation, sharers, write

# An output channel this many times the median one takes two bits of everyone's step.
_OUTLIER = 4.0
# What an outlier is brought down to, in medians.
_LEVEL = 2.0
_FEWEST_CHANNELS = 16
# The largest of so many rows is within a fraction of a bit of the largest of all.
_ROWS = 32


def make_quantizable(model: Path, samples_folder: Path, target: Path) -> None:
    """Write `model` as a graph whose ops all have integer forms with room for their values. In a worker child.

    - SQUARED_DIFFERENCE becomes SUB and MUL, which have int16 kernels.
    - EMBEDDING_LOOKUP becomes GATHER, whose result can be integers.
    - A product whose output has outlier channels and goes into a residual stream gives them scaled down, and a
      multiplication in the stream, where int16 has the range, scales them up again. The saved samples show which."""
    data = prepare(model.read_bytes())
    root = load(data)
    if root is None:
        target.write_bytes(data)
        return
    editor = _Editor(root)
    editor.split_squared_differences()
    editor.gather_embeddings()
    editor.scale_outliers(_largest(data, samples_folder))
    write(root, target)


def _largest(model: bytes, samples_folder: Path) -> dict[int, np.ndarray]:
    """Largest magnitude by channel of what each FULLY_CONNECTED gives that only an ADD reads, by tensor index.

    Of the first samples; nothing where the entry is not the main graph."""
    file = flatbuffer.parse(model, "model")
    graph = file.subgraphs[0]
    readers: dict[int, list[str]] = defaultdict(list)
    for operator in graph.operators:
        for index in operator.inputs:
            readers[index].append(operator.name)
    residual = {
        operator.outputs[0]: graph.tensors[operator.outputs[0]].shape[-1]
        for operator in graph.operators
        if operator.name == "FULLY_CONNECTED"
        and graph.tensors[operator.inputs[1]].data_bytes
        and readers[operator.outputs[0]] == ["ADD"]
        and graph.tensors[operator.outputs[0]].shape[-1] >= _FEWEST_CHANNELS
    }
    largest: dict[int, np.ndarray] = {}
    if file.entry().subgraph or not residual:
        return largest
    tensors = Tensors(model, file.entry(), list(residual))
    for row in groups(Samples.load(samples_folder).span(slice(_ROWS)).inputs, tensors.batch, full=True):
        value_of, mask = tensors.run(row), token_mask(row)
        for index, channels in residual.items():
            values = real_tokens(value_of(index).reshape(-1, channels), mask)
            largest[index] = np.maximum(largest.get(index, 0.0), np.abs(values).max(axis=0))
    return largest


class _Editor:
    def __init__(self, root: Any) -> None:
        self.root = root

    def split_squared_differences(self) -> None:
        for graph, place, operator in each_op(self.root, "SQUARED_DIFFERENCE"):
            difference = self._tensor(graph, operator.outputs[0], b"difference")
            graph.operators[place : place + 1] = [
                operation(self.root, "SUB", operator.inputs, [difference], schema.SubOptionsT()),
                operation(self.root, "MUL", [difference, difference], operator.outputs, schema.MulOptionsT()),
            ]

    def gather_embeddings(self) -> None:
        for graph, place, operator in each_op(self.root, "EMBEDDING_LOOKUP"):
            ids, table = operator.inputs
            graph.operators[place] = operation(self.root, "GATHER", [table, ids], operator.outputs, schema.GatherOptionsT())

    def scale_outliers(self, largest: Mapping[int, np.ndarray]) -> None:
        for graph, place, operator in each_op(self.root, "FULLY_CONNECTED"):
            index = int(operator.outputs[0])
            ranges = largest.get(index) if graph is self.root.subgraphs[0] else None
            if ranges is None or (median := float(np.median(ranges))) == 0 or ranges.max() < _OUTLIER * median:
                continue
            factors = np.maximum(ranges / (_LEVEL * median), 1).astype(np.float32)
            if not self._scales(operator) or not self._divide(graph, operator, factors):
                continue
            scaled = self._tensor(graph, index, b"scaled")
            operator.outputs = [scaled]
            by = add_constant(self.root, graph, graph.tensors[index].name + b"_factors", factors)
            graph.operators.insert(place + 1, operation(self.root, "MUL", [scaled, by], [index], schema.MulOptionsT()))

    def _scales(self, operator: Any) -> bool:
        """Whether scaling what goes into the op's fused activation scales what comes out, as with none and with ReLU."""
        kinds = schema.ActivationFunctionType
        return operator.builtinOptions is None or operator.builtinOptions.fusedActivationFunction in (kinds.NONE, kinds.RELU)

    def _divide(self, graph: Any, operator: Any, factors: np.ndarray) -> bool:
        """Divide the op's weights and bias by `factors`, channel by channel; not where another op uses them too."""
        inputs = [int(index) for index in operator.inputs if index >= 0]
        constants = [graph.tensors[index] for index in inputs[1:]]
        for tensor in constants:
            reads = [index for other in graph.operators for index in listed(other.inputs) if index >= 0]
            users = sum(graph.tensors[index] is tensor for index in reads)
            if users > 1 or sharers(self.root, tensor) > 1 or self.root.buffers[tensor.buffer].data is None:
                return False
        for tensor in constants:
            buffer = self.root.buffers[tensor.buffer]
            values = np.asarray(buffer.data).view(np.float32).reshape(len(factors), -1) / factors[:, None]
            buffer.data = values.astype(np.float32).reshape(-1).view(np.uint8)
        return True

    def _tensor(self, graph: Any, like: int, what: bytes) -> int:
        tensor = copy.deepcopy(graph.tensors[like])
        tensor.name, tensor.buffer = tensor.name + b"_" + what, 0
        return add_tensor(graph, tensor)
