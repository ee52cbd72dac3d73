"""A float .tflite in fewer ops that quantize well: the same function, whoever wrote the file.

Converters leave products as BATCH_MATMUL by constants, normalizations that divide, GELU in ten pieces, weights in float16 behind
DEQUANTIZE and transposes that cancel. Quantizers look for FULLY_CONNECTED, RSQRT, GELU and constant float32 weights."""

import heapq
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.stages.export.narrow import narrow
from edgekit.tflite import schema
from edgekit.tflite.tree import add_constant, add_like, constant, drop_unread, listed, load, op_name, operation, pack, write

# Whatever changes from run to run, or holds something between them, and what runs other graphs.
_NEVER_CONSTANT = ("", "CUSTOM", "CALL", "CALL_ONCE", "IF", "WHILE", "MULTINOMIAL", "RANDOM_UNIFORM", "RANDOM_STANDARD_NORMAL")
_HOLDING = ("ASSIGN_VARIABLE", "READ_VARIABLE", "VAR_HANDLE", "HASHTABLE", "HASHTABLE_FIND", "HASHTABLE_IMPORT", "HASHTABLE_SIZE")
_KEPT = frozenset((*_NEVER_CONSTANT, *_HOLDING))
# They write their states back to where they read them.
_RECURRENT = frozenset(f"{way}_SEQUENCE_{kind}" for way in ("BIDIRECTIONAL", "UNIDIRECTIONAL") for kind in ("LSTM", "RNN")) | {
    "LSTM",
    "RNN",
    "SVDF",
}
# A result may be twice what it is made of, as float32 is of float16, and this much more.
_MOST_GROWTH_BYTES = 2**16
# Ops of whose result each element depends on one element of the input alone, beside constants.
_POINTWISE = (
    "ABS",
    "ADD",
    "DIV",
    "EXP",
    "LOGISTIC",
    "MAXIMUM",
    "MINIMUM",
    "MUL",
    "NEG",
    "POW",
    "RELU",
    "SIGN",
    "SQUARE",
    "SUB",
    "TANH",
)
_CURVED = ("EXP", "LOGISTIC", "TANH")
# Where GELU is compared with what may be its parts, and how far they may be apart: erf's approximations are 2e-7 to 1e-4 off.
_GRID = np.linspace(-6, 6, 97, dtype=np.float32)
_CLOSE = 3e-4
_LEAST_VALUES = 16
# What follows GELU may be such ops, too.
_MOST_GROUPS = 4
_ACTIVATIONS = {"RELU": "RELU", "RELU6": "RELU6", "RELU_N1_TO_1": "RELU_N1_TO_1"}
_FUSING = ("ADD", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "MUL", "SUB")


def simplify(path: Path) -> None:
    """Rewrite the float model in `path`, in place; above 2 GB it stays as it is. In a worker child."""
    tree = load(path.read_bytes())
    if tree is None:
        return
    # A list, so that none is left out once one has changed.
    changed = [_Graph(tree, graph).simplify() for graph in tree.subgraphs]
    if any([*changed, narrow(tree)]):
        drop_unread(tree)
        write(tree, path)


@dataclass
class _Graph:
    """`makers` has the op that computes each tensor, `readers` how many ends of ops and of the graph read it, and `reading` the
    places of those ops."""

    tree: Any
    graph: Any
    makers: dict[int, Any] = field(default_factory=dict)
    readers: Counter[int] = field(default_factory=Counter)
    reading: dict[int, list[int]] = field(default_factory=dict)

    def simplify(self) -> bool:
        before = [self._state(operator) for operator in listed(self.graph.operators)]
        for rewrite in (self._unshare_states, self._fold, self._peephole, self._peephole, self._gelu):
            rewrite()
            self._drop_unread()
        return before != [self._state(operator) for operator in listed(self.graph.operators)]

    def _state(self, operator: Any) -> tuple[Any, ...]:
        options = operator.builtinOptions
        fused = getattr(options, "fusedActivationFunction", 0)
        return operator.opcodeIndex, tuple(map(int, listed(operator.inputs))), tuple(map(int, listed(operator.outputs))), fused

    # States.

    def _unshare_states(self) -> None:
        """Give each recurrent op states of its own, and zeros to what else reads one.

        TFLiteConverter makes one tensor of all states of a shape, since all begin as zeros; whoever comes second reads what the
        first has left there."""
        taken: set[int] = set()
        for operator in listed(self.graph.operators):
            inputs = self._ends(operator)[0]
            for place, index in enumerate(inputs):
                if index < 0 or not (tensor := self.graph.tensors[index]).isVariable:
                    continue
                if op_name(self.tree, operator) in ("READ_VARIABLE", "ASSIGN_VARIABLE"):
                    continue
                if op_name(self.tree, operator) not in _RECURRENT:
                    inputs[place] = self._constant(index, b"_zeros", np.zeros(self._shape(index), np.float32))
                elif index in taken:
                    inputs[place] = add_like(self.graph, index, self._name(index) + f"_{len(taken)}".encode())
                    self.graph.tensors[inputs[place]].isVariable = True
                    self.graph.tensors[inputs[place]].type = tensor.type
                taken.add(inputs[place])
            operator.inputs = inputs

    # Constants.

    def _fold(self) -> None:
        """Compute what depends on nothing but constants, by the runtime itself."""
        known: set[int] = set()
        folded: list[Any] = []
        for operator in listed(self.graph.operators):
            inputs, outputs = self._ends(operator)
            if self._can_fold(operator, inputs, outputs, known):
                known.update(outputs)
                folded.append(operator)
        rest = [operator for operator in listed(self.graph.operators) if not any(operator is one for one in folded)]
        read = {index for operator in rest for index in self._ends(operator)[0]} | {*map(int, listed(self.graph.outputs))}
        wanted = sorted(known & read)
        if not wanted:
            return
        if (computed := _run(self.tree, self.graph, folded, {}, wanted)) is None:
            return
        for index, values in zip(wanted, computed, strict=True):
            tensor = self.graph.tensors[index]
            self.tree.buffers.append(schema.BufferT(data=np.ascontiguousarray(values).reshape(-1).view(np.uint8)))
            tensor.buffer, tensor.shapeSignature = len(self.tree.buffers) - 1, None
        self.graph.operators = rest

    def _can_fold(self, operator: Any, inputs: Sequence[int], outputs: Sequence[int], known: set[int]) -> bool:
        if not inputs or not outputs or op_name(self.tree, operator) in _KEPT:
            return False
        # An output is computed: runtimes do not look for it among the constants.
        if any(index in outputs for index in map(int, listed(self.graph.outputs))):
            return False
        if any(index >= 0 and index not in known and self._data(index) is None for index in inputs):
            return False
        tensors = [self.graph.tensors[index] for index in outputs]
        if any(tensor.quantization is not None and len(listed(tensor.quantization.scale)) for tensor in tensors):
            return False
        sizes = [size for index in outputs if (size := self._bytes(index)) is not None]
        most = 2 * sum(self._bytes(index) or 0 for index in inputs) + _MOST_GROWTH_BYTES
        return len(sizes) == len(outputs) and sum(sizes) <= most

    def _bytes(self, index: int) -> int | None:
        """Of a tensor whose size is fixed."""
        if index < 0:
            return 0
        tensor = self.graph.tensors[index]
        dtype = schema.names("TensorType").get(tensor.type, "").lower()
        if any(size < 0 for size in (*listed(tensor.shape), *listed(tensor.shapeSignature))) or dtype not in _WIDTHS:
            return None
        return math.prod(map(int, listed(tensor.shape))) * _WIDTHS[dtype]

    # Op by op.

    def _peephole(self) -> None:
        self._look()
        made: list[Any] = []
        for operator in listed(self.graph.operators):
            rewritten = self._rewritten(operator)
            for one in rewritten:
                self.makers.update(dict.fromkeys(self._ends(one)[1], one))
            made += rewritten
        self.graph.operators = made

    def _rewritten(self, operator: Any) -> list[Any]:
        (inputs, outputs), name = self._ends(operator), op_name(self.tree, operator)
        if name == "CUMSUM":
            return self._same_dtype(operator, inputs, outputs)
        if not self._is_float(outputs) and name not in ("RESHAPE", "TRANSPOSE"):
            return [operator]
        match name:
            case "BATCH_MATMUL":
                return self._fully_connected(operator, inputs, outputs)
            case "ADD":
                return self._bias(operator, inputs, outputs)
            case "DIV":
                return self._division(operator, inputs, outputs)
            case "POW":
                return self._power(operator, inputs, outputs)
            case "RESHAPE" | "TRANSPOSE":
                return self._moved(operator, name, inputs, outputs)
            case name if name in _ACTIVATIONS:
                return self._fused(operator, name, inputs, outputs)
        return [operator]

    def _same_dtype(self, operator: Any, inputs: list[int], outputs: list[int]) -> list[Any]:
        """onnx2tf 2 says int64 of what its op gives as int32; the runtime then writes past half of the numbers."""
        given, result = (self.graph.tensors[ends[0]] for ends in (inputs, outputs))
        if given.type == result.type:
            return [operator]
        operator.outputs = [add_like(self.graph, outputs[0], self._name(outputs[0]) + b"_as_given")]
        self.graph.tensors[operator.outputs[0]].type = given.type
        options = schema.CastOptionsT(inDataType=given.type, outDataType=result.type)
        return [operator, operation(self.tree, "CAST", operator.outputs, outputs, options)]

    def _fully_connected(self, operator: Any, inputs: list[int], outputs: list[int]) -> list[Any]:
        """(…, K) by a constant (K, N), or by one of which all rows have the same."""
        options, weights = operator.builtinOptions, self._values(inputs[1])
        shape, result = self._shape(inputs[0]), self._shape(outputs[0])
        if weights is None or weights.dtype != np.float32 or getattr(options, "adjX", False) or weights.ndim < 2 or not shape:
            return [operator]
        if math.prod(weights.shape[:-2]) != 1 or len(result) != len(shape) or result[:-1] != shape[:-1]:
            return [operator]
        matrix = weights.reshape(weights.shape[-2:])
        matrix = matrix if getattr(options, "adjY", False) else matrix.T
        placed = self._constant(inputs[1], b"_by_rows", matrix)
        made = schema.FullyConnectedOptionsT(keepNumDims=True)
        return [operation(self.tree, "FULLY_CONNECTED", [inputs[0], placed, -1], outputs, made)]

    def _bias(self, operator: Any, inputs: list[int], outputs: list[int]) -> list[Any]:
        """A constant that is added to a product's channels is its bias."""
        for product, added in (inputs, inputs[::-1]):
            values, maker = self._values(added), self.makers.get(product)
            if values is None or maker is None or self.readers[product] != 1 or op_name(self.tree, maker) != "FULLY_CONNECTED":
                continue
            units = self._shape(int(maker.inputs[1]))[0]
            plain = len(maker.inputs) < 3 or int(maker.inputs[2]) < 0
            if not plain or self._activation(maker) or values.size != units or self._shape(product) != self._shape(outputs[0]):
                continue
            if values.shape[-1:] != (units,):
                continue
            maker.inputs = [*map(int, maker.inputs[:2]), self._constant(added, b"_as_bias", values.reshape(units))]
            maker.builtinOptions.fusedActivationFunction = self._activation(operator)
            # The maker stands before all that reads the sum.
            maker.outputs = outputs
            self.makers[outputs[0]] = maker
            return []
        return [operator]

    def _division(self, operator: Any, inputs: list[int], outputs: list[int]) -> list[Any]:
        """By a constant is a product with its inverse, by a root one with what RSQRT gives."""
        dividend, divisor = inputs
        values, root = self._values(divisor), self.makers.get(divisor)
        fused = schema.MulOptionsT(fusedActivationFunction=self._activation(operator))
        if values is not None and np.all(values != 0):
            inverse = self._constant(divisor, b"_inverse", (1 / values.astype(np.float64)).astype(np.float32))
            return [operation(self.tree, "MUL", [dividend, inverse], outputs, fused)]
        if root is None or op_name(self.tree, root) != "SQRT" or self.readers[divisor] != 1:
            return [operator]
        ones = self._values(dividend)
        if (
            ones is not None
            and np.all(ones == 1)
            and self._shape(divisor) == self._shape(outputs[0])
            and not self._activation(operator)
        ):
            return [operation(self.tree, "RSQRT", [root.inputs[0]], outputs)]
        inverse = add_like(self.graph, divisor, self._name(divisor) + b"_inverse")
        self.readers[inverse] += 1
        return [
            operation(self.tree, "RSQRT", [root.inputs[0]], [inverse]),
            operation(self.tree, "MUL", [dividend, inverse], outputs, fused),
        ]

    def _power(self, operator: Any, inputs: list[int], outputs: list[int]) -> list[Any]:
        exponent = self._values(inputs[1])
        if exponent is None or exponent.size != 1 or self._shape(inputs[0]) != self._shape(outputs[0]):
            return [operator]
        match float(exponent.reshape(-1)[0]):
            case 2.0:
                self.readers[inputs[0]] += 1
                return [operation(self.tree, "MUL", [inputs[0], inputs[0]], outputs, schema.MulOptionsT())]
            case 0.5:
                return [operation(self.tree, "SQRT", inputs[:1], outputs)]
            case -0.5:
                return [operation(self.tree, "RSQRT", inputs[:1], outputs)]
        return [operator]

    def _moved(self, operator: Any, name: str, inputs: list[int], outputs: list[int]) -> list[Any]:
        """Two moves in a row are one, and one that moves nothing is none."""
        before = self.makers.get(inputs[0])
        same = before is not None and op_name(self.tree, before) == name
        if name == "RESHAPE":
            if same and before is not None:
                operator.inputs = self._past(before, inputs)
            source = int(operator.inputs[0])
            still = self._shape(source) == self._shape(outputs[0])
        else:
            order = self._values(inputs[1])
            if order is None:
                return [operator]
            if same and before is not None and (first := self._values(int(before.inputs[1]))) is not None:
                order = first[order]
                operator.inputs = self._past(before, [inputs[0], self._constant(inputs[1], b"_both", order.astype(np.int32))])
            source = int(operator.inputs[0])
            still = list(order) == sorted(order)
        fixed = all(size >= 0 for index in (source, outputs[0]) for size in listed(self.graph.tensors[index].shapeSignature))
        if still and fixed and self._replace(outputs[0], source):
            return []
        return [operator]

    def _past(self, before: Any, inputs: list[int]) -> list[int]:
        """The inputs of an op that reads what the one before it reads."""
        source = int(before.inputs[0])
        self.readers[inputs[0]] -= 1
        self.readers[source] += 1
        return [source, *inputs[1:]]

    def _fused(self, operator: Any, name: str, inputs: list[int], outputs: list[int]) -> list[Any]:
        """An activation behind an op that can apply it."""
        maker = self.makers.get(inputs[0])
        if maker is None or op_name(self.tree, maker) not in _FUSING or self.readers[inputs[0]] != 1 or self._activation(maker):
            return [operator]
        if maker.builtinOptions is None:
            return [operator]
        maker.builtinOptions.fusedActivationFunction = getattr(schema.ActivationFunctionType, _ACTIVATIONS[name])
        maker.outputs = outputs
        self.makers[outputs[0]] = maker
        return []

    # GELU.

    def _gelu(self) -> None:
        """Ops that together compute GELU of one tensor become the op, whatever formula they follow: they are tried on numbers."""
        self._look()
        operators, gone = listed(self.graph.operators), set[int]()
        for source in [index for index, count in self.readers.items() if count > 1 and index in self.reading]:
            for region, result in self._pointwise(source):
                if gone.isdisjoint(region) and (form := self._form(source, [operators[place] for place in region], result)):
                    gone.update(region[:-1])
                    options = schema.GeluOptionsT(approximate=form == "tanh")
                    operators[region[-1]] = operation(self.tree, "GELU", [source], [result], options)
                    break
        self.graph.operators = [operator for place, operator in enumerate(operators) if place not in gone]

    def _form(self, source: int, region: Sequence[Any], result: int) -> str | None:
        """Which form of GELU the ops compute, if any."""
        if not self._is_float([source, result]) or not any(op_name(self.tree, operator) in _CURVED for operator in region):
            return None
        if (values := self._on_grid(source, region, result)) is None:
            return None
        distances = {name: float(np.abs(values - form).max()) for name, form in _gelus(_GRID).items()}
        closest = min(distances, key=distances.__getitem__)
        return closest if distances[closest] <= _CLOSE else None

    def _pointwise(self, source: int) -> list[tuple[list[int], int]]:
        """Places of ops that compute, from `source` and single constants alone, a tensor beside which nothing of theirs is read
        elsewhere, and that tensor: each such group, the largest first."""
        inside, region, reads = {source}, list[int](), Counter[int]()
        groups: list[tuple[list[int], int]] = []
        ahead = sorted(set(self.reading[source]))
        while ahead:
            operator = self.graph.operators[place := heapq.heappop(ahead)]
            inputs, outputs = self._ends(operator)
            if op_name(self.tree, operator) not in _POINTWISE or not all(one in inside or self._is_single(one) for one in inputs):
                if inside.intersection(inputs) - {source}:
                    break
                continue
            inside.update(outputs)
            region.append(place)
            reads.update(index for index in inputs if index in inside)
            if [index for index in inside - {source} if self.readers[index] != reads[index]] == outputs and len(region) > 2:
                groups.append(([*region], outputs[0]))
            for later in set(self.reading[outputs[0]]) - set(ahead):
                heapq.heappush(ahead, later)
        return groups[::-1][:_MOST_GROUPS]

    def _on_grid(self, source: int, region: Sequence[Any], result: int) -> np.ndarray | None:
        """What the ops give where the source has the grid's numbers; None where its shape does not hold them."""
        shape = self._shape(source)
        if self._shape(result) != shape or any(size < 0 for size in listed(self.graph.tensors[source].shapeSignature)):
            return None
        size = math.prod(shape)
        if size < _LEAST_VALUES:
            return None
        parts = [np.resize(_GRID[start : start + size], shape) for start in range(0, len(_GRID), size)]
        computed = [_run(self.tree, self.graph, region, {source: part}, [result]) for part in parts]
        known = [values[0].reshape(-1) for values in computed if values is not None]
        return np.concatenate(known)[: len(_GRID)] if len(known) == len(parts) else None

    # What all of them need.

    def _look(self) -> None:
        self.makers, self.readers, self.reading = {}, Counter(map(int, listed(self.graph.outputs))), defaultdict(list)
        for place, operator in enumerate(listed(self.graph.operators)):
            inputs, outputs = self._ends(operator)
            self.makers.update(dict.fromkeys(outputs, operator))
            self.readers.update(inputs)
            for index in inputs:
                self.reading[index].append(place)

    def _drop_unread(self) -> None:
        """Leave out ops that nothing reads; what holds state between runs stays."""
        kept: list[Any] = []
        read = {*map(int, listed(self.graph.outputs))}
        for operator in reversed(listed(self.graph.operators)):
            inputs, outputs = self._ends(operator)
            if not outputs or read.intersection(outputs) or op_name(self.tree, operator) in _KEPT:
                read.update(inputs)
                kept.append(operator)
        self.graph.operators = kept[::-1]

    def _replace(self, index: int, by: int) -> bool:
        """Have all that reads a tensor read another one; not where it is an output, whose name it keeps."""
        if index in map(int, listed(self.graph.outputs)):
            return False
        for operator in listed(self.graph.operators):
            operator.inputs = [by if int(one) == index else int(one) for one in listed(operator.inputs)]
        self.readers[by] += self.readers[index] - 1
        return True

    def _ends(self, operator: Any) -> tuple[list[int], list[int]]:
        return [*map(int, listed(operator.inputs))], [*map(int, listed(operator.outputs))]

    def _values(self, index: int) -> np.ndarray | None:
        return constant(self.tree, self.graph, index)

    def _data(self, index: int) -> Any:
        """What a constant is stored as, sparse ones among them."""
        tensor = self.graph.tensors[index]
        return None if tensor.isVariable else self.tree.buffers[tensor.buffer].data

    def _shape(self, index: int) -> list[int]:
        return [int(size) for size in listed(self.graph.tensors[index].shape)] if index >= 0 else []

    def _name(self, index: int) -> bytes:
        return self.graph.tensors[index].name or b"tensor"

    def _constant(self, like: int, suffix: bytes, values: np.ndarray) -> int:
        return add_constant(self.tree, self.graph, self._name(like) + suffix, values)

    def _is_float(self, indices: Iterable[int]) -> bool:
        return all(self.graph.tensors[index].type == schema.TensorType.FLOAT32 for index in indices)

    def _is_single(self, index: int) -> bool:
        values = self._values(index)
        return values is not None and values.size == 1

    def _activation(self, operator: Any) -> int:
        return int(getattr(operator.builtinOptions, "fusedActivationFunction", 0))


_WIDTHS = {"float32": 4, "float16": 2, "int8": 1, "int16": 2, "int32": 4, "int64": 8, "uint8": 1, "bool": 1}


def _gelus(values: np.ndarray) -> dict[str, np.ndarray]:
    """GELU, and its approximation by tanh (Hendrycks and Gimpel, 2016, arXiv:1606.08415)."""
    wide = values.astype(np.float64)
    exact = np.array([value * (1 + math.erf(value / math.sqrt(2))) / 2 for value in wide])
    return {"erf": exact, "tanh": wide * (1 + np.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3))) / 2}


def _run(
    tree: Any, graph: Any, operators: Sequence[Any], fed: dict[int, np.ndarray], wanted: Sequence[int]
) -> list[np.ndarray] | None:
    """The tensors `wanted` after the ops alone have run on the constants of the graph and the tensors that are `fed`.

    None where the runtime cannot run them."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    used = sorted(
        {int(index) for one in operators for index in itertools.chain(listed(one.inputs), listed(one.outputs)) if index >= 0}
    )
    places = {index: place for place, index in enumerate(used)}
    buffers, tensors = [schema.BufferT()], []
    for index in used:
        tensor = graph.tensors[index]
        data = tree.buffers[tensor.buffer].data
        buffers.append(schema.BufferT(data=data)) if data is not None else None
        copied = schema.TensorT(shape=tensor.shape, type=tensor.type, buffer=len(buffers) - 1 if data is not None else 0)
        copied.name, copied.quantization, copied.sparsity = f"t{places[index]}".encode(), tensor.quantization, tensor.sparsity
        tensors.append(copied)
    alone = schema.SubGraphT(tensors=tensors, operators=[_moved_op(one, places) for one in operators])
    alone.inputs, alone.outputs = [places[index] for index in fed], [places[index] for index in wanted]
    model = schema.ModelT(version=tree.version, operatorCodes=tree.operatorCodes, subgraphs=[alone], buffers=buffers)
    try:
        interpreter = Interpreter(
            model_content=pack(model), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        )
        interpreter.allocate_tensors()
        for index, values in fed.items():
            interpreter.set_tensor(places[index], values)
        interpreter.invoke()
        return [interpreter.get_tensor(places[index]) for index in wanted]
    except (ValueError, RuntimeError):  # what it stops at here it stops at in the whole model, which is run later
        return None


def _moved_op(operator: Any, places: dict[int, int]) -> Any:
    moved = schema.OperatorT(opcodeIndex=operator.opcodeIndex)
    moved.inputs = [places.get(int(index), -1) for index in listed(operator.inputs)]
    moved.outputs = [places[int(index)] for index in listed(operator.outputs)]
    for name in ("builtinOptionsType", "builtinOptions", "builtinOptions2Type", "builtinOptions2"):
        setattr(moved, name, getattr(operator, name))
    return moved
