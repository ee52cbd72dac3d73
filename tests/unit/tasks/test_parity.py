"""Parity figures against values worked out by hand."""

import math

import numpy as np
import pytest

from edgekit.errors import ParityError
from edgekit.tasks.parity import Parity, compare, compare_all, require

REFERENCE = np.array([[1.0, 4.0], [-2.0, 2.0]])


def test_differences_are_absolute_and_relative_to_what_varies_between_rows():
    # The farthest from the means, -0.5 and 3, are 1.5 away.
    found = compare(REFERENCE + np.array([[0.0, 0.5], [0.0, 0.0]]), REFERENCE)
    assert (found.max_abs, found.max_rel, found.rows) == (0.5, 0.5 / 1.5, 2)
    assert compare(REFERENCE[:1] + 0.5, REFERENCE[:1]) == Parity(0.5, 0.125, 1)


def test_an_offset_that_all_rows_share_hides_no_error_but_is_held_against_float32s_rounding():
    far = REFERENCE + 2000
    assert compare(far + 0.5, far).max_rel == pytest.approx(0.5 / 20.04)
    assert compare(REFERENCE + 50.5, REFERENCE + 50).max_rel == pytest.approx(1 / 3)


def test_the_output_that_is_farthest_off_is_named():
    close, far = REFERENCE + 1e-6, REFERENCE + 0.1
    reference = {"boxes": REFERENCE, "scores": REFERENCE}
    assert compare_all({"boxes": close, "scores": far, "other": far}, reference).output == "scores"
    with pytest.raises(ParityError, match="no output scores among boxes"):
        compare_all({"boxes": close}, reference)


def test_equal_outputs_pass_and_a_difference_names_the_hop():
    require(compare(REFERENCE, REFERENCE), "torch to ONNX")
    with pytest.raises(ParityError, match=r"^torch to ONNX: outputs differ by 0\.027 relative"):
        require(compare(REFERENCE + 0.04, REFERENCE), "torch to ONNX")


def test_a_tie_within_tolerance_is_no_disagreement():
    reference = np.array([[10.0, 9.9999]])
    require(compare(np.array([[9.9999, 10.0]]), reference), "hop")


def test_another_class_by_a_clear_lead_is_refused_even_where_the_values_are_close():
    reference = np.array([[10.0, 9.985], [10.1, 9.9]])
    with pytest.raises(ParityError, match=r"hop: outputs differ by 0\.079 relative \(0\.008 absolute\) on 2 rows"):
        require(compare(np.array([[9.992, 9.993], [10.1, 9.9]]), reference), "hop")


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


def test_one_value_per_row_is_compared_by_value_alone():
    found = compare(np.array([1.0, 2.0, 4.5]), np.array([1.0, 2.0, 4.0]))
    assert (found.max_abs, found.rows) == (0.5, 3)
