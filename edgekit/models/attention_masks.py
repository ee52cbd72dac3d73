"""Attention masks that integers can represent.

Frameworks add `finfo(float32).min` (-3.4e38) or minus infinity to masked attention scores. Calibration takes that for
the tensor's range, and every real score rounds to zero. A small finite value gives the same softmax; which one is
small enough and still the same is found by running the model. XLNet takes 1e30 times its mask away instead of adding one."""

from collections.abc import Callable

import numpy as np

from edgekit.tasks.base import Outputs
from edgekit.tasks.parity import compare

# No trained weight or real score is this negative; what is, is a mask.
THRESHOLD = -1e9
_LIMIT = 1e38
CANDIDATES = (-20.0, -40.0, -80.0, -160.0, -1000.0, -10000.0)
_TOLERANCE = 1e-5


def is_mask(values: np.ndarray) -> bool:
    """Whether a constant float array holds mask values, or is the factor that makes a mask of zeros and ones."""
    return values.dtype.kind == "f" and values.size > 0 and (bool((values <= THRESHOLD).any()) or _is_factor(values))


def soften(values: np.ndarray, value: float) -> np.ndarray:
    """`values` with every mask value replaced by the negative `value`, a factor by what is as far above zero; dtype kept."""
    if _is_factor(values):
        return np.full_like(values, -value)
    return np.where(values <= THRESHOLD, np.asarray(value, values.dtype), values)


def _is_factor(values: np.ndarray) -> bool:
    # The largest floats are limits of a clip.
    return bool(-THRESHOLD <= values.min() == values.max() < _LIMIT)


def choose(run: Callable[[float], Outputs], reference: Outputs) -> float | None:
    """The first of `CANDIDATES` with which `run` gives every output of `reference` within 1e-5 relative, or None.

    `run` takes a mask value and returns the model's outputs (N, ...) by name for the rows that gave `reference`."""
    for value in CANDIDATES:
        outputs = run(value)
        if all(compare(outputs[name], array).max_rel <= _TOLERANCE for name, array in reference.items()):
            return value
    return None
