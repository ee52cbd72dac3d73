"""Any source to one float32 .tflite: the part of the straight line that all schemes share."""

import importlib.util
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edgekit.data.samples import Samples
from edgekit.errors import ConfigError, ConversionError, ModelFormatError, RefusedError, UnsupportedOpError, WorkerError
from edgekit.models.checkpoint import Checkpoint
from edgekit.models.source import Kind, Source
from edgekit.models.weights import weight_files
from edgekit.stages.export import layout
from edgekit.stages.export.direct import ENVIRONMENT, KEEPING_MEMORY, VERSION, export_direct
from edgekit.stages.export.incoming import AS_IT_IS, Ends, Fixes
from edgekit.stages.export.litert import export_litert
from edgekit.stages.export.module import PARITY_ROWS
from edgekit.stages.export.onnx import comparable, export_onnx, run_onnx, stacked
from edgekit.stages.export.program import program_outputs, program_to_litert, program_to_onnx
from edgekit.stages.export.saved_model import export_saved_model
from edgekit.stages.export.simplify import simplify
from edgekit.stages.quantize.converter import convert_float, reference_outputs
from edgekit.stages.quantize.soften import soften_masks
from edgekit.system.worker import OnProgress, Progress, Worker, stage
from edgekit.tasks import table as tasks
from edgekit.tasks.parity import Parity, compare, require
from edgekit.tflite import flatbuffer, lengths, signatures
from edgekit.tflite.batches import by_batch, groups
from edgekit.tflite.interpreter import Model
from edgekit.workflows.convert.config import Bridge

T = TypeVar("T")
_LAST_HOP = "SavedModel to float32 .tflite"
# Checkpoints that are larger go by litert first: as quick, it takes some 4 times the weights' bytes in memory, `direct` 10 times.
_LARGE_BYTES = 200 * 2**20
# The best first.
ROADS = {
    Kind.CHECKPOINT: (Bridge.DIRECT, Bridge.LITERT, Bridge.TF),
    Kind.ONNX: (Bridge.DIRECT, Bridge.TF),
    # The road through a SavedModel would move the channels of its inputs and outputs.
    Kind.PROGRAM: (Bridge.LITERT, Bridge.DIRECT),
}


@dataclass(frozen=True)
class Step:
    """One child's work: wall seconds and peak resident bytes."""

    name: str
    seconds: float
    peak_bytes: int


@dataclass
class FloatModel:
    """The float32 .tflite and how it came about.

    `parity` holds each hop's comparison, `mask` the value that stands for minus infinity where one was replaced, `made_by` the
    packages on the way, `reference` the source's own outputs on the held-out rows: a folder of all by name, or a .tflite to run.
    `onnx` has the ends of an ONNX source. The inputs `channels_first` have their channels on axis 1 in the source, and last in the
    file. `road` was taken, and `failed_roads` say why others before it did not lead there."""

    path: Path
    made_by: tuple[str, ...] = ()
    parity: dict[str, Parity] = field(default_factory=dict)
    mask: float | None = None
    steps: list[Step] = field(default_factory=list)
    reference: Path | None = None
    onnx: Ends | None = None
    channels_first: tuple[str, ...] = ()
    road: Bridge = Bridge.AUTO
    failed_roads: Mapping[str, str] = field(default_factory=dict)

    def run(self, name: str, worker: Worker, work: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """What `work` gives in a child, which is noted as the step `name`."""
        with stage(worker.on_progress, name):
            outcome = worker.run(work, *arguments, **options)
        self.steps.append(Step(name, outcome.seconds, outcome.peak_bytes))
        return outcome.value


def fitting(kind: Kind, path: Path, bridge: Bridge) -> tuple[Bridge, ...]:
    """The roads to try, the best first; AUTO alone for a source that is converted in one way.

    Raises `ConfigError` for a road that is not installed or not for such a source."""
    known = ROADS.get(kind, ())
    if bridge is Bridge.AUTO:
        lacking = {road: _lacking(road) for road in known}
        if known and all(lacking.values()):
            needs = ", or ".join(f"--bridge {road} needs {what}" for road, what in lacking.items())
            raise ConfigError(f"{path}: {needs}")
        if kind is Kind.CHECKPOINT and sum(file.stat().st_size for file in weight_files(path)) > _LARGE_BYTES:
            known = tuple(sorted(known, key=lambda road: road is not Bridge.LITERT))
        return tuple(road for road in known if lacking[road] is None) or (bridge,)
    if bridge not in known:
        advice = f"give {' or '.join(known)}" if known else "leave it out"
        raise ConfigError(f"{path}: --bridge {bridge} is not for {kind}; {advice}")
    if missing := _lacking(bridge):
        raise ConfigError(f"{path}: --bridge {bridge} needs {missing}")
    return (bridge,)


def _lacking(road: Bridge) -> str | None:
    """What the user has to install for it."""
    if road is Bridge.DIRECT and ENVIRONMENT.python is None:
        return f"onnx2tf 2, which is not installed; run {ENVIRONMENT.setup}"
    if road is Bridge.LITERT and importlib.util.find_spec("litert_torch") is None:
        return "litert-torch, which is not installed; install edgekit[litert]"
    return None


def by_first(
    kind: Kind,
    path: Path,
    bridge: Bridge,
    make: Callable[[Bridge, Path], tuple[FloatModel, T]],
    work: Path,
    on_progress: OnProgress,
) -> tuple[FloatModel, T]:
    """What `make` gives by the first road that leads there, each with a room of its own in `work`.

    A road that fails is told, and left for the next. Raises what `make` does; one error for all roads where each of them fails."""
    failed: dict[str, str] = {}
    roads = fitting(kind, path, bridge)
    for road in roads:
        room = work / f"by_{road}"
        room.mkdir()
        try:
            made, rest = make(road, room)
        except RefusedError:
            # The source's own fault, and not the road's.
            raise
        except (ConversionError, WorkerError) as error:
            # A file that was made on the way tells a user nothing.
            failed[road] = cause = re.sub(rf"^({re.escape(str(path))}|{re.escape(str(room))}/\S+): ", "", error.message)
            if road is roads[-1]:
                raise type(error)(_no_road(kind, path, bridge, failed), error.detail) from error
            if on_progress is not None:
                on_progress(Progress("convert", 0, 0, f"--bridge {road} does not lead there ({cause}); going on without it"))
            shutil.rmtree(room, ignore_errors=True)
        else:
            made.road, made.failed_roads = road, failed
            return made, rest
    raise AssertionError("there is always a road")


def _no_road(kind: Kind, path: Path, bridge: Bridge, failed: Mapping[str, str]) -> str:
    known = ROADS.get(kind, ())
    advice = [f"leave --bridge {bridge} out"] if bridge is not Bridge.AUTO and len(known) > 1 else []
    advice += [f"--bridge {road} needs {lacking}" for road in known if (lacking := _lacking(road)) and bridge is Bridge.AUTO]
    by_cause: dict[str, list[str]] = {}
    # What several say to do in the same words is said once.
    advices = {cause.rpartition("; ")[2] if "; " in cause else "" for cause in failed.values()}
    shared = advices.pop() if len(advices) == 1 and len(failed) > 1 else ""
    for road, cause in failed.items():
        by_cause.setdefault(cause.removesuffix(f"; {shared}"), []).append(road)
    causes = "; ".join(f"--bridge {', '.join(roads)}: {cause}" if len(by_cause) > 1 else cause for cause, roads in by_cause.items())
    return "; ".join([f"{path}: {causes}", *filter(None, [shared]), *advice])


def from_checkpoint(
    checkpoint: Checkpoint, held_out: Path, road: Bridge, max_length: int, work: Path, worker: Worker, batch: int = 1
) -> FloatModel:
    """A checkpoint as a float32 .tflite for `batch` rows at once, compared with PyTorch on the saved held-out rows: `finish` it.

    Raises `CheckpointError`, `ConversionError` and `WorkerError`."""
    made = FloatModel(work / "float32.tflite", reference=work / "reference")
    if road is Bridge.LITERT:
        made.made_by = ("litert-torch",)
        made.run("litert-torch", worker, export_litert, checkpoint, held_out, made.path, made.reference, batch)
        return made
    onnx_file = work / "model.onnx"
    # By this road masks are softened in the finished file, which takes no copy of the weights.
    options = {"soften": road is not Bridge.DIRECT, "batch": batch}
    exported = made.run("PyTorch to ONNX", worker, export_onnx, checkpoint, held_out, onnx_file, made.reference, **options)
    made.parity["PyTorch to ONNX"], made.mask = exported.parity, exported.mask
    _from_onnx(made, onnx_file, checkpoint.path, road, held_out, max_length, AS_IT_IS, work, worker)
    made.made_by = ("torch", *made.made_by)
    return made


def from_file(source: Source, road: Bridge, max_length: int, fixes: Fixes, work: Path, worker: Worker) -> FloatModel:
    """Any source but a checkpoint as a float32 .tflite: `finish` it once there is data.

    Raises `ModelFormatError`, `ConversionError` and `WorkerError`."""
    made = FloatModel(work / "float32.tflite")
    if fixes.shapes and source.kind not in (Kind.ONNX, Kind.PROGRAM):
        raise ConfigError(f"{source.path}: --input-shape is for .onnx and .pt2 sources; leave it out")
    if fixes.values and source.kind is not Kind.ONNX:
        raise ConfigError(f"{source.path}: --input-value is for .onnx sources; leave it out")
    if source.kind is Kind.TFLITE:
        _check_float(source.path)
        content = signatures.add_signature(source.path.read_bytes(), origin=str(source.path))
        made.reference = work / "source.tflite"
        for file in (made.path, made.reference):
            file.write_bytes(content)
        return made
    if source.kind is Kind.ONNX:
        made.onnx = _from_onnx(made, source.path, source.path, road, None, max_length, fixes, work, worker)
        made.channels_first = made.onnx.channels_last
    elif source.kind is Kind.PROGRAM and road is Bridge.LITERT:
        made.made_by = ("litert-torch",)
        made.run("litert-torch", worker, program_to_litert, source.path, made.path, max_length, fixes.shapes)
    elif source.kind is Kind.PROGRAM:
        onnx_file = work / "model.onnx"
        made.run("PyTorch to ONNX", worker, program_to_onnx, source.path, onnx_file, max_length, fixes.shapes)
        _from_onnx(made, onnx_file, source.path, road, None, max_length, AS_IT_IS, work, worker, keep_layout=True)
        made.made_by = ("torch", *made.made_by)
    else:
        made.made_by = ("tensorflow",)
        made.run(_LAST_HOP, worker, convert_float, source.path, made.path, max_length)
    if source.kind is Kind.PROGRAM:
        made.channels_first = worker.run(layout.take_images_channels_last, made.path).value
    return made


def finish(source: Source, made: FloatModel, held_out: Path, work: Path, worker: Worker, *, soften: bool = True) -> None:
    """Have the float32 .tflite compute no more than it has to in ops that quantize well, and compare it with what it was made from.

    Attention masks get a value that integers can represent, where `soften` says that the rows tell which ones do and no earlier
    hop has seen to it. Raises `ParityError`."""
    if source.kind in (Kind.SAVED_MODEL, Kind.KERAS, Kind.KERAS_3):
        made.reference = work / "reference"
        worker.run(reference_outputs, source.path, held_out, made.reference, PARITY_ROWS)
    if source.kind is Kind.PROGRAM:
        made.reference = work / "reference"
        file = flatbuffer.read(made.path)
        shapes = {spec.name: spec.shape for spec in file.signature(file.entry()).inputs}
        worker.run(program_outputs, source.path, held_out, made.reference, PARITY_ROWS, shapes, made.channels_first)
    hop = f"{source.kind} to float32 .tflite"
    soften = soften and made.mask is None
    mask, parity = made.run("rewrite, compare with the source", worker, _finished, source, made, held_out, soften)
    if parity is None:
        raise ModelFormatError(f"{source.path}: computes nothing, it has no outputs; give a model with some")
    made.mask = made.mask if mask is None else mask
    made.parity[hop] = parity
    require(parity, f"{source.path}: {hop}, output {parity.output}")


def _finished(source: Source, made: FloatModel, held_out: Path, soften: bool) -> tuple[float | None, Parity | None]:
    try:
        # A .tflite that was made to go on where it stopped does so.
        simplify(made.path, reset=source.kind is not Kind.TFLITE)
        mask = soften_masks(made.path, held_out) if soften else None
        return mask, compare_outputs(source, made, held_out)
    except (ModelFormatError, UnsupportedOpError) as error:
        if not error.message.startswith(start := f"{made.path}: "):
            raise
        cause = error.message.removeprefix(start)
        if not made.made_by:
            raise type(error)(f"{source.path}: {cause}") from error
        # The converter's fault, and not the source's.
        cause = cause.removesuffix("; convert it again")
        raise UnsupportedOpError(f"{source.path}: {made.made_by[-1]} makes a file of it that does not run ({cause})") from error


def _from_onnx(
    made: FloatModel,
    onnx: Path,
    origin: Path,
    road: Bridge,
    held_out: Path | None,
    max_length: int,
    fixes: Fixes,
    work: Path,
    worker: Worker,
    *,
    keep_layout: bool = False,
) -> Ends:
    """`onnx` as the float32 .tflite; it is a foreign one where there are no rows yet."""
    options: dict[str, Any] = {"foreign": held_out is None, "max_length": max_length, "fixes": fixes}
    if road is Bridge.DIRECT:
        made.made_by = (f"onnx2tf=={VERSION}",)
        elsewhere = replace(worker, python=ENVIRONMENT.python, env=KEEPING_MEMORY)
        options["keep_layout"] = keep_layout
        return made.run("ONNX to float32 .tflite", elsewhere, export_direct, onnx, made.path, **options)
    made.made_by, saved = ("onnx2tf", "tensorflow"), work / "saved_model"
    hop = made.run("ONNX to SavedModel", worker, export_saved_model, onnx, held_out, saved, **options)
    if hop.parity is not None:
        made.parity["ONNX to SavedModel"] = hop.parity
    options = {"names": hop.ends.names, "inputs": hop.ends.inputs, "outputs": hop.ends.outputs, "origin": origin}
    made.run(_LAST_HOP, worker, convert_float, saved, made.path, max_length, **options)
    return hop.ends


def compare_outputs(source: Source, made: FloatModel, held_out: Path) -> Parity | None:
    """The .tflite's output that is farthest from the source's on the saved rows, None without outputs; in a worker child.

    Outputs of a foreign source whose channels have moved though their shape does not tell are turned back first, in place."""
    samples = Samples.load(held_out).first(PARITY_ROWS)
    outputs = _outputs(made.path, samples, source.path)
    if source.kind is Kind.CHECKPOINT:
        outputs = dict(tasks.find(samples.task).without_padding(outputs, samples))
    if made.onnx is not None:
        fixed, moved = made.onnx.fixed, made.onnx.channels_last
        values = run_onnx(fixed, samples, channels_last=moved, values=made.onnx.values, origin=source.path).values()
        references = dict(zip(outputs, values, strict=True))
    elif source.kind is Kind.TFLITE:
        references = _outputs(made.reference or source.path, samples, source.path)
    else:
        references = dict(Samples.load(made.reference or Path()).inputs)
    pairs = {name: (outputs[name], values[: len(samples)]) for name, values in references.items()}
    if made.onnx is not None:
        file = flatbuffer.read(made.path)
        shapes = {spec.name: spec.shape for spec in file.signature(file.entry()).outputs}
        if turned := [name for name, pair in pairs.items() if layout.is_turned(*pair, shapes[name])]:
            layout.turn_back(made.path, turned)
            outputs = _outputs(made.path, samples, source.path)
    if source.kind is not Kind.CHECKPOINT:
        # TensorFlow may have moved channels, but not those of our own exports.
        pairs = {name: comparable(outputs[name], values) for name, values in references.items()}
    parities = [compare(*pair, name) for name, pair in pairs.items()]
    return max(parities, key=lambda parity: parity.max_rel, default=None)


def _outputs(file: Path, samples: Samples, origin: Path) -> dict[str, np.ndarray]:
    model = Model(file)
    rows = [model.run(row) for row in groups(samples.inputs, model.batch)]
    return {
        spec.name: stacked([row[spec.name] for row in rows], f"{origin}: output {spec.name}", model.batch)
        for spec in model.signature.outputs
    }


def _check_float(path: Path) -> None:
    file = flatbuffer.read(path)
    if several := lengths.by_length(file):
        listed = ",".join(map(str, several))
        raise ModelFormatError(f"{path}: has several sequence lengths; convert its checkpoint with --sequence-lengths {listed}")
    if several := by_batch(file):
        listed = ",".join(map(str, several))
        raise ModelFormatError(f"{path}: has several batch sizes; convert its checkpoint with --batch-size {listed}")
    tensors = (tensor for graph in file.subgraphs for tensor in graph.tensors)
    if dtypes := sorted({tensor.dtype for tensor in tensors if tensor.scale is not None or tensor.scales}):
        raise ModelFormatError(f"{path}: is quantized already ({', '.join(dtypes)}); give the float32 file that it was made from")
