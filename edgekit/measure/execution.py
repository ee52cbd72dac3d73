"""What a measuring child does with one file or checkpoint folder: time it, or run it over all rows."""

import gc
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.samples import Samples, as_fed, random_samples
from edgekit.errors import ModelFormatError
from edgekit.measure import runtimes
from edgekit.measure.runtimes import Runnable
from edgekit.spec import TensorSpec
from edgekit.worker import peak_memory, progress

Array = np.ndarray[Any, np.dtype[Any]]

_FED_ROWS = 8
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

    The last three are LiteRT's, see `runtimes.Runnable`.
    """

    load_ms: float
    first_ms: float
    times_ms: tuple[float, ...]
    warmup: int
    peak_bytes: int
    ops: int | None
    delegated_ops: int | None
    partitions: int | None


def time_file(file: Path, samples: Path | None, threads: int, budget: Budget, seed: int) -> Timing:
    """Load `file` and time the bare inference on the first saved rows, or on random values where there are none."""
    # What every file of its kind needs alike is in place before the memory that it holds is counted.
    runtimes.prepare(file)
    np.random.default_rng(seed)
    rows = _first_rows(samples) if samples is not None else []
    held = _held_memory()
    model = runtimes.load(file, threads)
    rows = rows or [_random_row(model.signature.inputs, seed)]

    # A collection in the middle of an inference would be counted as the file's own time.
    gc.disable()
    started = time.perf_counter()
    first_ms = _timed(model, rows[0])
    warmed = 0
    while budget.warmup:
        passed = time.perf_counter() - started
        if passed > budget.seconds * _WARMUP_SHARE or (warmed >= budget.warmup and passed > _WARMUP_SECONDS):
            break
        _timed(model, rows[warmed % len(rows)])
        warmed += 1
    times: list[float] = []
    while len(times) < budget.runs and (len(times) < budget.least or time.perf_counter() - started < budget.seconds):
        times.append(_timed(model, rows[len(times) % len(rows)]))
    return Timing(
        load_ms=model.load_ms,
        first_ms=first_ms,
        times_ms=tuple(times),
        warmup=warmed,
        peak_bytes=max(0, peak_memory() - held),
        ops=model.ops,
        delegated_ops=model.delegated_ops,
        partitions=model.partitions,
    )


def write_outputs(file: Path, samples: Path, target: Path, threads: int, seed: int | None, seconds: float | None) -> int:
    """Run `file` over the saved rows, in order or as `visited` shuffles them; write its first output to `target` (.npy).

    Returns how many rows were run before `seconds` had passed; the rest of the array is not to be read.
    Raises `ModelFormatError` if the output changes its shape from row to row, and what `runtimes.load` raises.
    """
    data = Samples.load(samples)
    model = runtimes.load(file, threads)
    order = visited(len(data), seed)
    deadline = None if seconds is None else time.perf_counter() + seconds
    stored: Array | None = None
    step = max(1, len(order) // 100)
    done = 0
    for index in order:
        model.set_inputs({name: array[index : index + 1] for name, array in data.inputs.items()})
        model.invoke()
        output = next(iter(model.outputs().values()))
        row = output[0] if output.ndim and output.shape[0] == 1 else output
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


def _timed(model: Runnable, row: Mapping[str, Array]) -> float:
    model.set_inputs(row)
    started = time.perf_counter_ns()
    model.invoke()
    return (time.perf_counter_ns() - started) / 1e6


def _first_rows(samples: Path) -> list[dict[str, Array]]:
    data = Samples.load(samples)
    rows = range(min(_FED_ROWS, len(data)))
    return [{name: np.array(array[index : index + 1]) for name, array in data.inputs.items()} for index in rows]


def _random_row(inputs: tuple[TensorSpec, ...], seed: int) -> dict[str, Array]:
    rows = random_samples(inputs, 1, seed).inputs
    return {spec.name: np.asarray(as_fed(rows[spec.name], len(spec.shape))) for spec in inputs}


def _held_memory() -> int:
    """Resident bytes now; the kernel's peak is set back to it where it can be, so that importing leaves no mark on it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    with suppress(OSError, IndexError, ValueError):
        return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) * 1024
    return peak_memory()
