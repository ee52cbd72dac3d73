"""Quantized ONNX graphs as float graphs with the same rounding and clipping, since a float32 .tflite is made first."""

from collections.abc import Iterator
from typing import Any

import numpy as np

_BIASED = "QLinearConv"
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", _BIASED, "QLinearMatMul")


def to_float(model: Any) -> None:
    """Rewrite quantize, dequantize and QLinear nodes of the top graph, in place, as float ops on whole numbers.

    Quantize is Clip(Round(x / scale) + zero_point), dequantize (x - zero_point) * scale (ONNX operator specification).
    A graph in which a scale is not constant is left as it is."""
    from onnx import numpy_helper

    if not any(node.op_type in _QUANTIZED for node in model.graph.node):
        return
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    rewriter = _Rewriter(constants, model)
    nodes = [new for node in model.graph.node for new in rewriter.rewrite(node)]
    if rewriter.failed:
        return
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in rewriter.made.items())
    del model.graph.value_info[:]


class _Rewriter:
    def __init__(self, constants: dict[str, np.ndarray], model: Any) -> None:
        self.constants, self.made, self.failed = constants, dict[str, np.ndarray](), False
        shapes = [*model.graph.input, *model.graph.value_info, *model.graph.output]
        self._ranks = {item.name: len(item.type.tensor_type.shape.dim) for item in shapes}

    def rewrite(self, node: Any) -> Iterator[Any]:
        if node.op_type not in _QUANTIZED:
            yield node
            return
        inputs = list(node.input)
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        if node.op_type == "QuantizeLinear":
            yield from self._quantize(inputs[0], inputs[1], _at(inputs, 2), node.output[0], axis)
        elif node.op_type == "DequantizeLinear":
            yield from self._dequantize(inputs[0], inputs[1], _at(inputs, 2), node.output[0], axis)
        else:
            yield from self._product(node, inputs)

    def _product(self, node: Any, inputs: list[str]) -> Iterator[Any]:
        from onnx import helper

        out = node.output[0]
        left, right, result = f"{out}/left", f"{out}/right", f"{out}/real"
        yield from self._dequantize(inputs[0], inputs[1], inputs[2], left, 1)
        yield from self._dequantize(inputs[3], inputs[4], inputs[5], right, 0)
        if node.op_type == _BIASED:
            operands = [left, right]
            if (bias := _at(inputs, 8)) and self._has(bias, inputs[1], inputs[4]):
                scale = self.constants[inputs[1]] * self.constants[inputs[4]]
                operands.append(self._constant(f"{out}/bias", (self.constants[bias] * scale).astype(np.float32)))
            convolution = helper.make_node("Conv", operands, [result], name=f"{out}/conv")
            convolution.attribute.extend(node.attribute)
            yield convolution
        else:
            yield helper.make_node("MatMul", [left, right], [result], name=f"{out}/matmul")
        yield from self._quantize(result, inputs[6], inputs[7], out, 1)

    def _quantize(self, source: str, scale: str, zero: str, target: str, axis: int) -> Iterator[Any]:
        from onnx import helper

        if not self._has(scale, zero):
            return
        limits = np.iinfo(self.constants[zero].dtype if zero else np.uint8)
        scales, zeros = self._parameters(source, scale, zero, target, axis)
        least = self._constant(f"{target}/least", np.float32(limits.min))
        most = self._constant(f"{target}/most", np.float32(limits.max))
        yield helper.make_node("Div", [source, scales], [f"{target}/divided"], name=f"{target}/div")
        yield helper.make_node("Round", [f"{target}/divided"], [f"{target}/rounded"], name=f"{target}/round")
        yield helper.make_node("Add", [f"{target}/rounded", zeros], [f"{target}/shifted"], name=f"{target}/add")
        yield helper.make_node("Clip", [f"{target}/shifted", least, most], [target], name=f"{target}/clip")

    def _dequantize(self, source: str, scale: str, zero: str, target: str, axis: int) -> Iterator[Any]:
        from onnx import TensorProto, helper

        if not self._has(scale, zero):
            return
        if source in self.constants:
            array = self.constants[source].astype(np.float32)
            zeros = self.constants[zero].astype(np.float32) if zero else np.float32(0)
            value = (array - _along(zeros, array.ndim, axis)) * _along(self.constants[scale], array.ndim, axis)
            self.constants[target] = value.astype(np.float32)
            self._constant(target, self.constants[target])
            return
        scales, zeros_name = self._parameters(source, scale, zero, target, axis)
        # A no-op after a quantize of ours, which stays in float; the graph's own integers are cast.
        yield helper.make_node("Cast", [source], [f"{target}/float"], name=f"{target}/cast", to=TensorProto.FLOAT)
        yield helper.make_node("Sub", [f"{target}/float", zeros_name], [f"{target}/shifted"], name=f"{target}/sub")
        yield helper.make_node("Mul", [f"{target}/shifted", scales], [target], name=f"{target}/mul")

    def _parameters(self, source: str, scale: str, zero: str, target: str, axis: int) -> tuple[str, str]:
        scales = self.constants[scale].astype(np.float32)
        zeros = self.constants[zero].astype(np.float32) if zero else np.float32(0)
        self.failed |= scales.size > 1 and source not in self._ranks
        rank = self._ranks.get(source, axis + 1)
        ends = (f"{target}/scale", scales), (f"{target}/zero", zeros)
        scale_name, zero_name = (self._constant(name, _along(values, rank, axis)) for name, values in ends)
        return scale_name, zero_name

    def _has(self, *names: str) -> bool:
        """Whether those that are not left out are constant."""
        constant = all(name in self.constants for name in names if name)
        self.failed |= not constant
        return constant

    def _constant(self, name: str, value: np.ndarray | np.generic) -> str:
        self.made[name] = np.asarray(value)
        return name


def _at(inputs: list[str], index: int) -> str:
    return inputs[index] if index < len(inputs) else ""


def _along(values: np.ndarray | np.generic, rank: int, axis: int) -> np.ndarray:
    array = np.asarray(values)
    if array.size <= 1:
        return array.reshape(())
    shape = [1] * rank
    shape[axis] = -1
    return array.reshape(shape)
