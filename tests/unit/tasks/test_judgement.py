"""Outputs judged by the task: metric, decisions, error of the values."""

import itertools
from typing import Any

import numpy as np
import pytest

from edgekit.data.samples import Array, Samples
from edgekit.errors import DatasetError, RefusedError
from edgekit.measure.measurement import Measurement, refusal
from edgekit.tasks.classification import MULTI, REGRESSION
from edgekit.tasks.generic import GENERIC
from edgekit.tasks.judgement import MOST_DB, Judgement, decibels, judge

SCORES = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])


def samples(count: int, labels: Any = None, task: str = "text-classification", **settings: Any) -> Samples:
    return Samples({"x": np.zeros((count, 1))}, None if labels is None else np.asarray(labels), task=task, settings=settings)


def judged(outputs: Array, reference: Array | None = None, labels: Any = None, **settings: Any) -> Judgement:
    rows = samples(len(outputs), labels, **settings)
    return judge({"logits": outputs}, rows, None if reference is None else {"logits": reference})


def verdict(judgement: Judgement, max_drop: float | None = 0.05, min_db: float | None = 20) -> str | None:
    return refusal(Measurement("file.tflite", 1, None).judged(judgement, "task"), max_drop, min_db, "try another scheme")


def test_accuracy_counts_the_highest_class():
    accuracy, loss = judged(SCORES * 8, labels=[1, 0, 0, 0]).scores
    assert (accuracy.metric, accuracy.count, accuracy.total) == ("accuracy", 3, 4)
    assert loss.metric == "loss"


def test_axes_of_length_one_before_the_classes_do_not_matter():
    assert judged(SCORES[:, None, None, :], labels=[1, 0, 1, 0]).scores[0].count == 4


def test_a_dense_output_of_a_classifier_is_refused_and_its_values_are_what_generic_judges():
    dense = np.stack([SCORES, SCORES[::-1]])
    changed = dense.copy()
    changed[0, 0] = changed[0, 0, ::-1]
    with pytest.raises(RefusedError, match="gives no row one class; give --task generic"):
        judged(changed, dense)
    found = judge({"logits": changed}, samples(2, task="generic"), {"logits": dense})
    assert (found.agreement, found.scores, found.drop) == (None, (), None)
    assert found.error_db is not None


def test_drop_is_paired_on_the_same_rows():
    outputs = SCORES[:, ::-1].copy()
    outputs[0] = SCORES[0]
    drop = judged(outputs, SCORES, [1, 0, 1, 1]).drop
    assert drop is not None
    assert (drop.lost, drop.gained, drop.total, drop.value) == (2, 1, 4, 0.25)


@pytest.mark.parametrize(
    ("outputs", "reason"),
    [
        (np.array([[0.1, np.nan], [0.2, 0.3]]), "row 0 is not finite"),
        (np.array([[0.1, 0.2], [np.inf, 0.3]]), "row 1 is not finite"),
        (np.zeros((3, 2)), "same score"),
        (np.ones((3, 1)), "no classes"),
        (np.ones(3), "no classes"),
    ],
)
def test_outputs_without_a_decision_are_refused(outputs: Array, reason: str):
    with pytest.raises(RefusedError, match=reason):
        judged(outputs)


def test_a_label_outside_the_classes_is_named():
    with pytest.raises(DatasetError, match="label 2 of row 3 is outside the model's 2 classes"):
        judged(SCORES, labels=[0, 1, 0, 2])


def test_labels_must_match_the_rows():
    with pytest.raises(DatasetError, match="one row of each per sample"):
        judged(SCORES, labels=[0, 1])


def test_the_reference_must_be_of_the_same_model():
    with pytest.raises(DatasetError, match="give the reference file of the same model"):
        judged(SCORES, np.pad(SCORES, ((0, 0), (0, 1))))


def test_each_label_of_several_is_a_decision_whatever_the_loudest_is():
    draw = np.random.default_rng(0)
    base = draw.normal(0, 1, (100, 6))
    base[:, 0] += 9
    ours = base.copy()
    ours[:, 1:] *= np.where(draw.random((100, 5)) < 0.35, -1, 1)
    found = judged(ours, base, problem=MULTI, activation="sigmoid", threshold=0.5)
    assert (ours.argmax(axis=1) == base.argmax(axis=1)).all()
    assert found.agreement is not None
    assert found.agreement.total == 600
    assert 0.65 < found.agreement.value < 0.75
    assert verdict(found) is not None
    labelled = judged(ours, base, base > 0, problem=MULTI, activation="sigmoid", threshold=0.5)
    assert [score.metric for score in labelled.scores] == ["micro F1", "macro F1"]
    assert (verdict(labelled) or "").startswith("loses")
    assert judged(base, base, base > 0, problem=MULTI, activation="sigmoid").scores[0].value == 1


def test_labels_that_are_all_right_have_no_other_decisions_by_the_order_of_their_logits():
    base = np.array([[3.0, 3.1, -2.0], [4.0, 3.9, -1.0]] * 10)
    found = judged(base[:, [1, 0, 2]], base, problem=MULTI, activation="sigmoid")
    assert found.agreement is not None
    assert found.agreement.value == 1
    assert verdict(found) is None


def test_a_regression_is_judged_by_what_varies_and_decides_nothing():
    y = np.random.default_rng(0).normal(2000, 3, 400)
    base = (y + np.random.default_rng(1).normal(0, 1, 400))[:, None].astype(np.float32)
    two = np.where(base > 2000, 2001.5, 1998.5)
    found = judged(two, base, y, problem=REGRESSION, activation="none")
    assert [score.metric for score in found.scores] == ["Pearson", "Spearman", "mean absolute error"]
    assert found.agreement is None
    # Against the values themselves the error would be at 59 dB.
    assert found.error_db is not None
    assert found.error_db < 6
    assert "accuracy" not in (verdict(found) or "") and "decides" not in (verdict(found) or "")
    assert verdict(found) is not None
    unlabelled = judged(two, base, problem=REGRESSION, activation="none")
    assert "dB from float32's" in (verdict(unlabelled) or "")
    assert verdict(judged(base + 0.01, base, y, problem=REGRESSION, activation="none")) is None


def test_what_a_generic_models_rows_share_counts_as_nothing():
    draw = np.random.default_rng(0)
    base = 2000 + draw.normal(0, 1, (50, 4))
    noise = draw.normal(0, 0.1, (50, 4))
    found = judge({"out": base + noise}, samples(50, task="generic"), {"out": base})
    assert found.error_db == pytest.approx(20, abs=1)
    assert found.outputs[0].cosine == pytest.approx(1)
    assert found.outputs[0].max_abs == pytest.approx(np.abs(noise).max())


def test_the_worst_output_gates_and_is_named():
    draw = np.random.default_rng(0)
    boxes, scores = draw.normal(100, 30, (40, 16, 4)), draw.normal(0, 1, (40, 16))
    rows, reference = samples(40, task="generic"), {"boxes": boxes, "scores": scores}
    found = judge({"boxes": boxes + 0.01, "scores": scores + draw.normal(0, 0.7, (40, 16))}, rows, reference)
    errors = {output.name: output.error_db for output in found.outputs}
    assert errors["boxes"] > 60
    assert 2 < errors["scores"] < 5
    assert found.error_db == errors["scores"]
    refused = verdict(found)
    assert refused is not None
    assert refused.startswith("output scores is")
    assert "--min-db asks for 20" in refused
    assert verdict(judge(reference, rows, reference)) is None
    assert judge(reference, rows, reference).error_db == MOST_DB


def test_an_output_beside_the_decisions_is_judged_too():
    second = np.random.default_rng(0).normal(0, 1, (40, 8))
    logits = np.random.default_rng(1).normal(0, 1, (40, 3))
    outputs = {"logits": logits, "second": np.zeros((40, 8))}
    found = judge(outputs, samples(40, logits.argmax(axis=1)), {"logits": logits, "second": second})
    assert [(output.name, output.decisive) for output in found.outputs] == [("logits", True), ("second", False)]
    assert (verdict(found) or "").startswith("output second is -0.1 dB from float32's")


def test_a_constant_where_the_reference_varies_has_no_signal_left_and_one_like_the_reference_all_of_it():
    base = np.random.default_rng(0).normal(2000, 1, (50, 3))
    ours = np.broadcast_to(base.mean(axis=0), base.shape)
    assert judge({"out": ours}, samples(50, task="generic"), {"out": base}).error_db == pytest.approx(0, abs=1e-6)
    constant = np.full((50, 3), 7.0)
    assert judge({"out": constant}, samples(50, task="generic"), {"out": constant}).error_db == MOST_DB
    assert judge({"out": constant * 1.01}, samples(50, task="generic"), {"out": constant}).error_db == pytest.approx(40)
    assert judge({"out": constant}, samples(50, task="generic"), {"out": constant * 0}).error_db == -MOST_DB


def test_values_that_are_not_finite_where_the_reference_has_the_same_are_left_out():
    base = np.array([[1.0, -np.inf], [2.0, -np.inf], [4.0, -np.inf]])
    assert judge({"out": base}, samples(3, task="generic"), {"out": base}).error_db == MOST_DB
    with pytest.raises(RefusedError, match="output out of row 1 is not finite"):
        judge(
            {"out": np.where([[False, False], [True, False], [False, False]], np.nan, base)},
            samples(3, task="generic"),
            {"out": base},
        )


def test_saying_the_commonest_class_always_agrees_no_more_than_by_chance():
    base = np.zeros((100, 2))
    base[:, 0] = 1
    base[:3, 1] = 2
    ours = base.copy()
    ours[:3] = (1, 0.5)
    found = judged(ours, base)
    assert found.agreement is not None
    assert (found.agreement.count, found.beyond_chance) == (97, 0)
    assert "kappa 0.00" in (verdict(found) or "")
    # scikit-learn's kappa of the same decisions
    from sklearn.metrics import cohen_kappa_score

    ours = np.random.default_rng(0).normal(0, 1, (200, 3))
    base = ours + np.random.default_rng(1).normal(0, 0.5, (200, 3))
    assert judged(ours, base).beyond_chance == pytest.approx(cohen_kappa_score(ours.argmax(axis=1), base.argmax(axis=1)))


@pytest.mark.parametrize(("count", "others", "refused"), [(20, 1, False), (20, 2, True), (40, 2, False), (3, 0, False)])
def test_limits_compare_counts(count: int, others: int, refused: bool):
    base = np.tile([[1.0, 0.0], [0.0, 1.0]], (count, 1))[:count]
    ours = base.copy()
    ours[:others] = ours[:others, ::-1]
    assert (verdict(judged(ours, base)) is not None) == refused
    labels = base.argmax(axis=1)
    assert (verdict(judged(ours, base, labels)) is not None) == refused


def test_samples_of_one_row_are_read_together_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch):
    from edgekit.tasks import judgement

    row = np.repeat(np.arange(9), [1, 3, 2, 5, 1, 1, 4, 2, 1])
    rows = Samples({"x": np.zeros((20, 1))}, row=row, task="generic")
    values = {"out": np.random.default_rng(0).normal(0, 1, (20, 2))}
    reference = {"out": values["out"] + 0.1}
    expected = judge(values, rows, reference)
    blocks: list[list[int]] = []

    def reading(self: Any, outputs: Any, part: Samples) -> Any:
        blocks.append(list(part.row if part.row is not None else ()))
        return original(self, outputs, part)

    generic = type(GENERIC)
    original = generic.reading
    monkeypatch.setattr(generic, "reading", reading)
    monkeypatch.setattr(judgement, "_BLOCK", 2 * 16)
    assert judge(values, rows, reference).error_db == pytest.approx(expected.error_db)
    assert expected.rows == 9
    blocks = blocks[::2]
    assert len(blocks) > 4
    assert [*itertools.chain(*blocks)] == row.tolist()
    assert all(not {*one} & {*other} for one, other in itertools.pairwise(blocks))
    assert judge({"out": values["out"][:6]}, rows, {"out": reference["out"][:6]}).rows == 3


def test_decibels_have_ends():
    signal = np.array([3.0, 4.0])
    assert decibels(float(signal @ signal), float((0.1 * signal) @ (0.1 * signal))) == pytest.approx(20)
    assert (decibels(1, 0), decibels(0, 1), decibels(100, 1)) == (MOST_DB, -MOST_DB, 20)
