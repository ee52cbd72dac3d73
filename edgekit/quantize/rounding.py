"""Weights rounded together instead of one by one, so that their errors cancel on what the model sees.

Rounding a weight up or down changes the output by its input; where inputs are correlated, the weights that are still to be
rounded can make up for it. Frantar et al., GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers, ICLR 2023, algorithm 1, with the inputs' covariance measured on representative data: what the mean adds is
the bias's to take off.
"""

import numpy as np

LEVELS = 127
# Share of the inputs' mean variance that is added to each, so that directions never seen are not moved along freely.
_DAMPING = 0.01
_BLOCK = 32


def steps_of(weights: np.ndarray) -> np.ndarray:
    """int8 steps (groups, outputs) of weights (groups, outputs, size): symmetric, one for each output channel."""
    return np.asarray(np.abs(weights).max(axis=-1) / LEVELS, np.float32)


class Rounding:
    """Rounds the weights of products that read what `covariance` (groups, size, size) describes."""

    def __init__(self, covariance: np.ndarray) -> None:
        self._covariance = covariance.astype(np.float64)
        # The inputs that matter most come first, while most others can still make up for them.
        self._order = np.argsort(-np.einsum("gii->gi", self._covariance), axis=-1, kind="stable")
        rows = np.take_along_axis(self._covariance, self._order[..., np.newaxis], axis=-2)
        self._factor = _factor(np.take_along_axis(rows, self._order[:, np.newaxis], axis=-1))

    def levels(self, weights: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """int8 levels of `weights` (groups, outputs, size) in `steps` (groups, outputs).

        An output channel for which it does no better than rounding each weight by itself keeps that.
        """
        safe = np.where(steps > 0, steps, 1).astype(np.float64)[..., np.newaxis]
        usual = np.clip(np.rint(weights / safe), -LEVELS, LEVELS)
        found, order = np.empty_like(usual), self._order[:, np.newaxis]
        ordered = np.take_along_axis(weights.astype(np.float64), order, axis=-1)
        np.put_along_axis(found, order, _compensated(ordered, self._factor, safe), axis=-1)
        better = self._cost(weights - found * safe) < self._cost(weights - usual * safe)
        return np.where(better[..., np.newaxis], found, usual).astype(np.int8)

    def _cost(self, error: np.ndarray) -> np.ndarray:
        """Mean square (groups, outputs) of what `error` in the weights adds to the outputs."""
        return ((error @ self._covariance) * error).sum(axis=-1)


def _factor(covariance: np.ndarray) -> np.ndarray:
    """The upper Cholesky factor (groups, size, size) of the inverse: row k says how what is left makes up for weight k."""
    size = covariance.shape[-1]
    damping = np.maximum(_DAMPING * np.einsum("gii->g", covariance) / size, 1e-12)
    inverse = np.linalg.inv(covariance + damping[:, np.newaxis, np.newaxis] * np.eye(size))
    # Symmetric but for the last digits, which Cholesky's method wants to be told.
    return np.linalg.cholesky((inverse + inverse.transpose(0, 2, 1)) / 2).transpose(0, 2, 1)


def _compensated(weights: np.ndarray, factor: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Levels of `weights`, which are used up, one input after the other."""
    levels = np.empty_like(weights)
    size = weights.shape[-1]
    for start in range(0, size, _BLOCK):
        end = min(start + _BLOCK, size)
        errors = np.empty((*weights.shape[:2], end - start))
        for place in range(start, end):
            column = weights[..., place : place + 1]
            levels[..., place : place + 1] = np.clip(np.rint(column / steps), -LEVELS, LEVELS)
            error = (column - levels[..., place : place + 1] * steps) / factor[:, place, place][:, np.newaxis, np.newaxis]
            errors[..., place - start : place - start + 1] = error
            weights[..., place + 1 : end] -= error * factor[:, np.newaxis, place, place + 1 : end]
        weights[..., end:] -= errors @ factor[:, start:end, end:]
    return levels
