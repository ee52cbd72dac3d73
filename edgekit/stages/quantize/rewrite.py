"""Make a float32 graph quantizable: the same function, in ops that have good integer forms."""

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.samples import Samples
from edgekit.stages.quantize.prepare import prepare
from edgekit.stages.quantize.tensors import Tensors
from edgekit.tflite import flatbuffer
from edgekit.tflite.lengths import MASK
from edgekit.tflite.tree import add_constant, add_tensor, listed, load, opcodes, operation, write

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
      multiplication in the stream, where int16 has the range, scales them up again. The saved samples show which.
    """
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
    """Largest magnitude by channel of what each FULLY_CONNECTED gives that only an ADD reads, by tensor index."""
    graph = flatbuffer.parse(model, "model").subgraphs[0]
    readers: dict[int, list[str]] = {}
    for operator in graph.operators:
        for index in operator.inputs:
            readers.setdefault(index, []).append(operator.name)
    residual = {
        operator.outputs[0]: graph.tensors[operator.outputs[0]].shape[-1]
        for operator in graph.operators
        if operator.name == "FULLY_CONNECTED"
        and graph.tensors[operator.inputs[1]].data_bytes
        and readers.get(operator.outputs[0]) == ["ADD"]
        and graph.tensors[operator.outputs[0]].shape[-1] >= _FEWEST_CHANNELS
    }
    largest: dict[int, np.ndarray] = {}
    for values in _intermediates(model, Samples.load(samples_folder), residual):
        for index, found in values.items():
            largest[index] = np.maximum(largest.get(index, 0.0), np.abs(found).max(axis=0))
    return largest


def _intermediates(model: bytes, samples: Samples, channels: Mapping[int, int]) -> Iterator[dict[int, np.ndarray]]:
    """For each of the first samples the values (N, channels) of some tensors of the main graph, by tensor index.

    `channels` gives how many each has; padding tokens are left out. Nothing where the entry is another graph.
    """
    entry = flatbuffer.parse(model, "model").entry()
    if entry.subgraph or not channels:
        return
    tensors = Tensors(model, entry, list(channels))
    for _, row in zip(range(_ROWS), samples, strict=False):
        given = tensors.run(row)
        mask = row[MASK].reshape(-1) > 0 if MASK in row else None
        found = {index: given(index).reshape(-1, size) for index, size in channels.items()}
        yield {index: values[mask] if mask is not None and len(values) == len(mask) else values for index, values in found.items()}


class _Editor:
    def __init__(self, root: Any) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.root, self.schema = root, schema

    def split_squared_differences(self) -> None:
        for graph, place, operator in self._each("SQUARED_DIFFERENCE"):
            difference = self._tensor(graph, operator.outputs[0], b"difference")
            graph.operators[place : place + 1] = [
                operation(self.root, "SUB", operator.inputs, [difference], self.schema.SubOptionsT()),
                operation(self.root, "MUL", [difference, difference], operator.outputs, self.schema.MulOptionsT()),
            ]

    def gather_embeddings(self) -> None:
        for graph, place, operator in self._each("EMBEDDING_LOOKUP"):
            ids, table = operator.inputs
            graph.operators[place] = operation(self.root, "GATHER", [table, ids], operator.outputs, self.schema.GatherOptionsT())

    def scale_outliers(self, largest: Mapping[int, np.ndarray]) -> None:
        for graph, place, operator in self._each("FULLY_CONNECTED"):
            index = int(operator.outputs[0])
            found = largest.get(index) if graph is self.root.subgraphs[0] else None
            if found is None or (median := float(np.median(found))) == 0 or found.max() < _OUTLIER * median:
                continue
            factors = np.maximum(found / (_LEVEL * median), 1).astype(np.float32)
            if not self._scales(operator) or not self._divide(graph, operator, factors):
                continue
            scaled = self._tensor(graph, index, b"scaled")
            operator.outputs = [scaled]
            by = add_constant(self.root, graph, graph.tensors[index].name + b"_factors", factors)
            graph.operators.insert(place + 1, operation(self.root, "MUL", [scaled, by], [index], self.schema.MulOptionsT()))

    def _scales(self, operator: Any) -> bool:
        """Whether scaling what goes into the op's fused activation scales what comes out, as with none and with ReLU."""
        kinds = self.schema.ActivationFunctionType
        return operator.builtinOptions is None or operator.builtinOptions.fusedActivationFunction in (kinds.NONE, kinds.RELU)

    def _divide(self, graph: Any, operator: Any, factors: np.ndarray) -> bool:
        """Divide the op's weights and bias by `factors`, channel by channel; not where another op uses them too."""
        inputs = [int(index) for index in operator.inputs if index >= 0]
        constants = [graph.tensors[index] for index in inputs[1:]]
        for tensor in constants:
            users = [
                other
                for other in graph.operators
                for index in listed(other.inputs)
                if index >= 0 and graph.tensors[index] is tensor
            ]
            sharers = [other for each in self.root.subgraphs for other in listed(each.tensors) if other.buffer == tensor.buffer]
            if len(users) > 1 or len(sharers) > 1 or self.root.buffers[tensor.buffer].data is None:
                return False
        for tensor in constants:
            buffer = self.root.buffers[tensor.buffer]
            values = np.asarray(buffer.data).view(np.float32).reshape(len(factors), -1) / factors[:, None]
            buffer.data = values.astype(np.float32).reshape(-1).view(np.uint8)
        return True

    def _each(self, name: str) -> Iterator[tuple[Any, int, Any]]:
        """Each op of that name with its graph and its present place there."""
        wanted = opcodes(self.root, name)
        for graph in self.root.subgraphs:
            for operator in [operator for operator in listed(graph.operators) if operator.opcodeIndex in wanted]:
                yield graph, next(place for place, other in enumerate(graph.operators) if other is operator), operator

    def _tensor(self, graph: Any, like: int, what: bytes) -> int:
        tensor = copy.deepcopy(graph.tensors[like])
        tensor.name, tensor.buffer = tensor.name + b"_" + what, 0
        return add_tensor(graph, tensor)
