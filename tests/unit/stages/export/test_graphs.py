"""ONNX graphs of others: layouts, names, several outputs, old opsets, quantized and recurrent ops, each against ONNX Runtime."""

from pathlib import Path

import pytest

from edgekit.system.worker import Worker
from edgekit.tflite import flatbuffer
from edgekit.workflows.convert.bridge import FloatModel
from tests.unit.stages.export import graphs


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FloatModel | str]:
    folder = tmp_path_factory.mktemp("graphs")
    worker = Worker(timeout_s=300)
    found: dict[str, FloatModel | str] = {}
    for builders in (graphs.MOVED, graphs.KEPT):
        found |= worker.run(graphs.convert_all, folder, [builder.__name__ for builder in builders]).value
    return found


def shapes(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    content = flatbuffer.read(path)
    signature = content.signature(content.entry())
    return {spec.name: spec.shape for spec in signature.inputs}, {spec.name: spec.shape for spec in signature.outputs}


@pytest.mark.parametrize("name", [builder.__name__ for builder in (*graphs.MOVED, *graphs.KEPT)])
def test_every_output_is_that_of_onnx_runtime(converted: dict[str, FloatModel | str], name: str) -> None:
    made = converted[name]
    assert isinstance(made, FloatModel), made
    assert made.parity
    assert {key: parity for key, parity in made.parity.items() if parity.max_rel > 1e-5} == {}


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("convolution", {"0": (2, 6, 5, 4)}),
        ("sequence", {"x": (1, 4, 4)}),
        ("volume", {"x": (1, 4, 4, 4, 3)}),
        ("cube", {"x": (4, 4, 4)}),
        ("two_outputs", {"x": (1, 7)}),
        ("colons", {"x::1": (3, 5), "/layer/x": (3, 5)}),
    ],
)
def test_channels_are_last_where_the_graph_slides_and_names_are_kept(
    converted: dict[str, FloatModel | str], name: str, inputs: dict[str, tuple[int, ...]]
) -> None:
    made = converted[name]
    assert isinstance(made, FloatModel), made
    assert shapes(made.path)[0] == inputs
    assert bool(made.channels_last) == (name in {"convolution", "sequence", "volume"})


def test_outputs_keep_their_order_and_names(converted: dict[str, FloatModel | str]) -> None:
    made = converted["two_outputs"]
    assert isinstance(made, FloatModel), made
    assert list(shapes(made.path)[1]) == ["scores", "label"]
    named = converted["colons"]
    assert isinstance(named, FloatModel), named
    assert list(shapes(named.path)[1]) == ["out:0"]
