"""Weights rounded together instead of one by one, so that their errors cancel on what the model sees.

Rounding a weight up or down changes the output by its input; where inputs are correlated, the weights that are still to be
rounded can make up for it. Frantar et al., GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers, ICLR 2023, algorithm 1, with the inputs' covariance measured on representative data: what the mean adds is
the bias's to take off."""

from typing import Any

import numpy as np

LEVELS = 127
# Share of the inputs' mean variance that is added to each, so that directions never seen are not moved along freely.
_DAMPING = 0.01
_BLOCK = 32
# Steps that are tried where a channel has few weights, in units of the one that just reaches to its largest.
_STRETCHES = np.linspace(1.0, 1.2, 26)[1:]
_FEW = 128


def steps_of(weights: np.ndarray) -> np.ndarray:
    """int8 steps (groups, outputs) of weights (groups, outputs, size): symmetric, one for each output channel."""
    return np.asarray(np.abs(weights).max(axis=-1) / LEVELS, np.float32)


def single_threaded() -> Any:
    """A context in which matrix products take one thread each: of this size, several mostly wait for each other."""
    # Has a BLAS of its own, which is only found once it is loaded.
    import scipy.linalg  # noqa: F401
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1, user_api="blas")


class Rounding:
    """Rounds the weights of products that read what `covariance` (groups, size, size) describes."""

    def __init__(self, covariance: np.ndarray) -> None:
        self._covariance = covariance
        # The inputs that matter most come first, while most others can still make up for them.
        self._order = np.argsort(-np.einsum("gii->gi", covariance), axis=-1, kind="stable")
        rows = np.take_along_axis(covariance, self._order[..., np.newaxis], axis=-2)
        self._factor = _factor(np.take_along_axis(rows, self._order[:, np.newaxis], axis=-1))

    def levels(self, weights: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """int8 levels of `weights` (groups, outputs, size) in `steps` (groups, outputs).

        An output channel for which it does no better than rounding each weight by itself keeps that."""
        safe = np.where(steps > 0, steps, 1).astype(np.float64)[..., np.newaxis]
        scaled = weights / safe
        usual = np.clip(np.rint(scaled), -LEVELS, LEVELS)
        found, order = np.empty_like(usual), self._order[:, np.newaxis]
        np.put_along_axis(found, order, _compensated(np.take_along_axis(scaled, order, axis=-1), self._factor), axis=-1)
        better = self._cost(scaled - found) < self._cost(scaled - usual)
        return np.where(better[..., np.newaxis], found, usual).astype(np.int8)

    def fitted(self, weights: np.ndarray, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Steps (groups, outputs) and levels of `weights` (groups, outputs, size): `steps` or larger ones, by what they cost.

        How much rounding adds to an output that sums few inputs is chance: a step that is a little larger may suit all of its
        weights better. It takes 2 to 4 dB off the noise of depthwise convolutions."""
        chosen, levels = steps.copy(), self.levels(weights, steps)
        if weights.shape[-1] > _FEW:
            return chosen, levels
        best = self._cost(weights - levels * steps[..., np.newaxis].astype(np.float64))
        for stretch in _STRETCHES:
            tried = (steps * np.float32(stretch)).astype(np.float32)
            found = self.levels(weights, tried)
            cost = self._cost(weights - found * tried[..., np.newaxis].astype(np.float64))
            better = cost < best
            best[better], chosen[better], levels[better] = cost[better], tried[better], found[better]
        return chosen, levels

    def _cost(self, error: np.ndarray) -> np.ndarray:
        """Mean square (groups, outputs) of what `error` in the weights adds to the outputs."""
        return ((error @ self._covariance) * error).sum(axis=-1)


def _factor(covariance: np.ndarray) -> np.ndarray:
    """The upper Cholesky factor (groups, size, size) of the inverse: row k says how what is left makes up for weight k.

    With all axes turned round, it is the inverse of the lower factor of the covariance itself."""
    from scipy.linalg import lapack

    damping = np.maximum(_DAMPING * np.einsum("gii->g", covariance) / covariance.shape[-1], 1e-12)
    damped = covariance + damping[:, np.newaxis, np.newaxis] * np.eye(covariance.shape[-1])
    lower = np.linalg.cholesky(damped[:, ::-1, ::-1])
    return np.stack([lapack.dtrtri(factor, lower=1)[0][::-1, ::-1] for factor in lower])


def _compensated(weights: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Levels of `weights` (groups, outputs, size) counted in steps, one input after the other."""
    # Inputs first, so that what is worked on lies together.
    weights = np.ascontiguousarray(weights.transpose(0, 2, 1))
    levels = np.empty_like(weights)
    size = weights.shape[1]
    for start in range(0, size, _BLOCK):
        end = min(start + _BLOCK, size)
        errors = np.empty((len(weights), end - start, weights.shape[2]))
        for place in range(start, end):
            row = weights[:, place]
            levels[:, place] = np.clip(np.rint(row), -LEVELS, LEVELS)
            error = errors[:, place - start] = (row - levels[:, place]) / factor[:, place, place, np.newaxis]
            weights[:, place + 1 : end] -= factor[:, place, place + 1 : end, np.newaxis] * error[:, np.newaxis]
        weights[:, end:] -= factor[:, start:end, end:].transpose(0, 2, 1) @ errors
    return levels.transpose(0, 2, 1)
