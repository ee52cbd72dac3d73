"""Find the ops that cost the most accuracy when they become integer, by making each one integer alone and running the model."""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from edgekit.data.samples import Array, Samples
from edgekit.errors import EdgekitError
from edgekit.stages.quantize import forms, quantizer
from edgekit.stages.quantize.candidates import LANES, LEAST_ROWS, ROUNDING, ROWS, Candidate, Reference, attempt, lanes, run_rows
from edgekit.stages.quantize.forms import Form
from edgekit.stages.quantize.prepare import read_graph
from edgekit.stages.quantize.switches import SWITCHES, both_ways
from edgekit.system.serial import parse_json
from edgekit.system.worker import progress
from edgekit.tasks.judgement import judge

# Rows an op is tried on alone: twice as many made no better plans. A whole plan is tried on all that float32 ran on.
_ROWS = 8
_SECONDS_FOR_A_RUN = 6.0
# Integer activations may add a quarter to the noise of a file that has none; and noise of an eightieth of the outputs is worth
# no op in float.
_ADDED = 1.25
ENOUGH_DB = 38.0
# The share of the time that goes into trying ops alone; the rest is for plans.
_ALONE = 0.7
# One op more than need be of so many stays in float.
_NEAR = 32


@dataclass(frozen=True)
class Step:
    """One run: the ops that were integer in it, and what came of it; see `Candidate` and `Judgement.lost`."""

    what: str
    ops: tuple[str, ...]
    rows: int = 0
    error_db: float = 0.0
    agreement: float | None = None
    lost: float = 0.0
    seconds: float = 0.0
    failure: str | None = None


@dataclass(frozen=True)
class Found:
    """The form found, the ops it `left` in float, each with its error (dB), of those `considered`; `made` is how its file did."""

    form: Form
    left: Mapping[str, float]
    considered: int
    steps: tuple[Step, ...]
    finished: bool
    made: Candidate


@dataclass(frozen=True)
class Work:
    """What a search is about: `form` of `model` is to be thinned out. Steps are appended to `journal`.

    The file of the form that is found goes to `target`, with float inputs and outputs of the dtypes `ends`."""

    model: Path
    calibration: Path
    reference: Reference
    form: Form
    journal: Path
    target: Path
    ends: tuple[str, str] = ("float32", "float32")


def search(work: Work, seconds: float, max_drop: float | None) -> Found:
    """Leave in float the fewest ops of the form with which it is about as true to float32 as with all of them, or `ENOUGH_DB`.

    Each op (or each of as many groups of neighbours as there is time for) is made integer alone; noise of different ops adds
    up, so the loudest are left out until what remains is quiet enough, and what results is run. Where it is not
    quiet enough or loses more than `max_drop` of the task's metric (see `Judgement.lost`), the next loudest follows, while there is
    time. A search that was killed goes on from its journal. In a worker child."""
    started = time.perf_counter()
    trial = _Trial(work)
    # The first run of all pays for what is made once.
    base = trial.run("none integer", (), ROWS)
    noise = _rank(trial, _ALONE * seconds)
    return _settle(trial, base, noise, seconds - (time.perf_counter() - started), max_drop)


def _rank(trial: "_Trial", seconds: float) -> dict[tuple[str, ...], float]:
    """Noise of each op or group of neighbours when it alone is integer, as a share of the signal in the worst output."""
    started = time.perf_counter()
    cost = trial.run("alone", trial.ops[:1], _ROWS).seconds
    groups = _groups(trial.ops, max(1, int(seconds / max(cost, 1e-3))))
    noise: dict[tuple[str, ...], float] = {}
    for number, group in enumerate(groups):
        progress("int8 plan", number, len(groups), f"{group[0]} alone")
        if number and time.perf_counter() - started > 2 * seconds:
            break
        alone = trial.run("alone", group, _ROWS)
        noise[group] = np.inf if alone.failure else _power(alone.error_db)
    return noise


def _settle(trial: "_Trial", base: Step, noise: Mapping[tuple[str, ...], float], seconds: float, max_drop: float | None) -> Found:
    """The fewest of the loudest that have to stay in float, found by running plans; `base` is the run with none integer."""
    started = time.perf_counter()
    least = _power(base.error_db)
    same = min(base.agreement or 0.0, 1 - (max_drop or 0.0))
    # Where half of the other decisions that are allowed are there without integers, they may add nothing.
    strained = max_drop is not None and base.agreement is not None and 1 - base.agreement > max_drop / 2
    allowed = max((1 if strained else _ADDED) * least, _power(ENOUGH_DB))
    loudest = sorted(noise, key=lambda group: -noise[group])
    every = len(loudest)
    # Where there was no time for all of them, some stay integer in every plan.
    plans = {every: base} if sum(map(len, loudest)) == len(trial.ops) else {}

    def run(left: int) -> Step:
        progress("int8 plan", left, len(loudest), f"{left} of {len(loudest)} left in float")
        floating = {op for group in loudest[:left] for op in group}
        plans[left] = trial.run("plan", tuple(op for op in trial.ops if op not in floating), ROWS)
        return plans[left]

    def good(step: Step) -> bool:
        near = step.failure is None and _power(step.error_db) <= allowed
        # Labels forgive other decisions, which integers may not add where there are as few as allowed without any.
        return near and (max_drop is None or (step.lost <= max_drop + ROUNDING and (step.agreement or 0.0) >= same - ROUNDING))

    left = 0
    while left < len(loudest) and least + sum(noise[group] for group in loudest[left:]) > allowed:
        left += 1
    while not good(run(left)) and left < every and time.perf_counter() - started < seconds:
        left = min(left + max(1, left // 4), every)
    if not good(plans[left]) and every in plans and good(plans[every]):
        left = every
    finished = good(plans[left])
    fewest, most = max((fewer for fewer in plans if not good(plans[fewer])), default=-1), left
    # Noise of one op may take off some of another's. How few it is to an op or two is worth no more runs of a large model.
    while finished and most - fewest > 1 + len(loudest) // _NEAR and time.perf_counter() - started < seconds:
        middle = (fewest + most) // 2
        fewest, most = (fewest, middle) if good(run(middle)) else (middle, most)
    running = [fewer for fewer in plans if plans[fewer].failure is None] or [len(loudest)]
    count = most if finished else max(running, key=lambda fewer: (plans[fewer].agreement or 0.0, plans[fewer].error_db))
    names = {op: _decibels(noise[group]) for group in loudest[:count] for op in group}
    form = replace(trial.work.form, floating=frozenset(names))
    return Found(form, names, len(trial.ops), tuple(trial.steps), finished, trial.make(form))


class _Trial:
    """Runs choices of ops; steps that the journal holds already are not run again."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.ops = tuple(forms.candidates(read_graph(work.model), work.form))
        self._key = hashlib.sha256(work.model.read_bytes() + work.calibration.read_bytes() + repr(work.form).encode()).hexdigest()
        self._journal = dict(self._read())
        self.steps: list[Step] = []

    @cached_property
    def _file(self) -> quantizer.FloatFile:
        return quantizer.FloatFile(self.work.model, self.work.calibration)

    @cached_property
    def _switched(self) -> "_Switched":
        return _Switched(self.work, self._file, self.ops)

    def make(self, form: Form) -> Candidate:
        """Write the file of a form and try it."""
        try:
            self._file.write(self.work.target, form, *self.work.ends)
            return attempt(self.work.target, self.work.reference)
        except EdgekitError as error:
            return Candidate("", failure=error.message)

    def run(self, what: str, kept: Sequence[str], rows: int) -> Step:
        """Run the model with only `kept` ops integer. Plans are compared with float32, ops alone with what none integer gives."""
        key = (what, tuple(kept))
        step = self._journal[key] = self._journal.get(key) or self._run(*key, rows)
        if step not in self.steps:
            self.steps.append(step)
        return step

    def _run(self, what: str, kept: tuple[str, ...], rows: int) -> Step:
        started, model = time.perf_counter(), self._switched
        try:
            # What an op adds alone needs no labels.
            alone = what == "alone"
            samples, expected = (model.unlabelled, model.base) if alone else (model.samples, model.expected)
            judgement = judge(model.outputs(kept, rows), samples, expected)
            agreement = judgement.agreement.value if judgement.agreement is not None else None
            step = Step(what, kept, judgement.rows, judgement.error_db or 0.0, agreement, 0.0 if alone else judgement.lost)
        except EdgekitError as error:
            step = Step(what, kept, failure=error.message)
        step = replace(step, seconds=time.perf_counter() - started)
        with self.work.journal.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"model": self._key, **asdict(step)}) + "\n")
        return step

    def _read(self) -> Iterator[tuple[tuple[str, tuple[str, ...]], Step]]:
        lines = []
        with contextlib.suppress(OSError):
            lines = self.work.journal.read_text(encoding="utf-8", errors="replace").splitlines()
        for line in lines:
            # A run that was killed leaves half a line, and the next one writes on behind it.
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                entry = parse_json(line)
                if entry.pop("model") == self._key:
                    step = Step(**{**entry, "ops": tuple(entry["ops"])})
                    yield (step.what, step.ops), step


class _Switched:
    """The model with a switch for each op, in interpreters that run side by side and share the rows."""

    def __init__(self, work: Work, file: quantizer.FloatFile, ops: Sequence[str]) -> None:
        other, integer = (file.quantized(replace(work.form, floating=frozenset(left))) for left in (ops, ()))
        target = work.model.with_name(f"{work.model.stem}.search{os.getpid()}.tflite")
        try:
            mixed, self._ops = both_ways(other, integer, ops)
            target.write_bytes(mixed)
            self._models = lanes(target)
        finally:
            target.unlink(missing_ok=True)
        self.samples, self.expected = Samples.load(work.reference.rows), Samples.load(work.reference.outputs).inputs
        self.unlabelled = replace(self.samples, labels=None)
        self._count = LANES
        self._run((), LANES)
        started = time.perf_counter()
        self._run((), LANES)
        count = max(LEAST_ROWS, int(_SECONDS_FOR_A_RUN * LANES / (time.perf_counter() - started)))
        self._count = min(count, len(next(iter(self.expected.values()))))

    def outputs(self, kept: Sequence[str], rows: int) -> dict[str, Array]:
        """Every output (N, ...) by name of at most `rows` whole rows' samples with the integer form of `kept` ops."""
        return self._run(kept, rows) if kept else {name: array[: self._stop(rows)] for name, array in self.base.items()}

    @cached_property
    def base(self) -> dict[str, Array]:
        """What none integer gives."""
        return self._run((), ROWS)

    def _stop(self, rows: int) -> int:
        return self.samples.row_end(min(rows, self._count), len(next(iter(self.expected.values()))))

    def _run(self, kept: Sequence[str], rows: int) -> dict[str, Array]:
        switches = {SWITCHES: np.isin(self._ops, kept).astype(np.float32)[:, np.newaxis]} if self._ops else {}
        return run_rows(self._models, self.samples, self._stop(rows), more=switches)


def _groups(ops: Sequence[str], count: int) -> list[tuple[str, ...]]:
    """`ops` in order, in at most `count` runs of neighbours of nearly one length."""
    return [tuple(part) for part in np.array_split(np.asarray(ops, dtype=object), min(count, len(ops))) if len(part)]


def _power(decibels: float) -> float:
    """Noise as a share of the signal's power."""
    return float(10 ** (-decibels / 10))


def _decibels(power: float) -> float:
    return float(-10 * np.log10(power)) if 0 < power < np.inf else (np.inf if power == 0 else -np.inf)
