"""What is refused before TensorFlow is loaded, and which shapes are fixed."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgekit.data.samples import Samples, random_samples
from edgekit.errors import EdgekitError, InputError, ModelFormatError, UnsupportedOpError
from edgekit.spec import TensorSpec
from edgekit.stages.export import dequantize, gather, graph, incoming
from edgekit.stages.export.layout import is_turned
from edgekit.stages.export.onnx import comparable, run_onnx, stacked
from tests.unit.stages.export import graphs


def saved(folder: Path, model: onnx.ModelProto) -> Path:
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def relu(*shape: int | str, input_type: int = TensorProto.FLOAT) -> onnx.ModelProto:
    return graphs.model(
        [helper.make_node("Relu", ["x"], ["y"])], {"x": shape}, {"y": shape}, input_type=input_type, output_type=input_type
    )


def test_a_file_that_is_no_onnx_model_is_named(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    for content in (b"", b"Not a model, but a note about one.\n", relu(1, 4).SerializeToString()[:-20]):
        file.write_bytes(content)
        with pytest.raises(ModelFormatError, match=f"{file}: not a"):
            graph.read(file)


def test_weights_that_were_left_behind_are_named(tmp_path: Path) -> None:
    made = graphs.model([helper.make_node("Add", ["x", "w"], ["y"])], {"x": (1, 600)}, {"y": (1, 600)})
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((1, 600), np.float32), "w"))
    file = tmp_path / "model.onnx"
    onnx.save(made, file, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert len(graph.read(file).graph.initializer[0].raw_data) == 2400
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelFormatError, match=r"model\.onnx: its weights lie in weights\.bin, which is not there"):
        graph.read(file)


def test_a_size_that_was_taken_and_does_not_fit_is_told(tmp_path: Path) -> None:
    node = helper.make_node("Gather", ["x", "sixth"], ["y"], axis=0)
    made = graphs.model([node], {"x": ("time", 3)}, {"y": (3,)}, {"sixth": np.array(5, np.int64)})
    file = saved(tmp_path, made)
    with pytest.raises(InputError, match=r"does not run with x \[1, 3\], where free axes .* --input-shape x=\.\.\.$"):
        incoming.prepare(file, tmp_path, foreign=True, max_length=64)
    model, ends = incoming.prepare(file, tmp_path, foreign=True, max_length=64, fixes=incoming.Fixes({"x": (7, 3)}))
    assert (ends.inputs, ends.outputs) == (("x",), ("y",))
    assert graph.sizes(model)["x"] == (7, 3)


def test_an_op_without_a_form_is_named(tmp_path: Path) -> None:
    made = graphs.model([helper.make_node("Magic", ["x"], ["y"], domain="com.example")], {"x": (1, 4)}, {"y": (1, 4)})
    with pytest.raises(UnsupportedOpError, match=r"op com\.example\.Magic;"):
        graph.read(saved(tmp_path, made))
    made = graphs.model([helper.make_node("Loop", ["x"], ["y"])], {"x": (1, 4)}, {"y": (1, 4)})
    with pytest.raises(UnsupportedOpError, match="op Loop;"):
        graph.refuse_unknown_ops(tmp_path, made)


@pytest.mark.parametrize(
    ("given", "shapes", "fixed"),
    [
        (("n", 3), {}, [1, 3]),
        ((2, 3), {}, [2, 3]),
        (("n", 3), {"x": (5, 3)}, [5, 3]),
        (("n", 3, "h", "w"), {"x": (1, 3, 8, 9)}, [1, 3, 8, 9]),
    ],
)
def test_free_axes_are_fixed(given: tuple[int | str, ...], shapes: dict[str, tuple[int, ...]], fixed: list[int]) -> None:
    made = relu(*given)
    graph.fix_shapes(Path("m.onnx"), made, 64, shapes)
    assert [axis.dim_value for axis in made.graph.input[0].type.tensor_type.shape.dim] == fixed


def test_the_length_of_token_inputs_is_the_given_one() -> None:
    made = relu("batch", "length", input_type=TensorProto.INT64)
    graph.fix_shapes(Path("m.onnx"), made, 64, {})
    assert [axis.dim_value for axis in made.graph.input[0].type.tensor_type.shape.dim] == [1, 64]


@pytest.mark.parametrize(
    ("made", "shapes", "error", "message"),
    [
        (relu("n", "c"), {}, InputError, "axis 1 of input x .n,c. is free; give its size with --input-shape x=1,."),
        (
            relu(1, 3, "h", "w"),
            {},
            InputError,
            "axes 2, 3 of input x .1,3,h,w. are free; give their sizes with --input-shape x=1,3,.,.",
        ),
        (relu("n", "c"), {"z": (1, 3)}, InputError, "no input z; it has x"),
        (relu("n", "c"), {"x": (1, 3, 4)}, InputError, "x has 2 axes, --input-shape gives 3"),
        (relu(1, 4, input_type=TensorProto.STRING), {}, UnsupportedOpError, "put x is no tensor of numbers|put y is no tensor of"),
    ],
)
def test_inputs_that_cannot_be_fixed_are_named(
    made: onnx.ModelProto, shapes: dict[str, tuple[int, ...]], error: type[EdgekitError], message: str
) -> None:
    with pytest.raises(error, match=message):
        graph.fix_shapes(Path("m.onnx"), made, 64, shapes)


def test_old_broadcasting_is_rewritten(tmp_path: Path) -> None:
    made = graph.read(saved(tmp_path, graphs.old_broadcast()))
    assert made.opset_import[0].version >= 7


def test_a_quantized_graph_computes_the_same_without_integers(tmp_path: Path) -> None:
    made = graphs.quantized()
    samples = random_samples([TensorSpec("x", (1, 6), "float32")], 16)
    before = run_onnx(saved(tmp_path, made), samples)["y"]
    dequantize.to_float(made)
    assert {node.op_type for node in made.graph.node} == {"Div", "Round", "Add", "Clip", "Cast", "Sub", "Mul", "MatMul"}
    np.testing.assert_allclose(run_onnx(saved(tmp_path, made), samples)["y"], before, rtol=1e-5)


@pytest.mark.parametrize("alike", [True, False])
def test_gather_elements_becomes_gather(tmp_path: Path, alike: bool) -> None:
    places = np.random.default_rng(0).integers(-6, 6, (3, 4, 5))
    if alike:
        places[:] = places[0]
    node = helper.make_node("GatherElements", ["x", "places"], ["y"], axis=2)
    made = graphs.model([node], {"x": (3, 4, 6)}, {"y": (3, 4, 5)}, {"places": places})
    samples = random_samples([TensorSpec("x", (3, 4, 6), "float32")], 4)
    before = run_onnx(saved(tmp_path, made), samples)["y"]
    gather.flatten(made)
    assert "GatherElements" not in {node.op_type for node in made.graph.node}
    np.testing.assert_array_equal(run_onnx(saved(tmp_path, made), samples)["y"], before)
    kept = next(tensor for tensor in made.graph.initializer if tensor.name == "y/places")
    assert list(kept.dims) == ([4, 5] if alike else [12, 5])


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match="input x is not in the data, which has z"):
        run_onnx(saved(tmp_path, relu(1, 4)), Samples({"z": np.zeros((2, 4), np.float32)}))


def test_an_output_that_changes_its_shape_is_named() -> None:
    with pytest.raises(ModelFormatError, match="output y changes its shape"):
        stacked([np.zeros((1, 3)), np.zeros((2, 3))], "m.onnx: output y")


def test_the_reference_takes_the_layout_of_the_outputs() -> None:
    first = np.random.default_rng(0).standard_normal((5, 3, 4, 3))
    last = np.moveaxis(first, 1, -1)
    np.testing.assert_array_equal(comparable(last, first)[1], last)
    np.testing.assert_array_equal(comparable(first, first)[1], first)
    batched = np.random.default_rng(0).standard_normal((5, 2, 3, 4))
    moved = np.moveaxis(batched, 2, -1)
    np.testing.assert_array_equal(comparable(moved, batched)[1], moved)


def test_where_sizes_are_equal_the_layout_is_the_sources() -> None:
    first = np.random.default_rng(0).standard_normal((5, 3, 3, 3))
    last = np.moveaxis(first, 1, -1)
    np.testing.assert_array_equal(comparable(last, first)[1], first)
    assert is_turned(last, first, (1, 3, 3, 3))
    assert not is_turned(first, first, (1, 3, 3, 3))
    batched = np.random.default_rng(0).standard_normal((5, 2, 3, 3))
    assert is_turned(np.moveaxis(batched, 2, -1), batched, (2, 3, 3))


def test_the_same_infinities_are_no_difference() -> None:
    outputs, reference = comparable(np.array([[np.nan, np.inf, 1.0]]), np.array([[np.nan, np.inf, 2.0]]))
    assert outputs.tolist() == [[0, 0, 1]]
    assert reference.tolist() == [[0, 0, 2]]
