"""What a model reference turns out to be."""

import enum
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import ModelFormatError
from edgekit.models import keras2, refusals
from edgekit.models.checkpoint import PACKAGE, Checkpoint, check_name, resolve
from edgekit.models.linear8 import refuse_quantized
from edgekit.spec import path_of


class Kind(enum.StrEnum):
    """What a model reference turns out to be."""

    CHECKPOINT = "checkpoint"
    ONNX = "onnx"
    SAVED_MODEL = "saved-model"
    KERAS = "keras"
    KERAS_3 = "keras-3"
    PROGRAM = "torch-program"
    TFLITE = "tflite"


@dataclass(frozen=True)
class Source:
    """A model to convert; `name` is what its files will be called after, `checkpoint` what was read of one."""

    kind: Kind
    path: Path
    name: str
    checkpoint: Checkpoint | None = None


SUFFIXES = {".onnx": Kind.ONNX, ".h5": Kind.KERAS, ".keras": Kind.KERAS_3, ".pt2": Kind.PROGRAM, ".tflite": Kind.TFLITE}


def classify(reference: str, task: str | None = None) -> Source:
    """What `reference` is: a checkpoint folder, package:NAME, hub id, or an .onnx, SavedModel, .keras, .h5, .pt2 or float .tflite.

    `task` is what a checkpoint is for, where its head is not to tell. Raises `CheckpointError` if nothing is found,
    `ModelFormatError` if a file is of another kind, and `ConfigError` for a task that is not known."""
    path = path_of(reference)
    check_name(path)
    if path.is_dir() and (path / "saved_model.pb").is_file():
        return Source(Kind.SAVED_MODEL, path.resolve(), path.resolve().name)
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        if not path.is_file():
            raise ModelFormatError(f"{reference}: no such file; check the path")
        return Source(SUFFIXES[suffix], path.resolve(), path.stem)
    if path.is_file():
        refusals.refuse_file(path)
        raise ModelFormatError(
            f"{reference}: not a model that edgekit reads; give a checkpoint folder, a hub id, .onnx, SavedModel, .keras, .h5, "
            ".pt2 or .tflite"
        )
    checkpoint = Checkpoint.read(resolve(reference).resolve(), task)
    refuse_quantized(checkpoint.path, checkpoint.config, "converted")
    name = checkpoint.path.name if path.is_dir() else reference.removeprefix(PACKAGE).split("/")[-1]
    return Source(Kind.CHECKPOINT, checkpoint.path, name, checkpoint)


def brings(reference: str) -> tuple[str, ...]:
    """Schemes that a source has a file of its own for: int8 of a Keras model that was trained quantization-aware.

    Raises `ModelFormatError` for an .h5 that is no HDF5 file."""
    path = path_of(reference)
    trained = path.suffix.lower() == ".h5" and path.is_file() and keras2.is_quantization_aware(path)
    return ("int8",) if trained else ()
