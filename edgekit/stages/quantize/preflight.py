"""What a scheme will cost, told before the wait for it."""

import functools
import math
import timeit
from collections import Counter
from pathlib import Path

import numpy as np

from edgekit.stages.quantize.moves import WIDE
from edgekit.stages.quantize.schemes import Scheme
from edgekit.system.worker import Worker
from edgekit.tflite import flatbuffer, schema
from edgekit.tflite.tree import pack

# A product of the size that models are made of; int16 takes some milliseconds for it.
_ROWS, _FEATURES = 64, 384
_RUNS = 15
# Which axes of which input an output value is a sum over.
_FOR_OUTPUT = {
    "FULLY_CONNECTED": (1, slice(-1, None)),
    "CONV_2D": (1, slice(1, None)),
    "DEPTHWISE_CONV_2D": (1, slice(1, 3)),
    "BATCH_MATMUL": (0, slice(-1, None)),
}
_STEP = 2.0**-7


def preflight(model: Path, scheme: Scheme) -> str | None:
    """One line on what int16x8 will make of float32 `model`: ops without such a form, milliseconds on CPU, what to take instead.

    None for the other schemes. Milliseconds are the model's multiply-accumulates at the speed that a small matrix product
    has on this machine, measured in a worker child once for the process; convolutions on reference kernels may take twice that.
    Raises `ModelFormatError`."""
    if scheme.activations != "int16":
        return None
    graph = (file := flatbuffer.read(model)).subgraphs[file.entry().subgraph]
    count = multiply_accumulates(graph)
    costs = []
    if missing := without_int16(graph):
        costs.append("stay in float32 for want of an int16 form: " + ", ".join(f"{name} ×{n}" for name, n in missing.items()))
    if count:
        integer, floating = (count / rate for rate in rates())
        costs.append(
            f"on CPU no delegate runs int16 activations: some {_shown(integer)} ms an inference or more "
            f"by the reference kernels, float32 {_shown(floating)} ms"
        )
    return f"{scheme.name}: {'; '.join([*costs, 'int8 or dynamic is the faster choice'])}"


def without_int16(graph: flatbuffer.Subgraph) -> dict[str, int]:
    """Number of ops on float32 activations that have no int16 form, by name; ai-edge-quantizer's own policy is asked."""
    from ai_edge_quantizer import algorithm_manager, qtyping
    from ai_edge_quantizer.utils.tfl_flatbuffer_utils import TFL_OP_CODE_TO_NAME

    config = qtyping.OpQuantizationConfig(
        activation_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, symmetric=True),
        weight_tensor_config=qtyping.TensorQuantizationConfig(
            num_bits=8, symmetric=True, granularity=qtyping.QuantGranularity.CHANNELWISE
        ),
        compute_precision=qtyping.ComputePrecision.INTEGER,
    )
    without: Counter[str] = Counter()
    for operator in graph.operators:
        ends = [graph.tensors[index] for index in (*operator.inputs, *operator.outputs) if index >= 0]
        if operator.name in WIDE or not any(tensor.dtype == "float32" and not tensor.data_bytes for tensor in ends):
            continue
        name = TFL_OP_CODE_TO_NAME.get(getattr(qtyping.BuiltinOperator, operator.name, None))
        try:
            if name is None:
                raise ValueError
            key = algorithm_manager.AlgorithmName.MIN_MAX_UNIFORM_QUANT
            algorithm_manager.check_op_quantization_config(key, name, config)
        except ValueError:
            without[operator.name] += 1
    return dict(without.most_common())


def multiply_accumulates(graph: flatbuffer.Subgraph) -> int:
    """Of the graph's matrix products and convolutions in one inference; a free axis counts as 1."""
    total = 0
    for operator in graph.operators:
        shapes = [[abs(size) for size in graph.tensors[index].shape] if index >= 0 else [] for index in operator.inputs]
        outputs = math.prod(abs(size) for size in graph.tensors[operator.outputs[0]].shape) if operator.outputs else 0
        if operator.name in _FOR_OUTPUT:
            place, axes = _FOR_OUTPUT[operator.name]
            total += outputs * math.prod(shapes[place][axes])
        elif operator.name == "TRANSPOSE_CONV":
            # Each input value goes to every place of its kernel.
            total += math.prod(shapes[2]) * math.prod(shapes[1][:3])
    return total


@functools.cache
def rates() -> tuple[float, float]:
    """Multiply-accumulates a millisecond of int16 activations with int8 weights, and of float32."""
    return Worker().run(measure_rates).value


def measure_rates() -> tuple[float, float]:
    """`rates`, in a worker child."""
    return _rate(_product("int16", "int8", "int64")), _rate(_product("float32", "float32", "float32"))


def _rate(model: bytes) -> float:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model, num_threads=2)
    interpreter.allocate_tensors()
    times = timeit.repeat(interpreter.invoke, number=1, repeat=_RUNS)
    return float(_ROWS * _FEATURES**2 / (np.median(times) * 1e3))


def _product(activations: str, weights: str, biases: str) -> bytes:
    """A file with one FULLY_CONNECTED; with a bias, because without one int16 takes a faster kernel that models do not get."""

    def tensor(name: str, shape: list[int], dtype: str, buffer: int, step: float, scales: int = 1) -> object:
        parameters = schema.QuantizationParametersT(scale=[step] * scales, zeroPoint=[0] * scales)
        kind, quantization = getattr(schema.TensorType, dtype.upper()), None if activations == "float32" else parameters
        return schema.TensorT(name=name, shape=shape, type=kind, buffer=buffer, quantization=quantization)

    code = schema.BuiltinOperator.FULLY_CONNECTED
    operator = schema.OperatorT(opcodeIndex=0, inputs=[0, 1, 2], outputs=[3])
    operator.builtinOptions = schema.FullyConnectedOptionsT()
    operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    graph = schema.SubGraphT(inputs=[0], outputs=[3], operators=[operator], name="main")
    graph.tensors = [
        tensor("x", [_ROWS, _FEATURES], activations, 0, _STEP),
        tensor("w", [_FEATURES, _FEATURES], weights, 1, _STEP, _FEATURES),
        tensor("b", [_FEATURES], biases, 2, _STEP**2, _FEATURES),
        tensor("y", [_ROWS, _FEATURES], activations, 0, _STEP),
    ]
    values = np.random.default_rng(0).integers(-127, 128, (_FEATURES, _FEATURES))
    constants = (values.astype(weights), values[0].astype(biases))
    buffers = [schema.BufferT(), *(schema.BufferT(data=constant.reshape(-1).view(np.uint8)) for constant in constants)]
    codes = [schema.OperatorCodeT(deprecatedBuiltinCode=code, builtinCode=code, version=11)]
    return pack(schema.ModelT(version=3, description="product", buffers=buffers, operatorCodes=codes, subgraphs=[graph]))


def _shown(milliseconds: float) -> str:
    return f"{milliseconds:.0f}" if milliseconds >= 10 else f"{milliseconds:.2g}"
