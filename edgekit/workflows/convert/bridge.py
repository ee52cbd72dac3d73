"""Any source to one float32 .tflite: the part of the straight line that all schemes share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edgekit.data.samples import Samples
from edgekit.errors import ConfigError, ModelFormatError
from edgekit.models.checkpoint import Checkpoint
from edgekit.models.source import Kind, Source
from edgekit.stages.export.litert import export_litert
from edgekit.stages.export.module import PARITY_ROWS, first
from edgekit.stages.export.narrow import narrow
from edgekit.stages.export.onnx import comparable, export_onnx, run_onnx, stacked
from edgekit.stages.export.saved_model import SavedModelExport, export_saved_model
from edgekit.stages.quantize.converter import convert_float, reference_outputs
from edgekit.stages.quantize.soften import soften_masks
from edgekit.system.worker import Worker
from edgekit.tasks.parity import Parity, compare, require
from edgekit.tflite import flatbuffer, lengths, signatures
from edgekit.tflite.interpreter import Model
from edgekit.workflows.convert.config import Bridge

T = TypeVar("T")
Shapes = Mapping[str, Sequence[int]]
_LAST_HOP = "SavedModel to float32 .tflite"


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
    `onnx` is an ONNX source with its free axes fixed, and `channels_last` its inputs whose channels moved to the last axis."""

    path: Path
    made_by: tuple[str, ...] = ()
    parity: dict[str, Parity] = field(default_factory=dict)
    mask: float | None = None
    steps: list[Step] = field(default_factory=list)
    reference: Path | None = None
    onnx: Path | None = None
    channels_last: tuple[str, ...] = ()

    def run(self, name: str, worker: Worker, work: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """What `work` gives in a child, which is noted as the step `name`."""
        outcome = worker.run(work, *arguments, **options)
        self.steps.append(Step(name, outcome.seconds, outcome.peak_bytes))
        return outcome.value


def from_checkpoint(
    checkpoint: Checkpoint, held_out: Path, bridge: Bridge, max_length: int, work: Path, worker: Worker
) -> FloatModel:
    """A checkpoint as a float32 .tflite, compared with PyTorch on the saved held-out rows.

    Raises `CheckpointError`, `ConversionError` and `WorkerError`."""
    reference = work / "reference"
    made = FloatModel(work / "float32.tflite", reference=reference)
    if bridge is Bridge.LITERT:
        made.made_by = ("litert-torch",)
        made.run("litert-torch", worker, export_litert, checkpoint, held_out, made.path, reference)
    else:
        onnx_file = work / "model.onnx"
        exported = made.run("PyTorch to ONNX", worker, export_onnx, checkpoint, held_out, onnx_file, reference)
        made.parity["PyTorch to ONNX"], made.mask = exported.parity, exported.mask
        _by_saved_model(made, onnx_file, checkpoint.path, held_out, max_length, {}, work, worker)
        made.made_by = ("torch", *made.made_by)
    refine(made, held_out, worker)
    return made


def refine(made: FloatModel, held_out: Path | None, worker: Worker) -> None:
    """Have the float32 .tflite compute no more than it has to, and its masks be such as integers can represent.

    The masks need rows to try values on, and are left alone without `held_out` or where an earlier hop has seen to them."""
    mask = made.run("narrow, soften masks", worker, _refined, made.path, held_out if made.mask is None else None)
    made.mask = made.mask if mask is None else mask


def _refined(path: Path, held_out: Path | None) -> float | None:
    narrow(path)
    return soften_masks(path, held_out) if held_out is not None else None


def from_file(source: Source, max_length: int, shapes: Shapes, work: Path, worker: Worker) -> FloatModel:
    """An .onnx, SavedModel, .h5 or .tflite as a float32 .tflite: `refine` it once there is data, and compare it by `check_source`.

    Raises `ModelFormatError`, `ConversionError` and `WorkerError`."""
    made = FloatModel(work / "float32.tflite")
    if shapes and source.kind is not Kind.ONNX:
        raise ConfigError(f"{source.path}: --input-shape is for .onnx sources; leave it out")
    if source.kind is Kind.TFLITE:
        _check_float(source.path)
        content = signatures.add_signature(source.path.read_bytes(), origin=str(source.path))
        made.reference = work / "source.tflite"
        for file in (made.path, made.reference):
            file.write_bytes(content)
        return made
    if source.kind is Kind.ONNX:
        hop = _by_saved_model(made, source.path, source.path, None, max_length, shapes, work, worker)
        made.onnx, made.channels_last = hop.fixed, hop.channels_last
    else:
        made.made_by = ("tensorflow",)
        made.run(_LAST_HOP, worker, convert_float, source.path, made.path, max_length)
    return made


def check_source(source: Source, made: FloatModel, held_out: Path, work: Path, worker: Worker) -> None:
    """Compare every output of the float32 .tflite with what it was made from, on the saved rows. Raises `ParityError`."""
    if source.kind in (Kind.SAVED_MODEL, Kind.KERAS):
        made.reference = work / "reference"
        worker.run(reference_outputs, source.path, held_out, made.reference, PARITY_ROWS)
    hop = f"{source.kind} to float32 .tflite"
    parity = made.run("compare with the source", worker, compare_outputs, source, made, held_out)
    if parity is None:
        raise ModelFormatError(f"{source.path}: computes nothing, it has no outputs; give a model with some")
    made.parity[hop] = parity
    require(parity, f"{source.path}: {hop}, output {parity.output}")


def _by_saved_model(
    made: FloatModel, onnx: Path, origin: Path, held_out: Path | None, max_length: int, shapes: Shapes, work: Path, worker: Worker
) -> SavedModelExport:
    """`onnx` as the float32 .tflite; it is a foreign one where there are no rows yet."""
    made.made_by, saved = ("onnx2tf", "tensorflow"), work / "saved_model"
    options: dict[str, Any] = {"foreign": held_out is None, "max_length": max_length, "shapes": shapes}
    hop = made.run("ONNX to SavedModel", worker, export_saved_model, onnx, held_out, saved, **options)
    if hop.parity is not None:
        made.parity["ONNX to SavedModel"] = hop.parity
    options = {"names": hop.names, "inputs": hop.inputs, "outputs": hop.outputs, "origin": origin}
    made.run(_LAST_HOP, worker, convert_float, saved, made.path, max_length, **options)
    return hop


def compare_outputs(source: Source, made: FloatModel, held_out: Path) -> Parity | None:
    """The .tflite's output that is farthest from the source's on the saved rows, None without outputs; in a worker child."""
    samples = first(Samples.load(held_out))
    outputs = _outputs(made.path, samples, source.path)
    if made.onnx is not None:
        values = run_onnx(made.onnx, samples, channels_last=made.channels_last, origin=source.path).values()
        references = dict(zip(outputs, values, strict=True))
    elif source.kind is Kind.TFLITE:
        references = _outputs(made.reference or source.path, samples, source.path)
    else:
        references = dict(Samples.load(made.reference or Path()).inputs)
    pairs = {name: (outputs[name], values[: len(samples)]) for name, values in references.items()}
    if source.kind is not Kind.CHECKPOINT:
        # TensorFlow may have moved channels, but not those of our own exports.
        pairs = {name: comparable(outputs[name], values) for name, values in references.items()}
    parities = [compare(*pair, name) for name, pair in pairs.items()]
    return max(parities, key=lambda parity: parity.max_rel, default=None)


def _outputs(file: Path, samples: Samples, origin: Path) -> dict[str, np.ndarray]:
    model = Model(file)
    rows = [model.run(row) for row in samples]
    return {
        spec.name: stacked([row[spec.name] for row in rows], f"{origin}: output {spec.name}") for spec in model.signature.outputs
    }


def _check_float(path: Path) -> None:
    file = flatbuffer.read(path)
    if several := lengths.by_length(file):
        listed = ",".join(map(str, several))
        raise ModelFormatError(f"{path}: has several sequence lengths; convert its checkpoint with --sequence-lengths {listed}")
    tensors = (tensor for graph in file.subgraphs for tensor in graph.tensors)
    if dtypes := sorted({tensor.dtype for tensor in tensors if tensor.scale is not None or tensor.scales}):
        raise ModelFormatError(f"{path}: is quantized already ({', '.join(dtypes)}); give the float32 file that it was made from")
