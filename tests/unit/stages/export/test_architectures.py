"""Every architecture by the bridge through ONNX: the same logits as PyTorch, built-in ops only, masks that integers can hold."""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnx import numpy_helper

from edgekit.data.samples import Samples
from edgekit.errors import UnsupportedOpError
from edgekit.measure.judge import outputs
from edgekit.models import attention_masks
from edgekit.models.checkpoint import Checkpoint
from edgekit.models.ranges import TrainedRanges, digest
from edgekit.stages.export.litert import export_litert, require_kernels
from edgekit.stages.export.onnx import OnnxExport
from edgekit.stages.quantize.calibrate import calibrate
from edgekit.stages.quantize.forms import PRODUCTS, Form
from edgekit.stages.quantize.prepare import prepare
from edgekit.stages.quantize.quantizer import operators, write_integer
from edgekit.stages.quantize.tensors import Tensors
from edgekit.stages.quantize.trained import Taken, take_ranges
from edgekit.system.worker import Worker
from edgekit.tasks.parity import compare_all
from edgekit.tflite import flatbuffer
from tests.unit.stages.export import architectures
from tests.unit.stages.export.architectures import NAMES
from tests.unit.stages.export.conftest import Exports


@pytest.mark.parametrize("name", NAMES)
def test_onnx_gives_the_logits_of_pytorch(exports: Exports, name: str) -> None:
    made = exports.onnx[name]
    assert isinstance(made, OnnxExport), made
    assert made.parity.max_rel < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_no_onnx_mask_is_out_of_reach_for_integers(exports: Exports, name: str) -> None:
    made = exports.onnx[name]
    assert isinstance(made, OnnxExport), made
    assert made.mask is not None
    assert made.mask > -1e5
    model = onnx.load(exports.folders[name] / "model.onnx")
    tensors = [*model.graph.initializer, *(item.t for node in model.graph.node for item in node.attribute if item.HasField("t"))]
    assert not any(attention_masks.is_mask(numpy_helper.to_array(tensor)) for tensor in tensors)


@pytest.mark.parametrize("name", NAMES)
def test_tflite_gives_the_logits_of_pytorch(exports: Exports, name: str) -> None:
    assert not isinstance(exports.saved_models[name], str), exports.saved_models[name]
    reference = Samples.load(exports.folders[name] / "reference").inputs
    assert list(reference) == ["logits"]
    parity = compare_all(outputs(exports.folders[name] / "float32.tflite", exports.rows), reference)
    assert parity.max_rel < 1e-3


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
    assert not any(attention_masks.is_mask(values) for values in constants)


def test_the_bridges_agree(exports: Exports, tmp_path: Path) -> None:
    if importlib.util.find_spec("litert_torch") is None:
        pytest.skip("needs litert-torch (extra litert)")
    file = tmp_path / "litert.tflite"
    source = Checkpoint.read(exports.folders["bert"])
    Worker(timeout_s=300).run(export_litert, source, exports.rows, file, tmp_path / "reference")
    parity = compare_all(outputs(file, exports.rows), outputs(exports.folders["bert"] / "float32.tflite", exports.rows))
    assert parity.max_rel < 1e-3
    content = flatbuffer.read(file)
    assert set(content.signature(content.entry()).input_names) == {"input_ids", "attention_mask"}


# Ranges of quantization-aware training ---------------------------------------------------------------------------------

OTHERS = ("distilbert", "gpt2")


@dataclass(frozen=True)
class Rounded:
    """An int8 file with integers in matrix products, beside its float32 one and the checkpoint, and what it took of `ranges`."""

    file: Path
    taken: Taken
    ranges: TrainedRanges


@pytest.fixture(scope="module")
def rounded(exports: Exports, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Rounded]:
    """Through ONNX, and through litert-torch where it is installed, by architecture."""
    folders, worker = dict(exports.folders), Worker(timeout_s=300)
    if importlib.util.find_spec("litert_torch") is not None:
        folders |= worker.run(architectures.save_others, tmp_path_factory.mktemp("litert"), exports.rows).value
    made = {}
    for name, ranges in worker.run(architectures.ranges, folders, exports.rows).value.items():
        model = folders[name] / "float32.tflite"
        calibration, trained, file = (folders[name] / part for part in ("calibration", "trained", "int8.tflite"))
        calibrate(model, exports.rows, calibration)
        taken = take_ranges(model, calibration, ranges, trained)
        write_integer(model, trained, file, Form("matrix products", ops=PRODUCTS))
        made[name] = Rounded(file, taken, ranges)
    return made


def _of(rounded: dict[str, Rounded], name: str) -> Rounded:
    if name not in rounded:
        pytest.skip("needs litert-torch (extra litert)")
    return rounded[name]


def _products(file: Path) -> Iterator[tuple[flatbuffer.Tensor, flatbuffer.Tensor, str]]:
    """Input and output of each fully connected op of an int8 file, and the digest of its weights in the float32 file."""
    digests = {
        graph.tensors[operator.outputs[0]].name: digest(constant(operator.inputs[1]))
        for graph, operator, constant in operators(prepare(file.with_name("float32.tflite").read_bytes()))
        if operator.name == "FULLY_CONNECTED"
    }
    graph = flatbuffer.read(file).subgraphs[0]
    for operator in graph.operators:
        if operator.name == "FULLY_CONNECTED":
            output = graph.tensors[operator.outputs[0]]
            found = next(value for name, value in digests.items() if output.name.startswith(name))
            yield graph.tensors[operator.inputs[0]], output, found


def _grid(low: float, high: float) -> tuple[Any, int]:
    return pytest.approx((high - low) / 255, rel=1e-5), round(-128 - low * 255 / (high - low))


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_every_layer_finds_its_op_and_the_op_has_its_ranges(rounded: dict[str, Rounded], name: str) -> None:
    made = _of(rounded, name)
    assert (made.taken.left, made.taken.unmatched) == ((), ())
    layers = {layer.weight_sha256: (module, layer) for module, layer in made.ranges.layers.items()}
    products = list(_products(made.file))
    assert len(products) == len(layers)
    for given, output, weights in products:
        module, layer = layers[weights]
        if module == "pre_classifier":
            assert output.zero_point == -128, "a RELU behind it leaves nothing below 0, and is one tensor with the next one's input"
        else:
            assert (output.scale, output.zero_point) == _grid(*layer.output), module
        if "pre_classifier" not in made.ranges.layers or module != "classifier":
            assert (given.scale, given.zero_point) == _grid(*layer.input), module


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_each_op_computes_what_its_layer_does_with_rounding(rounded: dict[str, Rounded], exports: Exports, name: str) -> None:
    made = _of(rounded, name)
    layers = {layer.weight_sha256: module for module, layer in made.ranges.layers.items()}
    data, content = made.file.read_bytes(), flatbuffer.read(made.file)
    places = {tensor.name: place for place, tensor in enumerate(content.subgraphs[0].tensors)}
    found = Tensors(data, content.entry(), list(places.values())).run(next(iter(Samples.load(exports.rows))))

    def real(tensor: flatbuffer.Tensor) -> np.ndarray:
        values = (found(places[tensor.name]).astype(np.float32) - (tensor.zero_point or 0)) * np.float32(tensor.scale)
        return values.astype(np.float32)

    products = {layers[weights]: (given, output) for given, output, weights in _products(made.file)}
    inputs = {module: real(given) for module, (given, _) in products.items()}
    expected = Worker(timeout_s=100).run(architectures.layer_outputs, made.file.parent, made.ranges, inputs).value
    for module, (_, output) in products.items():
        wanted = np.maximum(expected[module], 0) if module == "pre_classifier" else expected[module]
        low, high = made.ranges.layers[module].output
        step = (high - low) / 255
        given = real(output).reshape(wanted.shape)
        # The next layer's input is the same tensor; dropout in between widened its range.
        away = np.abs((np.minimum(given, high) if module == "pre_classifier" else given) - wanted)
        assert away.max() < 1.01 * step, module
        assert module == "pre_classifier" or (away > 0.5 * step).mean() < 0.05, "only what lies between two steps may differ"


def test_a_file_that_the_interpreter_does_not_load_is_the_bridges_fault(tmp_path: Path) -> None:
    file = tmp_path / "float32.tflite"
    file.write_bytes(b"no kernel for this" * 10)
    with pytest.raises(UnsupportedOpError, match=r"^bert: .*\(not a .tflite file .*$") as caught:
        require_kernels(file, Path("bert"))
    assert str(tmp_path) not in str(caught.value)
