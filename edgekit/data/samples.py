"""Rows ready to be fed to a model, held by input name."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import DatasetError, OutputError
from edgekit.spec import MASK, TensorSpec, shown
from edgekit.system.serial import read_json

Array = np.ndarray[Any, np.dtype[Any]]

_INDEX = "index.json"


@dataclass(frozen=True, eq=False)
class Samples:
    """Arrays by input name, each (N, ...); row i is fed as `array[i:i+1]`, see `as_fed`.

    `labels` (N, ...) are what each is judged by, in the form of the `task`, whose `settings` travel with them, and None where there
    are none. `extras` (N, ...) and `records`, one JSON value for each sample, are what the task reads outputs with and no model is
    fed. `row` (N,) numbers the rows that samples are of, in order, where one row may make several samples. `skipped` names what
    could not be read and was left out, `kept` are the places of the rest. Raises `DatasetError` if the arrays differ in N."""

    inputs: Mapping[str, Array]
    labels: Array | None = None
    skipped: tuple[str, ...] = ()
    extras: Mapping[str, Array] = field(default_factory=dict)
    records: Sequence[Any] | None = None
    row: Array | None = None
    task: str = "generic"
    settings: Mapping[str, Any] = field(default_factory=dict)
    kept: Array | None = None

    def __post_init__(self) -> None:
        beside = {"labels": self.labels, "records": self.records, "row": self.row}
        counts = {name: len(array) for name, array in {**self.inputs, **beside, **self.extras}.items() if array is not None}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise DatasetError(
                f"samples: inputs and labels differ in their number of rows ({listed}); give one row of each per sample"
            )

    def __len__(self) -> int:
        return next((len(array) for array in self.inputs.values()), 0)

    def __iter__(self) -> Iterator[dict[str, Array]]:
        """Each sample by input name with a leading axis of 1; every call starts again at the first."""
        for index in range(len(self)):
            yield {name: array[index : index + 1] for name, array in self.inputs.items()}

    def labelled(self, labels: Array | None, task: str, settings: Mapping[str, Any]) -> "Samples":
        """The same inputs for a task."""
        return replace(self, labels=labels, task=task, settings=settings)

    def row_end(self, stop: int, limit: int) -> int:
        """The end, at `stop` or behind it, of the row that the sample before `stop` is of; `limit` at most."""
        if self.row is None or stop >= limit:
            return min(stop, limit)
        return min(int(np.searchsorted(self.row, self.row[stop - 1], side="right")), limit)

    def row_count(self, stop: int | None = None) -> int:
        """How many rows the first `stop` samples are of, by default all."""
        stop = len(self) if stop is None else stop
        return stop if self.row is None else len(np.unique(self.row[:stop]))

    def span(self, places: slice) -> "Samples":
        """The samples of a slice, not copied."""
        return self._picked(lambda array: array[places])

    def take(self, indices: Sequence[int] | Array) -> "Samples":
        """The samples at `indices`, copied into memory."""
        chosen = np.asarray(indices, dtype=np.int64)
        return self._picked(lambda held: np.asarray(held[chosen]) if isinstance(held, np.ndarray) else [held[i] for i in chosen])

    def first(self, count: int) -> "Samples":
        """The first `count` samples, or all there are, copied into memory."""
        return self.take(range(min(count, len(self))))

    def take_rows(self, rows: Sequence[int] | Array) -> "Samples":
        """All samples of the rows with these numbers, in their order."""
        if self.row is None:
            return self.take(rows)
        starts, ends = (np.searchsorted(self.row, rows, side=side) for side in ("left", "right"))
        return self.take(np.concatenate([np.arange(*ends_of) for ends_of in zip(starts, ends, strict=True)]))

    def _picked(self, pick: Callable[[Any], Any]) -> "Samples":
        inputs, extras = ({name: pick(array) for name, array in arrays.items()} for arrays in (self.inputs, self.extras))
        beside = {"labels": self.labels, "records": self.records, "row": self.row}
        picked: dict[str, Any] = {name: None if values is None else pick(values) for name, values in beside.items()}
        return replace(self, inputs=inputs, extras=extras, kept=None, **picked)

    def save(self, folder: Path) -> None:
        """Write one .npy file per array and an index of their names. Raises `OutputError` if the folder cannot be written."""
        # Input names may hold slashes and colons, so the files are numbered.
        files = {name: array for name, array in (("labels", self.labels), ("row", self.row)) if array is not None}
        index = {
            "inputs": list(self.inputs),
            "extras": list(self.extras),
            "files": list(files),
            "records": None if self.records is None else list(self.records),
            "task": self.task,
            "settings": dict(self.settings),
        }
        for kind, arrays in (("inputs", self.inputs), ("extras", self.extras)):
            files |= {f"{kind}_{number}": array for number, array in enumerate(arrays.values())}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, array in files.items():
                np.save(folder / f"{name}.npy", array, allow_pickle=False)
            (folder / _INDEX).write_text(json.dumps(index), encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{folder}: samples cannot be written ({error.strerror}); free some space or set TMPDIR") from None

    @staticmethod
    def load(folder: Path) -> "Samples":
        """Open what `save` wrote, memory-mapped and read-only. Raises `DatasetError` if a file is missing or damaged."""
        try:
            index = read_json(folder / _INDEX)

            def mapped(kind: str) -> dict[str, Array]:
                files = ((name, folder / f"{kind}_{number}.npy") for number, name in enumerate(index[kind]))
                return {name: np.load(file, mmap_mode="r", allow_pickle=False) for name, file in files}

            beside = {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in index["files"]}
            stored = {name: index[name] for name in ("records", "task", "settings")}
            return Samples(mapped("inputs"), extras=mapped("extras"), **beside, **stored)
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise DatasetError(f"{folder}: saved samples are missing or damaged ({error}); encode them again") from None


def described(samples: Samples, origin: str) -> str:
    """What a report says of its rows: how many, of what, and what of it could not be read."""
    rows = f"{samples.row_count()} rows of {shown(origin)}"
    others = f" and {len(samples.skipped) - 1} more" if samples.skipped[1:] else ""
    return f"{rows}, without {samples.skipped[0]}{others} (not readable)" if samples.skipped else rows


def random_samples(inputs: Sequence[TensorSpec], count: int, seed: int = 0) -> Samples:
    """`count` rows that fit `inputs`, for comparing two forms of a model; never for calibration or accuracy.

    Floats are N(0, 1), integers 0 or 1 (valid as ids and segments alike), bools either; a free axis becomes 1. An attention mask is
    that of texts of any length from 1, the first being the longest. Quantized inputs get real values in float32. Raises
    `DatasetError` for any other dtype."""
    generator = np.random.default_rng(seed)
    arrays: dict[str, Array] = {}
    for spec in inputs:
        shape = (count, *(1 if size < 0 else size for size in row_shape(spec)))
        dtype = real_dtype(spec)
        if dtype.kind not in "fiub":
            raise DatasetError(f"input {spec.name}: no random values of dtype {spec.dtype} can be made; give a data set")
        values = generator.standard_normal(shape) if dtype.kind == "f" else generator.integers(0, 2, shape)
        arrays[spec.name] = values.astype(dtype)
    if (mask := arrays.get(MASK)) is not None and mask.ndim == 2:
        lengths = generator.integers(1, mask.shape[1] + 1, count)
        lengths[:1] = mask.shape[1]
        arrays[MASK] = (np.arange(mask.shape[1]) < lengths[:, np.newaxis]).astype(mask.dtype)
    return Samples(arrays)


def row_shape(spec: TensorSpec) -> tuple[int, ...]:
    """The axes of one sample: without the first where that is a batch of 1 or free; a fixed one is part of the sample."""
    return spec.shape[1:] if spec.shape and spec.shape[0] in (1, -1) else spec.shape


def as_fed(row: Array, rank: int) -> Array:
    """A row (1, ...) as an input with `rank` axes takes it: without the first axis where the input has no batch of its own."""
    return row[0] if row.ndim == rank + 1 else row


def real_dtype(spec: TensorSpec) -> np.dtype[Any]:
    """The dtype that samples of an input have: float32 where it is quantized, else its own.

    Raises `DatasetError` for a dtype that numpy does not know."""
    if spec.scale:
        return np.dtype(np.float32)
    try:
        return np.dtype(spec.dtype)
    except TypeError:
        raise DatasetError(f"input {spec.name}: dtype {spec.dtype} cannot be fed; give a model with numeric inputs") from None


def chunk_rows(array: Array) -> Iterator[tuple[int, Array]]:
    """The array in blocks of about 16 MB with each block's first row, so that a memory map is never read whole."""
    step = max(1, 2**24 // max(1, array[:1].nbytes))
    for start in range(0, len(array), step):
        yield start, array[start : start + step]
