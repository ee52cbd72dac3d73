"""What int16x8 will cost, told before the wait: ops without such a form from the tool's own policy, milliseconds by measurement."""

import pytest
from ai_edge_litert import schema_py_generated as schema

from edgekit.stages.quantize import preflight
from edgekit.stages.quantize.schemes import SCHEMES
from edgekit.tflite import flatbuffer
from tests.unit.stages.quantize.models import CLASSES, conv_net, save
from tests.unit.tflite.conftest import Builder


def net_with_a_square() -> Builder:
    build = conv_net()
    result = next(number for number, tensor in enumerate(build.current.tensors) if tensor.name == "probabilities")
    square = build.tensor("square", [1, CLASSES])
    build.op("SQUARED_DIFFERENCE", [result, result], [square], schema.SquaredDifferenceOptionsT())
    build.ends({"x": 0}, {"square": square}, "serving_default")
    return build


@pytest.fixture
def fixed_rates(monkeypatch):
    monkeypatch.setattr(preflight, "rates", lambda: (1e3, 1e6))


def test_the_line_names_ops_time_and_alternative(tmp_path, fixed_rates):
    said = preflight.preflight(save(net_with_a_square(), tmp_path / "m.tflite"), SCHEMES["int16x8"])
    # 64 places × 16 filters × 27, 64 × 16 × 9, and 16 × 10.
    assert 64 * 16 * 27 + 64 * 16 * 9 + 160 == 37_024
    assert said is not None and "\n" not in said
    assert "float32 for want of an int16 form: SQUARED_DIFFERENCE ×1;" in said
    assert "some 37 ms an inference or more by the reference kernels, float32 0.037 ms" in said
    assert said.endswith("int8 or dynamic is the faster choice")


def test_a_model_with_a_form_for_every_op_has_none_to_name(tmp_path, fixed_rates):
    said = preflight.preflight(save(conv_net(), tmp_path / "m.tflite"), SCHEMES["int16x8"])
    assert said is not None and "stay in float32" not in said


@pytest.mark.parametrize("scheme", [name for name in SCHEMES if name != "int16x8"])
def test_other_schemes_need_no_warning(scheme, tmp_path):
    assert preflight.preflight(tmp_path / "absent", SCHEMES[scheme]) is None


def test_products_of_two_activations_are_counted():
    build = Builder()
    first, second = build.tensor("a", [1, 2, 8, 4]), build.tensor("b", [1, 2, 4, 6])
    result = build.tensor("c", [1, 2, 8, 6])
    build.op("BATCH_MATMUL", [first, second], [result], schema.BatchMatMulOptionsT())
    build.ends({"a": first, "b": second}, {"c": result}, "serving_default")
    assert preflight.multiply_accumulates(flatbuffer.parse(build.pack(), "m").subgraphs[0]) == 2 * 8 * 6 * 4


def test_rates_are_measured_on_files_that_run():
    integer, floating = preflight.measure_rates()
    # Reference kernels against the delegate: 35 times on the machine this was written on.
    assert 3 * integer < floating
