"""float32 .tflite to the other schemes: ai-edge-quantizer for integers, our own cast for float16. Neither torch nor TensorFlow.

Each function here does one piece of work in a worker child; `plan.py` decides which.
"""

import os
import pickle
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.samples import Samples
from edgekit.errors import ConfigError, ConversionError, UnsupportedOpError
from edgekit.quantize.float16 import to_float16
from edgekit.tflite import flatbuffer

# Ops whose weights are constant and most of the file. XNNPACK computes all of them on integers.
PRODUCTS = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D_TRANSPOSE")
# Without DEPTHWISE_CONV_2D: with dynamic range it has no XNNPACK kernel, and each one would split the delegate.
DYNAMIC_PRODUCTS = ("FULLY_CONNECTED", "CONV_2D", "CONV_2D_TRANSPOSE", "EMBEDDING_LOOKUP")
_INTERFACE = {"float32": 0, "uint8": 3, "int8": 9, "int16": 7}


def calibrate(model: Path, samples_folder: Path, target: Path) -> None:
    """Run `model` on the saved samples and write each tensor's least and largest value to `target`.

    Raises `ConversionError` if the interpreter cannot keep the intermediate tensors.
    """
    from ai_edge_quantizer.calibrator import CalibrationMode

    # Statistics are gathered inside the interpreter, tensor by tensor: 7 times faster than keeping all tensors for Python
    # to look at, and nothing grows with the number of samples.
    mode = CalibrationMode.CALIBRATION_PROFILER_BASED
    quantizer = _quantizer(model, _recipe_everything(16))
    key = flatbuffer.read(model).entry().key
    samples = Samples.load(samples_folder)
    try:
        statistics = quantizer.calibrate({key: samples}, num_threads=os.cpu_count() or 1, mode=mode)
    except (ValueError, RuntimeError) as error:
        raise ConversionError(f"{model.name}: calibration failed ({_text(error)}); check the representative data") from error
    target.write_bytes(pickle.dumps(statistics))


def write_float16(model: Path, target: Path) -> None:
    target.write_bytes(to_float16(model.read_bytes()))


def write_dynamic(model: Path, target: Path) -> None:
    """int8 weights, float32 activations, for matrix products and look-up tables."""
    from ai_edge_quantizer import qtyping

    manager = _manager()
    for name in DYNAMIC_PRODUCTS:
        manager.add_dynamic_config(regex=".*", operation_name=qtyping.TFLOperationName[name], num_bits=8)
    _add_tables(manager, model)
    _write(model, manager.get_quantization_recipe(), _table_statistics(model), target, "dynamic")


def write_integer(
    model: Path, calibration: Path, target: Path, activation_bits: int, products_only: bool, inputs: str, outputs: str
) -> None:
    """int8 weights and integer activations: in all ops that have such a kernel, or in matrix products and tables only.

    `inputs` and `outputs` are the dtypes of the file's float inputs and outputs. Raises `ConversionError`.
    """
    from ai_edge_quantizer import qtyping

    recipe = _recipe_everything(activation_bits)
    if products_only:
        manager = _manager()
        for name in PRODUCTS:
            manager.add_static_config(
                regex=".*", operation_name=qtyping.TFLOperationName[name], activation_num_bits=activation_bits, weight_num_bits=8
            )
        _add_tables(manager, model)
        recipe = manager.get_quantization_recipe()
    statistics = {**pickle.loads(calibration.read_bytes()), **_table_statistics(model)}
    _write(model, recipe, statistics, target, f"int{activation_bits}")
    if (inputs, outputs) != ("float32", "float32"):
        _change_interface(target, inputs, outputs)


def _recipe_everything(activation_bits: int) -> Any:
    """Static quantization of every op that can be, with the file's own inputs and outputs left in float32."""
    from ai_edge_quantizer import qtyping
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    manager = _manager()
    names = qtyping.TFLOperationName
    manager.add_static_config(
        regex=".*", operation_name=names.ALL_SUPPORTED, activation_num_bits=activation_bits, weight_num_bits=8
    )
    for edge in (names.INPUT, names.OUTPUT):
        manager.add_quantization_config(regex=".*", operation_name=edge, algorithm_key=AlgorithmName.NO_QUANTIZE)
    return manager.get_quantization_recipe()


def _manager() -> Any:
    from ai_edge_quantizer import recipe_manager

    return recipe_manager.RecipeManager()


def _quantizer(model: Path, recipe: Any) -> Any:
    os.environ["TQDM_DISABLE"] = "1"
    from ai_edge_quantizer import quantizer

    return quantizer.Quantizer(str(model), recipe)


def _write(model: Path, recipe: Any, statistics: Any, target: Path, what: str) -> None:
    try:
        quantizer = _quantizer(model, recipe)
        result = quantizer.quantize(statistics, enable_progress_report=False)
    except (ValueError, RuntimeError, KeyError, NotImplementedError) as error:
        raise ConversionError(
            f"{model.name}: ai-edge-quantizer cannot make {what} of it ({_text(error)}); choose another scheme"
        ) from error
    target.write_bytes(result.quantized_model)


def _tables(model: Path) -> Iterable[tuple[str, str, np.ndarray]]:
    """Name, output's name and float32 values of each constant look-up table."""
    from ai_edge_litert import schema_py_generated as schema

    data = model.read_bytes()
    buffers = schema.Model.GetRootAs(data, 0)
    for graph in flatbuffer.parse(data, str(model)).subgraphs:
        for operator in graph.operators:
            table = graph.tensors[operator.inputs[0]] if operator.name == "GATHER" else None
            if table is not None and table.data_bytes and table.dtype == "float32":
                values = buffers.Buffers(table.buffer).DataAsNumpy().view(np.float32)
                yield table.name, graph.tensors[operator.outputs[0]].name, values


def _add_tables(manager: Any, model: Path) -> None:
    """GATHER from an int8 table: a quarter of the bytes, and only the rows looked up are made float again."""
    from ai_edge_quantizer import qtyping

    for _, output, _ in _tables(model):
        manager.add_static_config(
            regex=f"^{re.escape(output)}", operation_name=qtyping.TFLOperationName.GATHER, activation_num_bits=8, weight_num_bits=8
        )


def _table_statistics(model: Path) -> dict[str, Any]:
    """A table's range is known without data, and what is looked up has the same."""
    found = {}
    for table, output, values in _tables(model):
        limits = {"min": np.full((1, 1), values.min()), "max": np.full((1, 1), values.max())}
        found[table] = limits
        found[output] = {name: value[None] for name, value in limits.items()}
    return found


def _change_interface(path: Path, inputs: str, outputs: str) -> None:
    from ai_edge_litert import _pywrap_modify_model_interface

    signature = (file := flatbuffer.read(path)).signature(file.entry())
    for wanted, specs, side in ((inputs, signature.inputs, "--inputs"), (outputs, signature.outputs, "--outputs")):
        if wanted != "float32" and not any(spec.dtype == "float32" for spec in specs):
            kinds = ", ".join(f"{spec.name} is {spec.dtype}" for spec in specs)
            raise ConfigError(f"{side} {wanted}: the model has nothing there to quantize ({kinds}); leave {side} out")
    changed = path.with_suffix(".interface")
    status = _pywrap_modify_model_interface.modify_model_interface(str(path), str(changed), _INTERFACE[inputs], _INTERFACE[outputs])
    if status != 0 or not changed.exists():
        raise UnsupportedOpError(
            f"{path.name}: its inputs or outputs cannot become {inputs} and {outputs}; leave --inputs and --outputs out"
        )
    changed.replace(path)


def _text(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
