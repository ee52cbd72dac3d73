"""Every architecture by the bridge through ONNX: the same logits as PyTorch, built-in ops only, masks that integers can hold."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnx import numpy_helper

from edgekit import masks
from edgekit.export.litert import export_litert
from edgekit.export.onnx import OnnxExport
from edgekit.measure.benchmark import outputs
from edgekit.parity import compare
from edgekit.quantize.calibrate import calibrate
from edgekit.quantize.forms import PRODUCTS, Form
from edgekit.quantize.quantizer import write_integer
from edgekit.quantize.trained import Taken, take_ranges
from edgekit.ranges import TrainedRanges
from edgekit.tflite import flatbuffer
from edgekit.worker import Worker
from tests.unit.export import architectures
from tests.unit.export.architectures import NAMES
from tests.unit.export.conftest import Exports


@pytest.mark.parametrize("name", NAMES)
def test_onnx_gives_the_logits_of_pytorch(exports: Exports, name: str) -> None:
    made = exports.onnx[name]
    assert isinstance(made, OnnxExport), made
    assert made.parity.max_rel < 1e-5
    assert made.parity.same_argmax == 1


@pytest.mark.parametrize("name", NAMES)
def test_no_onnx_mask_is_out_of_reach_for_integers(exports: Exports, name: str) -> None:
    made = exports.onnx[name]
    assert isinstance(made, OnnxExport), made
    assert made.mask is not None
    assert made.mask > -1e5
    model = onnx.load(exports.folders[name] / "model.onnx")
    tensors = [*model.graph.initializer, *(item.t for node in model.graph.node for item in node.attribute if item.HasField("t"))]
    assert not any(masks.is_mask(numpy_helper.to_array(tensor)) for tensor in tensors)


@pytest.mark.parametrize("name", NAMES)
def test_tflite_gives_the_logits_of_pytorch(exports: Exports, name: str) -> None:
    assert not isinstance(exports.saved_models[name], str), exports.saved_models[name]
    reference = np.load(exports.folders[name] / "reference.npy")
    parity = compare(outputs(exports.folders[name] / "float32.tflite", exports.rows), reference)
    assert parity.max_rel < 1e-3
    assert parity.same_argmax == 1


@pytest.mark.parametrize("name", NAMES)
def test_tflite_holds_built_in_ops_and_soft_masks(exports: Exports, name: str) -> None:
    assert not isinstance(exports.saved_models[name], str), exports.saved_models[name]
    file = exports.folders[name] / "float32.tflite"
    content = flatbuffer.read(file)
    assert (content.flex_ops, content.custom_ops) == ((), ())
    assert content.signature(content.entry()).outputs[0].name == "logits"
    root = schema.Model.GetRootAs(file.read_bytes(), 0)
    constants = [
        root.Buffers(tensor.buffer).DataAsNumpy().view(np.float32)
        for graph in content.subgraphs
        for tensor in graph.tensors
        if tensor.dtype == "float32" and tensor.data_bytes
    ]
    assert constants
    assert not any(masks.is_mask(values) for values in constants)


def test_the_bridges_agree(exports: Exports, tmp_path: Path) -> None:
    if importlib.util.find_spec("litert_torch") is None:
        pytest.skip("needs litert-torch (extra litert)")
    file = tmp_path / "litert.tflite"
    Worker(timeout_s=300).run(export_litert, exports.folders["bert"], exports.rows, file, tmp_path / "reference.npy")
    parity = compare(outputs(file, exports.rows), outputs(exports.folders["bert"] / "float32.tflite", exports.rows))
    assert parity.max_rel < 1e-3
    assert parity.same_argmax == 1
    content = flatbuffer.read(file)
    assert set(content.signature(content.entry()).input_names) == {"input_ids", "attention_mask"}


# Ranges of quantization-aware training ---------------------------------------------------------------------------------

OTHERS = ("distilbert", "gpt2")


@dataclass(frozen=True)
class Rounded:
    """An int8 file with integers in matrix products, what it took of `ranges`, and the logits that PyTorch gives with rounding."""

    file: Path
    taken: Taken
    ranges: TrainedRanges
    logits: np.ndarray


@pytest.fixture(scope="module")
def rounded(exports: Exports, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Rounded]:
    """Through ONNX, and through litert-torch where it is installed, by architecture."""
    folders, worker = dict(exports.folders), Worker(timeout_s=300)
    if importlib.util.find_spec("litert_torch") is not None:
        folders |= worker.run(architectures.save_others, tmp_path_factory.mktemp("litert"), exports.rows).value
    made = {}
    for name, (ranges, logits) in worker.run(architectures.rounded, folders, exports.rows).value.items():
        model = folders[name] / "float32.tflite"
        calibration, trained, file = (folders[name] / part for part in ("calibration", "trained", "int8.tflite"))
        calibrate(model, exports.rows, calibration)
        taken = take_ranges(model, calibration, ranges, trained)
        write_integer(model, trained, file, Form("matrix products", ops=PRODUCTS))
        made[name] = Rounded(file, taken, ranges, logits)
    return made


def _of(rounded: dict[str, Rounded], name: str) -> Rounded:
    if name not in rounded:
        pytest.skip("needs litert-torch (extra litert)")
    return rounded[name]


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_every_layer_finds_its_op_and_the_op_has_its_ranges(rounded: dict[str, Rounded], name: str) -> None:
    made = _of(rounded, name)
    assert (made.taken.left, made.taken.unmatched) == ((), ())
    graph = flatbuffer.read(made.file).subgraphs[0]
    ops = [operator for operator in graph.operators if operator.name == "FULLY_CONNECTED"]
    assert len(ops) == len(made.ranges.layers)
    scales = sorted(graph.tensors[index].scale or 0 for op in ops for index in (op.inputs[0], *op.outputs))
    ends = [ends for layer in made.ranges.layers.values() for ends in (layer.input, layer.output)]
    lows = {round(-128 - low * 255 / (high - low)) for low, high in ends}
    np.testing.assert_allclose(scales, sorted((high - low) / 255 for low, high in ends), rtol=1e-5)
    assert {graph.tensors[index].zero_point for op in ops for index in (op.inputs[0], *op.outputs)} == lows


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_the_int8_file_computes_what_pytorch_does_with_rounding(rounded: dict[str, Rounded], exports: Exports, name: str) -> None:
    made = _of(rounded, name)
    head = list(made.ranges.layers.values())[-1]
    step = (head.output[1] - head.output[0]) / 255
    away = np.abs(outputs(made.file, exports.rows) - made.logits)
    plain = np.abs(outputs(made.file.with_name("float32.tflite"), exports.rows) - made.logits)
    assert away.max() < 2.5 * step
    assert away.mean() < 0.5 * plain.mean(), "float32 is farther away"
