"""Counts and their intervals: accuracy, agreement with a reference, and the drop between the two; and the loss. Pure numpy."""

import math
from dataclasses import dataclass

import numpy as np

from edgekit.errors import DatasetError, RefusedError

# How far the float32 or int8 outputs of a softmax may be from a sum of 1.
_SUM_TOLERANCE = 0.02
_Z = 1.959963984540054  # the standard normal's 97.5 % quantile


@dataclass(frozen=True)
class Proportion:
    """`count` of `total` with the 95 % Wilson score interval [low, high]."""

    count: int
    total: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """Accuracy lost against the reference on the same `total` rows, with its 95 % interval [low, high].

    `lost` rows only the reference gets right, `gained` rows only the file does; `value` is (lost - gained) / total.
    """

    lost: int
    gained: int
    total: int
    value: float
    low: float
    high: float


def proportion(count: int, total: int) -> Proportion:
    """`count` of `total` with its 95 % Wilson score interval.

    Formula: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927) 209-212.
    Raises `DatasetError` if there is nothing to count.
    """
    if total <= 0:
        raise DatasetError("no rows to count; give a data set with at least one labelled row")
    share = count / total
    shrink = 1 + _Z**2 / total
    centre = (share + _Z**2 / (2 * total)) / shrink
    half = _Z / shrink * math.sqrt(share * (1 - share) / total + _Z**2 / (4 * total**2))
    # At the ends the formula gives exactly 0 and 1, floating point nearly so.
    low = 0.0 if count == 0 else centre - half
    high = 1.0 if count == total else centre + half
    return Proportion(count=int(count), total=int(total), value=share, low=low, high=high)


def decisions(outputs: np.ndarray) -> np.ndarray:
    """Highest class of each row: argmax over the last axis of (N, ..., classes), axes of length 1 between them dropped.

    Raises `RefusedError` where no decision can be read from the outputs: a value that is not finite, fewer than two
    classes, or every class equal in every row.
    """
    outputs = np.asarray(outputs)
    if outputs.ndim < 2 or outputs.shape[-1] < 2:
        raise RefusedError(
            f"outputs of shape {outputs.shape} hold no classes to choose from; accuracy needs at least two values per row"
        )
    if not np.isfinite(outputs).all():
        row = int(np.argwhere(~np.isfinite(outputs))[0][0])
        raise RefusedError(f"the output of row {row} is not finite; convert again with another scheme or other representative data")
    if (outputs == outputs[..., :1]).all():
        raise RefusedError(
            "every class gets the same score in every row; convert again with another scheme or other representative data"
        )
    chosen = outputs.argmax(axis=-1)
    return np.asarray(chosen.reshape(chosen.shape[0], *(axis for axis in chosen.shape[1:] if axis > 1)))


def accuracy(outputs: np.ndarray, labels: np.ndarray) -> Proportion:
    """Share of rows of `outputs` (N, ..., classes) whose highest class is the label, int (N,).

    Raises `RefusedError` as `decisions` does, and `DatasetError` if rows and labels do not match.
    """
    correct = _correct(outputs, labels)
    return proportion(int(correct.sum()), correct.size)


def agreement(outputs: np.ndarray, reference: np.ndarray) -> Proportion:
    """Share of decisions that equal the reference's on the same rows; each position of a dense output counts as one.

    Raises `RefusedError` as `decisions` does, and `DatasetError` if the shapes differ.
    """
    ours, theirs = decisions(outputs), decisions(reference)
    if ours.shape != theirs.shape:
        raise DatasetError(f"outputs decide {ours.shape}, the reference {theirs.shape}; give the reference file of the same model")
    return proportion(int((ours == theirs).sum()), ours.size)


def drop(outputs: np.ndarray, reference: np.ndarray, labels: np.ndarray) -> Difference:
    """Accuracy lost against `reference` on the same rows, with a 95 % interval for paired data.

    Formula: adjusted Wald interval of D. G. Bonett and R. M. Price, "Adjusted Wald confidence interval for a difference
    of binomial proportions based on paired data", Journal of Educational and Behavioral Statistics 37 (2012) 479-488.
    Raises `RefusedError` as `decisions` does, and `DatasetError` if rows and labels do not match.
    """
    ours, theirs = _correct(outputs, labels), _correct(reference, labels)
    return difference(lost=int((theirs & ~ours).sum()), gained=int((ours & ~theirs).sum()), total=ours.size)


def cross_entropy(outputs: np.ndarray, labels: np.ndarray) -> float | None:
    """Mean cross-entropy in nats of logits (N, classes) against labels, int (N,): -log softmax(row)[label].

    None where the outputs are no logits of one decision a row: they have other axes, or they are probabilities already,
    which shows by every row lying within [0, 1] with a sum of 1; an int8 softmax rounds most of them to zero, whose
    logarithm says nothing.
    """
    logits = np.asarray(outputs, dtype=np.float64)
    if logits.ndim != 2 or logits.shape[1] < 2 or labels.shape != logits.shape[:1]:
        return None
    if (logits >= 0).all() and (logits <= 1).all() and np.allclose(logits.sum(axis=1), 1, atol=_SUM_TOLERANCE):
        return None
    shifted = logits - logits.max(axis=1, keepdims=True)
    chosen = shifted[np.arange(len(labels)), labels]
    return float((np.log(np.exp(shifted).sum(axis=1)) - chosen).mean())


def difference(lost: int, gained: int, total: int) -> Difference:
    """`Difference` from the discordant counts: rows only the reference gets right, rows only the file gets right."""
    if total <= 0:
        raise DatasetError("no rows to count; give a data set with at least one labelled row")
    p_lost, p_gained = (lost + 1) / (total + 2), (gained + 1) / (total + 2)
    centre = p_lost - p_gained
    half = _Z * math.sqrt((p_lost + p_gained - centre**2) / (total + 2))
    return Difference(
        lost=lost,
        gained=gained,
        total=total,
        value=(lost - gained) / total,
        low=max(-1.0, centre - half),
        high=min(1.0, centre + half),
    )


def _correct(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    chosen = decisions(outputs)
    labels = np.asarray(labels)
    if chosen.shape != labels.shape:
        raise DatasetError(f"outputs decide {chosen.shape}, labels are {labels.shape}; give one label for each row")
    classes = np.shape(outputs)[-1]
    if (outside := (labels < 0) | (labels >= classes)).any():
        row = int(outside.argmax())
        raise DatasetError(
            f"label {int(labels[row])} of row {row} is outside the model's {classes} classes; check the label column"
        )
    return np.asarray(chosen == labels)
