"""Files that are there already, judged on a data set by the task that they tell, look like, or are said to have."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.errors import ConfigError, DatasetError, RefusedError
from edgekit.measure.judge import BenchmarkConfig
from edgekit.report.findings import findings
from edgekit.report.html import page
from edgekit.report.table import columns, markdown, verdict
from edgekit.spec import DataSpec
from edgekit.tflite import package
from edgekit.workflows.benchmark import benchmark
from edgekit.workflows.compare import CompareConfig, compare
from edgekit.workflows.diagnose import DiagnoseConfig, diagnose
from edgekit.workflows.evaluate import EvaluateConfig, evaluate
from tests.commands import edgekit
from tests.unit.measure.files import linear_onnx
from tests.unit.measure.heads import heads, rows

QUICK = BenchmarkConfig(threads=1, runs=4, warmup=1, rounds=1, gzip=False)
LABELS = ("toxic", "rude", "threat")
NO_CLASSES = ("ccuracy", "greement", "ecision")


def packed(file: Path, **settings: Any) -> Path:
    content = file.read_bytes()
    package.attach(content, file, b"", {package.SETTINGS: json.dumps(settings).encode()})
    return file


def saved(path: Path, **arrays: np.ndarray) -> DataSpec:
    np.savez(path, allow_pickle=False, **arrays)
    return DataSpec(str(path))


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """A file of three labels that knows that it is one."""
    file = heads(tmp_path / "several.tflite", {"logits": np.eye(4)[:3].tolist()})
    settings = {"problem": "multi_label_classification", "labels": LABELS, "activation": "sigmoid", "threshold": 0.5}
    return packed(file, task="tabular-classification", **settings)


def test_a_file_of_several_labels_is_judged_by_them(several: Path, tmp_path: Path) -> None:
    features = rows(50, 4)
    row = evaluate(several, saved(tmp_path / "rows.npz", features=features, labels=(features[:, :3] > 0).astype(np.int64)))
    assert row.failure is None and row.metric is not None
    assert (row.metric.metric, row.metric.value, [score.metric for score in row.scores]) == ("micro F1", 1, ["macro F1"])
    assert (row.latency, row.load_ms) == (None, None)
    (line,) = verdict(row)
    assert line.startswith("micro F1 1.0000 on 50 rows, 95 % interval") and line.endswith("; macro F1 1.0000")


def test_one_column_of_0_and_1_says_nothing_of_several_labels(several: Path, tmp_path: Path) -> None:
    features = rows(50, 4)
    spec = saved(tmp_path / "rows.npz", features=features, toxic=(features[:, 0] > 0).astype(np.int64))
    said = edgekit("evaluate", several, "--dataset", spec.source, "--label-column", "toxic", "--quiet")
    assert said.code == DatasetError("").exit_code
    (line,) = said.err
    assert "holds one label column of 0 and 1, the model has 3 labels (toxic, rude, threat)" in line


def test_arrays_with_class_numbers_make_a_classifier_and_without_them_nothing_is_chosen(tmp_path: Path) -> None:
    file = heads(tmp_path / "file.tflite", {"scores": np.eye(3).tolist(), "boxes": np.eye(3).tolist()})
    features = rows(30, 3)
    row = evaluate(file, saved(tmp_path / "labelled.npz", features=features, labels=features.argmax(axis=1)))
    assert row.task == "tabular-classification"
    assert row.metric is not None and (row.metric.metric, row.metric.count) == ("accuracy", 30)
    plain = saved(tmp_path / "rows.npz", features=features)
    assert evaluate(file, plain).task == "generic"
    row = evaluate(file, plain, EvaluateConfig(against=file))
    assert (row.task, row.metric, row.agreement) == ("generic", None, None)
    lines = verdict(row, "float32.tflite")
    assert [line.partition(":")[0] for line in lines] == ["output scores", "output boxes"]
    assert not any(word in line for line in lines for word in NO_CLASSES)
    assert evaluate(file, plain, EvaluateConfig(against=file, task="tabular-classification")).agreement is not None
    with pytest.raises(ConfigError, match="unknown task poetry"):
        evaluate(file, plain, EvaluateConfig(task="poetry"))


def test_rows_in_memory_are_drawn_and_a_failing_reference_is_named(tmp_path: Path) -> None:
    file = heads(tmp_path / "file.tflite", {"value": [[1.0, 0.5, 2000.0]]})
    features = rows(30, 3)
    arrays = {"features": features, "labels": features[:, 0].astype(np.float64)}
    row = evaluate(file, DataSpec(arrays, samples=12))
    assert (row.task, row.rows) == ("tabular-regression", 12)
    assert row.metric is not None and row.metric.metric == "Pearson"
    other = heads(tmp_path / "other.tflite", {"value": [[1.0, 2.0]]})
    with pytest.raises(RefusedError, match=r"other\.tflite: input features takes shape"):
        evaluate(file, DataSpec(arrays), EvaluateConfig(against=other))


def test_a_report_of_outputs_without_a_task_speaks_of_their_error(tmp_path: Path) -> None:
    base = heads(tmp_path / "base.tflite", {"boxes": np.eye(3).tolist(), "depth": np.eye(3).tolist()})
    noisy = heads(tmp_path / "noisy.tflite", {"boxes": np.eye(3).tolist(), "depth": np.roll(np.eye(3), 1, axis=0).tolist()})
    data = saved(tmp_path / "rows.npz", features=rows(30, 3))
    report = benchmark([base, noisy], data, QUICK, reference=base)
    titles = [column.title for column in columns(report)]
    assert "Error, dB" in titles and not {"Accuracy, %", "Agreement, %", "Drop, points"} & {*titles}
    cells = next(column.cells for column in columns(report) if column.title == "Error, dB")
    assert cells[0].main == "exact" and float(cells[1].main.replace("−", "-")) < 5
    assert "cosine" in cells[1].note and "off by" in cells[1].note
    assert any(sentence.startswith("Output depth of noisy is") for sentence in findings(report))
    assert type(report).from_json(report.json()) == report
    for text in (markdown(report), page(report)):
        assert not any(word in text for word in NO_CLASSES)


def test_a_report_of_a_regression_has_its_correlation(tmp_path: Path) -> None:
    features = rows(60, 3)
    base = heads(tmp_path / "base.tflite", {"value": [[1.0, 0.5, 2000.0]]})
    wrong = heads(tmp_path / "wrong.tflite", {"value": [[-0.5, 1.0, 2000.0]]})
    labels = (2000 + features[:, 0] + 0.5 * features[:, 1]).astype(np.float64)
    report = benchmark([base, wrong], saved(tmp_path / "rows.npz", features=features, labels=labels), QUICK, reference=base)
    titles = [column.title for column in columns(report)]
    assert titles[2:5] == ["Pearson, %", "Drop, points", "Error, dB"]
    assert any("points of Pearson against base" in sentence for sentence in findings(report))
    for text in (markdown(report), page(report)):
        assert not any(word in text for word in NO_CLASSES)


def test_versions_are_judged_by_the_task_of_the_first_that_tells_one(several: Path, tmp_path: Path) -> None:
    onnx = linear_onnx(tmp_path / "same.onnx", np.eye(4)[:3].tolist())
    features = rows(50, 4)
    data = saved(tmp_path / "rows.npz", features=features, labels=(features[:, :3] > 0).astype(np.int64))
    report = compare([str(onnx), str(several)], data, CompareConfig(timing=QUICK))
    assert [row.failure for row in report.rows] == [None, None]
    assert [row.metric.metric for row in report.rows if row.metric] == ["micro F1"] * 2
    assert report.rows[1].agreement is not None and report.rows[1].agreement.count == 150
    titles = [column.title for column in columns(report)]
    assert {"Micro F1, %", "Macro F1, %", "Drop, points"} <= {*titles} and "Agreement, %" not in titles


def test_a_diagnosis_judges_every_output(tmp_path: Path) -> None:
    base = heads(tmp_path / "base.tflite", {"boxes": np.eye(3).tolist(), "depth": np.eye(3).tolist()})
    noisy = heads(tmp_path / "noisy.tflite", {"boxes": np.eye(3).tolist(), "depth": np.roll(np.eye(3), 1, axis=0).tolist()})
    diagnosis = diagnose(noisy, DiagnoseConfig(base, saved(tmp_path / "rows.npz", features=rows(20, 3)), threads=1))
    assert diagnosis.agreement is None
    assert [output.name for output in diagnosis.outputs] == ["boxes", "depth"]
    assert diagnosis.error_db == diagnosis.outputs[1].error_db < 5
