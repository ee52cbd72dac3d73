"""What the ops that XNNPACK leaves to the interpreter cost, estimated by running each alone."""

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.system.worker import progress
from edgekit.tflite import flatbuffer, tree
from edgekit.tflite.interpreter import Model

_RUNS = 15
_SECONDS = 0.1
# Filled with zeros: a look-up's or a gather's indices, conditions.
_INDICES = ("int32", "int64", "uint32", "bool")
_NOT_ALONE = ("VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE", "IF", "WHILE", "STABLEHLO_COMPOSITE")


@dataclass(frozen=True)
class OpTime:
    """`count` ops of one kind and activation dtype that no delegate runs; `total_ms` is the estimate for all of them.

    `timed` says how many of them ran alone; the others count for nothing."""

    op: str
    dtype: str
    count: int
    timed: int
    total_ms: float
    share: float = 0.0


@dataclass(frozen=True)
class Outside:
    """How the delegate splits a file, and the ops that it leaves out, most expensive first."""

    partitions: int
    delegated_ops: int
    ops: int
    outside: tuple[OpTime, ...]


def outside(file: Path, threads: int) -> Outside:
    """Time the ops of `file` that are not delegated, each distinct one as a model of its own. In a worker child.

    Ops with the same code, options, shapes and dtypes are timed once. Random data goes in, and what an op costs inside the
    graph differs by its neighbours' traces in the caches, so the sums are estimates."""
    model = Model(file, threads=threads)
    content = flatbuffer.read(file)
    graph = content.subgraphs[0]
    inside = model.delegated
    root = tree.load(file.read_bytes())
    groups: dict[tuple[str, str], list[float | None]] = defaultdict(list)
    known: dict[object, float | None] = {}
    left = [place for place in range(len(graph.operators)) if place not in inside]
    for number, place in enumerate(left):
        progress("diagnose: op times", number, len(left))
        operator = graph.operators[place]
        dtype = graph.tensors[operator.outputs[0]].dtype if operator.outputs else ""
        if operator.name in ("DEQUANTIZE", "QUANTIZE") and operator.inputs:
            dtype = f"{graph.tensors[operator.inputs[0]].dtype} to {dtype}"
        if root is None or operator.custom or operator.name in _NOT_ALONE:
            groups[operator.name, dtype].append(None)
            continue
        key = _kind(root, place)
        if key not in known:
            known[key] = _alone(root, place, threads)
        groups[operator.name, dtype].append(known[key])
    times = [
        OpTime(name, dtype, len(found), sum(one is not None for one in found), sum(one or 0.0 for one in found))
        for (name, dtype), found in groups.items()
    ]
    return Outside(
        model.partitions, len(inside), len(graph.operators), tuple(sorted(times, key=lambda one: (-one.total_ms, -one.count)))
    )


def _kind(root: Any, place: int) -> object:
    graph = root.subgraphs[0]
    operator = tree.listed(graph.operators)[place]

    def form(index: int) -> object:
        if index < 0:
            return None
        tensor = graph.tensors[index]
        data = root.buffers[tensor.buffer].data
        # Small constants are axes and shapes, which decide what an op does.
        constant = b"" if data is None else bytes(data) if len(data) <= 64 else b"constant"
        return tuple(tree.listed(tensor.shape)), tensor.type, constant

    options = sorted(vars(operator.builtinOptions).items()) if operator.builtinOptions is not None else ()
    return operator.opcodeIndex, repr(options), tuple(form(index) for index in (*operator.inputs, *operator.outputs))


def _alone(root: Any, place: int, threads: int) -> float | None:
    """Median milliseconds of one op, or None where it does not run by itself."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    try:
        interpreter = Interpreter(
            model_content=one_op(root, place),
            num_threads=threads,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        interpreter.allocate_tensors()
        draw = np.random.default_rng(0)
        for item in interpreter.get_input_details():
            interpreter.set_tensor(item["index"], _values(draw, item))
        interpreter.invoke()
        times: list[float] = []
        started = time.perf_counter()
        while len(times) < _RUNS and (not times or time.perf_counter() - started < _SECONDS):
            before = time.perf_counter()
            interpreter.invoke()
            times.append(time.perf_counter() - before)
    except (ValueError, RuntimeError):
        return None
    return float(np.median(times)) * 1e3


def _values(draw: np.random.Generator, item: Mapping[str, Any]) -> np.ndarray:
    dtype, shape = np.dtype(item["dtype"]), tuple(item["shape"])
    if dtype.name in _INDICES:
        return np.zeros(shape, dtype)
    if dtype.kind == "f":
        return np.asarray(np.abs(draw.standard_normal(shape)) + 0.1, dtype)
    limits = np.iinfo(dtype)
    # At or above its zero point every tensor holds a value that is not negative, as RSQRT and SQRT need.
    zero_points = item["quantization_parameters"]["zero_points"]
    least = max(int(zero_points[0]), 0) if len(zero_points) else 0
    return draw.integers(min(least + 1, limits.max), limits.max, shape, dtype, endpoint=True)


def one_op(root: Any, place: int) -> bytes:
    """The op at `place` of the first subgraph as a file of its own: its constants stay, what it is given are inputs."""
    from ai_edge_litert import schema_py_generated as schema

    source = root.subgraphs[0]
    operator = tree.listed(source.operators)[place]
    made = schema.ModelT(version=3, operatorCodes=[root.operatorCodes[operator.opcodeIndex]], buffers=[schema.BufferT()])
    graph = schema.SubGraphT(tensors=[], inputs=[], outputs=[])
    places: dict[int, int] = {-1: -1}

    def moved(index: int) -> int:
        if index not in places:
            tensor = source.tensors[index]
            data = root.buffers[tensor.buffer].data
            constant = data is not None and len(data) > 0
            if constant:
                made.buffers.append(schema.BufferT(data=data))
            places[index] = len(graph.tensors)
            graph.tensors.append(
                schema.TensorT(
                    name=f"t{len(graph.tensors)}".encode(),
                    shape=tensor.shape,
                    type=tensor.type,
                    buffer=len(made.buffers) - 1 if constant else 0,
                    quantization=tensor.quantization,
                    hasRank=True,
                )
            )
        return places[index]

    inputs = [moved(int(index)) for index in operator.inputs]
    outputs = [moved(int(index)) for index in operator.outputs]
    graph.operators = [
        schema.OperatorT(
            opcodeIndex=0,
            inputs=inputs,
            outputs=outputs,
            builtinOptionsType=operator.builtinOptionsType,
            builtinOptions=operator.builtinOptions,
            builtinOptions2Type=operator.builtinOptions2Type,
            builtinOptions2=operator.builtinOptions2,
        )
    ]
    graph.inputs = [index for index in dict.fromkeys(inputs) if index >= 0 and graph.tensors[index].buffer == 0]
    graph.outputs = outputs
    made.subgraphs = [graph]
    return tree.pack(made)
