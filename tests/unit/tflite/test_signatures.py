import time
import zipfile

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from edgekit.errors import ModelFormatError
from edgekit.tflite import flatbuffer, signatures
from edgekit.tflite.inspect import inspect
from edgekit.tflite.interpreter import Model
from edgekit.tflite.tree import load, pack

from .conftest import BIAS, WEIGHTS

ROW = np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)


def test_renamed_file_runs_under_its_new_names(dense, write):
    path = write(signatures.rename(dense, {"args_0": "input_ids", "output_0": "logits"}))
    out = Model(path).run({"input_ids": ROW})
    np.testing.assert_allclose(out["logits"], ROW @ WEIGHTS.T + BIAS, rtol=1e-5)
    before, after = flatbuffer.parse(dense, "dense"), flatbuffer.read(path)
    assert after.subgraphs == before.subgraphs
    assert (after.version, after.description, after.entry().key) == (before.version, before.description, "run")


def test_names_can_change_places(add_int8):
    entry = flatbuffer.parse(signatures.rename(add_int8, {"a": "b", "b": "a"}), "swapped").entry()
    assert dict(entry.inputs) == {"b": 0, "a": 1}


def test_every_signature_is_renamed(two_graphs):
    entries = flatbuffer.parse(signatures.rename(two_graphs, {"x": "input"}), "two").entries
    assert [(entry.key, entry.subgraph, list(entry.inputs), list(entry.outputs)) for entry in entries] == [
        ("plus", 0, ["input"], ["y"]),
        ("times", 1, ["input"], ["y"]),
    ]


def test_unknown_and_clashing_names(add_int8, add_float):
    with pytest.raises(ModelFormatError, match=r"no signature has an input or output c; there are: a, b, sum"):
        signatures.rename(add_int8, {"c": "d"}, origin="add.tflite")
    with pytest.raises(ModelFormatError, match="name two tensors alike"):
        signatures.rename(add_int8, {"a": "b"})
    with pytest.raises(ModelFormatError, match="there are: none"):
        signatures.rename(add_float, {"a": "b"})
    with pytest.raises(ModelFormatError, match=r"add\.tflite: not a \.tflite file"):
        signatures.rename(b"x" * 100, {}, origin="add.tflite")


@pytest.mark.parametrize("twice", [False, True])
def test_ends_stand_in_the_order_of_the_source_by_index_too(builder, write, twice):
    a, b = builder.tensor("a", [1, 4]), builder.tensor("b", [1, 4])
    total, product = builder.tensor("total", [1, 4]), builder.tensor("product", [1, 4])
    builder.op("ADD", [a, b], [total], schema.AddOptionsT())
    builder.op("MUL", [a, total], [product], schema.MulOptionsT())
    builder.ends({"a": a, "b": b}, {"product": product, "total": total}, "serving_default")
    content = signatures.order(builder.pack(), ["b", "a"], ["total", "product"])
    if twice:
        content = pack(load(signatures.order(signatures.order(content, ["a"], ["product"]), ["b"], ["total"])))
    assert signatures.order(content, ["b", "a"], ["total", "product"]) is content
    path = write(content)
    interpreter = Interpreter(str(path))
    assert [detail["name"] for detail in interpreter.get_output_details()] == ["total", "product"]
    assert [detail["name"] for detail in interpreter.get_input_details()] == ["b", "a"]
    file = flatbuffer.read(path)
    assert file.subgraphs[0].name == "main"
    assert (list(file.entry().inputs), list(file.entry().outputs)) == (["b", "a"], ["total", "product"])
    found = Model(path).run({"a": ROW, "b": 3 * ROW})
    np.testing.assert_array_equal(found["total"], 4 * ROW)
    np.testing.assert_array_equal(found["product"], 4 * ROW * ROW)


def test_signature_is_added_once(add_float, write):
    content = signatures.add_signature(add_float)
    model = Model(write(content))
    assert model.signature_key == "serving_default"
    np.testing.assert_array_equal(model.run({"a": ROW, "b": ROW})["StatefulPartitionedCall"], 2 * ROW)
    assert signatures.add_signature(content) == content


def test_tensors_of_one_name_get_two(builder):
    x, y = builder.tensor("in/x:0", [1]), builder.tensor("in_x", [1])
    builder.ends({"x": x, "y": y}, {"x": x})
    entry = flatbuffer.parse(signatures.add_signature(builder.pack()), "twice").entry()
    assert dict(entry.inputs) == {"in_x": 0, "in_x_1": 1}


def test_data_behind_the_flatbuffer_moves_with_it(outside, write):
    path = write(signatures.rename(outside, {"args_0": "x"}))
    np.testing.assert_allclose(Model(path).run({"x": ROW})["output_0"], ROW @ WEIGHTS.T + BIAS, rtol=1e-5)


def test_files_behind_the_model_stay_readable(dense, write):
    path = write(dense)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels.txt", "no\nyes\n")
    path.write_bytes(signatures.rename(path.read_bytes(), {"args_0": "x"}))
    assert inspect(path, probe=False).associated_files == {"labels.txt": 7}
    with zipfile.ZipFile(path) as archive:
        assert archive.read("labels.txt") == b"no\nyes\n"


def test_large_model_keeps_its_alignment_and_costs_one_copy(builder):
    data = np.random.default_rng(0).integers(0, 255, 64 * 2**20, np.uint8)
    x = builder.tensor("x", [len(data)], "uint8", data=data)
    builder.ends({"x": x}, {"y": x}, "serving_default")
    model = builder.pack()
    started = time.perf_counter()
    renamed = signatures.rename(model, {"x": "weights"})
    assert time.perf_counter() - started < 2
    marker = data[:64].tobytes()
    assert (renamed.index(marker) - model.index(marker)) % 64 == 0
    assert renamed.endswith(model[64:])
