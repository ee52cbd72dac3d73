"""How far one set of float outputs lies from another: between frameworks, hop by hop. Pure numpy."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgekit.errors import ParityError

FLOAT32_TOLERANCE = 1e-3
# Of the largest value: what varies less is held against this, since float32's own rounding grows with the values.
_LEAST_SPREAD = 1e-2


@dataclass(frozen=True)
class Parity:
    """Outputs of `rows` rows against a reference's.

    `max_abs` is the largest absolute difference, `max_rel` that over the reference's largest distance from its mean over the
    rows: an offset that all rows share must not hide an error. `output` names the one that is farthest off, of several."""

    max_abs: float
    max_rel: float
    rows: int
    output: str = ""


def compare(outputs: np.ndarray, reference: np.ndarray, output: str = "") -> Parity:
    """Compare float arrays of the same shape (N, ...), rows first.

    Raises `ParityError` if the shapes differ, there is no row, or a value is not finite."""
    outputs, reference = np.asarray(outputs, np.float64), np.asarray(reference, np.float64)
    if outputs.shape != reference.shape:
        raise ParityError(
            f"outputs of shape {outputs.shape} against a reference of {reference.shape}; check the model's output order and layout"
        )
    if outputs.ndim == 0 or outputs.size == 0:
        raise ParityError("no output to compare; give at least one row")
    for name, array in (("output", outputs), ("reference", reference)):
        if not np.isfinite(array).all():
            row = int(np.argwhere(~np.isfinite(array))[0][0])
            raise ParityError(f"the {name} of row {row} is not finite; check the model's weights and the representative data")
    largest = float(np.abs(reference).max())
    spread = float(np.abs(reference - reference.mean(axis=0)).max()) if len(reference) > 1 else largest
    max_abs = float(np.abs(outputs - reference).max())
    scale = max(spread, _LEAST_SPREAD * largest)
    relative = max_abs / scale if scale > 0 else float("inf") if max_abs > 0 else 0.0
    return Parity(max_abs, relative, len(outputs), output)


def compare_all(outputs: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> Parity:
    """The output that is farthest off, of those of the reference. Raises `ParityError` as `compare` does."""
    if missing := [name for name in reference if name not in outputs]:
        raise ParityError(f"no output {missing[0]} among {', '.join(outputs) or 'none'}; check the model's outputs")
    parities = [compare(outputs[name], values, name) for name, values in reference.items()]
    if not parities:
        raise ParityError("no output to compare; give a model that computes something")
    return max(parities, key=lambda parity: parity.max_rel)


def require(parity: Parity, hop: str, tolerance: float = FLOAT32_TOLERANCE) -> None:
    """Raise `ParityError` naming `hop` unless values agree within `tolerance` (relative)."""
    if parity.max_rel > tolerance:
        raise ParityError(
            f"{hop}: outputs differ by {parity.max_rel:.2g} relative ({parity.max_abs:.2g} absolute) on {parity.rows} rows, "
            f"{tolerance:g} is allowed; report the model or take another road to the .tflite"
        )
