"""Small float graphs to rewrite, and what is asked of them before and after."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekit.data.samples import Samples
from edgekit.tflite import flatbuffer
from edgekit.tflite.flatbuffer import Subgraph
from edgekit.tflite.interpreter import Model
from tests.unit.stages.quantize.models import save
from tests.unit.tflite.conftest import Builder

TOKENS, WIDTH = 6, 16
WHOLE = [1, TOKENS, WIDTH]


def outputs(file: Path, rows: Samples) -> dict[str, np.ndarray]:
    model = Model(file)
    found = [model.run(row) for row in rows]
    return {name: np.stack([row[name] for row in found]) for name in found[0]}


def rewritten(build: Builder, folder: Path, rows: Samples, rewrite: Callable[[Path], None]) -> tuple[Subgraph, Subgraph]:
    """The graphs before and after, once the results are found to be the same."""
    file = save(build, folder / "model.tflite")
    before, expected = flatbuffer.read(file).subgraphs[0], outputs(file, rows)
    rewrite(file)
    found = outputs(file, rows)
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name].shape == expected[name].shape
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-5)
    return before, flatbuffer.read(file).subgraphs[0]


def names(graph: Subgraph) -> Counter[str]:
    return Counter(operator.name for operator in graph.operators)


class Net(Builder):
    """A graph that begins with x (1, 6, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.draw = np.random.default_rng(0)
        self.x = self.tensor("x", WHOLE)

    def constant(self, name: str, data: np.ndarray) -> int:
        return self.tensor(name, list(data.shape), str(data.dtype), data=data)

    def result(self, op: str, inputs: list[int], name: str, shape: list[int], options: Any = None) -> int:
        made = self.tensor(name, shape)
        self.op(op, inputs, [made], options)
        return made

    def dense(self, source: int, name: str, shape: list[int]) -> int:
        weights = (0.3 * self.draw.standard_normal((shape[-1], WIDTH))).astype(np.float32)
        options = schema.FullyConnectedOptionsT(keepNumDims=True)
        return self.result("FULLY_CONNECTED", [source, self.constant(f"{name}_w", weights), -1], name, shape, options)

    def gather(self, source: int, index: int, name: str = "row") -> int:
        where = self.constant(f"{name}_index", np.array(index, np.int32))
        return self.result("GATHER", [source, where], name, [1, WIDTH], schema.GatherOptionsT(axis=1))

    def slice(self, source: int, begin: list[int], size: list[int]) -> int:
        ends = [self.constant(name, np.array(values, np.int32)) for name, values in (("begin", begin), ("size", size))]
        shape = [full if many < 0 else many for many, full in zip(size, WHOLE, strict=True)]
        return self.result("SLICE", [source, *ends], "row", shape, schema.SliceOptionsT())

    def strided(self, source: int, begin: list[int], end: list[int], **masks: int) -> int:
        places = {"begin": begin, "end": end, "strides": [1] * len(begin)}
        inputs = [self.constant(name, np.array(values, np.int32)) for name, values in places.items()]
        return self.result("STRIDED_SLICE", [source, *inputs], "row", [1, WIDTH], schema.StridedSliceOptionsT(**masks))
