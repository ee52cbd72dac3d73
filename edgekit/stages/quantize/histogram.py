"""A tensor's values as a histogram of fixed size, and the range for int8 that each calibration method reads off it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

BINS = 2048
PERCENTILE = 99.99

_LEVELS = 255
# Candidate ends stand this many bins apart.
_STRIDE = 8
# A narrower range would have steps finer than bins, where every divergence is zero.
_NARROWEST = _LEVELS + 1
_ROUNDS = 2
# What a bin gets where rounding leaves it empty: a large divergence, not an infinite one.
_NOTHING = 1e-9


@dataclass
class Histogram:
    """How many values fell into each of `BINS` equal parts of [low, high]; what lies outside counts to the part at its end."""

    low: float
    high: float
    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, values: np.ndarray) -> None:
        """Count `values`, of any shape."""
        if self.high > self.low and values.size:
            places = ((values.reshape(-1) - np.float32(self.low)) * np.float32(BINS / (self.high - self.low))).astype(np.int64)
            self.counts += np.bincount(np.clip(places, 0, BINS - 1, out=places), minlength=BINS)

    @property
    def edges(self) -> np.ndarray:
        """The BINS + 1 ends of the parts."""
        return np.linspace(self.low, self.high, BINS + 1)


def percentile(histogram: Histogram, percent: float = PERCENTILE) -> tuple[float, float]:
    """What is left when 100 - `percent` per cent of the values are cut off at each end."""
    counts, edges = histogram.counts, histogram.edges
    reached = np.concatenate([[0.0], np.cumsum(counts)]) / counts.sum()
    # A share falls inside a bin; the bin's outer end is taken, so that no more than the share is cut off.
    low = edges[int(np.searchsorted(reached, 1 - percent / 100, side="right")) - 1]
    high = edges[int(np.searchsorted(reached, percent / 100, side="left"))]
    return float(low), float(high)


def mse(histogram: Histogram) -> tuple[float, float]:
    """The range in which int8 has the least squared error: a step's square / 12 for each value inside, the distance outside.

    Zero is always among the levels, so values in zero's own bin (half of a ReLU's) have no error."""
    edges = histogram.edges
    centres = (edges[:-1] + edges[1:]) / 2
    counts = histogram.counts.astype(np.float64)
    counts[_zero(histogram)] = 0
    lows, highs = _candidates(histogram)
    # Sums over all bins below each edge, of value^0, ^1 and ^2.
    none, first, second = (np.concatenate([[0.0], np.cumsum(counts * centres**power)]) for power in range(3))

    def outside(ends: np.ndarray, sums: tuple[np.ndarray, ...]) -> np.ndarray:
        limit = edges[ends]
        return sums[2] - 2 * limit * sums[1] + limit**2 * sums[0]

    below = outside(lows, (none[lows], first[lows], second[lows]))
    above = outside(highs, (none[-1] - none[highs], first[-1] - first[highs], second[-1] - second[highs]))
    steps = (np.maximum(edges[highs], 0)[None] - np.minimum(edges[lows], 0)[:, None]) / _LEVELS
    errors = (none[highs][None] - none[lows][:, None]) * steps**2 / 12 + below[:, None] + above[None]
    row, column = np.unravel_index(int(np.argmin(errors)), errors.shape)
    return float(edges[lows[row]]), float(edges[highs[column]])


def entropy(histogram: Histogram) -> tuple[float, float]:
    """The range whose 255 levels lose the least information: Kullback-Leibler divergence of the values from what they become.

    Szymon Migacz, 8-bit Inference with TensorRT, GTC 2017; there for one end of a symmetric range, here for one end after
    the other. Zero's own bin, which a ReLU fills, counts as much as the fuller one beside it: zero is a level and loses nothing."""
    edges = histogram.edges
    counts = histogram.counts.astype(np.float64)
    if (zero := _zero(histogram)).size:
        beside = [place for place in (zero[0] - 1, zero[0] + 1) if 0 <= place < BINS]
        counts[zero] = np.minimum(counts[zero], counts[beside].max())
    lows, highs = _candidates(histogram)
    low, high = int(lows[0]), int(highs[-1])
    for _ in range(_ROUNDS):
        high = _least(counts, [(low, int(end)) for end in highs[::-1] if end - low >= _NARROWEST], (low, high))[1]
        low = _least(counts, [(int(end), high) for end in lows if high - end >= _NARROWEST], (low, high))[0]
    return float(edges[low]), float(edges[high])


def _least(counts: np.ndarray, ranges: list[tuple[int, int]], otherwise: tuple[int, int]) -> tuple[int, int]:
    """The first of `ranges` with the least divergence."""
    return min(ranges, key=lambda ends: _divergence(counts, *ends), default=otherwise)


def _divergence(counts: np.ndarray, low: int, high: int) -> float:
    """KL divergence of bins `low` to `high`, with what lies outside added at their ends, from the same bins rounded to levels."""
    inside = counts[low:high]
    true = inside.copy()
    true[0] += counts[:low].sum()
    true[-1] += counts[high:].sum()
    starts = np.ceil(np.arange(_LEVELS) * len(inside) / _LEVELS).astype(np.int64)
    widths = np.diff(np.append(starts, len(inside)))
    filled = inside > 0
    # Each level's count goes to those of its bins that held anything; what was clipped is missing from it.
    share = np.add.reduceat(inside, starts) / np.maximum(np.add.reduceat(filled.astype(np.int64), starts), 1)
    made = np.where(filled, np.repeat(share, widths), 0)
    if not made.any():
        return float("inf")
    true, made = true / true.sum(), np.maximum(made / made.sum(), _NOTHING)
    held = true > 0
    return float((true[held] * np.log(true[held] / made[held])).sum())


def _zero(histogram: Histogram) -> np.ndarray:
    """Index of the bin that zero falls into, if there is one."""
    edges = histogram.edges
    return np.flatnonzero((edges[:-1] <= 0) & (edges[1:] > 0))


def _candidates(histogram: Histogram) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the edges that may be the lower and the upper end; zero stays between them, or the end next to it where it is."""
    edges = histogram.edges
    zero = int(np.clip(np.searchsorted(edges, 0.0), 0, BINS))
    lows = np.arange(0, min(zero, BINS - 1) + 1, _STRIDE) if histogram.low < 0 else np.array([0])
    highs = np.arange(BINS, max(zero, 1) - 1, -_STRIDE)[::-1] if histogram.high > 0 else np.array([BINS])
    return lows, highs


RANGES: Mapping[str, Callable[[Histogram], tuple[float, float]]] = MappingProxyType(
    {"percentile": percentile, "mse": mse, "entropy": entropy}
)
