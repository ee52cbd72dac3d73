"""Which op runs in which dtype, found by making the candidates, running them and comparing."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from edgekit.data.samples import Samples
from edgekit.errors import ConfigError, EdgekitError, RefusedError
from edgekit.quantize import quantizer
from edgekit.quantize.schemes import Scheme
from edgekit.tflite import flatbuffer
from edgekit.tflite.interpreter import Model
from edgekit.worker import Worker

# Rows a candidate is tried on: enough for a per cent or two of agreement, few enough for reference kernels.
_ROWS = 64
_SECONDS = 6.0
# Candidates are equally true to float32 within this share of rows of the best one's agreement and one bit (6 dB) of its SQNR;
# above 30 dB nothing is left to gain.
_TOLERANCE = 0.03
_BIT_DB = 6.0
_ENOUGH_DB = 30.0
# Two medians closer than this are the same on a machine that does other things too.
_SAME_SPEED = 1.1
# Runs of each file in one turn, warm after the first; turns until the time is over.
_BURST = 5
_TURNS = 12
_TIMING_SECONDS = 2.0
_EVERY, _PRODUCTS = "every op", "matrix products"
_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE", "CAST")
_INTERFACE = ("float32", "int8", "uint8")


@dataclass(frozen=True)
class Candidate:
    """One way to use integers, tried on `rows` calibration rows: agreement and SQNR (dB) with float32, p50, partitions."""

    name: str
    rows: int = 0
    agreement: float = 0.0
    sqnr_db: float = 0.0
    p50_ms: float = 0.0
    partitions: int = 0
    failure: str | None = None


@dataclass(frozen=True)
class QuantizationPlan:
    """What a file computes in, why, and what was tried; the counts are by op name.

    `integer` ops take and give integers. `floating` ops compute on float32 activations, each with its reason in `reasons`;
    `hybrid` are those among them whose weights are stored as integers. `conversions` only go from one dtype to another.
    """

    made_by: str
    chosen: str
    reason: str
    integer: dict[str, int] = field(default_factory=dict)
    floating: dict[str, int] = field(default_factory=dict)
    hybrid: dict[str, int] = field(default_factory=dict)
    conversions: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    candidates: tuple[Candidate, ...] = ()


def quantize(
    model: Path,
    scheme: Scheme,
    target: Path,
    *,
    samples: Path | None = None,
    calibration: Path | None = None,
    inputs: str = "float32",
    outputs: str = "float32",
    worker: Worker | None = None,
) -> QuantizationPlan:
    """Write float32 `model` in `scheme` to `target` (float32 is `model` itself); the plan says what was done and by what.

    Integer schemes need `samples` (a folder of saved calibration rows) and `calibration` (from `calibrate`).
    Raises `ConfigError` for an interface that the scheme does not have, `ConversionError`, and `WorkerError`.
    """
    worker = worker or Worker()
    for option, dtype in (("--inputs", inputs), ("--outputs", outputs)):
        if dtype not in _INTERFACE:
            raise ConfigError(f"{option} {dtype}: unknown; choose from {', '.join(_INTERFACE)}")
    if scheme.name == "float32":
        return _plan(model, "the bridge", "float32", "")
    if scheme.name == "float16":
        worker.run(quantizer.write_float16, model, target)
        return _plan(target, "edgekit", "float16 weights", "each large constant stored in half precision, computed in float32")
    if scheme.name == "dynamic":
        worker.run(quantizer.write_dynamic, model, calibration, target)
        reason = "int8 weights in matrix products and tables; DEPTHWISE_CONV_2D stays float32, its dynamic form is not delegated"
        if calibration is not None:
            reason += "; biases corrected on the representative data"
        plan = _plan(target, "ai-edge-quantizer", "int8 weights", reason)
        if not plan.hybrid and not plan.integer:
            raise RefusedError(f"{model.name}: has no matrix product or table with constant weights to quantize; choose float16")
        return plan
    if samples is None or calibration is None:
        raise ConfigError(f"scheme {scheme.name} calibrates on real samples; give --representative-data")
    return _integer(model, scheme, target, samples, calibration, inputs, outputs, worker)


def _integer(
    model: Path, scheme: Scheme, target: Path, samples: Path, calibration: Path, inputs: str, outputs: str, worker: Worker
) -> QuantizationPlan:
    bits = 16 if scheme.activations == "int16" else 8
    # No delegate runs int16 activations, so partitions decide nothing there and all of it becomes integer.
    forms = {_EVERY: None} if bits == 16 else {_EVERY: None, _PRODUCTS: quantizer.PRODUCTS}
    files = {name: target.with_name(f"{target.stem}.candidate{index}.tflite") for index, name in enumerate(forms)}
    tried: list[Candidate] = []
    for name, file in files.items():
        try:
            worker.run(quantizer.write_integer, model, calibration, file, bits, forms[name], inputs, outputs)
            if not _plan(file, "", name, "").integer:
                raise RefusedError(f"no op of the model has an int{bits} form")
            # One form alone leaves nothing to choose, and it is run before it is published anyway.
            found = worker.run(try_candidate, model, file, samples).value if len(forms) > 1 else Candidate(name)
            tried.append(replace(found, name=name))
        except ConfigError:
            raise
        except EdgekitError as error:
            tried.append(Candidate(name, failure=error.message))
    running = [files[candidate.name] for candidate in tried if candidate.failure is None]
    if len(running) > 1:
        medians = worker.run(time_in_turns, running, samples).value
        tried = [replace(candidate, p50_ms=medians.get(files[candidate.name], candidate.p50_ms)) for candidate in tried]
    chosen, reason = choose(tried) if len(forms) > 1 or not running else (tried[0], "")
    files[chosen.name].replace(target)
    for file in files.values():
        file.unlink(missing_ok=True)
    return replace(_plan(target, "ai-edge-quantizer", chosen.name, reason), candidates=tuple(tried) if len(forms) > 1 else ())


def choose(tried: Sequence[Candidate]) -> tuple[Candidate, str]:
    """The fastest candidate among those as true to float32 as the best, and why; of equally fast ones the first in `tried`.

    Raises `RefusedError` with each one's failure if none runs.
    """
    running = [candidate for candidate in tried if candidate.failure is None]
    if not running:
        causes = "; ".join(dict.fromkeys(candidate.failure or "" for candidate in tried))
        raise RefusedError(f"no integer form of the model runs ({causes}); choose dynamic or float16")
    agreement = max(candidate.agreement for candidate in running)
    sqnr = min(max(candidate.sqnr_db for candidate in running), _ENOUGH_DB)
    true = [
        candidate
        for candidate in running
        # One row more or less is chance, however few there are.
        if candidate.agreement >= agreement - max(_TOLERANCE, 1 / candidate.rows) and candidate.sqnr_db >= sqnr - _BIT_DB
    ] or [max(running, key=lambda candidate: (candidate.agreement, candidate.sqnr_db))]
    fastest = min(candidate.p50_ms for candidate in true)
    chosen = next(candidate for candidate in true if candidate.p50_ms <= fastest * _SAME_SPEED)
    told = [
        f"integers in {candidate.name} do not run ({candidate.failure})" if candidate.failure else _told(candidate)
        for candidate in tried
        if candidate is not chosen
    ]
    return chosen, "; ".join([_told(chosen), *told])


def _told(candidate: Candidate) -> str:
    return (
        f"integers in {candidate.name}: {candidate.agreement:.1%} agreement with float32, SQNR {candidate.sqnr_db:.1f} dB "
        f"on {candidate.rows} calibration rows, {candidate.p50_ms:.2f} ms, {candidate.partitions} partitions"
    )


def try_candidate(model: Path, file: Path, samples_folder: Path) -> Candidate:
    """Run both files on the same saved rows; stops early where one is slow. In a worker child."""
    from edgekit.parity import compare, sqnr_db

    samples = Samples.load(samples_folder)
    ours, reference = Model(file), Model(model)
    started = time.perf_counter()
    found, wanted, times = [], [], []
    for index, row in enumerate(samples):
        wanted.append(_first(reference.run(row)))
        ours.set_inputs(row)
        before = time.perf_counter()
        ours.invoke()
        times.append(time.perf_counter() - before)
        found.append(_first(ours.outputs()))
        if index + 1 == _ROWS or time.perf_counter() - started > _SECONDS:
            break
    outputs, expected = np.concatenate(found), np.concatenate(wanted)
    return Candidate(
        name="",
        rows=len(found),
        agreement=compare(outputs, expected).same_argmax,
        sqnr_db=sqnr_db(outputs, expected),
        p50_ms=float(np.median(times)) * 1e3,
        partitions=ours.partitions,
    )


def time_in_turns(files: Sequence[Path], samples_folder: Path) -> dict[Path, float]:
    """Median milliseconds of each file's inference, in short turns so that a drift of the machine hits all. In a worker child."""
    row = next(iter(Samples.load(samples_folder)))
    models = {file: Model(file) for file in files}
    times: dict[Path, list[float]] = {file: [] for file in files}
    for model in models.values():
        model.set_inputs(row)
        model.invoke()
    started = time.perf_counter()
    for turn in range(_TURNS):
        for file in files if turn % 2 else reversed(files):
            # The other file's weights are in the cache now; the first run brings back this one's.
            models[file].invoke()
            for _ in range(_BURST):
                before = time.perf_counter()
                models[file].invoke()
                times[file].append(time.perf_counter() - before)
        if time.perf_counter() - started > _TIMING_SECONDS:
            break
    return {file: float(np.median(values)) * 1e3 for file, values in times.items()}


def _first(outputs: dict[str, np.ndarray]) -> np.ndarray:
    return next(iter(outputs.values()))


def _plan(file: Path, made_by: str, chosen: str, reason: str) -> QuantizationPlan:
    """Sort the ops of `file` by what they compute in: activations decide, not weights."""
    integer: Counter[str] = Counter()
    floating: Counter[str] = Counter()
    hybrid: Counter[str] = Counter()
    conversions: Counter[str] = Counter()
    for graph in flatbuffer.read(file).subgraphs:
        for operator in graph.operators:
            tensors = [graph.tensors[index] for index in (*operator.inputs, *operator.outputs) if index >= 0]
            activations = [tensor for tensor in tensors if not tensor.data_bytes]
            if operator.name in _CONVERSIONS:
                conversions[operator.name] += 1
            elif any(tensor.dtype.startswith("float") for tensor in activations):
                floating[operator.name] += 1
                hybrid[operator.name] += any(tensor.data_bytes and tensor.scales and "int" in tensor.dtype for tensor in tensors)
            elif any(tensor.scales for tensor in activations):
                integer[operator.name] += 1
    return QuantizationPlan(
        made_by,
        chosen,
        reason,
        dict(integer),
        dict(floating),
        dict(+hybrid),
        dict(conversions),
        {name: _why_float(name, hybrid[name], chosen) for name in floating},
    )


def _why_float(name: str, hybrid: int, chosen: str) -> str:
    if chosen in ("float32", "float16 weights"):
        return f"{chosen}: computed in float32"
    if hybrid:
        return "int8 weights with float32 activations: the kernel quantizes them on the fly"
    if chosen == _EVERY:
        return "ai-edge-quantizer has no integer form of it"
    if chosen == _PRODUCTS:
        return (
            "its weights are not constant, or shared with an op that stays in float32"
            if name in quantizer.PRODUCTS
            else "float32 around the matrix products was as true and faster, see candidates"
        )
    if name == "DEPTHWISE_CONV_2D":
        return "its form with int8 weights has no XNNPACK kernel and would split the delegate"
    return "has no constant weights to store as int8"
