"""Find the ops that cost the most accuracy when they become integer, by making each one integer alone and running the file."""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from edgekit.data.samples import Samples
from edgekit.errors import EdgekitError
from edgekit.parity import compare, sqnr_db
from edgekit.quantize import forms, quantizer
from edgekit.quantize.forms import Form
from edgekit.quantize.prepare import read_graph
from edgekit.tflite.interpreter import Model
from edgekit.worker import Worker, progress, together

# Rows an op is tried on alone; the ranking settles with few. A whole plan is tried on more.
_ROWS = 16
_PLAN_ROWS = 64
_SECONDS_FOR_A_PLAN = 6.0
# Noise at this distance from the logits changes one decision in some hundreds.
TARGET_DB = 30.0
_NEAR_DB = 1.0
# The share of the time that goes into trying ops alone; the rest is for plans.
_ALONE = 0.7


@dataclass(frozen=True)
class Step:
    """One file made and run: the ops that were integer in it, and what came of it."""

    what: str
    ops: tuple[str, ...]
    rows: int = 0
    sqnr_db: float = 0.0
    agreement: float = 0.0
    seconds: float = 0.0
    failure: str | None = None


@dataclass(frozen=True)
class Found:
    """The form that the search ends with, the ops of those `considered` it leaves in float, each with its SQNR (dB), every step."""

    form: Form
    left: Mapping[str, float]
    considered: int
    steps: tuple[Step, ...]
    finished: bool


@dataclass(frozen=True)
class Work:
    """What a search is about: `form` of `model` is to be thinned out. Steps are appended to `journal`."""

    model: Path
    calibration: Path
    samples: Path
    form: Form
    journal: Path


def search(work: Work, *, seconds: float, max_disagreement: float | None, worker: Worker) -> Found:
    """Leave in float the fewest ops of the form that bring its outputs within `TARGET_DB` of float32 and keep its decisions.

    Each op (or each of as many groups of neighbours as there is time for) is made integer alone; noise of different ops adds
    up, so the loudest are left out until what remains is quiet enough, and the file that results is run. Where it is not
    quiet enough or decides otherwise on more than `max_disagreement` of the rows, the next loudest follows, while there is
    time. A search that was killed goes on from its journal.
    """
    started = time.perf_counter()
    ops = forms.candidates(read_graph(work.model), work.form)
    parts = [part for part in (ops[: len(ops) // 2], ops[len(ops) // 2 :]) if part]
    ranked = [outcome.value for outcome in together([partial(worker.run, rank, work, part, _ALONE * seconds) for part in parts])]
    noise = {group: loudness for part, _ in ranked for group, loudness in part.items()}
    steps = [step for _, part in ranked for step in part]
    left = seconds - (time.perf_counter() - started)
    return worker.run(settle, work, ops, noise, steps, left, max_disagreement).value


def rank(work: Work, ops: Sequence[str], seconds: float) -> tuple[dict[tuple[str, ...], float], list[Step]]:
    """Noise of each op or group of neighbours among `ops` when it alone is integer, as a share of the signal. In a worker child."""
    started = time.perf_counter()
    trial = _Trial(work)
    base = trial.run("none integer", (), _ROWS)
    # The first file of all pays for the imports, so the cost of one is that of the second.
    cost = min(base.seconds, trial.run("alone", ops[:1], _ROWS).seconds)
    groups = _groups(ops, max(1, int(seconds / max(cost, 1e-3))))
    noise: dict[tuple[str, ...], float] = {}
    for number, group in enumerate(groups):
        progress("int8 plan", number, len(groups), f"{group[0]} alone")
        if number and time.perf_counter() - started > 2 * seconds:
            break
        alone = trial.run("alone", group, _ROWS)
        noise[group] = np.inf if alone.failure else max(_power(alone.sqnr_db) - _power(base.sqnr_db), 0.0)
    return noise, trial.steps


def settle(
    work: Work,
    ops: Sequence[str],
    noise: Mapping[tuple[str, ...], float],
    before: Sequence[Step],
    seconds: float,
    max_disagreement: float | None,
) -> Found:
    """The fewest of the loudest that have to stay in float, found by running plans. In a worker child."""
    started = time.perf_counter()
    trial = _Trial(work)
    loudest = sorted(noise, key=lambda group: -noise[group])
    plans: dict[int, Step] = {}

    def tried(left: int) -> Step:
        progress("int8 plan", left, len(loudest), f"{left} of {len(loudest)} left in float")
        floating = {op for group in loudest[:left] for op in group}
        plans[left] = trial.run("plan", tuple(op for op in ops if op not in floating), _PLAN_ROWS)
        return plans[left]

    def good(step: Step) -> bool:
        near = step.failure is None and step.sqnr_db >= TARGET_DB - _NEAR_DB
        return near and (max_disagreement is None or 1 - step.agreement <= max_disagreement)

    left = 0
    while left < len(loudest) and sum(noise[group] for group in loudest[left:]) > _power(TARGET_DB):
        left += 1
    while not good(tried(left)) and left < len(loudest) and time.perf_counter() - started < seconds:
        left = min(left + max(1, left // 4), len(loudest))
    finished = good(plans[left])
    fewest, most = max((fewer for fewer in plans if not good(plans[fewer])), default=-1), left
    # The sum overrates what is left out, since each op's own noise was measured on top of the weights'.
    while finished and most - fewest > 1 and time.perf_counter() - started < seconds:
        middle = (fewest + most) // 2
        fewest, most = (fewest, middle) if good(tried(middle)) else (middle, most)
    running = [fewer for fewer in plans if plans[fewer].failure is None] or [len(loudest)]
    count = most if finished else max(running, key=lambda fewer: (plans[fewer].agreement, plans[fewer].sqnr_db))
    names = {op: _decibels(noise[group]) for group in loudest[:count] for op in group}
    return Found(replace(work.form, floating=frozenset(names)), names, len(ops), (*before, *trial.steps), finished)


class _Trial:
    """Makes and runs files; steps that the journal holds already are not run again."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.ops = forms.candidates(read_graph(work.model), work.form)
        self._key = hashlib.sha256(work.model.read_bytes() + work.calibration.read_bytes() + repr(work.form).encode()).hexdigest()
        self._known = dict(self._read())
        self.steps: list[Step] = []
        self._file = quantizer.FloatFile(work.model, work.calibration)
        self._references: dict[int, np.ndarray] = {}

    def run(self, what: str, kept: Sequence[str], rows: int) -> Step:
        """Make the file in which only `kept` ops are integer, and compare its outputs with float32's."""
        key = (what, tuple(kept))
        if key not in self._known:
            self._known[key] = self._made(what, tuple(kept), rows)
        step = self._known[key]
        if step not in self.steps:
            self.steps.append(step)
        return step

    def _made(self, what: str, kept: tuple[str, ...], rows: int) -> Step:
        started = time.perf_counter()
        target = self.work.model.with_name(f"{self.work.model.stem}.search{os.getpid()}.tflite")
        try:
            form = replace(self.work.form, floating=frozenset(self.ops) - frozenset(kept))
            target.write_bytes(self._file.quantized(form, corrected=what == "plan"))
            found = _outputs(target, self.work.samples, rows, _SECONDS_FOR_A_PLAN)
            expected = self._expected(rows)[: len(found)]
            step = Step(what, kept, len(found), sqnr_db(found, expected), compare(found, expected).same_argmax)
        except EdgekitError as error:
            step = Step(what, kept, failure=error.message)
        finally:
            target.unlink(missing_ok=True)
        step = replace(step, seconds=time.perf_counter() - started)
        with self.work.journal.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"model": self._key, **asdict(step)}) + "\n")
        return step

    def _expected(self, rows: int) -> np.ndarray:
        if rows not in self._references:
            self._references[rows] = _outputs(self.work.model, self.work.samples, rows)
        return self._references[rows]

    def _read(self) -> Iterator[tuple[tuple[str, tuple[str, ...]], Step]]:
        try:
            lines = self.work.journal.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return
        for line in lines:
            # A run that was killed leaves half a line, and the next one writes on behind it.
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                entry = json.loads(line)
                if entry.pop("model") == self._key:
                    step = Step(**{**entry, "ops": tuple(entry["ops"])})
                    yield (step.what, step.ops), step


def _outputs(file: Path, samples_folder: Path, rows: int, seconds: float = np.inf) -> np.ndarray:
    """First output of the first `rows` saved rows (N, ...); fewer where the file is slow, but 4 at least."""
    # One thread: two of these run side by side.
    model, found = Model(file, threads=1), []
    started = time.perf_counter()
    for index, row in enumerate(Samples.load(samples_folder)):
        if index == rows or (index >= 4 and time.perf_counter() - started > seconds):
            break
        found.append(next(iter(model.run(row).values())))
    return np.concatenate(found)


def _groups(ops: Sequence[str], count: int) -> list[tuple[str, ...]]:
    """`ops` in order, in at most `count` runs of neighbours of nearly one length."""
    return [tuple(part) for part in np.array_split(np.asarray(ops, dtype=object), min(count, len(ops))) if len(part)]


def _power(decibels: float) -> float:
    """Noise as a share of the signal's power."""
    return float(10 ** (-decibels / 10))


def _decibels(power: float) -> float:
    return float(-10 * np.log10(power)) if 0 < power < np.inf else (np.inf if power == 0 else -np.inf)
