"""Files are judged in the terms of what they are for: several labels, a value, or nothing that anybody told."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekit.data.samples import Samples
from edgekit.measure.judge import BenchmarkConfig, benchmark, outputs
from edgekit.measure.measurement import Measurement, refusal
from tests.unit.measure.files import fully_connected
from tests.unit.measure.heads import heads, memory_cell, rows, samples

QUICK = BenchmarkConfig(threads=1, runs=4, warmup=1, rounds=1, gzip=False)
IDENTITY = np.eye(3).tolist()
RUINED = np.roll(np.eye(3), 1, axis=0).tolist()
BIAS = [0.0, 0.0, 2000.0]


def judged(file: Path, reference: Path, data: Samples) -> Measurement:
    (row,) = benchmark([file], data, QUICK, reference=reference)
    assert row.failure is None
    return row


def test_a_ruined_second_output_is_seen_beside_a_first_one_that_decides_well(tmp_path: Path):
    reference = heads(tmp_path / "float32.tflite", {"scores": IDENTITY, "boxes": IDENTITY})
    file = heads(tmp_path / "int8.tflite", {"scores": IDENTITY, "boxes": RUINED})
    row = judged(file, reference, samples(rows(40, 3), task="tabular-classification"))
    assert row.agreement is not None and row.agreement.count == 40
    scores, boxes = row.outputs
    assert (scores.name, scores.decisive, boxes.name, boxes.decisive) == ("scores", True, "boxes", False)
    assert scores.error_db > 100 > 5 > boxes.error_db == row.error_db
    assert "output boxes is" in (refusal(row, 0.05, 20.0, "leave it") or "")
    assert refusal(row, 0.05, None, "leave it") is None


def test_outputs_of_nobody_knows_what_are_judged_each_by_its_error_alone(tmp_path: Path):
    reference = heads(tmp_path / "float32.tflite", {"first": IDENTITY, "second": IDENTITY})
    close = (np.eye(3) * 1.01).tolist()
    row = judged(heads(tmp_path / "a.tflite", {"first": close, "second": RUINED}), reference, samples(rows(40, 3)))
    assert (row.task, row.rows, row.metric, row.agreement, row.drop) == ("generic", 40, None, None, None)
    first, second = row.outputs
    assert 35 < first.error_db < 41 and first.cosine > 0.999
    assert second.error_db < 5 and not (first.decisive or second.decisive)
    good = judged(heads(tmp_path / "b.tflite", {"first": close, "second": close}), reference, samples(rows(40, 3)))
    assert refusal(good, 0.05, 20.0, "") is None


def test_outputs_are_matched_in_order_where_their_names_differ(tmp_path: Path):
    reference = heads(tmp_path / "float32.tflite", {"scores": IDENTITY, "boxes": RUINED})
    row = judged(heads(tmp_path / "a.tflite", {"Identity": IDENTITY, "Identity_1": RUINED}), reference, samples(rows(20, 3)))
    assert [output.name for output in row.outputs] == ["Identity", "Identity_1"]
    assert all(output.max_abs == 0 for output in row.outputs)


@pytest.mark.parametrize("labelled", [True, False])
def test_an_offset_that_all_rows_share_hides_nothing(tmp_path: Path, labelled: bool):
    """Around 2000, the classic ratio of signal to noise is above 55 dB for values that go the wrong way."""
    features = rows(60, 3)
    reference = heads(tmp_path / "float32.tflite", {"value": [np.add([1.0, 0.5, 0.0], BIAS).tolist()]})
    wrong = heads(tmp_path / "int8.tflite", {"value": [np.add([-0.5, 1.0, 0.0], BIAS).tolist()]})
    if labelled:
        truth = 2000 + features[:, 0] + 0.5 * features[:, 1]
        data = samples(features, truth.astype(np.float64), "tabular-regression", {"problem": "regression"})
    else:
        data = samples(features)
    row = judged(wrong, reference, data)
    assert row.agreement is None
    assert row.error_db is not None and row.error_db < 5
    assert "--min-db" in (refusal(row, None, 20.0, "") or "")
    if labelled:
        assert row.metric is not None and row.metric.metric == "Pearson" and row.metric.value < 0.5
        assert row.drop is not None and row.drop.value > 0.5
        assert [score.metric for score in row.scores] == ["Spearman", "mean absolute error"]
        assert "of Pearson against float32" in (refusal(row, 0.05, None, "") or "")


def test_five_of_six_labels_that_lose_their_sign_are_not_hidden_by_a_loud_first_one(tmp_path: Path):
    weights = np.eye(7)[:6]
    weights[0] = 0
    weights[0, 6] = 9
    features = rows(100, 7)
    reference = heads(tmp_path / "float32.tflite", {"logits": weights.tolist()})
    swapped = weights[[0, 2, 3, 4, 5, 1]]
    settings = {"problem": "multi_label_classification", "labels": list("abcdef"), "activation": "sigmoid", "threshold": 0.5}
    labels = (features @ weights.T > 0).astype(np.float64)
    row = judged(
        heads(tmp_path / "int8.tflite", {"logits": swapped.tolist()}),
        reference,
        samples(features, labels, "tabular-classification", settings),
    )
    assert row.metric is not None and row.metric.metric == "micro F1" and row.metric.value < 0.8
    assert row.agreement is not None and row.agreement.total == 600
    assert 0.5 < row.agreement.value < 0.7
    assert refusal(row, 0.05, None, "") is not None


def test_a_file_that_says_one_thing_is_refused_where_one_class_prevails(tmp_path: Path):
    features = rows(100, 3)
    features[:, 0] = np.where(np.arange(100) < 3, -1, 1)
    reference = fully_connected(tmp_path / "float32.tflite", [[1, 0, 0], [-1, 0, 0]])
    constant = fully_connected(tmp_path / "int8.tflite", [[0, 0.1, 5], [0, 0, 0]])
    row = judged(constant, reference, samples(features, task="tabular-classification"))
    assert row.agreement is not None and row.agreement.count == 97
    assert row.beyond_chance == pytest.approx(0, abs=1e-9)
    assert "hardly more than by naming the commonest one always" in (refusal(row, 0.05, None, "") or "")


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize(("other", "refused"), [(1, False), (2, True)])
def test_a_limit_compares_counts(tmp_path: Path, labelled: bool, other: int, refused: bool):
    features = np.ones((20, 2), np.float32)
    features[:10, 0] = -1
    features[:other, 1] = 9
    reference = fully_connected(tmp_path / "float32.tflite", [[1, 0], [-1, 0]])
    file = fully_connected(tmp_path / "int8.tflite", [[1, 0.3], [-1, 0]])
    labels = (features[:, 0] < 0).astype(np.int64) if labelled else None
    row = judged(file, reference, samples(features, labels, "tabular-classification"))
    assert row.agreement is not None and row.agreement.count == 20 - other
    assert (refusal(row, 0.05, None, "") is not None) is refused


def test_state_that_a_graph_keeps_does_not_reach_the_next_row(tmp_path: Path):
    file = memory_cell(tmp_path / "lstm.tflite")
    same = samples(np.full((6, 1, 1), 0.7, np.float32))
    cells = outputs(file, same)["cells"]
    assert cells[0] != 0
    assert np.unique(cells).size == 1
    row = judged(file, file, replace(same, inputs={"features": rows(12, 2)[:, :1, np.newaxis]}))
    assert row.outputs[0].max_abs == 0
