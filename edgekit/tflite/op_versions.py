"""Which TensorFlow Lite runtime first has the op versions that a file uses.

Facts from LiteRT's `runtime_version.cc` and `op_version.cc`, for the ops that classifiers hold:
https://github.com/google-ai-edge/LiteRT/tree/main/tflite/converter/tools/versioning
"""

import re
from dataclasses import dataclass

from edgekit.tflite.flatbuffer import ModelFile, Operator, Subgraph

# Per op the runtime that first has version 1, 2, ...; a dash where no release is known for that version alone.
_FIRST = {
    "ABS": "1.13 2.4 2.5 2.6 2.12",
    "ADD": "1.5 1.14 2.4 2.6 2.13 2.23",
    "ADD_N": "1.14",
    "ARG_MAX": "1.9 1.14 2.9",
    "ARG_MIN": "1.9 1.14 2.9",
    "ASSIGN_VARIABLE": "2.6",
    "AVERAGE_POOL_2D": "1.5 1.14 2.3",
    "BATCH_MATMUL": "2.3 2.3 2.4 2.5",
    "BATCH_TO_SPACE_ND": "1.6 1.14 2.3 2.12",
    "BROADCAST_ARGS": "2.6",
    "BROADCAST_TO": "- 2.5 2.5",
    "CALL_ONCE": "2.5",
    "CAST": "1.5 2.7 2.8 2.9 2.12 2.15 2.17 2.21",
    "CEIL": "1.14",
    "CONCATENATION": "1.5 1.14 2.3 2.14 2.21 2.23",
    "CONV_2D": "1.5 1.14 1.14 2.3 2.4 2.9 2.11 2.15",
    "CONV_3D": "2.5",
    "COS": "1.14 2.23",
    "CUMSUM": "2.4",
    "DEPTHWISE_CONV_2D": "1.5 1.12 1.14 2.2 2.3 2.3 2.11",
    "DEPTH_TO_SPACE": "2.1 2.5",
    "DEQUANTIZE": "1.13 1.14 1.15 2.2 2.7 2.18 2.21 2.22",
    "DIV": "1.6 2.3",
    "DYNAMIC_UPDATE_SLICE": "2.9 2.17 2.19 2.20 2.21 2.22",
    "ELU": "1.14",
    "EMBEDDING_LOOKUP": "1.13 1.14 1.14 2.18 2.21",
    "EQUAL": "1.14 1.14 2.3 2.13 2.21",
    "EXP": "1.7 2.12",
    "EXPAND_DIMS": "1.10",
    "FILL": "1.13 2.3 2.5 2.12",
    "FLOOR": "1.9",
    "FLOOR_DIV": "1.14 1.14 2.13",
    "FLOOR_MOD": "1.13 2.13",
    "FULLY_CONNECTED": "1.5 1.10 1.14 1.14 2.0 2.1 2.3 2.3 2.3 2.11 2.15 2.17 2.18 2.21",
    "GATHER": "1.6 1.14 1.15 2.4 2.5 2.13 2.15",
    "GATHER_ND": "1.14 2.3 2.5 2.13 2.16",
    "GELU": "2.9 2.9",
    "GREATER": "1.14 1.14",
    "GREATER_EQUAL": "1.14 1.14 2.13",
    "HARD_SWISH": "1.15",
    "IF": "1.15",
    "L2_NORMALIZATION": "1.5 1.14",
    "LEAKY_RELU": "1.13 2.3",
    "LESS": "1.14 1.14 2.13",
    "LESS_EQUAL": "1.14 1.14",
    "LOG": "1.14 2.15",
    "LOGICAL_AND": "1.11",
    "LOGICAL_NOT": "1.11",
    "LOGICAL_OR": "1.11",
    "LOGISTIC": "1.14 1.14 2.3",
    "LOG_SOFTMAX": "1.14 1.14",
    "LSTM": "1.7 1.10 1.14 2.3",
    "MAXIMUM": "1.14 1.14 2.3 2.3",
    "MAX_POOL_2D": "1.5 1.14 2.3",
    "MEAN": "1.6 1.14 2.4",
    "MINIMUM": "1.14 1.14 2.3 2.3",
    "MIRROR_PAD": "1.13 2.3 2.12",
    "MUL": "1.5 1.14 1.15 2.3 2.6 2.11 2.13 2.23",
    "NEG": "1.9",
    "NOT_EQUAL": "1.14 1.14 2.3 2.21",
    "ONE_HOT": "1.11",
    "PACK": "1.11 1.14 2.3 2.13",
    "PAD": "1.5 1.14 2.4 2.6 2.20",
    "PADV2": "1.9 1.14 2.4 2.6 2.20",
    "POW": "1.10",
    "PRELU": "1.8",
    "QUANTIZE": "1.14 1.15 2.7 2.21 2.21 2.21",
    "RANGE": "1.13 2.14",
    "READ_VARIABLE": "2.6",
    "REDUCE_ALL": "2.6",
    "REDUCE_ANY": "1.11",
    "REDUCE_MAX": "1.11 1.14 2.5",
    "REDUCE_MIN": "1.11 1.14 2.5",
    "REDUCE_PROD": "1.11 2.6",
    "RELU": "1.5 2.1 2.5",
    "RELU6": "1.5 1.14 2.5",
    "RESHAPE": "1.5",
    "RESIZE_BILINEAR": "1.7 1.14 2.2 2.5",
    "RESIZE_NEAREST_NEIGHBOR": "1.13 1.14 2.3 2.4",
    "REVERSE_V2": "1.14 2.2 2.5",
    "ROUND": "1.14",
    "RSQRT": "1.10 2.5 2.15",
    "SCATTER_ND": "2.1",
    "SELECT": "1.14 1.14 2.12 2.12",
    "SELECT_V2": "2.2 2.12",
    "SHAPE": "1.10",
    "SIGN": "2.11 2.12",
    "SIN": "1.9 2.23",
    "SLICE": "1.14 1.14 1.14 2.4 2.5 2.14 2.21 2.23",
    "SOFTMAX": "1.5 1.14 2.3 2.23",
    "SPACE_TO_BATCH_ND": "1.6 1.14 2.3 2.12",
    "SPACE_TO_DEPTH": "1.5 1.14",
    "SPLIT": "1.5 1.14 1.14 2.3",
    "SPLIT_V": "1.13 2.3",
    "SQRT": "1.10 2.21",
    "SQUARE": "1.12",
    "SQUARED_DIFFERENCE": "1.13 2.5",
    "SQUEEZE": "1.6 2.5",
    "STABLEHLO_COMPOSITE": "2.17",
    "STRIDED_SLICE": "1.6 1.14 2.1 2.2 2.5 2.6 2.14 2.14",
    "SUB": "1.6 1.14 2.3 2.4 2.4",
    "SUM": "1.10 1.15",
    "SVDF": "1.5 1.14 2.2 2.3",
    "TANH": "1.14 1.14 2.3",
    "TILE": "1.10 2.2 2.8",
    "TOPK_V2": "1.7 1.14 2.13",
    "TRANSPOSE": "1.6 1.14 1.15 2.3 2.4 2.12 - 2.22 2.23",
    "TRANSPOSE_CONV": "1.9 2.2 2.3 2.13 2.15",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "1.13 1.14 2.3 2.12",
    "UNPACK": "1.11 1.14 2.2 2.3 2.22",
    "VAR_HANDLE": "2.6",
    "WHERE": "1.14 2.8",
    "WHILE": "1.15",
    "ZEROS_LIKE": "1.12",
}
# Versions that an op needs for a first input of int8 and of int16; 0 where that dtype needs none of its own.
_INTEGER = {
    "ADD": (2, 3),
    "AVERAGE_POOL_2D": (2, 3),
    "BATCH_MATMUL": (2, 3),
    "CONCATENATION": (2, 3),
    "CONV_2D": (3, 4),
    "DEPTHWISE_CONV_2D": (3, 5),
    "DEQUANTIZE": (2, 3),
    "EQUAL": (2, 5),
    "FULLY_CONNECTED": (4, 7),
    "GATHER": (2, 4),
    "GATHER_ND": (0, 3),
    "LEAKY_RELU": (0, 2),
    "LOGISTIC": (2, 3),
    "MAXIMUM": (2, 4),
    "MAX_POOL_2D": (2, 3),
    "MEAN": (2, 3),
    "MINIMUM": (2, 4),
    "MUL": (2, 4),
    "NOT_EQUAL": (2, 4),
    "PACK": (2, 3),
    "PAD": (2, 3),
    "PADV2": (2, 3),
    "REDUCE_MAX": (2, 3),
    "REDUCE_MIN": (2, 3),
    "RELU": (2, 3),
    "RELU6": (2, 3),
    "RESIZE_BILINEAR": (2, 4),
    "RESIZE_NEAREST_NEIGHBOR": (2, 4),
    "RSQRT": (2, 3),
    "SLICE": (2, 4),
    "SOFTMAX": (2, 3),
    "STRIDED_SLICE": (2, 0),
    "SUB": (2, 5),
    "TANH": (2, 3),
    "TILE": (3, 0),
    "TRANSPOSE": (2, 5),
    "UNPACK": (2, 4),
}
# Versions for a float32 input with int8 weights: one scale, and one for each channel, which older runtimes would misread.
_HYBRID = {"CONV_2D": (2, 5), "DEPTHWISE_CONV_2D": (4, 6), "FULLY_CONNECTED": (3, 12)}
_INT4_WEIGHTS = {"CONV_2D": 7, "DEPTHWISE_CONV_2D": 7, "EMBEDDING_LOOKUP": 4, "FULLY_CONNECTED": 10}


@dataclass(frozen=True)
class OpVersion:
    """One op version that a file uses: `stated` in the file, `needed` by its tensors where that is more, else the same.

    `runtime` is the TensorFlow Lite release that first has it ("2.16"), empty where that is not known.
    """

    name: str
    stated: int
    needed: int
    runtime: str


@dataclass(frozen=True)
class Requirements:
    """`minimum` is the oldest runtime that has all known ops of `ops`; those in `unknown`, custom and Flex ops come on top."""

    minimum: str
    ops: tuple[OpVersion, ...]
    unknown: tuple[str, ...]
    custom: tuple[str, ...]
    flex: tuple[str, ...]


def requirements(file: ModelFile) -> Requirements:
    """What a runtime has to have for `file`, op by op, sorted by runtime and name."""
    found = set()
    for graph in file.subgraphs:
        for operator in graph.operators:
            if not operator.custom:
                needed = max(operator.version, _needed(graph, operator))
                found.add(OpVersion(operator.name, operator.version, needed, first_runtime(operator.name, needed)))
    ops = sorted(found, key=lambda op: (_number(op.runtime), op.name, op.needed, op.stated))
    return Requirements(
        minimum=max((op.runtime for op in ops), key=_number, default=""),
        ops=tuple(ops),
        unknown=tuple(dict.fromkeys(f"{op.name} version {op.needed}" for op in ops if not op.runtime)),
        custom=file.custom_ops,
        flex=file.flex_ops,
    )


def needed_runtime(file: ModelFile) -> str:
    """The oldest runtime for `file`: what it states, or what its known ops need where that is later, which quantizers forget."""
    return max((file.min_runtime_version, requirements(file).minimum), key=_number)


def first_runtime(name: str, version: int) -> str:
    """The release that first has `version` of the op, empty where the table does not know it."""
    releases = _FIRST.get(name, "").split()
    return releases[version - 1].strip("-") if 1 <= version <= len(releases) else ""


def _needed(graph: Subgraph, operator: Operator) -> int:
    """The version that the dtypes of its tensors call for: quantizers change dtypes and may leave the stated version as it was."""
    tensors = [graph.tensors[index] if index != -1 else None for index in operator.inputs]
    first, second = (tensors[place] if place < len(tensors) else None for place in (0, 1))
    if first is None:
        return 1
    if second is not None and second.dtype == "int4":
        return _INT4_WEIGHTS.get(operator.name, 1)
    per_channel = second is not None and second.scales > 1
    if operator.name == "EMBEDDING_LOOKUP":
        return 4 if per_channel else 1
    if first.dtype == "float32" and second is not None and second.dtype == "int8":
        return _HYBRID.get(operator.name, (1, 1))[per_channel]
    if first.dtype == "float16":
        return 3 if operator.name == "DEQUANTIZE" else 1
    if first.dtype in ("int8", "int16"):
        return _INTEGER.get(operator.name, (1, 1))[first.dtype == "int16"]
    return 1


def _number(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", release))
