"""Any source to one float32 .tflite: the part of the straight line that all schemes share."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import checkpoint
from edgekit.data.samples import Samples, random_samples
from edgekit.errors import ConfigError, ModelFormatError
from edgekit.export.litert import export_litert
from edgekit.export.onnx import export_onnx, run_onnx
from edgekit.export.saved_model import export_saved_model, like
from edgekit.measure.benchmark import outputs
from edgekit.parity import Parity, compare, require
from edgekit.quantize.converter import convert_float, reference_outputs
from edgekit.quantize.masks import soften_masks
from edgekit.spec import TensorSpec
from edgekit.tflite import flatbuffer, signatures
from edgekit.worker import Outcome, Worker

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
    `made_by` the packages on the way, `reference` the source's own outputs (.npy) on the held-out rows where they are there.
    """

    path: Path
    made_by: tuple[str, ...] = ()
    parity: dict[str, Parity] = field(default_factory=dict)
    mask: float | None = None
    steps: list[Step] = field(default_factory=list)
    reference: Path | None = None

    def note(self, name: str, outcome: Outcome[Any]) -> None:
        self.steps.append(Step(name, outcome.seconds, outcome.peak_bytes))


_SUFFIXES = {".onnx": Kind.ONNX, ".h5": Kind.KERAS, ".tflite": Kind.TFLITE}


def classify(reference: str) -> Source:
    """What `reference` is: a checkpoint folder, package:NAME, hub id, .onnx, SavedModel folder, Keras-2 .h5 or float .tflite.

    Raises `CheckpointError` if nothing is found and `ModelFormatError` if a file is of another kind.
    """
    path = Path(reference).expanduser()
    if path.is_dir() and (path / "saved_model.pb").is_file():
        return Source(Kind.SAVED_MODEL, path.resolve(), path.resolve().name)
    suffix = path.suffix.lower()
    if suffix in _SUFFIXES:
        if not path.is_file():
            raise ModelFormatError(f"{reference}: no such file; check the path")
        return Source(_SUFFIXES[suffix], path.resolve(), path.stem)
    if path.is_file():
        raise ModelFormatError(
            f"{reference}: not a model that edgekit reads; give a checkpoint folder, a hub id, .onnx, SavedModel, .h5 or .tflite"
        )
    folder = checkpoint.resolve(reference).resolve()
    checkpoint.read_config(folder)
    name = folder.name if path.is_dir() else reference.removeprefix(checkpoint.PACKAGE).split("/")[-1]
    return Source(Kind.CHECKPOINT, folder, name)


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
        names = _through_tensorflow(made, onnx_file, held_out, saved, worker, max_length, simplify=False, shapes={})
        _to_tflite(made, saved, names, max_length, worker)
    if made.mask is None:
        made.mask = worker.run(soften_masks, made.path, held_out).value
    return made


def from_file(source: Source, max_length: int, shapes: Mapping[str, Sequence[int]], work: Path, worker: Worker) -> FloatModel:
    """An .onnx, SavedModel, .h5 or .tflite as a float32 .tflite; compare it with `check_source` once there is data.

    Raises `ModelFormatError`, `ConversionError` and `WorkerError`.
    """
    made = FloatModel(work / "float32.tflite")
    if shapes and source.kind is not Kind.ONNX:
        raise ConfigError(f"{source.path}: --input-shape is for .onnx sources; leave it out")
    if source.kind is Kind.TFLITE:
        _check_float(source.path)
        made.path.write_bytes(signatures.add_signature(source.path.read_bytes(), origin=str(source.path)))
        return made
    names: Mapping[str, str] = {}
    saved = source.path
    if source.kind is Kind.ONNX:
        made.made_by = ("onnx2tf", "tensorflow")
        saved = work / "saved_model"
        names = _through_tensorflow(made, source.path, None, saved, worker, max_length, simplify=True, shapes=shapes)
    else:
        made.made_by = ("tensorflow",)
    _to_tflite(made, saved, names, max_length, worker)
    return made


def check_source(source: Source, made: FloatModel, held_out: Path, work: Path, worker: Worker) -> None:
    """Compare the float32 .tflite with what it was made from, on the saved rows. Raises `ParityError`."""
    reference = work / "reference.npy"
    if source.kind is Kind.ONNX:
        worker.run(_onnx_outputs, source.path, held_out, reference)
    elif source.kind in (Kind.SAVED_MODEL, Kind.KERAS):
        worker.run(reference_outputs, source.path, held_out, reference)
    if source.kind is not Kind.TFLITE:
        made.reference = reference
    if made.reference is not None:
        found = outputs(made.path, held_out)
        parity = compare(found, like(np.load(made.reference), found.shape))
        made.parity[f"{source.kind} to float32 .tflite"] = parity
        require(parity, f"{source.kind} to float32 .tflite")


def example_rows(inputs: Sequence[TensorSpec], count: int, seed: int) -> Samples:
    """Rows for comparing two forms of a model when the user gave no data; token masks keep at least their first token."""
    samples = random_samples(inputs, count, seed)
    if "attention_mask" in samples.inputs:
        samples.inputs["attention_mask"][:, 0] = 1
    return samples


def _through_tensorflow(
    made: FloatModel,
    onnx_file: Path,
    held_out: Path | None,
    saved: Path,
    worker: Worker,
    max_length: int,
    *,
    simplify: bool,
    shapes: Mapping[str, Sequence[int]],
) -> Mapping[str, str]:
    outcome = worker.run(export_saved_model, onnx_file, held_out, saved, simplify=simplify, max_length=max_length, shapes=shapes)
    made.note("ONNX to SavedModel", outcome)
    made.parity["ONNX to SavedModel"] = outcome.value.parity
    return outcome.value.names


def _to_tflite(made: FloatModel, saved: Path, names: Mapping[str, str], max_length: int, worker: Worker) -> None:
    made.note("SavedModel to float32 .tflite", worker.run(convert_float, saved, made.path, names, max_length))


def _onnx_outputs(path: Path, samples_folder: Path, target: Path) -> None:
    np.save(target, run_onnx(path, Samples.load(samples_folder)))


def _check_float(path: Path) -> None:
    file = flatbuffer.read(path)
    quantized = sorted(
        {tensor.dtype for graph in file.subgraphs for tensor in graph.tensors if tensor.scale is not None or tensor.scales}
    )
    if quantized:
        raise ModelFormatError(
            f"{path}: is quantized already ({', '.join(quantized)}); give the float32 file that it was made from"
        )
