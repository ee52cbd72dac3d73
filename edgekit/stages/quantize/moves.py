"""Ops that choose, move or count and compute nothing, on integers: ai-edge-quantizer knows them not, and leaves them in float."""

import copy
from typing import Any

from edgekit.tflite import flatbuffer, schema
from edgekit.tflite.tree import add_tensor, ends, listed, op_name, opcode, operation

# What LiteRT's kernels take besides float32; what they give has the scale of what they read.
_BOTH = ("INT8", "INT16")
_KINDS = {
    "ARG_MAX": ("INT8", "INT32"),
    "ARG_MIN": ("INT8", "INT32"),
    "DEPTH_TO_SPACE": _BOTH[:1],
    "REDUCE_MAX": _BOTH,
    "REVERSE_V2": _BOTH,
    "TILE": _BOTH,
    "TOPK_V2": _BOTH,
}
# Whole numbers that an op makes floats of have a step of 1 in int32, from which QUANTIZE goes on to any other.
_COUNTED = ("BOOL", "INT32", "INT64")
# Those that compute on int16 values for all that.
WIDE = frozenset(name for name, kinds in _KINDS.items() if "INT16" in kinds)


def has_moves(graph: flatbuffer.Subgraph) -> bool:
    """Whether some op of a graph may be moved to integers."""
    return any(operator.name in (*_KINDS, "CAST") for operator in graph.operators)


def move(root: Any) -> None:
    """Have such ops of a quantized tree read the integers that are made floats for them, in place."""
    for graph in root.subgraphs:
        _Graph(root, graph).move()


class _Graph:
    def __init__(self, root: Any, graph: Any) -> None:
        self.root, self.graph = root, graph
        # The integers that each float tensor is made of, and those of them that this makes.
        self.integers: dict[int, int] = {}
        self.moved: set[int] = set()

    def move(self) -> None:
        operators: list[Any] = []
        for operator in listed(self.graph.operators):
            name, (inputs, outputs) = op_name(self.root, operator), ends(operator)
            source = self.integers.get(inputs[0], -1) if inputs else -1
            operators.append(operator)
            if name == "DEQUANTIZE":
                self.integers[outputs[0]] = inputs[0]
            elif name == "QUANTIZE" and source in self.moved:
                # From version 2 on it goes from one scale to another.
                operator.inputs, operator.opcodeIndex = [source], opcode(self.root, "QUANTIZE", 2)
            elif name == "CAST" and self._kind(inputs[0]) in _COUNTED and self._kind(outputs[0]) == "FLOAT32":
                operators.insert(-1, self._counted(inputs[0], outputs[0]))
            elif source >= 0 and self._kind(source) in _KINDS.get(name, ()):
                operator.inputs = [source, *inputs[1:]]
                operator.outputs = [self._in_integers(index, source) for index in outputs]
                pairs = [(new, old) for new, old in zip(operator.outputs, outputs, strict=True) if new != old]
                operators += [operation(self.root, "DEQUANTIZE", [new], [old]) for new, old in pairs]
        read = {*map(int, listed(self.graph.outputs)), *(index for one in operators for index in ends(one)[0])}
        unread = [one for one in operators if op_name(self.root, one) in ("CAST", "DEQUANTIZE") and ends(one)[1][0] not in read]
        self.graph.operators = [one for one in operators if not any(one is other for other in unread)]

    def _kind(self, index: int) -> str:
        return schema.names("TensorType").get(self.graph.tensors[index].type, "")

    def _counted(self, index: int, result: int) -> Any:
        """An op that gives whole numbers as such, and not as the floats that `result` has."""
        tensor = copy.copy(self.graph.tensors[result])
        tensor.name, tensor.type = (tensor.name or b"") + b"_counted", schema.TensorType.INT32
        tensor.quantization = schema.QuantizationParametersT(scale=[1.0], zeroPoint=[0])
        self.integers[result] = place = add_tensor(self.graph, tensor)
        self.moved.add(place)
        options = schema.CastOptionsT(inDataType=self.graph.tensors[index].type, outDataType=tensor.type)
        return operation(self.root, "CAST", [index], [place], options)

    def _in_integers(self, index: int, source: int) -> int:
        """A tensor like a float one that an op gives, with the dtype and scale of what it reads; others stay."""
        result, given = self.graph.tensors[index], self.graph.tensors[source]
        if result.type != schema.TensorType.FLOAT32:
            return index
        tensor = copy.copy(result)
        tensor.type, tensor.quantization = given.type, copy.deepcopy(given.quantization)
        # As ai-edge-quantizer calls them.
        result.name = (result.name or b"") + b"_dequant"
        self.integers[index] = place = add_tensor(self.graph, tensor)
        self.moved.add(place)
        return place
