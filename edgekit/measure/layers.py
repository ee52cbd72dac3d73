"""Which op of one .tflite file is which op of another that was made of the same model, and what a person calls it."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from edgekit.tflite.flatbuffer import Operator, Subgraph
from edgekit.tflite.module_names import module_path

CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")
_REAL = ("float32", "int8", "uint8", "int16")
# What ai-edge-quantizer and edgekit add to a tensor's name.
_SUFFIX = re.compile(r"(_quantized|_dequant|_dequantized|_requantized|__\d+)+$")
_TF_LAYER = re.compile(r"^tf\.(?:\w+\.)*(\w+)(/.*)?$")
_TF_NORMALIZATION = re.compile(r"^layer_normalization(?:_(\d+))?/\w+/(\w+)$")
_ELEMENTWISE = ("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "SELECT", "SELECT_V2", "WHERE")
# Ops that bring the same values into another place.
MOVES = ("RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS", "GATHER", "SLICE", "STRIDED_SLICE", *CONVERSIONS)
_FARTHEST = 8
_PROJECTIONS = ("query", "key", "value")


@dataclass(frozen=True)
class Pair:
    """One op of the examined file and its counterpart: places among the ops, tensors of their first outputs."""

    op: int
    tensor: int
    other_op: int
    other_tensor: int


def match(graph: Subgraph, other: Subgraph) -> list[Pair]:
    """Ops of `graph` with those of `other` whose output is the same tensor of the model, in order of execution.

    By the tensor's name without what quantizers append, same op and shape; where several share a name, in their order. What is left
    goes by op and order, for the ops that both files have equally often."""
    left, right = dict(_outputs(graph, _REAL)), dict(_outputs(other, ("float32",)))
    found: dict[int, int] = {}

    def pair_up(keys: Mapping[int, object], other_keys: Mapping[int, object], *, equally_often: bool) -> None:
        waiting: dict[object, list[int]] = defaultdict(list)
        counts = Counter(keys.values())
        for place, key in other_keys.items():
            waiting[key].append(place)
        taken: Counter[object] = Counter()
        for place, key in keys.items():
            places = waiting[key]
            if equally_often and len(places) != counts[key]:
                continue
            if taken[key] < len(places) and _same_shape(graph, left[place], other, right[places[taken[key]]]):
                found.setdefault(place, places[taken[key]])
            taken[key] += 1

    named = {place: (graph.operators[place].name, plain(graph.tensors[tensor].name)) for place, tensor in left.items()}
    other_named = {place: (other.operators[place].name, plain(other.tensors[tensor].name)) for place, tensor in right.items()}
    pair_up(named, other_named, equally_often=False)
    used = set(found.values())
    pair_up(
        {place: graph.operators[place].name for place in left if place not in found},
        {place: other.operators[place].name for place in right if place not in used},
        equally_often=True,
    )
    return [Pair(place, left[place], found[place], right[found[place]]) for place in left if place in found]


def plain(name: str) -> str:
    """A tensor's name without what quantizers append to it."""
    return _SUFFIX.sub("", name)


def names(graph: Subgraph) -> dict[int, str]:
    """What a person calls each op, by its place: its module's path, or its part in an attention and its own short name."""
    paths = {place: module_path(plain(graph.tensors[operator.outputs[0]].name)) for place, operator in _producing(graph)}
    modules = [path for path in paths.values() if len(path) > 1]
    common = 0
    while modules and all(len(path) > common + 1 and path[common] == modules[0][common] for path in modules):
        common += 1
    parts = roles(graph)
    found = {}
    for place, path in paths.items():
        part = parts.get(place, "")
        if len(path) > 1:
            found[place] = _with_part(path[common:], part)
        else:
            own = _own_name(plain(graph.tensors[graph.operators[place].outputs[0]].name))
            found[place] = f"{part} ({own})" if part else own
    return found


def roles(graph: Subgraph) -> dict[int, str]:
    """Ops with a part in attention or a residual connection, by the graph's structure; attentions count from 1 in graph order."""
    makers = {tensor: place for place, operator in enumerate(graph.operators) for tensor in operator.outputs}
    users: dict[int, list[int]] = defaultdict(list)
    for place, operator in enumerate(graph.operators):
        for tensor in operator.inputs:
            users[tensor].append(place)
    found: dict[int, str] = {}
    number = 0
    for place, operator in enumerate(graph.operators):
        if operator.name == "ADD" and _is_residual(graph, operator, makers):
            found.setdefault(place, "residual")
        if operator.name != "SOFTMAX":
            continue
        context = _after(graph, place, users, "BATCH_MATMUL")
        way = _before(graph, place, makers)
        if context is None or not way or graph.operators[way[-1]].name != "BATCH_MATMUL":
            continue
        number += 1
        title = f"attention {number}:"
        for step in way[:-1]:
            name = graph.operators[step].name
            found[step] = f"{title} {'masked scores' if name in ('ADD', 'SELECT', 'SELECT_V2', 'SUB') else 'scaled scores'}"
        found.update({way[-1]: f"{title} scores", place: f"{title} probabilities", context: f"{title} context"})
        scores = graph.operators[way[-1]]
        for part, tensor in (("query", scores.inputs[0]), ("key", scores.inputs[1]), ("value", graph.operators[context].inputs[1])):
            product = _product(graph, tensor, makers)
            if product is not None:
                found[product] = f"{title} {part}"
        if (product := _after(graph, context, users, "FULLY_CONNECTED")) is not None:
            found[product] = f"{title} output"
    return found


def reaches_softmax(graph: Subgraph, place: int) -> bool:
    """Whether what the op computes goes into a SOFTMAX, with nothing but sums, scalings and changes of shape between."""
    users: dict[int, list[int]] = defaultdict(list)
    for number, operator in enumerate(graph.operators):
        for tensor in operator.inputs:
            users[tensor].append(number)
    pending, seen = [place], {place}
    while pending:
        for tensor in graph.operators[pending.pop()].outputs:
            for user in users[tensor]:
                name = graph.operators[user].name
                if name == "SOFTMAX":
                    return True
                if user not in seen and name in (*_ELEMENTWISE, *MOVES):
                    seen.add(user)
                    pending.append(user)
    return False


def _outputs(graph: Subgraph, dtypes: tuple[str, ...]) -> Iterator[tuple[int, int]]:
    for place, operator in _producing(graph):
        tensor = graph.tensors[operator.outputs[0]]
        if operator.name not in CONVERSIONS and tensor.dtype in dtypes and (tensor.scales or tensor.dtype == "float32"):
            yield place, operator.outputs[0]


def _producing(graph: Subgraph) -> Iterator[tuple[int, Operator]]:
    return ((place, operator) for place, operator in enumerate(graph.operators) if operator.outputs and operator.outputs[0] >= 0)


def _same_shape(graph: Subgraph, tensor: int, other: Subgraph, other_tensor: int) -> bool:
    return graph.tensors[tensor].shape == other.tensors[other_tensor].shape


def _with_part(path: list[str], part: str) -> str:
    """A module's path with the op's part in it; litert-torch gives products of one shape in one attention the first one's name."""
    last = part.rpartition(": ")[2]
    if last in _PROJECTIONS:
        return ".".join([*(path[:-1] if path[-1] in _PROJECTIONS else path), last])
    return ".".join(path) + (f": {last}" if last and last != path[-1] and last != "output" else "")


def _own_name(name: str) -> str:
    """The first op that was fused into it, without the framework's prefixes: `model/tf.linalg.matmul_3/MatMul;…` is matmul_3."""
    first = next((part for part in name.split(";") if part), name).removeprefix("model/")
    if normalization := _TF_NORMALIZATION.match(first):
        return f"LayerNorm {normalization[1] or 0}: {normalization[2]}"
    layer = _TF_LAYER.match(first)
    return layer[1] if layer else first


def _is_residual(graph: Subgraph, operator: Operator, makers: Mapping[int, int]) -> bool:
    """Whether a matrix product's result and an earlier one, of one shape, are added."""
    inputs = [tensor for tensor in operator.inputs if tensor in makers]
    if len(inputs) != 2 or _size(graph, inputs[0]) != _size(graph, inputs[1]):
        return False
    products = [_product(graph, tensor, makers) is not None for tensor in inputs]
    return sum(products) == 1 and len(graph.tensors[operator.outputs[0]].shape) in (2, 3)


def _product(graph: Subgraph, tensor: int, makers: Mapping[int, int]) -> int | None:
    """The FULLY_CONNECTED that `tensor` comes from, through nothing but changes of shape and an added constant."""
    for _ in range(_FARTHEST):
        place = makers.get(tensor)
        if place is None:
            return None
        operator = graph.operators[place]
        if operator.name == "FULLY_CONNECTED":
            return place
        computed = [index for index in operator.inputs if index in makers]
        if operator.name not in (*MOVES, "ADD") or len(computed) != 1:
            return None
        tensor = computed[0]
    return None


def _before(graph: Subgraph, place: int, makers: Mapping[int, int]) -> list[int]:
    """Ops from before the SOFTMAX at `place` back to the product whose scores it takes."""
    way: list[int] = []
    tensor = graph.operators[place].inputs[0]
    for _ in range(_FARTHEST):
        maker = makers.get(tensor)
        if maker is None:
            return way
        operator = graph.operators[maker]
        if operator.name not in MOVES:
            way.append(maker)
        if operator.name not in (*_ELEMENTWISE, *MOVES):
            return way
        computed = [index for index in operator.inputs if index in makers]
        # Of scores and mask, the scores are the larger tensor or come first.
        tensor = max(computed, key=lambda index: _size(graph, index), default=-1)
    return way


def _after(graph: Subgraph, place: int, users: Mapping[int, list[int]], name: str) -> int | None:
    """The op called `name` that takes what the op at `place` computes, with nothing but changes of shape between."""
    current = place
    for _ in range(_FARTHEST):
        following = users.get(graph.operators[current].outputs[0], [])
        if (product := next((user for user in following if graph.operators[user].name == name), None)) is not None:
            return product
        moved = next((user for user in following if graph.operators[user].name in MOVES), None)
        if moved is None:
            return None
        current = moved
    return None


def _size(graph: Subgraph, tensor: int) -> int:
    size = 1
    for axis in graph.tensors[tensor].shape:
        size *= max(axis, 1)
    return size
