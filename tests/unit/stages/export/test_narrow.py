"""Only what the outputs read is computed, and the results are the same."""

from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgekit.data.samples import Samples
from edgekit.stages.export.narrow import narrow
from edgekit.tflite import flatbuffer
from edgekit.tflite.flatbuffer import Subgraph
from edgekit.tflite.tree import load, write
from tests.unit.stages.export.conftest import Exports
from tests.unit.stages.export.nets import TOKENS, WHOLE, WIDTH, Net, names, outputs, rewritten
from tests.unit.stages.quantize.models import encoder_samples, save
from tests.unit.tflite.conftest import Builder


def _narrow(file: Path) -> None:
    tree = load(file.read_bytes())
    if narrow(tree):
        write(tree, file)


def narrowed(build: Builder, folder: Path, rows: Samples) -> tuple[Subgraph, Subgraph]:
    return rewritten(build, folder, rows, _narrow)


def shape_of(graph: Subgraph, name: str) -> tuple[int, ...]:
    """The shape of the result called so, which an op gives."""
    (found,) = [
        graph.tensors[operator.outputs[0]] for operator in graph.operators if graph.tensors[operator.outputs[0]].name == name
    ]
    return found.shape


@pytest.mark.parametrize("index", [0, 3, TOKENS - 1])
def test_of_what_is_read_at_one_place_that_place_alone_is_computed(tmp_path, index):
    build = Net()
    deep = build.result("GELU", [build.dense(build.x, "first", WHOLE)], "gelu", WHOLE, schema.GeluOptionsT())
    table = build.constant("positions", build.draw.standard_normal(tuple(WHOLE)).astype(np.float32))
    added = build.result("ADD", [build.dense(deep, "second", WHOLE), table], "added", WHOLE, schema.AddOptionsT())
    build.ends({"x": build.x}, {"row": build.gather(added, index)}, "serving_default")
    _, after = narrowed(build, tmp_path, encoder_samples(3))
    assert {shape_of(after, name) for name in ("first", "gelu", "second", "added")} == {(1, 1, WIDTH)}
    assert names(after) == {"SLICE": 1, "FULLY_CONNECTED": 2, "GELU": 1, "ADD": 1, "RESHAPE": 1}


@pytest.mark.parametrize(
    "taken",
    [
        lambda build, source: build.slice(source, [0, 2, 0], [1, 1, WIDTH]),
        lambda build, source: build.slice(source, [0, 2, 0], [-1, 1, -1]),
        lambda build, source: build.strided(source, [0, 2], [0, 3], beginMask=1, endMask=1, shrinkAxisMask=2),
        lambda build, source: build.strided(source, [0, -4, 0], [1, -3, WIDTH], shrinkAxisMask=2),
    ],
    ids=["slice", "slice with open sizes", "strided slice", "counted from the end"],
)
def test_each_way_to_take_a_row_is_known(tmp_path, taken):
    build = Net()
    build.ends({"x": build.x}, {"row": taken(build, build.dense(build.x, "dense", WHOLE))}, "serving_default")
    _, after = narrowed(build, tmp_path, encoder_samples(3))
    assert shape_of(after, "dense") == (1, 1, WIDTH)


def test_what_is_read_whole_too_stays_whole(tmp_path):
    build = Net()
    dense = build.dense(build.x, "dense", WHOLE)
    last = build.dense(dense, "last", WHOLE)
    build.ends({"x": build.x}, {"row": build.gather(last, 1), "dense": dense}, "serving_default")
    _, after = narrowed(build, tmp_path, encoder_samples(3))
    assert shape_of(after, "dense") == tuple(WHOLE)
    assert shape_of(after, "last") == (1, 1, WIDTH)


def test_two_rows_of_one_tensor_leave_it_whole(tmp_path):
    build = Net()
    dense = build.dense(build.x, "dense", WHOLE)
    build.ends({"x": build.x}, {"a": build.gather(dense, 1, "a"), "b": build.gather(dense, 2, "b")}, "serving_default")
    before, after = narrowed(build, tmp_path, encoder_samples(3))
    assert after == before


def test_a_query_asks_all_keys(tmp_path):
    build = Net()
    query, key = build.dense(build.x, "query", WHOLE), build.dense(build.x, "key", WHOLE)
    grid = [1, TOKENS, TOKENS]
    scores = build.result("BATCH_MATMUL", [query, key], "scores", grid, schema.BatchMatMulOptionsT(adjY=True))
    # Another value for each query and key.
    mask = build.constant("mask", np.arange(TOKENS * TOKENS, dtype=np.float32).reshape(grid))
    masked = build.result("ADD", [scores, mask], "masked", grid, schema.AddOptionsT())
    shares = build.result("SOFTMAX", [masked], "shares", grid, schema.SoftmaxOptionsT(beta=1.0))
    mixed = build.result("BATCH_MATMUL", [shares, key], "mixed", WHOLE, schema.BatchMatMulOptionsT())
    build.ends({"x": build.x}, {"row": build.gather(mixed, 4)}, "serving_default")
    _, after = narrowed(build, tmp_path, encoder_samples(3))
    assert shape_of(after, "query") == (1, 1, WIDTH)
    assert shape_of(after, "scores") == shape_of(after, "shares") == (1, 1, TOKENS)
    assert shape_of(after, "key") == tuple(WHOLE)


def test_a_softmax_over_the_rows_needs_them_all(tmp_path):
    build = Net()
    order = build.constant("order", np.array([0, 2, 1], np.int32))
    turned = [1, WIDTH, TOKENS]
    dense = build.result("TRANSPOSE", [build.dense(build.x, "dense", WHOLE), order], "turned", turned, schema.TransposeOptionsT())
    shares = build.result("SOFTMAX", [dense], "shares", turned, schema.SoftmaxOptionsT(beta=1.0))
    back = build.result("TRANSPOSE", [shares, order], "back", WHOLE, schema.TransposeOptionsT())
    last = build.dense(back, "last", WHOLE)
    build.ends({"x": build.x}, {"row": build.gather(last, 2)}, "serving_default")
    _, after = narrowed(build, tmp_path, encoder_samples(3))
    assert shape_of(after, "dense") == tuple(WHOLE)
    assert shape_of(after, "shares") == tuple(turned)
    assert shape_of(after, "back") == shape_of(after, "last") == (1, 1, WIDTH)


def test_a_mean_over_the_rows_needs_them_all_and_one_over_the_features_does_not(tmp_path):
    build = Net()
    axes = {name: build.constant(name, np.array([axis], np.int32)) for name, axis in (("rows", 1), ("features", 2))}
    keeping = schema.ReducerOptionsT(keepDims=True)
    dense = build.dense(build.x, "dense", WHOLE)
    centre = build.result("MEAN", [dense, axes["rows"]], "centre", [1, 1, WIDTH], keeping)
    centred = build.result("SUB", [build.dense(build.x, "other", WHOLE), centre], "centred", WHOLE, schema.SubOptionsT())
    size = build.result("MEAN", [centred, axes["features"]], "size", [1, TOKENS, 1], keeping)
    last = build.result("SUB", [centred, size], "last", WHOLE, schema.SubOptionsT())
    build.ends({"x": build.x}, {"row": build.gather(last, 2)}, "serving_default")
    _, after = narrowed(build, tmp_path, encoder_samples(3))
    assert shape_of(after, "dense") == tuple(WHOLE)
    assert shape_of(after, "other") == (1, 1, WIDTH)
    assert shape_of(after, "size") == (1, 1, 1)


def test_without_a_product_to_shrink_nothing_changes(tmp_path):
    build = Net()
    doubled = build.result("ADD", [build.x, build.x], "doubled", WHOLE, schema.AddOptionsT())
    build.ends({"x": build.x}, {"row": build.gather(doubled, 2)}, "serving_default")
    before, after = narrowed(build, tmp_path, encoder_samples(3))
    assert after == before


def test_a_free_axis_is_left_alone(tmp_path):
    build = Net()
    build.current.tensors[build.x].shapeSignature = [1, -1, WIDTH]
    build.ends({"x": build.x}, {"row": build.gather(build.dense(build.x, "dense", WHOLE), 2)}, "serving_default")
    file = save(build, tmp_path / "model.tflite")
    content = file.read_bytes()
    _narrow(file)
    assert file.read_bytes() == content


@pytest.mark.parametrize("name", ["bert", "electra", "roberta"])
def test_the_last_layer_of_a_classifier_is_computed_for_its_first_token(exports: Exports, name, tmp_path):
    rows, file = Samples.load(exports.rows), tmp_path / "float32.tflite"
    file.write_bytes((exports.folders[name] / "float32.tflite").read_bytes())
    expected = outputs(file, rows)
    _narrow(file)
    found = outputs(file, rows)
    np.testing.assert_allclose(found["logits"], expected["logits"], rtol=1e-4, atol=1e-5)
    graph = flatbuffer.read(file).subgraphs[0]
    grown = [graph.tensors[operator.outputs[0]].shape for operator in graph.operators if operator.name == "GELU"]
    # The feed-forward network of the first layer sees all tokens.
    assert [int(np.prod(shape)) for shape in grown[:2]] == [12 * 64, 64]
