"""Which op computes in which dtype: the forms of an integer file that a plan chooses between."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from edgekit.tflite.flatbuffer import Operator, Subgraph

# Ops whose weights are constant and most of the file. XNNPACK computes all of them on integers.
PRODUCTS = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
# Ops that a normalization over the features is made of, besides its variance's inverse root.
STEPS = ("ADD", "SUB", "MUL", "DIV", "MEAN", "SUM", "SQUARED_DIFFERENCE", "RESHAPE")
ROOTS = ("RSQRT", "SQRT")
# Quantizing what a convolution of one place reads takes XNNPACK as long as so many multiplications in float32: for each place,
# and for each value of it. Measured on x86-64 with 8 to 256 channels in and out.
_FOR_PLACE, _FOR_VALUE = 2000, 20
# No file grows by more than 32 kB for what one such convolution saves.
_LARGEST_THIN = 8192
# With those of two activations.
MULTIPLIED = (*PRODUCTS, "BATCH_MATMUL")


@dataclass(frozen=True)
class Form:
    """One way to use integers, with ops known as `output` says.

    Activations of every op that has an integer form have `bits`, or only of those named in `ops`; the ops in `wide` have
    int16 ones, and those in `floating` stay in float32, with int8 weights where a kernel takes both."""

    name: str
    bits: int = 8
    ops: tuple[str, ...] | None = None
    wide: frozenset[str] = frozenset()
    floating: frozenset[str] = frozenset()


def products(graph: Subgraph) -> list[str]:
    """The matrix products with constant weights, in order of execution."""
    return [
        output(graph, operator)
        for operator in graph.operators
        if operator.name in PRODUCTS and graph.tensors[operator.inputs[1]].data_bytes
    ]


def thin_convolutions(graph: Subgraph) -> frozenset[str]:
    """1x1 convolutions that are slower with int8 weights and float activations than in float32.

    They compute too little from each value to make up for quantizing it on the fly: up to ten times slower, for hardly any weights.
    """

    def thin(operator: Operator) -> bool:
        match graph.tensors[operator.inputs[1]].shape:
            case (outputs, 1, 1, inputs):
                return inputs * (outputs - _FOR_VALUE) < _FOR_PLACE and inputs * outputs <= _LARGEST_THIN
        return False

    return _outputs(graph, (operator for operator in graph.operators if operator.name == "CONV_2D" and thin(operator)))


def candidates(graph: Subgraph, form: Form) -> list[str]:
    """The ops that `form` makes integer as far as they have such a form, in order of execution."""
    if form.ops is not None:
        return products(graph)
    return [output(graph, operator) for operator in graph.operators if operator.outputs]


def normalizations(graph: Subgraph) -> frozenset[str]:
    """The ops of each normalization over features, with the residual stream that runs through it.

    In int8 the variance of values that differ by a factor of a hundred is a handful of steps; these ops are elementwise and
    cheap, so int16 costs little. Found as all that is connected to an inverse root by
    elementwise ops and means."""
    touching: dict[int, list[int]] = defaultdict(list)
    for place, operator in enumerate(graph.operators):
        if operator.name in (*STEPS, *ROOTS):
            for tensor in (*operator.inputs, *operator.outputs):
                if tensor >= 0 and not graph.tensors[tensor].data_bytes and graph.tensors[tensor].dtype == "float32":
                    touching[tensor].append(place)
    pending = [place for place, operator in enumerate(graph.operators) if operator.name in ROOTS]
    connected: set[int] = set()
    while pending:
        if (place := pending.pop()) not in connected:
            connected.add(place)
            operator = graph.operators[place]
            pending.extend(other for tensor in (*operator.inputs, *operator.outputs) for other in touching[tensor])
    return _outputs(graph, (graph.operators[place] for place in connected))


def variances(graph: Subgraph) -> frozenset[str]:
    """The inverse roots, and what each is computed from back to the squares.

    A root of a small value makes much of it: where tokens differ by a factor of a hundred, their variances do by ten
    thousand, and the smallest are a few steps of int16 too."""
    givers = {index: operator for operator in graph.operators for index in operator.outputs}
    pending = [operator for operator in graph.operators if operator.name in ROOTS]
    before: list[Operator] = []
    while pending:
        before.append(operator := pending.pop())
        square = operator.name == "SQUARED_DIFFERENCE" or (operator.name == "MUL" and len({*operator.inputs}) == 1)
        if not square:
            pending.extend(givers[index] for index in operator.inputs if index in givers and givers[index].name in STEPS)
    return _outputs(graph, before)


def around_products(graph: Subgraph) -> frozenset[str]:
    """Every op but the matrix products."""
    return _outputs(graph, (operator for operator in graph.operators if operator.name not in MULTIPLIED))


def output(graph: Subgraph, operator: Operator) -> str:
    """What an op is known by: the names of its outputs, joined by semicolons."""
    return ";".join(graph.tensors[index].name for index in operator.outputs)


def _outputs(graph: Subgraph, operators: Iterable[Operator]) -> frozenset[str]:
    return frozenset(output(graph, operator) for operator in operators if operator.outputs)
