"""Branches of ONNX graphs: those that are always taken stand in their place, and inputs that decide one can be fixed."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.data.samples import Samples
from edgekit.errors import InputError
from edgekit.stages.export import branches, graph, incoming
from edgekit.stages.export.incoming import Fixes
from edgekit.stages.export.onnx import run_onnx
from tests.unit.stages.export import graphs


def _branch(name: str, *nodes: onnx.NodeProto, weights: dict[str, np.ndarray] | None = None) -> onnx.GraphProto:
    end = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
    return helper.make_graph(
        [*nodes], name, [], [end], [numpy_helper.from_array(array, key) for key, array in (weights or {}).items()]
    )


def _choice(condition: str, result: str, yes: onnx.GraphProto, no: onnx.GraphProto) -> onnx.NodeProto:
    return helper.make_node("If", [condition], [result], name=f"choose_{result}", then_branch=yes, else_branch=no)


def nested() -> onnx.ModelProto:
    """A squeeze where the last axis is 1, inside a choice by the rank, whose branches call their values alike."""
    squeeze = _branch("one", helper.make_node("Squeeze", ["x", "last"], ["inner"]))
    keep = _branch("many", helper.make_node("Identity", ["x"], ["inner"]))
    add = helper.make_node("Add", ["squeezed", "w"], ["value"])
    double = helper.make_node("Mul", ["x", "w"], ["value"])
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "two"], ["size"], axis=0),
        helper.make_node("Equal", ["size", "one"], ["is_one"]),
        helper.make_node("Size", ["shape"], ["rank"]),
        helper.make_node("Equal", ["rank", "three"], ["is_three"]),
        _choice(
            "is_three",
            "chosen",
            _branch("then", _choice("is_one", "squeezed", squeeze, keep), add, weights={"w": np.array([1, 2, 3, 4], np.float32)}),
            _branch("else", double, weights={"w": np.array([2], np.float32)}),
        ),
        helper.make_node("Reshape", ["chosen", "row"], ["y"]),
    ]
    constants = {"last": [2], "two": 2, "one": 1, "three": 3, "row": [1, -1]}
    weights = {name: np.array(value, np.int64) for name, value in constants.items()}
    return graphs.model(nodes, {"x": ("n", 4, "free")}, {"y": (1, "m")}, weights)


def by_input(dtype: int = TensorProto.INT64) -> onnx.ModelProto:
    """Twice the input, or half of it, by whether the input `rate` is 8000."""
    halves = [
        _branch(name, helper.make_node("Mul", ["x", "w"], ["value"]), weights={"w": np.array([factor], np.float32)})
        for name, factor in (("then", 2), ("else", 0.5))
    ]
    nodes = [helper.make_node("Equal", ["rate", "low"], ["is_low"]), _choice("is_low", "y", *halves)]
    made = graphs.model(nodes, {"x": (1, 4)}, {"y": (1, 4)}, {"low": np.array(8000, np.int64)})
    made.graph.input.append(helper.make_tensor_value_info("rate", dtype, ()))
    return made


def _saved(model: onnx.ModelProto, folder: Path) -> Path:
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


@pytest.mark.parametrize("shape", [(1, 4, 1), (1, 4, 4)])
def test_branches_that_are_always_taken_stand_in_their_place(shape: tuple[int, ...], tmp_path: Path) -> None:
    file = _saved(nested(), tmp_path)
    model, ends = incoming.prepare(file, tmp_path, foreign=True, max_length=8, fixes=Fixes({"x": shape}))
    assert "If" not in graph.op_types(model).values()
    onnx.save(model, tmp_path / "flat.onnx")
    rows = Samples({"x": np.random.default_rng(0).standard_normal((3, *shape[1:])).astype(np.float32)})
    source, flat = (run_onnx(path, rows)["y"] for path in (ends.fixed, tmp_path / "flat.onnx"))
    np.testing.assert_allclose(flat, source, rtol=1e-6)
    assert source.shape == (3, 4 * shape[2])


def test_names_of_two_branches_do_not_meet() -> None:
    model = by_input()
    again = helper.make_node("Identity", ["is_low"], ["same"])
    choice = onnx.NodeProto.FromString(model.graph.node[1].SerializeToString())
    choice.input[0], choice.output[0], choice.name = "same", "z", ""
    model.graph.node.extend([again, choice])
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, (1, 4)))
    graph.fix_values(Path("m.onnx"), model, {"rate": (8000,)})
    flat = graph.simplified(model)
    onnx.checker.check_model(flat, full_check=True)
    assert branches.deciding_input(flat) is None


def test_an_input_that_decides_is_named_and_can_be_fixed(tmp_path: Path) -> None:
    file = _saved(by_input(), tmp_path)
    _, ends = incoming.prepare(file, tmp_path, foreign=True, max_length=8)
    assert ends.deciding == "rate"
    assert ends.advice == "its input rate decides what is computed: fix it with --input-value rate=..."
    rows = Samples({"x": np.array([[1, 2, 3, 4]], np.float32)})
    for rate, factor in ((8000, 2), (16000, 0.5)):
        model, ends = incoming.prepare(file, tmp_path, foreign=True, max_length=8, fixes=Fixes(values={"rate": (rate,)}))
        assert (ends.inputs, ends.deciding) == (("x",), None)
        assert "If" not in graph.op_types(model).values()
        # The source itself computes the same branch.
        np.testing.assert_array_equal(run_onnx(ends.fixed, rows, values=ends.values)["y"], factor * rows.inputs["x"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rates": (1,)}, "there is no input rates; it has x, rate"),
        ({"rate": (8000, 16000)}, "input rate holds 1 numbers, --input-value gives 2"),
        ({"rate": (0.5,)}, "input rate is int64, which holds no 0.5; give it another --input-value"),
    ],
)
def test_values_that_an_input_does_not_take_are_named(values: dict[str, tuple[float, ...]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        graph.fix_values(Path("m.onnx"), by_input(), values)


def test_what_an_op_slides_over_has_channels_last_and_states_keep_their_layout(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Pad", ["x", "pads"], ["padded"], mode="reflect"),
        helper.make_node("Conv", ["padded", "w"], ["heard"], kernel_shape=[3]),
        helper.make_node("Gather", ["state", "first"], ["before"], axis=0),
        helper.make_node("Unsqueeze", ["before", "second"], ["column"]),
        helper.make_node("Conv", ["column", "v"], ["remembered"], kernel_shape=[1]),
        helper.make_node("Add", ["heard", "remembered"], ["y"]),
    ]
    weights = {
        "pads": np.array([0, 0, 1, 0, 0, 1]),
        "w": np.ones((8, 2, 3), np.float32),
        "v": np.ones((8, 5, 1), np.float32),
        "first": np.array(0),
        "second": np.array([2]),
    }
    made = graphs.model(nodes, {"x": (1, 2, 6), "state": (2, 1, 5)}, {"y": (1, 8, 6)}, weights)
    _, ends = incoming.prepare(_saved(made, tmp_path), tmp_path, foreign=True, max_length=8)
    assert ends.channels_last == ("x",)
