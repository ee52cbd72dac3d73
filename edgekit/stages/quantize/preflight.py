"""What a scheme will cost, told before the wait for it."""

import functools
import time
from collections import Counter
from pathlib import Path

import numpy as np

from edgekit.stages.quantize.schemes import Scheme
from edgekit.system.worker import Worker
from edgekit.tflite import flatbuffer
from edgekit.tflite.tree import pack

# A product of the size that models are made of; int16 takes some milliseconds for it.
_ROWS, _FEATURES = 64, 384
_RUNS = 15
_STEP = 2.0**-7


def preflight(model: Path, scheme: Scheme) -> str | None:
    """One line on what int16x8 will make of float32 `model`: ops without such a form, milliseconds on CPU, what to take instead.

    None for the other schemes. Milliseconds are the model's multiply-accumulates at the speed that a small matrix product
    has on this machine, measured in a worker child once for the process; convolutions on reference kernels may take twice that.
    Raises `ModelFormatError`.
    """
    if scheme.activations != "int16":
        return None
    graph = (file := flatbuffer.read(model)).subgraphs[file.entry().subgraph]
    count = multiply_accumulates(graph)
    told = []
    if missing := without_int16(graph):
        told.append("stay in float32 for want of an int16 form: " + ", ".join(f"{name} ×{n}" for name, n in missing.items()))
    if count:
        integer, floating = (count / rate for rate in rates())
        told.append(
            f"on CPU no delegate runs int16 activations: some {_shown(integer)} ms an inference or more "
            f"by the reference kernels, float32 {_shown(floating)} ms"
        )
    return f"{scheme.name}: {'; '.join([*told, 'int8 or dynamic is the faster choice'])}"


def without_int16(graph: flatbuffer.Subgraph) -> dict[str, int]:
    """Number of ops on float32 activations that ai-edge-quantizer has no int16 form of, by name; its own policy is asked."""
    from ai_edge_quantizer import algorithm_manager, qtyping
    from ai_edge_quantizer.utils.tfl_flatbuffer_utils import TFL_OP_CODE_TO_NAME

    config = qtyping.OpQuantizationConfig(
        activation_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, symmetric=True),
        weight_tensor_config=qtyping.TensorQuantizationConfig(
            num_bits=8, symmetric=True, granularity=qtyping.QuantGranularity.CHANNELWISE
        ),
        compute_precision=qtyping.ComputePrecision.INTEGER,
    )
    found: Counter[str] = Counter()
    for operator in graph.operators:
        ends = [graph.tensors[index] for index in (*operator.inputs, *operator.outputs) if index >= 0]
        if not any(tensor.dtype == "float32" and not tensor.data_bytes for tensor in ends):
            continue
        name = TFL_OP_CODE_TO_NAME.get(getattr(qtyping.BuiltinOperator, operator.name, None))
        try:
            if name is None:
                raise ValueError
            key = algorithm_manager.AlgorithmName.MIN_MAX_UNIFORM_QUANT
            algorithm_manager.check_op_quantization_config(key, name, config)
        except ValueError:
            found[operator.name] += 1
    return dict(found.most_common())


def multiply_accumulates(graph: flatbuffer.Subgraph) -> int:
    """Of the graph's matrix products and convolutions in one inference; a free axis counts as 1."""
    total = 0
    for operator in graph.operators:
        shapes = [[abs(size) for size in graph.tensors[index].shape] if index >= 0 else [] for index in operator.inputs]
        outputs = int(np.prod([abs(size) for size in graph.tensors[operator.outputs[0]].shape])) if operator.outputs else 0
        if operator.name == "FULLY_CONNECTED":
            total += outputs * shapes[1][-1]
        elif operator.name == "CONV_2D":
            total += outputs * int(np.prod(shapes[1][1:]))
        elif operator.name == "DEPTHWISE_CONV_2D":
            total += outputs * int(np.prod(shapes[1][1:3]))
        elif operator.name == "TRANSPOSE_CONV":
            # Each input value goes to every place of its kernel.
            total += int(np.prod(shapes[2])) * int(np.prod(shapes[1][:3]))
        elif operator.name == "BATCH_MATMUL":
            total += int(np.prod(shapes[0])) * outputs // max(1, int(np.prod(shapes[0][:-1])))
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
    times = []
    for _ in range(_RUNS):
        started = time.perf_counter()
        interpreter.invoke()
        times.append(time.perf_counter() - started)
    return float(_ROWS * _FEATURES**2 / (np.median(times) * 1e3))


def _product(activations: str, weights: str, biases: str) -> bytes:
    """A file with one FULLY_CONNECTED; with a bias, because without one int16 takes a faster kernel that models do not get."""
    from ai_edge_litert import schema_py_generated as schema

    def tensor(name: str, shape: list[int], dtype: str, buffer: int, step: float, scales: int = 1) -> object:
        made = schema.TensorT(name=name, shape=shape, type=getattr(schema.TensorType, dtype.upper()), buffer=buffer)
        if activations != "float32":
            made.quantization = schema.QuantizationParametersT(scale=[step] * scales, zeroPoint=[0] * scales)
        return made

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
