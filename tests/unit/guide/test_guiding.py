"""A run of the guide on tiny stand-ins: all schemes measured, failures told, an earlier run's models kept."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgekit import guided, guiding
from edgekit.errors import CheckpointError, ConfigError, DatasetError, InputError, ModelFormatError, OutputError, RefusedError
from edgekit.guide.results import FILE_NAME, GuideRun
from edgekit.guide.table import markdown
from edgekit.guided import GuideConfig
from edgekit.guiding import failures, run
from edgekit.measure.benchmark import BenchmarkConfig
from edgekit.tflite import flatbuffer
from edgekit.worker import Worker
from tests.commands import edgekit
from tests.unit.classifiers import image_classifier
from tests.unit.guide import tiny

TIMING = BenchmarkConfig(threads=1, runs=3, warmup=1, rounds=1, gzip=False)
RANDOM = GuideConfig(models=("mobilenet_v1", "mobilenet_v2"), weights="random", timing=TIMING)
ARCHITECTURES = {
    "mobilenet_v1": tiny.architecture("mobilenet_v1", "MobileNet-v1-1-224"),
    "mobilenet_v2": tiny.architecture("mobilenet_v2", "MobileNet-v2-1-224"),
}
WHOLE = {"mobilenet_v1": replace(ARCHITECTURES["mobilenet_v1"], parameters=240)}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("guide") / "out"


@pytest.fixture(scope="module")
def found(out: Path, tmp_path_factory: pytest.TempPathFactory) -> GuideRun:
    """Random weights; the first model is there already, the second cannot be built."""
    source = tmp_path_factory.mktemp("source") / "mobilenet_v1.tflite"
    source.write_bytes(image_classifier(tiny.CLASSES))

    def build(model: Any) -> Path:
        if model.job.published.name == "mobilenet_v2":
            raise RefusedError("no room")
        return source

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guided._Model, "_source", build)
        # What `image_classifier` takes.
        return run(out, RANDOM, architectures={name: replace(item, size=4) for name, item in ARCHITECTURES.items()})


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A folder with a whole model of 240 weights called mobilenet_v1."""
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "mobilenet_v1.tflite").write_bytes(image_classifier(tiny.CLASSES))
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """24 images of 5 classes."""
    folder = tmp_path / "images"
    folder.mkdir()
    draw = np.random.default_rng(0)
    lines = ["file\tlabel"]
    for number in range(24):
        Image.fromarray(draw.integers(0, 256, (tiny.SIZE, tiny.SIZE, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        lines.append(f"{number}.png\t{number % tiny.CLASSES}")
    (folder / "labels.tsv").write_text("\n".join(lines) + "\n")
    (folder / "class_names.txt").write_text("".join(f"class {number}\n" for number in range(tiny.CLASSES)))
    return folder


def test_one_models_failure_leaves_the_others_rows(found: GuideRun, out: Path) -> None:
    good, bad = found.models
    assert [row.scheme for row in good.rows] == ["float32", "float16", "dynamic", "int8", "int16x8"]
    assert all(row.failure is None and row.latency is not None for row in good.rows)
    assert good.failure is None
    assert bad.rows == ()
    assert "no room" in (bad.failure or "")
    (told,) = failures(found)
    assert told.startswith("MobileNet-v2-1-224: ")
    plans = {row.scheme: json.loads(Path(row.path).with_suffix(".json").read_text())["measured"]["plan"] for row in good.rows}
    assert plans["int8"]["form"]["bits"] == 8
    assert plans["int16x8"]["form"]["bits"] == 16
    for row in good.rows:
        assert Path(row.path).stat().st_size == row.size_bytes
    assert GuideRun.from_json((out / FILE_NAME).read_text(encoding="utf-8")) == found


def test_random_weights_are_marked_and_have_no_accuracy(found: GuideRun) -> None:
    model = found.models[0]
    assert all(row.accuracy is None for row in model.rows)
    assert "random weights" in (model.reason("int8", "accuracy") or "")
    assert set(model.marks) == {row.scheme for row in model.rows}
    assert model.marks["float32"] == "random weights"
    assert "Keras models" in (model.reason("qat", "latency") or "")


def test_built_models_have_live_activations_and_reach_quantization_aware_files(tmp_path: Path) -> None:
    built = Worker(timeout_s=300).run(tiny.build_all, tmp_path).value
    least, largest = built.spread
    assert least > 1e-3
    assert largest < 1e3
    assert built.same_weights
    assert built.another.startswith("ModelFormatError: ")
    assert "w.h5: its weights are of another architecture than MobileNet-v1" in built.another
    assert built.no_network.startswith("CheckpointError: ")
    assert "cannot be downloaded (URL fetch failure" in built.no_network
    assert "--weights DIR" in built.no_network
    assert built.agreement >= 0.75
    content = flatbuffer.read(tmp_path / "qat.tflite")
    assert {tensor.dtype for tensor in content.subgraphs[0].tensors} >= {"int8", "int32"}


def test_markdown_says_what_is_missing_and_what_differs(found: GuideRun, out: Path) -> None:
    text = (out / "guide.md").read_text()
    assert text == markdown(found)
    assert "| MobileNet-v1-1-224 | original | 0.709 | – [1] | 124 |" in text
    assert "ᵃ random weights" in text
    assert "Pixel 2" in text
    assert "no room" in text
    assert "<html" in (out / "guide.html").read_text()


def test_a_second_run_keeps_what_is_finished_and_another_ones_is_refused(found: GuideRun, out: Path) -> None:
    marker = json.loads((out / "mobilenet_v1" / "model.json").read_text())
    marker["weights"] = "kept"
    (out / "mobilenet_v1" / "model.json").write_text(json.dumps(marker))
    again = run(out, replace(RANDOM, models=("mobilenet_v1",)), architectures=ARCHITECTURES)
    assert again.models[0].weights == "kept"
    with pytest.raises(OutputError, match="exists already"):
        run(out, replace(RANDOM, seed=1), architectures=ARCHITECTURES)


def test_given_weights_are_judged_on_rows_that_calibration_did_not_see(images: Path, weights: Path, tmp_path: Path) -> None:
    config = GuideConfig(
        table=2,
        models=("mobilenet_v1",),
        weights=str(weights),
        data=str(images),
        representative_samples=10,
        max_drop=1.0,
        timing=TIMING,
    )
    judged = run(tmp_path / "out", config, architectures=WHOLE)
    model = judged.models[0]
    assert [row.accuracy.total for row in model.rows if row.accuracy] == [14] * len(model.rows)
    assert judged.data == f"14 labelled rows of {images.name}, none of them calibrated on"
    assert model.weights == "weights of mobilenet_v1.tflite"
    assert [row.scheme for row in model.rows] == ["float32", "int8", "int16x8"]
    assert model.marks == {}
    assert failures(judged) == ()


def test_no_network_is_one_error_and_nothing_is_written(tmp_path: Path, monkeypatch) -> None:
    def build(model: Any) -> Path:
        raise CheckpointError(f"{model.job.published.title}: no network")

    monkeypatch.setattr(guided._Model, "_source", build)
    config = GuideConfig(models=("mobilenet_v1", "mobilenet_v2"), timing=TIMING)
    with pytest.raises(CheckpointError, match="MobileNet-v1-1-224: no network"):
        run(tmp_path / "out", config, architectures=ARCHITECTURES)
    assert not (tmp_path / "out").exists()


def test_a_whole_model_of_another_architecture(tmp_path: Path, weights: Path) -> None:
    config = GuideConfig(models=("mobilenet_v1",), weights=str(weights), timing=TIMING)
    with pytest.raises(ModelFormatError, match="another architecture"):
        run(tmp_path / "out", config, architectures=ARCHITECTURES)
    assert not (tmp_path / "out").exists()


def test_what_is_wrong_with_rows_is_told_before_anything_is_built(images: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(guiding, "_made_or_kept", lambda *_: pytest.fail("was built"))
    config = GuideConfig(models=("mobilenet_v1",), data=str(images), representative_samples=10, timing=TIMING)

    def refused(told: str, **changes: Any) -> None:
        with pytest.raises(DatasetError, match=told):
            run(tmp_path / "out", replace(config, **changes), architectures=ARCHITECTURES)
        assert not (tmp_path / "out").exists()

    refused("too few to calibrate on 24", representative_samples=24)
    (images / "class_names.txt").write_text("one\n" * 9)
    refused("names 9 classes, the model's head has 5")
    (images / "labels.tsv").write_text("file\n0.png\n1.png\n")
    refused("has no labels")


def test_options_that_contradict_each_other() -> None:
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"table": 3}, "the guide has 1 and 2"),
        ({"models": ("vgg",)}, "vgg is not in table 1"),
        ({"weights": "random", "data": "d"}, "say nothing"),
        ({"weights": "random", "qat_data": "d"}, "needs weights"),
        ({"data": "d", "qat_data": "d"}, "judged on as well"),
    )
    for changes, told in cases:
        with pytest.raises(ConfigError, match=told):
            GuideConfig(**changes)


def test_a_folder_without_weights_of_a_model_that_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no weights of mobilenet_v1"):
        run(tmp_path / "out", GuideConfig(models=("mobilenet_v1",), weights=str(tmp_path)), architectures=ARCHITECTURES)


def test_the_command_line_tells_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    for arguments, code, told in (
        (("--weights", "random", "--data", tmp_path), 2, "leave --data out"),
        (("--models", "vgg"), 2, "choose from mobilenet_v1, mobilenet_v2"),
        (("--weights", tmp_path / "none"), 2, "no such folder"),
        (("--weights", tmp_path), 3, "holds no weights of mobilenet_v1"),
    ):
        said = edgekit("guide", "run", *arguments, "--out", tmp_path / "out")
        assert said.code == code
        assert len(said.err) == 1
        assert told in said.err[0]
        assert said.out == ""
    assert list(tmp_path.iterdir()) == []
