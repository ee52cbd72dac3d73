"""Several sequence lengths in one file."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgekit.data.samples import Array, Samples
from edgekit.errors import ConversionError
from edgekit.spec import MASK
from edgekit.stages.quantize.candidates import run_rows
from edgekit.stages.quantize.merge import LENGTHS
from edgekit.tflite.interpreter import Model
from edgekit.tflite.lengths import LengthsModel, key, needed
from edgekit.tflite.loading import load
from edgekit.workflows.convert import bridge
from edgekit.workflows.convert.bridge import FloatModel
from edgekit.workflows.convert.several import MOST_ROWS, SECONDS, Figures, Several, Sizes, figures_of

# Fewer rows that fit a length say nothing of it: others are cut to it then.
_LEAST_ROWS = 8


@dataclass(frozen=True)
class LengthFigures(Figures):
    """One signature, which takes `length` tokens: its rows fit that, or were `cut` to it where too few do."""

    length: int
    cut: bool


@dataclass(frozen=True)
class Lengths(Sizes):
    """A file's signatures, and what the others add to the `single_length_bytes` of the longest alone: `growth` is their share."""

    name = "lengths"
    single_length_bytes: int
    growth: float
    by_length: tuple[LengthFigures, ...]

    @property
    def figures(self) -> tuple[LengthFigures, ...]:
        return self.by_length

    @property
    def told(self) -> str:
        listed = ", ".join(f"{figures.length} tokens {figures.p50_ms:.2f} ms" for figures in self.by_length)
        return f"p50 by length: {listed}; {self.growth:.1%} more bytes than with {self.by_length[-1].length} alone"

    @property
    def advice(self) -> str:
        return f"leave {LENGTHS} out"


class SeveralLengths(Several):
    """The shorter lengths of a checkpoint whose longest is converted already."""

    option = LENGTHS
    largest_first = True

    def called(self, size: int) -> str:
        return f"{size} tokens"

    def key(self, size: int) -> str:
        return key(size)

    def export(self, size: int, work: Path) -> tuple[FloatModel, Path, Path | None]:
        rows = _at_length(self.held_out, size, work / "held_out")
        samples = _at_length(self.calibration_rows, size, work / "rows") if self.calibration_rows else None
        return bridge.from_checkpoint(self.checkpoint, rows, self.largest.road, size, work, self.worker), rows, samples

    def measured(self, file: Path, reference: Path, threads: int, single_bytes: int, growth: float) -> Lengths:
        figures = self.worker.run(run_each, file, reference, self.held_out, self.sizes, threads).value
        return Lengths(single_bytes, growth, figures)


def rows_for(samples: Samples, length: int) -> tuple[Samples, bool]:
    """Rows whose tokens fit `length`, as wide as they were; or, where they are too few, others without what is beyond it."""
    masks = samples.inputs[MASK]
    numbers = np.arange(len(samples)) if samples.row is None else samples.row
    fits = np.array([needed(mask)[0] <= length for mask in masks])
    fitting = np.setdiff1d(numbers, numbers[~fits])
    if len(fitting) >= min(_LEAST_ROWS, samples.row_count()):
        return samples.take_rows(fitting[:MOST_ROWS]), False
    few = samples.take_rows(np.unique(numbers)[:_LEAST_ROWS])
    mask = np.array(few.inputs[MASK])
    for row in mask:
        row[slice(length, None) if needed(row)[1] else slice(row.size - length)] = 0
    # Labels may be of what is cut off.
    return replace(few, inputs={**few.inputs, MASK: mask}, labels=None), True


def _at_length(folder: Path, length: int, target: Path) -> Path:
    """The saved rows that fit `length`, no wider than that."""
    rows = _narrow(rows_for(Samples.load(folder), length)[0], length)
    rows.save(target)
    return target


def _narrow(rows: Samples, length: int) -> Samples:
    """The rows, and what belongs to each token of them, without the padding beyond `length`."""
    mask = rows.inputs[MASK]

    def narrow(arrays: Mapping[str, Array]) -> dict[str, Array]:
        return {name: _cut(array, mask, length) for name, array in arrays.items()}

    labels = None if rows.labels is None else _cut(rows.labels, mask, length)
    return replace(rows, inputs=narrow(rows.inputs), labels=labels, extras=narrow(rows.extras))


def _cut(array: Array, masks: Array, length: int) -> Array:
    """`length` positions of an array (N, L, ...) on the side of each row's tokens by `masks` (>= N, L); others stay as they are."""
    wide = masks.shape[1]
    if array.ndim < 2 or array.shape[1] != wide:
        return array
    parts = [row[:length] if needed(mask)[1] else row[wide - length :] for row, mask in zip(array, masks, strict=False)]
    return np.stack(parts)


def run_each(file: Path, reference: Path, held_out: Path, lengths: Iterable[int], threads: int) -> tuple[LengthFigures, ...]:
    """Each signature on the saved rows that fit it, against the longest one and against float32 `reference`; in a worker child.

    Outputs with a value for each token are compared where both have one. Raises `ConversionError` for outputs that the task
    cannot read, and what `Model` raises."""
    model, base = load(file, threads=threads), Model(reference, threads=threads)
    if not isinstance(model, LengthsModel):
        raise ConversionError(f"{file.name}: has not the signatures that it was merged of; leave {LENGTHS} out")
    samples = replace(Samples.load(held_out), labels=None)
    measured = []
    for length in lengths:
        rows, was_cut = rows_for(samples, length)
        at_longest = run_rows([model.models[model.longest]], rows, len(rows), SECONDS / 2)
        count = len(next(iter(at_longest.values())))
        expected = run_rows([base], rows, count)
        narrow = _narrow(rows.span(slice(count)), length)
        own = run_rows([model.models[length]], narrow, count)
        mask = rows.inputs[MASK]
        at_longest, expected = (
            {name: one if one.shape == own[name].shape else _cut(one, mask, length) for name, one in wide.items()}
            for wide in (at_longest, expected)
        )
        figures = figures_of(model.models[length], file.name, narrow, own, at_longest, expected)
        measured.append(LengthFigures(**vars(figures), length=length, cut=was_cut))
    return tuple(measured)
