"""What each target runs, as data with its sources, and which ops of a file stand in the way there."""

import enum
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from edgekit.tflite.flatbuffer import ModelFile, Operator, Subgraph

_LITERT = "https://github.com/google-ai-edge/LiteRT/blob/f67457790c9c2ab67347d6fe53270e8d3df20868/tflite/delegates"
_MICRO = "https://github.com/tensorflow/tflite-micro/blob/90b983c2b3f1480642e040bbd2ddb37b998f3424/tensorflow/lite/micro"
_BYTES = {"float16": 2, "bfloat16": 2, "int16": 2, "uint16": 2, "float32": 4, "int32": 4, "uint32": 4, "float64": 8, "int64": 8}
_FLOATS = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")
_CUSTOM, _UNLISTED = "custom op", "not on its list"
# Why an op is in the way whatever its dtype is.
FOREIGN = (_CUSTOM, _UNLISTED)
_EIGHT = ("int8", "uint8", "bool")


class Hardware(enum.StrEnum):
    """What will run the file."""

    CPU = "cpu"
    GPU = "gpu"
    EDGETPU = "edgetpu"
    HEXAGON = "hexagon"
    MICROCONTROLLER = "microcontroller"


@dataclass(frozen=True)
class Target:
    """What a target asks of a file.

    `ops` are the built-in ops that it takes, by the schema's names; None where every op has a kernel. `elsewhere` says what
    becomes of the others. `integer_only` allows no float in any op, `eight_bit` no wider activations than 8 bits;
    `interface` are the dtypes of inputs and outputs, None for any. `most_axes` bounds the rank of an op's tensors. `needs`
    are sentences for people; `source` is where `ops` comes from and `read` which state of it.
    """

    hardware: Hardware
    title: str
    needs: tuple[str, ...]
    source: str
    read: str
    ops: frozenset[str] | None = None
    elsewhere: str = ""
    integer_only: bool = False
    eight_bit: bool = False
    fixed_shapes: bool = False
    interface: tuple[str, ...] | None = None
    most_axes: int | None = None


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


TARGETS: Mapping[Hardware, Target] = MappingProxyType(
    {
        target.hardware: target
        for target in (
            Target(
                Hardware.CPU,
                "a CPU (XNNPACK)",
                needs=(
                    "every built-in op has a kernel; what counts is how many of them XNNPACK takes, and in how many pieces",
                    "whether 8-bit weights alone or integers throughout are faster depends on the ops, so it is measured",
                ),
                source="https://ai.google.dev/edge/litert/models/model_optimization",
                read="measured here, not listed",
            ),
            Target(
                Hardware.GPU,
                "a GPU (OpenCL, OpenGL ES or Metal)",
                needs=(
                    "computes in float16 or float32; float16 weights are read as they are",
                    "an int8 file is emulated in float, so it is smaller there but not faster",
                    "fixed shapes, batch 1, tensors of at most 4 axes",
                    "an op that is not on the delegate's list goes back to the CPU, and each such change of place costs a copy",
                ),
                source=f"{_LITERT}/gpu/common/model_builder.cc",
                read="LiteRT f674577 of 2026-08-21",
                ops=_names(
                    "ABS ADD ADD_N AVERAGE_POOL_2D BATCH_MATMUL CAST CONCATENATION CONV_2D COS CUMSUM DENSIFY DEPTHWISE_CONV_2D "
                    "DEPTH_TO_SPACE DEQUANTIZE DIV EQUAL ELU EXP FLOOR FLOOR_DIV FLOOR_MOD FULLY_CONNECTED GATHER GELU GREATER "
                    "GREATER_EQUAL HARD_SWISH LESS LESS_EQUAL LOGISTIC LOG LOGICAL_AND LSTM MAXIMUM MAX_POOL_2D MEAN MINIMUM "
                    "MIRROR_PAD MUL NEG NOT_EQUAL ONE_HOT PACK PAD PADV2 POW REDUCE_MAX REDUCE_MIN REDUCE_PROD QUANTIZE RELU "
                    "RELU6 RELU_0_TO_1 RELU_N1_TO_1 LEAKY_RELU PRELU RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR RSQRT "
                    "SELECT SELECT_V2 SIGN SIN SLICE SOFTMAX SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE SQUARED_DIFFERENCE "
                    "STRIDED_SLICE SUB SUM TANH TILE TRANSPOSE TRANSPOSE_CONV UNPACK"
                ),
                elsewhere="run on the CPU instead",
                fixed_shapes=True,
                most_axes=4,
            ),
            Target(
                Hardware.EDGETPU,
                "an Edge TPU",
                needs=(
                    "int8 in every op, inputs and outputs int8 or uint8, scales for each channel of a weight",
                    "fixed shapes; constants known when it is compiled; at most 3 axes longer than 1",
                    "edgetpu_compiler maps ops up to the first one that it cannot take, and leaves all behind it to the CPU",
                ),
                source="https://coral.ai/docs/edgetpu/models-intro/#supported-operations",
                read=(
                    "the table as of 2019 from a copy of it, with QUANTIZE, TRANSPOSE and TRANSPOSE_CONV, which the logs of "
                    "edgetpu_compiler 16 in google-coral/edgetpu issues 342, 433 and 686 name as supported, read 2026-11-21; the "
                    "page may list more by now, and the compiler's own log decides"
                ),
                ops=_names(
                    "ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED L2_NORMALIZATION LOGISTIC "
                    "MAXIMUM MAX_POOL_2D MEAN MINIMUM MUL PAD QUANTIZE RELU RELU6 RELU_N1_TO_1 RESHAPE RESIZE_BILINEAR "
                    "RESIZE_NEAREST_NEIGHBOR SLICE SOFTMAX SPACE_TO_DEPTH SPLIT SQUEEZE STRIDED_SLICE SUB TANH TRANSPOSE "
                    "TRANSPOSE_CONV"
                ),
                elsewhere="run on the CPU instead, as do all behind the first of them",
                integer_only=True,
                eight_bit=True,
                fixed_shapes=True,
                interface=("int8", "uint8"),
            ),
            Target(
                Hardware.HEXAGON,
                "a Hexagon DSP",
                needs=(
                    "int8 in every op, scales for each channel of a weight, tensors of at most 4 axes, fixed shapes, batch 1",
                    "this is the list of TF Lite's own delegate; Qualcomm's QNN delegate is another one and has its own",
                ),
                source=f"{_LITERT}/hexagon/README.md",
                read="LiteRT f674577 of 2026-08-21",
                ops=_names(
                    "ADD ARG_MAX ARG_MIN AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTH_TO_SPACE DEPTHWISE_CONV_2D FULLY_CONNECTED "
                    "HARD_SWISH L2_NORMALIZATION LOGISTIC MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL NEG PACK PAD QUANTIZE "
                    "RELU RELU6 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR RSQRT SLICE SOFTMAX SPACE_TO_DEPTH SPLIT "
                    "SQUARED_DIFFERENCE STRIDED_SLICE SUB TANH TRANSPOSE TRANSPOSE_CONV"
                ),
                elsewhere="run on the CPU instead",
                integer_only=True,
                eight_bit=True,
                fixed_shapes=True,
                most_axes=4,
            ),
            Target(
                Hardware.MICROCONTROLLER,
                "a microcontroller (TFLite Micro)",
                needs=(
                    "int8 in every op: float kernels exist, but few microcontrollers have room and time for them",
                    "every op must be registered with the resolver: one that has no kernel stops the model, nothing falls back",
                    "the file lies in flash, the tensors that are alive at one time in the arena in RAM",
                ),
                source=f"{_MICRO}/micro_mutable_op_resolver.h",
                read="tflite-micro 90b983c of 2026-08-20",
                ops=_names(
                    "ABS ADD ADD_N ARG_MAX ARG_MIN ASSIGN_VARIABLE AVERAGE_POOL_2D BATCH_MATMUL BATCH_TO_SPACE_ND BROADCAST_ARGS "
                    "BROADCAST_TO CALL_ONCE CAST CEIL CONCATENATION CONV_2D COS CUMSUM DEPTH_TO_SPACE DEPTHWISE_CONV_2D "
                    "DEQUANTIZE DIV DYNAMIC_UPDATE_SLICE EMBEDDING_LOOKUP ELU EQUAL EXP EXPAND_DIMS FILL FLOOR FLOOR_DIV "
                    "FLOOR_MOD FULLY_CONNECTED GATHER GATHER_ND GREATER GREATER_EQUAL HARD_SWISH IF L2_NORMALIZATION L2_POOL_2D "
                    "LEAKY_RELU LESS LESS_EQUAL LOG LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC LOG_SOFTMAX MAXIMUM MAX_POOL_2D "
                    "MIRROR_PAD MEAN MINIMUM MUL NEG NOT_EQUAL PACK PAD PADV2 PRELU QUANTIZE READ_VARIABLE REDUCE_ALL REDUCE_MAX "
                    "REDUCE_MIN RELU RELU6 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 ROUND RSQRT SELECT_V2 "
                    "SHAPE SIN SLICE SOFTMAX SPACE_TO_BATCH_ND SPACE_TO_DEPTH SPLIT SPLIT_V SQUEEZE SQRT SQUARE "
                    "SQUARED_DIFFERENCE STRIDED_SLICE SUB SUM SVDF TANH TRANSPOSE_CONV TRANSPOSE UNPACK "
                    "UNIDIRECTIONAL_SEQUENCE_LSTM VAR_HANDLE WHILE ZEROS_LIKE"
                ),
                elsewhere="stop the model: nothing falls back",
                integer_only=True,
            ),
        )
    }
)


@dataclass(frozen=True)
class Obstacle:
    """`count` ops called `op` that a target does not run, and why."""

    op: str
    count: int
    reason: str

    def __str__(self) -> str:
        return f"{self.op} ×{self.count} ({self.reason})"


@dataclass(frozen=True)
class Fit:
    """How a file suits a target: of its `ops`, those that it does not run there, and what `interface` says of the whole file.

    `float_ops` counts the ops with a float tensor other than the file's own inputs and outputs' conversions. `arena_bytes`
    is the most that tensors take which are alive at one time: what a runtime needs at least, without its own bookkeeping.
    """

    hardware: Hardware
    ops: int
    float_ops: int
    obstacles: tuple[Obstacle, ...]
    interface: tuple[str, ...]
    arena_bytes: int

    @property
    def in_the_way(self) -> int:
        return sum(obstacle.count for obstacle in self.obstacles)


def fit(target: Target, file: ModelFile) -> Fit:
    """Compare every op of `file` with what `target` takes."""
    found: Counter[tuple[str, str]] = Counter()
    ops = floats = 0
    for graph in file.subgraphs:
        constant = {number for number, tensor in enumerate(graph.tensors) if tensor.data_bytes}
        for operator in graph.operators:
            # The float16 weights of a file are unpacked when it is loaded.
            if operator.name == "DEQUANTIZE" and all(index in constant for index in operator.inputs):
                continue
            ops += 1
            floats += any(dtype in _FLOATS for dtype in _dtypes(graph, operator))
            if reason := _reason(target, graph, operator, constant):
                found[operator.name, reason] += 1
    ranked = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    obstacles = tuple(Obstacle(op, count, reason) for (op, reason), count in ranked)
    return Fit(target.hardware, ops, floats, obstacles, _interface(target, file), _arena(file))


def _reason(target: Target, graph: Subgraph, operator: Operator, constant: set[int]) -> str:
    if operator.custom:
        return _CUSTOM if target.ops is not None or operator.flex else ""
    if target.ops is not None and operator.name not in target.ops:
        return _UNLISTED
    dtypes = _dtypes(graph, operator)
    if target.integer_only and (wrong := next((dtype for dtype in dtypes if dtype in _FLOATS), None)):
        return f"in {wrong}"
    if target.eight_bit:
        flows = [index for index in (*operator.inputs, *operator.outputs) if index != -1 and index not in constant]
        wide = next((dtype for index in flows if (dtype := graph.tensors[index].dtype) not in _EIGHT), None)
        if wide:
            return f"in {wide}"
    indices = [index for index in (*operator.inputs, *operator.outputs) if index != -1]
    if target.most_axes is not None and any(len(graph.tensors[index].shape) > target.most_axes for index in indices):
        return f"more than {target.most_axes} axes"
    if target.fixed_shapes and any(-1 in graph.tensors[index].shape for index in indices):
        return "free shape"
    return ""


def _dtypes(graph: Subgraph, operator: Operator) -> tuple[str, ...]:
    return tuple(graph.tensors[index].dtype for index in (*operator.inputs, *operator.outputs) if index != -1)


def _interface(target: Target, file: ModelFile) -> tuple[str, ...]:
    if target.interface is None:
        return ()
    signature = file.signature(file.entry())
    return tuple(
        f"{place} {spec.name} is {spec.dtype}, not {' or '.join(target.interface)}"
        for place, specs in (("input", signature.inputs), ("output", signature.outputs))
        for spec in specs
        if spec.dtype not in target.interface
    )


def _arena(file: ModelFile) -> int:
    """The most bytes of tensors alive at one time in the first subgraph; a free axis, such as the batch, counts as 1."""
    graph = file.subgraphs[0]
    last = len(graph.operators)
    born: dict[int, int] = dict.fromkeys(graph.inputs, 0)
    dies: dict[int, int] = dict.fromkeys(graph.inputs, 0)
    for place, operator in enumerate(graph.operators):
        for index in operator.inputs:
            dies[index] = place
        for index in operator.outputs:
            born.setdefault(index, place)
            dies.setdefault(index, place)
    for index in graph.outputs:
        dies[index] = last
    sizes = {}
    for index in born:
        tensor = graph.tensors[index]
        if tensor.data_bytes or index == -1:
            continue
        count = _BYTES.get(tensor.dtype, 1)
        for size in tensor.shape:
            count *= max(size, 1)
        sizes[index] = count
    return max(
        (sum(size for index, size in sizes.items() if born[index] <= place <= dies[index]) for place in range(last)), default=0
    )
