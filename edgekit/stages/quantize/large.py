"""Constants at which ai-edge-quantizer stops: weights of more than 32 MiB with more than two axes (its issues 472 and 512), and
those of several axes that have the scale of what they are concatenated to."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

_LARGE = 32 * 2**20  # bytes from which ai-edge-quantizer works in pieces


@contextlib.contextmanager
def large_weights() -> Iterator[None]:
    """While it lasts, large weights are handed to ai-edge-quantizer's own function as a matrix, a row for each scale.

    It works through tensors above 32 MiB in pieces of a matrix, and fits the scales to that only where it was one before. One scale
    for all of a constant, which it gives an axis too many, has the constant's own number of axes."""
    from ai_edge_quantizer.algorithms.uniform_quantize import uniform_quantize_tensor as module

    own = module.uniform_quantize

    def quantize(tensor_data: np.ndarray, quantization_params: Any, is_blockwise_quant: bool = False) -> np.ndarray:
        axis, rows = quantization_params.quantized_dimension, quantization_params.scale.size
        if rows == 1 and axis is None:
            ends = {name: getattr(quantization_params, name).reshape([1] * tensor_data.ndim) for name in ("scale", "zero_point")}
            quantization_params = replace(quantization_params, **ends)
        by_row = rows > 1 and axis is not None
        if tensor_data.ndim < 3 or tensor_data.nbytes <= _LARGE or is_blockwise_quant or (rows > 1 and not by_row):
            return own(tensor_data, quantization_params, is_blockwise_quant)
        moved = np.moveaxis(tensor_data, axis, 0) if by_row else tensor_data
        matrix = replace(
            quantization_params,
            scale=quantization_params.scale.reshape(-1, 1),
            zero_point=quantization_params.zero_point.reshape(-1, 1),
            quantized_dimension=0,
        )
        flat = moved.reshape(moved.shape[0], -1) if by_row else moved.reshape(-1, moved.shape[-1])
        quantized = own(flat, matrix).reshape(moved.shape)
        return np.moveaxis(quantized, 0, axis) if by_row else quantized

    module.uniform_quantize = quantize
    try:
        yield
    finally:
        module.uniform_quantize = own
