"""Files with a signature for each of several batch sizes over the same weights: a few rows take a small one."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from edgekit.tflite.flatbuffer import Entry, ModelFile
from edgekit.tflite.interpreter import filled
from edgekit.tflite.several import SeveralModel

Array = np.ndarray[Any, np.dtype[Any]]

_KEY = re.compile(r"run_([1-9]\d*)x([1-9]\d*)", re.ASCII)


def key(batch: int, length: int) -> str:
    """Name of the signature for `batch` rows of `length` tokens."""
    return f"run_{batch}x{length}"


def by_batch(file: ModelFile) -> dict[int, Entry]:
    """The signatures by how many rows they take, the smallest first; empty for a file that has not several of one length alone."""
    entries: dict[int, Entry] = {}
    shapes = set()
    for entry in file.entries:
        match, signature = _KEY.fullmatch(entry.key), file.signature(entry)
        batch = int(match[1]) if match else 0
        if not batch or signature.batch != batch:
            return {}
        entries[batch] = entry
        shapes.add(frozenset((spec.name, spec.shape) for spec in signature.of_one_row().inputs))
    return dict(sorted(entries.items())) if len(shapes) == 1 and len(entries) > 1 else {}


def largest(file: ModelFile) -> int:
    """The most rows that one inference of the file takes: 1, the batch of its one signature, or the largest of several."""
    return max(by_batch(file), default=file.signature(file.entry()).batch)


def fitting(rows: int, batches: Iterable[int]) -> int:
    """The smallest of `batches`, which rise, that holds so many rows, or the largest where none does."""
    batches = tuple(batches)
    return next((batch for batch in batches if batch >= rows), batches[-1])


def groups(inputs: Mapping[str, Array], batch: int, *, full: bool = False) -> Iterator[dict[str, Array]]:
    """Arrays (N, …) by name in parts of `batch` rows, the last one of what is left, which is filled up to be `full`."""
    count = len(next(iter(inputs.values()), ()))
    for start in range(0, count, batch):
        group = {name: array[start : start + batch] for name, array in inputs.items()}
        yield {name: filled(array, batch) for name, array in group.items()} if full and batch > 1 else group


class BatchesModel(SeveralModel):
    """A file with several batch sizes, called with up to `batch` rows, the largest; they run in the smallest that holds them.

    The smallest is the first subgraph of the files that edgekit writes."""

    @property
    def batch(self) -> int:
        """The most rows that one inference takes."""
        return max(self._entries)

    def _fit(self, inputs: Mapping[str, Array]) -> tuple[int, Mapping[str, Array]]:
        return fitting(len(next(iter(inputs.values()), ())), self._entries), inputs
