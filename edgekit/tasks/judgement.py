"""How good outputs are: by their task's metric, by the reference's decisions, and by the error of their values. Pure numpy."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgekit.data.samples import Array, Samples
from edgekit.errors import DatasetError, RefusedError
from edgekit.tasks.base import Outputs, Reading
from edgekit.tasks.metrics import Difference, Proportion, Score, proportion
from edgekit.tasks.table import TASKS

MOST_DB = 150.0  # what equal values count as; float32 itself holds no more
# Bytes of outputs that are read at a time.
_BLOCK = 2**26
# What varies less than this, relative to the values themselves, is float32's own rounding.
_CONSTANT = 1e-5


@dataclass(frozen=True)
class OutputError:
    """One output against the reference's.

    `error_db` is 10 log10 of the power of what varies between rows over that of the difference: an offset that all rows share
    counts as nothing, and values that do not vary count as they are. `cosine` is over all values, `max_abs` the largest
    difference. `decisive` says that the task reads its decisions from it, or compares its vectors by a metric of their own."""

    name: str
    error_db: float
    cosine: float
    max_abs: float
    decisive: bool = False


@dataclass(frozen=True)
class Judgement:
    """What was found on `rows` rows: the task's metrics where there are labels, and the rest where there is a reference.

    Metrics that compare with the reference are the last of `scores`.

    `drop` is what is lost of the first metric. `agreement` counts decisions that equal the reference's, `beyond_chance` is
    Cohen's kappa of them: 0 where a file agrees no more often than by naming each decision as often as it does."""

    rows: int
    scores: tuple[Score, ...] = ()
    drop: Difference | None = None
    agreement: Proportion | None = None
    beyond_chance: float | None = None
    outputs: tuple[OutputError, ...] = ()

    @property
    def error_db(self) -> float | None:
        """Of the worst output."""
        return min((output.error_db for output in self.outputs), default=None)

    @property
    def lost(self) -> float:
        """The metric's drop, or without labels the share of other decisions; 0 where there are neither."""
        if self.drop is not None:
            return self.drop.value
        return 1 - self.agreement.value if self.agreement is not None else 0.0


def judge(outputs: Outputs, samples: Samples, reference: Outputs | None = None) -> Judgement:
    """Judge the outputs (N, …) by name of the first N of `samples`, which are whole rows, with the reference's on the same ones.

    Raises `RefusedError` for values that are not finite where the reference's are, or outputs that the task cannot read, and
    `DatasetError` if the shapes differ from the reference's or labels do not fit."""
    task, settings = TASKS[samples.task], samples.settings
    count = len(next(iter(outputs.values())))
    if count == 0:
        raise DatasetError("no rows to judge; give a data set with at least one")
    gathered, theirs = _Gathered(), _Gathered()
    errors: dict[str, _Error] = {}
    decisive: set[str] = set()
    for places in _blocks(samples, count, outputs):
        rows = samples.span(places)
        ours = _finite({name: np.asarray(array[places]) for name, array in outputs.items()}, reference, places)
        reading = task.reading(ours, rows)
        gathered.add(reading)
        decisive |= set(reading.values)
        if reference is None:
            continue
        base = {name: np.asarray(array[places]) for name, array in reference.items()}
        expected = task.reading(base, rows)
        theirs.add(expected)
        for name, tally in task.likeness(reading, expected, rows).items():
            gathered.tallies[name].append(tally)
        pairs = {name: (values, expected.values[name]) for name, values in reading.values.items()}
        pairs |= {name: (ours[name], base[name]) for name in ours if name in base and name not in pairs}
        for name, (values, wanted) in pairs.items():
            errors.setdefault(name, _Error()).add(name, values, wanted)
    metrics = [metric for metric in task.metrics(settings) if metric.name in gathered.tallies]
    likeness = [metric for metric in task.likeness_metrics() if metric.name in gathered.tallies]
    scores = tuple(score for metric in (*metrics, *likeness) if (score := metric.score(gathered.tally(metric.name))) is not None)
    if reference is None:
        return Judgement(samples.row_count(count), scores)
    drop = metrics[0].drop(gathered.tally(metrics[0].name), theirs.tally(metrics[0].name)) if metrics else None
    agreement, kappa = _agreement(gathered.decisions, theirs.decisions)
    judged = agreement is not None or bool(likeness)
    outputs_off = tuple(error.of(name, judged and name in decisive) for name, error in errors.items())
    return Judgement(samples.row_count(count), scores, drop, agreement, kappa, outputs_off)


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise) within ±`MOST_DB`, which is what equal values have."""
    if noise <= 0:
        return MOST_DB
    return float(np.clip(10 * np.log10(signal / noise), -MOST_DB, MOST_DB)) if signal > 0 else -MOST_DB


@dataclass
class _Gathered:
    parts: list[Array] = field(default_factory=list)
    tallies: dict[str, list[Array]] = field(default_factory=lambda: defaultdict(list))

    def add(self, reading: Reading) -> None:
        if reading.decisions is not None:
            self.parts.append(reading.decisions)
        for name, tally in reading.tallies.items():
            self.tallies[name].append(tally)

    @property
    def decisions(self) -> Array | None:
        return np.concatenate(self.parts) if self.parts else None

    def tally(self, name: str) -> Array:
        return np.concatenate(self.tallies[name]).astype(np.float64)


def _agreement(ours: Array | None, theirs: Array | None) -> tuple[Proportion | None, float | None]:
    """How many decisions are equal, and J. Cohen, "A coefficient of agreement for nominal scales", 1960."""
    if ours is None or theirs is None or not ours.size:
        return None, None
    if ours.shape != theirs.shape:
        raise DatasetError(
            f"the file decides {ours.shape}, the reference {theirs.shape}; give the reference file of the same model"
        )
    same = proportion(int((ours == theirs).sum()), ours.size)
    names, places = np.unique(np.concatenate([ours, theirs]), return_inverse=True)
    shares = [np.bincount(half, minlength=len(names)) / ours.size for half in np.split(places.reshape(-1), 2)]
    chance = float(shares[0] @ shares[1])
    return same, (same.value - chance) / (1 - chance) if chance < 1 else float(same.value)


class _Error:
    """Sums of one output's values and differences, block after block."""

    def __init__(self) -> None:
        self.count = 0
        self.total: Any = 0.0
        self.power = self.noise = self.product = self.own = self.largest = 0.0

    def add(self, name: str, values: Array, reference: Array) -> None:
        if values.shape != reference.shape:
            raise DatasetError(
                f"output {name} has shape {values.shape[1:]}, the reference's {reference.shape[1:]}; "
                "give the reference file of the same model"
            )
        ours, theirs = (array.reshape(len(array), -1).astype(np.float64) for array in (values, reference))
        same = ~np.isfinite(theirs)
        if same.any():
            ours, theirs = np.where(same, 0, ours), np.where(same, 0, theirs)
        wrong = ours - theirs
        self.count += len(ours)
        self.total = self.total + theirs.sum(axis=0)
        self.power += float((theirs * theirs).sum())
        self.own += float((ours * ours).sum())
        self.product += float((ours * theirs).sum())
        self.noise += float((wrong * wrong).sum())
        self.largest = max(self.largest, float(np.abs(wrong).max(initial=0.0)))

    def of(self, name: str, decisive: bool) -> OutputError:
        varying = self.power - float((self.total * self.total).sum()) / max(1, self.count)
        signal = varying if varying > _CONSTANT**2 * self.power else self.power
        length = float(np.sqrt(self.power * self.own))
        cosine = 1.0 if self.noise == 0 else float(np.clip(self.product / length, -1, 1)) if length > 0 else 0.0
        return OutputError(name, decibels(signal, self.noise), cosine, self.largest, decisive)


def _blocks(samples: Samples, count: int, outputs: Outputs) -> Iterator[slice]:
    """The first `count` samples in blocks of whole rows."""
    size = sum(np.asarray(array[:1]).nbytes for array in outputs.values())
    step = max(1, _BLOCK // max(1, size))
    start = 0
    while start < count:
        stop = samples.row_end(min(start + step, count), count)
        yield slice(start, stop)
        start = stop


def _finite(outputs: dict[str, Array], reference: Outputs | None, places: slice) -> dict[str, Array]:
    for name, array in outputs.items():
        if array.dtype.kind != "f":
            continue
        wrong = ~np.isfinite(array)
        if wrong.any() and reference is not None and name in reference:
            base = np.asarray(reference[name][places])
            if base.shape == array.shape:
                wrong &= ~((array == base) | (np.isnan(array) & np.isnan(base)))
        if wrong.any():
            row = places.start + int(np.argwhere(wrong)[0][0])
            raise RefusedError(
                f"output {name} of row {row} is not finite; convert it again with another scheme or other representative data"
            )
    return outputs
