"""float32 .tflite to the other schemes: ai-edge-quantizer for integers, our own cast for float16. Neither torch nor TensorFlow.

Each function here does one piece of work in a worker child; `plan.py` decides which.
"""

import os
import pickle
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import ConversionError, UnsupportedOpError, one_line
from edgekit.stages.quantize import forms
from edgekit.stages.quantize.bias import Product, correct
from edgekit.stages.quantize.float16 import to_float16
from edgekit.stages.quantize.forms import Form
from edgekit.stages.quantize.interface import change_interface
from edgekit.stages.quantize.large import large_weights
from edgekit.stages.quantize.moments import PRODUCTS
from edgekit.stages.quantize.prepare import prepare
from edgekit.tflite import flatbuffer
from edgekit.tflite.tree import load, pack

# Without DEPTHWISE_CONV_2D: with dynamic range it has no XNNPACK kernel, and each one would split the delegate.
DYNAMIC_PRODUCTS = ("FULLY_CONNECTED", "CONV_2D", "TRANSPOSE_CONV", "EMBEDDING_LOOKUP")
# Axis of the output channels, and which inputs are the activations and the bias; the weights are input 1.
_CHANNEL_AXIS = {
    "FULLY_CONNECTED": (0, 0, 2),
    "CONV_2D": (0, 0, 2),
    "DEPTHWISE_CONV_2D": (3, 0, 2),
    "TRANSPOSE_CONV": (0, 2, 3),
}
# A channel whose weights are this share of the largest one's is below half a step of an int16 output.
_LEAST_CHANNEL = 2.0**-17
_LARGEST_BIAS = 2.0**30
# What takes a float op out of a graph that is to hold integers only.
_MENDS = {
    "CAST": "a mask or an index computed in float; edgekit's own export of a checkpoint selects the mask's values instead",
    "POW": "multiply the value with itself in the model",
    "EXP": "write it as a softmax or a logistic in the model",
    "LOG": "leave it to the app, behind the model's output",
    "QUANTIZE": "joins an op that is named here",
    "DEQUANTIZE": "joins an op that is named here",
}
_NO_MEND = "no rewrite of edgekit removes it; replace it in the model, or leave --integer-only out"


def write_float16(model: Path, target: Path) -> None:
    """float16 weights; see `to_float16`."""
    target.write_bytes(to_float16(model.read_bytes(), origin=model.name))


def write_dynamic(model: Path, calibration: Path | None, target: Path) -> None:
    """int8 weights, float32 activations, for matrix products and look-up tables.

    `calibration` is not needed; where there is one, weights are rounded together and biases corrected. Raises `ConversionError`.
    """
    data = prepare(model.read_bytes())
    manager = _manager()
    products = pickle.loads(calibration.read_bytes())[1] if calibration is not None else {}
    _add_dynamic(manager, ".*", _thin(data))
    _add_tables(manager, _looked_up(data))
    made = _quantized(model.name, data, manager.get_quantization_recipe(), _table_statistics(data), products, "dynamic")
    target.write_bytes(made)


class FloatFile:
    """A float32 .tflite and its calibration, read once for as many integer files as are made of it."""

    def __init__(self, model: Path, calibration: Path) -> None:
        self.name = model.name
        self.data = prepare(model.read_bytes())
        clipped, self.products = pickle.loads(calibration.read_bytes())
        self._ranges = {8: clipped, 16: {name: _unclipped(limits) for name, limits in clipped.items()}}
        self._weights = {bits: _weight_statistics(self.data, ranges, bits) for bits, ranges in self._ranges.items()}
        self._tables = _table_statistics(self.data)
        self._looked_up = _looked_up(self.data)
        self._thin = _thin(self.data)

    def quantized(self, form: Form, *, corrected: bool = True) -> bytes:
        """The file in `form`, its products made truer unless it is only to be compared. Raises `ConversionError`."""
        wide = {name: self._ranges[16][name] for name in form.wide if name in self._ranges[16]}
        statistics = {**self._ranges[form.bits], **wide, **self._tables, **self._weights[form.bits]}
        products = self.products if corrected else None
        return _quantized(self.name, self.data, _recipe(form, self._looked_up, self._thin), statistics, products, f"int{form.bits}")

    def write(self, target: Path, form: Form, inputs: str = "float32", outputs: str = "float32") -> None:
        """The file in `form` with float inputs and outputs of these dtypes. Raises `ConversionError`."""
        target.write_bytes(self.quantized(form))
        if (inputs, outputs) != ("float32", "float32"):
            change_interface(target, inputs, outputs)


def write_integer(
    model: Path, calibration: Path, target: Path, form: Form, inputs: str = "float32", outputs: str = "float32"
) -> None:
    """int8 weights and integer activations, op by op as `form` says.

    `inputs` and `outputs` are the dtypes of the file's float inputs and outputs. Raises `ConversionError`.
    """
    FloatFile(model, calibration).write(target, form, inputs, outputs)


def write_integer_only(model: Path, calibration: Path, target: Path, form: Form, inputs: str, outputs: str) -> None:
    """`write_integer` with no float op left; raises `UnsupportedOpError` that lists each kind of op in the way, and its mend.

    Float inputs and outputs become integers too: `inputs` and `outputs`, or int8 where they say float32.
    """
    write_integer(model, calibration, target, form)
    file = flatbuffer.read(target)
    graph = file.subgraphs[file.entry().subgraph]
    ends = {*graph.inputs, *graph.outputs}
    floating = Counter(
        operator.name
        for operator in graph.operators
        if any(index >= 0 and graph.tensors[index].dtype.startswith("float") for index in (*operator.inputs, *operator.outputs))
        and not (operator.name in ("QUANTIZE", "DEQUANTIZE") and {*operator.inputs, *operator.outputs} & ends)
    )
    if floating:
        told = "; ".join(f"{count} {name} ({_MENDS.get(name, _NO_MEND)})" for name, count in floating.most_common())
        raise UnsupportedOpError(f"{model.name}: ops without an integer form stand in the way of --integer-only: {told}")
    signature = file.signature(file.entry())
    taken = any(spec.dtype == "float32" for spec in signature.inputs)
    given = any(spec.dtype == "float32" for spec in signature.outputs)
    change_interface(
        target,
        (inputs if inputs != "float32" else "int8") if taken else "float32",
        (outputs if outputs != "float32" else "int8") if given else "float32",
    )


def _recipe(form: Form, looked_up: Sequence[str], thin: frozenset[str]) -> Any:
    """The form as ai-edge-quantizer takes it.

    `looked_up` are the names of what is taken from constant tables, `thin` the convolutions whose weights stay float with them.
    """
    from ai_edge_quantizer import qtyping

    manager, names = _manager(), qtyping.TFLOperationName
    if form.ops is None:
        manager.load_quantization_recipe(recipe_everything(form.bits))
    else:
        for name in form.ops:
            manager.add_static_config(regex=".*", operation_name=_aeq_name(name), activation_num_bits=form.bits, weight_num_bits=8)
        _add_tables(manager, looked_up)
        _add_embeddings(manager)
    # Of all that match, the rule that was added last holds.
    if form.wide:
        wide = _any_of(form.wide)
        manager.add_static_config(regex=wide, operation_name=names.ALL_SUPPORTED, activation_num_bits=16, weight_num_bits=8)
        # An output is known by the name of the op that gives it.
        _leave_ends(manager, wide)
    if form.floating:
        _leave(manager, form.floating)
        _add_dynamic(manager, _any_of(form.floating), form.floating & thin)
    return manager.get_quantization_recipe()


def _thin(data: bytes) -> frozenset[str]:
    return frozenset().union(*(forms.thin_convolutions(graph) for graph in flatbuffer.parse(data, "model").subgraphs))


def _add_dynamic(manager: Any, names: str, thin: frozenset[str]) -> None:
    """int8 weights and float activations for the products that the regex `names` names, but float weights for those in `thin`."""
    for name in DYNAMIC_PRODUCTS:
        manager.add_dynamic_config(regex=names, operation_name=_aeq_name(name), num_bits=8)
    if thin:
        _leave(manager, thin)


def _leave(manager: Any, outputs: Iterable[str]) -> None:
    """The ops known by these `outputs` stay as they are."""
    from ai_edge_quantizer import qtyping
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    manager.add_quantization_config(
        regex=_any_of(outputs),
        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
        algorithm_key=AlgorithmName.NO_QUANTIZE,
    )


def _any_of(outputs: Iterable[str]) -> str:
    return f"^(?:{'|'.join(re.escape(name) for name in sorted(outputs))});?$"


def _aeq_name(name: str) -> Any:
    from ai_edge_quantizer import qtyping

    return qtyping.TFLOperationName["CONV_2D_TRANSPOSE" if name == "TRANSPOSE_CONV" else name]


def recipe_everything(activation_bits: int) -> Any:
    """Static quantization of every op that can be, as a recipe; the file's own inputs and outputs stay in float32."""
    from ai_edge_quantizer import qtyping

    manager = _manager()
    manager.add_static_config(
        regex=".*", operation_name=qtyping.TFLOperationName.ALL_SUPPORTED, activation_num_bits=activation_bits, weight_num_bits=8
    )
    _add_embeddings(manager)
    _leave_ends(manager, ".*")
    return manager.get_quantization_recipe()


def _leave_ends(manager: Any, names: str) -> None:
    """Those of the file's own inputs and outputs that the regex `names` names, ops to ai-edge-quantizer, stay in float32."""
    from ai_edge_quantizer import qtyping
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    for edge in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
        manager.add_quantization_config(regex=names, operation_name=edge, algorithm_key=AlgorithmName.NO_QUANTIZE)


def _manager() -> Any:
    from ai_edge_quantizer import recipe_manager

    return recipe_manager.RecipeManager()


def _quantized(name: str, data: bytes, recipe: Any, statistics: Any, products: Mapping[str, Product] | None, what: str) -> bytes:
    os.environ["TQDM_DISABLE"] = "1"
    from ai_edge_quantizer.quantizer import Quantizer

    try:
        with large_weights():
            result = Quantizer(data, recipe).quantize(statistics, enable_progress_report=False)
    except (ValueError, RuntimeError, KeyError, NotImplementedError) as error:
        raise ConversionError(
            f"{name}: ai-edge-quantizer cannot make {what} of it ({one_line(error)}); choose another scheme"
        ) from error
    made = bytes(result.quantized_model)
    root = load(made) if products is not None else None
    if root is None or products is None:
        return made
    correct(root, product_weights(data), products)
    return pack(root)


def product_weights(model: bytes) -> dict[str, tuple[str, np.ndarray]]:
    """Op and constant float32 weights of each matrix product, by the name of its output."""
    found = {}
    for graph, operator, constant in operators(model):
        if operator.name in PRODUCTS and (weights := constant(operator.inputs[1])) is not None:
            found[graph.tensors[operator.outputs[0]].name] = operator.name, weights
    return found


def _tables(model: bytes) -> Iterable[tuple[str, str, np.ndarray]]:
    """Name, output's name and float32 values of each constant look-up table."""
    for graph, operator, constant in operators(model):
        if operator.name == "GATHER" and (values := constant(operator.inputs[0])) is not None:
            yield graph.tensors[operator.inputs[0]].name, graph.tensors[operator.outputs[0]].name, values


def _looked_up(model: bytes) -> list[str]:
    """Names of what comes out of those tables."""
    return [output for _, output, _ in _tables(model)]


def operators(model: bytes) -> Iterator[tuple[flatbuffer.Subgraph, flatbuffer.Operator, Callable[[int], np.ndarray | None]]]:
    """Each op with its graph and what gives a tensor's constant float32 values, or None where it has none."""
    from ai_edge_litert import schema_py_generated as schema

    buffers = schema.Model.GetRootAs(model, 0)
    for graph in flatbuffer.parse(model, "model").subgraphs:

        def constant(index: int, graph: flatbuffer.Subgraph = graph) -> np.ndarray | None:
            tensor = graph.tensors[index]
            if index < 0 or not tensor.data_bytes or tensor.dtype != "float32" or tensor.sparse:
                return None
            stored = buffers.Buffers(tensor.buffer).DataAsNumpy()
            return None if isinstance(stored, int) else stored.view(np.float32).reshape(tensor.shape)

        for operator in graph.operators:
            yield graph, operator, constant


def _unclipped(limits: Mapping[str, Any]) -> dict[str, Any]:
    """A range from the least to the greatest value: int16's steps are fine enough for that, and calibration clips for int8."""
    return {**limits, "min": limits.get("least", limits["min"]), "max": limits.get("greatest", limits["max"])}


def _weight_statistics(model: bytes, calibrated: Mapping[str, Any], activation_bits: int) -> dict[str, Any]:
    """Ranges (by channel) of the weights that have channels of nearly no weight, made wide enough for integers.

    A bias is stored in steps of input scale times weight scale in int32. Where training has let a channel's weights die,
    as in MobileNet with its batch norm folded in, those steps are so small that the bias does not fit and is lost, and
    XNNPACK refuses the op because the step is beyond its multiplier's range.
    """
    found: dict[str, Any] = {}
    for graph, operator, constant in operators(model):
        if operator.name not in _CHANNEL_AXIS:
            continue
        axis, activations, biases = _CHANNEL_AXIS[operator.name]
        name = graph.tensors[operator.inputs[1]].name
        weights = constant(operator.inputs[1])
        limits = calibrated.get(graph.tensors[operator.inputs[activations]].name)
        if weights is None or limits is None:
            continue
        others = tuple(index for index in range(weights.ndim) if index != axis)
        bounds = np.abs(weights).max(axis=others, keepdims=True)
        least = np.full_like(bounds, bounds.max() * _LEAST_CHANNEL)
        bias = constant(operator.inputs[biases]) if len(operator.inputs) > biases else None
        low, high = min(0.0, float(limits["min"].min())), max(0.0, float(limits["max"].max()))
        step = (high - low) / 255 if activation_bits == 8 else max(high, -low) / 32767
        if bias is not None and bias.size == bounds.size and step > 0:
            least = np.maximum(least, np.abs(bias).reshape(bounds.shape) * 127 / (step * _LARGEST_BIAS))
        if (bounds < least).any():
            wide = np.maximum(np.maximum(bounds, least), found[name]["max"] if name in found else 0)
            found[name] = {"min": -wide, "max": wide}
    return found


def _add_embeddings(manager: Any) -> None:
    """EMBEDDING_LOOKUP has no form with integer outputs; its int8 table with float32 outputs is a quarter of the bytes."""
    from ai_edge_quantizer import qtyping

    manager.add_dynamic_config(regex=".*", operation_name=qtyping.TFLOperationName.EMBEDDING_LOOKUP, num_bits=8)


def _add_tables(manager: Any, looked_up: Sequence[str]) -> None:
    """GATHER from an int8 table: a quarter of the bytes, and only the rows looked up are made float again."""
    from ai_edge_quantizer import qtyping

    for output in looked_up:
        manager.add_static_config(
            regex=f"^{re.escape(output)}", operation_name=qtyping.TFLOperationName.GATHER, activation_num_bits=8, weight_num_bits=8
        )


def _table_statistics(model: bytes) -> dict[str, Any]:
    """A table's range is known without data, and what is looked up has the same."""
    found = {}
    for table, output, values in _tables(model):
        limits = {"min": np.full((1, 1), values.min()), "max": np.full((1, 1), values.max())}
        found[table] = limits
        found[output] = {name: value[None] for name, value in limits.items()}
    return found
