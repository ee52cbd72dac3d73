"""Counts and intervals against values from tables and by hand."""

import numpy as np
import pytest

from edgekit.errors import DatasetError, RefusedError
from edgekit.tasks.metrics import accuracy, agreement, decisions, difference, drop, proportion

SCORES = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])


def test_wilson_at_the_ends():
    # z^2 / (n + z^2) = 3.8415 / 13.8415
    none, every = proportion(0, 10), proportion(10, 10)
    assert (none.low, none.value) == (0.0, 0.0)
    assert none.high == pytest.approx(0.27753, abs=1e-5)
    assert (every.high, every.value) == (1.0, 1.0)
    assert every.low == pytest.approx(1 - 0.27753, abs=1e-5)


def test_wilson_in_the_middle():
    # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3: 81 of 263.
    found = proportion(81, 263)
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)


def test_nothing_to_count():
    with pytest.raises(DatasetError, match="no rows"):
        proportion(0, 0)


def test_accuracy_counts_the_highest_class():
    found = accuracy(SCORES, np.array([1, 0, 0, 0]))
    assert (found.count, found.total) == (3, 4)


def test_axes_of_length_one_before_the_classes_do_not_matter():
    assert accuracy(SCORES[:, None, None, :], np.array([1, 0, 1, 0])).count == 4


def test_agreement_of_dense_outputs_counts_positions():
    dense = np.stack([SCORES, SCORES[::-1]])
    changed = dense.copy()
    changed[0, 0] = changed[0, 0, ::-1]
    found = agreement(changed, dense)
    assert (found.count, found.total) == (7, 8)


def test_drop_is_paired_on_the_same_rows():
    reference = SCORES.copy()
    outputs = SCORES[:, ::-1].copy()
    outputs[0] = SCORES[0]
    found = drop(outputs, reference, np.array([1, 0, 1, 1]))
    assert (found.lost, found.gained, found.total, found.value) == (2, 1, 4, 0.25)


def test_the_paired_interval():
    # p12 = 10/102, p21 = 4/102: 0.058824 -+ 1.959964 * sqrt((0.137255 - 0.003460) / 102)
    found = difference(lost=9, gained=3, total=100)
    assert found.value == pytest.approx(0.06)
    assert [found.low, found.high] == pytest.approx([-0.01216, 0.12981], abs=1e-5)


def test_no_discordant_row_still_leaves_an_interval():
    found = difference(0, 0, 50)
    assert found.value == 0
    assert found.low == -found.high < 0


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
def test_outputs_without_a_decision_are_refused(outputs: np.ndarray, reason: str):
    with pytest.raises(RefusedError, match=reason):
        decisions(outputs)


def test_a_label_outside_the_classes_is_named():
    with pytest.raises(DatasetError, match="label 2 of row 3 is outside the model's 2 classes"):
        accuracy(SCORES, np.array([0, 1, 0, 2]))


def test_labels_must_match_the_rows():
    with pytest.raises(DatasetError, match="one label for each row"):
        accuracy(SCORES, np.array([0, 1]))
