"""What is a mask among the constants of a graph, and what it is softened to."""

import numpy as np
import pytest

from edgekit.models import attention_masks


@pytest.mark.parametrize(
    ("values", "softened"),
    [
        ([0.0, np.finfo(np.float32).min], [0.0, -20.0]),
        ([-np.inf], [-20.0]),
        ([1e30], [20.0]),
        ([1e10, 1e10], [20.0, 20.0]),
    ],
)
def test_masks_and_their_factors_are_softened(values: list[float], softened: list[float]) -> None:
    array = np.array(values, np.float32)
    assert attention_masks.is_mask(array)
    assert attention_masks.soften(array, -20.0).tolist() == softened


@pytest.mark.parametrize("values", [[np.finfo(np.float32).max], [np.inf], [1e10, 2e10], [1e8], [-1e8, 0.0], []])
def test_limits_and_large_numbers_are_no_masks(values: list[float]) -> None:
    assert not attention_masks.is_mask(np.array(values, np.float32))
