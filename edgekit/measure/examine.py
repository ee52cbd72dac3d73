"""Why a quantized file is wrong or slow: its layers against the float file's, the causes, and what the delegate leaves out."""

import dataclasses
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.data.samples import Samples
from edgekit.errors import DatasetError, EdgekitError, InputError, ModelFormatError, RefusedError, WorkerCrashed
from edgekit.measure import causes
from edgekit.measure.causes import Finding
from edgekit.measure.judge import aligned
from edgekit.measure.layer_errors import Layer, layer_errors, worst_first
from edgekit.measure.op_times import Outside, outside
from edgekit.stages.export.simplify import simplify
from edgekit.stages.quantize.candidates import time_in_turns
from edgekit.system import rooms
from edgekit.system.worker import OnProgress, Worker, stage
from edgekit.tasks.judgement import MOST_DB, Judgement, OutputError, judge
from edgekit.tflite import flatbuffer
from edgekit.tflite.flatbuffer import ModelFile, Subgraph


@dataclass(frozen=True)
class Speed:
    """Median milliseconds of both files, taken in turns, and what the delegate leaves out of the examined one.

    The ops' times and shares are estimates: each op was run by itself. `delegated_ms` is what is left of the total."""

    p50_ms: float
    reference_p50_ms: float
    delegated_ms: float
    split: Outside


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong with `file` against the float file `against` on `rows` rows; `layers` are the worst first.

    `agreement` is the share of its task's decisions that are the same, None where it decides nothing; `error_db` is that of the
    worst of `outputs`, see `tasks.judgement.OutputError`, which are empty where its values mean nothing.
    `failure` says why the file could not be run, and then only what its scales tell is known."""

    file: str
    against: str
    data: str
    rows: int
    threads: int
    agreement: float | None
    error_db: float | None
    findings: tuple[Finding, ...]
    layers: tuple[Layer, ...]
    unmatched_ops: int
    speed: Speed | None
    failure: str | None = None
    notes: tuple[str, ...] = field(default=())
    outputs: tuple[OutputError, ...] = ()


def check(file: Path, against: Path) -> None:
    """Raise `ModelFormatError` if one is no .tflite file or `against` is quantized, `InputError` if their inputs differ."""
    examined, reference = flatbuffer.read(file), flatbuffer.read(against)
    if any(tensor.scales and not tensor.data_bytes for tensor in _graph(reference).tensors) or _hybrid(_graph(reference)):
        raise ModelFormatError(f"{against}: is quantized itself; give the float32 file that {file.name} was made of")
    takes, other = ({spec.name: spec.shape for spec in model.signature(model.entry()).inputs} for model in (examined, reference))
    if takes != other:
        raise InputError(
            f"{file}: takes {_described(takes)}, {against.name} takes {_described(other)}; give the float file of the same model"
        )


def diagnose(
    file: Path, against: Path, samples_folder: Path, *, data: str = "", threads: int = 2, on_progress: OnProgress = None
) -> Diagnosis:
    """Compare `file` with the float32 `against` on the saved rows, layer by layer, and say what is wrong and why it is slow.

    A file that crashes or stops is diagnosed by its scales, with the reason in `failure`. Raises what `check` raises,
    `DatasetError` if there are no rows, and the error of `against` if that is what does not run."""
    check(file, against)
    samples = Samples.load(samples_folder)
    rows = samples.row_count()
    if rows == 0:
        raise DatasetError("the data set has no rows; give at least one")
    worker = Worker(on_progress=on_progress)
    graph = _graph(flatbuffer.read(file))
    known = Diagnosis(str(file), str(against), data, rows, threads, None, None, (), (), 0, None)
    try:
        errors = worker.run(layer_errors, file, against, samples_folder, threads).value
    except (WorkerCrashed, ModelFormatError) as error:
        # If the float file is what fails, this raises its own error.
        worker.run(_runs, against, samples_folder, threads)
        crashed = isinstance(error, WorkerCrashed)
        reason = f"{file}: the interpreter crashes when it loads or runs it" if crashed else error.message
        return dataclasses.replace(known, findings=tuple(causes.of_scales(graph)), failure=reason)
    notes = []
    try:
        reference = aligned(errors.outputs, errors.reference)
        if reference is None:
            raise InputError(f"{file}: has other outputs than {against.name}; give the float file of the same model")
        judgement = judge(errors.outputs, samples, reference)
    except RefusedError as refused:
        judgement = Judgement(rows)
        notes.append(refused.message)
    worst = -MOST_DB if judgement.error_db is None else judgement.error_db
    called = {layer.place: layer.name for layer in errors.layers}
    findings = [*causes.of_scales(graph, called), *causes.of_layers(graph, errors.layers, worst)]
    try:
        with rooms.temporary("diagnose") as room:
            simplified = Path(room) / "simplified.tflite"
            shutil.copyfile(against, simplified)
            worker.run(simplify, simplified)
            speed, simplified_ms = _speed(worker, file, against, simplified, samples_folder, threads)
            ops, fewer = (Counter(op.name for op in _graph(flatbuffer.read(path)).operators) for path in (against, simplified))
        findings += causes.of_speed(graph, speed.split, speed.p50_ms, speed.reference_p50_ms)
        findings += causes.of_rewrites(ops, fewer, simplified_ms / speed.reference_p50_ms)
    except EdgekitError as error:
        speed = None
        notes.append(f"times could not be taken ({error.message})")
    if errors.unmatched:
        notes.append(f"{errors.unmatched} quantized ops have no counterpart in {against.name} and are not judged")
    return dataclasses.replace(
        known,
        agreement=judgement.agreement.value if judgement.agreement else None,
        error_db=worst,
        outputs=judgement.outputs,
        findings=tuple(findings),
        layers=worst_first(errors.layers),
        unmatched_ops=errors.unmatched,
        speed=speed,
        notes=tuple(notes),
    )


def _speed(worker: Worker, file: Path, against: Path, simplified: Path, samples_folder: Path, threads: int) -> tuple[Speed, float]:
    """Of `file` and `against`, and the median of `simplified`."""
    with stage(worker.on_progress, "diagnose: times"):
        medians = worker.run(time_in_turns, [file, against, simplified], samples_folder).value
    split = worker.run(outside, file, threads).value
    total = medians[file]
    timed = tuple(dataclasses.replace(one, share=one.total_ms / total if total > 0 else 0.0) for one in split.outside)
    delegated = max(0.0, total - sum(one.total_ms for one in timed))
    return Speed(total, medians[against], delegated, dataclasses.replace(split, outside=timed)), medians[simplified]


def _runs(file: Path, samples_folder: Path, threads: int) -> None:
    from edgekit.tflite.interpreter import Model

    Model(file, threads=threads).run(next(iter(Samples.load(samples_folder))))


def _graph(model: ModelFile) -> Subgraph:
    return model.subgraphs[model.entry().subgraph]


def _hybrid(graph: Subgraph) -> bool:
    """Whether weights are stored as integers, as dynamic range has them."""
    return any(tensor.scales and tensor.data_bytes and "int" in tensor.dtype for tensor in graph.tensors)


def _described(inputs: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in inputs.items()) or "nothing"
