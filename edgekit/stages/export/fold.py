"""What a .tflite graph computes from constants alone, computed beforehand by the runtime itself."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgekit.tflite import schema
from edgekit.tflite.tree import ends, listed, op_name, pack

# Whatever changes from run to run, or holds something between them, and what runs other graphs.
_NEVER_CONSTANT = ("", "CUSTOM", "CALL", "CALL_ONCE", "IF", "WHILE", "MULTINOMIAL", "RANDOM_UNIFORM", "RANDOM_STANDARD_NORMAL")
_HOLDING = ("ASSIGN_VARIABLE", "READ_VARIABLE", "VAR_HANDLE", "HASHTABLE", "HASHTABLE_FIND", "HASHTABLE_IMPORT", "HASHTABLE_SIZE")
KEPT = frozenset((*_NEVER_CONSTANT, *_HOLDING))
# A result may be twice what it is made of, as float32 is of float16, and this much more.
_MOST_GROWTH_BYTES = 2**16
_WIDTHS = {"float32": 4, "float16": 2, "int8": 1, "int16": 2, "int32": 4, "int64": 8, "uint8": 1, "bool": 1}


def fold(tree: Any, graph: Any) -> None:
    """Compute what depends on nothing but constants, by the runtime itself."""
    known: set[int] = set()
    folded: list[Any] = []
    rest: list[Any] = []
    for operator in listed(graph.operators):
        if _can_fold(tree, graph, operator, known):
            known.update(ends(operator)[1])
            folded.append(operator)
        else:
            rest.append(operator)
    read = {index for operator in rest for index in ends(operator)[0]} | {*map(int, listed(graph.outputs))}
    wanted = sorted(known & read)
    if not wanted:
        return
    if (computed := run(tree, graph, folded, {}, wanted)) is None:
        return
    for index, values in zip(wanted, computed, strict=True):
        tensor = graph.tensors[index]
        tree.buffers.append(schema.BufferT(data=np.ascontiguousarray(values).reshape(-1).view(np.uint8)))
        tensor.buffer, tensor.shapeSignature = len(tree.buffers) - 1, None
    graph.operators = rest


def _can_fold(tree: Any, graph: Any, operator: Any, known: set[int]) -> bool:
    inputs, outputs = ends(operator)
    if not inputs or not outputs or op_name(tree, operator) in KEPT:
        return False
    # An output is computed: runtimes do not look for it among the constants.
    if any(index in outputs for index in map(int, listed(graph.outputs))):
        return False
    if any(index >= 0 and index not in known and _data(tree, graph, index) is None for index in inputs):
        return False
    tensors = [graph.tensors[index] for index in outputs]
    # A state is written anew in each run.
    if any(tensor.isVariable for tensor in tensors):
        return False
    if any(tensor.quantization is not None and len(listed(tensor.quantization.scale)) for tensor in tensors):
        return False
    sizes = [size for index in outputs if (size := _bytes(graph, index)) is not None]
    most = 2 * sum(_bytes(graph, index) or 0 for index in inputs) + _MOST_GROWTH_BYTES
    return len(sizes) == len(outputs) and sum(sizes) <= most


def _bytes(graph: Any, index: int) -> int | None:
    """Of a tensor whose size is fixed."""
    if index < 0:
        return 0
    tensor = graph.tensors[index]
    dtype = schema.names("TensorType").get(tensor.type, "").lower()
    if any(size < 0 for size in (*listed(tensor.shape), *listed(tensor.shapeSignature))) or dtype not in _WIDTHS:
        return None
    return math.prod(map(int, listed(tensor.shape))) * _WIDTHS[dtype]


def _data(tree: Any, graph: Any, index: int) -> Any:
    """What a constant is stored as, sparse ones among them."""
    tensor = graph.tensors[index]
    return None if tensor.isVariable else tree.buffers[tensor.buffer].data


def run(
    tree: Any, graph: Any, operators: Sequence[Any], fed: dict[int, np.ndarray], wanted: Sequence[int]
) -> list[np.ndarray] | None:
    """The tensors `wanted` after the ops alone have run on the constants of the graph and the tensors that are `fed`.

    None where the runtime cannot run them."""
    try:
        interpreter, places = _prepared(tree, graph, operators, tuple(fed), wanted)
        for index, values in fed.items():
            interpreter.set_tensor(places[index], values)
        interpreter.invoke()
        return [interpreter.get_tensor(places[index]) for index in wanted]
    except (ValueError, RuntimeError):  # what it stops at here it stops at in the whole model, which is run later
        return None


def sizes(tree: Any, graph: Any, operator: Any, free: Sequence[int]) -> list[tuple[int, ...]] | None:
    """The shapes of what an op gives in the tensors `free`, whose sizes the file leaves open; None where they depend on values."""
    inputs, outputs = ends(operator)
    fed = [index for index in dict.fromkeys(inputs) if index >= 0 and _data(tree, graph, index) is None]
    try:
        interpreter, places = _prepared(tree, graph, [operator], fed, outputs, free)
        shapes = [interpreter.get_tensor(places[index]).shape for index in free]
    except (ValueError, RuntimeError):
        return None
    # What has no size before the op has run stays empty.
    return None if any(0 in shape for shape in shapes) else shapes


def _prepared(
    tree: Any, graph: Any, operators: Sequence[Any], inputs: Sequence[int], outputs: Sequence[int], empty: Sequence[int] = ()
) -> tuple[Any, dict[int, int]]:
    """An interpreter of the ops alone, and where it has each tensor of the graph; raises what the runtime does.

    Tensors that are `empty` have no elements until the runtime gives them some."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    used = sorted({index for one in operators for end in ends(one) for index in end if index >= 0})
    places = {index: place for place, index in enumerate(used)}
    buffers, tensors = [schema.BufferT()], []
    for index in used:
        tensor = graph.tensors[index]
        data = tree.buffers[tensor.buffer].data
        buffers.append(schema.BufferT(data=data)) if data is not None else None
        copied = schema.TensorT(shape=tensor.shape, type=tensor.type, buffer=len(buffers) - 1 if data is not None else 0)
        if index in empty:
            copied.shape, copied.shapeSignature = [0] * len(listed(tensor.shape)), tensor.shapeSignature
        copied.name, copied.quantization, copied.sparsity = f"t{places[index]}".encode(), tensor.quantization, tensor.sparsity
        tensors.append(copied)
    alone = schema.SubGraphT(tensors=tensors, operators=[_moved_op(one, places) for one in operators])
    alone.inputs, alone.outputs = [places[index] for index in inputs], [places[index] for index in outputs]
    model = schema.ModelT(version=tree.version, operatorCodes=tree.operatorCodes, subgraphs=[alone], buffers=buffers)
    interpreter = Interpreter(
        model_content=pack(model), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    interpreter.allocate_tensors()
    return interpreter, places


def _moved_op(operator: Any, places: dict[int, int]) -> Any:
    moved = schema.OperatorT(opcodeIndex=operator.opcodeIndex)
    moved.inputs, moved.outputs = ([places.get(index, -1) for index in end] for end in ends(operator))
    for name in ("builtinOptionsType", "builtinOptions", "builtinOptions2Type", "builtinOptions2"):
        setattr(moved, name, getattr(operator, name))
    return moved
