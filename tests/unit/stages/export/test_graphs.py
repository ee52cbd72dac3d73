"""ONNX graphs of others: layouts, names, several outputs, old opsets, quantized and recurrent ops, each against ONNX Runtime."""

from pathlib import Path

import pytest

from edgekit.errors import EdgekitError
from edgekit.models.source import Kind, Source
from edgekit.stages.export.direct import ENVIRONMENT
from edgekit.stages.export.incoming import Fixes
from edgekit.system.worker import Worker
from edgekit.tflite import flatbuffer
from edgekit.workflows.convert import bridge
from edgekit.workflows.convert.bridge import FloatModel
from edgekit.workflows.convert.config import Bridge
from tests.unit.stages.export import graphs

NAMES = [builder.__name__ for builder in (*graphs.MOVED, *graphs.KEPT)]


@pytest.fixture(scope="module", params=[Bridge.DIRECT, Bridge.TF])
def converted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, FloatModel | str]:
    """By each road from ONNX."""
    folder = tmp_path_factory.mktemp("graphs")
    worker = Worker(timeout_s=300)
    found: dict[str, FloatModel | str] = {}
    if request.param is Bridge.TF:
        for builders in (graphs.MOVED, graphs.KEPT):
            found |= worker.run(graphs.convert_all, folder, [builder.__name__ for builder in builders]).value
        return found
    if ENVIRONMENT.python is None:
        pytest.skip(f"needs onnx2tf 2 ({ENVIRONMENT.setup})")
    for name, file in zip(NAMES, graphs.save_all(folder, NAMES), strict=True):
        (room := folder / name).mkdir()
        try:
            made = bridge.from_file(Source(Kind.ONNX, file, name), Bridge.DIRECT, 8, Fixes(), room, worker)
            found[name] = worker.run(graphs.compared, made, file).value
        except EdgekitError as error:
            found[name] = error.message
    return found


def shapes(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    content = flatbuffer.read(path)
    signature = content.signature(content.entry())
    return {spec.name: spec.shape for spec in signature.inputs}, {spec.name: spec.shape for spec in signature.outputs}


@pytest.mark.parametrize("name", NAMES)
def test_every_output_is_that_of_onnx_runtime(converted: dict[str, FloatModel | str], name: str) -> None:
    made = converted[name]
    assert isinstance(made, FloatModel), made
    assert made.parity
    if name == "equal_sizes" and made.road is Bridge.TF:
        # onnx2tf 1 takes the input for one that has moved; convert finds that out and has no file of it.
        assert made.parity["y"].max_rel > 0.1
        return
    assert {key: parity for key, parity in made.parity.items() if parity.max_rel > 1e-5} == {}


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("convolution", {"0": (2, 6, 5, 4)}),
        ("sequence", {"x": (1, 6, 4)}),
        ("equal_sizes", {"x": (1, 4, 4)}),
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
    assert made.onnx is not None
    assert bool(made.onnx.channels_last) == (name in {"convolution", "sequence", "volume", "groups"})


def test_outputs_keep_their_order_and_names(converted: dict[str, FloatModel | str]) -> None:
    made = converted["two_outputs"]
    assert isinstance(made, FloatModel), made
    assert list(shapes(made.path)[1]) == ["scores", "label"]
    named = converted["colons"]
    assert isinstance(named, FloatModel), named
    assert list(shapes(named.path)[1]) == ["out:0"]
