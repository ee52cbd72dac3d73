"""A float .tflite that computes only the positions that its outputs read.

A classifier looks at the last layer's first token alone, so of that layer's queries, feed-forward network and normalizations
all other rows are computed for nothing: an eighth of what a six-layer encoder takes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgekit.tflite import schema
from edgekit.tflite.tree import add_constant, add_tensor, constant, ends, listed, op_name, operation, reshape, shape_of

# Ops that give each element from the elements at its place, after broadcasting.
_UNARY = ("ABS", "CAST", "ELU", "EXP", "GELU", "LOGISTIC", "NEG", "RELU", "RELU6", "RSQRT", "SQRT", "SQUARE", "TANH")
_BINARY = ("ADD", "DIV", "LOGICAL_AND", "MAXIMUM", "MINIMUM", "MUL", "POW", "SQUARED_DIFFERENCE", "SUB")
_ELEMENTWISE = (*_UNARY, *_BINARY, "SELECT_V2")
_REDUCING = ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN")
# What is worth it; without one of them there would only be more ops.
_COSTLY = ("FULLY_CONNECTED", "BATCH_MATMUL")


@dataclass(frozen=True)
class _Row:
    """The one position of a tensor's axis that is read."""

    axis: int
    index: int


# For each input of an op the axis of the row that is read of it, or None where the op takes that input whole.
_Axes = list[int | None]


def narrow(tree: Any) -> bool:
    """Have each op of the tree whose result is read at one position of an axis compute that alone; whether any does.

    Results stay the same. Without a matrix product among such ops, so does the tree."""
    # A list, so that none is left out once one has changed.
    changed = [_Graph(tree, graph).narrow() for graph in tree.subgraphs]
    return any(changed)


@dataclass
class _Graph:
    """`axes` has the ops that compute one row, by place, and `chosen` the places of those that take a row out of their input.

    `narrowed` are the results that shrink to a row, and `cut` the rows that are taken out of others."""

    tree: Any
    graph: Any
    axes: dict[int, _Axes] = field(default_factory=dict)
    narrowed: dict[int, _Row] = field(default_factory=dict)
    chosen: set[int] = field(default_factory=set)
    cut: dict[tuple[int, _Row], int] = field(default_factory=dict)
    made: list[Any] = field(default_factory=list)

    def narrow(self) -> bool:
        if any(size < 0 for tensor in self.graph.tensors for size in listed(tensor.shapeSignature)):
            return False
        self._follow()
        operators = listed(self.graph.operators)
        if not any(op_name(self.tree, operators[place]) in _COSTLY for place in self.axes):
            return False
        for place, operator in enumerate(operators):
            if place in self.axes:
                self.made.append(self._narrowed(operator, self.axes[place]))
            elif place in self.chosen and int(operator.inputs[0]) in self.narrowed:
                # Of one row there is nothing to choose.
                self.made.append(reshape(self.tree, self.graph, int(operator.inputs[0]), int(operator.outputs[0])))
            else:
                self.made.append(operator)
        self.graph.operators = self.made
        return True

    def _follow(self) -> None:
        """Find what is read of each tensor, from the last op to the first."""
        # None where all of it is read.
        read: dict[int, _Row | None] = dict.fromkeys(map(int, (*listed(self.graph.outputs), *listed(self.graph.inputs))))
        for place, operator in reversed([*enumerate(listed(self.graph.operators))]):
            inputs, outputs = ends(operator)
            row = read.get(outputs[0]) if len(outputs) == 1 else None
            axes = self._axes(operator, row.axis) if row is not None else None
            wanted: list[_Row | None] = [None] * len(inputs)
            if axes is not None and row is not None:
                self.axes[place], self.narrowed[outputs[0]] = axes, row
                wanted = [None if axis is None else _Row(axis, row.index) for axis in axes]
            elif (chosen := self._chosen(operator)) is not None:
                self.chosen.add(place)
                wanted[0] = chosen
            for index, what in zip(inputs, wanted, strict=True):
                read[index] = what if read.get(index, what) == what else None

    def _narrowed(self, operator: Any, axes: _Axes) -> Any:
        """The op with the row alone of its inputs, where it reads no more, and of its output."""
        result = int(operator.outputs[0])
        row, tensor = self.narrowed[result], self.graph.tensors[result]
        operator.inputs = [
            int(index) if axis is None or int(index) in self.narrowed else self._cut(int(index), _Row(axis, row.index))
            for index, axis in zip(operator.inputs, axes, strict=True)
        ]
        tensor.shape, tensor.shapeSignature = self._row_shape(result, row), None
        return reshape(self.tree, self.graph, operator.inputs[0], result) if op_name(self.tree, operator) == "RESHAPE" else operator

    def _axes(self, operator: Any, axis: int) -> _Axes | None:
        """On which axis of each input the row of the output's `axis` lies; None for an op that does not compute by rows."""
        inputs = [int(index) for index in operator.inputs]
        shape, shapes = self._shape(operator.outputs[0]), [self._shape(index) for index in inputs]
        options, rest = operator.builtinOptions, [None] * (len(inputs) - 1)
        place: int | None = None
        match op_name(self.tree, operator):
            case name if name in _ELEMENTWISE:
                places = [axis - len(shape) + len(given) for given in shapes]
                return [at if at >= 0 and given[at] == shape[axis] else None for at, given in zip(places, shapes, strict=True)]
            case name if name in _REDUCING and (reduced := self._values(inputs[1])) is not None:
                gone = {int(one) % len(shapes[0]) for one in reduced.reshape(-1)}
                kept = [at for at in range(len(shapes[0])) if at not in gone]
                at = axis if getattr(options, "keepDims", False) else kept[axis]
                place = at if at in kept else None
            case "SOFTMAX" if axis != len(shape) - 1:
                place = axis
            case "TRANSPOSE" if (order := self._values(inputs[1])) is not None:
                place = int(order[axis])
            case "RESHAPE":
                place = _same_axis(shape, axis, shapes[0])
            case "FULLY_CONNECTED" if axis != len(shape) - 1 and not getattr(options, "weightsFormat", 0):
                place = _same_axis(shape[:-1], axis, shapes[0][:-1])
            case "BATCH_MATMUL" if axis == len(shape) - 2 and not getattr(options, "adjX", False):
                place = len(shapes[0]) - 2
        return None if place is None else [place, *rest]

    def _chosen(self, operator: Any) -> _Row | None:
        """The row that an op takes out of its first input, if that is all that it does."""
        name, options = op_name(self.tree, operator), operator.builtinOptions
        if name not in ("GATHER", "SLICE", "STRIDED_SLICE"):
            return None
        inputs = [int(index) for index in operator.inputs]
        shape, given = self._shape(inputs[0]), [self._values(index) for index in inputs[1:]]
        if not shape or any(values is None for values in given):
            return None
        numbers = [[int(one) for one in values.reshape(-1)] for values in given if values is not None]
        taken = [[*range(size)] for size in shape]
        if name == "GATHER":
            if getattr(options, "batchDims", 0):
                return None
            taken[getattr(options, "axis", 0)] = numbers[0]
        elif name == "SLICE":
            for axis, (begin, size) in enumerate(zip(*numbers, strict=True)):
                taken[axis] = taken[axis][begin:][: size if size >= 0 else None]
        else:
            if options is None or options.ellipsisMask or options.newAxisMask or options.offset:
                return None
            for axis, (begin, end, step) in enumerate(zip(*numbers, strict=True)):
                first = None if options.beginMask >> axis & 1 else begin
                last = None if options.endMask >> axis & 1 else end
                one = options.shrinkAxisMask >> axis & 1
                taken[axis] = [taken[axis][begin]] if one else taken[axis][first:last:step]
        cut = [axis for axis, (some, size) in enumerate(zip(taken, shape, strict=True)) if some != [*range(size)]]
        return _Row(cut[0], taken[cut[0]][0]) if len(cut) == 1 and len(taken[cut[0]]) == 1 else None

    def _cut(self, index: int, row: _Row) -> int:
        """A tensor with that row of another: a constant, or what a SLICE gives that comes before all that read it."""
        key = index, row
        if key not in self.cut:
            tensor, shape = self.graph.tensors[index], self._row_shape(index, row)
            name = (tensor.name or b"") + f"_row{row.index}".encode()
            if (values := self._values(index)) is not None:
                self.cut[key] = add_constant(self.tree, self.graph, name, values.take([row.index], row.axis))
            else:
                begin = np.array([row.index if axis == row.axis else 0 for axis in range(len(shape))], np.int32)
                ends = [
                    add_constant(self.tree, self.graph, name + what, one)
                    for what, one in ((b"_begin", begin), (b"_size", np.array(shape, np.int32)))
                ]
                self.cut[key] = add_tensor(self.graph, schema.TensorT(shape=shape, type=tensor.type, buffer=0, name=name))
                self.made.append(operation(self.tree, "SLICE", [index, *ends], [self.cut[key]], schema.SliceOptionsT()))
        return self.cut[key]

    def _row_shape(self, index: int, row: _Row) -> list[int]:
        return [1 if axis == row.axis else size for axis, size in enumerate(self._shape(index))]

    def _shape(self, index: int) -> list[int]:
        return shape_of(self.graph, index)

    def _values(self, index: int) -> np.ndarray | None:
        return constant(self.tree, self.graph, index)


def _same_axis(shape: Sequence[int], axis: int, before: Sequence[int]) -> int | None:
    """The axis of `before` that stays whole in a reshape to `shape` and becomes its `axis`."""
    outer = int(np.prod(shape[:axis]))
    for place, size in enumerate(before):
        if size == shape[axis] and int(np.prod(before[:place])) == outer:
            return place
    return None
