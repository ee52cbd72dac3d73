"""Integer and dynamic files of tiny networks: calibration, ranges, biases, interfaces, and the plan that says what was done."""

import pickle

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from edgekit.data.samples import Samples
from edgekit.errors import ConfigError, ConversionError, RefusedError
from edgekit.stages.quantize import calibrate, quantizer
from edgekit.stages.quantize.bias import correct
from edgekit.stages.quantize.forms import Form
from edgekit.stages.quantize.plan import IntegerSettings, quantize
from edgekit.stages.quantize.schemes import SCHEMES
from edgekit.tflite import flatbuffer, tree
from edgekit.tflite.interpreter import Model
from tests.unit.stages.quantize.models import (
    DEAD,
    DEAD_BIAS,
    calibrated,
    conv_net,
    conv_samples,
    outputs,
    pointwise_net,
    sqnr_db,
    token_net,
    token_samples,
)
from tests.unit.tflite.conftest import Builder


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """float32.tflite of `conv_net`, the folder `rows` with 32 samples, and `calibration` made of them."""
    room = tmp_path_factory.mktemp("quantize")
    return calibrated(conv_net(), conv_samples(32), room)


def make(room, scheme: str, **more):
    target = room / f"{scheme}.tflite"
    plan = quantize(
        room / "float32.tflite",
        SCHEMES[scheme],
        target,
        samples=room / "rows",
        calibration=room / "calibration",
        settings=IntegerSettings(**more),
    )
    return target, plan


def intermediate(path, samples: Samples) -> dict[str, list[np.ndarray]]:
    """Every tensor of every row, by the interpreter's own word."""
    interpreter = Interpreter(model_path=str(path), experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    found: dict[str, list[np.ndarray]] = {}
    for row in samples:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], row["x"])
        interpreter.invoke()
        for detail in interpreter.get_tensor_details():
            if detail["name"] in ("x", "first", "second", "mean", "logits", "probabilities"):
                found.setdefault(detail["name"], []).append(interpreter.get_tensor(detail["index"]))
    return found


def test_ranges_are_the_true_extremes_of_all_samples(room):
    ranges, _ = pickle.loads((room / "calibration").read_bytes())
    for name, values in intermediate(room / "float32.tflite", Samples.load(room / "rows")).items():
        assert ranges[name]["min"].item() == pytest.approx(min(value.min() for value in values), abs=1e-5)
        assert ranges[name]["max"].item() == pytest.approx(max(value.max() for value in values), abs=1e-5)


def test_means_are_those_of_each_product_s_input(room):
    _, products = pickle.loads((room / "calibration").read_bytes())
    found = intermediate(room / "float32.tflite", Samples.load(room / "rows"))
    assert set(products) == {"first", "second", "logits"}
    # The middle of each window lies inside the image, so its mean is the channel's.
    np.testing.assert_allclose(products["second"].mean[:, 4], np.concatenate(found["first"]).mean(axis=(0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(products["logits"].mean[0], np.concatenate(found["mean"]).mean(axis=0), atol=1e-5)


def test_what_the_fast_way_does_not_see_the_slow_one_does(room, monkeypatch, tmp_path):
    fast = calibrate._statistics
    modes = []

    def blind(*args):
        modes.append(args[-1].name)
        return {name: value for name, value in fast(*args).items() if len(modes) > 1 or name != "mean"}

    monkeypatch.setattr(calibrate, "_statistics", blind)
    calibrate.calibrate(room / "float32.tflite", room / "rows", tmp_path / "calibration")
    assert modes == ["CALIBRATION_PROFILER_BASED", "CALIBRATION_PRESERVE_ALL_TENSORS"]
    ranges, _ = pickle.loads((tmp_path / "calibration").read_bytes())
    wanted, _ = pickle.loads((room / "calibration").read_bytes())
    assert ranges["mean"]["max"].item() == pytest.approx(wanted["mean"]["max"].item(), abs=1e-5)


def test_a_range_that_is_missing_all_the_same_is_an_error_that_names_the_tensor(room, tmp_path):
    ranges, products = pickle.loads((room / "calibration").read_bytes())
    del ranges["second"]
    (tmp_path / "calibration").write_bytes(pickle.dumps((ranges, products)))
    with pytest.raises(ConversionError, match="second"):
        quantizer.write_integer(room / "float32.tflite", tmp_path / "calibration", tmp_path / "m.tflite", Form("every op"))


def test_values_that_are_not_finite_are_refused_with_the_tensor_s_name(tmp_path):
    build = conv_net()
    weights = build.model.buffers[next(tensor.buffer for tensor in build.current.tensors if tensor.name == "w1")]
    weights.data = np.full(len(weights.data) // 4, np.nan, np.float32).view(np.uint8)
    with pytest.raises(ConversionError, match="tensor first takes values that are not finite"):
        calibrated(build, conv_samples(12), tmp_path)


@pytest.mark.parametrize(("scheme", "least_db"), [("int8", 20), ("int16x8", 30), ("dynamic", 25)])
def test_a_scheme_stays_close_to_float32_on_new_rows(room, scheme, least_db):
    path, _ = make(room, scheme)
    new = conv_samples(96, seed=7)
    found, wanted = outputs(path, new), outputs(room / "float32.tflite", new)
    assert sqnr_db(found, wanted) > least_db
    assert (found.argmax(axis=-1) == wanted.argmax(axis=-1)).mean() >= 0.9


def test_the_bias_of_a_channel_without_weight_survives(room, tmp_path):
    target = tmp_path / "m.tflite"
    quantizer.write_integer(room / "float32.tflite", room / "calibration", target, Form("every op"))
    root = tree.load(target.read_bytes())
    assert root is not None
    tensors = {tensor.name.decode(): tensor for tensor in root.subgraphs[0].tensors}
    bias = tensors["b1"]
    real = np.asarray(root.buffers[bias.buffer].data).view(np.int32) * np.asarray(bias.quantization.scale)
    assert real[DEAD] == pytest.approx(DEAD_BIAS, rel=1e-3)


@pytest.mark.parametrize("bits", [8, 16])
def test_corrected_biases_take_the_mean_error_off(room, tmp_path, monkeypatch, bits):
    """Without activations' rounding in the way, the mean of each logit is that of float32."""
    errors = {}
    for corrected in (True, False):
        monkeypatch.setattr(quantizer, "correct", correct if corrected else lambda *_: 0)
        path = tmp_path / f"{corrected}.tflite"
        quantizer.write_integer(room / "float32.tflite", room / "calibration", path, Form("every op", bits))
        new = conv_samples(48, seed=9)
        difference = outputs(path, new) - outputs(room / "float32.tflite", new)
        errors[corrected] = np.abs(difference.mean(axis=0)).max()
    assert errors[True] < errors[False]


def test_constants_lie_inside_the_flatbuffer(room):
    path, _ = make(room, "int8")
    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    assert {model.Buffers(index).Offset() for index in range(model.BuffersLength())} == {0}


def test_zero_points_that_are_alike_are_stored_once(room):
    path, _ = make(room, "int8", search_seconds=0)
    graph = schema.Model.GetRootAs(path.read_bytes(), 0).Subgraphs(0)
    quantizations = [graph.Tensors(index).Quantization() for index in range(graph.TensorsLength())]
    vectors = [found.ZeroPointAsNumpy() for found in quantizations if found and found.ZeroPointLength() == 16]
    assert len(vectors) == 4, "weights and biases of both convolutions"
    assert len({vector.__array_interface__["data"][0] for vector in vectors}) == 1


def test_the_plan_tells_integers_floats_and_conversions_apart(room):
    path, plan = make(room, "int8", search_seconds=0)
    names = [operator.name for operator in flatbuffer.read(path).subgraphs[0].operators]
    counted = sum((plan.integer | plan.floating | plan.conversions).values())
    assert counted == len(names)
    assert plan.integer["CONV_2D"] == 1
    assert set(plan.conversions) == {"QUANTIZE", "DEQUANTIZE"}
    assert set(plan.reasons) == set(plan.floating)
    assert {candidate.name for candidate in plan.candidates} == {"every op", "matrix products"}
    assert all(candidate.failure is None and candidate.p50_ms > 0 for candidate in plan.candidates)
    assert not list(path.parent.glob("*candidate*"))


def test_int8_weights_with_float_activations_count_as_float_compute(room):
    _, plan = make(room, "dynamic")
    assert plan.integer == {}
    assert plan.hybrid == {"CONV_2D": 1, "FULLY_CONNECTED": 1}
    assert plan.floating == {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "MEAN": 1, "FULLY_CONNECTED": 1, "SOFTMAX": 1}
    assert "int8 weights with float32 activations" in plan.reasons["CONV_2D"]
    assert "no XNNPACK kernel" in plan.reasons["DEPTHWISE_CONV_2D"]


def test_thin_convolutions_keep_float_weights_with_float_activations(tmp_path):
    rows = Samples({"x": np.random.default_rng(0).standard_normal((16, 4, 4, 8), np.float32)})
    dynamic, plan = make(calibrated(pointwise_net(), rows, tmp_path), "dynamic")
    left = tmp_path / "left.tflite"
    form = Form("all left", floating=frozenset({"thin", "broad"}))
    quantizer.write_integer(tmp_path / "float32.tflite", tmp_path / "calibration", left, form)
    for path in (dynamic, left):
        dtypes = {tensor.name: tensor.dtype for tensor in flatbuffer.read(path).subgraphs[0].tensors}
        assert (dtypes["thin_weights"], dtypes["broad_weights"]) == ("float32", "int8")
    assert (plan.floating["CONV_2D"], plan.hybrid["CONV_2D"]) == (2, 1)
    assert "1x1 ones with few channels" in plan.reasons["CONV_2D"]


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_integer_ends_hold_the_same_real_values(room, tmp_path, dtype):
    plain, changed = tmp_path / "plain.tflite", tmp_path / "changed.tflite"
    for path, ends in ((plain, ("float32", "float32")), (changed, (dtype, dtype))):
        quantizer.write_integer(room / "float32.tflite", room / "calibration", path, Form("every op"), *ends)
    model = Model(changed)
    assert {spec.dtype for spec in (*model.signature.inputs, *model.signature.outputs)} == {dtype}
    assert model.signature.input_names == ("x",)
    names = [operator.name for operator in flatbuffer.read(changed).subgraphs[0].operators]
    assert ("QUANTIZE" in names) == (dtype == "uint8")
    assert "DEQUANTIZE" not in names
    rows = conv_samples(8, seed=3)
    step = model.signature.outputs[0].scale
    assert step is not None
    assert np.abs(outputs(changed, rows) - outputs(plain, rows)).max() <= step * 1.01


def test_ids_are_no_input_to_quantize_and_the_output_still_is(tmp_path):
    room = calibrated(token_net(-20), token_samples(16), tmp_path)
    with pytest.raises(ConfigError, match=r"--inputs int8: the model has nothing there to quantize \(input_ids is int32\)"):
        make(room, "int8", inputs="int8")
    path, _ = make(room, "int8", outputs="int8")
    signature = Model(path).signature
    assert (signature.inputs[0].dtype, signature.outputs[0].dtype) == ("int32", "int8")


def test_an_unknown_interface_is_named(room):
    with pytest.raises(ConfigError, match=r"--outputs int4: unknown; choose from float32, int8, uint8"):
        make(room, "int8", outputs="int4")


def test_an_end_that_stays_float_refuses_that_candidate_only(room):
    _, plan = make(room, "int8", outputs="int8")
    assert plan.chosen == "every op"
    failures = {candidate.name: candidate.failure for candidate in plan.candidates}
    assert failures["every op"] is None
    assert "probabilities is computed on in float32; leave --outputs (or --integer-only) out" in failures["matrix products"]


def test_op_codes_of_old_files_are_understood(tmp_path):
    build = conv_net()
    for code in build.model.operatorCodes:
        code.builtinCode = 0
    room = calibrated(build, conv_samples(16), tmp_path)
    assert make(room, "int8")[1].integer["CONV_2D"] == 1
    assert make(room, "dynamic")[1].hybrid["CONV_2D"] == 1


def test_tensors_of_one_name_do_not_share_a_range(tmp_path):
    build = conv_net()
    for tensor in build.current.tensors:
        if tensor.name in ("first", "second", "mean"):
            tensor.name = "twin"
    room = calibrated(build, conv_samples(16), tmp_path)
    path, _ = make(room, "int16x8")
    rows = conv_samples(8, seed=3)
    assert sqnr_db(outputs(path, rows), outputs(room / "float32.tflite", rows)) > 30


@pytest.mark.parametrize("scheme", ["dynamic", "int8", "int16x8"])
def test_a_model_with_nothing_to_quantize_is_refused(tmp_path, scheme):
    build = Builder()
    x, y = build.tensor("x", [1, 4]), build.tensor("y", [1, 4])
    build.op("ATAN2", [x, x], [y])
    build.ends({"x": x}, {"y": y}, "serving_default")
    draw = np.random.default_rng(0)
    room = calibrated(build, Samples({"x": draw.random((12, 4), np.float32)}), tmp_path)
    with pytest.raises(RefusedError, match=r"to quantize; choose float16|form of the model runs"):
        make(room, scheme)


def test_integers_ask_for_data(room):
    with pytest.raises(ConfigError, match="scheme int8 calibrates on real samples; give --representative-data"):
        quantize(room / "float32.tflite", SCHEMES["int8"], room / "never.tflite")


def table_net(largest: float, *, tied: bool = False) -> Builder:
    """ids (1, 4): GATHER from a (50, 16) table whose column 3 is `largest` times the others; tied to a product's weights."""
    draw, build = np.random.default_rng(4), Builder()
    values = draw.standard_normal((50, 16)).astype(np.float32)
    values[:, 3] *= largest
    ids = build.tensor("input_ids", [1, 4], "int32")
    table, rows = build.tensor("table", [50, 16], data=values), build.tensor("rows", [1, 4, 16])
    build.op("GATHER", [table, ids], [rows], schema.GatherOptionsT())
    dense = build.tensor("w", [8, 16], data=draw.standard_normal((8, 16)).astype(np.float32))
    result = build.tensor("result", [1, 4, 50 if tied else 8])
    build.op("FULLY_CONNECTED", [rows, table if tied else dense, -1], [result], schema.FullyConnectedOptionsT(keepNumDims=True))
    build.ends({"input_ids": ids}, {"result": result}, "serving_default")
    return build


def test_a_table_with_a_large_column_loses_no_more_than_one_without(tmp_path):
    lost = {}
    for largest in (1.0, 30.0):
        room = tmp_path / str(largest)
        room.mkdir()
        calibrated(table_net(largest), token_samples(32), room)
        quantizer.write_dynamic(room / "float32.tflite", room / "calibration", room / "dynamic.tflite")
        float32, dynamic = (outputs(room / name, token_samples(32)) for name in ("float32.tflite", "dynamic.tflite"))
        lost[largest] = sqnr_db(dynamic, float32)
        names = [operator.name for operator in flatbuffer.read(room / "dynamic.tflite").subgraphs[0].operators]
        assert ("MUL" in names) == (largest > 1)
    assert lost[30.0] > lost[1.0] - 3


@pytest.mark.parametrize("scheme", ["int8", "int16x8"])
def test_a_table_that_is_also_a_product_s_weights_is_looked_up_in_one_of_its_own(tmp_path, scheme):
    """Weights have a step for each row, with which no look-up loads: language models whose head is tied to their embeddings."""
    calibrated(table_net(30.0, tied=True), token_samples(32), tmp_path)
    given = {"samples": tmp_path / "rows", "calibration": tmp_path / "calibration"}
    quantize(tmp_path / "float32.tflite", SCHEMES[scheme], tmp_path / "integer.tflite", **given)
    float32, integer = (outputs(tmp_path / name, token_samples(32)) for name in ("float32.tflite", "integer.tflite"))
    assert sqnr_db(integer, float32) > 25
    graph = flatbuffer.read(tmp_path / "integer.tflite").subgraphs[0]
    lookup, product = (next(item for item in graph.operators if item.name == name) for name in ("GATHER", "FULLY_CONNECTED"))
    assert lookup.inputs[0] != product.inputs[1]
