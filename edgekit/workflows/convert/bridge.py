"""Any source to one float32 .tflite: the part of the straight line that all schemes share."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.samples import Samples
from edgekit.errors import ConfigError, ModelFormatError
from edgekit.models import checkpoint, keras2
from edgekit.models.linear8 import refuse_quantized
from edgekit.spec import TensorSpec, path_of
from edgekit.stages.export.litert import export_litert
from edgekit.stages.export.module import PARITY_ROWS, first
from edgekit.stages.export.narrow import narrow
from edgekit.stages.export.onnx import comparable, export_onnx, run_onnx, stacked
from edgekit.stages.export.saved_model import SavedModelExport, export_saved_model
from edgekit.stages.quantize.converter import convert_float, reference_outputs, write_trained
from edgekit.stages.quantize.soften import soften_masks
from edgekit.system.worker import Outcome, Worker
from edgekit.tasks.parity import Parity, compare, require
from edgekit.tflite import flatbuffer, lengths, signatures
from edgekit.tflite.interpreter import Model

_LAST_HOP = "SavedModel to float32 .tflite"
TOKEN_INPUTS = ("input_ids", "attention_mask")


class Kind(enum.StrEnum):
    """What a model reference turns out to be."""

    CHECKPOINT = "checkpoint"
    ONNX = "onnx"
    SAVED_MODEL = "saved-model"
    KERAS = "keras"
    TFLITE = "tflite"


class Bridge(enum.StrEnum):
    """The road from a checkpoint to TensorFlow Lite: through ONNX and a SavedModel, or through litert-torch."""

    ONNX = "onnx"
    LITERT = "litert"


@dataclass(frozen=True)
class Source:
    """A model to convert; `name` is what its files will be called after."""

    kind: Kind
    path: Path
    name: str


@dataclass(frozen=True)
class Step:
    """One child's work: wall seconds and peak resident bytes."""

    name: str
    seconds: float
    peak_bytes: int


@dataclass
class FloatModel:
    """The float32 .tflite and how it came about.

    `parity` holds each hop's comparison, `mask` the value that stands for minus infinity where one was replaced,
    `made_by` the packages on the way, `reference` the source's own outputs on the held-out rows: .npy of the first, a
    folder of all, or a .tflite to run.
    `onnx` is an ONNX source with its free axes fixed, and `channels_last` its inputs whose channels moved to the last axis.
    """

    path: Path
    made_by: tuple[str, ...] = ()
    parity: dict[str, Parity] = field(default_factory=dict)
    mask: float | None = None
    steps: list[Step] = field(default_factory=list)
    reference: Path | None = None
    onnx: Path | None = None
    channels_last: tuple[str, ...] = ()

    def note(self, name: str, outcome: Outcome[Any]) -> None:
        self.steps.append(Step(name, outcome.seconds, outcome.peak_bytes))


_KERAS_3 = ".keras"
_SUFFIXES = {".onnx": Kind.ONNX, ".h5": Kind.KERAS, ".tflite": Kind.TFLITE}


def classify(reference: str) -> Source:
    """What `reference` is: a checkpoint folder, package:NAME, hub id, .onnx, SavedModel folder, Keras-2 .h5 or float .tflite.

    Raises `CheckpointError` if nothing is found and `ModelFormatError` if a file is of another kind.
    """
    path = path_of(reference)
    if path.is_dir() and (path / "saved_model.pb").is_file():
        return Source(Kind.SAVED_MODEL, path.resolve(), path.resolve().name)
    suffix = path.suffix.lower()
    if suffix in _SUFFIXES:
        if not path.is_file():
            raise ModelFormatError(f"{reference}: no such file; check the path")
        return Source(_SUFFIXES[suffix], path.resolve(), path.stem)
    if suffix == _KERAS_3 and path.is_file():
        raise keras2.keras_3(reference)
    if path.is_file():
        raise ModelFormatError(
            f"{reference}: not a model that edgekit reads; give a checkpoint folder, a hub id, .onnx, SavedModel, .h5 or .tflite"
        )
    folder = checkpoint.resolve(reference).resolve()
    refuse_quantized(folder, checkpoint.read_config(folder), "converted")
    name = folder.name if path.is_dir() else reference.removeprefix(checkpoint.PACKAGE).split("/")[-1]
    return Source(Kind.CHECKPOINT, folder, name)


def brings(reference: str) -> tuple[str, ...]:
    """Schemes that a source has a file of its own for: int8 of a Keras model that was trained quantization-aware.

    Raises `ModelFormatError` for an .h5 that is no HDF5 file.
    """
    path = path_of(reference)
    trained = path.suffix.lower() == ".h5" and path.is_file() and keras2.is_quantization_aware(path)
    return ("int8",) if trained else ()


def own_file(source: Source, made: FloatModel, work: Path, worker: Worker) -> Path:
    """The int8 .tflite with the ranges that `source` was trained with. Raises `ModelFormatError` and `ConversionError`."""
    target = work / "trained.tflite"
    made.note("trained ranges to int8 .tflite", worker.run(write_trained, source.path, target))
    return target


def token_specs(max_length: int, *, pairs: bool) -> tuple[TensorSpec, ...]:
    """Inputs of a checkpoint's .tflite; segments are an input only where the data has pairs of texts."""
    names = (*TOKEN_INPUTS, "token_type_ids") if pairs else TOKEN_INPUTS
    return tuple(TensorSpec(name, (1, max_length), "int32") for name in names)


def from_checkpoint(folder: Path, held_out: Path, bridge: Bridge, max_length: int, work: Path, worker: Worker) -> FloatModel:
    """A checkpoint as a float32 .tflite, compared with PyTorch on the saved held-out rows.

    Raises `CheckpointError`, `ConversionError` and `WorkerError`.
    """
    made = FloatModel(work / "float32.tflite", reference=work / "reference.npy")
    reference = work / "reference.npy"
    if bridge is Bridge.LITERT:
        made.made_by = ("litert-torch",)
        made.note("litert-torch", worker.run(export_litert, folder, held_out, made.path, reference))
    else:
        made.made_by = ("torch", "onnx2tf", "tensorflow")
        onnx_file, saved = work / "model.onnx", work / "saved_model"
        exported = worker.run(export_onnx, folder, held_out, onnx_file, reference)
        made.note("PyTorch to ONNX", exported)
        made.parity["PyTorch to ONNX"], made.mask = exported.value.parity, exported.value.mask
        hop = worker.run(export_saved_model, onnx_file, held_out, saved, foreign=False, max_length=max_length, shapes={})
        _to_tflite(made, folder, saved, hop, max_length, worker)
    refine(made, held_out, worker)
    return made


def refine(made: FloatModel, held_out: Path | None, worker: Worker) -> None:
    """Have the float32 .tflite compute no more than it has to, and its masks be such as integers can represent.

    The masks need rows to try values on, and are left alone without `held_out` or where an earlier hop has seen to them.
    """
    refined = worker.run(_refined, made.path, held_out if made.mask is None else None)
    made.note("narrow, soften masks", refined)
    made.mask = made.mask if refined.value is None else refined.value


def _refined(path: Path, held_out: Path | None) -> float | None:
    narrow(path)
    return soften_masks(path, held_out) if held_out is not None else None


def from_file(source: Source, max_length: int, shapes: Mapping[str, Sequence[int]], work: Path, worker: Worker) -> FloatModel:
    """An .onnx, SavedModel, .h5 or .tflite as a float32 .tflite: `refine` it once there is data, and compare it by `check_source`.

    Raises `ModelFormatError`, `ConversionError` and `WorkerError`.
    """
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
        made.made_by = ("onnx2tf", "tensorflow")
        saved = work / "saved_model"
        hop = worker.run(export_saved_model, source.path, None, saved, foreign=True, max_length=max_length, shapes=shapes)
        made.onnx, made.channels_last = hop.value.fixed, hop.value.channels_last
        _to_tflite(made, source.path, saved, hop, max_length, worker)
    else:
        made.made_by = ("tensorflow",)
        made.note(_LAST_HOP, worker.run(convert_float, source.path, made.path, max_length))
    return made


def check_source(source: Source, made: FloatModel, held_out: Path, work: Path, worker: Worker) -> None:
    """Compare every output of the float32 .tflite with what it was made from, on the saved rows. Raises `ParityError`."""
    if source.kind in (Kind.SAVED_MODEL, Kind.KERAS):
        made.reference = work / "reference"
        worker.run(reference_outputs, source.path, held_out, made.reference, PARITY_ROWS)
    hop = f"{source.kind} to float32 .tflite"
    outcome = worker.run(compare_outputs, source, made, held_out)
    made.note("compare with the source", outcome)
    if not (compared := outcome.value):
        raise ModelFormatError(f"{source.path}: computes nothing, it has no outputs; give a model with some")
    made.parity[hop] = max(compared.values(), key=lambda parity: parity.max_rel)
    for name, parity in compared.items():
        require(parity, f"{source.path}: {hop}, output {name}")


def _to_tflite(
    made: FloatModel, origin: Path, saved: Path, hop: Outcome[SavedModelExport], max_length: int, worker: Worker
) -> None:
    made.note("ONNX to SavedModel", hop)
    if hop.value.parity is not None:
        made.parity["ONNX to SavedModel"] = hop.value.parity
    names, order = hop.value.names, hop.value.outputs
    outcome = worker.run(convert_float, saved, made.path, max_length, names=names, outputs=order, origin=origin)
    made.note(_LAST_HOP, outcome)


def compare_outputs(source: Source, made: FloatModel, held_out: Path) -> dict[str, Parity]:
    """Each output of the .tflite against the source's on the saved rows, by name; in a worker child."""
    samples = Samples.load(held_out)
    samples = first(samples, PARITY_ROWS)
    found = _outputs(made.path, samples, source.path)
    if made.onnx is not None:
        reference = run_onnx(made.onnx, samples, channels_last=made.channels_last, origin=source.path)
        references = dict(zip(found, reference, strict=True))
    elif source.kind is Kind.CHECKPOINT:
        references = {next(iter(found)): np.load(made.reference or "")[: len(samples)]}
    elif source.kind is Kind.TFLITE:
        references = _outputs(made.reference or source.path, samples, source.path)
    else:
        references = dict(Samples.load(made.reference or Path()).inputs)
    return {name: compare(*comparable(found[name], references[name])) for name in references}


def _outputs(file: Path, samples: Samples, origin: Path) -> dict[str, np.ndarray]:
    """Each output of a .tflite on all rows, by name."""
    model = Model(file)
    rows = [model.run(row) for row in samples]
    return {
        spec.name: stacked([row[spec.name] for row in rows], f"{origin}: output {spec.name}") for spec in model.signature.outputs
    }


def _check_float(path: Path) -> None:
    file = flatbuffer.read(path)
    if several := lengths.by_length(file):
        told = ",".join(map(str, several))
        raise ModelFormatError(f"{path}: has several sequence lengths; convert its checkpoint with --sequence-lengths {told}")
    quantized = sorted(
        {tensor.dtype for graph in file.subgraphs for tensor in graph.tensors if tensor.scale is not None or tensor.scales}
    )
    if quantized:
        raise ModelFormatError(
            f"{path}: is quantized already ({', '.join(quantized)}); give the float32 file that it was made from"
        )
