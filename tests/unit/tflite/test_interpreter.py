import numpy as np
import pytest

from edgekit.errors import DatasetError, ModelFormatError, UnsupportedOpError
from edgekit.spec import TensorSpec
from edgekit.tflite.interpreter import Model, dequantize, quantize

from .conftest import BIAS, WEIGHTS

ROW = np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)


def test_float_file_by_tensor_names(add_float, write):
    model = Model(write(add_float))
    out = model.run({"serving_default_a:0": ROW, "serving_default_b:0": ROW})
    np.testing.assert_array_equal(out["StatefulPartitionedCall:0"], 2 * ROW)
    assert (model.ops, model.delegated_ops, model.partitions) == (1, 1, 1)
    assert model.load_ms > 0


def test_integer_file_takes_and_gives_real_values(add_int8, write):
    out = Model(write(add_int8)).run({"a": ROW, "b": np.array([[0.5, -0.5, 100.0, 0.0]], np.float32)})
    # 100 is above what int8 holds at scale 0.5 and zero point 3: (127 - 3) / 2 = 62.
    np.testing.assert_allclose(out["sum"], [[1.5, 1.5, 65.0, 4.0]], atol=0.5)
    assert out["sum"].dtype == np.float32


def test_stored_values_pass_unchanged(add_int8, write):
    stored = np.full((1, 4), 5, np.int8)
    np.testing.assert_array_equal(Model(write(add_int8)).run({"a": stored, "b": stored})["sum"], np.full((1, 4), 2.0))


def test_free_axis_takes_the_size_of_the_data(dense, write):
    model = Model(write(dense))
    for rows in (1, 5, 2):
        x = np.random.default_rng(rows).normal(size=(rows, 4)).astype(np.float32)
        np.testing.assert_allclose(model.run({"args_0": x})["output_0"], x @ WEIGHTS.T + BIAS, rtol=1e-5, atol=1e-5)
    assert (model.delegated_ops, model.partitions) == (1, 1)


def test_invoke_alone(dense, write):
    model = Model(write(dense), threads=1)
    model.set_inputs({"args_0": ROW})
    model.invoke()
    model.invoke()
    np.testing.assert_allclose(model.outputs()["output_0"], ROW @ WEIGHTS.T + BIAS, rtol=1e-5)


def test_ids_are_cast(lookup, write):
    model = Model(write(lookup))
    for dtype in (np.int64, np.uint8, np.float32, np.int32):
        rows = model.run({"input_ids": np.array([[1, 9, 0]], dtype)})["rows"]
        np.testing.assert_array_equal(rows, [[[1, -1], [9, -9], [0, 0]]])


def test_second_signature(two_graphs, write):
    path = write(two_graphs)
    x = np.array([3.0, 4.0, 5.0], np.float32)
    np.testing.assert_array_equal(Model(path).run({"x": x})["y"], 2 * x)
    times = Model(path, signature_key="times")
    np.testing.assert_array_equal(times.run({"x": x})["y"], x * x)
    assert times.signature_key == "times"


def test_data_behind_the_flatbuffer(outside, write):
    np.testing.assert_allclose(Model(write(outside)).run({"args_0": ROW})["output_0"], ROW @ WEIGHTS.T + BIAS, rtol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "cause"),
    [
        ({"a": ROW}, "input b is missing; the file takes a, b, the data has a"),
        ({"a": ROW, "b": ROW, "c": ROW}, "there is no input c; the file takes a, b"),
        ({}, "input a, b is missing; .* the data has none"),
        ({"a": ROW, "b": ROW[0]}, r"input b takes shape \(1, 4\), the data has \(4,\)"),
        ({"a": ROW, "b": ROW[:, :3]}, r"input b takes shape \(1, 4\), the data has \(1, 3\)"),
    ],
)
def test_inputs_that_do_not_fit(add_int8, write, inputs, cause):
    with pytest.raises(ModelFormatError, match=cause):
        Model(write(add_int8)).run(inputs)


@pytest.mark.parametrize(
    ("ids", "cause"),
    [
        (np.array([[0, 0, 2**40]]), "holds 1099511627776, which int32 cannot"),
        (np.array([[0.5, 1, 2]]), "takes whole numbers"),
        (np.array([[np.nan, 1, 2]]), "not finite"),
        (np.array([["a", "b", "c"]]), "takes numbers"),
    ],
)
def test_values_that_do_not_fit(lookup, write, ids, cause):
    with pytest.raises(DatasetError, match=cause):
        Model(write(lookup)).run({"input_ids": ids})


def test_inference_that_stops_is_an_error_not_a_crash(lookup, write):
    with pytest.raises(ModelFormatError, match=r"model\.tflite: stops during inference: .*index out of bounds"):
        Model(write(lookup)).run({"input_ids": np.array([[0, 0, 99]], np.int32)})


def test_ops_that_the_interpreter_lacks_are_named(flex_op, custom_op, write):
    with pytest.raises(UnsupportedOpError, match="FlexErf"):
        Model(write(flex_op))
    with pytest.raises(UnsupportedOpError, match="MyOwnOp"):
        Model(write(custom_op))


def test_string_input(builder, write):
    x, y = builder.tensor("x", [1], "string"), builder.tensor("y", [1], "string")
    builder.op("RESHAPE", [x], [y])
    builder.ends({"x": x}, {"y": y})
    with pytest.raises(ModelFormatError, match="input x is a string tensor"):
        Model(write(builder.pack())).run({"x": np.array(["word"])})


@pytest.mark.parametrize(("dtype", "low", "high"), [("int8", -128, 127), ("uint8", 0, 255), ("int16", -32768, 32767)])
def test_quantize_clips_and_rounds_half_to_even(dtype, low, high):
    spec = TensorSpec("x", (6,), dtype, 2.0, 10)
    stored = quantize(np.array([1.0, 3.0, 5.0, -1e9, 1e9, 0.0], np.float32), spec)
    assert stored.dtype == dtype
    assert stored.tolist() == [10, 12, 12, low, high, 10]
    assert dequantize(stored, spec)[:3].tolist() == [0.0, 4.0, 4.0]


def test_quantize_casts_pixels_for_a_float_input():
    assert quantize(np.array([0, 255], np.uint8), TensorSpec("x", (2,), "float32")).tolist() == [0.0, 255.0]


def test_infinite_value_is_refused_where_it_has_no_level():
    with pytest.raises(DatasetError, match="not finite"):
        quantize(np.array([np.inf]), TensorSpec("x", (1,), "int8", 1.0, 0))
