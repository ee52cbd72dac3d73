"""GELU in one op, whatever parts a converter wrote it in: groups of ops are tried on numbers."""

import heapq
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.stages.export.fold import run
from edgekit.tflite import schema
from edgekit.tflite.tree import are_float, constant, ends, listed, op_name, operation, places_of_readers, readers, shape_of

# Ops of whose result each element depends on one element of the input alone, beside constants.
_POINTWISE = (
    "ABS",
    "ADD",
    "DIV",
    "EXP",
    "LOGISTIC",
    "MAXIMUM",
    "MINIMUM",
    "MUL",
    "NEG",
    "POW",
    "RELU",
    "SIGN",
    "SQUARE",
    "SUB",
    "TANH",
)
_CURVED = ("EXP", "LOGISTIC", "TANH")
# Where GELU is compared with what may be its parts, and how far they may be apart: erf's approximations are 2e-7 to 1e-4 off.
_GRID = np.linspace(-6, 6, 97, dtype=np.float32)
_CLOSE = 3e-4
_LEAST_VALUES = 16
# What follows GELU may be such ops, too.
_MOST_GROUPS = 4


def fuse_gelu(tree: Any, graph: Any) -> None:
    """Make ops of the graph that together compute GELU of one tensor the op, whatever formula they follow."""
    _Search(tree, graph, readers(graph), places_of_readers(graph)).fuse()


@dataclass(frozen=True)
class _Search:
    """`readers` counts the ends of ops and of the graph that read each tensor, `reading` has the places of those ops."""

    tree: Any
    graph: Any
    readers: Counter[int]
    reading: dict[int, list[int]]

    def fuse(self) -> None:
        operators, gone = listed(self.graph.operators), set[int]()
        for source in [index for index, count in self.readers.items() if count > 1 and index in self.reading]:
            for region, result in self._pointwise(source):
                if gone.isdisjoint(region) and (form := self._form(source, [operators[place] for place in region], result)):
                    gone.update(region[:-1])
                    options = schema.GeluOptionsT(approximate=form == "tanh")
                    operators[region[-1]] = operation(self.tree, "GELU", [source], [result], options)
                    break
        self.graph.operators = [operator for place, operator in enumerate(operators) if place not in gone]

    def _form(self, source: int, region: Sequence[Any], result: int) -> str | None:
        """Which form of GELU the ops compute, if any."""
        if not are_float(self.graph, [source, result]) or not any(op_name(self.tree, operator) in _CURVED for operator in region):
            return None
        if (values := self._on_grid(source, region, result)) is None:
            return None
        distances = {name: float(np.abs(values - form).max()) for name, form in _gelus(_GRID).items()}
        closest = min(distances, key=distances.__getitem__)
        return closest if distances[closest] <= _CLOSE else None

    def _pointwise(self, source: int) -> list[tuple[list[int], int]]:
        """Places of ops that compute, from `source` and single constants alone, a tensor beside which nothing of theirs is read
        elsewhere, and that tensor: each such group, the largest first."""
        inside, region, reads = {source}, list[int](), Counter[int]()
        groups: list[tuple[list[int], int]] = []
        ahead = sorted(set(self.reading[source]))
        while ahead:
            operator = self.graph.operators[place := heapq.heappop(ahead)]
            inputs, outputs = ends(operator)
            if op_name(self.tree, operator) not in _POINTWISE or not all(one in inside or self._is_single(one) for one in inputs):
                if inside.intersection(inputs) - {source}:
                    break
                continue
            inside.update(outputs)
            region.append(place)
            reads.update(index for index in inputs if index in inside)
            if [index for index in inside - {source} if self.readers[index] != reads[index]] == outputs and len(region) > 2:
                groups.append(([*region], outputs[0]))
            for later in set(self.reading[outputs[0]]) - set(ahead):
                heapq.heappush(ahead, later)
        return groups[::-1][:_MOST_GROUPS]

    def _on_grid(self, source: int, region: Sequence[Any], result: int) -> np.ndarray | None:
        """What the ops give where the source has the grid's numbers; None where its shape does not hold them."""
        shape = shape_of(self.graph, source)
        if shape_of(self.graph, result) != shape or any(size < 0 for size in listed(self.graph.tensors[source].shapeSignature)):
            return None
        size = math.prod(shape)
        if size < _LEAST_VALUES:
            return None
        parts = [np.resize(_GRID[start : start + size], shape) for start in range(0, len(_GRID), size)]
        computed = [run(self.tree, self.graph, region, {source: part}, [result]) for part in parts]
        known = [values[0].reshape(-1) for values in computed if values is not None]
        return np.concatenate(known)[: len(_GRID)] if len(known) == len(parts) else None

    def _is_single(self, index: int) -> bool:
        values = constant(self.tree, self.graph, index)
        return values is not None and values.size == 1


def _gelus(values: np.ndarray) -> dict[str, np.ndarray]:
    """GELU, and its approximation by tanh (Hendrycks and Gimpel, 2016, arXiv:1606.08415)."""
    wide = values.astype(np.float64)
    exact = np.array([value * (1 + math.erf(value / math.sqrt(2))) / 2 for value in wide])
    return {"erf": exact, "tanh": wide * (1 + np.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3))) / 2}
