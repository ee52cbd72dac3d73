"""A float .tflite in fewer ops that quantize well: the same function, whoever wrote the file.

Converters leave products as BATCH_MATMUL by constants, normalizations that divide, GELU in ten pieces, weights in float16 behind
DEQUANTIZE and transposes that cancel. Quantizers look for FULLY_CONNECTED, RSQRT, GELU and constant float32 weights."""

import itertools
import math
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.stages.export.fold import KEPT, fold
from edgekit.stages.export.gelu import fuse_gelu
from edgekit.stages.export.narrow import narrow
from edgekit.stages.export.settle import settle
from edgekit.tflite import schema
from edgekit.tflite.module_names import shorten
from edgekit.tflite.tree import (
    add_constant,
    add_like,
    are_float,
    constant,
    drop_unread,
    ends,
    listed,
    load,
    op_name,
    operation,
    readers,
    reshape,
    shape_of,
    write,
)

# They write their states back to where they read them.
_RECURRENT = frozenset(f"{way}_SEQUENCE_{kind}" for way in ("BIDIRECTIONAL", "UNIDIRECTIONAL") for kind in ("LSTM", "RNN")) | {
    "LSTM",
    "RNN",
    "SVDF",
}
_WORTH_SHARING_BYTES = 1024
# Up to which SELECT_V2 broadcasts.
_SELECT_AXES = 4
_ACTIVATIONS = ("RELU", "RELU6", "RELU_N1_TO_1")
_FUSING = ("ADD", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "MUL", "SUB")


def simplify(path: Path, *, reset: bool = False) -> None:
    """Rewrite the float model in `path`, in place; above 2 GB it stays as it is. In a worker child.

    With `reset` each run of the model begins with states of zeros, as in its source, and not with those that the last one left."""
    tree = load(path.read_bytes())
    if tree is None:
        return
    # Lists, so that none is left out once one has changed.
    changed = [_Graph(tree, graph).simplify() for graph in tree.subgraphs]
    changed += [_reset_states(tree, graph) for graph in tree.subgraphs if reset]
    changed += [shorten(graph) for graph in tree.subgraphs]
    changed += [_separate_outputs(tree, number) for number in range(len(tree.subgraphs))]
    if any([*changed, narrow(tree)]):
        drop_unread(tree)
        write(tree, path)


def _separate_outputs(tree: Any, number: int) -> bool:
    """Give each output of a graph a tensor of its own, which quantizers expect; a value under several names is copied."""
    graph = tree.subgraphs[number]
    outputs = [*map(int, listed(graph.outputs))]
    for signature in listed(tree.signatureDefs):
        named = [int(end.tensorIndex) for end in listed(signature.outputs) if signature.subgraphIndex == number]
        outputs += (Counter(named) - Counter(outputs)).elements()
    if len(set(outputs)) == len(outputs):
        return False
    graph.operators, graph.outputs = listed(graph.operators), outputs.copy()
    for place, index in enumerate(outputs):
        if index in outputs[:place]:
            graph.outputs[place] = copy = add_like(graph, index, (graph.tensors[index].name or b"") + f"_{place}".encode())
            graph.tensors[copy].type = graph.tensors[index].type
            graph.operators.append(reshape(tree, graph, index, copy))
    for signature in listed(tree.signatureDefs):
        # Of a signature each name stands for the next of the outputs that its tensor has become.
        later: dict[int, list[int]] = {index: [] for index in outputs}
        for index, result in zip(outputs, graph.outputs, strict=True):
            later[index].append(result)
        for end in listed(signature.outputs) if signature.subgraphIndex == number else ():
            copies = later.get(int(end.tensorIndex), [])
            end.tensorIndex = copies.pop(0) if copies else end.tensorIndex
    return True


def _reset_states(tree: Any, graph: Any) -> bool:
    """Write zeros to the states of recurrent ops before they are read.

    By ZEROS_LIKE: what other kernels give from constants is a constant to the runtime, and no variable any more."""
    operators: list[Any] = []
    written: set[int] = set()
    for operator in listed(graph.operators):
        states = [index for index in ends(operator)[0] if index >= 0 and graph.tensors[index].isVariable]
        for index in states if op_name(tree, operator) in _RECURRENT else ():
            if index not in written:
                zeros = np.zeros(shape_of(graph, index), np.float32)
                like = add_constant(tree, graph, (graph.tensors[index].name or b"state") + b"_zeros", zeros)
                operators.append(operation(tree, "ZEROS_LIKE", [like], [index], schema.ZerosLikeOptionsT()))
        operators.append(operator)
        written.update(ends(operator)[1])
    changed = len(operators) > len(listed(graph.operators))
    graph.operators = operators
    return changed


@dataclass
class _Graph:
    """`makers` has the op before that computes each tensor, `readers` how many ends of ops and of the graph read it."""

    tree: Any
    graph: Any
    makers: dict[int, Any] = field(default_factory=dict)
    readers: Counter[int] = field(default_factory=Counter)

    def simplify(self) -> bool:
        before = [self._state(operator) for operator in listed(self.graph.operators)]
        self._unshare_states()
        settled = settle(self.tree, self.graph)
        fold(self.tree, self.graph)
        # A shape that was computed from others is known now, and what is reshaped to it.
        while settled and settle(self.tree, self.graph):
            fold(self.tree, self.graph)
        self._drop_unread()
        for _ in range(2):
            self._peephole()
            self._drop_unread()
        fuse_gelu(self.tree, self.graph)
        self._share_constants()
        return settled or before != [self._state(operator) for operator in listed(self.graph.operators)]

    def _state(self, operator: Any) -> tuple[Any, ...]:
        return operator.opcodeIndex, ends(operator), self._activation(operator)

    def _share_constants(self) -> None:
        """Read equal constants from one tensor: some exporters write shared layers out for each place where they stand."""
        alike: dict[tuple[Any, ...], list[tuple[int, np.ndarray]]] = {}
        kept: dict[int, int] = {}
        for operator in listed(self.graph.operators):
            inputs = ends(operator)[0]
            for place, index in enumerate(inputs):
                if index not in kept:
                    kept[index] = self._like(index, alike)
                inputs[place] = kept[index]
            operator.inputs = inputs

    def _like(self, index: int, alike: dict[tuple[Any, ...], list[tuple[int, np.ndarray]]]) -> int:
        """The first constant that is as this one, which joins those `alike` if there is none."""
        values = None if index < 0 or self.graph.tensors[index].isVariable else constant(self.tree, self.graph, index)
        if values is None or values.nbytes < _WORTH_SHARING_BYTES:
            return index
        same = alike.setdefault((values.dtype, values.shape, zlib.crc32(values.data)), [])
        for other, known in same:
            if np.array_equal(values, known):
                return other
        same.append((index, values))
        return index

    # States.

    def _unshare_states(self) -> None:
        """Give each recurrent op states of its own, and zeros to what else reads one.

        TFLiteConverter makes one tensor of all states of a shape, since all begin as zeros; whoever comes second reads what the
        first has left there."""
        taken: set[int] = set()
        for operator in listed(self.graph.operators):
            inputs = ends(operator)[0]
            for place, index in enumerate(inputs):
                if index < 0 or not (tensor := self.graph.tensors[index]).isVariable:
                    continue
                if op_name(self.tree, operator) in ("READ_VARIABLE", "ASSIGN_VARIABLE"):
                    continue
                if op_name(self.tree, operator) not in _RECURRENT:
                    inputs[place] = self._constant(index, b"_zeros", np.zeros(shape_of(self.graph, index), np.float32))
                elif index in taken:
                    inputs[place] = add_like(self.graph, index, self._name(index) + f"_{len(taken)}".encode())
                    self.graph.tensors[inputs[place]].isVariable = True
                    self.graph.tensors[inputs[place]].type = tensor.type
                taken.add(inputs[place])
            operator.inputs = inputs

    # Op by op.

    def _peephole(self) -> None:
        self.makers, self.readers = {}, readers(self.graph)
        operators: list[Any] = []
        for operator in listed(self.graph.operators):
            rewritten = self._rewritten(operator)
            for one in rewritten:
                self.makers.update(dict.fromkeys(ends(one)[1], one))
            operators += rewritten
        self.graph.operators = operators

    def _rewritten(self, operator: Any) -> list[Any]:
        (inputs, outputs), name = ends(operator), op_name(self.tree, operator)
        if name == "CUMSUM":
            return self._same_dtype(operator, inputs, outputs)
        if not are_float(self.graph, outputs) and name not in ("RESHAPE", "TRANSPOSE"):
            return [operator]
        match name:
            case "BATCH_MATMUL":
                return self._fully_connected(operator, inputs, outputs)
            case "ADD":
                plain = not self._activation(operator) and len(shape_of(self.graph, outputs[0])) <= _SELECT_AXES
                selected = self._selected(inputs, outputs) if plain else []
                return selected or self._bias(operator, inputs, outputs)
            case "DIV":
                return self._division(operator, inputs, outputs)
            case "NEG":
                # Which has no integer kernel.
                minus = self._constant(outputs[0], b"_sign", np.array(-1, np.float32))
                return [operation(self.tree, "MUL", [inputs[0], minus], outputs, schema.MulOptionsT())]
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
        shape, result = shape_of(self.graph, inputs[0]), shape_of(self.graph, outputs[0])
        if weights is None or weights.dtype != np.float32 or getattr(options, "adjX", False) or weights.ndim < 2 or not shape:
            return [operator]
        if math.prod(weights.shape[:-2]) != 1 or len(result) != len(shape) or result[:-1] != shape[:-1]:
            return [operator]
        matrix = weights.reshape(weights.shape[-2:])
        matrix = matrix if getattr(options, "adjY", False) else matrix.T
        placed = self._constant(inputs[1], b"_by_rows", matrix)
        made = schema.FullyConnectedOptionsT(keepNumDims=True)
        return [operation(self.tree, "FULLY_CONNECTED", [inputs[0], placed, -1], outputs, made)]

    def _selected(self, inputs: list[int], outputs: list[int]) -> list[Any]:
        """condition * x + (1 - condition) * y, which has no integer form and makes 0 * inf of what was not chosen."""
        for chosen, otherwise in itertools.product(*map(self._factors, inputs)):
            for (taken, x), (left, y) in ((chosen, otherwise), (otherwise, chosen)):
                cast, inverse = self.makers.get(taken), self.makers.get(left)
                if cast is None or inverse is None or (op_name(self.tree, cast), op_name(self.tree, inverse)) != ("CAST", "SUB"):
                    continue
                (one, subtracted), condition = ends(inverse)[0], int(cast.inputs[0])
                ones, kind = self._values(one), self.graph.tensors[condition].type
                if subtracted == taken and kind == schema.TensorType.BOOL and ones is not None and np.all(ones == 1):
                    options = schema.SelectV2OptionsT()
                    return [operation(self.tree, "SELECT_V2", [condition, x, y], outputs, options)]
        return []

    def _factors(self, index: int) -> list[tuple[int, int]]:
        """The two factors of a product that nothing else reads, in both orders; nothing where it is none."""
        maker = self.makers.get(index)
        if maker is None or op_name(self.tree, maker) != "MUL" or self.readers[index] != 1 or self._activation(maker):
            return []
        first, second = ends(maker)[0]
        return [(first, second), (second, first)]

    def _bias(self, operator: Any, inputs: list[int], outputs: list[int]) -> list[Any]:
        """A constant that is added to a product's channels is its bias."""
        for product, added in (inputs, inputs[::-1]):
            values, maker = self._values(added), self.makers.get(product)
            if values is None or maker is None or self.readers[product] != 1 or op_name(self.tree, maker) != "FULLY_CONNECTED":
                continue
            units = shape_of(self.graph, int(maker.inputs[1]))[0]
            plain = len(maker.inputs) < 3 or int(maker.inputs[2]) < 0
            if (
                not plain
                or self._activation(maker)
                or values.size != units
                or shape_of(self.graph, product) != shape_of(self.graph, outputs[0])
            ):
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
            and shape_of(self.graph, divisor) == shape_of(self.graph, outputs[0])
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
        if exponent is None or exponent.size != 1 or shape_of(self.graph, inputs[0]) != shape_of(self.graph, outputs[0]):
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
            still = shape_of(self.graph, source) == shape_of(self.graph, outputs[0])
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
        maker.builtinOptions.fusedActivationFunction = getattr(schema.ActivationFunctionType, name)
        maker.outputs = outputs
        self.makers[outputs[0]] = maker
        return []

    # What all of them need.

    def _drop_unread(self) -> None:
        """Leave out ops that nothing reads; what holds state between runs stays."""
        kept: list[Any] = []
        read = {*map(int, listed(self.graph.outputs))}
        for operator in reversed(listed(self.graph.operators)):
            inputs, outputs = ends(operator)
            if not outputs or read.intersection(outputs) or op_name(self.tree, operator) in KEPT:
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

    def _values(self, index: int) -> np.ndarray | None:
        return constant(self.tree, self.graph, index)

    def _name(self, index: int) -> bytes:
        return self.graph.tensors[index].name or b"tensor"

    def _constant(self, like: int, suffix: bytes, values: np.ndarray) -> int:
        return add_constant(self.tree, self.graph, self._name(like) + suffix, values)

    def _activation(self, operator: Any) -> int:
        return int(getattr(operator.builtinOptions, "fusedActivationFunction", 0))
