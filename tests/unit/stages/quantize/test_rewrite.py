"""The rewritten graph gives what the float graph gives, in ops that integers have room in."""

from collections import Counter

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgekit.data.samples import Samples
from edgekit.stages.quantize.prepare import read_graph
from edgekit.stages.quantize.rewrite import make_quantizable
from edgekit.tflite import flatbuffer, tree
from tests.unit.stages.quantize.models import OUTLIER, TOKENS, WIDTH, encoder_net, encoder_samples, outputs, save
from tests.unit.tflite.conftest import Builder


def rewritten(build: Builder, samples: Samples, room):
    samples.save(room / "rows")
    make_quantizable(save(build, room / "float32.tflite"), room / "rows", room / "rewritten.tflite")
    return room / "rewritten.tflite"


def weights(path) -> np.ndarray:
    root = tree.load(path.read_bytes())
    assert root is not None
    place = next(tensor.buffer for tensor in root.subgraphs[0].tensors if tensor.name == b"w1")
    return np.asarray(root.buffers[place].data).view(np.float32).reshape(WIDTH, WIDTH)


@pytest.mark.parametrize(
    "kind",
    [{}, {"reshapes": True}, {"embedded": True}, {"shared": True}, {"activation": "RELU"}, {"activation": "RELU6"}],
    ids=lambda kind: ",".join(kind.values() if "activation" in kind else kind) or "plain",
)
def test_outputs_are_those_of_the_float_file(tmp_path, kind):
    samples = encoder_samples(16, embedded="embedded" in kind)
    made = rewritten(encoder_net(**kind), samples, tmp_path)
    expected = outputs(tmp_path / "float32.tflite", samples)
    np.testing.assert_allclose(outputs(made, samples), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    names = {operator.name for operator in read_graph(made).operators}
    assert not names & {"SQUARED_DIFFERENCE", "EMBEDDING_LOOKUP"}


def test_squares_and_embeddings_become_ops_with_integer_forms(tmp_path):
    made = rewritten(encoder_net(embedded=True), encoder_samples(8, embedded=True), tmp_path)
    before, after = (Counter(op.name for op in read_graph(path).operators) for path in (tmp_path / "float32.tflite", made))
    # One MUL squares the difference, the other scales the outlier up again.
    assert after - before == Counter({"MUL": 2, "SUB": 1, "GATHER": 1})
    assert before - after == Counter({"SQUARED_DIFFERENCE": 1, "EMBEDDING_LOOKUP": 1})


def test_outlier_channels_are_scaled_down_and_the_others_left(tmp_path):
    made = rewritten(encoder_net(), encoder_samples(16), tmp_path)
    before, after = weights(tmp_path / "float32.tflite"), weights(made)
    others = np.arange(WIDTH) != OUTLIER
    assert np.abs(after[OUTLIER]).max() < np.abs(before[OUTLIER]).max() / 8
    # Where random weights make another channel large, it may come down as well, but by little.
    assert np.abs(after[others]).max() > np.abs(before[others]).max() / 2


def test_the_product_s_range_shrinks_and_the_stream_s_stays(tmp_path):
    samples = encoder_samples(16)
    made = rewritten(encoder_net(), samples, tmp_path)
    before = largest(tmp_path / "float32.tflite", samples)
    after = largest(made, samples)
    assert after["dense_scaled"] < before["dense"] / 8
    assert after["dense"] == pytest.approx(before["dense"], rel=1e-5)


def largest(path, samples) -> dict[str, float]:
    from edgekit.tflite.interpreter import Model

    model = Model(path, keep_tensors=True)
    graph = flatbuffer.read(path).subgraphs[0]
    found: dict[str, float] = {}
    for row in samples:
        model.run(row)
        for operator in graph.operators:
            name = graph.tensors[operator.outputs[0]].name
            found[name] = max(found.get(name, 0.0), float(np.abs(model.tensor(operator.outputs[0])).max()))
    return found


@pytest.mark.parametrize("kind", [{"shared": True}, {"activation": "RELU6"}], ids=["shared weights", "fused ReLU6"])
def test_weights_that_cannot_be_scaled_are_left_alone(tmp_path, kind):
    made = rewritten(encoder_net(**kind), encoder_samples(16), tmp_path)
    np.testing.assert_array_equal(weights(made), weights(tmp_path / "float32.tflite"))


def test_weights_in_a_buffer_of_another_graph_are_left_alone(tmp_path):
    build = encoder_net()
    place = next(tensor.buffer for tensor in build.current.tensors if tensor.name == "w1")
    build.graph()
    x, y = build.tensor("other_x", [1, WIDTH]), build.tensor("other_y", [1, WIDTH])
    shared = build.tensor("other_w", [WIDTH, WIDTH], buffer=place)
    build.op("FULLY_CONNECTED", [x, shared, -1], [y], schema.FullyConnectedOptionsT())
    build.ends({"x": x}, {"y": y}, "other")
    made = rewritten(build, encoder_samples(16), tmp_path)
    np.testing.assert_array_equal(weights(made), weights(tmp_path / "float32.tflite"))


def test_no_two_tensors_have_one_name_and_a_second_rewrite_changes_nothing(tmp_path):
    samples = encoder_samples(16)
    made = rewritten(encoder_net(), samples, tmp_path)
    names = [tensor.name for tensor in flatbuffer.read(made).subgraphs[0].tensors]
    assert len(set(names)) == len(names)
    make_quantizable(made, tmp_path / "rows", tmp_path / "again.tflite")
    assert [tensor.name for tensor in flatbuffer.read(tmp_path / "again.tflite").subgraphs[0].tensors] == names


def test_every_version_of_an_op_is_rewritten(tmp_path):
    """Each SQUARED_DIFFERENCE of the builder has an op code of its own, as old converters write it for each version."""
    build = Builder()
    x, once, twice = (build.tensor(name, [1, TOKENS]) for name in ("x", "once", "twice"))
    half = build.tensor("half", [1], data=np.full(1, 0.5, np.float32))
    build.op("SQUARED_DIFFERENCE", [x, half], [once], schema.SquaredDifferenceOptionsT())
    build.op("SQUARED_DIFFERENCE", [once, half], [twice], schema.SquaredDifferenceOptionsT())
    build.ends({"x": x}, {"y": twice}, "serving_default")
    samples = Samples({"x": np.random.default_rng(0).standard_normal((4, TOKENS)).astype(np.float32)})
    made = rewritten(build, samples, tmp_path)
    assert [operator.name for operator in read_graph(made).operators] == ["SUB", "MUL", "SUB", "MUL"]
    np.testing.assert_allclose(outputs(made, samples), outputs(tmp_path / "float32.tflite", samples), rtol=1e-5)
