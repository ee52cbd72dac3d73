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
# Candidates within this share of rows of the best one's agreement count as equally true, and speed decides.
_TOLERANCE = 0.02
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
    """What a file computes in: ops by dtype (`integer`, `floating`: op name to count), why, and what was tried."""

    made_by: str
    chosen: str
    reason: str
    integer: dict[str, int] = field(default_factory=dict)
    floating: dict[str, int] = field(default_factory=dict)
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

    Integer schemes need `samples` (a folder of saved calibration rows) and `calibration` (from `quantizer.calibrate`).
    Raises `ConfigError` for an interface that the scheme does not have, `ConversionError`, and `WorkerError`.
    """
    worker = worker or Worker()
    for option, dtype in (("--inputs", inputs), ("--outputs", outputs)):
        if dtype not in _INTERFACE:
            raise ConfigError(f"{option} {dtype}: unknown; choose from {', '.join(_INTERFACE)}")
    if scheme.name == "float32":
        return _plan(model, "the bridge", "float32", "no quantization asked for")
    if scheme.name == "float16":
        worker.run(quantizer.write_float16, model, target)
        return _plan(target, "edgekit", "float16 weights", "each large constant stored in half precision, computed in float32")
    if scheme.name == "dynamic":
        worker.run(quantizer.write_dynamic, model, target)
        reason = "int8 weights in matrix products and tables; DEPTHWISE_CONV_2D stays float32, its dynamic form is not delegated"
        return _plan(target, "ai-edge-quantizer", "int8 weights", reason)
    if samples is None or calibration is None:
        raise ConfigError(f"scheme {scheme.name} calibrates on real samples; give --representative-data")
    bits = 16 if scheme.activations == "int16" else 8
    # No delegate runs int16 activations, so partitions decide nothing there and all of it becomes integer.
    names = ("every op",) if bits == 16 else ("every op", "matrix products")
    files = {name: target.with_name(f"{target.stem}.candidate{index}.tflite") for index, name in enumerate(names)}
    tried: list[Candidate] = []
    for name, file in files.items():
        try:
            worker.run(quantizer.write_integer, model, calibration, file, bits, name == "matrix products", inputs, outputs)
            tried.append(replace(worker.run(try_candidate, model, file, samples).value, name=name))
        except ConfigError:
            raise
        except EdgekitError as error:
            tried.append(Candidate(name, failure=error.message))
    chosen, reason = choose(tried)
    files[chosen.name].replace(target)
    for file in files.values():
        file.unlink(missing_ok=True)
    return replace(_plan(target, "ai-edge-quantizer", chosen.name, reason), candidates=tuple(tried))


def choose(tried: Sequence[Candidate]) -> tuple[Candidate, str]:
    """The fastest candidate among those as true to float32 as the best, and why.

    Raises `RefusedError` with each one's failure if none runs.
    """
    running = [candidate for candidate in tried if candidate.failure is None]
    if not running:
        raise RefusedError(f"no integer form of the model runs: {tried[0].failure}; choose dynamic or float16")
    best = max(candidate.agreement for candidate in running)
    chosen = min((c for c in running if c.agreement >= best - _TOLERANCE), key=lambda c: c.p50_ms)
    others = [c for c in tried if c is not chosen]
    if not others:
        return chosen, "the only form there is"
    told = [
        f"integers in {c.name} do not run ({c.failure})"
        if c.failure
        else f"integers in {c.name}: {c.agreement:.1%} agreement, {c.p50_ms:.2f} ms, {c.partitions} partitions"
        for c in others
    ]
    own = f"{chosen.agreement:.1%} agreement with float32, {chosen.p50_ms:.2f} ms, {chosen.partitions} partitions"
    return chosen, f"{own}; {'; '.join(told)}"


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


def _first(outputs: dict[str, np.ndarray]) -> np.ndarray:
    return next(iter(outputs.values()))


def _plan(file: Path, made_by: str, chosen: str, reason: str) -> QuantizationPlan:
    """Count the ops of `file` that take or give integers as activations, and those that compute in float."""
    integer: Counter[str] = Counter()
    floating: Counter[str] = Counter()
    for graph in flatbuffer.read(file).subgraphs:
        for operator in graph.operators:
            activations = [
                graph.tensors[i] for i in (*operator.inputs, *operator.outputs) if i >= 0 and not graph.tensors[i].data_bytes
            ]
            if any(tensor.dtype.startswith("float") for tensor in activations):
                floating[operator.name] += 1
            elif any(tensor.scale is not None for tensor in activations):
                integer[operator.name] += 1
    return QuantizationPlan(made_by, chosen, reason, dict(integer), dict(floating))
