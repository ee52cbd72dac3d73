"""Several sequence lengths in one file: a checkpoint exported at each, quantized alike, merged and measured."""

import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from edgekit.data.samples import Samples
from edgekit.errors import ConfigError, ConversionError, EdgekitError
from edgekit.stages.quantize import schemes
from edgekit.stages.quantize.merge import carry_calibration, carry_form, merge, same_names
from edgekit.stages.quantize.plan import IntegerSettings, QuantizationPlan, quantize
from edgekit.stages.quantize.schemes import Scheme
from edgekit.system.worker import Worker, together
from edgekit.tasks.metrics import Proportion, agreement
from edgekit.tasks.parity import FLOAT32_TOLERANCE, compare
from edgekit.tflite.interpreter import Model
from edgekit.tflite.lengths import MASK, LengthsModel, cut, key, load, needed
from edgekit.workflows.convert import bridge
from edgekit.workflows.convert.bridge import Bridge, FloatModel, Source, Step

# Fewer rows that fit a length say nothing of it: others are cut to it then.
_LEAST_ROWS = 8
_MOST_ROWS = 200
_TIMED_RUNS, _WARMUP = 30, 5
# For the rows and for the timing of one length: reference kernels of int16 are slow.
_SECONDS = 2.0


def check_lengths(lengths: Sequence[int]) -> None:
    """Raise `ConfigError` unless `lengths` are two or more whole numbers above 0, each greater than the one before."""
    told = ",".join(map(str, lengths))
    if any(length < 1 for length in lengths):
        raise ConfigError(f"sequence_lengths {told}: a length counts tokens; give numbers from 1, such as 16,32,64,128")
    if len(lengths) < 2:
        raise ConfigError(f"sequence_lengths {told}: is one length alone; give two or more, or --max-length {told}")
    if any(one >= two for one, two in itertools.pairwise(lengths)):
        raise ConfigError(f"sequence_lengths {told}: give each length once, the shortest first, such as 16,32,64,128")


@dataclass(frozen=True)
class LengthFigures:
    """One signature of a file, run on `rows` rows that fit its length, or that were `cut` to it where too few do.

    `agreement` is with the float32 model at the longest length, `same_decision` with this file's own longest signature, from
    whose outputs its own differ by `max_abs_difference` at most, over their largest value by `max_rel_difference`. p50 in ms of
    one inference.
    """

    length: int
    signature: str
    rows: int
    cut: bool
    agreement: Proportion
    same_decision: Proportion
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
    `calibration_rows` are folders of rows at that length. `added` are the bytes that the others add, by scheme.
    """

    source: Source
    lengths: tuple[int, ...]
    bridge: Bridge
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

        The shorter lengths are exported first. Raises what `bridge.from_checkpoint` does.
        """
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
        """Run every signature of the files, which are those of `merge` with their metadata, by scheme.

        `reference` is the float32 file. A file with a signature that does not run moves to `failed`.
        """
        found = {}
        for name, file in packed.items():
            try:
                figures = self.worker.run(run_each, file, reference, self.held_out, self.lengths, threads).value
                before = file.stat().st_size - self.added[name]
                found[name] = Lengths(before, self.added[name] / before, figures)
            except EdgekitError as error:
                failed[name] = error.message
        return found

    def _export(self) -> None:
        shorter = self.lengths[:-1]
        tasks = [partial(self._exported, length) for length in shorter]
        peak = max((step.peak_bytes for step in self.longest.steps), default=0)
        made = together(tasks) if 2 * peak < _free_memory() else [task() for task in tasks]
        for length, found in zip(shorter, made, strict=True):
            steps, parity = found.model.steps, found.model.parity
            self.longest.steps += [Step(f"{length} tokens: {step.name}", step.seconds, step.peak_bytes) for step in steps]
            self.longest.parity |= {f"{length} tokens: {hop}": compared for hop, compared in parity.items()}
            self.models[length] = found

    def _exported(self, length: int) -> _Shorter:
        work = self.work / f"length_{length}"
        work.mkdir()
        rows = _at_length(self.held_out, length, work / "held_out")
        samples = _at_length(self.calibration_rows, length, work / "rows") if self.calibration_rows else None
        try:
            made = bridge.from_checkpoint(self.source.path, rows, self.bridge, length, work, self.worker)
            bridge.check_source(self.source, made, rows, work, self.worker)
            return _Shorter(made, self.worker.run(same_names, self.longest.path, made.path).value, samples)
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
            found: dict[str, Path | None] = {"samples": shorter.samples, "calibration": None}
            if calibration is not None:
                found["calibration"] = work / "calibration"
                carry_calibration(calibration, shorter.names, work / "calibration")
            form = carry_form(plan.form, shorter.names) if plan.form else None
            chosen = replace(settings, form=form, trial=None, expected=None)
            quantize(shorter.model.path, scheme, files[length], **found, settings=chosen, worker=self.worker)
        target = self.work / f"{scheme.name}_lengths.tflite"
        self.worker.run(merge, files, target, origin=f"{self.source.name}, {scheme.name}")
        self.added[scheme.name] = target.stat().st_size - file.stat().st_size
        return target


def _free_memory() -> int:
    """Bytes that new processes can have without swapping; 0 where the system does not tell."""
    with suppress(OSError, IndexError, ValueError):
        return int(Path("/proc/meminfo").read_text(encoding="utf-8").split("MemAvailable:")[1].split()[0]) * 1024
    return 0


def judge(found: Lengths, scheme: str, max_drop: float | None) -> str | None:
    """Why a file may not be published by what its signatures give, or None; `max_drop` None judges no decisions."""
    for figures in found.by_length:
        other = figures.same_decision.total - figures.same_decision.count
        if scheme == "float32" and figures.max_rel_difference > FLOAT32_TOLERANCE:
            return (
                f"signature {figures.signature} differs from {found.by_length[-1].signature} by {figures.max_rel_difference:.2g} "
                f"relative on {figures.rows} rows, {FLOAT32_TOLERANCE:g} is allowed; leave --sequence-lengths out"
            )
        # One row of few is chance.
        if max_drop is not None and other > max(1.0, max_drop * figures.rows):
            return (
                f"signature {figures.signature} decides otherwise than {found.by_length[-1].signature} on {other} of "
                f"{figures.rows} rows, --max-drop allows {100 * max_drop:.1f} %; leave --sequence-lengths out"
            )
    return None


def rows_for(samples: Samples, length: int) -> tuple[Samples, bool]:
    """Rows whose tokens fit `length`, as wide as they were; or, where they are too few, others without what is beyond it."""
    masks = samples.inputs[MASK]
    fitting = [index for index in range(len(samples)) if needed(masks[index])[0] <= length]
    if len(fitting) >= min(_LEAST_ROWS, len(samples)):
        return samples.take(fitting[:_MOST_ROWS]), False
    few = samples.take(range(min(_LEAST_ROWS, len(samples))))
    mask = np.array(few.inputs[MASK])
    for row in mask:
        if needed(row)[1]:
            row[length:] = 0
        else:
            row[: row.size - length] = 0
    return Samples({**few.inputs, MASK: mask}, few.labels), True


def _at_length(folder: Path, length: int, target: Path) -> Path:
    """The saved rows that fit `length`, no wider than that."""
    rows = _narrow(rows_for(Samples.load(folder), length)[0], length)
    rows.save(target)
    return target


def _narrow(rows: Samples, length: int) -> Samples:
    sides = [needed(mask)[1] for mask in rows.inputs[MASK]]
    parts = [cut(row, length, right=right) for row, right in zip(rows, sides, strict=True)]
    return Samples({name: np.concatenate([part[name] for part in parts]) for name in rows.inputs}, rows.labels)


def run_each(file: Path, reference: Path, held_out: Path, lengths: Iterable[int], threads: int) -> tuple[LengthFigures, ...]:
    """Each signature on the saved rows that fit it, against the longest one and against float32 `reference`; in a worker child.

    Raises `ConversionError` for values that are not finite, and what `Model` raises.
    """
    model, base = load(file, threads=threads), Model(reference, threads=threads)
    if not isinstance(model, LengthsModel):
        raise ConversionError(f"{file.name}: has not the signatures that it was merged of; leave --sequence-lengths out")
    longest = model.models[model.longest]
    samples = Samples.load(held_out)
    found = []
    for length in lengths:
        rows, was_cut = rows_for(samples, length)
        own, wide, expected = [], [], []
        started = time.perf_counter()
        for row, short in zip(rows, _narrow(rows, length), strict=True):
            own.append(_first(model.models[length].run(_taken(model.models[length], short))))
            wide.append(own[-1] if length == model.longest else _first(longest.run(_taken(longest, row))))
            expected.append(_first(base.run(_taken(base, row))))
            if len(own) >= _LEAST_ROWS and time.perf_counter() - started > _SECONDS:
                break
        outputs, at_longest = np.concatenate(own), np.concatenate(wide)
        if not np.isfinite(outputs).all():
            raise ConversionError(f"{file.name}: signature {key(length)} gives values that are not finite; choose another scheme")
        difference = compare(outputs, at_longest)
        found.append(
            LengthFigures(
                length=length,
                signature=key(length),
                rows=len(own),
                cut=was_cut,
                agreement=agreement(outputs, np.concatenate(expected)),
                same_decision=agreement(outputs, at_longest),
                max_abs_difference=difference.max_abs,
                max_rel_difference=difference.max_rel,
                p50_ms=_p50_ms(model.models[length]),
            )
        )
    return tuple(found)


def _taken(model: Model, row: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.array(row[name]) for name in model.signature.input_names}


def _first(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    return next(iter(outputs.values()))


def _p50_ms(model: Model) -> float:
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
