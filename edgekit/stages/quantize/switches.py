"""One file that computes each of its ops in both ways, so that any choice between them is run without making a file for it."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgekit.errors import ConversionError
from edgekit.tflite import schema
from edgekit.tflite.tree import add_constant, add_like, add_tensor, listed, load, named, op_name, opcode, operation, pack, text

# The input that says of each op whether its integer form counts (1) or the other (0).
SWITCHES = "edgekit_switches"
# What ai-edge-quantizer adds to the name of a tensor for its other dtype.
_QUANTIZED, _DEQUANTIZED = "_quantized", "_dequant"
# Ops without a value at 0, to which rounding may take their input. No number is 0 times what they give there.
_POLES = ("RSQRT", "LOG")
_LEAST = 1e-30


def both_ways(other: bytes, integer: bytes, ops: Sequence[str]) -> tuple[bytes, tuple[str, ...]]:
    """`other` with the integer form that `integer` has of each of `ops` beside it, and which of them have one that differs.

    Both are made from one graph, so that their tensors have the same names. The file takes one more input, `SWITCHES`
    (ops that differ, 1) float32. Raises `ConversionError` for a file that cannot be written again."""
    tree, source = load(other), load(integer)
    if tree is None or source is None:
        raise ConversionError("the model is too large for a file with both forms of its ops; give a plan with --plan")
    integers = {_output(source.subgraphs[0], operator): operator for operator in source.subgraphs[0].operators}
    switched = _Mixer(tree, source).mix({name: integers[name] for name in ops if name in integers})
    return pack(tree), switched


def _output(graph: Any, operator: Any) -> str:
    """What `forms.output` calls an op of a tree."""
    return ";".join(text(graph.tensors[index].name) for index in operator.outputs)


class _Mixer:
    def __init__(self, tree: Any, source: Any) -> None:
        self.tree, self.graph = tree, tree.subgraphs[0]
        self.source, self.ints = source, source.subgraphs[0]
        self.places = {text(tensor.name): index for index, tensor in enumerate(self.graph.tensors)}
        self.inputs: dict[int, int] = {}

    def mix(self, chosen: Mapping[str, Any]) -> tuple[str, ...]:
        """Put the integer op of each name beside the graph's own, and give the names that it was done for."""
        operators = self.graph.operators
        pairs = [(operator, _output(self.graph, operator)) for operator in operators]
        switched = tuple(name for operator, name in pairs if name in chosen and self._differs(operator, chosen[name]))
        self.graph.operators = []
        switches = dict(zip(switched, self._unpack(len(switched)), strict=True)) if switched else {}
        for operator, name in pairs:
            if name in switches:
                self._beside(operator, chosen[name], *switches[name])
            else:
                self.graph.operators.append(operator)
        return switched

    def _differs(self, operator: Any, integer: Any) -> bool:
        """Whether the graph's op gives floats and the other integers, and all that the other reads is there."""
        float32 = schema.TensorType.FLOAT32
        given = all(self.graph.tensors[index].type == float32 for index in operator.outputs)
        taken = all(self.ints.tensors[index].type != float32 for index in integer.outputs)
        return given and taken and all(index < 0 or self._constant(index) or self._origin(index) >= 0 for index in integer.inputs)

    def _constant(self, index: int) -> bool:
        return self.source.buffers[self.ints.tensors[index].buffer].data is not None

    def _origin(self, index: int) -> int:
        """The graph's own tensor with the values that an integer op reads, or -1."""
        tensor = self.ints.tensors[index]
        name = text(tensor.name)
        for found in (name, name.removesuffix(_QUANTIZED), name + _DEQUANTIZED, name.removesuffix(_QUANTIZED) + _DEQUANTIZED):
            place = self.places.get(found, -1)
            if place >= 0 and self.graph.tensors[place].type in (schema.TensorType.FLOAT32, tensor.type):
                return place
        return -1

    def _beside(self, operator: Any, integer: Any, on: int, off: int) -> None:
        """The graph's op, the integer one, and for each output `off` times the one and `on` times the other, where the one was."""
        results = [int(index) for index in operator.outputs]
        owns = [self._like(index, "own") for index in results]
        name = op_name(self.source, integer)
        if name in _POLES:
            bounded = self._like(int(operator.inputs[0]), f"{name} input")
            name_of_least = f"{text(self.graph.tensors[bounded].name)}/least".encode()
            least = add_constant(self.tree, self.graph, name_of_least, np.array([_LEAST], np.float32))
            self._op("MAXIMUM", [int(operator.inputs[0]), least], [bounded], schema.MaximumMinimumOptionsT())
            operator.inputs = [bounded]
        operator.outputs = owns
        self.graph.operators.append(operator)
        integer.inputs = [self._input(index) if index >= 0 else -1 for index in map(int, integer.inputs)]
        integer.outputs = [self._copy(int(index)) for index in integer.outputs]
        integer.opcodeIndex = opcode(self.tree, name, self.source.operatorCodes[integer.opcodeIndex].version)
        self.graph.operators.append(integer)
        for result, own, output in zip(results, owns, integer.outputs, strict=True):
            real, kept, counted = (self._like(result, what) for what in ("real", "kept", "counted"))
            self._op("DEQUANTIZE", [output], [real])
            self._op("MUL", [own, off], [kept], schema.MulOptionsT())
            self._op("MUL", [real, on], [counted], schema.MulOptionsT())
            self._op("ADD", [kept, counted], [result], schema.AddOptionsT())

    def _input(self, index: int) -> int:
        """The place in the graph of what an integer op reads: a copied constant, the graph's own tensor, or that in integers."""
        origin = -1 if self._constant(index) else self._origin(index)
        if origin >= 0 and self.graph.tensors[origin].type == self.ints.tensors[index].type:
            return origin
        if index not in self.inputs:
            self.inputs[index] = self._copy(index)
            if origin >= 0:
                self._op("QUANTIZE", [origin], [self.inputs[index]])
        return self.inputs[index]

    def _copy(self, index: int) -> int:
        """A tensor of the integer file in the graph, with its values where it has some."""
        tensor = copy.copy(self.ints.tensors[index])
        tensor.name = f"{text(tensor.name)}/integer".encode()
        self.tree.buffers.append(self.source.buffers[tensor.buffer])
        tensor.buffer = len(self.tree.buffers) - 1 if self._constant(index) else 0
        return add_tensor(self.graph, tensor)

    def _like(self, index: int, what: str) -> int:
        return add_like(self.graph, index, f"{text(self.graph.tensors[index].name)}/{what}".encode())

    def _op(self, name: str, inputs: Sequence[int], outputs: Sequence[int], options: Any = None) -> None:
        self.graph.operators.append(operation(self.tree, name, inputs, outputs, options))

    def _unpack(self, count: int) -> list[tuple[int, int]]:
        """The new input, and for each op its switch (1,) and the opposite."""
        first = len(self.graph.tensors)
        ends = [f"{SWITCHES}/{way}{number}" for way in ("on", "off") for number in range(count)]
        shapes = {SWITCHES: [count, 1], f"{SWITCHES}/off": [count, 1], **{end: [1] for end in ends}}
        for name, shape in shapes.items():
            add_tensor(self.graph, schema.TensorT(shape=shape, buffer=0, name=name.encode()))
        on, off = ([*range(start, start + count)] for start in (first + 2, first + 2 + count))
        one = add_constant(self.tree, self.graph, f"{SWITCHES}/one".encode(), np.ones(1, np.float32))
        self._op("SUB", [one, first], [first + 1], schema.SubOptionsT())
        self._op("UNPACK", [first], on, schema.UnpackOptionsT(num=count))
        self._op("UNPACK", [first + 1], off, schema.UnpackOptionsT(num=count))
        self.graph.inputs = [*map(int, self.graph.inputs), first]
        for signature in listed(self.tree.signatureDefs):
            if not signature.subgraphIndex:
                signature.inputs += named({SWITCHES: first})
        return [*zip(on, off, strict=True)]
