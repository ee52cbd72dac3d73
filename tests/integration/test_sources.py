"""`convert` of what Keras 3 and torch.export write, as files and from a Python that has the model in memory."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.errors import ConfigError, InputError
from edgekit.spec import DataSpec
from edgekit.stages.quantize.schemes import SCHEMES
from edgekit.system.worker import Worker
from edgekit.tflite.interpreter import Model
from edgekit.workflows.convert.config import Bridge, ConvertConfig
from edgekit.workflows.convert.conversion import convert
from tests.commands import environment
from tests.integration import sources


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that `sources` writes; rows for the images channels last and first, and for the steps."""
    made = tmp_path_factory.mktemp("sources")
    Worker(timeout_s=300).run(sources.write_keras_3, made)
    Worker(timeout_s=300).run(sources.write_programs, made)
    draw = np.random.default_rng(0)
    images = draw.standard_normal((64, 8, 8, 3)).astype(np.float32)
    np.savez(made / "last.npz", image=images)
    np.savez(made / "first.npz", image=np.ascontiguousarray(np.moveaxis(images, -1, 1)))
    np.savez(made / "steps.npz", x=draw.standard_normal((64, 6, 4)).astype(np.float32))
    return made


def ends(file: Path | None) -> list[tuple[str, tuple[int, ...]]]:
    assert file is not None
    signature = Model(file).signature
    return [(spec.name, spec.shape) for spec in (*signature.inputs, *signature.outputs)]


@pytest.mark.parametrize(
    ("name", "rows", "shape", "kind"),
    [("image.keras", "last", (1, 8, 8, 3), "keras-3"), ("image.pt2", "first", (1, 3, 8, 8), "torch-program")],
)
def test_an_image_model_becomes_all_schemes_in_its_own_layout(folder, tmp_path, name, rows, shape, kind):
    data = DataSpec(str(folder / f"{rows}.npz"))
    config = ConvertConfig(schemes=("all",), data=data, representative_samples=32, max_drop=None, search_seconds=0.0)
    done = convert(str(folder / name), tmp_path, config)
    assert done.refusals == ()
    assert sorted(file.name for file in tmp_path.glob("*.tflite")) == sorted(f"image_{scheme}.tflite" for scheme in SCHEMES)
    for result in done.published:
        assert ends(result.path) == [("image", shape), ("scores", (1, 10))]
    assert list(done.float_model.parity) == [f"{kind} to float32 .tflite"]
    assert done.float_model.parity[f"{kind} to float32 .tflite"].max_rel <= 1e-4


@pytest.mark.parametrize(("name", "outputs"), [("steps.keras", ["last"]), ("steps.pt2", ["output_0", "output_1_0", "output_1_1"])])
def test_recurrent_layers_are_true_in_float32(folder, tmp_path, name, outputs):
    done = convert(
        str(folder / name), tmp_path, ConvertConfig(schemes=("float32", "dynamic"), data=DataSpec(str(folder / "steps.npz")))
    )
    assert done.published[0].scheme == "float32"
    given, *made = ends(done.published[0].path)
    assert (given[1], [name for name, _ in made]) == ((1, 6, 4), outputs)
    assert next(iter(done.float_model.parity.values())).max_rel <= 1e-4


def test_a_program_takes_the_second_road_in_the_same_layout(folder, tmp_path):
    config = ConvertConfig(schemes=("float32",), bridge=Bridge.DIRECT, input_shapes={"image": (2, 3, 8, 8)})
    done = convert(str(folder / "image.pt2"), tmp_path, config)
    assert ends(done.published[0].path) == [("image", (2, 3, 8, 8)), ("scores", (2, 10))]
    assert done.float_model.made_by[0] == "torch"


def test_options_that_a_source_does_not_have_are_told(folder, tmp_path):
    shapes = {"image": (1, 8, 8, 3)}
    with pytest.raises(ConfigError, match=r"image\.keras: --input-shape is for \.onnx and \.pt2 sources"):
        convert(str(folder / "image.keras"), tmp_path, ConvertConfig(schemes=("float32",), input_shapes=shapes))
    with pytest.raises(InputError, match=r"image\.pt2: --input-shape image=1,8,8,3 does not fit image=\?,3,8,8"):
        convert(str(folder / "image.pt2"), tmp_path, ConvertConfig(schemes=("float32",), input_shapes=shapes))
    with pytest.raises(ConfigError, match=r"image\.pt2: --bridge tf is not for torch-program; give litert or direct"):
        convert(str(folder / "image.pt2"), tmp_path, ConvertConfig(schemes=("float32",), bridge=Bridge.TF))
    with pytest.raises(ConfigError, match=r"image\.pt2: example_inputs and name are for models in memory"):
        convert(str(folder / "image.pt2"), tmp_path, ConvertConfig(schemes=("float32",)), name="other")
    assert list(tmp_path.glob("image*")) == []


def answers(code: str, folder: Path) -> Any:
    """What a Python that has loaded a framework says, as JSON on its last line."""
    start = "import edgekit, json\nCONFIG = edgekit.ConvertConfig(schemes=('float32',))\n"
    done = subprocess.run(
        [sys.executable, "-c", start + code],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_torch_module_and_its_example_inputs(tmp_path):
    code = """
import numpy as np, torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution, self.dropout = torch.nn.Conv1d(1, 4, 5), torch.nn.Dropout()

    def forward(self, audio, gain=None):
        sound = self.dropout(self.convolution(audio[:, None])).mean(2)
        return {"level": sound if gain is None else sound * gain}

def ends(done):
    file = edgekit.inspect(done.published[0].path)
    return [done.published[0].path.name, [[end.name, end.shape] for end in (*file.signature.inputs, *file.signature.outputs)]]

def refusal(*arguments, **options):
    try:
        edgekit.convert(*arguments, "out", CONFIG, **options)
    except edgekit.EdgekitError as error:
        return [type(error).__name__, str(error)]

net = Net()
by_name = {"audio": np.zeros((1, 200), np.float32), "gain": torch.ones(1, 1)}
print(json.dumps([
    ends(edgekit.convert(net, "out", CONFIG, example_inputs=torch.zeros(1, 100))),
    ends(edgekit.convert(net, "out", CONFIG, example_inputs=by_name, name="two inputs")),
    net.training and net.dropout.training,
    refusal(net),
    refusal(net, example_inputs=(torch.zeros(2, 3, 4, 5),)),
    refusal(net.half(), example_inputs=torch.zeros(1, 100).half(), name="half"),
    refusal({}),
]))
"""
    first, second, still_training, no_example, wrong_example, half, no_model = answers(code, tmp_path)
    assert first == ["Net_float32.tflite", [["audio", [1, 100]], ["level", [1, 4]]]]
    assert second == ["two_inputs_float32.tflite", [["audio", [1, 200]], ["gain", [1, 1]], ["level", [1, 4]]]]
    assert still_training is True
    assert no_example == ["ConfigError", "Net: a torch module says nothing of its inputs; give example_inputs"]
    assert wrong_example[0] == "UnsupportedOpError" and wrong_example[1].startswith("Net: torch.export cannot trace it (")
    assert half == ["ModelFormatError", "half: input audio is float16; export the module in float32, after .float()"]
    assert no_model[1].startswith("dict: is no model that edgekit reads")
    parents = json.loads((tmp_path / "out" / "Net_float32.json").read_text())["parents"]
    assert list(parents) == ["Net.pt2"]


def test_a_keras_model_and_one_with_code_of_its_own(tmp_path):
    code = """
import keras

@keras.saving.register_keras_serializable("mine")
class Square(keras.layers.Layer):
    def call(self, values):
        return values * values

def ends(model, **options):
    done = edgekit.convert(model, "out", CONFIG, **options)
    return [done.published[0].path.name, done.source.kind, edgekit.inspect(done.published[0].path).signature.inputs[0].name]

layers = [keras.Input((4,), name="x"), keras.layers.Dense(3)]
print(json.dumps([ends(keras.Sequential(layers, name="plain")), ends(keras.Sequential([*layers, Square()]), name="own")]))
"""
    plain, own = answers(code, tmp_path)
    assert plain == ["plain_float32.tflite", "keras-3", "x"]
    assert own[:2] == ["own_float32.tflite", "saved-model"]
