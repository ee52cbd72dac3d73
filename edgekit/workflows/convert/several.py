"""Several sizes of one model in a file: exported at each, quantized alike, merged and measured.

What sequence lengths and batch sizes have in common; `several_lengths` and `several_batches` say what differs."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import psutil

from edgekit.data.samples import Samples
from edgekit.errors import ConversionError, EdgekitError, RefusedError
from edgekit.models.checkpoint import Checkpoint
from edgekit.models.source import Source
from edgekit.stages.quantize import schemes
from edgekit.stages.quantize.candidates import ROUNDING
from edgekit.stages.quantize.merge import carry_calibration, carry_form, merge, same_names
from edgekit.stages.quantize.plan import IntegerSettings, QuantizationPlan, quantize
from edgekit.stages.quantize.schemes import Scheme
from edgekit.system.worker import Worker, together
from edgekit.tasks import judgement
from edgekit.tasks.base import Outputs
from edgekit.tasks.metrics import Proportion
from edgekit.tasks.parity import FLOAT32_TOLERANCE, compare
from edgekit.tasks.table import TASKS
from edgekit.tflite.interpreter import Model
from edgekit.workflows.convert import bridge
from edgekit.workflows.convert.bridge import FloatModel

MOST_ROWS = 200
_TIMED_RUNS, _WARMUP = 30, 5
# For the rows and for the timing of one size: reference kernels of int16 are slow.
SECONDS = 2.0


@dataclass(frozen=True)
class Figures:
    """One signature of a file, run on `rows` rows.

    `agreement` is with the float32 model at the largest size, `same_decision` with this file's own signature of that size, both
    None where the task decides nothing. From that one's outputs its own differ by `max_abs_difference` at most, over an
    output's largest value by `max_rel_difference`, and `error_db` is that of the worst output. p50 in ms of one inference."""

    signature: str
    rows: int
    agreement: Proportion | None
    same_decision: Proportion | None
    error_db: float
    max_abs_difference: float
    max_rel_difference: float
    p50_ms: float


class Sizes(ABC):
    """What a file with several sizes is; `name` is what manifests call it."""

    name: ClassVar[str]

    @property
    @abstractmethod
    def figures(self) -> tuple[Figures, ...]:
        """Of each signature, the largest last."""

    @property
    @abstractmethod
    def told(self) -> str:
        """In words."""

    @property
    @abstractmethod
    def advice(self) -> str:
        """What to do without the smaller sizes."""


@dataclass(frozen=True)
class Smaller:
    """The model at one of the smaller sizes, in `work`; `samples` are rows to calibrate it on."""

    model: FloatModel
    work: Path
    samples: Path | None


@dataclass
class Several(ABC):
    """The smaller sizes of a checkpoint whose largest is converted already: `sizes` are all, the smallest first.

    `largest` is the float32 model there, to which the steps of the others and their comparisons are added; `held_out` and
    `calibration_rows` are folders of rows of `length` tokens. `added` are the bytes that the others add, by scheme."""

    source: Source
    checkpoint: Checkpoint
    sizes: tuple[int, ...]
    length: int
    largest: FloatModel
    held_out: Path
    calibration_rows: Path | None
    work: Path
    worker: Worker
    models: dict[int, Smaller] = field(default_factory=dict)
    names: dict[int, Mapping[str, str]] = field(default_factory=dict)
    added: dict[str, int] = field(default_factory=dict)
    option: ClassVar[str]
    # Whether the largest is the first signature, which runs where nothing chooses one.
    largest_first: ClassVar[bool]

    def without(self, size: int) -> str:
        """What to leave out, in words, where a size cannot stand beside the largest."""
        return self.option

    @abstractmethod
    def called(self, size: int) -> str:
        """A size in words."""

    @abstractmethod
    def key(self, size: int) -> str:
        """Name of its signature."""

    @abstractmethod
    def export(self, size: int, work: Path) -> tuple[FloatModel, Path, Path | None]:
        """The model at a smaller size, the rows to compare it on and those to calibrate it on, all in `work`."""

    @abstractmethod
    def measured(self, file: Path, reference: Path, threads: int, single_bytes: int, growth: float) -> Sizes:
        """Each signature of `file`, the smallest first, against its largest and against float32 `reference`.

        The smaller ones add the share `growth` to the `single_bytes` of the largest alone."""

    def merge(
        self,
        made: dict[str, tuple[Path, QuantizationPlan]],
        failed: dict[str, str],
        calibration: Path | None,
        settings: IntegerSettings,
    ) -> None:
        """Put files with all sizes in place of those in `made`, by scheme; one that cannot be made moves to `failed`.

        The smaller ones are exported first. Raises what `bridge.from_checkpoint` does."""
        if not made:
            return
        self._export()
        for name, (file, plan) in list(made.items()):
            try:
                made[name] = self._merged(schemes.SCHEMES[name], file, plan, calibration, settings), plan
            except EdgekitError as error:
                failed[name] = error.message
                del made[name]

    def measure(self, packed: Mapping[str, Path], failed: dict[str, str], reference: Path, threads: int) -> dict[str, Sizes]:
        """Run every signature of the files, by scheme, against float32 `reference`; a file that does not run moves to `failed`."""
        measured = {}
        for name, file in packed.items():
            try:
                before = file.stat().st_size - self.added[name]
                measured[name] = self.measured(file, reference, threads, before, self.added[name] / before)
            except EdgekitError as error:
                failed[name] = error.message
        return measured

    def _export(self) -> None:
        smaller = self.sizes[:-1]
        tasks = [partial(self._exported, size) for size in smaller]
        peak = max((step.peak_bytes for step in self.largest.steps), default=0)
        exported = together(tasks) if 2 * peak < psutil.virtual_memory().available else [task() for task in tasks]
        self.models |= zip(smaller, exported, strict=True)
        for size, other in self.models.items():
            self.largest.steps += [replace(step, name=f"{self.called(size)}: {step.name}") for step in other.model.steps]
            self.largest.parity |= {f"{self.called(size)}: {hop}": parity for hop, parity in other.model.parity.items()}

    def _exported(self, size: int) -> Smaller:
        work = self.work / f"size_{size}"
        work.mkdir()
        try:
            model, rows, samples = self.export(size, work)
            bridge.finish(self.source, model, rows, work, self.worker)
            return Smaller(model, work, samples)
        except EdgekitError as error:
            raise type(error)(f"at {self.called(size)}: {error.message}", error.detail) from error

    def _merged(
        self, scheme: Scheme, file: Path, plan: QuantizationPlan, calibration: Path | None, settings: IntegerSettings
    ) -> Path:
        """`file`, which is `scheme` at the largest size, and the smaller ones quantized in the same way, as one file."""
        files = {self.sizes[-1]: file}
        for size, smaller in self.models.items():
            files[size] = smaller.model.path
            if scheme.name != "float32":
                files[size] = target = smaller.work / f"{scheme.name}.tflite"
                self._quantize_alike(size, scheme, target, plan, calibration, settings)
        target = self.work / f"{scheme.name}_merged.tflite"
        ordered = {self.key(size): files[size] for size in sorted(files, reverse=self.largest_first)}
        self.worker.run(merge, ordered, target, origin=f"{self.source.name}, {scheme.name}", option=self.option)
        self.added[scheme.name] = target.stat().st_size - file.stat().st_size
        return target

    def _quantize_alike(
        self, size: int, scheme: Scheme, target: Path, plan: QuantizationPlan, calibration: Path | None, settings: IntegerSettings
    ) -> None:
        """Write the model of a smaller size with the same integers as the one that was planned; raises what `quantize` does."""
        smaller, carried, form = self.models[size], None, None
        if scheme.weights == "int8" and (calibration is not None or plan.form is not None):
            names = self._names(size)
            form = carry_form(plan.form, names) if plan.form else None
            if calibration is not None:
                carried = smaller.work / "calibration"
                carry_calibration(calibration, names, carried)
        own = replace(settings, form=form, trial=None, expected=None)
        samples = smaller.samples
        quantize(smaller.model.path, scheme, target, samples=samples, calibration=carried, settings=own, worker=self.worker)

    def _names(self, size: int) -> Mapping[str, str]:
        """Of the tensors and ops of the largest, those of a smaller size; raises `ConversionError` where ops differ."""
        if size not in self.names:
            smaller = self.models[size].model.path
            self.names[size] = self.worker.run(same_names, self.largest.path, smaller, self.without(size)).value
        return self.names[size]


def judge(measured: Sizes, scheme: str, max_drop: float | None, min_db: float | None = None) -> str | None:
    """Why a file may not be published, or None: `max_drop` is the allowed share of other decisions, `min_db` the least error."""
    largest = measured.figures[-1].signature
    for figures in measured.figures:
        same, differs = figures.same_decision, ""
        if scheme == "float32" and figures.max_rel_difference > FLOAT32_TOLERANCE:
            differs = f"differs from {largest} by {figures.max_rel_difference:.2g} relative on {figures.rows} rows, "
            differs += f"{FLOAT32_TOLERANCE:g} is allowed"
        # One decision of few is chance.
        elif max_drop is not None and same and same.total - same.count > max(1.0, max_drop * same.total + ROUNDING):
            differs = f"decides otherwise than {largest} on {same.total - same.count} of {same.total} "
            differs += f"{'rows' if same.total == figures.rows else 'decisions'}, --max-drop allows {100 * max_drop:.1f} %"
        elif min_db is not None and same is None and figures.error_db < min_db:
            differs = f"differs from {largest}: {figures.error_db:.1f} dB on {figures.rows} rows, --min-db asks for {min_db:g}"
        if differs:
            return f"signature {figures.signature} {differs}; {measured.advice}"
    return None


def figures_of(model: Model, origin: str, rows: Samples, own: Outputs, at_largest: Outputs, expected: Outputs) -> Figures:
    """`own` outputs of a signature for `rows` beside those of the largest and what float32 gives; then it is timed.

    Raises `ConversionError` for outputs that the task cannot read."""
    try:
        same, agreement = judgement.judge(own, rows, at_largest), judgement.judge(own, rows, expected).agreement
        reading = TASKS[rows.task].reading
        ours, theirs = ({**outputs, **reading(outputs, rows).values} for outputs in (own, at_largest))
    except RefusedError as error:
        raise ConversionError(f"{origin}: signature {model.signature_key}: {error.message}") from error
    differences = [compare(ours[name], theirs[name]) for name in theirs]
    return Figures(
        signature=model.signature_key,
        rows=same.rows,
        agreement=agreement,
        same_decision=same.agreement,
        error_db=same.error_db or 0.0,
        max_abs_difference=max(difference.max_abs for difference in differences),
        max_rel_difference=max(difference.max_rel for difference in differences),
        p50_ms=_p50_ms(model.invoke),
    )


def _p50_ms(invoke: Callable[[], object]) -> float:
    """Of the row that was stored last."""
    times: list[float] = []
    started = time.perf_counter()
    for run in range(_WARMUP + _TIMED_RUNS):
        before = time.perf_counter()
        invoke()
        if run >= _WARMUP or before - started > SECONDS:
            times.append((time.perf_counter() - before) * 1e3)
        if len(times) >= 3 and time.perf_counter() - started > SECONDS:
            break
    return float(np.median(times))
