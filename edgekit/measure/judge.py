"""Measure files side by side: each in fresh children, in turns, so that a drift of the machine hits all of them alike."""

import random
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.samples import Samples
from edgekit.errors import ConfigError, DatasetError, EdgekitError
from edgekit.measure import runtimes
from edgekit.measure.execution import Budget, Timing, time_file, visited, write_outputs
from edgekit.measure.machine import machine
from edgekit.measure.measurement import Latency, Measurement
from edgekit.measure.runtimes import Description
from edgekit.system.worker import Progress, Worker, together
from edgekit.tasks.metrics import accuracy, agreement, cross_entropy, drop

__all__ = ["BenchmarkConfig", "benchmark", "check_threads", "gzip_size", "machine", "order", "outputs"]

Array = np.ndarray[Any, np.dtype[Any]]

_LEAST_RUNS = 3
_MOST_THREADS = 256


@dataclass(frozen=True)
class BenchmarkConfig:
    """`runs` timed inferences of each file, spread over `rounds` fresh children with at least `warmup` uncounted ones in each.

    A slow file gets fewer runs (3 at least) once its inferences have taken `max_seconds` over all rounds, and fewer rows
    once its accuracy pass has taken `max_accuracy_seconds`; None is no limit. `timeout_s` and `memory_bytes` stop one child.
    """

    threads: int = 2
    runs: int = 100
    warmup: int = 10
    rounds: int = 5
    max_seconds: float = 20.0
    max_accuracy_seconds: float | None = 120.0
    timeout_s: float = 600.0
    memory_bytes: int | None = None
    gzip: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("runs", 1), ("warmup", 0), ("rounds", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; give at least {least}")
        check_threads(self.threads)


def check_threads(threads: int) -> None:
    """Raise `ConfigError` unless the interpreter can start as many: it crashes where it gets no memory for their stacks."""
    if not 1 <= threads <= _MOST_THREADS:
        limit = "at least 1" if threads < 1 else f"at most {_MOST_THREADS}, best as many as there are cores"
        raise ConfigError(f"threads is {threads}; give {limit}")


def benchmark(
    files: Sequence[Path],
    samples: Samples | Path | Mapping[Path, Samples] | None,
    config: BenchmarkConfig | None = None,
    *,
    reference: Path | None = None,
    schemes: Mapping[Path, str] | None = None,
    described: Mapping[Path, Description] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> list[Measurement]:
    """One `Measurement` for each of `files` (or checkpoint folders, see `runtimes`), in their order.

    `samples` (or the folder they were saved to) feed the timed runs, and all their rows are run once for accuracy, where
    there are labels, and for agreement with `reference`; without samples the files are timed on random values alone.
    Where files take the same rows in different form, `samples` holds each file's own: the same rows, labels and order.
    A file that cannot be loaded, crashes or times out gets a `failure`, and the others go on. `described` spares a second
    look at files that are known. Raises `ModelFormatError` if a path is nothing, and `DatasetError` if `samples` has no rows.
    """
    config = config or BenchmarkConfig()
    everything = [*files, *([reference] if reference is not None else [])]
    for file in everything:
        runtimes.runtime_of(file)
    with tempfile.TemporaryDirectory(prefix="edgekit-measure-") as room:
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
            return found
        # What the timed runs gave need not be computed again.
        known = {
            file.resolve(): [output for timing in rounds for output in timing.outputs]
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
            tasks.append(partial(_predict, file, folders[file], Path(room) / f"outputs_{number}.npy", head, rest, steps))
        # Nothing is timed here, so files run side by side, each with half of the threads.
        answers = together(tasks)
        passes = {file.resolve(): answer for file, answer in zip(running, answers, strict=True)}
        labels = Samples.load(next(iter(folders.values()))).labels
        shuffled = None if labels is None else labels[visited(len(labels), config.seed)]
        origin = reference.resolve() if reference is not None else None
        base = passes.get(origin) if origin is not None else None
        return [
            _compared(item, passes[file.resolve()], shuffled, base, is_reference=file.resolve() == origin)
            if file.resolve() in passes
            else item
            for file, item in zip(files, found, strict=True)
        ]


def outputs(
    file: Path,
    samples: Samples | Path,
    threads: int = 2,
    *,
    timeout_s: float | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Array:
    """First output of `file` for every row of `samples` (or of the folder they were saved to), real values, (N, ...).

    Run in a child. Raises what `runtimes.load` and `edgekit.system.worker.Worker` raise, and `DatasetError`
    if there are no rows.
    """
    with tempfile.TemporaryDirectory(prefix="edgekit-measure-") as room:
        folder, target = _saved(samples, Path(room)), Path(room) / "outputs.npy"
        Worker(timeout_s=timeout_s, on_progress=on_progress).run(write_outputs, file, folder, target, threads, None, None)
        return np.asarray(np.load(target))


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

    def __init__(self, total: int, on_progress: Callable[[Progress], None] | None) -> None:
        self._done, self._total, self._tell = 0, total, on_progress

    def next(self, note: str) -> None:
        if self._tell is not None:
            self._tell(Progress("benchmark", self._done, self._total, note))
        self._done += 1


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
    worker = Worker(timeout_s=config.timeout_s, memory_bytes=config.memory_bytes)
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
    times = np.concatenate([item.times_ms for item in rounds])
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
        ),
        peak_bytes=max(item.peak_bytes for item in rounds),
        ops=rounds[0].ops,
        delegated_ops=rounds[0].delegated_ops,
        partitions=rounds[0].partitions,
        samples_per_s=1000 / float(times.mean()) if times.mean() > 0 else None,
    )


def _predict(file: Path, folder: Path, target: Path, known: Sequence[Array], config: BenchmarkConfig, steps: _Steps) -> Array | str:
    """Outputs of the rows that were run, in `visited` order, or why there are none; `known` are those of the first rows."""
    steps.next(file.name)
    worker = Worker(timeout_s=config.timeout_s, memory_bytes=config.memory_bytes)
    rows, threads, begin = len(Samples.load(folder)), -(-config.threads // 2), len(known)
    head = np.stack(known) if len({output.shape for output in known}) == 1 else None
    if head is not None and begin == rows:
        return head
    begin = begin if head is not None else 0
    try:
        count = worker.run(write_outputs, file, folder, target, threads, config.seed, config.max_accuracy_seconds, begin).value
    except EdgekitError as error:
        return _named(file, error)
    found = np.asarray(np.load(target, mmap_mode="r")[:count])
    if head is not None and head.shape[1:] != found.shape[1:]:
        # From the first row on, it tells where the shape changes.
        return _predict(file, folder, target, (), config, steps)
    return found if head is None else np.concatenate([head, found])


def _compared(
    item: Measurement, found: Array | str, labels: Array | None, base: Array | str | None, *, is_reference: bool
) -> Measurement:
    if isinstance(found, str):
        return replace(item, failure=found)
    if not np.isfinite(found).all():
        return replace(
            item, failure=f"{item.path}: gives values that are not finite; convert it again with another scheme or other data"
        )
    try:
        if labels is not None:
            item = replace(item, accuracy=accuracy(found, labels[: len(found)]), loss=cross_entropy(found, labels[: len(found)]))
        # Both are a prefix of the same draw, so the shorter one's rows are in the other too.
        if isinstance(base, str) or base is None or base.shape[1:] != found.shape[1:]:
            return item
        rows = min(len(found), len(base))
        ours, theirs = found[:rows], base[:rows]
        if found.ndim > 1 and found.shape[-1] > 1:
            item = replace(item, agreement=agreement(ours, theirs))
            if labels is not None and not is_reference:
                item = replace(item, drop=drop(ours, theirs, labels[:rows]))
        return replace(item, mean_abs_error=float(np.abs(ours.astype(np.float64) - theirs).mean()))
    except EdgekitError as error:
        return replace(item, failure=f"{item.path}: {error}")


def _named(file: Path, error: EdgekitError) -> str:
    return error.message if str(file) in error.message else f"{file}: {error.message}"
