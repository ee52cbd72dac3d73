"""Ops that move values: on integers where their neighbours are, with the same results."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgekit.data.samples import Samples
from edgekit.stages.quantize.calibrate import calibrate
from edgekit.stages.quantize.forms import Form
from edgekit.stages.quantize.quantizer import FloatFile
from edgekit.tflite import flatbuffer
from edgekit.tflite.interpreter import Model
from tests.unit.stages.export.nets import TOKENS, WIDTH, Net
from tests.unit.stages.quantize.models import save

ROWS = Samples({"x": np.random.default_rng(5).standard_normal((24, TOKENS, WIDTH)).astype(np.float32)})
Build = Callable[[Net, int], int]


def largest(net: Net, source: int) -> int:
    axis = net.constant("axis", np.array([1], np.int32))
    return net.result("REDUCE_MAX", [source, axis], "moved", [1, WIDTH], schema.ReducerOptionsT())


def turned(net: Net, source: int) -> int:
    axis = net.constant("axis", np.array([1], np.int32))
    return net.result("REVERSE_V2", [source, axis], "moved", [1, TOKENS, WIDTH])


def repeated(net: Net, source: int) -> int:
    times = net.constant("times", np.array([1, 2, 1], np.int32))
    return net.result("TILE", [source, times], "moved", [1, 2 * TOKENS, WIDTH])


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("build", [largest, turned, repeated])
def test_between_products_no_value_is_made_float(build: Build, bits: int, tmp_path: Path) -> None:
    net = Net()
    moved = build(net, net.dense(net.x, "first", [1, TOKENS, WIDTH]))
    shape = [int(size) for size in net.current.tensors[moved].shape]
    net.ends({"x": net.x}, {"y": net.dense(moved, "second", shape)}, "serving_default")
    file, target, rows = save(net, tmp_path / "model.tflite"), tmp_path / "integer.tflite", tmp_path / "rows"
    ROWS.save(rows)
    calibrate(file, rows, tmp_path / "calibration")
    FloatFile(file, tmp_path / "calibration").write(target, Form("every op", bits))
    graph = flatbuffer.read(target).subgraphs[0]
    names = [operator.name for operator in graph.operators]
    # At the ends of the file, and nowhere else.
    assert (names.count("DEQUANTIZE"), names[-1]) == (1, "DEQUANTIZE")
    models = Model(file), Model(target)
    results = np.array([[model.run(row)["y"] for model in models] for row in ROWS])
    difference = results[:, 0] - results[:, 1]
    assert 10 * np.log10(np.square(results[:, 0]).sum() / np.square(difference).sum()) > 30


def test_an_argmax_reads_integers(tmp_path: Path) -> None:
    net = Net()
    axis = net.constant("axis", np.array(2, np.int32))
    best = net.tensor("best", [1, TOKENS], "int32")
    options = schema.ArgMaxOptionsT(outputType=schema.TensorType.INT32)
    net.op("ARG_MAX", [net.dense(net.x, "first", [1, TOKENS, WIDTH]), axis], [best], options)
    net.ends({"x": net.x}, {"y": best}, "serving_default")
    file, target, rows = save(net, tmp_path / "model.tflite"), tmp_path / "integer.tflite", tmp_path / "rows"
    ROWS.save(rows)
    calibrate(file, rows, tmp_path / "calibration")
    FloatFile(file, tmp_path / "calibration").write(target, Form("every op", 8))
    names = [operator.name for operator in flatbuffer.read(target).subgraphs[0].operators]
    assert names == ["QUANTIZE", "FULLY_CONNECTED", "ARG_MAX"]
    models = Model(file), Model(target)
    same = [np.mean(models[0].run(row)["y"] == models[1].run(row)["y"]) for row in ROWS]
    assert np.mean(same) > 0.9


def test_the_place_of_a_mask_is_found_among_integers(tmp_path: Path) -> None:
    net = Net()
    mask, real, place = net.tensor("mask", [1, TOKENS], "bool"), net.tensor("real", [1, TOKENS]), net.tensor("place", [1], "int32")
    kinds = schema.CastOptionsT(inDataType=schema.TensorType.BOOL, outDataType=schema.TensorType.FLOAT32)
    net.op("CAST", [mask], [real], kinds)
    options = schema.ArgMaxOptionsT(outputType=schema.TensorType.INT32)
    net.op("ARG_MAX", [real, net.constant("axis", np.array(1, np.int32))], [place], options)
    dense = net.dense(net.x, "first", [1, TOKENS, WIDTH])
    net.ends({"x": net.x, "mask": mask}, {"y": dense, "place": place}, "serving_default")
    file, target, rows = save(net, tmp_path / "model.tflite"), tmp_path / "integer.tflite", tmp_path / "rows"
    places = np.arange(24) % TOKENS
    Samples({**ROWS.inputs, "mask": np.arange(TOKENS) == places[:, None]}).save(rows)
    calibrate(file, rows, tmp_path / "calibration")
    FloatFile(file, tmp_path / "calibration").write(target, Form("every op", 8))
    graph = flatbuffer.read(target).subgraphs[0]
    assert [graph.tensors[one.outputs[0]].dtype for one in graph.operators if one.name == "CAST"] == ["int32"]
    model = Model(target)
    assert [int(model.run(row)["place"][0]) for row in Samples.load(rows)] == places.tolist()


@pytest.mark.parametrize("dtype", ["bool", "int32", "int64"])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_mask_is_counted_and_no_float(bits: int, dtype: str, tmp_path: Path) -> None:
    net = Net()
    mask, column = net.tensor("mask", [1, TOKENS, 1], dtype), net.tensor("column", [1, TOKENS, 1])
    kinds = schema.CastOptionsT(inDataType=getattr(schema.TensorType, dtype.upper()), outDataType=schema.TensorType.FLOAT32)
    net.op("CAST", [mask], [column], kinds)
    dense = net.dense(net.x, "first", [1, TOKENS, WIDTH])
    masked = net.result("MUL", [dense, column], "masked", [1, TOKENS, WIDTH], schema.MulOptionsT())
    net.ends({"x": net.x, "mask": mask}, {"y": net.dense(masked, "second", [1, TOKENS, WIDTH])}, "serving_default")
    file, target, rows = save(net, tmp_path / "model.tflite"), tmp_path / "integer.tflite", tmp_path / "rows"
    masks = (np.arange(TOKENS) < np.arange(24)[:, None] % TOKENS + 1)[..., None].astype(dtype)
    samples = Samples({**ROWS.inputs, "mask": masks})
    samples.save(rows)
    calibrate(file, rows, tmp_path / "calibration")
    FloatFile(file, tmp_path / "calibration").write(target, Form("every op", bits))
    graph = flatbuffer.read(target).subgraphs[0]
    casts = [graph.tensors[operator.outputs[0]].dtype for operator in graph.operators if operator.name == "CAST"]
    assert casts == ["int32"]
    models = Model(file), Model(target)
    results = np.array([[model.run(row)["y"] for model in models] for row in samples])
    # Also what is masked is exactly that.
    assert not results[:, :, 0, -1][masks[:, -1, 0] == 0].any()
    difference = results[:, 0] - results[:, 1]
    assert 10 * np.log10(np.square(results[:, 0]).sum() / np.square(difference).sum()) > 30
