"""Quantization-aware models with tfmot's 8-bit scheme: wrapped, their ranges settled by calibration. Needs TensorFlow.

Scheme: B. Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
CVPR 2018 (arXiv 1712.05877)."""

import contextlib
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.samples import Array
from edgekit.errors import ConversionError

_CALIBRATION_BATCH = 32


def quantize_aware(model: Any, source: Path, scheme: Any = None) -> Any:
    """A copy of a Keras model whose layers simulate int8 weights and activations; `scheme` is tfmot's, 8 bits by default.

    Raises `ConversionError` naming the layer that the scheme does not know."""
    import tensorflow_model_optimization as tfmot

    quantization = tfmot.quantization.keras
    try:
        annotated = quantization.quantize_annotate_model(model)
        with quantization.quantize_scope():
            return quantization.quantize_apply(annotated, *([scheme] if scheme is not None else []))
    except Exception as error:  # tfmot raises RuntimeError and ValueError alike, keras whatever its layers do
        raise ConversionError(f"{source}: {_reason(error)}") from error


def calibrate(model: Any, rows: Array) -> None:
    """Settle every range of a quantization-aware model on `rows` (N, ...), before training or instead of it.

    Without it all ranges begin at [-6, 6] and their moving average, which keeps 0.999 of itself at each step, would take
    thousands of steps to reach those of the data. An activation's range is the mean over batches of their extremes,
    which is where the moving average would end; a weight's is its own."""
    with _observers() as seen:
        for start in range(0, len(rows), _CALIBRATION_BATCH):
            model(np.asarray(rows[start : start + _CALIBRATION_BATCH]), training=False)
    for lowest, highest, extremes, average in seen.values():
        low, high = np.mean(extremes, axis=0) if average else (np.min(extremes), np.max(extremes))
        lowest.assign(low)
        highest.assign(high)


@contextlib.contextmanager
def _observers() -> Iterator[dict[int, tuple[Any, Any, list[tuple[float, float]], bool]]]:
    """While it is open, activations pass as they are and their extremes are kept by variable; weights set their own ranges."""
    import tensorflow as tf
    from tensorflow_model_optimization.python.core.quantization.keras import quant_ops

    seen: dict[int, tuple[Any, Any, list[tuple[float, float]], bool]] = {}

    def observe(average: bool, inputs: Any, min_var: Any, max_var: Any, **settings: Any) -> Any:
        # Zero has to be exact in every range.
        extremes = min(float(tf.reduce_min(inputs)), 0.0), max(float(tf.reduce_max(inputs)), 0.0)
        seen.setdefault(id(min_var), (min_var, max_var, [], average))[2].append(extremes)
        return inputs

    originals = {name: getattr(quant_ops, name) for name in ("MovingAvgQuantize", "AllValuesQuantize", "LastValueQuantize")}

    def settle(*arguments: Any, **settings: Any) -> Any:
        return originals["LastValueQuantize"](*arguments, **{**settings, "is_training": True})

    for name, function in zip(originals, (partial(observe, True), partial(observe, False), settle), strict=True):
        setattr(quant_ops, name, function)
    try:
        yield seen
    finally:
        for name, function in originals.items():
            setattr(quant_ops, name, function)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if match := re.search(r"Layer (\S+?):<class '([\w.]+)'> is not supported", text):
        kind = match[2].rpartition(".")[2]
        why = " that follows no convolution" if kind == "BatchNormalization" else ""
        cannot = f"cannot quantize layer {match[1]}, a {kind}{why}"
    else:
        cannot = f"cannot wrap it ({text[:200]})"
    return f"quantization-aware training {cannot}; use post-training int8 (edgekit convert)"
