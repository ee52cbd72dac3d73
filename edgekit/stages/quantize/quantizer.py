"""float32 .tflite to the other schemes: ai-edge-quantizer for integers, our own cast for float16. Neither torch nor TensorFlow.

Each function here does one piece of work in a worker child; `plan.py` decides which."""

import os
import pickle
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import ConversionError, UnsupportedOpError, one_line
from edgekit.stages.quantize import forms
from edgekit.stages.quantize.bias import Product, correct
from edgekit.stages.quantize.float16 import to_float16
from edgekit.stages.quantize.forms import Form
from edgekit.stages.quantize.interface import change_interface, keep_outputs, read_outputs
from edgekit.stages.quantize.large import large_weights
from edgekit.stages.quantize.moments import PRODUCTS
from edgekit.stages.quantize.moves import has_moves, move
from edgekit.stages.quantize.prepare import prepare
from edgekit.tflite import flatbuffer, schema
from edgekit.tflite.tree import load, pack

# Without DEPTHWISE_CONV_2D: with dynamic range it has no XNNPACK kernel, and each one would split the delegate.
DYNAMIC_PRODUCTS = ("FULLY_CONNECTED", "CONV_2D", "TRANSPOSE_CONV", "EMBEDDING_LOOKUP")
# Names of ai-edge-quantizer: of an op that it calls otherwise, of what static quantization takes, and of a file's own ends.
_THEIRS = {"TRANSPOSE_CONV": "CONV_2D_TRANSPOSE"}
_STATIC, _ENDS = ("ALL_SUPPORTED", "BATCH_MATMUL"), ("INPUT", "OUTPUT")
# Axis of the output channels, and which inputs are the activations and the bias; the weights are input 1.
_CHANNEL_AXIS = {"FULLY_CONNECTED": (0, 0, 2), "CONV_2D": (0, 0, 2), "DEPTHWISE_CONV_2D": (3, 0, 2), "TRANSPOSE_CONV": (0, 2, 3)}
# A channel whose weights are this share of the largest one's is below half a step of an int16 output.
_LEAST_CHANNEL = 2.0**-17
_LARGEST_BIAS = 2.0**30
# What takes a float op out of a graph that is to hold integers only.
_MENDS = {
    "CAST": "joins an op that is named here",
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

    `calibration` is not needed; where there is one, weights are rounded together and biases corrected. Raises `ConversionError`."""
    refuse_constant(content := model.read_bytes(), model.name)
    data = prepare(content)
    products = pickle.loads(calibration.read_bytes())[1] if calibration is not None else {}
    recipe = _Recipe()
    recipe.dynamic_products(".*", _thin(data))
    recipe.tables(_looked_up(data))
    target.write_bytes(_quantized(model.name, data, recipe.rules(), _table_statistics(data), products, "dynamic"))


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
        # What goes round in a loop has the dtype that the loop was called with, and no WHILE takes integers with a scale.
        self._called = _called(self.name, self.data)
        # No kernel multiplies an int8 constant by int16 activations, only those by it.
        self._constant_first = frozenset(
            graph.tensors[operator.outputs[0]].name
            for graph, operator, constant in operators(self.data)
            if operator.name == "BATCH_MATMUL" and constant(operator.inputs[0]) is not None
        )

    def quantized(self, form: Form, *, corrected: bool = True) -> bytes:
        """The file in `form`, its products made truer unless it is only to be compared. Raises `ConversionError`."""
        wide = {name: self._ranges[16][name] for name in form.wide if name in self._ranges[16]}
        statistics = {**self._ranges[form.bits], **wide, **self._tables, **self._weights[form.bits]}
        products = self.products if corrected else None
        if form.ops is None:
            form = replace(form, floating=form.floating | self._called)
        if form.bits == 16:
            form = replace(form, floating=form.floating | self._constant_first)
        return _quantized(self.name, self.data, _recipe(form, self._looked_up, self._thin), statistics, products, f"int{form.bits}")

    def write(self, target: Path, form: Form, inputs: str = "float32", outputs: str = "float32") -> None:
        """The file with integers op by op as `form` says, and its float ends in these dtypes. Raises `ConversionError`."""
        target.write_bytes(self.quantized(form))
        if (inputs, outputs) != ("float32", "float32"):
            change_interface(target, inputs, outputs)


def write_integer(
    model: Path, calibration: Path, target: Path, form: Form, inputs: str = "float32", outputs: str = "float32"
) -> None:
    """`FloatFile.write` of a file made once."""
    FloatFile(model, calibration).write(target, form, inputs, outputs)


def write_integer_only(model: Path, calibration: Path, target: Path, form: Form, inputs: str, outputs: str) -> None:
    """`write_integer` with no float op left; raises `UnsupportedOpError` that lists each kind of op in the way, and its mend.

    Float inputs and outputs become integers too: `inputs` and `outputs`, or int8 where they say float32."""
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
        ops = "; ".join(f"{count} {name} ({_MENDS.get(name, _NO_MEND)})" for name, count in floating.most_common())
        raise UnsupportedOpError(f"{model.name}: ops without an integer form stand in the way of --integer-only: {ops}")
    signature = file.signature(file.entry())
    dtypes = []
    for dtype, specs in ((inputs, signature.inputs), (outputs, signature.outputs)):
        integer = "int8" if dtype == "float32" else dtype
        dtypes.append(integer if any(spec.dtype == "float32" for spec in specs) else "float32")
    change_interface(target, *dtypes)


def _recipe(form: Form, looked_up: Sequence[str], thin: frozenset[str]) -> Any:
    """`form` as rules; `looked_up` names what comes out of constant tables, `thin` the convolutions too thin for int8 weights."""
    recipe = _Recipe()
    if form.ops is None:
        recipe.everything(form.bits)
    else:
        recipe.static(".*", form.bits, *form.ops)
        recipe.tables(looked_up)
        recipe.embeddings()
    if form.wide:
        wide = _any_of(form.wide)
        recipe.static(wide, 16, *_STATIC)
        # An output is known by the name of the op that gives it.
        recipe.leave(wide, *_ENDS)
    if form.floating:
        recipe.leave(_any_of(form.floating))
        recipe.dynamic_products(_any_of(form.floating), form.floating & thin)
    return recipe.rules()


def recipe_everything(activation_bits: int) -> Any:
    """Static quantization of every op that can be, as a recipe; the file's own inputs and outputs stay in float32."""
    recipe = _Recipe()
    recipe.everything(activation_bits)
    return recipe.rules()


class _Recipe:
    """Rules of ai-edge-quantizer for ops that a regex and a name select; of all that match one, that added last holds."""

    def __init__(self) -> None:
        from ai_edge_quantizer import algorithm_manager, qtyping, recipe_manager

        self._manager = recipe_manager.RecipeManager()
        self._names, self._each = qtyping.TFLOperationName, qtyping.QuantGranularity
        self._nothing = algorithm_manager.AlgorithmName.NO_QUANTIZE

    def rules(self) -> Any:
        return self._manager.get_quantization_recipe()

    def static(self, regex: str, bits: int, *names: str) -> None:
        """int8 weights and integer activations."""
        for name in names:
            # LiteRT 2.3 gives zeros for activations times a constant that has a scale for each channel.
            granularity = self._each.TENSORWISE if name == "BATCH_MATMUL" else self._each.CHANNELWISE
            self._manager.add_static_config(regex, self._names[_THEIRS.get(name, name)], bits, 8, granularity)

    def dynamic(self, regex: str, *names: str) -> None:
        """int8 weights and float activations."""
        for name in names:
            self._manager.add_dynamic_config(regex, self._names[_THEIRS.get(name, name)], 8)

    def leave(self, regex: str, *names: str) -> None:
        """All in float32; without `names` every op."""
        for name in names or ("ALL_SUPPORTED",):
            self._manager.add_quantization_config(regex, self._names[name], algorithm_key=self._nothing)

    def everything(self, bits: int) -> None:
        self.static(".*", bits, *_STATIC)
        self.embeddings()
        self.leave(".*", *_ENDS)

    def dynamic_products(self, regex: str, thin: frozenset[str]) -> None:
        """int8 weights and float activations for the products, but float weights for those in `thin`."""
        self.dynamic(regex, *DYNAMIC_PRODUCTS)
        if thin:
            self.leave(_any_of(thin))

    def embeddings(self) -> None:
        """EMBEDDING_LOOKUP has no form with integer outputs; its int8 table with float32 outputs is a quarter of the bytes."""
        self.dynamic(".*", "EMBEDDING_LOOKUP")

    def tables(self, looked_up: Sequence[str]) -> None:
        """GATHER from an int8 table: a quarter of the bytes, and only the rows looked up are made float again."""
        for output in looked_up:
            self.static(f"^{re.escape(output)}", 8, "GATHER")


def _called(name: str, data: bytes) -> frozenset[str]:
    """The ops of the graphs that others call."""
    file = flatbuffer.parse(data, name)
    entries = {entry.subgraph for entry in file.entries} or {0}
    graphs = [graph for index, graph in enumerate(file.subgraphs) if index not in entries]
    return frozenset(forms.output(graph, operator) for graph in graphs for operator in graph.operators if operator.outputs)


def _thin(data: bytes) -> frozenset[str]:
    return frozenset().union(*(forms.thin_convolutions(graph) for graph in flatbuffer.parse(data, "model").subgraphs))


def _any_of(outputs: Iterable[str]) -> str:
    return f"^(?:{'|'.join(re.escape(name) for name in sorted(outputs))});?$"


def refuse_constant(model: bytes, name: str) -> None:
    """Raise `ConversionError` for a file that computes nothing, such as one of an initializer alone."""
    if not any(graph.operators for graph in flatbuffer.parse(model, name).subgraphs):
        raise ConversionError(f"{name}: has no op, its outputs are constants; choose float32, there is nothing to quantize")


def _quantized(name: str, data: bytes, recipe: Any, statistics: Any, products: Mapping[str, Product] | None, what: str) -> bytes:
    os.environ["TQDM_DISABLE"] = "1"
    from ai_edge_quantizer.quantizer import Quantizer

    try:
        with large_weights():
            result = Quantizer(data, recipe).quantize(statistics, enable_progress_report=False)
    except (ValueError, RuntimeError, KeyError, NotImplementedError) as error:
        cause = one_line(error)
        raise ConversionError(f"{name}: ai-edge-quantizer cannot make {what} of it ({cause}); choose another scheme") from error
    quantized = bytes(result.quantized_model)
    file = flatbuffer.parse(data, name)
    both = read_outputs(file.subgraphs[file.entry().subgraph])
    movable = what != "dynamic" and any(map(has_moves, file.subgraphs))
    root = load(quantized) if products is not None or both or movable else None
    if root is None:
        return quantized
    if both:
        keep_outputs(root, data, both)
    if movable:
        move(root)
    if products is not None:
        correct(root, product_weights(data), products)
    return pack(root)


def product_weights(model: bytes) -> dict[str, tuple[str, np.ndarray]]:
    """Op and constant float32 weights of each matrix product, by the name of its output."""
    return {
        graph.tensors[operator.outputs[0]].name: (operator.name, weights)
        for graph, operator, constant in operators(model)
        if operator.name in PRODUCTS and (weights := constant(operator.inputs[1])) is not None
    }


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
    XNNPACK refuses the op because the step is beyond its multiplier's range."""
    ranges: dict[str, Any] = {}
    for graph, operator, constant in operators(model):
        if operator.name not in _CHANNEL_AXIS:
            continue
        axis, activations, biases = _CHANNEL_AXIS[operator.name]
        name, weights = graph.tensors[operator.inputs[1]].name, constant(operator.inputs[1])
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
            wide = np.maximum(np.maximum(bounds, least), ranges[name]["max"] if name in ranges else 0)
            ranges[name] = {"min": -wide, "max": wide}
    return ranges


def _table_statistics(model: bytes) -> dict[str, Any]:
    """A table's range is known without data, and what is looked up has the same."""
    ranges = {}
    for table, output, values in _tables(model):
        ranges[table] = {"min": np.full((1, 1), values.min()), "max": np.full((1, 1), values.max())}
        ranges[output] = {end: value[None] for end, value in ranges[table].items()}
    return ranges
