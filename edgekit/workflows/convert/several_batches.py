"""Several batch sizes in one file."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from edgekit.data.samples import Samples
from edgekit.errors import ConversionError
from edgekit.stages.quantize.candidates import run_rows
from edgekit.stages.quantize.merge import BATCHES
from edgekit.tflite.batches import BatchesModel, key
from edgekit.tflite.interpreter import Model
from edgekit.tflite.loading import load
from edgekit.workflows.convert import bridge
from edgekit.workflows.convert.bridge import FloatModel
from edgekit.workflows.convert.several import MOST_ROWS, SECONDS, Figures, Several, Sizes, figures_of


@dataclass(frozen=True)
class BatchFigures(Figures):
    """One signature, which takes `batch` rows: its rows ran in groups of so many, the last one filled up. `row_ms` is a row's share
    of `p50_ms`."""

    batch: int
    row_ms: float


@dataclass(frozen=True)
class Batches(Sizes):
    """A file's signatures, the smallest first, and what the others add to the `single_batch_bytes` of the largest alone."""

    name = "batches"
    single_batch_bytes: int
    growth: float
    by_batch: tuple[BatchFigures, ...]

    @property
    def figures(self) -> tuple[BatchFigures, ...]:
        return self.by_batch

    @property
    def told(self) -> str:
        listed = ", ".join(f"{figures.batch}: {figures.p50_ms:.2f} ms ({figures.row_ms:.2f} a row)" for figures in self.by_batch)
        return f"p50 by batch size: {listed}; {self.growth:.1%} more bytes than with {self.by_batch[-1].batch} alone"

    @property
    def advice(self) -> str:
        return f"give {BATCHES} {self.by_batch[-1].batch} alone"


class SeveralBatches(Several):
    """The smaller batch sizes of a checkpoint whose largest is converted already."""

    option = BATCHES
    # The smallest answers where one text is asked for.
    largest_first = False

    def without(self, size: int) -> str:
        return f"{size} of {BATCHES}"

    def called(self, size: int) -> str:
        return f"batch {size}"

    def key(self, size: int) -> str:
        return key(size, self.length)

    def export(self, size: int, work: Path) -> tuple[FloatModel, Path, Path | None]:
        road, rows = self.largest.road, self.held_out
        model = bridge.from_checkpoint(self.checkpoint, rows, road, self.length, work, self.worker, size)
        return model, rows, self.calibration_rows

    def measured(self, file: Path, reference: Path, threads: int, single_bytes: int, growth: float) -> Batches:
        figures = self.worker.run(run_each, file, reference, self.held_out, self.sizes, threads).value
        return Batches(single_bytes, growth, figures)


def run_each(file: Path, reference: Path, held_out: Path, batches: Iterable[int], threads: int) -> tuple[BatchFigures, ...]:
    """Each signature on the saved rows, against the one of the largest batch and float32 `reference`; in a worker child.

    Raises `ConversionError` for outputs that the task cannot read, and what `Model` raises."""
    model, base = load(file, threads=threads), load(reference, threads=threads)
    if not isinstance(model, BatchesModel):
        raise ConversionError(f"{file.name}: has not the signatures that it was merged of; give one {BATCHES} alone")
    float32 = base if isinstance(base, Model) else base.models[model.batch]
    rows = replace(Samples.load(held_out), labels=None)
    at_largest = run_rows([model.models[model.batch]], rows, min(len(rows), MOST_ROWS), SECONDS)
    count = len(next(iter(at_largest.values())))
    rows = rows.span(slice(count))
    expected = run_rows([float32], rows, count)
    measured = []
    for batch in batches:
        own = run_rows([model.models[batch]], rows, count)
        figures = figures_of(model.models[batch], file.name, rows, own, at_largest, expected)
        measured.append(BatchFigures(**vars(figures), batch=batch, row_ms=figures.p50_ms / batch))
    return tuple(measured)
