"""The ranges that quantization-aware training leaves beside a checkpoint's weights, for conversion to int8 to take up."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import CheckpointError
from edgekit.models.checkpoint import weight_files
from edgekit.system import artifacts

RANGES = "quantization_ranges.json"
BITS = 8
SCHEME = "activations per tensor, asymmetric; weights per output channel, symmetric, -127 to 127"


@dataclass(frozen=True)
class LayerRanges:
    """Least and greatest value of what goes into a linear layer and of what comes out, and the digests of its own constants.

    The digests are those of `digest`, by which the layer is found again in a graph that knows no module names.
    """

    input: tuple[float, float]
    output: tuple[float, float]
    weight_sha256: str
    bias_sha256: str


@dataclass(frozen=True)
class TrainedRanges:
    """The ranges of each linear layer by its module name."""

    layers: Mapping[str, LayerRanges]


def digest(values: np.ndarray | None) -> str:
    """Hex digest of float32 values and their shape, weights as (outputs, inputs), a bias as (outputs,).

    Empty for no values and for zeros alone: converters drop and add biases of zeros.
    """
    if values is None or not values.any():
        return ""
    found = np.ascontiguousarray(values, np.float32)
    return hashlib.sha256(str(found.shape).encode() + found.tobytes()).hexdigest()


def write(folder: Path, ranges: TrainedRanges) -> None:
    """Into an unpublished checkpoint folder that holds the weights already."""
    told = {"bits": BITS, "scheme": SCHEME, "weights_sha256": _weights(folder), "layers": ranges.layers}
    (folder / RANGES).write_text(artifacts.to_json(told) + "\n", encoding="utf-8")


def read(folder: Path) -> tuple[TrainedRanges | None, str]:
    """The ranges in a checkpoint folder, and a note for the user where there are some of other weights, which are not used.

    Raises `CheckpointError` for a file that edgekit did not write.
    """
    file = folder / RANGES
    if not file.is_file():
        return None, ""
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        known = (told["bits"], told["scheme"]) == (BITS, SCHEME)
        weights, layers = str(told["weights_sha256"]), {str(name): _layer(found) for name, found in told["layers"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{file}: holds no ranges that edgekit wrote; remove it, or train with --qat again") from None
    if not known:
        return None, f"{RANGES} is of another kind of quantization ({told['bits']} bits, {told['scheme']}): ranges are calibrated"
    if weights != _weights(folder):
        return None, f"{RANGES} belongs to other weights than the checkpoint's: ranges are calibrated; train with --qat again"
    return TrainedRanges(layers), ""


def _layer(found: Any) -> LayerRanges:
    return LayerRanges(_ends(found["input"]), _ends(found["output"]), str(found["weight_sha256"]), str(found["bias_sha256"]))


def _ends(found: Any) -> tuple[float, float]:
    low, high = (float(end) for end in found)
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError
    return low, high


def _weights(folder: Path) -> str:
    """One digest for all weight files of a checkpoint."""
    return hashlib.sha256("".join(artifacts.sha256(file) for file in weight_files(folder)).encode()).hexdigest()
