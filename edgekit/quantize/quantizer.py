"""float32 .tflite to the other schemes: ai-edge-quantizer for integers, our own cast for float16. Neither torch nor TensorFlow.

Each function here does one piece of work in a worker child; `plan.py` decides which.
"""

import itertools
import os
import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.samples import Samples, as_fed
from edgekit.errors import ConversionError
from edgekit.quantize.bias import correct, mean_inputs
from edgekit.quantize.float16 import to_float16
from edgekit.quantize.interface import change_interface
from edgekit.quantize.tree import load, pack, prepare
from edgekit.tflite import flatbuffer

# Ops whose weights are constant and most of the file. XNNPACK computes all of them on integers.
PRODUCTS = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D_TRANSPOSE")
# Without DEPTHWISE_CONV_2D: with dynamic range it has no XNNPACK kernel, and each one would split the delegate.
DYNAMIC_PRODUCTS = ("FULLY_CONNECTED", "CONV_2D", "CONV_2D_TRANSPOSE", "EMBEDDING_LOOKUP")
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
# Calibration rows in memory at a time.
_CHUNK = 32


def calibrate(model: Path, samples_folder: Path, target: Path) -> None:
    """Run `model` on the saved samples and write what `write_integer` needs to know of its float tensors to `target`.

    That is each one's least and largest value over all samples, and the mean by channel of what goes into matrix products.

    Raises `ConversionError` if the model does not run on them or a tensor takes a value that is not finite.
    """
    from ai_edge_quantizer.calibrator import CalibrationMode

    data = prepare(model.read_bytes())
    file = flatbuffer.parse(data, str(model))
    try:
        # Statistics are gathered inside the interpreter, tensor by tensor: 7 times faster than keeping all tensors for Python
        # to look at, and nothing grows with the number of samples.
        statistics = _statistics(data, file.entry().key, samples_folder, CalibrationMode.CALIBRATION_PROFILER_BASED)
        # What the delegate fuses away or a called subgraph computes may be missing; the slow way sees it.
        if _computed(file) - set(statistics):
            slow = _statistics(data, file.entry().key, samples_folder, CalibrationMode.CALIBRATION_PRESERVE_ALL_TENSORS)
            statistics = {**slow, **statistics}
        means = mean_inputs(data, Samples.load(samples_folder))
    except (ValueError, RuntimeError, KeyError) as error:
        raise ConversionError(f"{model.name}: calibration failed ({_text(error)}); check the representative data") from error
    for name in sorted(_computed(file) & set(statistics)):
        if not all(np.isfinite(statistics[name][end]).all() for end in ("min", "max")):
            raise ConversionError(
                f"{model.name}: tensor {name} takes values that are not finite on the representative data; "
                "check the data and the model's weights"
            )
    target.write_bytes(pickle.dumps((statistics, means)))


def _statistics(model: bytes, key: str, samples_folder: Path, mode: Any) -> dict[str, Any]:
    os.environ["TQDM_DISABLE"] = "1"
    from ai_edge_quantizer import recipe_manager
    from ai_edge_quantizer.calibrator import Calibrator
    from ai_edge_quantizer.utils.qsv_utils import min_max_update

    file = flatbuffer.parse(model, "model")
    ranks = {spec.name: len(spec.shape) for spec in file.signature(file.entry()).inputs}
    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(_recipe_everything(16))
    # Without an update of its own it takes a moving average, which clips what the last samples did not reach.
    calibrator = Calibrator(model, num_threads=os.cpu_count() or 1, mode=mode, qsv_update_func=min_max_update)
    for start in range(0, len(Samples.load(samples_folder)), _CHUNK):
        # Mapped anew for each chunk, so that the pages read so far are let go.
        rows = itertools.islice(Samples.load(samples_folder), start, start + _CHUNK)
        fed = [{name: as_fed(np.array(values), ranks[name]) for name, values in row.items()} for row in rows]
        calibrator.calibrate({key: fed}, manager)
    return calibrator.get_model_qsvs()


def _computed(file: flatbuffer.ModelFile) -> set[str]:
    """Names of the float32 tensors that the entry's graph computes or is given."""
    graph = file.subgraphs[file.entry().subgraph]
    indices = {*graph.inputs, *(index for operator in graph.operators for index in operator.outputs if index >= 0)}
    return {graph.tensors[index].name for index in indices if graph.tensors[index].dtype == "float32"}


def write_float16(model: Path, target: Path) -> None:
    """float16 weights; see `to_float16`."""
    target.write_bytes(to_float16(model.read_bytes(), origin=model.name))


def write_dynamic(model: Path, calibration: Path | None, target: Path) -> None:
    """int8 weights, float32 activations, for matrix products and look-up tables.

    `calibration` is not needed; where there is one, it corrects the biases. Raises `ConversionError`.
    """
    from ai_edge_quantizer import qtyping

    data = prepare(model.read_bytes())
    manager = _manager()
    means = pickle.loads(calibration.read_bytes())[1] if calibration is not None else {}
    for name in DYNAMIC_PRODUCTS:
        manager.add_dynamic_config(regex=".*", operation_name=qtyping.TFLOperationName[name], num_bits=8)
    _add_tables(manager, data)
    _write(model, data, manager.get_quantization_recipe(), _table_statistics(data), means, target, "dynamic")


def write_integer(
    model: Path, calibration: Path, target: Path, activation_bits: int, ops: tuple[str, ...] | None, inputs: str, outputs: str
) -> None:
    """int8 weights and integer activations: in every op that has such a form, or in `ops` and look-up tables only.

    `inputs` and `outputs` are the dtypes of the file's float inputs and outputs. Raises `ConversionError`.
    """
    from ai_edge_quantizer import qtyping

    data = prepare(model.read_bytes())
    recipe = _recipe_everything(activation_bits)
    if ops is not None:
        manager = _manager()
        for name in ops:
            manager.add_static_config(
                regex=".*", operation_name=qtyping.TFLOperationName[name], activation_num_bits=activation_bits, weight_num_bits=8
            )
        _add_tables(manager, data)
        _add_embeddings(manager)
        recipe = manager.get_quantization_recipe()
    calibrated, means = pickle.loads(calibration.read_bytes())
    statistics = {**calibrated, **_table_statistics(data), **_weight_statistics(data, calibrated, activation_bits)}
    _write(model, data, recipe, statistics, means, target, f"int{activation_bits}")
    if (inputs, outputs) != ("float32", "float32"):
        change_interface(target, inputs, outputs)


def _recipe_everything(activation_bits: int) -> Any:
    """Static quantization of every op that can be, with the file's own inputs and outputs left in float32."""
    from ai_edge_quantizer import qtyping
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    manager = _manager()
    names = qtyping.TFLOperationName
    manager.add_static_config(
        regex=".*", operation_name=names.ALL_SUPPORTED, activation_num_bits=activation_bits, weight_num_bits=8
    )
    _add_embeddings(manager)
    for edge in (names.INPUT, names.OUTPUT):
        manager.add_quantization_config(regex=".*", operation_name=edge, algorithm_key=AlgorithmName.NO_QUANTIZE)
    return manager.get_quantization_recipe()


def _manager() -> Any:
    from ai_edge_quantizer import recipe_manager

    return recipe_manager.RecipeManager()


def _write(
    model: Path, data: bytes, recipe: Any, statistics: Any, means: Mapping[str, np.ndarray], target: Path, what: str
) -> None:
    os.environ["TQDM_DISABLE"] = "1"
    from ai_edge_quantizer.quantizer import Quantizer

    try:
        result = Quantizer(data, recipe).quantize(statistics, enable_progress_report=False)
    except (ValueError, RuntimeError, KeyError, NotImplementedError) as error:
        raise ConversionError(
            f"{model.name}: ai-edge-quantizer cannot make {what} of it ({_text(error)}); choose another scheme"
        ) from error
    made = bytes(result.quantized_model)
    root = load(made)
    if root is not None:
        correct(root, _product_weights(data), means)
        made = pack(root)
    target.write_bytes(made)


def _product_weights(model: bytes) -> dict[str, np.ndarray]:
    """Constant float32 weights of each matrix product, by the name of its output."""
    found = {}
    for graph, operator, constant in _operators(model):
        if operator.name in _CHANNEL_AXIS and (weights := constant(operator.inputs[1])) is not None:
            found[graph.tensors[operator.outputs[0]].name] = weights
    return found


def _tables(model: bytes) -> Iterable[tuple[str, str, np.ndarray]]:
    """Name, output's name and float32 values of each constant look-up table."""
    for graph, operator, constant in _operators(model):
        if operator.name == "GATHER" and (values := constant(operator.inputs[0])) is not None:
            yield graph.tensors[operator.inputs[0]].name, graph.tensors[operator.outputs[0]].name, values


def _operators(model: bytes) -> Iterator[tuple[flatbuffer.Subgraph, flatbuffer.Operator, Callable[[int], np.ndarray | None]]]:
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


def _weight_statistics(model: bytes, calibrated: Mapping[str, Any], activation_bits: int) -> dict[str, Any]:
    """Ranges (by channel) of the weights that have channels of nearly no weight, made wide enough for integers.

    A bias is stored in steps of input scale times weight scale in int32. Where training has let a channel's weights die,
    as in MobileNet with its batch norm folded in, those steps are so small that the bias does not fit and is lost, and
    XNNPACK refuses the op because the step is beyond its multiplier's range.
    """
    found: dict[str, Any] = {}
    for graph, operator, constant in _operators(model):
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


def _add_tables(manager: Any, model: bytes) -> None:
    """GATHER from an int8 table: a quarter of the bytes, and only the rows looked up are made float again."""
    from ai_edge_quantizer import qtyping

    for _, output, _ in _tables(model):
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


def _text(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
