"""A run of the guide on tiny stand-ins: all schemes measured, failures told, an earlier run's models kept."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgekit.data import sources
from edgekit.data.samples import Samples
from edgekit.data.sources import ImageRows
from edgekit.errors import CheckpointError, ConfigError, DatasetError, InputError, ModelFormatError, OutputError, RefusedError
from edgekit.measure.judge import BenchmarkConfig
from edgekit.measure.measurement import Measurement
from edgekit.spec import DataSpec
from edgekit.system.worker import Worker
from edgekit.tflite import flatbuffer
from edgekit.workflows.convert.config import ConvertConfig
from edgekit.workflows.guide import measured_table, model_files
from edgekit.workflows.guide.measured_table import failures, run
from edgekit.workflows.guide.model_files import GuideConfig, Job, SharedRows
from edgekit.workflows.guide.published import TABLES
from edgekit.workflows.guide.results import FILE_NAME, GuideModel, GuideRun
from edgekit.workflows.guide.table import markdown
from edgekit.workflows.inputs import manifest_of
from edgekit.workflows.report import report as report_of
from tests.commands import edgekit
from tests.unit.classifiers import image_classifier
from tests.unit.workflows.guide import tiny

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
        patch.setattr(model_files._Model, "_source", build)
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


def test_model_filess_failure_leaves_the_others_rows(found: GuideRun, out: Path) -> None:
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
    assert all(row.metric is None for row in model.rows)
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
    assert built.saved == built.counted
    _check_published(tmp_path)
    content = flatbuffer.read(tmp_path / "qat.tflite")
    assert {tensor.dtype for tensor in content.subgraphs[0].tensors} >= {"int8", "int32"}


def _check_published(made: Path) -> None:
    """The quantization-aware file has a manifest, and goes with it where a later run has none."""
    model = _model(made / "out", RANDOM)
    row = model._publish(made / "qat.tflite", made / "small.h5", Measurement("qat.tflite", 1, None, "qat"))
    final = Path(row.path)
    assert manifest_of(final)["config"]["technique"] == "qat"
    told = report_of(made / "out")
    assert [Path(found.path) for found in told.rows] == [final]
    assert final.stem == f"{told.model}_qat"
    assert told.notes[0].startswith("qat: ")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_files, "benchmark", lambda *_, **__: [Measurement("float32.tflite", 1, None, "float32")])
        model._benchmark(made / "small.h5", {made / "float32.tflite": "float32"}, Samples({"x": np.zeros((1, 1))}))
    assert list((made / "out").glob("*.tflite")) == list((made / "out").glob("*.json")) == []


def _model(folder: Path, config: GuideConfig, **job: Any) -> model_files._Model:
    return model_files._Model(Job(TABLES[1][0], **job), config, SharedRows(), folder, folder.parent, Worker())


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
    assert [row.metric.total for row in model.rows if row.metric] == [14] * len(model.rows)
    assert judged.data == f"14 labelled rows of {images.name}, none of them calibrated on"
    assert model.weights == "weights of mobilenet_v1.tflite"
    assert [row.scheme for row in model.rows] == ["float32", "int8", "int16x8"]
    assert model.marks == {}
    assert failures(judged) == ()


def _measured(job: Job, config: Any, data: Any, folder: Path, on_progress: Any) -> GuideModel:
    """A model without rows, and one file of it."""
    folder.mkdir(exist_ok=True)
    (folder / "m.tflite").write_bytes(b"")
    return GuideModel(job.published.name, job.published.title, job.published, job.described)


def test_an_interrupted_run_goes_on_and_a_failed_one_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    def ended(error: BaseException) -> Any:
        def measured(*given: Any) -> GuideModel:
            _measured(*given)
            raise error

        return measured

    out = tmp_path / "out"
    for error in (RefusedError("not good enough"), KeyboardInterrupt()):
        monkeypatch.setattr(measured_table, "measure", ended(error))
        with pytest.raises(type(error)):
            run(out, RANDOM, architectures=ARCHITECTURES)
        assert out.exists() == isinstance(error, KeyboardInterrupt)
    monkeypatch.setattr(measured_table, "measure", _measured)
    run(out, RANDOM, architectures=ARCHITECTURES)
    assert (out / FILE_NAME).is_file()


def test_foreign_files_are_neither_replaced_nor_removed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(measured_table, "measure", _measured)
    foreign = tmp_path / "mine" / "model.json"
    foreign.parent.mkdir()
    for name in ("guide.md", "resnet_v2_101/model.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        for file in (tmp_path / name, foreign):
            file.write_text("mine")
        with pytest.raises(OutputError, match="exists already"):
            run(tmp_path, RANDOM, architectures=ARCHITECTURES)
        assert (tmp_path / name).read_text() == "mine"
        run(tmp_path, RANDOM, architectures=ARCHITECTURES, overwrite=True)
        assert foreign.read_text() == "mine"
        for file in (*tmp_path.glob("guide.*"), tmp_path / "settings.json"):
            file.unlink()


def test_rows_that_are_judged_neither_calibrate_nor_train(images: Path, tmp_path: Path, monkeypatch) -> None:
    data = sources.read(DataSpec(images))
    monkeypatch.chdir(tmp_path)
    config = GuideConfig(data="images", representative_data=f"{images}/", representative_samples=10)
    drawn = measured_table._read(config, [])
    assert [len(rows) for rows in (drawn.calibration or (), drawn.judged or ())] == [10, 14]
    with pytest.raises(ConfigError, match="judged on as well"):
        GuideConfig(data="images", qat_data=f"{images}/")
    other = tmp_path / "other"
    shutil.copytree(images, other)
    draw = np.random.default_rng(1)
    for number in range(12):
        Image.fromarray(draw.integers(0, 256, (tiny.SIZE, tiny.SIZE, 3), dtype=np.uint8)).save(other / f"{number}.png")
    found = measured_table._read(replace(config, representative_data="other", qat_data=str(other)), [])
    assert found.judged is not None
    assert len(found.judged) == len(data)
    assert len(found.training or ()) == 12
    assert found.left_out == {"--representative-data": 12, "--qat-data": 12}
    assert "among them: 12 of --representative-data, 12 of --qat-data" in found.described()
    assert isinstance(found.calibration, ImageRows)
    assert isinstance(found.judged, ImageRows)
    judged = {file.read_bytes() for file in found.judged.files}
    assert not judged & {file.read_bytes() for file in found.calibration.files}
    with pytest.raises(DatasetError, match="all of its rows are judged"):
        shutil.copytree(images, tmp_path / "copy")
        measured_table._read(replace(config, representative_data="copy"), [])


def test_a_run_whose_data_changed_is_another(images: Path) -> None:
    config = GuideConfig(data=str(images))
    before = measured_table._settings(config, ARCHITECTURES)
    (images / "0.png").write_bytes((images / "1.png").read_bytes())
    assert measured_table._settings(config, ARCHITECTURES) != before


def test_real_weights_are_searched_over_as_many_rows_as_asked_for(images: Path, weights: Path, tmp_path: Path, monkeypatch) -> None:
    told: list[ConvertConfig] = []

    def convert(source: str, out: Path, config: ConvertConfig, **_: Any) -> Any:
        told.append(config)
        raise RefusedError("enough")

    monkeypatch.setattr(model_files, "convert", convert)
    config = GuideConfig(models=("mobilenet_v1",), weights=str(weights), representative_samples=12, timing=TIMING)
    monkeypatch.setattr(model_files._Model, "_source", lambda model: weights / "mobilenet_v1.tflite")
    cases: tuple[dict[str, Any], ...] = ({}, {"representative_data": str(images)}, {"weights": "random"})
    for changes in cases:
        with pytest.raises(RefusedError):
            run(tmp_path / "out", replace(config, **changes), architectures=WHOLE)
    assert [item.representative_samples for item in told] == [12, 12, 16]
    assert [item.max_drop for item in told] == [None, 0.05, None]
    assert [item.search_seconds > 0 for item in told] == [True, True, False]
    assert [item.every_op for item in told] == [False, False, True]
    calibration, judged = (sources.read(item) for item in (told[1].data, told[1].evaluation_data) if item is not None)
    assert calibration.origin == judged.origin == str(images)
    assert not set(calibration.numbers) & set(judged.numbers)


def test_a_family_is_only_built_whatever_the_weights_folder_holds(tmp_path: Path) -> None:
    (tmp_path / "yolov3.tflite").write_bytes(b"")
    config = GuideConfig(table=2, weights=str(tmp_path))
    job = next(job for job in measured_table._jobs(config, ARCHITECTURES) if job.published.name == "yolov3")
    assert job.described.startswith("random weights; 416 × 416 pixels")
    assert job.described.endswith("yolov3.tflite is not taken, this family is only built")
    assert measured_table._settings(config, ARCHITECTURES)["weights_sha256"] == {}


def test_labels_outside_a_whole_models_head_are_told_before_it_is_built(images: Path, weights: Path, tmp_path: Path) -> None:
    (images / "class_names.txt").unlink()
    (images / "labels.tsv").write_text((images / "labels.tsv").read_text().replace("\t4", "\t7"))
    config = GuideConfig(models=("mobilenet_v1",), weights=str(weights), data=str(images), representative_samples=10)
    with pytest.raises(DatasetError, match="labels outside the head"):
        measured_table._read(config, measured_table._jobs(config, ARCHITECTURES))


def test_no_network_is_one_error_and_nothing_is_written(tmp_path: Path, monkeypatch) -> None:
    def build(model: Any) -> Path:
        raise CheckpointError(f"{model.job.published.title}: no network")

    monkeypatch.setattr(model_files._Model, "_source", build)
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
    monkeypatch.setattr(measured_table, "_model", lambda *_: pytest.fail("was built"))
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
        ({"data": "d", "qat_data": "./d/"}, "judged on as well"),
        ({"weights": "random", "representative_data": "d"}, "calibrated on random rows"),
        ({"table": 2, "qat_data": "d"}, "no quantization-aware figures"),
        ({"table": 2, "models": ("yolov3",), "data": "d"}, "data: yolov3 can only be built"),
        ({"table": 2, "models": ("yolov3",), "weights": "d"}, "leave --weights out"),
        ({"representative_samples": 9}, "give at least 10"),
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
