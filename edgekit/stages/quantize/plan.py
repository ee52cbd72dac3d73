"""Which op runs in which dtype, found by making the candidates, running them and comparing."""

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from edgekit.data.samples import Samples
from edgekit.errors import ConfigError, EdgekitError, RefusedError
from edgekit.models.ranges import TrainedRanges
from edgekit.stages.quantize import forms, quantizer
from edgekit.stages.quantize.calibrate import calibrate
from edgekit.stages.quantize.candidates import ROUNDING, Candidate, Reference, alike, choose, expect, loss, make, time_in_turns
from edgekit.stages.quantize.forms import Form
from edgekit.stages.quantize.prepare import read_graph
from edgekit.stages.quantize.rewrite import make_quantizable
from edgekit.stages.quantize.schemes import MINMAX, SEARCH_SECONDS, Scheme
from edgekit.stages.quantize.search import Found, Step, Work, search
from edgekit.stages.quantize.trained import Taken, take_ranges
from edgekit.stages.quantize.versions import state_versions
from edgekit.system import rooms
from edgekit.system.worker import Worker, together
from edgekit.tflite import flatbuffer

_EVERY, _PRODUCTS, _SEARCHED, _PLANNED = "every op", "matrix products", "the searched ops", "the plan's ops"
_VARIANCES = "every op but variances"
_NORMALIZED, _AROUND = "every op, int16 in normalizations", "every op, int16 around matrix products"
EVERY_OP = Form(_EVERY)
_THIN = "1x1 ones with few channels stay float32, where quantizing on the fly takes longer than computing"
_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE", "CAST")
_INTERFACE = ("float32", "int8", "uint8")
# What makes a file with ranges from training, and none of ours.
TRAINED = "TFLiteConverter, trained ranges"
# Below this in the worst output, or with more lost than allowed, single ops are looked into.
_QUIET_DB = 20.0


@dataclass(frozen=True)
class IntegerSettings:
    """How an int8 file is planned.

    `inputs` and `outputs` are the dtypes of its float inputs and outputs. `integer_only` leaves no float op, and calibrates the
    graph that was rewritten for it by the method `calibration`. The search for ops to leave in float takes `search_seconds` at
    most (0 is no search), allows `max_drop` of the task's metric to be lost (without labels: so many other decisions than
    float32's), and keeps its steps in `journal`.
    `form` is a plan that was found before and is to be used as it is. `ranges` were trained and go before calibrated ones.
    `trial` is a folder of saved rows that calibration did not see, to try files on; without one they are tried on those it saw.
    `expected` is a folder of what float32 gives on them, from `candidates.expect`, where that was run."""

    inputs: str = "float32"
    outputs: str = "float32"
    integer_only: bool = False
    calibration: str = MINMAX
    search_seconds: float = SEARCH_SECONDS
    max_drop: float | None = None
    journal: Path | None = None
    form: Form | None = None
    ranges: TrainedRanges | None = None
    trial: Path | None = None
    expected: Path | None = None

    def __post_init__(self) -> None:
        for option, dtype in (("--inputs", self.inputs), ("--outputs", self.outputs)):
            if dtype not in _INTERFACE:
                raise ConfigError(f"{option} {dtype}: unknown; choose from {', '.join(_INTERFACE)}")


@dataclass(frozen=True)
class QuantizationPlan:
    """What a file computes in, why, and what was tried; the counts are by op name.

    `integer` ops take and give integers. `floating` ops compute on float32 activations, each with its reason in `reasons`;
    `hybrid` are those among them whose weights are stored as integers. `conversions` only go from one dtype to another.
    `form` says it op by op, so that it can be used again; `left` are the ops that the search took out, each with the error
    (dB) that the worst output has when it alone is integer, and `steps` is all that the search ran. `trained_ranges` says which ops
    took ranges that were trained."""

    made_by: str
    chosen: str
    reason: str
    integer: dict[str, int] = field(default_factory=dict)
    floating: dict[str, int] = field(default_factory=dict)
    hybrid: dict[str, int] = field(default_factory=dict)
    conversions: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    candidates: tuple[Candidate, ...] = ()
    form: Form | None = None
    left: Mapping[str, float] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    trained_ranges: Taken | None = None


def quantize(
    model: Path,
    scheme: Scheme,
    target: Path,
    *,
    samples: Path | None = None,
    calibration: Path | None = None,
    settings: IntegerSettings | None = None,
    worker: Worker | None = None,
) -> QuantizationPlan:
    """Write float32 `model` in `scheme` to `target` (float32 is `model` itself); the plan says what was done and by what.

    Integer schemes need `samples` (a folder of saved calibration rows) and `calibration` (from `calibrate`).
    Raises `ConfigError` for an interface that the scheme does not have, `ConversionError`, and `WorkerError`."""
    worker = worker or Worker()
    if scheme.name == "float32":
        return _plan(model, "the bridge", "float32", "")
    if scheme.name == "float16":
        worker.run(quantizer.write_float16, model, target)
        return _plan(target, "edgekit", "float16 weights", "each large constant stored in half precision, computed in float32")
    if scheme.name == "dynamic":
        worker.run(quantizer.write_dynamic, model, calibration, target)
        state_versions(target)
        reason = "int8 weights in matrix products and tables; DEPTHWISE_CONV_2D stays float32, its dynamic form is not delegated"
        if calibration is not None:
            reason += "; weights rounded together and biases corrected on the representative data"
        plan = _plan(target, "ai-edge-quantizer", "int8 weights", reason)
        if not plan.hybrid and not plan.integer:
            raise RefusedError(f"{model.name}: has no matrix product or table with constant weights to quantize; choose float16")
        return plan
    if samples is None or calibration is None:
        raise ConfigError(f"scheme {scheme.name} calibrates on real samples; give --representative-data")
    bits = 16 if scheme.activations == "int16" else 8
    plan = _Integer(model, target, samples, calibration, settings or IntegerSettings(), worker).plan(bits)
    state_versions(target)
    return plan


def trained_plan(file: Path) -> QuantizationPlan:
    """The plan of an int8 file that came with its ranges, from training."""
    return _plan(file, TRAINED, "every op", "int8 as it was trained, quantization-aware")


class _Integer:
    """The making of one integer file: forms are written, run and timed, and the best becomes `target`."""

    def __init__(
        self, model: Path, target: Path, samples: Path, calibration: Path, settings: IntegerSettings, worker: Worker
    ) -> None:
        self.model, self.target, self.samples, self.calibration = model, target, samples, calibration
        self.settings, self.worker = settings, worker
        self.reference = Reference(settings.trial or samples, settings.expected or target.with_suffix(".reference"))
        self.files: dict[str, Path] = {}
        self.tried: dict[str, Candidate] = {}
        self.lost: dict[str, float] = {}
        self.unsearched = ""
        self.taken: Taken | None = None

    def plan(self, bits: int) -> QuantizationPlan:
        settings = self.settings
        if settings.integer_only:
            model, calibration = self._file("rewritten.tflite"), self._file("calibration")
            self.worker.run(make_quantizable, self.model, self.samples, model)
            self.worker.run(calibrate, model, self.samples, calibration, settings.calibration)
            self.model, self.calibration = model, calibration
        if settings.ranges is not None and bits == 8:
            calibration = self._file("trained")
            self.taken = self.worker.run(take_ranges, self.model, self.calibration, settings.ranges, calibration).value
            self.calibration = calibration
        considered = self._forms(bits)
        compared = len(considered) > 1
        for form in considered:
            self._name(form)
        if compared and settings.expected is None:
            self.worker.run(expect, self.model, self.reference)
        if settings.integer_only:
            for form in considered:
                self._try(form, run=compared)
                if not self._noisy(self.tried[form.name]):
                    break
        else:
            together([partial(self._try, form, run=compared) for form in considered])
        searched: Found | None = None
        try:
            if compared and bits == 8 and not settings.integer_only and settings.search_seconds:
                searched = self._search(considered)
            tried = [self.tried[name] for name in self.files if name in self.tried]
            if compared:
                tried = self._timed(tried)
                losing = [one.name for one in tried if one.failure is None and self._loses(one)]
                chosen, reason = choose(tried, trained=_PRODUCTS if self._trained else None, losing=losing)
            else:
                chosen, reason = (tried[0] if tried[0].failure is None else choose(tried)[0]), ""
            form = next(form for form in [*considered, *([searched.form] if searched else [])] if form.name == chosen.name)
            self.files[form.name].replace(self.target)
        finally:
            for file in self.files.values():
                file.unlink(missing_ok=True)
            if settings.expected is None:
                shutil.rmtree(self.reference.outputs, ignore_errors=True)
        floating = searched.left if searched and form is searched.form else {}
        if searched and form is searched.form:
            reason = f"{len(floating)} of {searched.considered} ops left in float, each the loudest when integer alone: {reason}"
        reason = "; ".join(part for part in (reason + self.unsearched, self.taken.told if self.taken else "") if part)
        return replace(
            _plan(self.target, "ai-edge-quantizer", form.name, reason),
            candidates=tuple(tried) if compared else (),
            form=form,
            left=floating,
            steps=searched.steps if searched else (),
            trained_ranges=self.taken,
        )

    def _forms(self, bits: int) -> list[Form]:
        if self.settings.form is not None and self.settings.form.bits == bits:
            form = replace(self.settings.form, name=_PLANNED)
            graph = read_graph(self.model)
            own = {forms.output(graph, operator) for operator in graph.operators}
            if strange := sorted((form.wide | form.floating) - own):
                raise ConfigError(
                    f"--plan: names {len(strange)} ops that the graph does not have, such as {strange[0]}; "
                    "give the --bridge and the --integer-only that it was made with, or leave --plan out"
                )
            return [form]
        # No delegate runs int16 activations, so partitions decide nothing there.
        if bits == 16:
            rough = forms.variances(read_graph(self.model))
            return [Form(_VARIANCES if rough else _EVERY, 16, floating=rough)]
        if not self.settings.integer_only:
            every, products = Form(_EVERY), Form(_PRODUCTS, ops=forms.PRODUCTS)
            # Of forms that are alike the first is taken.
            return [products, every] if self._trained else [every, products]
        graph = read_graph(self.model)
        wide = {_NORMALIZED: forms.normalizations(graph), _AROUND: forms.around_products(graph)}
        return [Form(_EVERY), *(Form(name, wide=ops) for name, ops in wide.items() if ops or name == _AROUND)]

    def _name(self, form: Form) -> Path:
        self.files[form.name] = self._file(f"candidate{len(self.files)}.tflite")
        return self.files[form.name]

    def _file(self, what: str) -> Path:
        return self.target.with_name(f"{self.target.stem}.{what}")

    @property
    def _trained(self) -> bool:
        """Whether integers in matrix products, with float32 around them, are what the weights were trained for."""
        return self.taken is not None and self.taken.whole and not self.settings.integer_only

    def _try(self, form: Form, *, run: bool) -> None:
        settings = self.settings
        write = quantizer.write_integer_only if settings.integer_only else quantizer.write_integer
        # One form alone leaves nothing to choose, and it is run before it is published anyway.
        last = settings.inputs, settings.outputs, self.reference if run else None
        try:
            self._keep(form, self.worker.run(make, write, self.model, self.calibration, self.files[form.name], form, *last).value)
        except ConfigError:
            raise
        except EdgekitError as error:
            # The file is one of many that are tried, and goes.
            cause = error.message.removeprefix(f"{self.files[form.name]}: ").removesuffix("; convert it again")
            self._keep(form, Candidate("", failure=cause))

    def _keep(self, form: Form, candidate: Candidate) -> None:
        if candidate.failure is None:
            plan = _plan(self.files[form.name], "", form.name, "")
            # What a search leaves in float keeps int8 weights.
            if not plan.integer and not (form.floating and plan.hybrid):
                candidate = replace(candidate, failure=f"no op of the model has an int{form.bits} form")
        self.tried[form.name] = replace(candidate, name=form.name)

    def _timed(self, tried: Sequence[Candidate]) -> list[Candidate]:
        """The candidates with the medians that their files have side by side."""
        running = [self.files[candidate.name] for candidate in tried if candidate.failure is None]
        medians = self.worker.run(time_in_turns, running, self.reference.rows).value if running else {}
        return [replace(one, p50_ms=medians.get(self.files[one.name], one.p50_ms)) for one in tried]

    def _noisy(self, candidate: Candidate) -> bool:
        # Weights that were trained with rounding are at their best with it: what differs from float32 is not noise alone.
        loud = candidate.error_db < _QUIET_DB and not self._trained
        return candidate.failure is not None or loud or self._loses(candidate)

    def _loses(self, candidate: Candidate) -> bool:
        """Whether it loses more than is allowed: what decides alike does not, and of the rest labels tell."""
        allowed, rows = self.settings.max_drop, self.reference.rows
        decides = candidate.agreement is not None
        if allowed is None or (decides and 1 - alike(candidate.agreement) <= allowed + ROUNDING):
            return False
        if Samples.load(rows).labels is None:
            return decides
        if candidate.name not in self.lost:
            self.lost[candidate.name] = self.worker.run(loss, self.model, self.files[candidate.name], rows).value
        return self.lost[candidate.name] > allowed + ROUNDING

    def _search(self, considered: Sequence[Form]) -> Found | None:
        """Thin out the truest form if even that is noisy; the result is one more candidate."""
        # In this order, and not in that in which they were done: of equally true ones the first is thinned out.
        running = [candidate for form in considered if (candidate := self.tried[form.name]).failure is None]
        truest = max(running, key=lambda candidate: candidate.error_db, default=None)
        if truest is None or not self._noisy(truest):
            return None
        settings = self.settings
        journal = settings.journal or self.target.with_suffix(".search.jsonl")
        work = Work(
            self.model,
            self.calibration,
            self.reference,
            next(form for form in considered if form.name == truest.name),
            journal,
            self._name(Form(_SEARCHED)),
            (settings.inputs, settings.outputs),
        )
        try:
            journal.touch()
            with rooms.writable(journal):
                found = self.worker.run(search, work, settings.search_seconds, settings.max_drop).value
        except EdgekitError as error:
            # What was tried before stands without it.
            self.unsearched = f"; the search for ops to leave in float failed ({error.message})"
            return None
        self._keep(replace(found.form, name=_SEARCHED), found.made)
        return replace(found, form=replace(found.form, name=_SEARCHED))


def _plan(file: Path, made_by: str, chosen: str, reason: str) -> QuantizationPlan:
    """Sort the ops of `file` by what they compute in: activations decide, not weights."""
    integer, floating, hybrid, conversions, thin = (Counter[str]() for _ in range(5))
    for graph in flatbuffer.read(file).subgraphs:
        thin_outputs = forms.thin_convolutions(graph)
        for operator in graph.operators:
            tensors = [graph.tensors[index] for index in (*operator.inputs, *operator.outputs) if index >= 0]
            activations = [tensor for tensor in tensors if not tensor.data_bytes]
            if operator.name in _CONVERSIONS:
                conversions[operator.name] += 1
            elif any(tensor.dtype.startswith("float") for tensor in activations):
                floating[operator.name] += 1
                thin[operator.name] += forms.output(graph, operator) in thin_outputs
                hybrid[operator.name] += any(tensor.data_bytes and tensor.scales and "int" in tensor.dtype for tensor in tensors)
            elif any(tensor.scales for tensor in activations):
                integer[operator.name] += 1
    reasons = {name: _why_float(name, hybrid[name], thin[name], chosen) for name in floating}
    counts = dict(integer), dict(floating), dict(+hybrid), dict(conversions)
    return QuantizationPlan(made_by, chosen, reason, *counts, reasons)


def _why_float(name: str, hybrid: int, thin: int, chosen: str) -> str:
    if chosen in ("float32", "float16 weights"):
        return f"{chosen}: computed in float32"
    if hybrid:
        return "int8 weights with float32 activations: the kernel quantizes them on the fly" + (f"; {_THIN}" if thin else "")
    if chosen == _VARIANCES and name in (*forms.ROOTS, *forms.STEPS):
        return "variances of tokens that differ much are too few steps of int16"
    if chosen in (_EVERY, _VARIANCES):
        return "ai-edge-quantizer has no integer form of it"
    if chosen == _PRODUCTS:
        return (
            "its weights are not constant, or shared with an op that stays in float32"
            if name in forms.PRODUCTS
            else "float32 around the matrix products was as true and faster, see candidates"
        )
    if thin:
        return _THIN
    if name == "DEPTHWISE_CONV_2D":
        return "its form with int8 weights has no XNNPACK kernel and would split the delegate"
    return "has no constant weights to store as int8"
