"""What a quantized file states of its ops."""

import pytest

from edgekit.stages.quantize.plan import quantize
from edgekit.stages.quantize.schemes import SCHEMES
from edgekit.tflite import flatbuffer
from edgekit.tflite.interpreter import Model
from edgekit.tflite.op_versions import requirements
from tests.unit.stages.quantize.models import Inline


@pytest.mark.parametrize("scheme", ["dynamic", "int8"])
def test_no_op_states_less_than_its_tensors_need(scheme, encoder, tmp_path, monkeypatch):
    given = {"samples": encoder / "rows", "calibration": encoder / "calibration", "worker": Inline()}
    with monkeypatch.context() as patch:
        patch.setattr("edgekit.stages.quantize.plan.state_versions", lambda path: None)
        quantize(encoder / "float32.tflite", SCHEMES[scheme], tmp_path / "as_made.tflite", **given)
    quantize(encoder / "float32.tflite", SCHEMES[scheme], tmp_path / "stated.tflite", **given)
    as_made, stated = (requirements(flatbuffer.read(tmp_path / f"{name}.tflite")).ops for name in ("as_made", "stated"))
    assert any(op.stated < op.needed for op in as_made)
    assert all(op.stated >= op.needed for op in stated)
    assert {(op.name, op.needed) for op in stated} <= {(op.name, op.needed) for op in as_made}
    assert Model(tmp_path / "stated.tflite").signature.outputs
