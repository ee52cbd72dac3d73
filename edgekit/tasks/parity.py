"""How far one set of outputs lies from another: between frameworks, between a scheme and float32. Pure numpy."""

from dataclasses import dataclass

import numpy as np

from edgekit.errors import ParityError

FLOAT32_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Parity:
    """Outputs of `rows` rows against a reference's.

    `max_abs` is the largest absolute difference, `max_rel` that over the reference's largest absolute value.
    `same_argmax` is the share of decisions (over the last axis) that are equal. `margin` is the widest lead, relative as
    `max_rel` is, that the reference gave its own choice in a decision that differs: 0 where none does.
    """

    max_abs: float
    max_rel: float
    same_argmax: float
    margin: float
    rows: int


def compare(outputs: np.ndarray, reference: np.ndarray) -> Parity:
    """Compare float arrays of the same shape (N, ...), rows first.

    Raises `ParityError` if the shapes differ, there is no row, or a value is not finite.
    """
    outputs, reference = _pair(outputs, reference)
    scale = float(np.abs(reference).max())
    max_abs = float(np.abs(outputs - reference).max())
    chosen = outputs.argmax(axis=-1)
    lead = reference.max(axis=-1) - np.take_along_axis(reference, chosen[..., None], axis=-1)[..., 0]
    return Parity(
        max_abs=max_abs,
        max_rel=_ratio(max_abs, scale),
        same_argmax=float((chosen == reference.argmax(axis=-1)).mean()),
        margin=_ratio(float(lead.max()), scale),
        rows=len(outputs),
    )


def require(parity: Parity, hop: str, tolerance: float = FLOAT32_TOLERANCE) -> None:
    """Raise `ParityError` naming `hop` unless values agree within `tolerance` (relative) and so do the decisions.

    A decision that differs where the reference's lead is within `tolerance` is a tie, not a disagreement.
    """
    if parity.max_rel > tolerance:
        raise ParityError(
            f"{hop}: outputs differ by {parity.max_rel:.2g} relative ({parity.max_abs:.2g} absolute) on {parity.rows} rows, "
            f"{tolerance:g} is allowed; report the model or take another road to the .tflite"
        )
    if parity.margin > tolerance:
        raise ParityError(
            f"{hop}: {1 - parity.same_argmax:.1%} of {parity.rows} rows get another class, "
            f"by a lead of up to {parity.margin:.2g} relative; report the model or take another road to the .tflite"
        )


def sqnr_db(outputs: np.ndarray, reference: np.ndarray) -> float:
    """Signal-to-quantization-noise ratio in dB, 10 log10(sum reference^2 / sum (reference - outputs)^2); inf where they are equal.

    Raises `ParityError` as `compare` does.
    """
    outputs, reference = _pair(outputs, reference)
    noise = float(np.square(reference - outputs).sum())
    signal = float(np.square(reference).sum())
    if noise == 0:
        return float("inf")
    return 10 * float(np.log10(signal / noise)) if signal > 0 else float("-inf")


def _pair(outputs: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
    # One value per row is one class: the decision is trivially the same and the values alone are compared.
    return (outputs[:, None], reference[:, None]) if outputs.ndim == 1 else (outputs, reference)


def _ratio(value: float, scale: float) -> float:
    if value == 0:
        return 0.0
    return value / scale if scale > 0 else float("inf")
