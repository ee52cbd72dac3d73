"""Every kind of file is described, loaded and run alike, and a broken one is told from a missing one."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgekit.errors import CheckpointError, EdgekitError, ModelFormatError
from edgekit.measure.runtimes import Runtime, describe, load, runtime_of
from tests.unit.measure.files import fully_connected, linear_onnx, ort_of

ROW = np.array([[2.0, -1.0, 0.5]], np.float32)
WEIGHTS = [[1.0, 0.0, 0.0], [0.0, 1.0, 2.0]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    room = tmp_path_factory.mktemp("runtimes")
    fully_connected(room / "model.tflite", WEIGHTS)
    ort_of(linear_onnx(room / "model.onnx", WEIGHTS))
    for name in ("broken.onnx", "broken.ort", "broken.pt"):
        (room / name).write_bytes((room / "model.onnx").read_bytes()[:50])
    return room


@pytest.mark.parametrize(
    ("name", "runtime", "parameters", "partitions"),
    [("model.tflite", Runtime.LITERT, 6, 1), ("model.onnx", Runtime.ONNX, 6, None), ("model.ort", Runtime.ONNX, None, None)],
)
def test_describes_and_runs(folder: Path, name: str, runtime: Runtime, parameters: int | None, partitions: int | None):
    found = describe(folder / name)
    assert (found.runtime, found.parameters, found.files) == (runtime, parameters, (folder / name,))
    assert found.signature.input_names == ("features",)
    model = load(folder / name, 1)
    assert model.signature == found.signature
    model.set_inputs({"features": ROW})
    model.invoke()
    assert next(iter(model.outputs().values())).tolist() == [[2.0, 0.0]]
    assert model.partitions == partitions
    assert model.load_ms > 0


def test_onnx_casts_ignores_surplus_and_names_what_is_missing(folder: Path):
    model = load(folder / "model.onnx", 1)
    model.set_inputs({"features": ROW.astype(np.float64), "token_type_ids": ROW})
    model.invoke()
    assert next(iter(model.outputs().values())).tolist() == [[2.0, 0.0]]
    with pytest.raises(ModelFormatError, match="input features is not in the data, which has other"):
        model.set_inputs({"other": ROW})


def test_threads_reach_onnx_runtime(folder: Path, monkeypatch: pytest.MonkeyPatch):
    import onnxruntime

    asked = []
    real = onnxruntime.InferenceSession

    def opened(path, options, **rest):
        asked.append(options.intra_op_num_threads)
        return real(path, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)
    load(folder / "model.onnx", 3)
    assert asked == [3]


@pytest.mark.parametrize("name", ["broken.onnx", "broken.ort", "broken.pt"])
def test_a_broken_file_is_one_line_that_names_it(folder: Path, name: str):
    with pytest.raises(ModelFormatError) as raised:
        describe(folder / name)
    assert str(raised.value).startswith(str(folder / name))
    assert "\n" not in str(raised.value)


def test_external_weights_count_in_size(tmp_path: Path):
    linear_onnx(tmp_path / "model.onnx", WEIGHTS, external=True)
    found = describe(tmp_path / "model.onnx")
    assert found.files == (tmp_path / "model.onnx", tmp_path / "model.data")
    assert found.parameters == 6


def test_checkpoint_parameters_come_from_the_headers(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "num_labels": 3}))
    with pytest.raises(CheckpointError, match="holds no weights"):
        describe(tmp_path)
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "ids": {"dtype": "I64", "shape": [100], "data_offsets": [24, 824]},
        "scale": {"dtype": "F16", "shape": [], "data_offsets": [824, 826]},
    }
    text = json.dumps(header).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(826))
    found = describe(tmp_path)
    assert (found.runtime, found.parameters, found.files) == (Runtime.PYTORCH, 7, (file,))
    assert found.signature.input_names == ("input_ids", "attention_mask")
    assert found.signature.outputs[0].shape == (1, 3)
    file.write_bytes(b"no header")
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        describe(tmp_path)


def test_nothing_is_an_input_error(tmp_path: Path):
    with pytest.raises(EdgekitError, match="no such file") as raised:
        runtime_of(tmp_path / "gone.onnx")
    assert raised.value.exit_code == 3


def test_a_tflite_file_needs_no_torch_and_no_tensorflow(folder: Path):
    code = (
        "import sys; from pathlib import Path; from edgekit.measure import runtimes; path = Path(sys.argv[1]);"
        "runtimes.prepare(path); runtimes.describe(path); runtimes.load(path, 1);"
        "print(sorted({'torch', 'tensorflow', 'onnxruntime'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code, str(folder / "model.tflite")], capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "[]", run.stderr
