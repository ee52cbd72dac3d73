import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgekit.errors import CheckpointError, ModelFormatError
from edgekit.models.source import Kind
from edgekit.models.structure.base import Weights
from edgekit.spec import TensorSpec
from edgekit.stages.export import graph, incoming
from edgekit.system.serial import to_json
from edgekit.system.worker import Worker
from edgekit.tflite.inspect import Summary
from edgekit.workflows.inspect import SourceInput, SourceSummary, _in_child, describe, inspect
from tests.commands import environment
from tests.unit import classifiers
from tests.unit.stages.export import graphs
from tests.unit.workflows import models

HEAVY = {"torch", "tensorflow", "tf_keras", "keras", "transformers", "onnx", "onnxruntime", "h5py"}


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models: .h5, SavedModel, .keras, .pt2, .onnx."""
    folder = tmp_path_factory.mktemp("kinds")
    Worker(timeout_s=300).run(models.write_keras_kinds, folder)
    Worker(timeout_s=300).run(models.write_program, folder / "model.pt2")
    onnx.save(mixed(), folder / "model.onnx")
    return folder


def mixed() -> onnx.ModelProto:
    """An image, tokens and a table whose sizes are free in part, in dtypes that a conversion keeps or changes."""
    made = graphs.model(
        [
            helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
            helper.make_node("Cast", ["ids"], ["tokens"], to=TensorProto.FLOAT),
            helper.make_node("Cast", ["table"], ["y"], to=TensorProto.FLOAT),
        ],
        {"image": ("batch", 3, "height", 8), "ids": ("batch", "length"), "table": ("batch", 4)},
        {"y": ("batch", 4), "pooled": ("batch", 3, 1, 1), "tokens": ("batch", "length")},
    )
    for item, dtype in zip(made.graph.input, (TensorProto.FLOAT16, TensorProto.INT64, TensorProto.DOUBLE), strict=True):
        item.type.tensor_type.elem_type = dtype
    made.graph.output[1].type.tensor_type.elem_type = TensorProto.FLOAT16
    return made


def source(path: Path) -> SourceSummary:
    summary = inspect(path)
    assert isinstance(summary, SourceSummary)
    assert json.loads(to_json(summary))["kind"] == summary.kind
    return summary


def test_onnx(kinds: Path) -> None:
    summary = source(kinds / "model.onnx")
    assert summary.inputs == (
        SourceInput(
            "image", "float16", ("batch", 3, "height", 8), TensorSpec("image", (1, -1, 8, 3), "float32"), channels_last=True
        ),
        SourceInput("ids", "int64", ("batch", "length"), TensorSpec("ids", (1, 64), "int64"), token_axis=1),
        SourceInput("table", "float64", ("batch", 4), TensorSpec("table", (1, 4), "float32")),
    )
    assert summary.command == f"edgekit convert {kinds}/model.onnx --scheme dynamic --input-shape image=1,3,?,8"
    assert (summary.task, summary.labelled_task) == ("generic", "tabular-classification")
    text = describe(summary)
    assert "input  image: float16 [batch, 3, height, 8]\n         converted: float32 [1, ?, 8, 3], channels last" in text
    assert "converted: int64 [1, 64], 64 by --max-length" in text
    assert "image float32 (rows, ?, 8, 3), ids int64 (rows, 64), table float32 (rows, 4)" in " ".join(text.split())


@pytest.mark.parametrize(
    ("shape", "op", "attributes"),
    [
        ((1, 4, 6), "Conv", {}),
        ((1, 4, 4), "Conv", {}),
        ((1, 4, 6, 6, 8), "MaxPool", {"kernel_shape": [2, 2, 2]}),
        ((1, 4, 6), "MaxPool", {"kernel_shape": [2], "dilations": [2]}),
        ((1, 3, 6, 8), "Relu", {}),
        ((1, 5, 6, 8), "Relu", {}),
    ],
)
def test_the_layout_is_that_of_the_conversion(tmp_path: Path, shape: tuple[int, ...], op: str, attributes: dict[str, Any]) -> None:
    weights = {"w": np.ones((4, 4, 3), np.float32)} if op == "Conv" else {}
    node = helper.make_node(op, ["x", *weights], ["y"], **attributes)
    free = tuple(f"axis_{axis}" for axis in range(len(shape)))
    onnx.save(graphs.model([node], {"x": shape}, {"y": free}, weights), tmp_path / "model.onnx")
    _, real = incoming.prepare(tmp_path / "model.onnx", tmp_path, foreign=True, max_length=64)
    moved = tuple(item.name for item in source(tmp_path / "model.onnx").inputs if item.channels_last)
    assert moved == real.channels_last


def test_a_file_without_shapes_is_not_converted(tmp_path: Path) -> None:
    made = graphs.model([helper.make_node("Relu", ["x"], ["y"])], {"x": (1,)}, {"y": None})
    made.graph.input[0].type.tensor_type.ClearField("shape")
    (tmp_path / "model.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(ModelFormatError):
        graph.read(tmp_path / "model.onnx")
    summary = source(tmp_path / "model.onnx")
    assert summary.inputs[0].converted is None
    assert summary.command is None
    assert "not convertible: input x and output y have no shape; export it with shapes" in describe(summary)


def test_the_command_is_quoted(tmp_path: Path) -> None:
    made = graphs.model([helper.make_node("Relu", ["the x"], ["y"])], {"the x": (1, 4, "n")}, {"y": (1, 4, "n")})
    onnx.save(made, tmp_path / "a model.onnx")
    assert source(tmp_path / "a model.onnx").command == (
        f"edgekit convert '{tmp_path}/a model.onnx' --scheme dynamic --input-shape 'the x'=1,4,?"
    )


def test_saved_model(kinds: Path) -> None:
    summary = source(kinds / "saved")
    assert summary.kind is Kind.SAVED_MODEL
    assert [(item.shape, item.converted.shape if item.converted else None) for item in summary.inputs] == [
        (("?", 8, 8, 3), (1, 8, 8, 3))
    ]
    assert summary.outputs[0].shape == ("?", 10)
    assert {"Conv2D": 1, "DepthwiseConv2dNative": 1, "MatMul": 1}.items() <= {op.name: op.count for op in summary.ops}.items()
    # 448 + 160 + 170 of the layers, and the axes of a mean.
    assert summary.weights[0] == Weights("float32", 6, 778, 4 * 778)
    assert (
        summary.size_bytes
        == sum(file.stat().st_size for file in (kinds / "saved").rglob("*") if file.is_file() and file.suffix != ".pb")
        + (kinds / "saved/saved_model.pb").stat().st_size
    )
    assert summary.labelled_task == "image-classification"


def test_keras_2(kinds: Path) -> None:
    summary = source(kinds / "model.h5")
    assert summary.kind is Kind.KERAS
    assert summary.inputs[0].converted == TensorSpec("image", (1, 8, 8, 3), "float32")
    assert {op.name: op.count for op in summary.ops} == {"Conv2D": 1, "Dense": 1, "DepthwiseConv2D": 1, "GlobalAveragePooling2D": 1}
    assert summary.weights == (Weights("float32", 6, 778, 4 * 778),)
    assert [tensor.shape for tensor in summary.outputs] == [("?", 10)]


def test_keras_3(kinds: Path) -> None:
    summary = source(kinds / "model.keras")
    assert summary.kind is Kind.KERAS_3
    assert summary.form == "Keras 3 archive, Functional"
    assert [(item.name, item.shape) for item in summary.inputs] == [("image", ("?", 8, 6, 3))]
    assert summary.outputs[0].shape == ("?", 5)
    assert summary.weights == (Weights("float32", 4, 137, 548),)
    assert summary.labelled_task == "image-classification"
    free = source(kinds / "free.keras")
    assert [(item.name, item.dtype, item.shape) for item in free.inputs] == [
        ("first", "float32", ("?", 4)),
        ("second", "float16", ("?", "?", 4)),
    ]
    assert free.command is None
    assert "input second has the free shape [?, ?, 4]; save the model with a fixed one" in free.obstacles
    assert "before its inputs were known" in source(kinds / "unbuilt.keras").obstacles[0]


def test_torch_program(kinds: Path) -> None:
    summary = source(kinds / "model.pt2")
    assert summary.kind is Kind.PROGRAM
    (name, dtype, shape) = (summary.inputs[0].name, summary.inputs[0].dtype, summary.inputs[0].shape)
    assert (name, dtype) == ("x", "float32")
    assert shape is not None
    assert shape[1:] == (3, 9, 7)
    assert isinstance(shape[0], str)
    assert [tensor.dtype for tensor in summary.outputs] == ["float32", "int64"]
    assert {op.name: op.count for op in summary.ops}["conv2d.default"] == 1
    assert summary.weights == (Weights("float32", 4, 269, 1076), Weights("int64", 1, 4, 32))
    assert f"{shape[0]} is 2 to 8" in summary.remarks
    # A batch of 1, which this one does not take.
    assert summary.inputs[0].converted == TensorSpec("x", (2, 9, 7, 3), "float32")
    assert summary.inputs[0].channels_last


def test_checkpoint(tiny_bert: Path, tmp_path: Path) -> None:
    summary = source(tiny_bert)
    assert (summary.kind, summary.task) == (Kind.CHECKPOINT, "text-classification")
    assert [item.converted for item in summary.inputs] == [
        TensorSpec(name, (1, 64), "int32") for name in ("input_ids", "attention_mask")
    ]
    assert summary.command == f"edgekit convert {tiny_bert} --scheme dynamic"
    assert summary.size_bytes == sum(file.stat().st_size for file in tiny_bert.iterdir())
    assert "labels: negative, positive" in summary.remarks
    assert summary.weights[0].data_bytes < (tiny_bert / "model.safetensors").stat().st_size
    shutil.copytree(tiny_bert, tmp_path / "other")
    config = json.loads((tmp_path / "other/config.json").read_text())
    config |= {"architectures": ["BertForNextSentencePrediction"], "max_position_embeddings": 32}
    (tmp_path / "other/config.json").write_text(json.dumps(config))
    other = source(tmp_path / "other")
    assert other.command is None
    assert "its head is a BertForNextSentencePrediction" in other.obstacles[0]
    assert other.inputs[0].converted == TensorSpec("input_ids", (1, 32), "int32")


def test_a_tflite_file_is_told_as_before(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(classifiers.text_classifier())
    (tmp_path / "model.bin").write_bytes(classifiers.text_classifier())
    for name in ("model.tflite", "model.bin"):
        assert isinstance(inspect(tmp_path / name, probe=False), Summary)


def test_broken_files_of_each_kind_end_in_one_line(kinds: Path, tiny_bert: Path, tmp_path: Path) -> None:
    for name in ("model.onnx", "model.h5", "model.keras", "model.pt2"):
        content = (kinds / name).read_bytes()
        for number, damaged in enumerate((b"", b"words", content[: len(content) // 2], content[:-30])):
            file = tmp_path / f"{number}{name}"
            file.write_bytes(damaged)
            with pytest.raises(ModelFormatError) as raised:
                inspect(file)
            assert raised.value.message.startswith(f"{file}: "), raised.value
            assert raised.value.exit_code == 3
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved/saved_model.pb").write_bytes((kinds / "saved/saved_model.pb").read_bytes()[:-100])
    with pytest.raises(ModelFormatError, match="not a whole SavedModel"):
        inspect(tmp_path / "saved")
    shutil.copytree(tiny_bert, tmp_path / "checkpoint")
    weights = tmp_path / "checkpoint/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="should end at byte"):
        inspect(tmp_path / "checkpoint")


def test_archives_that_lie_are_refused(kinds: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match="TorchScript"):
        inspect(kinds / "script.pt2")
    for name, member in (("model.keras", "config.json"), ("model.pt2", "m/models/model.json")):
        for content, says in ((" " * 2**25, "unpacks to more than 8 MB"), ("[" * 10**5, "nested too deeply"), ("{}", "not known")):
            with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(member, content)
            with pytest.raises(ModelFormatError, match=says):
                inspect(tmp_path / name)


def test_a_crash_of_what_reads_a_file_is_told_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "model.h5").write_bytes(b"")
    with pytest.raises(ModelFormatError, match=r"model\.h5: damaged: what reads it crashed"):
        _in_child(models.crash, tmp_path / "model.h5")


def test_what_was_left_behind_is_told(kinds: Path, tmp_path: Path) -> None:
    shutil.copytree(kinds / "saved", tmp_path / "saved")
    shutil.rmtree(tmp_path / "saved/variables")
    assert source(tmp_path / "saved").obstacles == ("its variables are not there; copy the whole folder",)
    with pytest.raises(ModelFormatError, match="no such file"):
        inspect(tmp_path / "nowhere.onnx")
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        inspect(tmp_path / "folder")


def test_no_framework_is_loaded(kinds: Path, tiny_bert: Path) -> None:
    code = (
        "import sys; from edgekit.workflows.inspect import describe, inspect\nfor name in sys.argv[1:]: describe(inspect(name))\n"
    )
    files = [*(kinds / name for name in ("model.onnx", "saved", "model.h5", "model.keras", "model.pt2")), tiny_bert]
    said = subprocess.run(
        [sys.executable, "-c", f"{code}print(*sys.modules)", *map(str, files)],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    )
    assert not HEAVY & {name.split(".")[0] for name in said.stdout.split()}


def test_lines_fit_a_terminal(kinds: Path) -> None:
    for name in ("model.onnx", "saved", "model.h5", "model.keras", "free.keras", "model.pt2"):
        lines = describe(source(kinds / name)).splitlines()
        assert [line for line in lines if len(line) > 80 and str(kinds) not in line] == []
