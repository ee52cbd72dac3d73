"""From a source to files that agree with it: ONNX files of others, `edgekit export`, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from edgekit.data.samples import Samples, random_samples
from edgekit.data.text import token_specs
from edgekit.errors import CheckpointError, EdgekitError, ModelFormatError, OutputError, RefusedError, UnsupportedOpError
from edgekit.models.checkpoint import Checkpoint
from edgekit.models.linear8 import KEY
from edgekit.models.source import classify
from edgekit.spec import DataSpec
from edgekit.stages.export.compact import CompactExport
from edgekit.stages.export.incoming import Fixes
from edgekit.stages.export.onnx import run_onnx
from edgekit.stages.export.ort import export_ort
from edgekit.system.worker import Worker
from edgekit.tasks.judgement import judge
from edgekit.tasks.parity import Parity, compare
from edgekit.workflows.convert.bridge import finish, from_file
from edgekit.workflows.convert.config import Bridge, ConvertConfig
from edgekit.workflows.convert.conversion import convert
from edgekit.workflows.export import ExportConfig, Format, _judge, export
from tests.unit.stages.export import graphs

FLOAT = ConvertConfig(schemes=("float32",))


def serve(folder: Path) -> None:
    """In a child: a SavedModel without a signature, one whose batch is free, and a Keras 2 model with and without its graph."""
    import tensorflow as tf
    import tf_keras

    class Double(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
        def call(self, x: Any) -> dict[str, Any]:
            return {"z": x * 2, "a": x + 1}

    double = Double()
    tf.saved_model.save(double, str(folder / "unsigned"), signatures={})
    tf.saved_model.save(double, str(folder / "signed"), signatures={"serving_default": double.call})
    model = tf_keras.Sequential([tf_keras.layers.Input((4, 4, 2)), tf_keras.layers.Conv2D(3, 2), tf_keras.layers.Flatten()])
    model.save(folder / "model.h5")
    model.save_weights(folder / "weights.h5")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    Worker(timeout_s=120).run(serve, folder)
    return folder


def prune(source: Path, folder: Path) -> None:
    """In a child: three heads and one, two FFN widths."""
    import torch

    from edgekit.models import architectures
    from edgekit.models.checkpoint import Checkpoint, copy_tokenizer
    from edgekit.models.weights import load_model

    torch.manual_seed(0)
    model = load_model(Checkpoint.read(source))
    kept = [
        architectures.Kept(0, (0, 1, 3), (tuple(range(64)),)),
        architectures.Kept(1, (2,), (tuple(range(16, 112)),)),
    ]
    architectures.keep(model, kept)
    model.save_pretrained(folder)
    copy_tokenizer(source, folder)
    (folder / "pruning_plan.json").write_text("{}")


@pytest.fixture(scope="module")
def pruned_bert(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pruned") / "bert"
    Worker(timeout_s=120).run(prune, tiny_bert, folder)
    return folder


TOLERANCES = {Format.FLOAT16: 1e-2, Format.INT8: 0.1}
TOKENIZER = {"tokenizer.json", "tokenizer_config.json"}


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


@pytest.mark.parametrize("kind", list(Format))
def test_export_publishes_what_agrees_with_pytorch(pruned_bert: Path, tiny_tsv: Path, tmp_path: Path, kind: Format) -> None:
    compact = kind in (Format.FLOAT16, Format.INT8)
    out = tmp_path / ("saved" if compact or kind is Format.SAVED_MODEL else f"model.{kind}")
    made = export(str(pruned_bert), out, ExportConfig(kind, DataSpec(str(tiny_tsv)), 16))
    if compact:
        assert visible(tmp_path) == {"saved"}
        assert visible(out) == {"config.json", "model.safetensors", "edgekit.json", "pruning_plan.json", *TOKENIZER}
    elif kind is Format.SAVED_MODEL:
        assert visible(tmp_path) == {"saved", "saved.json"}
        assert visible(out) >= TOKENIZER
    else:
        assert visible(tmp_path) == {out.name, f"{out.name}.json", *TOKENIZER}
        assert (tmp_path / "tokenizer.json").read_bytes() == (pruned_bert / "tokenizer.json").read_bytes()
    manifest = json.loads((out / "edgekit.json" if compact else tmp_path / f"{out.name}.json").read_text())
    assert manifest["kind"] == ("checkpoint" if compact else kind)
    assert manifest["sha256"] == made.sha256
    measured = manifest["measured"]
    for parity in measured["parity"].values():
        assert parity["max_rel"] < TOLERANCES.get(kind, 1e-3)
    assert ("drop" in measured) == (kind is Format.INT8)
    if kind is Format.ORT:
        assert out.read_bytes()[4:8] == b"ORTM"
        assert measured["parity"]["ONNX to ORT"]["max_rel"] < 1e-5
        assert run_onnx(out, random_samples(token_specs(16, segments=False), 2))["logits"].shape == (2, 2)
    with pytest.raises(OutputError, match="exists already"):
        export(str(pruned_bert), out, ExportConfig(kind, max_length=16))


def test_an_exported_onnx_file_converts_like_its_checkpoint(tiny_bert: Path, tmp_path: Path) -> None:
    out, rows = tmp_path / "bert.onnx", tmp_path / "rows"
    export(str(tiny_bert), out, ExportConfig(Format.ONNX, max_length=16))
    random_samples(token_specs(16, segments=False), 16).save(rows)
    worker, source = Worker(timeout_s=300), classify(str(out))
    made = from_file(source, Bridge.TF, 16, Fixes(), tmp_path, worker)
    finish(source, made, rows, tmp_path, worker)
    assert made.parity["onnx to float32 .tflite"].max_rel < 1e-3


def test_what_is_no_onnx_file_becomes_no_ort_file(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(UnsupportedOpError, match="cannot write it as ORT"):
        Worker(timeout_s=60).run(export_ort, tmp_path / "bad.onnx", tmp_path, tmp_path / "bad.ort")


def test_another_models_tokenizer_is_not_replaced(tiny_bert: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(OutputError, match="another model's tokenizer"):
        export(str(tiny_bert), tmp_path / "bert.onnx", ExportConfig(Format.ONNX, max_length=16))
    assert (tmp_path / "tokenizer.json").read_text() == "{}"


def test_an_8_bit_checkpoint_names_its_parent_where_it_cannot_be_used(tmp_path: Path) -> None:
    config = {"model_type": "bert", KEY: {"bits": 8, "backend": "torchao", "parent": "/models/first"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for use in (
        lambda: classify(str(tmp_path)),
        lambda: export(str(tmp_path), tmp_path / "new" / "a.onnx"),
    ):
        with pytest.raises(CheckpointError, match="quantized to 8 bits, so it cannot be .*; give .* made from, /models/first$"):
            use()
    assert not (tmp_path / "new").exists()


def decided(labels: bool) -> CompactExport:
    """20 rows, 4 of which get another class."""
    reference = np.stack([np.arange(20) % 2, 1 - np.arange(20) % 2], axis=1).astype(np.float32) * 2 - 1
    outputs = reference.copy()
    outputs[:4] *= -1
    rows = Samples({"x": outputs}, reference.argmax(axis=1) if labels else None, task="text-classification")
    return CompactExport(compare(outputs, reference), judge({"logits": outputs}, rows, {"logits": reference}))


@pytest.mark.parametrize(
    ("labels", "words"), [(True, "loses 20.0 points of accuracy"), (False, "decides otherwise .* on 20.0 % of 20 decisions")]
)
def test_8_bits_that_change_too_many_decisions_are_refused(tiny_bert: Path, labels: bool, words: str) -> None:
    config, checkpoint = ExportConfig(Format.INT8, DataSpec("rows.tsv"), max_drop=0.1), Checkpoint.read(tiny_bert)
    with pytest.raises(RefusedError, match=words):
        _judge(decided(labels), checkpoint, config)
    assert _judge(decided(labels), checkpoint, replace(config, max_drop=0.2))["agreement"].value == 0.8


def test_representative_rows_of_a_fixed_batch_are_whole_inputs(tmp_path: Path) -> None:
    file, data = tmp_path / "two.onnx", tmp_path / "rows.npz"
    onnx.save(graphs.convolution(), file)
    np.savez(data, images=np.random.default_rng(0).standard_normal((24, 2, 6, 5, 4)).astype(np.float32))
    config = ConvertConfig(schemes=("float32", "dynamic"), data=DataSpec(str(data)), representative_samples=12, max_drop=None)
    found = convert(str(file), tmp_path / "out", config)
    assert [result.scheme for result in found.results if result.path] == ["float32", "dynamic"], found.refusals
    assert found.data.startswith("12 rows")


@pytest.mark.parametrize("name", ["signed", "model.h5"])
def test_tensorflow_models_keep_their_outputs(sources: Path, tmp_path: Path, name: str) -> None:
    found = convert(str(sources / name), tmp_path, FLOAT)
    assert found.results[0].path is not None
    parities: dict[str, Parity] = found.float_model.parity
    assert [parity.max_rel < 1e-6 for parity in parities.values()] == [True]


def broken(folder: Path, sources: Path, kind: str) -> Path:
    file = folder / f"model{'.h5' if 'h5' in kind else '.onnx'}"
    if kind == "a text file as .onnx":
        file.write_text("This is not a model.\n")
    elif kind == "a truncated .onnx":
        file.write_bytes(graphs.convolution().SerializeToString()[:-40])
    elif kind == "an unknown op":
        onnx.save(graphs.model([helper.make_node("Magic", ["x"], ["y"], domain="com.me")], {"x": (1, 2)}, {"y": (1, 2)}), file)
    elif kind == "a text file as .h5":
        file.write_text("This is not a model.\n")
    elif kind == "weights alone as .h5":
        return sources / "weights.h5"
    elif kind == "an unsigned SavedModel":
        return sources / "unsigned"
    elif kind == "a damaged SavedModel":
        file = folder / "damaged"
        file.mkdir()
        (file / "saved_model.pb").write_text("This is not a model.\n")
    return file


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("a text file as .onnx", ModelFormatError, "not an ONNX model"),
        ("a truncated .onnx", ModelFormatError, "not a"),
        ("an unknown op", UnsupportedOpError, "op com.me.Magic"),
        ("a text file as .h5", ModelFormatError, "not an HDF5 file"),
        ("weights alone as .h5", ModelFormatError, "holds weights alone"),
        ("an unsigned SavedModel", ModelFormatError, "no signature"),
        ("a damaged SavedModel", ModelFormatError, "TensorFlow cannot load it"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(
    tmp_path: Path, sources: Path, kind: str, error: type[EdgekitError], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    file = broken(tmp_path, sources, kind)
    with pytest.raises(error, match=words) as caught:
        convert(str(file), tmp_path / "out", FLOAT)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert not [*(tmp_path / "out").glob("[!.]*")]
