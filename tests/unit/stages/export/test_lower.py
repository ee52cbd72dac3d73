"""Ops that no road takes, written as others: the same numbers by ONNX Runtime before and after."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.stages.export.lower import lower

pytestmark = pytest.mark.filterwarnings("ignore")
_RANDOM = np.random.default_rng(0)


def _run(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, {"x": x})]


Shapes = dict[str, tuple[int, ...]]


def _model(node: onnx.NodeProto, shape: tuple[int, ...], outputs: dict[str, int], weights: Shapes) -> onnx.ModelProto:
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
        [numpy_helper.from_array(_RANDOM.standard_normal(size).astype(np.float32), name) for name, size in weights.items()],
    )
    domains = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 3)]
    return onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=domains, ir_version=9))


def _same(node: onnx.NodeProto, shape: tuple[int, ...], outputs: dict[str, int], weights: Shapes | None = None) -> set[str]:
    """Checks that the lowered model gives the same; the ops it has."""
    model, x = _model(node, shape, outputs, weights or {}), _RANDOM.standard_normal(shape).astype(np.float32)
    expected = _run(model, x)
    lower(model)
    for before, after in zip(expected, _run(model, x), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)
    return {node.op_type for node in model.graph.node}


@pytest.mark.parametrize(
    ("op", "shape", "options"),
    [
        ("MaxPool", (2, 3, 5, 6, 7), {"kernel_shape": [2, 3, 2], "strides": [2, 1, 2]}),
        ("MaxPool", (1, 2, 6, 6, 6), {"kernel_shape": [3, 3, 3], "pads": [1, 1, 1, 1, 1, 1], "ceil_mode": 1, "strides": [2, 2, 2]}),
        ("MaxPool", (1, 2, 9, 8), {"kernel_shape": [3, 2], "dilations": [2, 3]}),
        ("MaxPool", (1, 2, 9, 8), {"kernel_shape": [2, 2], "dilations": [3, 3], "pads": [1, 0, 1, 1]}),
        ("MaxPool", (1, 4, 20), {"kernel_shape": [2], "dilations": [10], "strides": [2]}),
        ("MaxPool", (1, 1, 7, 7, 7), {"kernel_shape": [2, 2, 2], "auto_pad": "SAME_UPPER", "strides": [2, 2, 2]}),
        ("AveragePool", (1, 2, 4, 5, 6), {"kernel_shape": [2, 2, 3], "strides": [1, 2, 2]}),
        ("AveragePool", (1, 2, 4, 5, 6), {"kernel_shape": [3, 3, 3], "pads": [1, 0, 1, 1, 1, 0]}),
        ("AveragePool", (1, 2, 4, 5, 6), {"kernel_shape": [3, 3, 3], "pads": [1, 0, 1, 1, 1, 0], "count_include_pad": 1}),
        ("AveragePool", (1, 2, 9, 9), {"kernel_shape": [2, 2], "dilations": [2, 2], "pads": [1, 1, 1, 1]}),
    ],
)
def test_pools_of_any_rank_and_with_dilations(op: str, shape: tuple[int, ...], options: dict[str, object]) -> None:
    node = helper.make_node(op, ["x"], ["y"], **options)
    assert op not in _same(node, shape, {"y": TensorProto.FLOAT})


@pytest.mark.parametrize("op", ["Mul", "Sub"])
def test_a_row_by_a_column_has_three_axes(op: str) -> None:
    node = helper.make_node(op, ["x", "w"], ["y"])
    assert _same(node, (1, 1, 1, 5), {"y": TensorProto.FLOAT}, {"w": (1, 1, 5, 1)}) == {op, "Reshape"}


@pytest.mark.parametrize(("shape", "other"), [((1, 2, 4, 4), (1, 2, 4, 4)), ((1, 2, 4, 4), (1, 2, 1, 1)), ((1, 1, 5), (1, 5, 1))])
def test_other_products_stay(shape: tuple[int, ...], other: tuple[int, ...]) -> None:
    node = helper.make_node("Mul", ["x", "w"], ["y"])
    assert _same(node, shape, {"y": TensorProto.FLOAT}, {"w": other}) == {"Mul"}


@pytest.mark.parametrize("options", [{"pads": [3, 2]}, {"strides": [2], "dilations": [3]}])
def test_a_convolution_of_groups_over_one_axis_is_one_over_two(options: dict[str, object]) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=2, kernel_shape=[4], **options)
    assert _same(node, (1, 6, 20), {"y": TensorProto.FLOAT}, {"w": (4, 3, 4)}) == {"Conv", "Reshape"}
    depthwise = helper.make_node("Conv", ["x", "w"], ["y"], group=6, kernel_shape=[4], **options)
    assert _same(depthwise, (1, 6, 20), {"y": TensorProto.FLOAT}, {"w": (6, 1, 4)}) == {"Conv"}


def test_an_ordinary_pool_stays() -> None:
    node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2])
    assert _same(node, (1, 2, 4, 4), {"y": TensorProto.FLOAT}) == {"MaxPool"}


@pytest.mark.parametrize(
    ("equation", "shape", "weights", "ops"),
    [
        ("ijbn->bnij", (2, 3, 4, 5), {}, {"Transpose"}),
        ("ibh,hnd->ibnd", (7, 2, 6), {"w": (6, 3, 4)}, {"Reshape", "MatMul", "Transpose"}),
        ("ibnd,hnd->ibh", (7, 2, 3, 4), {"w": (6, 3, 4)}, {"Reshape", "MatMul", "Transpose"}),
        ("ibnd,jbnd->bnij", (7, 2, 3, 4), {"w": (5, 2, 3, 4)}, {"Reshape", "MatMul", "Transpose"}),
        ("bnij,jbnd->ibnd", (2, 3, 7, 5), {"w": (5, 2, 3, 4)}, {"Reshape", "MatMul", "Transpose"}),
        ("ijbs,ibns->bnij", (7, 5, 2, 2), {"w": (7, 2, 3, 2)}, {"Reshape", "MatMul", "Transpose"}),
        ("i , j -> ij", (3,), {"w": (4,)}, {"Reshape", "MatMul", "Transpose"}),
        ("bi,bi->b", (3, 4), {"w": (3, 4)}, {"Reshape", "MatMul", "Transpose"}),
        ("ij->i", (3, 4), {}, {"Einsum"}),
        ("ii->i", (3, 3), {}, {"Einsum"}),
        ("ij,jk", (3, 4), {"w": (4, 5)}, {"Einsum"}),
        ("...j,jk->...k", (2, 3, 4), {"w": (4, 5)}, {"Einsum"}),
        ("ij,kl->il", (3, 4), {"w": (5, 6)}, {"Einsum"}),
    ],
)
def test_sums_of_products_over_named_axes(equation: str, shape: tuple[int, ...], weights: Shapes, ops: set[str]) -> None:
    node = helper.make_node("Einsum", ["x", *weights], ["y"], equation=equation)
    assert _same(node, shape, {"y": TensorProto.FLOAT}, weights) <= ops


@pytest.mark.parametrize(
    ("asked", "sizes"), [([1, 13, 3, -1, 4], [1, 13, 3, 4, 4]), ([13, 48], [13, 48]), ([0, 0, -1], [1, 13, 48])]
)
def test_a_reshape_has_all_sizes(asked: list[int], sizes: list[int]) -> None:
    shape = numpy_helper.from_array(np.array(asked, np.int64), "shape")
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 13, 48))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [shape],
    )
    model = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=9))
    lower(model)
    (node,) = model.graph.node
    constants = {tensor.name: numpy_helper.to_array(tensor).tolist() for tensor in model.graph.initializer}
    assert constants[node.input[1]] == sizes


def _ml(op: str, outputs: list[str], **options: object) -> onnx.NodeProto:
    return helper.make_node(op, ["x"], outputs, domain="ai.onnx.ml", **options)


def test_linear_models() -> None:
    weights = _RANDOM.standard_normal(12).tolist()
    regressor = _ml("LinearRegressor", ["y"], coefficients=weights, intercepts=[0.5, -1.0, 2.0], targets=3)
    assert _same(regressor, (5, 4), {"y": TensorProto.FLOAT}) == {"MatMul", "Add"}
    for transform in ("NONE", "SOFTMAX", "LOGISTIC"):
        options = {
            "coefficients": weights,
            "intercepts": [0.1, 0.2, 0.3],
            "classlabels_ints": [7, 3, 9],
            "post_transform": transform,
        }
        classifier = _ml("LinearClassifier", ["label", "scores"], **options)
        assert "LinearClassifier" not in _same(classifier, (5, 4), {"label": TensorProto.INT64, "scores": TensorProto.FLOAT})


def test_rows_are_scaled_and_normalized() -> None:
    for norm in ("L1", "L2"):
        assert "Normalizer" not in _same(_ml("Normalizer", ["y"], norm=norm), (5, 4), {"y": TensorProto.FLOAT})
    scaler = _ml("Scaler", ["y"], offset=[1.0, 2.0, 3.0, 4.0], scale=[0.5, 2.0, 1.0, 3.0])
    assert _same(scaler, (5, 4), {"y": TensorProto.FLOAT}) == {"Sub", "Mul"}


# Two trees, of depths 2 and 1: (tree, node, feature, value, mode, true, false).
_NODES = [
    (0, 0, 1, 0.1, "BRANCH_LEQ", 1, 2),
    (0, 1, 0, -0.2, "BRANCH_LEQ", 3, 4),
    (0, 2, 0, 0.0, "LEAF", 0, 0),
    (0, 3, 0, 0.0, "LEAF", 0, 0),
    (0, 4, 0, 0.0, "LEAF", 0, 0),
    (1, 0, 3, 0.3, "BRANCH_LEQ", 1, 2),
    (1, 1, 0, 0.0, "LEAF", 0, 0),
    (1, 2, 0, 0.0, "LEAF", 0, 0),
]
_LEAVES = [(0, 2), (0, 3), (0, 4), (1, 1), (1, 2)]


def _forest() -> dict[str, object]:
    names = ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids")
    return {f"nodes_{name}": [node[place] for node in _NODES] for place, name in enumerate(names)}


def _weights(what: str, width: int) -> dict[str, object]:
    leaves = [(tree, leaf, target) for tree, leaf in _LEAVES for target in range(width)]
    columns = {name: [leaf[place] for leaf in leaves] for place, name in enumerate(("treeids", "nodeids", "ids"))}
    weights = _RANDOM.standard_normal(len(leaves)).tolist()
    return {**{f"{what}_{name}": values for name, values in columns.items()}, f"{what}_weights": weights}


def test_trees() -> None:
    regressor = _ml("TreeEnsembleRegressor", ["y"], **_forest(), **_weights("target", 2), n_targets=2, base_values=[0.5, 1.5])
    assert "TreeEnsembleRegressor" not in _same(regressor, (50, 4), {"y": TensorProto.FLOAT})
    options = {**_forest(), **_weights("class", 3), "classlabels_int64s": [4, 5, 6], "post_transform": "SOFTMAX"}
    classifier = _ml("TreeEnsembleClassifier", ["label", "scores"], **options)
    outputs = {"label": TensorProto.INT64, "scores": TensorProto.FLOAT}
    assert "TreeEnsembleClassifier" not in _same(classifier, (50, 4), outputs)


def test_what_has_rules_of_its_own_stays() -> None:
    options = {**_forest(), **_weights("class", 1), "classlabels_int64s": [0, 1]}
    classifier = _ml("TreeEnsembleClassifier", ["label", "scores"], **options)
    outputs = {"label": TensorProto.INT64, "scores": TensorProto.FLOAT}
    assert _same(classifier, (50, 4), outputs) == {"TreeEnsembleClassifier"}


@pytest.mark.parametrize(
    ("shape", "slope", "kept"),
    [
        ((1, 5, 6), (5, 1), False),
        ((1, 5, 6), (6,), False),
        ((1, 5, 6), (1,), True),
        ((1, 4, 4, 4), (4,), False),
        ((1, 4, 3, 4), (4, 3, 4), False),
        ((1, 4, 3, 4), (4, 1, 1), True),
        ((1, 4, 3, 2, 2), (4, 1, 1, 1), False),
        ((3, 6), (6,), True),
        ((3, 6), (3, 6), False),
    ],
)
def test_prelu_of_any_slopes(shape: tuple[int, ...], slope: tuple[int, ...], kept: bool) -> None:
    node = helper.make_node("PRelu", ["x", "s"], ["y"])
    assert ("PRelu" in _same(node, shape, {"y": TensorProto.FLOAT}, {"s": slope})) == kept


@pytest.mark.parametrize("shape", [(2, 6, 5, 4), (1, 6, 7), (1, 6, 2, 3, 2)])
@pytest.mark.parametrize("groups", [1, 3, 6])
def test_group_normalization_as_pytorch_writes_it(shape: tuple[int, ...], groups: int) -> None:
    node = helper.make_node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=groups, epsilon=1e-3)
    assert "InstanceNormalization" in _same(node, shape, {"y": TensorProto.FLOAT}, {"s": (6,), "b": (6,)})
