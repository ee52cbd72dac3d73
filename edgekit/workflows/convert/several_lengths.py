"""Several sequence lengths in one file: a checkpoint exported at each, quantized alike, merged and measured."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import psutil

from edgekit.data.samples import Array, Samples
from edgekit.errors import ConversionError, EdgekitError, RefusedError
from edgekit.models.checkpoint import Checkpoint
from edgekit.models.source import Source
from edgekit.spec import MASK
from edgekit.stages.quantize import schemes
from edgekit.stages.quantize.candidates import ROUNDING, run_rows
from edgekit.stages.quantize.merge import LENGTHS, carry_calibration, carry_form, merge, same_names
from edgekit.stages.quantize.plan import IntegerSettings, QuantizationPlan, quantize
from edgekit.stages.quantize.schemes import Scheme
from edgekit.system.worker import Worker, together
from edgekit.tasks import judgement
from edgekit.tasks.metrics import Proportion
from edgekit.tasks.parity import FLOAT32_TOLERANCE, compare
from edgekit.tasks.table import TASKS
from edgekit.tflite.interpreter import Model
from edgekit.tflite.lengths import LengthsModel, key, needed
from edgekit.tflite.loading import load
from edgekit.workflows.convert import bridge
from edgekit.workflows.convert.bridge import FloatModel

# Fewer rows that fit a length say nothing of it: others are cut to it then.
_LEAST_ROWS = 8
_MOST_ROWS = 200
_TIMED_RUNS, _WARMUP = 30, 5
# For the rows and for the timing of one length: reference kernels of int16 are slow.
_SECONDS = 2.0


@dataclass(frozen=True)
class LengthFigures:
    """One signature of a file, run on `rows` rows that fit its length, or that were `cut` to it where too few do.

    `agreement` is with the float32 model at the longest length, `same_decision` with this file's own longest signature, both
    None where the task decides nothing. From that one's outputs its own differ by `max_abs_difference` at most, over an
    output's largest value by `max_rel_difference`, and `error_db` is that of the worst output. p50 in ms of one inference."""

    length: int
    signature: str
    rows: int
    cut: bool
    agreement: Proportion | None
    same_decision: Proportion | None
    error_db: float
    max_abs_difference: float
    max_rel_difference: float
    p50_ms: float


@dataclass(frozen=True)
class Lengths:
    """A file's signatures, and what the others add to the `single_length_bytes` of the longest alone: `growth` is their share."""

    single_length_bytes: int
    growth: float
    by_length: tuple[LengthFigures, ...]

    @property
    def told(self) -> str:
        """In words."""
        listed = ", ".join(f"{figures.length} tokens {figures.p50_ms:.2f} ms" for figures in self.by_length)
        return f"p50 by length: {listed}; {self.growth:.1%} more bytes than with {self.by_length[-1].length} alone"


@dataclass(frozen=True)
class _Shorter:
    """The model at one of the shorter lengths."""

    model: FloatModel
    names: Mapping[str, str]
    samples: Path | None


@dataclass
class Several:
    """The shorter lengths of a checkpoint whose longest is converted already: `lengths` are all, the shortest first.

    `longest` is the float32 model there, to which the steps of the others and their comparisons are added; `held_out` and
    `calibration_rows` are folders of rows at that length. `added` are the bytes that the others add, by scheme."""

    source: Source
    checkpoint: Checkpoint
    lengths: tuple[int, ...]
    longest: FloatModel
    held_out: Path
    calibration_rows: Path | None
    work: Path
    worker: Worker
    models: dict[int, _Shorter] = field(default_factory=dict)
    added: dict[str, int] = field(default_factory=dict)

    def merge(
        self,
        made: dict[str, tuple[Path, QuantizationPlan]],
        failed: dict[str, str],
        calibration: Path | None,
        settings: IntegerSettings,
    ) -> None:
        """Put files with all lengths in place of those in `made`, by scheme; one that cannot be made moves to `failed`.

        The shorter lengths are exported first. Raises what `bridge.from_checkpoint` does."""
        if not made:
            return
        self._export()
        for name, (file, plan) in list(made.items()):
            try:
                made[name] = self._merged(schemes.SCHEMES[name], file, plan, calibration, settings), plan
            except EdgekitError as error:
                failed[name] = error.message
                del made[name]

    def measure(self, packed: Mapping[str, Path], failed: dict[str, str], reference: Path, threads: int) -> dict[str, Lengths]:
        """Run every signature of the files, by scheme, against float32 `reference`; a file that does not run moves to `failed`."""
        measured = {}
        for name, file in packed.items():
            try:
                figures = self.worker.run(run_each, file, reference, self.held_out, self.lengths, threads).value
                before = file.stat().st_size - self.added[name]
                measured[name] = Lengths(before, self.added[name] / before, figures)
            except EdgekitError as error:
                failed[name] = error.message
        return measured

    def _export(self) -> None:
        shorter = self.lengths[:-1]
        tasks = [partial(self._exported, length) for length in shorter]
        peak = max((step.peak_bytes for step in self.longest.steps), default=0)
        exported = together(tasks) if 2 * peak < psutil.virtual_memory().available else [task() for task in tasks]
        self.models |= zip(shorter, exported, strict=True)
        for length, other in self.models.items():
            self.longest.steps += [replace(step, name=f"{length} tokens: {step.name}") for step in other.model.steps]
            self.longest.parity |= {f"{length} tokens: {hop}": parity for hop, parity in other.model.parity.items()}

    def _exported(self, length: int) -> _Shorter:
        work = self.work / f"length_{length}"
        work.mkdir()
        rows = _at_length(self.held_out, length, work / "held_out")
        samples = _at_length(self.calibration_rows, length, work / "rows") if self.calibration_rows else None
        try:
            made = bridge.from_checkpoint(self.checkpoint, rows, self.longest.road, length, work, self.worker)
            bridge.finish(self.source, made, rows, work, self.worker)
            return _Shorter(made, self.worker.run(same_names, self.longest.path, made.path, LENGTHS).value, samples)
        except EdgekitError as error:
            raise type(error)(f"at {length} tokens: {error.message}", error.detail) from error

    def _merged(
        self, scheme: Scheme, file: Path, plan: QuantizationPlan, calibration: Path | None, settings: IntegerSettings
    ) -> Path:
        """`file`, which is `scheme` at the longest length, and the shorter ones quantized in the same way, as one file."""
        files = {self.lengths[-1]: file}
        for length, shorter in self.models.items():
            work = self.work / f"length_{length}"
            files[length] = shorter.model.path
            if scheme.name == "float32":
                continue
            files[length] = work / f"{scheme.name}.tflite"
            how = Alike(plan, shorter.names, shorter.samples, calibration, settings)
            quantize_alike(shorter.model.path, scheme, files[length], how, work, self.worker)
        target = self.work / f"{scheme.name}_lengths.tflite"
        ordered = {key(length): files[length] for length in sorted(files, reverse=True)}
        self.worker.run(merge, ordered, target, origin=f"{self.source.name}, {scheme.name}", option=LENGTHS)
        self.added[scheme.name] = target.stat().st_size - file.stat().st_size
        return target


@dataclass(frozen=True)
class Alike:
    """What a model's quantization at one length or batch size says for another: its plan, the `names` of its tensors and ops there,
    and what was calibrated; `samples` are rows for the other."""

    plan: QuantizationPlan
    names: Mapping[str, str]
    samples: Path | None
    calibration: Path | None
    settings: IntegerSettings


def quantize_alike(model: Path, scheme: Scheme, target: Path, how: Alike, work: Path, worker: Worker) -> None:
    """Write float32 `model` in `scheme` with the same integers as the one that was planned; raises what `quantize` does."""
    calibration = None
    if how.calibration is not None:
        calibration = work / "calibration"
        carry_calibration(how.calibration, how.names, calibration)
    form = carry_form(how.plan.form, how.names) if how.plan.form else None
    settings = replace(how.settings, form=form, trial=None, expected=None)
    quantize(model, scheme, target, samples=how.samples, calibration=calibration, settings=settings, worker=worker)


def judge(measured: Lengths, scheme: str, max_drop: float | None, min_db: float | None = None) -> str | None:
    """Why a file may not be published, or None: `max_drop` is the allowed share of other decisions, `min_db` the least error."""
    longest = measured.by_length[-1].signature
    for figures in measured.by_length:
        same, differs = figures.same_decision, ""
        if scheme == "float32" and figures.max_rel_difference > FLOAT32_TOLERANCE:
            differs = f"differs from {longest} by {figures.max_rel_difference:.2g} relative on {figures.rows} rows, "
            differs += f"{FLOAT32_TOLERANCE:g} is allowed"
        # One decision of few is chance.
        elif max_drop is not None and same and same.total - same.count > max(1.0, max_drop * same.total + ROUNDING):
            differs = f"decides otherwise than {longest} on {same.total - same.count} of {same.total} "
            differs += f"{'rows' if same.total == figures.rows else 'decisions'}, --max-drop allows {100 * max_drop:.1f} %"
        elif min_db is not None and same is None and figures.error_db < min_db:
            differs = f"differs from {longest}: {figures.error_db:.1f} dB on {figures.rows} rows, --min-db asks for {min_db:g}"
        if differs:
            return f"signature {figures.signature} {differs}; leave --sequence-lengths out"
    return None


def rows_for(samples: Samples, length: int) -> tuple[Samples, bool]:
    """Rows whose tokens fit `length`, as wide as they were; or, where they are too few, others without what is beyond it."""
    masks = samples.inputs[MASK]
    numbers = np.arange(len(samples)) if samples.row is None else samples.row
    fits = np.array([needed(mask)[0] <= length for mask in masks])
    fitting = np.setdiff1d(numbers, numbers[~fits])
    if len(fitting) >= min(_LEAST_ROWS, samples.row_count()):
        return samples.take_rows(fitting[:_MOST_ROWS]), False
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
        raise ConversionError(f"{file.name}: has not the signatures that it was merged of; leave --sequence-lengths out")
    samples = replace(Samples.load(held_out), labels=None)
    figures = []
    for length in lengths:
        rows, was_cut = rows_for(samples, length)
        at_longest = run_rows([model.models[model.longest]], rows, len(rows), _SECONDS / 2)
        count = len(next(iter(at_longest.values())))
        expected = run_rows([base], rows, count)
        narrow = _narrow(rows.span(slice(count)), length)
        own = run_rows([model.models[length]], narrow, count)
        mask = rows.inputs[MASK]
        at_longest, expected = (
            {name: one if one.shape == own[name].shape else _cut(one, mask, length) for name, one in wide.items()}
            for wide in (at_longest, expected)
        )
        try:
            same = judgement.judge(own, narrow, at_longest)
            agreement = judgement.judge(own, narrow, expected).agreement
            reading = TASKS[narrow.task].reading
            ours, theirs = ({**outputs, **reading(outputs, narrow).values} for outputs in (own, at_longest))
        except RefusedError as error:
            raise ConversionError(f"{file.name}: signature {key(length)}: {error.message}") from error
        differences = [compare(ours[name], theirs[name]) for name in theirs]
        figures.append(
            LengthFigures(
                length=length,
                signature=key(length),
                rows=same.rows,
                cut=was_cut,
                agreement=agreement,
                same_decision=same.agreement,
                error_db=same.error_db or 0.0,
                max_abs_difference=max(difference.max_abs for difference in differences),
                max_rel_difference=max(difference.max_rel for difference in differences),
                p50_ms=p50_ms(model.models[length]),
            )
        )
    return tuple(figures)


def p50_ms(model: Model) -> float:
    """Of the row that was stored last."""
    times: list[float] = []
    started = time.perf_counter()
    for run in range(_WARMUP + _TIMED_RUNS):
        before = time.perf_counter()
        model.invoke()
        if run >= _WARMUP or before - started > _SECONDS:
            times.append((time.perf_counter() - before) * 1e3)
        if len(times) >= 3 and time.perf_counter() - started > _SECONDS:
            break
    return float(np.median(times))
