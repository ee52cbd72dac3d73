"""What a measuring child does with one file or checkpoint folder: time it, or run it over all rows."""

import gc
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.samples import Samples, random_samples
from edgekit.errors import ModelFormatError
from edgekit.measure import runtimes
from edgekit.measure.runtimes import Runnable
from edgekit.system.worker import peak_memory, progress

Array = np.ndarray[Any, np.dtype[Any]]

# Outputs of timed runs that are kept: small ones, and not images.
_KEPT_BYTES = 2**14
# Outputs of a file that are written in all; rows beyond are not run.
_WRITTEN_BYTES = 2**30
_WARMUP_SHARE = 0.25
_WARMUP_SECONDS = 0.05  # threads and clock need about this long, whatever the number of runs


@dataclass(frozen=True)
class Budget:
    """`runs` timed inferences after `warmup` others or more; fewer where they take more than `seconds`, but `least` at least."""

    runs: int
    warmup: int
    seconds: float
    least: int


@dataclass(frozen=True)
class Timing:
    """One child's figures: milliseconds of each timed inference of `batch` rows, bytes above what the process held before it loaded
    the file.

    `outputs` are those of each sample that was run by name, from the one that the child was told to begin with; none where they
    are large. Ops and partitions are LiteRT's, see `runtimes.Runnable`."""

    load_ms: float
    first_ms: float
    times_ms: tuple[float, ...]
    warmup: int
    peak_bytes: int
    ops: int | None
    delegated_ops: int | None
    partitions: int | None
    outputs: tuple[dict[str, Array], ...] = ()
    batch: int = 1


@dataclass(frozen=True)
class Written:
    """How many samples `write_outputs` ran, in the order `visited`, and each output's file by name."""

    count: int
    files: dict[str, Path]


def time_file(file: Path, samples: Path | None, threads: int, budget: Budget, seed: int, begin: int = 0) -> Timing:
    """Load `file` and time the bare inference on saved rows, from `begin` in the order `visited`, or on random values."""
    # What every file of its kind needs alike is in place before the memory that it holds is counted.
    runtimes.prepare(file)
    np.random.default_rng(seed)
    rows = Samples.load(samples) if samples is not None else None
    held = _held_memory()
    model = runtimes.load(file, threads)
    walk = _Walk(model, rows or random_samples(model.signature.inputs, 1, seed), seed, begin)

    # A collection in the middle of an inference would be counted as the file's own time.
    gc.disable()
    started = time.perf_counter()
    first_ms = walk.timed()
    warmed = 0
    while budget.warmup:
        passed = time.perf_counter() - started
        if passed > budget.seconds * _WARMUP_SHARE or (warmed >= budget.warmup and passed > _WARMUP_SECONDS):
            break
        walk.timed()
        warmed += 1
    times: list[float] = []
    while len(times) < budget.runs and (len(times) < budget.least or time.perf_counter() - started < budget.seconds):
        times.append(walk.timed())
    return Timing(
        load_ms=model.load_ms,
        first_ms=first_ms,
        times_ms=tuple(times),
        warmup=warmed,
        peak_bytes=max(0, peak_memory() - held),
        ops=model.ops,
        delegated_ops=model.delegated_ops,
        partitions=model.partitions,
        outputs=tuple(walk.outputs),
        batch=model.batch,
    )


class _Walk:
    """Runs a model on sample after sample in the order `visited`, from `begin`, and again from the first after the last; on as many
    at once as it takes."""

    def __init__(self, model: Runnable, rows: Samples, seed: int, begin: int) -> None:
        self._model, self._rows, self._begin, self._place = model, rows, begin, begin
        self._order = visited(rows, seed)
        self.outputs: list[dict[str, Array]] = []

    def timed(self) -> float:
        """Milliseconds of the next bare inference; its outputs are kept while there are small ones of new samples."""
        places = np.arange(self._place, self._place + self._model.batch)
        indices = self._order[places % len(self._order)]
        self._model.set_inputs({name: np.array(array[indices]) for name, array in self._rows.inputs.items()})
        started = time.perf_counter_ns()
        self._model.invoke()
        passed = time.perf_counter_ns() - started
        if self._place == self._begin + len(self.outputs):
            new = int((places < len(self._order)).sum())
            outputs = by_row(self._model.outputs(), len(places))[:new]
            if all(sum(output.nbytes for output in row.values()) <= _KEPT_BYTES for row in outputs):
                self.outputs += [{name: output.copy() for name, output in row.items()} for row in outputs]
        self._place += len(places)
        return passed / 1e6


def write_outputs(
    file: Path, samples: Path, folder: Path, threads: int, seed: int | None, seconds: float | None, begin: int = 0
) -> Written:
    """Run `file` over the saved samples from `begin`, in the order `visited`, and write each output (N, …) to a file in `folder`.

    It runs on as many samples at once as the file takes. Every sample's outputs stand at its own place. It stops behind a row once
    `seconds` have passed or `_WRITTEN_BYTES` are written; the places of samples that were not run hold nothing. Raises
    `ModelFormatError` if an output changes its shape from row to row, and what `runtimes.load` raises."""
    data = Samples.load(samples)
    model = runtimes.load(file, threads)
    order = visited(data, seed)
    folder.mkdir(parents=True, exist_ok=True)
    deadline = None if seconds is None else time.perf_counter() + seconds
    stored: dict[str, Array] = {}
    files: dict[str, Path] = {}
    step, size = max(1, len(order) // 100), 0
    for start in range(begin, len(order), model.batch):
        indices = order[start : start + model.batch]
        model.set_inputs({name: array[indices] for name, array in data.inputs.items()})
        model.invoke()
        for index, outputs in zip(indices, by_row(model.outputs(), len(indices)), strict=True):
            for number, (name, output) in enumerate(outputs.items()):
                if name not in stored:
                    files[name] = folder / f"output_{number}.npy"
                    shape = (len(data), *output.shape)
                    stored[name] = np.lib.format.open_memmap(files[name], mode="w+", dtype=output.dtype, shape=shape)
                elif output.shape != stored[name].shape[1:]:
                    raise ModelFormatError(
                        f"{file}: output {name} has shape {output.shape} in row {index} and {stored[name].shape[1:]} before it; "
                        "give a file with outputs of one shape"
                    )
                stored[name][index] = output
                size += output.nbytes
        done = start + len(indices)
        if (start - begin) % (step * model.batch) == 0:
            progress(f"run {file.name}", start, len(order))
        within_row = data.row is not None and done < len(order) and data.row[order[done - 1]] == data.row[order[done]]
        if not within_row and (size >= _WRITTEN_BYTES or (deadline is not None and time.perf_counter() > deadline)):
            return Written(done, files)
    return Written(len(order), files)


def visited(samples: Samples, seed: int | None) -> Array:
    """Places of the samples in the order they are run: as they are, or with their rows shuffled, so that the first of them are a
    fair draw of all."""
    if seed is None:
        return np.arange(len(samples))
    _, row = np.unique(np.arange(len(samples)) if samples.row is None else samples.row, return_inverse=True)
    rank = np.random.default_rng(seed).permutation(row.max(initial=-1) + 1)
    return np.argsort(rank[row], kind="stable")


def by_row(outputs: Mapping[str, Array], count: int) -> list[dict[str, Array]]:
    """The outputs of each of the `count` samples that were run at once, without a batch axis."""
    if count == 1:
        return [without_batch(outputs)]
    return [{name: output[row] for name, output in outputs.items()} for row in range(count)]


def without_batch(outputs: Mapping[str, Array]) -> dict[str, Array]:
    """A sample's outputs without a batch axis of 1."""
    return {name: output[0] if output.ndim and output.shape[0] == 1 else output for name, output in outputs.items()}


def _held_memory() -> int:
    """Resident bytes now; the kernel's peak is set back to it where it can be, so that importing leaves no mark on it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    with suppress(OSError, IndexError, ValueError):
        return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) * 1024
    return peak_memory()
