"""Sizes that are free in a file whose inputs are not: known after, wherever the runtime knows them."""

from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekit.data.samples import Samples
from edgekit.stages.export.simplify import simplify
from edgekit.tflite import flatbuffer
from tests.unit.stages.export.nets import TOKENS, WIDTH, Net, names, rewritten
from tests.unit.stages.quantize.models import save

ROWS = Samples({"x": np.random.default_rng(3).standard_normal((4, TOKENS, WIDTH)).astype(np.float32)})


def squeezed_part(net: Net) -> int:
    """The first column of x, without its axis, as onnx2tf 2 writes a Squeeze behind a Split."""
    begin, size = (net.constant(name, np.array(ends, np.int32)) for name, ends in (("begin", [0, 0, 0]), ("size", [-1, -1, 1])))
    part = net.result("SLICE", [net.x, begin, size], "part", [-1, -1, 1], schema.SliceOptionsT())
    whole, kept = net.tensor("whole", [3], "int32"), net.tensor("kept", [2], "int32")
    net.op("SHAPE", [part], [whole], schema.ShapeOptionsT(outType=schema.TensorType.INT32))
    net.op("GATHER", [whole, net.constant("axes", np.array([0, 1], np.int32))], [kept], schema.GatherOptionsT())
    return net.result("RESHAPE", [part, kept], "column", [-1, -1], schema.ReshapeOptionsT())


def test_a_squeeze_behind_a_split_is_one_reshape(tmp_path: Path) -> None:
    net = Net()
    column = squeezed_part(net)
    net.ends({"x": net.x}, {"y": net.result("NEG", [column], "y", [-1, -1])}, "serving_default")
    _, graph = rewritten(net, tmp_path, ROWS, simplify)
    assert dict(names(graph)) == {"SLICE": 1, "RESHAPE": 1, "MUL": 1}
    assert {operator.name: graph.tensors[operator.outputs[0]].shape for operator in graph.operators} == {
        "SLICE": (1, TOKENS, 1),
        "RESHAPE": (1, TOKENS),
        "MUL": (1, TOKENS),
    }


def test_sizes_stay_free_behind_a_free_input(tmp_path: Path) -> None:
    net = Net()
    net.current.tensors[net.x].shapeSignature = [-1, TOKENS, WIDTH]
    net.ends({"x": net.x}, {"y": squeezed_part(net)}, "serving_default")
    file = save(net, tmp_path / "model.tflite")
    before = file.read_bytes()
    simplify(file)
    assert file.read_bytes() == before


def test_a_size_that_depends_on_values_stays_free(tmp_path: Path) -> None:
    net = Net()
    positive, places = net.tensor("positive", [1, TOKENS, WIDTH], "bool"), net.tensor("places", [-1, 3], "int64")
    net.op("GREATER", [net.x, net.constant("zero", np.zeros(1, np.float32))], [positive], schema.GreaterOptionsT())
    net.op("WHERE", [positive], [places], schema.WhereOptionsT())
    net.ends({"x": net.x}, {"y": places}, "serving_default")
    file = save(net, tmp_path / "model.tflite")
    simplify(file)
    graph = flatbuffer.read(file).subgraphs[0]
    assert [graph.tensors[index].shape for index in graph.outputs] == [(-1, 3)]
