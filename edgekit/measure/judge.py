"""Measure files side by side: each in fresh children, in turns, so that a drift of the machine hits all of them alike."""

import random
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.samples import Samples
from edgekit.errors import DatasetError, EdgekitError
from edgekit.measure import runtimes
from edgekit.measure.execution import Budget, Timing, Written, time_file, visited, write_outputs
from edgekit.measure.machine import machine
from edgekit.measure.measurement import Latency, Measurement
from edgekit.measure.runtimes import Description
from edgekit.system import rooms, settings
from edgekit.system.settings import Checked, at_least, setting
from edgekit.system.worker import OnProgress, Progress, Worker, together
from edgekit.tasks.base import Outputs
from edgekit.tasks.judgement import Judgement, judge

__all__ = ["BenchmarkConfig", "benchmark", "gzip_size", "machine", "order", "outputs"]

Array = np.ndarray[Any, np.dtype[Any]]

_LEAST_RUNS = 3


@dataclass(frozen=True)
class _Pass:
    """Outputs (N, …) by name of the first `count` samples in the order `visited`, each at its own place."""

    count: int
    outputs: Outputs


@dataclass(frozen=True)
class BenchmarkConfig(Checked):
    """`runs` timed inferences of each file, spread over `rounds` fresh children with at least `warmup` uncounted ones in each.

    A slow file gets fewer runs (3 at least) once its inferences have taken `max_seconds` over all rounds, and fewer rows
    once judging it has taken `max_accuracy_seconds`; None is no limit."""

    threads: int = settings.threads()
    runs: int = setting(100, "Timed inferences of each file in all.", at_least(1))
    warmup: int = setting(10, "Uncounted inferences in each process.", at_least(0))
    rounds: int = setting(5, "Fresh processes for each file, in turns.", at_least(1))
    max_seconds: float = 20.0
    max_accuracy_seconds: float | None = 120.0
    gzip: bool = True
    seed: int = settings.seed()


def benchmark(
    files: Sequence[Path],
    samples: Samples | Path | Mapping[Path, Samples] | None,
    config: BenchmarkConfig | None = None,
    *,
    reference: Path | None = None,
    schemes: Mapping[Path, str] | None = None,
    described: Mapping[Path, Description] | None = None,
    on_progress: OnProgress = None,
) -> list[Measurement]:
    """One `Measurement` for each of `files` (or checkpoint folders, see `runtimes`), in their order.

    `samples` (or the folder they were saved to) feed the timed runs, and all their rows are run once to judge the files by the
    samples' task, and against `reference`; without samples the files are timed on random values alone.
    Where files take the same rows in different form, `samples` holds each file's own: the same rows in the same order.
    A file that cannot be loaded, crashes or times out gets a `failure`, and the others go on. `described` spares a second
    look at files that are known. Raises `ModelFormatError` if a path is nothing, and `DatasetError` if `samples` has no rows."""
    config = config or BenchmarkConfig()
    everything = [*files, *([reference] if reference is not None else [])]
    for file in everything:
        runtimes.runtime_of(file)
    with rooms.temporary("measure") as room:
        folders = _folders(everything, samples, Path(room))
        predicted = list({file.resolve(): file for file in everything}.values()) if folders else []
        steps = _Steps(config.rounds * len(files) + len(predicted), on_progress)
        timings, failures = _time_in_turns(files, folders, config, steps)
        found = [
            replace(
                _timed(file, timings[index], failures.get(index), config, _described(file, described)),
                scheme=(schemes or {}).get(file),
            )
            for index, file in enumerate(files)
        ]
        if not folders:
            steps.end()
            return found
        # What the timed runs gave need not be computed again.
        known = {
            file.resolve(): [outputs for timing in rounds for outputs in timing.outputs]
            for file, rounds in zip(files, timings, strict=True)
        }
        failed = {files[index].resolve() for index in failures}
        mean_ms = {file.resolve(): item.latency.mean_ms for file, item in zip(files, found, strict=True) if item.latency}
        # What takes longest first, so that both cores are busy to the end.
        running = sorted(
            (file for file in predicted if file.resolve() not in failed), key=lambda file: -mean_ms.get(file.resolve(), 0)
        )
        tasks = []
        for number, file in enumerate(running):
            head, seconds = known.get(file.resolve(), []), config.max_accuracy_seconds
            if seconds is not None:
                seconds = max(0.0, seconds - len(head) * mean_ms.get(file.resolve(), 0) / 1000)
            rest = replace(config, max_accuracy_seconds=seconds)
            tasks.append(partial(_predict, file, folders[file], Path(room) / f"outputs_{number}", head, rest, steps))
        # Nothing is timed here, so files run side by side, each with half of the threads.
        answers = together(tasks)
        steps.end()
        passes = {file.resolve(): answer for file, answer in zip(running, answers, strict=True)}
        origin = reference.resolve() if reference is not None else None
        base = passes.get(origin) if origin is not None else None
        return [
            _judged(item, passes[file.resolve()], folders[file], base, config.seed, is_reference=file.resolve() == origin)
            if file.resolve() in passes
            else item
            for file, item in zip(files, found, strict=True)
        ]


def outputs(file: Path, samples: Samples | Path, threads: int = 2, *, on_progress: OnProgress = None) -> dict[str, Array]:
    """All outputs of `file` by name for every one of `samples` (or of the folder they were saved to), real values, (N, …).

    Run in a child. Raises what `runtimes.load` and `edgekit.system.worker.Worker` raise, and `DatasetError`
    if there are no rows."""
    with rooms.temporary("measure") as room:
        folder, target = _saved(samples, Path(room)), Path(room) / "outputs"
        written: Written = Worker(on_progress=on_progress).run(write_outputs, file, folder, target, threads, None, None).value
        return {name: np.load(path)[: written.count] for name, path in written.files.items()}


def order(count: int, rounds: int, seed: int) -> list[list[int]]:
    """For each round the numbers 0 to `count` - 1 in a shuffled order, so that no file always follows the same other one."""
    draw = random.Random(seed)
    return [draw.sample(range(count), count) for _ in range(rounds)]


def gzip_size(file: Path) -> int:
    """Bytes of `file` after gzip at level 6."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    count = 0
    with file.open("rb") as stream:
        while block := stream.read(2**20):
            count += len(packer.compress(block))
    return count + len(packer.flush())


class _Steps:
    """Counts children for the caller's progress bar."""

    def __init__(self, total: int, on_progress: OnProgress) -> None:
        self._done, self._total, self._tell = 0, total, on_progress

    def next(self, note: str) -> None:
        if self._tell is not None:
            self._tell(Progress("benchmark", self._done, self._total, note))
        self._done += 1

    def end(self) -> None:
        """Files that failed had fewer."""
        self._done = self._total
        self.next("")


def _folders(files: Sequence[Path], samples: Samples | Path | Mapping[Path, Samples] | None, room: Path) -> dict[Path, Path]:
    """Where each file's rows lie; empty without samples."""
    if samples is None:
        return {}
    if isinstance(samples, Mapping):
        return {file: _saved(samples[file], room / f"rows_{number}") for number, file in enumerate(files)}
    return dict.fromkeys(files, _saved(samples, room))


def _described(file: Path, known: Mapping[Path, Description] | None) -> Description | None:
    if known and file in known:
        return known[file]
    with suppress(EdgekitError):
        return runtimes.describe(file)
    return None


def _saved(samples: Samples | Path, room: Path) -> Path:
    """The folder of `samples`, written below `room` if they are in memory: children map it instead of receiving a copy."""
    loaded = Samples.load(samples) if isinstance(samples, Path) else samples
    if len(loaded) == 0:
        raise DatasetError("the data set has no rows; give at least one")
    if isinstance(samples, Path):
        return samples
    folder = room / "samples"
    samples.save(folder)
    return folder


def _time_in_turns(
    files: Sequence[Path], folders: Mapping[Path, Path], config: BenchmarkConfig, steps: _Steps
) -> tuple[list[list[Timing]], dict[int, str]]:
    """Timings of each file, one for each round that it was run in, and the failure of each that had one."""
    timings: list[list[Timing]] = [[] for _ in files]
    failures: dict[int, str] = {}
    budget = Budget(
        runs=-(-config.runs // config.rounds),
        warmup=config.warmup,
        seconds=config.max_seconds / config.rounds,
        least=-(-_LEAST_RUNS // config.rounds),
    )
    worker = Worker()
    for turn in order(len(files), config.rounds, config.seed):
        for index in turn:
            steps.next(files[index].name)
            if index in failures:
                continue
            begin = sum(len(timing.outputs) for timing in timings[index])
            try:
                timings[index].append(
                    worker.run(time_file, files[index], folders.get(files[index]), config.threads, budget, config.seed, begin).value
                )
            except EdgekitError as error:
                failures[index] = _named(files[index], error)
    return timings, failures


def _timed(
    file: Path, rounds: Sequence[Timing], failure: str | None, config: BenchmarkConfig, described: Description | None
) -> Measurement:
    files = described.files if described else runtimes.weight_files(file)
    found = Measurement(
        path=str(file),
        size_bytes=sum(part.stat().st_size for part in files),
        gzip_bytes=sum(gzip_size(part) for part in files) if config.gzip else None,
        threads=config.threads,
        failure=failure,
        runtime=str(runtimes.runtime_of(file)),
        parameters=described.parameters if described else None,
    )
    # A file that failed in a later round is not to be trusted with the figures of the earlier ones.
    if failure is not None or not rounds:
        return found
    batch = rounds[0].batch
    times = np.concatenate([item.times_ms for item in rounds]) / batch
    p50, p90, p99 = (float(value) for value in np.percentile(times, (50, 90, 99)))
    return replace(
        found,
        load_ms=float(np.median([item.load_ms for item in rounds])),
        first_ms=float(np.median([item.first_ms for item in rounds])),
        latency=Latency(
            runs=len(times),
            warmup=min(item.warmup for item in rounds),
            mean_ms=float(times.mean()),
            p50_ms=p50,
            p90_ms=p90,
            p99_ms=p99,
            min_ms=float(times.min()),
            batch=batch,
        ),
        peak_bytes=max(item.peak_bytes for item in rounds),
        ops=rounds[0].ops,
        delegated_ops=rounds[0].delegated_ops,
        partitions=rounds[0].partitions,
        samples_per_s=1000 / float(times.mean()) if times.mean() > 0 else None,
    )


def _predict(
    file: Path, folder: Path, target: Path, known: Sequence[Outputs], config: BenchmarkConfig, steps: _Steps
) -> _Pass | str:
    """Outputs of the samples that were run, or why there are none; `known` are those of the first in the order `visited`."""
    steps.next(file.name)
    samples, threads = Samples.load(folder), -(-config.threads // 2)
    alike = len({tuple((name, output.shape) for name, output in outputs.items()) for outputs in known}) == 1
    head = known if alike else ()
    places = visited(samples, config.seed)[: len(head)]
    if len(head) == len(samples):
        return _Pass(len(head), {name: _placed(places, [row[name] for row in head]) for name in head[0]})
    try:
        written: Written = (
            Worker().run(write_outputs, file, folder, target, threads, config.seed, config.max_accuracy_seconds, len(head)).value
        )
    except EdgekitError as error:
        return _named(file, error)
    outputs = {name: np.load(path, mmap_mode="r+") for name, path in written.files.items()}
    if head and any(array.shape[1:] != head[0][name].shape for name, array in outputs.items()):
        # From the first row on, it tells where the shape changes.
        return _predict(file, folder, target, (), config, steps)
    for name, array in outputs.items() if head else ():
        array[places] = [row[name] for row in head]
    return _Pass(written.count, outputs)


def _placed(places: Array, rows: Sequence[Array]) -> Array:
    """`rows` as one array (N, …), each at its place."""
    stacked = np.stack(rows)
    array = np.empty_like(stacked)
    array[places] = stacked
    return array


def _judged(
    item: Measurement, own: _Pass | str, folder: Path, base: _Pass | str | None, seed: int, *, is_reference: bool
) -> Measurement:
    if isinstance(own, str):
        return replace(item, failure=own)
    samples = Samples.load(folder)
    reference, shared = None, own.count
    if isinstance(base, _Pass) and len(next(iter(base.outputs.values()))) == len(samples):
        reference = aligned(own.outputs, base.outputs)
        # Both are the first of the same draw, so those of the shorter one are in the other too.
        shared = own.count if reference is None else min(own.count, base.count)
    try:
        judgement = _judge(own.outputs, samples, reference, shared, seed)
        if shared < own.count:
            alone = _judge(own.outputs, samples, None, own.count, seed)
            judgement = replace(judgement, rows=alone.rows, scores=alone.scores)
        return item.judged(replace(judgement, drop=None) if is_reference else judgement, samples.task)
    except EdgekitError as error:
        return replace(item, failure=f"{item.path}: {error.message}")


def _judge(outputs: Outputs, samples: Samples, reference: Outputs | None, count: int, seed: int) -> Judgement:
    """Judge the first `count` samples in the order `visited`."""
    if count == len(samples):
        return judge(outputs, samples, reference)
    places = np.sort(visited(samples, seed)[:count])
    ours, theirs = (
        {name: array[places] for name, array in arrays.items()} if arrays is not None else None for arrays in (outputs, reference)
    )
    return judge(ours or {}, samples.take(places), theirs)


def aligned(outputs: Outputs, reference: Outputs) -> dict[str, Array] | None:
    """The reference's outputs under the file's names, in order where the names differ; None where they are another model's."""
    by_name = outputs.keys() <= reference.keys()
    renamed = reference if by_name else dict(zip(outputs, reference.values(), strict=False))
    if any(name not in renamed or renamed[name].shape[1:] != array.shape[1:] for name, array in outputs.items()):
        return None
    return {name: renamed[name] for name in outputs}


def _named(file: Path, error: EdgekitError) -> str:
    return error.message if str(file) in error.message else f"{file}: {error.message}"
