"""The ranges that quantization-aware training leaves beside a checkpoint's weights, for conversion to int8 to take up."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.errors import CheckpointError
from edgekit.models.weights import weight_files
from edgekit.system import artifacts, serial
from edgekit.system.serial import read_json

RANGES = "quantization_ranges.json"
BITS = 8
SCHEME = "activations per tensor, asymmetric; weights per output channel, symmetric, -127 to 127"


@dataclass(frozen=True)
class LayerRanges:
    """Least and greatest value of what goes into a linear layer and of what comes out, and the `digest` of its own constants.

    By these the layer is recognized in a graph that knows no module names."""

    input: tuple[float, float]
    output: tuple[float, float]
    weight_sha256: str
    bias_sha256: str

    def __post_init__(self) -> None:
        if not all(low <= high for low, high in (self.input, self.output)):
            raise ValueError(f"ranges {self.input} and {self.output} do not go upwards")


@dataclass(frozen=True)
class TrainedRanges:
    """The ranges of each linear layer by its module name."""

    layers: Mapping[str, LayerRanges]


@dataclass(frozen=True)
class _Stored(TrainedRanges):
    """The file: the same with the kind of quantization and the digest of the weights that they are of."""

    bits: int
    scheme: str
    weights_sha256: str


def digest(values: np.ndarray | None) -> str:
    """Hex digest of float32 values and their shape, weights as (outputs, inputs), a bias as (outputs,).

    Empty for no values and for zeros alone: converters drop and add biases of zeros."""
    if values is None or not values.any():
        return ""
    exact = np.ascontiguousarray(values, np.float32)
    return hashlib.sha256(str(exact.shape).encode() + exact.tobytes()).hexdigest()


def write(folder: Path, ranges: TrainedRanges) -> None:
    """Into an unpublished checkpoint folder that holds the weights already."""
    stored = _Stored(ranges.layers, BITS, SCHEME, _weights(folder))
    (folder / RANGES).write_text(serial.to_json(stored) + "\n", encoding="utf-8")


def read(folder: Path) -> tuple[TrainedRanges | None, str]:
    """The ranges in a checkpoint folder, and a note for the user where there are some of other weights, which are not used.

    Raises `CheckpointError` for a file that edgekit did not write."""
    file = folder / RANGES
    if not file.is_file():
        return None, ""
    try:
        stored = serial.read(_Stored, read_json(file))
    except (OSError, ValueError):
        raise CheckpointError(f"{file}: holds no ranges that edgekit wrote; remove it, or train with --qat again") from None
    if (stored.bits, stored.scheme) != (BITS, SCHEME):
        return None, f"{RANGES} is of another kind of quantization ({stored.bits} bits, {stored.scheme}): ranges are calibrated"
    if stored.weights_sha256 != _weights(folder):
        return None, f"{RANGES} belongs to other weights than the checkpoint's: ranges are calibrated; train with --qat again"
    return TrainedRanges(stored.layers), ""


def _weights(folder: Path) -> str:
    """One digest for all weight files of a checkpoint."""
    return hashlib.sha256("".join(artifacts.sha256(file) for file in weight_files(folder)).encode()).hexdigest()
