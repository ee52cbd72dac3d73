"""Bias correction: what rounding the weights adds to an op's mean output is taken off its bias again.

Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV 2019, section 4.2; the mean inputs
are measured here on representative data. Depthwise convolutions gain most: nine weights a channel average nothing out.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from edgekit.data.samples import Samples
from edgekit.quantize.tensors import Tensors
from edgekit.quantize.tree import listed
from edgekit.tflite import flatbuffer

# A mean over this many rows moves by less than a rounding step.
_ROWS = 32
_PRODUCTS = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D")
_MASK = "attention_mask"
# Inputs of all these ops.
_ACTIVATIONS, _WEIGHTS, _BIAS = 0, 1, 2


def mean_inputs(model: bytes, samples: Samples) -> dict[str, np.ndarray]:
    """Mean by channel of each matrix product's input (float64), by the name of its output; padding tokens are left out."""
    graph = flatbuffer.parse(model, "model").subgraphs[0]
    products = [
        operator
        for operator in graph.operators
        if operator.name in _PRODUCTS and graph.tensors[operator.inputs[_WEIGHTS]].data_bytes
    ]
    channels = {operator.inputs[_ACTIVATIONS]: _channels(graph, operator) for operator in products}
    rows = min(_ROWS, len(samples))
    means: dict[int, Any] = {}
    for values in intermediates(model, samples, channels, rows):
        for index, found in values.items():
            means[index] = means.get(index, 0.0) + found.mean(axis=0, dtype=np.float64) / rows
    if not means:
        return {}
    return {graph.tensors[operator.outputs[0]].name: means[operator.inputs[_ACTIVATIONS]] for operator in products}


def intermediates(
    model: bytes, samples: Samples, channels: Mapping[int, int], rows: int = _ROWS
) -> Iterator[dict[int, np.ndarray]]:
    """For each of the first `rows` samples the values (N, channels) of some tensors of the main graph, by tensor index.

    `channels` gives how many each has; padding tokens are left out. Nothing where the entry is another graph.
    """
    entry = flatbuffer.parse(model, "model").entry()
    if entry.subgraph or not channels:
        return
    tensors = Tensors(model, entry, list(channels))
    for _, row in zip(range(rows), samples, strict=False):
        given = tensors.run(row)
        mask = row[_MASK].reshape(-1) > 0 if _MASK in row else None
        found = {index: given(index).reshape(-1, size) for index, size in channels.items()}
        yield {index: values[mask] if mask is not None and len(values) == len(mask) else values for index, values in found.items()}


def _channels(graph: flatbuffer.Subgraph, operator: flatbuffer.Operator) -> int:
    """Input channels: of a fully connected op, the features that it flattens its input to."""
    place = _WEIGHTS if operator.name == "FULLY_CONNECTED" else _ACTIVATIONS
    return graph.tensors[operator.inputs[place]].shape[-1]


def correct(root: Any, weights: Mapping[str, np.ndarray], means: Mapping[str, np.ndarray]) -> int:
    """Correct the biases of a quantized model's tree in place and return how many.

    `weights` are those before quantization and `means` what `mean_inputs` gave, both by the name of the op's output.

    An op is left as it is where its weights are not constant and quantized, where it has no bias of its own, or where
    its input's mean is not known.
    """
    from ai_edge_litert import schema_py_generated as schema

    names = {getattr(schema.BuiltinOperator, name): name for name in _PRODUCTS}
    count = 0
    sharers = Counter(tensor.buffer for graph in root.subgraphs for tensor in listed(graph.tensors))
    for graph in root.subgraphs:
        users = Counter(int(index) for operator in listed(graph.operators) for index in listed(operator.inputs))
        for operator in listed(graph.operators):
            code = root.operatorCodes[operator.opcodeIndex]
            name = names.get(max(code.builtinCode, code.deprecatedBuiltinCode))
            if name is None or len(operator.inputs) <= _BIAS or operator.inputs[_BIAS] < 0:
                continue
            stored, bias = (graph.tensors[operator.inputs[place]] for place in (_WEIGHTS, _BIAS))
            output = _text(graph.tensors[operator.outputs[0]].name)
            before, mean = weights.get(output), means.get(output)
            if before is None or mean is None or stored.type != schema.TensorType.INT8 or users[int(operator.inputs[_BIAS])] > 1:
                continue
            shift = _shift(name, _real(root, stored) - before, mean)
            if shift is not None and root.buffers[bias.buffer].data is not None:
                if sharers[bias.buffer] > 1:
                    root.buffers.append(schema.BufferT(data=root.buffers[bias.buffer].data))
                    sharers[bias.buffer] -= 1
                    bias.buffer = len(root.buffers) - 1
                _subtract(root.buffers[bias.buffer], bias, shift, schema)
                count += 1
    return count


def _text(name: bytes | str | None) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else name or ""


def _real(root: Any, tensor: Any) -> np.ndarray:
    stored = np.asarray(root.buffers[tensor.buffer].data).view(np.int8).reshape(tensor.shape)
    scales = np.asarray(tensor.quantization.scale, np.float64)
    shape = [1] * stored.ndim
    if scales.size > 1:
        shape[tensor.quantization.quantizedDimension] = scales.size
    return stored * scales.reshape(shape)


def _shift(name: str, error: np.ndarray, mean: np.ndarray) -> np.ndarray | None:
    """Mean of what the weights' error adds to each output channel."""
    if name == "DEPTHWISE_CONV_2D":
        per_channel = error.sum(axis=tuple(range(error.ndim - 1)))
        return per_channel * np.repeat(mean, per_channel.size // mean.size) if per_channel.size % mean.size == 0 else None
    return error.reshape(error.shape[0], -1, mean.size).sum(axis=1) @ mean if error.shape[-1] == mean.size else None


def _subtract(buffer: Any, bias: Any, shift: np.ndarray, schema: Any) -> None:
    dtypes = {schema.TensorType.FLOAT32: np.float32, schema.TensorType.INT32: np.int32, schema.TensorType.INT64: np.int64}
    dtype = np.dtype(dtypes[bias.type])
    step = 1.0 if dtype.kind == "f" else np.asarray(bias.quantization.scale, np.float64)
    values = np.asarray(buffer.data).view(dtype) - shift / step
    if dtype.kind == "i":
        limits = np.iinfo(np.int32)
        values = np.clip(np.rint(values), limits.min, limits.max)
    buffer.data = values.astype(dtype).view(np.uint8)
