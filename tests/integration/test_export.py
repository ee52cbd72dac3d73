"""From a source to files that agree with it: ONNX files of others, `edgekit export`, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from edgekit.bridge import check_source, classify, from_file, token_specs
from edgekit.convert import ConvertConfig, convert
from edgekit.data.samples import random_samples
from edgekit.errors import EdgekitError, ModelFormatError, OutputError, UnsupportedOpError
from edgekit.exporting import Format, export_checkpoint
from edgekit.parity import Parity
from edgekit.worker import Worker
from tests.unit.export import graphs

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


@pytest.mark.parametrize("kind", list(Format))
def test_export_publishes_what_agrees_with_pytorch(tiny_bert: Path, tiny_tsv: Path, tmp_path: Path, kind: Format) -> None:
    out = tmp_path / ("saved" if kind is Format.SAVED_MODEL else f"model.{kind}")
    made = export_checkpoint(str(tiny_bert), kind, out, max_length=16, dataset=str(tiny_tsv))
    assert out.exists()
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == sorted(
        {out.name, "saved.json" if kind is Format.SAVED_MODEL else "model.json"}
    )
    manifest = json.loads((tmp_path / f"{out.stem}.json").read_text())
    assert manifest["kind"] == kind
    assert manifest["sha256"] == made.sha256
    assert all(parity["max_rel"] < 1e-3 and parity["same_argmax"] == 1 for parity in manifest["measured"]["parity"].values())
    with pytest.raises(OutputError, match="exists already"):
        export_checkpoint(str(tiny_bert), kind, out, max_length=16)


def test_an_exported_onnx_file_converts_like_its_checkpoint(tiny_bert: Path, tmp_path: Path) -> None:
    out, rows = tmp_path / "bert.onnx", tmp_path / "rows"
    export_checkpoint(str(tiny_bert), Format.ONNX, out, max_length=16)
    random_samples(token_specs(16, pairs=False), 16).save(rows)
    worker, source = Worker(timeout_s=300), classify(str(out))
    made = from_file(source, 16, {}, tmp_path, worker)
    check_source(source, made, rows, tmp_path, worker)
    assert made.parity["onnx to float32 .tflite"].max_rel < 1e-3


def test_representative_rows_of_a_fixed_batch_are_whole_inputs(tmp_path: Path) -> None:
    file, data = tmp_path / "two.onnx", tmp_path / "rows.npz"
    onnx.save(graphs.convolution(), file)
    np.savez(data, images=np.random.default_rng(0).standard_normal((24, 2, 6, 5, 4)).astype(np.float32))
    config = ConvertConfig(schemes=("float32", "dynamic"), representative_data=str(data), representative_samples=12, max_drop=None)
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
        ("weights alone as .h5", ModelFormatError, "TensorFlow cannot load it"),
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
