"""Files with a signature for each of several sequence lengths over the same weights: a short row takes a short one."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from edgekit.spec import MASK, Signature
from edgekit.tflite.flatbuffer import Entry, ModelFile
from edgekit.tflite.several import SeveralModel

Array = np.ndarray[Any, np.dtype[Any]]

_KEY = re.compile(r"run_([1-9]\d*)", re.ASCII)


def key(length: int) -> str:
    """Name of the signature for rows of up to `length` tokens."""
    return f"run_{length}"


def by_length(file: ModelFile) -> dict[int, Entry]:
    """The signatures by their length, the shortest first; empty for a file that has not several of them alone."""
    entries: dict[int, Entry] = {}
    for entry in file.entries:
        match = _KEY.fullmatch(entry.key)
        length = int(match[1]) if match else 0
        if not length or MASK not in entry.inputs or {spec.shape for spec in file.signature(entry).inputs} != {(1, length)}:
            return {}
        entries[length] = entry
    alike = len({frozenset(entry.inputs) for entry in entries.values()}) == 1
    return dict(sorted(entries.items())) if alike and len(entries) > 1 else {}


def needed(mask: Array) -> tuple[int, bool]:
    """Positions that a row takes without the padding at one end, by its mask (1, L), and whether that end is the right one."""
    places = np.flatnonzero(mask)
    if not places.size:
        return 0, True
    without_right, without_left = int(places[-1]) + 1, mask.size - int(places[0])
    return min(without_right, without_left), without_right <= without_left


def cut(row: Mapping[str, Array], length: int, *, right: bool = True) -> dict[str, Array]:
    """The first `length` positions of arrays (N, L) by name, or the last ones where the padding is on the left."""
    return {name: array[:, :length] if right else array[:, array.shape[1] - length :] for name, array in row.items()}


def widen(outputs: Mapping[str, Array], longest: Signature, mask: Array) -> dict[str, Array]:
    """Outputs (1, …) of a row that was cut, as wide as the `longest` signature gives them; `mask` is the whole row's, (1, L).

    Positions that a shorter one leaves out hold the least value of all: of logits none is chosen there."""
    _, right = needed(mask)
    shapes, widened = {spec.name: spec.shape for spec in longest.outputs}, dict(outputs)
    for name, array in outputs.items():
        if array.shape != shapes[name] and array.ndim == len(shapes[name]) and array.size:
            gaps = [max(0, size - own) for size, own in zip(shapes[name], array.shape, strict=True)]
            sides = [(0, gap) if right else (gap, 0) for gap in gaps]
            widened[name] = np.pad(array, sides, constant_values=array.min())
    return widened


def fit(row: Mapping[str, Array], lengths: Iterable[int]) -> tuple[int, dict[str, Array]]:
    """The least of `lengths`, which rise, that holds a row of arrays (1, L) by name, L the last of them; and the row cut to it."""
    positions, right = needed(row[MASK])
    length = next(length for length in lengths if length >= positions)
    return length, cut(row, length, right=right)


class LengthsModel(SeveralModel):
    """A file with several lengths, called like a `Model` of the longest; each row runs in the shortest that holds it.

    The longest is the first subgraph of the files that edgekit writes. Outputs have its shapes."""

    batch = 1
    _mask: Array = np.empty(0)

    @property
    def longest(self) -> int:
        """The most tokens that it takes."""
        return max(self._entries)

    @property
    def length(self) -> int:
        """The length that the row stored last runs in."""
        return self._stored.signature.inputs[0].shape[1]

    def _fit(self, inputs: Mapping[str, Array]) -> tuple[int, Mapping[str, Array]]:
        if MASK in inputs and all(np.shape(array) == (1, self.longest) for array in inputs.values()):
            return fit({name: np.asarray(array) for name, array in inputs.items()}, self._entries)
        return self.longest, inputs

    def set_inputs(self, inputs: Mapping[str, Array]) -> None:
        """Store one row as wide as the longest signature in the shortest that holds its tokens; see `Model.run`."""
        self._mask = np.asarray(inputs.get(MASK, ()))
        super().set_inputs(inputs)

    def outputs(self) -> dict[str, Array]:
        """Results of the last `invoke` by output name, as wide as the longest signature's."""
        return widen(super().outputs(), self.signature, self._mask)
