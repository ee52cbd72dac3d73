"""Weights of more than 32 MiB are quantized as small ones are."""

import numpy as np
import pytest
from ai_edge_quantizer import qtyping
from ai_edge_quantizer.algorithms.uniform_quantize import uniform_quantize_tensor

from edgekit.stages.quantize.large import large_weights

LARGE = (64, 3, 3, 16 * 1024)  # 36 MiB of float32
SMALL = (4, 3, 3, 8)


def parameters(weights: np.ndarray, axis: int | None, *, flat: bool):
    others = tuple(index for index in range(weights.ndim) if index != axis)
    bounds = np.abs(weights).max(axis=others, keepdims=True) if axis is not None else np.abs(weights).max(keepdims=True)
    scale = (bounds / 127).astype(np.float32)
    if flat:
        scale = scale.reshape(-1)
    return qtyping.UniformQuantParams(
        scale=scale, zero_point=np.zeros_like(scale, np.int64), num_bits=8, symmetric=True, quantized_dimension=axis
    )


@pytest.mark.parametrize(
    ("shape", "axis", "flat"), [(LARGE, 0, True), (LARGE, 0, False), (LARGE, None, False), (SMALL, 3, True), (SMALL, None, True)]
)
def test_every_weight_is_its_channel_s_multiple(shape, axis, flat):
    weights = np.random.default_rng(0).standard_normal(shape, np.float32)
    weights *= np.arange(1, shape[0] + 1, dtype=np.float32).reshape(-1, 1, 1, 1)
    given = parameters(weights, axis, flat=flat)
    with large_weights():
        quantized = uniform_quantize_tensor.uniform_quantize(weights, given)
    expected = np.clip(np.rint(weights / parameters(weights, axis, flat=False).scale), -127, 127)
    assert quantized.dtype == np.int8
    assert np.array_equal(quantized, expected)


def test_the_library_is_left_as_it_was():
    own = uniform_quantize_tensor.uniform_quantize
    with pytest.raises(KeyError), large_weights():
        assert uniform_quantize_tensor.uniform_quantize is not own
        raise KeyError
    assert uniform_quantize_tensor.uniform_quantize is own
