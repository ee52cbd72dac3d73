"""ONNX ops that no road to TFLite takes, as others that each of them takes: pools of any rank, and the models of `ai.onnx.ml`.

What each op computes is said in ONNX's operator specification."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from edgekit.models.channels import is_gathered
from edgekit.stages.export.graph import sizes

_MODERN = 13


def lower(model: Any) -> None:
    """Rewrite such nodes of the top graph, in place; what cannot be rewritten stays. Needs inferred shapes."""
    from onnx import helper, numpy_helper

    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer} | sizes(model)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer if len(tensor.dims) in (1, 3)}
    nodes: list[Any] = []
    constants: dict[str, np.ndarray] = {}
    changed = False
    for node in model.graph.node:
        rewrite = _FORMS.get(node.op_type)
        made = rewrite(_Node(node, shapes, weights, constants)) if rewrite is not None else None
        nodes += [node] if made is None else made
        changed |= made is not None
    if not changed:
        return
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in constants.items())
    if not any(item.domain in ("", "ai.onnx") for item in model.opset_import):
        model.opset_import.append(helper.make_opsetid("", _MODERN))


class _Node:
    """A node with its attributes, which makes others in its place: names of theirs begin with that of its first output."""

    def __init__(
        self,
        node: Any,
        shapes: Mapping[str, tuple[int, ...]],
        weights: Mapping[str, np.ndarray],
        constants: dict[str, np.ndarray],
    ) -> None:
        from onnx import helper

        self.node, self.weights, self.constants = node, weights, constants
        self.attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        self.shapes, self.shape = shapes, shapes.get(node.input[0], ())
        self.made: list[Any] = []
        self._numbers: Iterator[int] = itertools.count()

    def get(self, name: str, default: Any) -> Any:
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def array(self, name: str, kind: Any) -> np.ndarray:
        return np.array(self.attributes.get(name, ()), kind)

    def constant(self, values: np.ndarray) -> str:
        name = f"{self.node.output[0]}/{next(self._numbers)}"
        self.constants[name] = values
        return name

    def add(self, op: str, *inputs: str | np.ndarray, result: str | None = None, **attributes: Any) -> str:
        """Make a node; arrays among its inputs become constants. Gives the name of its result."""
        from onnx import helper

        name = result or f"{self.node.output[0]}/{next(self._numbers)}"
        given = [self.constant(one) if isinstance(one, np.ndarray) else one for one in inputs]
        self.made.append(helper.make_node(op, given, [name], name=f"{name}/{op}", **attributes))
        return name


# Pools.


def _pool(node: _Node) -> list[Any] | None:
    """A pool with dilations or over other than one or two axes: one axis after the other, each window's places gathered in turn."""
    mean, axes = node.node.op_type == "AveragePool", len(node.shape) - 2
    kernel = [*node.get("kernel_shape", [])]
    dilations, strides = ([*node.get(name, [1] * axes)] for name in ("dilations", "strides"))
    if 0 in node.shape or len(kernel) != axes or not is_gathered(kernel, dilations, len(node.node.output)):
        return None
    pads = _padding(node, kernel, dilations, strides)
    value = node.node.input[0]
    for axis, (size, length, step, apart) in enumerate(zip(node.shape[2:], kernel, strides, dilations, strict=True)):
        before, after = pads[axis], pads[axes + axis]
        window = apart * (length - 1) + 1
        count = (size + before + after - window) / step
        count = math.ceil(count) + 1 if node.get("ceil_mode", 0) else math.floor(count) + 1
        # No window may begin in the padding behind.
        count -= node.get("ceil_mode", 0) and (count - 1) * step >= size + before
        places = np.arange(count)[:, None] * step - before + np.arange(length) * apart
        counted = range(-before, size + after) if node.get("count_include_pad", 0) else range(size)
        value = _along(node, value, axis + 2, places, size, counted if mean else None)
    node.add("Identity", value, result=node.node.output[0])
    return node.made


def _along(node: _Node, value: str, axis: int, places: np.ndarray, size: int, counted: range | None) -> str:
    """The largest of each window, or its mean over the places that are `counted`; `places` (windows, length) may lie in padding."""
    valid = (places >= 0) & (places < size)
    first = np.take_along_axis(places, valid.argmax(1)[:, None], 1)
    parts = []
    for taken, there in zip(np.where(valid, places, first).T, valid.T, strict=True):
        part = node.add("Gather", value, taken.astype(np.int64), axis=axis)
        if counted is not None and not there.all():
            part = node.add("Mul", part, _column(there.astype(np.float32), node, axis))
        parts.append(part)
    result = parts[0]
    for part in parts[1:]:
        result = node.add("Max" if counted is None else "Add", result, part)
    if counted is None:
        return result
    counts = np.isin(places, counted).sum(1)
    return node.add("Mul", result, _column((1 / counts).astype(np.float32), node, axis))


def _column(values: np.ndarray, node: _Node, axis: int) -> np.ndarray:
    return values.reshape([-1 if place == axis else 1 for place in range(len(node.shape))])


def _padding(node: _Node, kernel: list[int], dilations: list[int], strides: list[int]) -> list[int]:
    how = node.get("auto_pad", "NOTSET")
    if how not in ("SAME_UPPER", "SAME_LOWER"):
        return [*node.get("pads", [0] * 2 * len(kernel))]
    before, after = [], []
    for size, length, step, apart in zip(node.shape[2:], kernel, strides, dilations, strict=True):
        total = max((math.ceil(size / step) - 1) * step + apart * (length - 1) + 1 - size, 0)
        less, more = total // 2, total - total // 2
        before.append(less if how == "SAME_UPPER" else more)
        after.append(more if how == "SAME_UPPER" else less)
    return [*before, *after]


def _convolution(node: _Node) -> list[Any] | None:
    """A convolution of groups over one axis, as one over two: of those there is a form with groups."""
    weights = node.weights.get(node.node.input[1])
    group = node.get("group", 1)
    if weights is None or weights.ndim != 3 or len(node.shape) != 3 or 0 in node.shape or group in (1, node.shape[1]):
        return None
    batch, channels, length = node.shape
    options = {
        name: value for name, value in node.attributes.items() if name not in ("kernel_shape", "pads", "strides", "dilations")
    }
    pads = [*node.get("pads", [0, 0])]
    wide = node.add("Reshape", node.node.input[0], np.array([batch, channels, 1, length], np.int64))
    made = node.add(
        "Conv",
        wide,
        weights[:, :, None, :],
        *node.node.input[2:],
        kernel_shape=[1, weights.shape[2]],
        pads=[0, pads[0], 0, pads[1]],
        strides=[1, *node.get("strides", [1])],
        dilations=[1, *node.get("dilations", [1])],
        **options,
    )
    node.add("Reshape", made, np.array([batch, weights.shape[0], -1], np.int64), result=node.node.output[0])
    return node.made


# Elementwise ops.


def _outer(node: _Node) -> list[Any] | None:
    """An op on a row (1, 1, 1, N) and a column (1, 1, N, 1), as one on three axes.

    Of four axes onnx2tf 2 takes the one for the other with its channels moved, and moves them back."""
    shapes = [node.shapes.get(name, ()) for name in node.node.input]
    if len(shapes) != 2 or any(len(shape) != 4 or shape[0] != 1 or 0 in shape for shape in shapes):
        return None
    first, second = shapes
    if first == second or first not in (_moved(second, (0, 2, 3, 1)), _moved(second, (0, 3, 1, 2))):
        return None
    if any(1 not in pair and pair[0] != pair[1] for pair in zip(first, second, strict=True)):
        return None
    result = np.broadcast_shapes(first, second)
    flat = [node.add("Reshape", name, np.array(shape[1:], np.int64)) for name, shape in zip(node.node.input, shapes, strict=True)]
    made = node.add(node.node.op_type, *flat, **node.attributes)
    node.add("Reshape", made, np.array(result, np.int64), result=node.node.output[0])
    return node.made


def _moved(shape: tuple[int, ...], order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in order)


# Normalizations and activations.


def _group_normalization(node: _Node) -> list[Any] | None:
    """As PyTorch writes it: the groups are the channels of an instance normalization."""
    x, scale, bias = node.node.input
    groups, sizes = node.get("num_groups", 0), node.shapes.get(scale, ())
    if len(node.shape) < 3 or 0 in node.shape or groups < 1 or sizes not in ((groups,), (node.shape[1],)):
        return None
    by_group = sizes == (groups,) and groups != node.shape[1]
    ends = (scale, bias) if by_group else (np.ones(groups, np.float32), np.zeros(groups, np.float32))
    value = node.add("Reshape", x, np.array([node.shape[0], groups, -1], np.int64))
    value = node.add("InstanceNormalization", value, *ends, epsilon=node.get("epsilon", 1e-5))
    whole = {} if not by_group else {"result": node.node.output[0]}
    value = node.add("Reshape", value, np.array(node.shape, np.int64), **whole)
    if not by_group:
        by_channel = [-1, *[1] * (len(node.shape) - 2)]
        scales, biases = (
            node.weights[one].reshape(by_channel) if one in node.weights else node.add("Reshape", one, np.array(by_channel))
            for one in (scale, bias)
        )
        node.add("Add", node.add("Mul", value, scales), biases, result=node.node.output[0])
    return node.made


def _swish(node: _Node) -> list[Any]:
    x, alpha = node.node.input[0], node.get("alpha", 1.0)
    inner = node.add("Mul", x, np.array(alpha, np.float32)) if alpha != 1 else x
    node.add("Mul", x, node.add("Sigmoid", inner), result=node.node.output[0])
    return node.made


def _prelu(node: _Node) -> list[Any] | None:
    """A PReLU whose slopes are other than one value or one for each channel of an image or a vector, in ops that integers have."""
    x, slope = node.node.input
    slopes, rank = node.shapes.get(slope), len(node.shape)
    by_channel = {2: node.shape[1:], 4: (*node.shape[1:2], 1, 1)}.get(rank)
    if rank < 2 or slopes is None or math.prod(slopes) == 1 or slopes[-3:] == by_channel:
        return None
    positive = node.add("Relu", x)
    # How far below 0 it is; onnx2tf 2 drops a Relu between two products by constants.
    below = node.add("Sub", positive, x)
    node.add("Sub", positive, node.add("Mul", below, slope), result=node.node.output[0])
    return node.made


# Models of ai.onnx.ml.


def _linear_regressor(node: _Node) -> list[Any] | None:
    targets = node.get("targets", 1)
    coefficients, intercepts = node.array("coefficients", np.float32), node.array("intercepts", np.float32)
    if node.get("post_transform", "NONE") != "NONE":
        return None
    scores = node.add("MatMul", node.node.input[0], coefficients.reshape(targets, -1).T)
    node.add("Add", scores, intercepts if intercepts.size else np.zeros(targets, np.float32), result=node.node.output[0])
    return node.made


def _linear_classifier(node: _Node) -> list[Any] | None:
    labels = node.array("classlabels_ints", np.int64)
    coefficients, intercepts = node.array("coefficients", np.float32), node.array("intercepts", np.float32)
    if len(labels) < 2 or intercepts.size not in (0, len(labels)) or coefficients.size % len(labels):
        return None
    scores = node.add("MatMul", node.node.input[0], coefficients.reshape(len(labels), -1).T)
    scores = node.add("Add", scores, intercepts) if intercepts.size else scores
    return _classified(node, scores, labels)


def _tree_classifier(node: _Node) -> list[Any] | None:
    labels = node.array("classlabels_int64s", np.int64)
    ids = node.array("class_ids", np.int64)
    # With two classes and weights for one of them the other's score follows from rules of its own.
    if len(labels) < 2 or len(set(ids.tolist())) < len(labels):
        return None
    scores = _trees(node, "class", len(labels))
    return None if scores is None else _classified(node, scores, labels)


def _tree_regressor(node: _Node) -> list[Any] | None:
    if node.get("aggregate_function", "SUM") != "SUM" or node.get("post_transform", "NONE") != "NONE":
        return None
    scores = _trees(node, "target", node.get("n_targets", 1))
    if scores is None:
        return None
    node.add("Identity", scores, result=node.node.output[0])
    return node.made


def _classified(node: _Node, scores: str, labels: np.ndarray) -> list[Any] | None:
    transforms = {"NONE": "Identity", "SOFTMAX": "Softmax", "LOGISTIC": "Sigmoid"}
    if (transform := transforms.get(node.get("post_transform", "NONE"))) is None:
        return None
    options = {"axis": 1} if transform == "Softmax" else {}
    node.add(transform, scores, result=node.node.output[1], **options)
    best = node.add("ArgMax", scores, axis=1, keepdims=0)
    node.add("Gather", labels, best, result=node.node.output[0], axis=0)
    return node.made


_COMPARED = {"BRANCH_LEQ": "LessOrEqual", "BRANCH_LT": "Less", "BRANCH_GTE": "GreaterOrEqual", "BRANCH_GT": "Greater"}


def _trees(node: _Node, what: str, width: int) -> str | None:
    """The sums of the trees' leaves, (N, width): all comparisons at once, and for each leaf how many on its way came out right
    (Nakandala and others, A Tensor Compiler for Unified Machine Learning Prediction Serving, OSDI 2020)."""
    keys = [*zip(node.array("nodes_treeids", int).tolist(), node.array("nodes_nodeids", int).tolist(), strict=True)]
    modes = [mode.decode() for mode in node.attributes["nodes_modes"]]
    branches = [place for place, mode in enumerate(modes) if mode != "LEAF"]
    kinds = {modes[place] for place in branches}
    missing = node.array("nodes_missing_value_tracks_true", int)
    if len(kinds) != 1 or (compare := _COMPARED.get(kinds.pop())) is None:
        return None
    column = {place: number for number, place in enumerate(branches)}
    leaves = {key: number for number, key in enumerate(key for key, mode in zip(keys, modes, strict=True) if mode == "LEAF")}
    yes, no = (node.array(f"nodes_{side}nodeids", int) for side in ("true", "false"))
    parents = {(keys[place][0], int(side[place])): (place, sign) for place in branches for side, sign in ((yes, 1), (no, -1))}
    ways, right = np.zeros((len(branches), len(leaves)), np.float32), np.zeros(len(leaves), np.float32)
    places = {key: place for place, key in enumerate(keys)}
    for key, leaf in leaves.items():
        at = key
        while at in parents:
            place, sign = parents[at]
            ways[column[place], leaf] = sign
            right[leaf] += sign > 0
            at = keys[place]
            if place == places[key]:
                return None
    weights = np.zeros((len(leaves), width), np.float32)
    ids = (node.array(f"{what}_{name}", int).tolist() for name in ("treeids", "nodeids", "ids"))
    for tree, leaf, target, weight in zip(*ids, node.array(f"{what}_weights", float), strict=True):
        weights[leaves[tree, leaf], target] += weight
    base = node.array("base_values", np.float32)
    features, values = node.array("nodes_featureids", np.int64)[branches], node.array("nodes_values", np.float32)[branches]
    compared = node.add("Gather", node.node.input[0], features, axis=1)
    passed = node.add(compare, compared, values)
    if missing.any():
        is_missing = node.add("Not", node.add("Equal", compared, compared))
        passed = node.add("Or", passed, node.add("And", is_missing, missing[branches].astype(bool)))
    met = node.add("MatMul", node.add("Cast", passed, to=1), ways)
    # Whole numbers, so that half of one tells them apart.
    reached = node.add("Cast", node.add("Greater", met, right - 0.5), to=1)
    sums = node.add("MatMul", reached, weights)
    return node.add("Add", sums, base) if base.size else sums


def _normalizer(node: _Node) -> list[Any] | None:
    """Of rows, by the sum of their magnitudes or the root of that of their squares."""
    x, norm = node.node.input[0], node.get("norm", "MAX")
    if norm not in ("L1", "L2") or len(node.shape) != 2 or node.shape[1] < 1:
        return None
    # As a product, since the forms of ReduceL1 differ from opset to opset.
    magnitudes = node.add("Abs", x) if norm == "L1" else node.add("Mul", x, x)
    sums = node.add("MatMul", magnitudes, np.ones((node.shape[1], 1), np.float32))
    node.add("Div", x, sums if norm == "L1" else node.add("Sqrt", sums), result=node.node.output[0])
    return node.made


def _scaler(node: _Node) -> list[Any] | None:
    shifted = node.add("Sub", node.node.input[0], node.array("offset", np.float32))
    node.add("Mul", shifted, node.array("scale", np.float32), result=node.node.output[0])
    return node.made


_FORMS: Mapping[str, Callable[[_Node], list[Any] | None]] = {
    **dict.fromkeys(("Add", "Div", "Max", "Min", "Mul", "Sub"), _outer),
    "AveragePool": _pool,
    "Conv": _convolution,
    "GroupNormalization": _group_normalization,
    "MaxPool": _pool,
    "LinearClassifier": _linear_classifier,
    "LinearRegressor": _linear_regressor,
    "Normalizer": _normalizer,
    "PRelu": _prelu,
    "Scaler": _scaler,
    "Swish": _swish,
    "TreeEnsembleClassifier": _tree_classifier,
    "TreeEnsembleRegressor": _tree_regressor,
}
