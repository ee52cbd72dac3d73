"""What each target runs, as targets.toml has it with its sources, and which ops of a file stand in the way there."""

import enum
import math
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from edgekit.system import serial
from edgekit.tflite.flatbuffer import ModelFile, Operator, Subgraph, Tensor

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
    are sentences for people; `source` is where `ops` comes from and `read` which state of it."""

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


_TABLES = tomllib.loads(files("edgekit.workflows.guide").joinpath("targets.toml").read_text(encoding="utf-8"))["target"]
TARGETS: Mapping[Hardware, Target] = {target.hardware: target for target in (serial.read(Target, table) for table in _TABLES)}


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
    is the most that tensors take which are alive at one time: what a runtime needs at least, without its own bookkeeping."""

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
    reasons: Counter[tuple[str, str]] = Counter()
    ops = floats = 0
    for graph in file.subgraphs:
        for operator in graph.operators:
            # The float16 weights of a file are unpacked when it is loaded.
            if operator.name == "DEQUANTIZE" and all(tensor.data_bytes for tensor in _tensors(graph, operator.inputs)):
                continue
            tensors = _tensors(graph, (*operator.inputs, *operator.outputs))
            ops += 1
            floats += any(tensor.dtype in _FLOATS for tensor in tensors)
            if reason := _reason(target, operator, tensors):
                reasons[operator.name, reason] += 1
    ranked = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    obstacles = tuple(Obstacle(op, count, reason) for (op, reason), count in ranked)
    return Fit(target.hardware, ops, floats, obstacles, _interface(target, file), _arena(file))


def _tensors(graph: Subgraph, indices: Iterable[int]) -> list[Tensor]:
    return [graph.tensors[index] for index in indices if index != -1]


def _reason(target: Target, operator: Operator, tensors: Sequence[Tensor]) -> str:
    if operator.custom:
        return _CUSTOM if target.ops is not None or operator.flex else ""
    if target.ops is not None and operator.name not in target.ops:
        return _UNLISTED
    if target.integer_only and (wrong := next((tensor.dtype for tensor in tensors if tensor.dtype in _FLOATS), None)):
        return f"in {wrong}"
    wide = (tensor.dtype for tensor in tensors if not tensor.data_bytes and tensor.dtype not in _EIGHT)
    if target.eight_bit and (wrong := next(wide, None)):
        return f"in {wrong}"
    if target.most_axes is not None and any(len(tensor.shape) > target.most_axes for tensor in tensors):
        return f"more than {target.most_axes} axes"
    return "free shape" if target.fixed_shapes and any(-1 in tensor.shape for tensor in tensors) else ""


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
    born, dies = (dict.fromkeys(graph.inputs, 0) for _ in range(2))
    for place, operator in enumerate(graph.operators):
        dies |= dict.fromkeys(operator.inputs, place)
        born = dict.fromkeys(operator.outputs, place) | born
        dies = dict.fromkeys(operator.outputs, place) | dies
    dies |= dict.fromkeys(graph.outputs, len(graph.operators))
    sizes = {
        index: _BYTES.get(tensor.dtype, 1) * math.prod(max(size, 1) for size in tensor.shape)
        for index, tensor in enumerate(graph.tensors)
        if index in born and not tensor.data_bytes
    }
    alive = (
        sum(size for index, size in sizes.items() if born[index] <= place <= dies[index]) for place in range(len(graph.operators))
    )
    return max(alive, default=0)
