"""Metrics as reductions of what each row adds, with their intervals, and counts with theirs. Pure numpy."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.errors import DatasetError

Array = np.ndarray[Any, np.dtype[Any]]

_Z = 1.959963984540054  # the standard normal's 97.5 % quantile
_RESAMPLES, _CENTRAL = 1000, (2.5, 97.5)
_ROUNDING = 1e-13
# Numbers in one block of resampled weights.
_BLOCK = 2**23


@dataclass(frozen=True)
class Proportion:
    """`count` of `total` with the 95 % Wilson score interval [low, high]."""

    count: int
    total: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Score:
    """`metric` on `total` rows with its 95 % interval [low, high]; `count` of them are right where it is a share of rows.

    `percent` says that 1 is the best there is, so that people read it as per cent; else it has the labels' own unit."""

    metric: str
    value: float
    low: float
    high: float
    total: int
    count: int | None = None
    percent: bool = True

    def __str__(self) -> str:
        return f"{self.metric} {self.value:.4f}" + ("" if self.count is None else f" ({self.count} of {self.total})")


@dataclass(frozen=True)
class Difference:
    """What is lost of a metric against the reference on the same `total` rows, with its 95 % interval [low, high].

    Of a share of rows, `lost` are those only the reference gets right, `gained` those only the file does, and `value` is
    (lost - gained) / total."""

    lost: int | None
    gained: int | None
    total: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Metric:
    """A figure that is reduced from tallies (rows, k), what each row adds to it.

    `reduce` takes their sums over rows (..., k); `of_rows` is for a metric that sums do not give and takes the tallies
    themselves. `right` is for a share of rows: each adds 1 (k = 1) where it is right and else 0, and the interval has a formula."""

    name: str
    reduce: Callable[[Array], Any] | None = None
    of_rows: Callable[[Array], float] | None = None
    right: bool = False
    percent: bool = True
    lower_is_better: bool = False

    def value(self, tallies: Array) -> float:
        """The metric over all rows; nan where it has no meaning for them."""
        if self.right:
            return float(tallies.mean())
        return float(self.of_rows(tallies) if self.of_rows else self.reduce(tallies.sum(axis=0)))  # type: ignore[misc]

    def score(self, tallies: Array) -> Score | None:
        """The metric with its interval: Wilson's for a share of rows, else that of a bootstrap over rows; None for nan."""
        total, value = len(tallies), self.value(tallies)
        if math.isnan(value):
            return None
        if self.right:
            share = proportion(int(tallies.sum()), total)
            return Score(self.name, share.value, share.low, share.high, total, share.count)
        low, high = np.percentile(self._resampled(tallies), _CENTRAL).tolist()
        return Score(self.name, value, min(low, value), max(high, value), total, percent=self.percent)

    def drop(self, tallies: Array, reference: Array) -> Difference | None:
        """What is lost against the reference's tallies of the same rows, above 0 where that is the better one; None for nan."""
        if self.right:
            ours, theirs = tallies[:, 0] > 0, reference[:, 0] > 0
            return difference(int((theirs & ~ours).sum()), int((ours & ~theirs).sum()), len(ours))
        sign = -1.0 if self.lower_is_better else 1.0
        value = sign * (self.value(reference) - self.value(tallies))
        if math.isnan(value):
            return None
        low, high = np.percentile(sign * (self._resampled(reference) - self._resampled(tallies)), _CENTRAL).tolist()
        return Difference(None, None, len(tallies), value, min(low, value), max(high, value))

    def _resampled(self, tallies: Array) -> Array:
        """The metric of `_RESAMPLES` draws of as many rows, the same ones for every call with as many rows.

        B. Efron, "Bootstrap methods: another look at the jackknife", The Annals of Statistics 7 (1979) 1-26."""
        rows, draw = len(tallies), np.random.default_rng(0)
        if self.of_rows:
            return np.array([self.of_rows(tallies[draw.integers(0, rows, rows)]) for _ in range(_RESAMPLES)])
        step = max(1, min(_RESAMPLES, _BLOCK // max(1, rows)))
        found = []
        for start in range(0, _RESAMPLES, step):
            count = min(step, _RESAMPLES - start)
            drawn = draw.integers(0, rows, (count, rows)) + rows * np.arange(count)[:, np.newaxis]
            weights = np.bincount(drawn.reshape(-1), minlength=count * rows).reshape(count, rows).astype(np.float64)
            found.append(np.asarray(self.reduce(weights @ tallies)))  # type: ignore[misc]
        return np.concatenate(found)


def f1(sums: Array) -> Array:
    """F1 = 2 tp / (2 tp + fp + fn) of sums (..., 3) of true positives, false positives and false negatives; 1 of none at all."""
    hits, wrong, missed = sums[..., 0], sums[..., 1], sums[..., 2]
    whole = 2 * hits + wrong + missed
    return np.where(whole > 0, 2 * hits / np.maximum(whole, 1), 1.0)


def macro_f1(sums: Array) -> Array:
    """Mean F1 of the classes of sums (..., 3 classes); a class that is neither there nor named counts 0, as scikit-learn has it."""
    classes = sums.reshape(*sums.shape[:-1], -1, 3)
    named = classes.sum(axis=-1) > 0
    return np.where(named, f1(classes), 0.0).mean(axis=-1)


def mean(sums: Array) -> Array:
    """Mean of sums (..., 2) of values and their number."""
    return sums[..., 0] / np.maximum(sums[..., 1], 1)


def exponential(sums: Array) -> Array:
    """exp of the mean of sums (..., 2) of values and their number."""
    return np.exp(mean(sums))


def pearson(sums: Array) -> Array:
    """Correlation of sums (..., 6) of 1, x, y, x², y², xy; 0 where one of the two does not vary."""
    count, x, y, xx, yy, xy = (sums[..., place] for place in range(6))
    # What rounding leaves of a constant's variance is no variance.
    squares = ((count * xx - x * x, xx), (count * yy - y * y, yy))
    one, other = (np.where(square > _ROUNDING * count * power, square, 0) for square, power in squares)
    spread = np.sqrt(one) * np.sqrt(other)
    return np.where(spread > 0, (count * xy - x * y) / np.where(spread > 0, spread, 1), 0.0)


def moments(x: Array, y: Array) -> Array:
    """Tallies (rows, 6) that `pearson` reduces."""
    return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)


def cosines(ours: Array, theirs: Array) -> Array:
    """float64 (N,) cosines of vectors (N, D) with others; 1 of equal ones, and 0 of one that is nothing with one that is not."""
    one, other = ours.astype(np.float64), theirs.astype(np.float64)
    lengths = np.sqrt((one * one).sum(axis=-1) * (other * other).sum(axis=-1))
    same = (one == other).all(axis=-1)
    return np.where(same, 1.0, np.clip((one * other).sum(axis=-1) / np.where(lengths > 0, lengths, 1), -1, 1))


def least(tallies: Array) -> float:
    """The smallest of tallies (rows, 1)."""
    return float(tallies.min())


def spearman(pairs: Array) -> float:
    """Rank correlation of pairs (rows, 2), ties at their mean rank."""
    return float(pearson(moments(*map(_ranks, pairs.T)).sum(axis=0)))


def _ranks(values: Array) -> Array:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[places])


ACCURACY = Metric("accuracy", right=True)
TOKEN_ACCURACY = Metric("token accuracy", mean)
CROSS_ENTROPY = Metric("loss", mean, percent=False, lower_is_better=True)
# Of J. Salazar et al., "Masked language model scoring", 2020, with one token masked in each text and not each in turn.
PSEUDO_PERPLEXITY = Metric("pseudo-perplexity", exponential, percent=False, lower_is_better=True)
MICRO_F1 = Metric("micro F1", f1)
MACRO_F1 = Metric("macro F1", macro_f1)
ENTITY_F1 = Metric("entity F1", f1)
ANSWER_F1 = Metric("F1", mean)
EXACT_MATCH = Metric("exact match", right=True)
PEARSON = Metric("Pearson", pearson)
SPEARMAN = Metric("Spearman", of_rows=spearman)
COSINE = Metric("cosine", mean, percent=False)
WORST_COSINE = Metric("worst cosine", of_rows=least, percent=False)
MEAN_ABSOLUTE_ERROR = Metric("mean absolute error", mean, percent=False, lower_is_better=True)


def proportion(count: int, total: int) -> Proportion:
    """`count` of `total` with its 95 % Wilson score interval.

    Formula: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927) 209-212.
    Raises `DatasetError` if there is nothing to count."""
    if total <= 0:
        raise DatasetError("no rows to count; give a data set with at least one labelled row")
    share = count / total
    shrink = 1 + _Z**2 / total
    centre = (share + _Z**2 / (2 * total)) / shrink
    half = _Z / shrink * math.sqrt(share * (1 - share) / total + _Z**2 / (4 * total**2))
    # At the ends the formula gives exactly 0 and 1, floating point nearly so.
    low = 0.0 if count == 0 else centre - half
    high = 1.0 if count == total else centre + half
    return Proportion(int(count), int(total), share, low, high)


def difference(lost: int, gained: int, total: int) -> Difference:
    """`Difference` from the discordant counts: rows only the reference gets right, rows only the file gets right."""
    if total <= 0:
        raise DatasetError("no rows to count; give a data set with at least one labelled row")
    p_lost, p_gained = (lost + 1) / (total + 2), (gained + 1) / (total + 2)
    centre = p_lost - p_gained
    half = _Z * math.sqrt((p_lost + p_gained - centre**2) / (total + 2))
    return Difference(lost, gained, total, (lost - gained) / total, max(-1.0, centre - half), min(1.0, centre + half))
