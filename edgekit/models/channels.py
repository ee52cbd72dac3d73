"""Shapes of an ONNX graph's inputs as TensorFlow Lite takes them: which have their channels last, and what fills a free axis."""

from collections.abc import Collection, Iterable, Mapping, Sequence

# Ops that slide over space, whose form in TFLite wants channels last.
_SPATIAL = ("Conv", "Pool", "Resize", "Upsample", "DepthToSpace", "SpaceToDepth", "LRN", "BatchNormalization", "InstanceNorm")
# Ops whose results have other axes than what they read: what follows says nothing of the layout before.
_RECURRENT = "GRU", "LSTM", "RNN"
_MOVING = "Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"
_OTHER_AXES = frozenset([*_RECURRENT, *_MOVING, "Einsum", "Expand", "Gather", "MatMul", "Shape", "Size"])
# Of a node: its op type, and the names of what it reads and gives.
Node = tuple[str, Sequence[str], Sequence[str]]


def slides(ops: Iterable[str]) -> bool:
    """Whether some of these op types slides over space."""
    return any(part in op for op in ops for part in _SPATIAL)


def is_gathered(kernel: Sequence[int], dilations: Sequence[int], outputs: int) -> bool:
    """Whether a pool is made of gathers, since no road takes it: one with dilations, or over more than two axes."""
    return outputs == 1 and len(kernel) > 0 and (len(kernel) > 2 or any(apart != 1 for apart in dilations))


def slid_over(inputs: Iterable[str], nodes: Iterable[Node]) -> frozenset[str]:
    """Those of `inputs` that an op slides over: nothing on the way there changes what their axes are. `nodes` are in order."""
    # By the name of a value: the inputs that it has its axes from.
    origins = {name: frozenset([name]) for name in inputs}
    slid: set[str] = set()
    for op, read, written in nodes:
        sources = [origins[name] for name in read if name in origins]
        if slides([op]):
            slid |= origins.get(read[0], frozenset()) if read else set()
        if sources and op not in _OTHER_AXES:
            origins |= dict.fromkeys(written, frozenset().union(*sources))
    return frozenset(slid)


def channels_first(shapes: Mapping[str, Sequence[int]], slid: Collection[str]) -> tuple[str, ...]:
    """Inputs whose channels shall move from axis 1 to the last: those of rank 3 to 5 that an op slides over, and images.

    One whose shape would be the same stays as it is, since nobody could tell which layout it has."""
    images = {name for name, shape in shapes.items() if len(shape) == 4 and shape[1] in (1, 3)}
    ranked = {name: shape for name, shape in shapes.items() if 3 <= len(shape) <= 5 and len(set(shape[1:])) > 1}
    return tuple(name for name in ranked if name in slid or name in images)


def channels_last(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape with its axis 1 at the end."""
    return (shape[0], *shape[2:], shape[1])


def usual_size(axis: int, rank: int, max_length: int, *, integers: bool) -> int | None:
    """The size of a free axis that nobody gave: one row, and `max_length` tokens; None where it has to be given."""
    if axis == 0:
        return 1
    return max_length if axis == 1 and rank == 2 and integers else None
