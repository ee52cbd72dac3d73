"""Techniques on a tiny CNN, and what keeps their figures honest."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgekit.data.samples import described
from edgekit.data.sources import ArrayRows, ImageRows
from edgekit.errors import ConfigError, ConversionError, DatasetError, ModelFormatError, OutputError
from edgekit.measure.measurement import Measurement
from edgekit.models.keras2 import check_format, is_quantization_aware
from edgekit.models.source import Kind, Source, brings
from edgekit.spec import DataSpec, TensorSpec
from edgekit.stages.keras.config import TECHNIQUES as TECHNIQUES_BY_NAME
from edgekit.stages.keras.config import OptimizeConfig, Optimized, TrainConfig, Weights, select
from edgekit.stages.keras.techniques import _check
from edgekit.stages.keras.thin import most_in_four
from edgekit.stages.keras.train import split
from edgekit.system.worker import Worker
from edgekit.tasks.metrics import Score, difference
from edgekit.tflite import flatbuffer
from edgekit.tflite.interpreter import Model
from edgekit.workflows import optimize as optimizing
from edgekit.workflows.advise import AdviseConfig, advise
from edgekit.workflows.convert.config import ConvertConfig
from edgekit.workflows.convert.conversion import convert
from edgekit.workflows.guide.targets import Hardware
from edgekit.workflows.optimize import OptimizingConfig, _File, _Publisher, _samples, optimize
from tests.unit.stages.keras.models import SIDE, all_of_it, rows

CLUSTERS = 8
CONFIG = OptimizeConfig(sparsity=0.6, clusters=CLUSTERS, training=TrainConfig(epochs=2, learning_rate=3e-3))
TECHNIQUES = ("sparsity-2-4", "sparsity-qat", "sparsity-clustering-qat")
QAT = OptimizingConfig(("qat",), DataSpec("rows.npz"))
SPEC = TensorSpec("image", (1, SIDE, SIDE, 3), "float32")


@pytest.fixture(scope="module")
def room(tmp_path_factory) -> Path:
    return Path(tmp_path_factory.mktemp("optimize"))


@pytest.fixture(scope="module")
def made(room) -> tuple[dict[str, Optimized], dict[str, Any]]:
    """All techniques, from one child."""
    return Worker(timeout_s=300).run(all_of_it, room, TECHNIQUES, CONFIG).value


def kernels(file: Path) -> list[np.ndarray]:
    """The int8 weights of all convolutions and dense layers but the first."""
    graph = flatbuffer.read(file).subgraphs[0]
    model = Model(file, keep_tensors=True, delegate=False)
    model.run(next(iter(rows(1))))
    names = ("CONV_2D", "FULLY_CONNECTED")
    return [model.tensor(operator.inputs[1]) for operator in graph.operators if operator.name in names][1:]


def test_the_model_says_what_it_takes_and_how_many_classes_it_knows(made):
    assert made[1]["spec"] == (SPEC, 2)


def test_the_sparsity_asked_for_is_reached_in_every_chosen_kernel(made):
    found = made[0]["sparsity-qat"].weights
    assert [kernel.layer for kernel in found] == ["conv2d_1", "scores"]
    assert all(abs(kernel.sparsity - 0.6) < 0.5 / kernel.count + 1e-9 for kernel in found)
    assert all((kernel.sparsity, kernel.most_in_four) == (0.5, 2) for kernel in made[0]["sparsity-2-4"].weights)
    assert all(kernel.most_in_four > 2 for kernel in found)


def test_clusters_and_zeros_outlast_quantization_aware_training(made):
    found = made[0]["sparsity-clustering-qat"].weights
    assert [history.stage for history in made[0]["sparsity-clustering-qat"].histories] == [
        "sparsity-clustering",
        "sparsity-clustering-qat",
    ]
    assert [history.stage for history in made[0]["sparsity-2-4"].histories] == ["sparsity-2-4"]
    for kernel in found:
        assert kernel.distinct <= CLUSTERS
        assert kernel.sparsity >= 0.6 - 0.5 / kernel.count - 1e-9


def test_zeros_are_zeros_in_the_int8_file(made, room):
    for name in ("sparsity-qat", "sparsity-clustering-qat"):
        for values in kernels(room / f"{name}.tflite"):
            assert (values == 0).mean() >= 0.59


def test_the_int8_file_computes_in_integers_and_runs(made, room):
    file = room / "sparsity-qat.tflite"
    operators = flatbuffer.read(file).subgraphs[0].operators
    tensors = flatbuffer.read(file).subgraphs[0].tensors
    inside = [operator for operator in operators if operator.name not in ("QUANTIZE", "DEQUANTIZE")]
    assert {tensors[index].dtype for operator in inside for index in operator.outputs} == {"int8"}
    model, judged = Model(file), rows(64, seed=3)
    decided = [model.run(row)["scores"].argmax() for row in judged]
    assert np.mean(decided == judged.labels) > 0.7


def test_the_epoch_with_the_least_held_out_loss_is_kept(made):
    for found in made[0].values():
        for history in found.histories:
            if history.stage not in ("sparsity", "sparsity-2-4"):
                assert history.best == min(history.epochs, key=lambda epoch: epoch.loss).number
            assert (history.training_rows, history.held_out_rows) == (270, 30)


def test_calibration_settles_the_ranges_and_wrappers_come_off_without_a_trace(made):
    assert made[1]["after"] < 0.05 < made[1]["before"]
    assert made[1]["stripped"] < 1e-6


def test_models_that_cannot_be_trained_so_are_told_in_one_line(made):
    assert "first, a BatchNormalization that follows no convolution" in made[1]["preact"]
    assert made[1]["keras3"].startswith("ModelFormatError") and "is a Keras 3 file" in made[1]["keras3"]
    assert "was trained quantization-aware already" in made[1]["twice"]


def test_convert_takes_the_trained_ranges_and_asks_for_no_data(made, room, tmp_path):
    model = room / "sparsity-qat.h5"
    assert is_quantization_aware(model) and not is_quantization_aware(room / "tiny.h5")
    config = ConvertConfig(("float32", "int8"))
    found = convert(str(model), tmp_path, config)
    assert found.refusals == ()
    assert [result.plan.made_by for result in found.results if result.plan][1] == "TFLiteConverter, trained ranges"
    trained, stripped = (Model(tmp_path / f"sparsity-qat_{scheme}.tflite") for scheme in ("int8", "float32"))
    for row in rows(8, seed=4):
        assert np.abs(trained.run(row)["scores"] - stripped.run(row)["scores"]).max() < 0.05
    advice = advise(str(tmp_path), AdviseConfig(hardware=Hardware.EDGETPU))
    assert [item.scheme for item in advice.candidates if item.brought] == ["int8"]
    assert advice.recommendation.leaf == "no integer-only file"
    assert "--integer-only" not in "".join(advice.next)
    with pytest.raises(ConfigError, match="calibrates on real samples"):
        convert(str(room / "tiny.h5"), tmp_path, ConvertConfig(("int8",)))
    with pytest.raises(ConfigError, match="trained quantization-aware and brings its int8 file"):
        convert(str(model), tmp_path, ConvertConfig(("int8",), integer_only=True))


def test_no_row_is_trained_on_and_judged_on(tmp_path):
    images = np.asarray(rows(100).inputs["image"])
    labels = np.arange(100) % 2
    given, judged = ArrayRows({"x": images[:60]}, labels[:60], "a.npz"), ArrayRows({"x": images[50:]}, labels[50:], "b.npz")
    for evaluation, counts in ((judged, (50, 50)), (None, (48, 12))):
        training, unseen, notes = _samples(given, evaluation, QAT, SPEC, 2, tmp_path)
        assert (len(training), len(unseen)) == counts
        known = {row.tobytes() for row in training.inputs["image"]}
        assert not known & {row.tobytes() for row in unseen.inputs["image"]}
        assert len(notes) == (evaluation is not None)
    with pytest.raises(DatasetError, match="no row is left to train on"):
        _samples(given, given, QAT, SPEC, 2, tmp_path)


def test_the_best_epoch_is_chosen_on_rows_that_training_never_sees():
    samples = rows(100)
    assert samples.labels is not None
    parts = [split(np.asarray(samples.inputs["image"]), samples.labels, TrainConfig(seed=seed)) for seed in (1, 1, 2)]
    assert len(parts[0].held_out) == 10 and not set(parts[0].held_out) & set(parts[0].training)
    assert list(parts[0].held_out) == list(parts[1].held_out) != list(parts[2].held_out)


def test_a_refused_file_gets_no_name_and_the_other_does(tmp_path):
    source = Source(Kind.KERAS, tmp_path / "net.h5", "net")
    for name in ("net.h5", "new.h5", "float.tflite", "int8.tflite"):
        (tmp_path / name).write_bytes(name.encode())
    out = tmp_path / "out"
    refusals: list[str] = []
    score = Score("accuracy", 0.9, 0.8, 0.95, 100, 90)
    publisher = _Publisher(out, source, replace(QAT, max_drop=0.02), "10 rows", overwrite=False)
    for scheme, lost in (("float32", 1), ("int8", 3)):
        file = tmp_path / f"{scheme[:5]}.tflite" if scheme == "float32" else tmp_path / "int8.tflite"
        file.write_bytes(b"model")
        item = _File("qat", scheme, file, None, Optimized("qat", (), ()), tmp_path / "new.h5")
        row = publisher.publish(item, Measurement(str(file), 5, 5, metric=score, drop=difference(lost, 0, 100)), refusals)
        assert (row.failure is not None) == (scheme == "int8")
    assert sorted(path.name for path in out.iterdir()) == [
        "net_qat.h5",
        "net_qat.json",
        "net_qat_float32.json",
        "net_qat_float32.tflite",
    ]
    assert len(refusals) == 1 and "qat int8: loses 3.0 points" in refusals[0] and "--max-drop allows 2.0" in refusals[0]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"techniques": ("quantise",)}, "unknown technique quantise"),
        ({"techniques": ()}, "no technique given"),
        ({"max_drop": 7.0}, "max_drop is 7"),
        ({"evaluation_share": 1.0}, "evaluation_share is 1"),
    ],
)
def test_wrong_options_are_refused_before_anything_runs(wrong, words):
    with pytest.raises(ConfigError, match=words):
        OptimizingConfig(**{"techniques": ("qat",), "data": DataSpec("rows.npz"), **wrong})


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"sparsity": 1.0}, "sparsity is 1"), ({"clusters": 1}, "clusters is 1"), ({"centroids": "even"}, "centroids is even")],
)
def test_wrong_settings_of_a_technique_name_the_setting(wrong, words):
    with pytest.raises(ConfigError, match=words):
        OptimizeConfig(**wrong)
    with pytest.raises(ConfigError, match="epochs is 0"):
        TrainConfig(epochs=0)


def test_bad_data_and_models_are_told_before_tensorflow_starts(tmp_path):
    np.savez(tmp_path / "bare.npz", x=np.zeros((30, SIDE, SIDE, 3), np.float32))
    (tmp_path / "net.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    out = tmp_path / "out"
    with pytest.raises(DatasetError, match=r"bare\.npz: no label array"):
        optimize(str(tmp_path / "net.h5"), out, replace(QAT, data=DataSpec(tmp_path / "bare.npz")))
    (tmp_path / "texts.tsv").write_text("text\tlabel\na film\t1\n")
    with pytest.raises(DatasetError, match=r"texts\.tsv: holds texts; give an \.npz file"):
        optimize(str(tmp_path / "net.h5"), out, replace(QAT, data=DataSpec(tmp_path / "texts.tsv")))
    (tmp_path / "net.keras").write_bytes(b"PK")
    with pytest.raises(ModelFormatError, match="is a Keras 3 file"):
        optimize(str(tmp_path / "net.keras"), out, QAT)
    (tmp_path / "net.onnx").write_bytes(b"")
    with pytest.raises(ModelFormatError, match="is no Keras model"):
        optimize(str(tmp_path / "net.onnx"), out, QAT)
    (tmp_path / "zip.h5").write_bytes(b"PK\x03\x04")
    with pytest.raises(ModelFormatError, match="is a Keras 3 file"):
        check_format(tmp_path / "zip.h5")
    (tmp_path / "empty.h5").write_bytes(b"")
    with pytest.raises(ModelFormatError, match=r"empty\.h5: not an HDF5 file"):
        brings(str(tmp_path / "empty.h5"))
    assert not out.exists()


@pytest.mark.parametrize("name", ["net_qat.h5", "net_qat.json", "net_qat_int8.json", "report.json", "report.html"])
def test_nothing_that_is_there_is_replaced(tmp_path, name):
    (tmp_path / "net.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    (tmp_path / name).write_text("mine")
    with pytest.raises(OutputError, match=name):
        optimize(str(tmp_path / "net.h5"), tmp_path, QAT)


def test_what_is_lost_is_judged_once_against_the_original(tmp_path, monkeypatch):
    (tmp_path / "net.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    seen = []

    def converted(model, out, config):
        seen.append(config)
        return SimpleNamespace(results=[])

    monkeypatch.setattr(optimizing, "convert", converted)
    optimizing._converted(tmp_path / "net.h5", "qat", tmp_path / "rows.npz", tmp_path, replace(QAT, max_drop=0.0), None)
    assert [config.max_drop for config in seen] == [None]


def test_zeros_that_are_not_two_of_four_are_refused():
    kernel = np.ones((1, 1, 6, 3), np.float32)
    kernel[:, :, :3] = 0
    assert most_in_four(kernel) == 2
    kernel[:, :, 2, 1] = 1
    assert most_in_four(kernel) == 2
    kernel[:, :, 1, 1] = 1
    assert most_in_four(kernel) == 3
    weights = [Weights("dense", 18, 0.5, 2, most_in_four(kernel))]
    with pytest.raises(ConversionError, match="dense keeps 3 of four neighbouring weights instead of 2"):
        _check(weights, TECHNIQUES_BY_NAME["sparsity-2-4"], OptimizeConfig(), Path("net.h5"))
    _check(weights, TECHNIQUES_BY_NAME["sparsity"], OptimizeConfig(), Path("net.h5"))


def test_images_that_cannot_be_read_are_told(tmp_path):
    files = []
    for number in range(200):
        Image.new("RGB", (SIDE, SIDE), (number, 0, 0)).save(tmp_path / f"{number}.png")
        files.append(tmp_path / f"{number}.png")
    files[7].write_bytes(b"no image")
    given = ImageRows(tuple(files), (0, 1) * 100, None, str(tmp_path))
    _, evaluation, _ = _samples(given, None, QAT, SPEC, 2, tmp_path / "room")
    assert described(evaluation, "x").endswith("without 7.png (not readable)")
    others = ArrayRows({"x": np.asarray(rows(20).inputs["image"])}, np.zeros(20, np.int64), "b.npz")
    told = _samples(given, others, QAT, SPEC, 2, tmp_path / "room")[2]
    assert len(told) == 1 and "Trained on 199 rows" in told[0] and "7.png" in told[0]


def test_labels_outside_the_head_name_the_sample(tmp_path):
    given = ArrayRows({"x": np.asarray(rows(30).inputs["image"])}, np.arange(30), "rows.npz")
    with pytest.raises(DatasetError, match="sample 2 .* has 2, the head has 2 classes"):
        _samples(given, None, QAT, SPEC, 2, tmp_path)


def test_rows_of_a_single_class_teach_nothing(tmp_path):
    given = ArrayRows({"x": np.asarray(rows(30).inputs["image"])}, np.ones(30, np.int64), "rows.npz")
    with pytest.raises(DatasetError, match=r"^rows\.npz: all rows to train on have the label 1; give"):
        _samples(given, None, QAT, SPEC, 2, tmp_path)


def test_all_is_every_technique_in_one_order():
    assert [technique.name for technique in select(("all",))][:2] == ["qat", "sparsity"]
    assert [technique.name for technique in select(("clustering", "qat"))] == ["qat", "clustering"]
