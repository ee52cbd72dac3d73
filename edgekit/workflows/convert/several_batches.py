"""Several batch sizes in one file: a checkpoint exported at each, quantized alike, merged and measured."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgekit.data.samples import Samples
from edgekit.errors import ConversionError, EdgekitError, RefusedError
from edgekit.models.checkpoint import Checkpoint
from edgekit.models.source import Source
from edgekit.stages.quantize import schemes
from edgekit.stages.quantize.candidates import ROUNDING, run_rows
from edgekit.stages.quantize.merge import BATCHES, merge, same_names
from edgekit.stages.quantize.plan import IntegerSettings, QuantizationPlan
from edgekit.stages.quantize.schemes import Scheme
from edgekit.system.worker import Worker
from edgekit.tasks import judgement
from edgekit.tasks.metrics import Proportion
from edgekit.tasks.parity import FLOAT32_TOLERANCE, compare
from edgekit.tasks.table import TASKS
from edgekit.tflite.batches import BatchesModel, key
from edgekit.tflite.interpreter import Model
from edgekit.tflite.loading import load
from edgekit.workflows.convert import bridge
from edgekit.workflows.convert.bridge import FloatModel
from edgekit.workflows.convert.several_lengths import Alike, p50_ms, quantize_alike

_MOST_ROWS = 200
_SECONDS = 2.0


@dataclass(frozen=True)
class BatchFigures:
    """One signature of a file, run on `rows` rows in groups of `batch`, the last one filled up.

    `agreement` is with the float32 model, `same_decision` with this file's own signature of the largest batch, both None where the
    task decides nothing. From that one's outputs its own differ by `max_abs_difference` at most, over an output's largest value
    by `max_rel_difference`, and `error_db` is that of the worst output. `p50_ms` is of one inference, `row_ms` its share a row."""

    batch: int
    signature: str
    rows: int
    agreement: Proportion | None
    same_decision: Proportion | None
    error_db: float
    max_abs_difference: float
    max_rel_difference: float
    p50_ms: float
    row_ms: float


@dataclass(frozen=True)
class Batches:
    """A file's signatures, the smallest first, and what the others add to the `single_batch_bytes` of the largest alone."""

    single_batch_bytes: int
    growth: float
    by_batch: tuple[BatchFigures, ...]

    @property
    def told(self) -> str:
        """In words."""
        listed = ", ".join(f"{figures.batch}: {figures.p50_ms:.2f} ms ({figures.row_ms:.2f} a row)" for figures in self.by_batch)
        return f"p50 by batch size: {listed}; {self.growth:.1%} more bytes than with {self.by_batch[-1].batch} alone"


@dataclass(frozen=True)
class _Smaller:
    """The model at one of the smaller batch sizes."""

    model: FloatModel
    work: Path


@dataclass
class Several:
    """The smaller batch sizes of a checkpoint whose largest is converted already: `batches` are all, the smallest first.

    `largest` is the float32 model there, to which the steps of the others and their comparisons are added; `held_out` and
    `calibration_rows` are folders of rows of up to `length` tokens."""

    source: Source
    checkpoint: Checkpoint
    batches: tuple[int, ...]
    length: int
    largest: FloatModel
    held_out: Path
    calibration_rows: Path | None
    work: Path
    worker: Worker
    models: dict[int, _Smaller] = field(default_factory=dict)
    names: dict[int, Mapping[str, str]] = field(default_factory=dict)
    added: dict[str, int] = field(default_factory=dict)

    def merge(
        self,
        made: dict[str, tuple[Path, QuantizationPlan]],
        failed: dict[str, str],
        calibration: Path | None,
        settings: IntegerSettings,
    ) -> None:
        """Put files with all batch sizes in place of those in `made`, by scheme; one that cannot be made moves to `failed`.

        The smaller ones are exported first. Raises what `bridge.from_checkpoint` does."""
        if not made:
            return
        for batch in self.batches[:-1]:
            self.models[batch] = other = self._exported(batch)
            self.largest.steps += [replace(step, name=f"batch {batch}: {step.name}") for step in other.model.steps]
            self.largest.parity |= {f"batch {batch}: {hop}": parity for hop, parity in other.model.parity.items()}
        for name, (file, plan) in list(made.items()):
            try:
                made[name] = self._merged(schemes.SCHEMES[name], file, plan, calibration, settings), plan
            except EdgekitError as error:
                failed[name] = error.message
                del made[name]

    def measure(self, packed: Mapping[str, Path], failed: dict[str, str], reference: Path, threads: int) -> dict[str, Batches]:
        """Run every signature of the files, by scheme, against float32 `reference`; a file that does not run moves to `failed`."""
        measured = {}
        for name, file in packed.items():
            try:
                figures = self.worker.run(run_each, file, reference, self.held_out, self.batches, threads).value
                before = file.stat().st_size - self.added[name]
                measured[name] = Batches(before, self.added[name] / before, figures)
            except EdgekitError as error:
                failed[name] = error.message
        return measured

    def _exported(self, batch: int) -> _Smaller:
        work = self.work / f"batch_{batch}"
        work.mkdir()
        try:
            made = bridge.from_checkpoint(self.checkpoint, self.held_out, self.largest.road, self.length, work, self.worker, batch)
            bridge.finish(self.source, made, self.held_out, work, self.worker)
            return _Smaller(made, work)
        except EdgekitError as error:
            raise type(error)(f"at batch {batch}: {error.message}", error.detail) from error

    def _merged(
        self, scheme: Scheme, file: Path, plan: QuantizationPlan, calibration: Path | None, settings: IntegerSettings
    ) -> Path:
        """`file`, which is `scheme` at the largest batch, and the smaller ones quantized in the same way, as one file."""
        files = {}
        for batch, smaller in self.models.items():
            files[key(batch, self.length)] = smaller.model.path
            if scheme.name != "float32":
                files[key(batch, self.length)] = target = smaller.work / f"{scheme.name}.tflite"
                carried = scheme.weights == "int8" and (calibration is not None or plan.form is not None)
                names = self._names(batch, smaller) if carried else {}
                how = Alike(plan, names, self.calibration_rows, calibration, settings)
                quantize_alike(smaller.model.path, scheme, target, how, smaller.work, self.worker)
        # The smallest first: it answers where one text is asked for, and is what a runtime that knows no signatures runs.
        files[key(self.batches[-1], self.length)] = file
        merged = self.work / f"{scheme.name}_batches.tflite"
        self.worker.run(merge, files, merged, origin=f"{self.source.name}, {scheme.name}", option=BATCHES)
        self.added[scheme.name] = merged.stat().st_size - file.stat().st_size
        return merged

    def _names(self, batch: int, smaller: _Smaller) -> Mapping[str, str]:
        if batch not in self.names:
            option = f"{batch} of {BATCHES}"
            self.names[batch] = self.worker.run(same_names, self.largest.path, smaller.model.path, option).value
        return self.names[batch]


def judge(measured: Batches, scheme: str, max_drop: float | None, min_db: float | None = None) -> str | None:
    """Why a file may not be published, or None: `max_drop` is the allowed share of other decisions, `min_db` the least error."""
    largest = measured.by_batch[-1].signature
    for figures in measured.by_batch:
        same, differs = figures.same_decision, ""
        if scheme == "float32" and figures.max_rel_difference > FLOAT32_TOLERANCE:
            differs = f"differs from {largest} by {figures.max_rel_difference:.2g} relative, {FLOAT32_TOLERANCE:g} is allowed"
        # One decision of few is chance.
        elif max_drop is not None and same and same.total - same.count > max(1.0, max_drop * same.total + ROUNDING):
            differs = f"decides otherwise than {largest} on {same.total - same.count} of {same.total} decisions, "
            differs += f"--max-drop allows {100 * max_drop:.1f} %"
        elif min_db is not None and same is None and figures.error_db < min_db:
            differs = f"differs from {largest}: {figures.error_db:.1f} dB on {figures.rows} rows, --min-db asks for {min_db:g}"
        if differs:
            return f"signature {figures.signature} {differs}; give --batch-size {measured.by_batch[-1].batch} alone"
    return None


def run_each(file: Path, reference: Path, held_out: Path, batches: Iterable[int], threads: int) -> tuple[BatchFigures, ...]:
    """Each signature on the saved rows, against the one of the largest batch and float32 `reference`; in a worker child.

    Raises `ConversionError` for outputs that the task cannot read, and what `Model` raises."""
    model, base = load(file, threads=threads), load(reference, threads=threads)
    if not isinstance(model, BatchesModel):
        raise ConversionError(f"{file.name}: has not the signatures that it was merged of; give one --batch-size alone")
    float32 = base if isinstance(base, Model) else base.models[model.batch]
    rows = replace(Samples.load(held_out), labels=None)
    at_largest = run_rows([model.models[model.batch]], rows, min(len(rows), _MOST_ROWS), _SECONDS)
    count = len(next(iter(at_largest.values())))
    rows = rows.span(slice(count))
    expected = run_rows([float32], rows, count)
    figures = []
    for batch in batches:
        own = run_rows([model.models[batch]], rows, count)
        try:
            same, agreement = judgement.judge(own, rows, at_largest), judgement.judge(own, rows, expected).agreement
            reading = TASKS[rows.task].reading
            ours, theirs = ({**outputs, **reading(outputs, rows).values} for outputs in (own, at_largest))
        except RefusedError as error:
            raise ConversionError(f"{file.name}: signature {model.models[batch].signature_key}: {error.message}") from error
        differences = [compare(ours[name], theirs[name]) for name in theirs]
        p50 = p50_ms(model.models[batch])
        figures.append(
            BatchFigures(
                batch=batch,
                signature=model.models[batch].signature_key,
                rows=same.rows,
                agreement=agreement,
                same_decision=same.agreement,
                error_db=same.error_db or 0.0,
                max_abs_difference=max(difference.max_abs for difference in differences),
                max_rel_difference=max(difference.max_rel for difference in differences),
                p50_ms=p50,
                row_ms=p50 / batch,
            )
        )
    return tuple(figures)
