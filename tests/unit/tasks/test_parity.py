"""Parity figures against values worked out by hand."""

import math

import numpy as np
import pytest

from edgekit.errors import ParityError
from edgekit.tasks.parity import Parity, compare, require, sqnr_db

REFERENCE = np.array([[1.0, 4.0], [-2.0, 2.0]])


def test_differences_are_absolute_and_relative_to_the_largest_reference_value():
    found = compare(REFERENCE + np.array([[0.0, 0.5], [0.0, 0.0]]), REFERENCE)
    assert found == Parity(max_abs=0.5, max_rel=0.125, same_argmax=1.0, margin=0.0, rows=2)


def test_the_margin_is_the_lead_that_the_reference_gave_its_own_choice():
    found = compare(np.array([[5.0, 4.0], [-2.0, 2.0]]), REFERENCE)
    assert (found.same_argmax, found.margin) == (0.5, 0.75)


def test_equal_outputs_pass_and_a_difference_names_the_hop():
    require(compare(REFERENCE, REFERENCE), "torch to ONNX")
    with pytest.raises(ParityError, match=r"^torch to ONNX: outputs differ by 0\.01 relative"):
        require(compare(REFERENCE + 0.04, REFERENCE), "torch to ONNX")


def test_a_tie_within_tolerance_is_no_disagreement():
    reference = np.array([[10.0, 9.9999]])
    require(compare(np.array([[9.9999, 10.0]]), reference), "hop")


def test_another_class_by_a_clear_lead_is_refused_even_where_the_values_are_close():
    reference = np.array([[10.0, 9.985]])
    with pytest.raises(ParityError, match=r"hop: 100\.0% of 1 rows get another class"):
        require(compare(np.array([[9.992, 9.993]]), reference), "hop")


@pytest.mark.parametrize(
    ("outputs", "reason"),
    [
        (np.ones((2, 3)), "shape"),
        (np.array([[1.0, 2.0], [np.nan, 0.0]]), "row 1 is not finite"),
        (np.array([[1.0, np.inf], [0.0, 0.0]]), "row 0 is not finite"),
    ],
)
def test_what_cannot_be_compared_is_an_error(outputs: np.ndarray, reason: str):
    with pytest.raises(ParityError, match=reason):
        compare(outputs, REFERENCE)


def test_no_rows_cannot_be_compared():
    with pytest.raises(ParityError, match="no output"):
        compare(np.ones((0, 2)), np.ones((0, 2)))


def test_values_against_a_reference_of_zeros():
    zeros = np.zeros((1, 2))
    assert compare(zeros, zeros).max_rel == 0
    assert math.isinf(compare(zeros + 1e-9, zeros).max_rel)


def test_sqnr():
    signal = np.array([[3.0, 4.0]])
    assert sqnr_db(1.1 * signal, signal) == pytest.approx(20.0)
    assert sqnr_db(signal, signal) == math.inf


def test_one_value_per_row_is_compared_by_value_alone():
    found = compare(np.array([1.0, 2.0, 4.5]), np.array([1.0, 2.0, 4.0]))
    assert (found.max_abs, found.same_argmax, found.rows) == (0.5, 1.0, 3)
