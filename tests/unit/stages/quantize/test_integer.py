"""Integer files op by op: what is int16, what stays float, what an integer-only file may hold, and what its ends are."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgekit.data.samples import Samples
from edgekit.errors import UnsupportedOpError
from edgekit.stages.quantize import calibrate, forms, quantizer
from edgekit.stages.quantize.candidates import run_rows
from edgekit.stages.quantize.forms import Form
from edgekit.stages.quantize.prepare import prepare, read_graph
from edgekit.stages.quantize.rewrite import make_quantizable
from edgekit.tflite import flatbuffer
from edgekit.tflite.interpreter import Model
from tests.unit.stages.quantize.models import (
    CLASSES,
    calibrated,
    encoder_net,
    encoder_samples,
    loud_net,
    loud_samples,
    outputs,
    save,
    sqnr_db,
    stubborn_net,
)
from tests.unit.tflite.conftest import Builder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """`encoder_net`, rewritten and calibrated."""
    room = tmp_path_factory.mktemp("encoder")
    encoder_samples(32).save(room / "rows")
    make_quantizable(save(encoder_net(), room / "source.tflite"), room / "rows", room / "float32.tflite")
    calibrate.calibrate(room / "float32.tflite", room / "rows", room / "calibration")
    return room


def written(room, form: Form):
    target = room / f"{form.name}.tflite"
    quantizer.write_integer(room / "float32.tflite", room / "calibration", target, form)
    return target


def integer_only(room, form: Form, inputs: str = "float32", outputs: str = "float32"):
    target = room / f"{form.name}-{inputs}-{outputs}.tflite"
    quantizer.write_integer_only(room / "float32.tflite", room / "calibration", target, form, inputs, outputs)
    return target


def dtypes(path) -> dict[str, str]:
    """Dtype of what each op but conversions gives."""
    graph = flatbuffer.read(path).subgraphs[0]
    operators = [operator for operator in graph.operators if operator.name not in ("QUANTIZE", "DEQUANTIZE")]
    return {graph.tensors[op.outputs[0]].name.split("_")[0]: graph.tensors[op.outputs[0]].dtype for op in operators}


@pytest.mark.parametrize("form", [Form("int8"), Form("int16", 16)])
@pytest.mark.parametrize("first", [False, True])
def test_a_product_by_a_constant_is_no_zero(tmp_path, form, first):
    """With a scale for each channel of the constant LiteRT gives zeros, and no kernel takes int16 behind an int8 constant."""
    draw, build = np.random.default_rng(0), Builder()
    x, y = build.tensor("x", [1, 4, 6, 8]), build.tensor("y", [1, 4, 16, 8] if first else [1, 4, 6, 16])
    values = draw.standard_normal((1, 4, 16, 6) if first else (1, 4, 8, 16), np.float32)
    constant = build.tensor("constant", [*values.shape], data=values)
    build.op("BATCH_MATMUL", [constant, x] if first else [x, constant], [y], schema.BatchMatMulOptionsT())
    build.ends({"x": x}, {"y": y}, "serving_default")
    room = calibrated(build, Samples({"x": draw.standard_normal((32, 4, 6, 8), np.float32)}), tmp_path)
    path = written(room, form)
    assert noise(path, room) > 30
    assert (dtypes(path)["y"] == "float32") == (first and form.bits == 16)


@pytest.mark.parametrize("form", [Form("int8"), Form("int16", 16), Form("products", ops=("FULLY_CONNECTED",))])
def test_an_output_that_is_read_on_is_kept(tmp_path, form):
    draw, build = np.random.default_rng(0), Builder()
    x, middle, hidden, y = (
        build.tensor(name, shape) for name, shape in (("x", [1, 16]), ("middle", [1, 7]), ("hidden", [1, 7]), ("y", [1, 5]))
    )
    first, second = (
        build.tensor(f"w{n}", [*shape], data=draw.standard_normal(shape, np.float32)) for n, shape in enumerate(((7, 16), (5, 7)))
    )
    build.op("FULLY_CONNECTED", [x, first, -1], [middle], schema.FullyConnectedOptionsT())
    build.op("TANH", [middle], [hidden])
    build.op("FULLY_CONNECTED", [hidden, second, -1], [y], schema.FullyConnectedOptionsT())
    build.ends({"x": x}, {"hidden": hidden, "y": y}, "serving_default")
    rows = Samples({"x": draw.standard_normal((32, 16), np.float32)})
    room = calibrated(build, rows, tmp_path)
    reference, found = (run_rows([Model(path)], rows, 32) for path in (room / "float32.tflite", written(room, form)))
    assert list(found) == ["hidden", "y"]
    assert all(sqnr_db(found[name], reference[name]) > 30 for name in found)


def noise(path, room) -> float:
    samples = Samples.load(room / "rows")
    return sqnr_db(outputs(path, samples), outputs(room / "float32.tflite", samples))


def test_without_exceptions_all_is_int8(loud):
    assert dtypes(written(loud, Form("every"))) == {"loud": "int8", "quiet": "int8", "mean": "int8", "logits": "int8"}


def test_wide_ops_are_int16_and_the_others_int8(loud):
    made = written(loud, Form("wide", wide=frozenset({"loud"})))
    assert dtypes(made) == {"loud": "int16", "quiet": "int8", "mean": "int8", "logits": "int8"}
    assert noise(made, loud) > noise(written(loud, Form("every")), loud) + 20


def test_floating_ops_are_float32_and_the_others_int8(loud):
    made = written(loud, Form("floating", floating=frozenset({"loud", "logits"})))
    assert dtypes(made) == {"loud": "float32", "quiet": "int8", "mean": "int8", "logits": "float32"}
    graph = flatbuffer.read(made).subgraphs[0]
    stored = {op.name: graph.tensors[op.inputs[1]].dtype for op in graph.operators if op.name in forms.PRODUCTS}
    # int8 weights where the kernel takes both, and DEPTHWISE_CONV_2D's does not.
    assert stored == {"DEPTHWISE_CONV_2D": "float32", "CONV_2D": "int8", "FULLY_CONNECTED": "int8"}


def test_a_name_is_meant_whole(loud):
    assert set(dtypes(written(loud, Form("part", floating=frozenset({"lou", "log.*", "quie"})))).values()) == {"int8"}


@pytest.mark.parametrize("wide", ["none", "normalizations", "around"])
def test_an_integer_only_file_holds_no_float_and_has_int8_ends(encoder, wide):
    graph = read_graph(encoder / "float32.tflite")
    named = {"none": frozenset(), "normalizations": forms.normalizations(graph), "around": forms.around_products(graph)}[wide]
    made = integer_only(encoder, Form(wide, wide=named))
    graph = flatbuffer.read(made).subgraphs[0]
    used = {index for op in graph.operators for index in (*op.inputs, *op.outputs) if index >= 0}
    assert {graph.tensors[index].dtype for index in used} <= {"int8", "int16", "int32", "int64"}
    signature = (file := flatbuffer.read(made)).signature(file.entry())
    assert [spec.dtype for spec in (*signature.inputs, *signature.outputs)] == ["int8", "int8"]
    assert noise(made, encoder) > (10 if wide == "none" else 20)


def test_ends_stay_float32_where_they_are_not_asked_to_be_integers(loud):
    file = flatbuffer.read(written(loud, Form("wide ends", wide=frozenset({"loud", "logits"}))))
    signature = file.signature(file.entry())
    assert [spec.dtype for spec in (*signature.inputs, *signature.outputs)] == ["float32", "float32"]


@pytest.mark.parametrize("end", ["int8", "uint8"])
@pytest.mark.parametrize("more", [{"logits"}, {"logits", "dense_scaled"}], ids=["x read in both", "x read in int16"])
def test_ends_of_ops_in_int16(encoder, end, more):
    """The graph takes and gives int16 where the first and the last op are wide; its ends are int8 or uint8 all the same."""
    wide = forms.normalizations(read_graph(encoder / "float32.tflite")) | more
    made = integer_only(encoder, Form("ends", wide=wide), end, end)
    signature = (file := flatbuffer.read(made)).signature(file.entry())
    assert [spec.dtype for spec in (*signature.inputs, *signature.outputs)] == [end, end]
    assert noise(made, encoder) > 20


def test_every_kind_of_op_in_the_way_is_named_with_its_mend(tmp_path):
    draw = np.random.default_rng(0)
    room = calibrated(stubborn_net(), Samples({"x": draw.standard_normal((16, 16)).astype(np.float32)}), tmp_path)
    with pytest.raises(UnsupportedOpError) as caught:
        integer_only(room, Form("every"))
    told = caught.value.message
    assert "float32.tflite: ops without an integer form stand in the way of --integer-only" in told
    for name in ("EXP", "POW"):
        assert f"1 {name} ({quantizer._MENDS[name]})" in told


def test_a_bias_of_two_axes_is_quantized_and_the_file_runs(tmp_path):
    """Such as MobileBERT has; ai-edge-quantizer makes one of N x N values of it."""
    room = calibrated(loud_net(bias_shape=(1, CLASSES)), loud_samples(32), tmp_path)
    made = written(room, Form("bias", wide=frozenset({"loud"})))
    graph = flatbuffer.read(made).subgraphs[0]
    operator = next(op for op in graph.operators if op.name == "FULLY_CONNECTED")
    assert graph.tensors[operator.inputs[2]].dtype == "int32"
    assert graph.tensors[operator.inputs[2]].shape == (CLASSES,)
    assert noise(made, room) > 25


def test_a_prepared_file_stays_as_it_is_and_names_no_op_that_it_lacks(tmp_path):
    room = calibrated(loud_net(bias_shape=(1, CLASSES)), loud_samples(16), tmp_path)
    once = prepare((room / "float32.tflite").read_bytes())
    assert once != (room / "float32.tflite").read_bytes()
    assert prepare(once) is once


def test_rows_of_an_input_with_a_fixed_batch_are_fed_without_their_axis(tmp_path):
    """x (4, 16) takes rows (1, 4, 16): a batch that is fixed is part of the sample."""
    from ai_edge_litert import schema_py_generated as schema

    from tests.unit.tflite.conftest import Builder

    draw = np.random.default_rng(0)
    build = Builder()
    x, y = build.tensor("x", [4, 16]), build.tensor("y", [4, CLASSES])
    weights = build.tensor("w", [CLASSES, 16], data=draw.standard_normal((CLASSES, 16)).astype(np.float32))
    bias = build.tensor("b", [CLASSES], data=np.ones(CLASSES, np.float32))
    build.op("FULLY_CONNECTED", [x, weights, bias], [y], schema.FullyConnectedOptionsT())
    build.ends({"x": x}, {"y": y}, "serving_default")
    room = calibrated(build, Samples({"x": draw.standard_normal((16, 4, 16)).astype(np.float32)}), tmp_path)
    assert noise(written(room, Form("every")), room) > 30
