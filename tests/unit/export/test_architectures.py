"""Every architecture by the bridge through ONNX: the same logits as PyTorch, built-in ops only, masks that integers can hold."""

import importlib.util
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
from edgekit.tflite import flatbuffer
from edgekit.worker import Worker
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
