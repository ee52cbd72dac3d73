"""Rows ready to be fed to a model, held by input name."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import DatasetError, OutputError
from edgekit.spec import TensorSpec, shown

Array = np.ndarray[Any, np.dtype[Any]]

_INDEX = "index.json"
_LABELS = "labels.npy"


@dataclass(frozen=True, eq=False)
class Samples:
    """Arrays by input name, each (N, ...), and int64 labels (N,) or None; row i is fed as `array[i:i+1]`, see `as_fed`.

    `skipped` names what could not be read and was left out. Raises `DatasetError` if the arrays differ in N.
    """

    inputs: Mapping[str, Array]
    labels: Array | None = None
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        counts = {name: len(array) for name, array in self.inputs.items()}
        if self.labels is not None:
            counts["labels"] = len(self.labels)
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise DatasetError(
                f"samples: inputs and labels differ in their number of rows ({listed}); give one row of each per sample"
            )

    def __len__(self) -> int:
        return next((len(array) for array in self.inputs.values()), 0)

    def __iter__(self) -> Iterator[dict[str, Array]]:
        """Each row by input name with a leading axis of 1; every call starts again at the first."""
        for index in range(len(self)):
            yield {name: array[index : index + 1] for name, array in self.inputs.items()}

    def take(self, indices: Sequence[int] | Array) -> "Samples":
        """The rows at `indices`, copied into memory."""
        chosen = np.asarray(indices, dtype=np.int64)
        labels = None if self.labels is None else self.labels[chosen]
        return Samples({name: np.asarray(array[chosen]) for name, array in self.inputs.items()}, labels, self.skipped)

    def save(self, folder: Path) -> None:
        """Write one .npy file per array and an index of their names.

        Raises `OutputError` if the folder cannot be written.
        """
        # Input names may hold slashes and colons, so the files are numbered.
        files = {name: f"input_{number}.npy" for number, name in enumerate(self.inputs)}
        index = {"inputs": files, "labels": None if self.labels is None else _LABELS}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, file in files.items():
                np.save(folder / file, self.inputs[name], allow_pickle=False)
            if self.labels is not None:
                np.save(folder / _LABELS, self.labels, allow_pickle=False)
            (folder / _INDEX).write_text(json.dumps(index), encoding="utf-8")
        except OSError as error:
            raise OutputError(
                f"{folder}: samples cannot be written ({error.strerror}); free space or choose another folder"
            ) from None

    @staticmethod
    def load(folder: Path) -> "Samples":
        """Open what `save` wrote, memory-mapped and read-only. Raises `DatasetError` if a file is missing or damaged."""
        try:
            index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
            inputs = {name: np.load(folder / file, mmap_mode="r", allow_pickle=False) for name, file in index["inputs"].items()}
            labels = None if index["labels"] is None else np.load(folder / index["labels"], allow_pickle=False)
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise DatasetError(f"{folder}: saved samples are missing or damaged ({error}); encode them again") from None
        return Samples(inputs, labels)


def described(samples: Samples, origin: str) -> str:
    """What a report says of its rows: how many, of what, and what of it could not be read."""
    told = f"{len(samples)} rows of {shown(origin)}"
    if not samples.skipped:
        return told
    others = f" and {len(samples.skipped) - 1} more" if samples.skipped[1:] else ""
    return f"{told}, without {samples.skipped[0]}{others} (not readable)"


def random_samples(inputs: Sequence[TensorSpec], count: int, seed: int = 0) -> Samples:
    """`count` rows that fit `inputs`, for comparing two forms of a model; never for calibration or accuracy.

    Floats are N(0, 1), integers 0 or 1 (valid as ids, masks and segments alike), bools either; a free axis becomes 1. An
    attention mask keeps its first token.
    Quantized inputs get real values in float32. Raises `DatasetError` for any other dtype.
    """
    generator = np.random.default_rng(seed)
    arrays: dict[str, Array] = {}
    for spec in inputs:
        shape = (count, *(1 if size < 0 else size for size in row_shape(spec)))
        dtype = real_dtype(spec)
        if dtype.kind == "f":
            arrays[spec.name] = generator.standard_normal(shape).astype(dtype)
        elif dtype.kind in "iub":
            arrays[spec.name] = generator.integers(0, 2, shape).astype(dtype)
        else:
            raise DatasetError(f"input {spec.name}: no random values of dtype {spec.dtype} can be made; give a data set")
    if "attention_mask" in arrays and arrays["attention_mask"].ndim == 2:
        arrays["attention_mask"][:, 0] = 1
    return Samples(arrays)


def row_shape(spec: TensorSpec) -> tuple[int, ...]:
    """The axes of one sample: without the first where that is a batch of 1 or free; a fixed one is part of the sample."""
    return spec.shape[1:] if spec.shape and spec.shape[0] in (1, -1) else spec.shape


def as_fed(row: Array, rank: int) -> Array:
    """A row (1, ...) as an input with `rank` axes takes it: without the first axis where the input has no batch of its own."""
    return row[0] if row.ndim == rank + 1 else row


def real_dtype(spec: TensorSpec) -> np.dtype[Any]:
    """The dtype that samples of an input have: float32 where it is quantized, else its own.

    Raises `DatasetError` for a dtype that numpy does not know.
    """
    if spec.scale:
        return np.dtype(np.float32)
    try:
        return np.dtype(spec.dtype)
    except TypeError:
        raise DatasetError(f"input {spec.name}: dtype {spec.dtype} cannot be fed; give a model with numeric inputs") from None


def chunk_rows(array: Array) -> Iterator[tuple[int, Array]]:
    """The array in blocks of about 16 MB with each block's first row, so that a memory map is never read whole."""
    row_bytes = max(1, array[:1].nbytes)
    step = max(1, 2**24 // row_bytes)
    for start in range(0, len(array), step):
        yield start, array[start : start + step]
