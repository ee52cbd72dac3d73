"""Quantized products made truer on representative data: their weights rounded together, and their biases corrected.

What rounding the weights adds to an op's mean output is taken off its bias again: Nagel et al., Data-Free Quantization
Through Weight Equalization and Bias Correction, ICCV 2019, section 4.2; the mean inputs are measured here on representative
data. Depthwise convolutions gain most: nine weights a channel average nothing out."""

import contextlib
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.stages.quantize.moments import BIAS, WEIGHTS, Moments, has_bias, matrix, names, unmatrix
from edgekit.stages.quantize.rounding import Rounding, single_threaded, steps_of
from edgekit.tflite import schema
from edgekit.tflite.tree import listed, text

# Products that are rounded side by side; each holds a covariance and its factor.
_LANES = 2
# Scales are float32 on both sides.
_SAME_STEP = 1e-5


@dataclass(frozen=True)
class Product:
    """A product's float32 weights (groups, outputs, size) and what is known of its input; see `Moments`.

    `levels` are the weights rounded together to `steps` (groups, outputs), None where they round as usual."""

    mean: np.ndarray
    steps: np.ndarray
    levels: np.ndarray | None


def prepared(weights: Mapping[str, tuple[str, np.ndarray]], moments: Mapping[str, Moments]) -> dict[str, Product]:
    """Products by the names of their outputs; `weights` holds op and float32 values. The covariances of `moments` are used up."""
    sharing: dict[int, list[str]] = {}
    for output in moments.keys() & weights.keys():
        sharing.setdefault(id(moments[output]), []).append(output)

    def rounded(outputs: list[str]) -> dict[str, Product]:
        """Those that read the same, so that one factor serves all."""
        covariance, rounding = moments[outputs[0]].covariance, None
        if covariance is not None:
            # What no damping makes invertible rounds as usual.
            with contextlib.suppress(np.linalg.LinAlgError):
                rounding = Rounding(covariance)
        found = {}
        for output in outputs:
            name, values = weights[output]
            mean = moments[output].mean
            real = matrix(name, values, len(mean))
            steps, levels = rounding.fitted(real, steps_of(real)) if rounding is not None else (steps_of(real), None)
            found[output] = Product(mean, steps, levels)
        moments[outputs[0]].covariance = None
        return found

    # The largest first, so that no lane ends late.
    groups = sorted(sharing.values(), key=lambda outputs: -moments[outputs[0]].mean.size)
    with single_threaded(), ThreadPoolExecutor(_LANES) as pool:
        return {output: product for found in pool.map(rounded, groups) for output, product in found.items()}


def correct(root: Any, weights: Mapping[str, tuple[str, np.ndarray]], products: Mapping[str, Product]) -> None:
    """Round the weights of a quantized model's tree anew and correct its biases, in place.

    `weights` are those before quantization and `products` what `prepared` gave, both by the name of the op's output.

    An op is left as it is where its weights are not constant and quantized, or nothing is known of its input; its bias
    where it has none of its own."""
    kinds = names(root)
    sharers = Counter(tensor.buffer for graph in root.subgraphs for tensor in listed(graph.tensors))
    for graph in root.subgraphs:
        users = Counter(int(index) for operator in listed(graph.operators) for index in listed(operator.inputs))
        for operator in listed(graph.operators):
            output = text(graph.tensors[operator.outputs[0]].name)
            product = products.get(output)
            if operator.opcodeIndex not in kinds or product is None or output not in weights:
                continue
            name, before = weights[output]
            stored = graph.tensors[operator.inputs[WEIGHTS]]
            if stored.type != schema.TensorType.INT8:
                continue
            groups = len(product.mean)
            buffer = root.buffers[stored.buffer]
            real = matrix(name, before, groups)
            levels = matrix(name, np.asarray(buffer.data).view(np.int8).reshape(before.shape), groups)
            scale = np.asarray(stored.quantization.scale, np.float32)
            steps = np.broadcast_to(scale, product.steps.size).reshape(product.steps.shape)
            own = sharers[stored.buffer] == users[int(operator.inputs[WEIGHTS])] == 1
            bias = _own_bias(root, graph, operator, users, sharers)
            fitted = steps
            if product.levels is not None and own:
                # A channel whose step was widened keeps its own levels, and so does one whose step cannot be changed alone.
                usual = steps_of(real)
                same = np.abs(steps - usual) <= _SAME_STEP * usual
                if scale.size != steps.size or (bias is None and has_bias(operator)):
                    same &= np.abs(steps - product.steps) <= _SAME_STEP * product.steps
                levels = np.where(same[..., np.newaxis], product.levels, levels)
                buffer.data = np.ascontiguousarray(unmatrix(name, levels, before.shape)).reshape(-1).view(np.uint8)
                fitted = np.where(same, product.steps, steps)
                if scale.size == steps.size:
                    stored.quantization.scale = fitted.reshape(-1)
            if bias is not None:
                error = levels * fitted[..., np.newaxis].astype(np.float64) - real
                shift = np.einsum("goi,gi->go", error, product.mean)
                factors = np.divide(fitted, steps, out=np.ones_like(steps), where=steps > 0)
                _correct_bias(root.buffers[bias.buffer], bias, shift.reshape(-1), factors.reshape(-1))


def _own_bias(root: Any, graph: Any, operator: Any, users: Mapping[int, int], sharers: Counter[int]) -> Any | None:
    """The op's bias with data of its own, or None where it has none or another op uses it too."""
    if not has_bias(operator) or users[int(operator.inputs[BIAS])] > 1:
        return None
    bias = graph.tensors[operator.inputs[BIAS]]
    if root.buffers[bias.buffer].data is None:
        return None
    if sharers[bias.buffer] > 1:
        root.buffers.append(schema.BufferT(data=root.buffers[bias.buffer].data))
        sharers[bias.buffer] -= 1
        bias.buffer = len(root.buffers) - 1
    return bias


def _correct_bias(buffer: Any, bias: Any, shift: np.ndarray, factors: np.ndarray) -> None:
    """Take `shift` off the bias of each channel, whose weights' steps have become `factors` times what they were."""
    dtypes = {schema.TensorType.FLOAT32: np.float32, schema.TensorType.INT32: np.int32, schema.TensorType.INT64: np.int64}
    dtype = np.dtype(dtypes[bias.type])
    values = np.asarray(buffer.data).view(dtype)
    if dtype.kind == "i":
        before = np.asarray(bias.quantization.scale, np.float64)
        step = before * factors if before.size == factors.size else before
        limits = np.iinfo(np.int32)
        values = np.clip(np.rint((values * before - shift) / step), limits.min, limits.max)
        bias.quantization.scale = step.astype(np.float32)
    else:
        values = values - shift
    buffer.data = values.astype(dtype).view(np.uint8)
