"""What a measuring child does with one file or checkpoint folder: time it, or run it over all rows."""

import gc
import time
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

# Outputs of timed runs that are kept: those of classifiers, and not images.
_KEPT_BYTES = 2**14
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
    """One child's figures: milliseconds of each timed inference, bytes above what the process held before it loaded the file.

    `outputs` are the first output of each row that was run, from the one that the child was told to begin with; none where they
    are large. Ops and partitions are LiteRT's, see `runtimes.Runnable`.
    """

    load_ms: float
    first_ms: float
    times_ms: tuple[float, ...]
    warmup: int
    peak_bytes: int
    ops: int | None
    delegated_ops: int | None
    partitions: int | None
    outputs: tuple[Array, ...] = ()


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
    )


class _Walk:
    """Runs a model on row after row in the order `visited`, from `begin`, and again from the first after the last."""

    def __init__(self, model: Runnable, rows: Samples, seed: int, begin: int) -> None:
        self._model, self._rows, self._begin, self._place = model, rows, begin, begin
        self._order = visited(len(rows), seed)
        self.outputs: list[Array] = []

    def timed(self) -> float:
        """Milliseconds of the next row's bare inference; its output is kept while there are small ones of new rows."""
        index = self._order[self._place % len(self._order)]
        self._model.set_inputs({name: np.array(array[index : index + 1]) for name, array in self._rows.inputs.items()})
        started = time.perf_counter_ns()
        self._model.invoke()
        passed = time.perf_counter_ns() - started
        if self._place == self._begin + len(self.outputs) < len(self._order):
            output = _first_output(self._model)
            if output.nbytes <= _KEPT_BYTES:
                self.outputs.append(output.copy())
        self._place += 1
        return passed / 1e6


def write_outputs(
    file: Path, samples: Path, target: Path, threads: int, seed: int | None, seconds: float | None, begin: int = 0
) -> int:
    """Run `file` over the saved rows from `begin`, in order or as `visited` shuffles them; write its first output to `target`.

    Returns how many rows were run before `seconds` had passed; the rest of the array is not to be read.
    Raises `ModelFormatError` if the output changes its shape from row to row, and what `runtimes.load` raises.
    """
    data = Samples.load(samples)
    model = runtimes.load(file, threads)
    order = visited(len(data), seed)[begin:]
    deadline = None if seconds is None else time.perf_counter() + seconds
    stored: Array | None = None
    step = max(1, len(order) // 100)
    done = 0
    for index in order:
        model.set_inputs({name: array[index : index + 1] for name, array in data.inputs.items()})
        model.invoke()
        row = _first_output(model)
        if stored is None:
            stored = np.lib.format.open_memmap(target, mode="w+", dtype=row.dtype, shape=(len(order), *row.shape))
        elif row.shape != stored.shape[1:]:
            raise ModelFormatError(
                f"{file}: the first output has shape {row.shape} in row {index} and {stored.shape[1:]} before it; "
                "give a file with outputs of one shape"
            )
        stored[done] = row
        done += 1
        if done % step == 0:
            progress(f"run {file.name}", done, len(order))
        if deadline is not None and time.perf_counter() > deadline:
            break
    return done


def visited(rows: int, seed: int | None) -> Array:
    """Row numbers in the order they are run: as they are, or shuffled so that the first of them are a fair draw of all."""
    return np.arange(rows) if seed is None else np.random.default_rng(seed).permutation(rows)


def _first_output(model: Runnable) -> Array:
    """What the model gave for a row, without a batch axis of 1."""
    output = next(iter(model.outputs().values()))
    return output[0] if output.ndim and output.shape[0] == 1 else output


def _held_memory() -> int:
    """Resident bytes now; the kernel's peak is set back to it where it can be, so that importing leaves no mark on it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    with suppress(OSError, IndexError, ValueError):
        return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) * 1024
    return peak_memory()
