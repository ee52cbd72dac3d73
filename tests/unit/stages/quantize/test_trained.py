"""Ranges that were trained, in the place of calibrated ones: which ops take them, what of them, and what they change."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.errors import CheckpointError
from edgekit.models.ranges import RANGES, LayerRanges, TrainedRanges, digest, read, write
from edgekit.stages.quantize import plan as planning
from edgekit.stages.quantize.candidates import Candidate, choose
from edgekit.stages.quantize.plan import IntegerSettings, QuantizationPlan, quantize
from edgekit.stages.quantize.quantizer import operators
from edgekit.stages.quantize.schemes import SCHEMES
from edgekit.stages.quantize.trained import Taken, take_ranges
from edgekit.tflite import flatbuffer
from tests.integration import sources
from tests.unit.stages.quantize.models import Inline, calibrated, encoder_net, encoder_samples, in_turn

NAMES = {"dense": "layer.dense", "query": "layer.query", "logits": "classifier"}


def trained(room: Path, *, turned: bool = False) -> TrainedRanges:
    """Ranges of all three products, twice as wide as anything that calibration saw and each of its own; `turned` transposes."""
    layers = {}
    for number, (graph, operator, constant) in enumerate(operators((room / "float32.tflite").read_bytes())):
        name = graph.tensors[operator.outputs[0]].name
        if operator.name == "FULLY_CONNECTED" and name in NAMES:
            weights = constant(operator.inputs[1])
            assert weights is not None
            layers[NAMES[name]] = LayerRanges(
                (-100.0 - number, 50.0),
                (-200.0 - number, 300.0),
                digest(weights.T if turned else weights),
                digest(constant(operator.inputs[2]) if operator.inputs[2] >= 0 else None),
            )
    return TrainedRanges(layers)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    return calibrated(encoder_net(), encoder_samples(32), tmp_path_factory.mktemp("encoder"))


def taken(room: Path, ranges: TrainedRanges, target: Path) -> tuple[Taken, dict[str, Any], dict[str, np.ndarray]]:
    found = take_ranges(room / "float32.tflite", room / "calibration", ranges, target)
    return found, *pickle.loads(target.read_bytes())


def ends(statistics: dict[str, Any], tensor: str) -> tuple[float, float]:
    return float(statistics[tensor]["min"].item()), float(statistics[tensor]["max"].item())


@pytest.mark.parametrize("turned", [False, True])
def test_ops_are_known_by_their_constants(encoder, tmp_path, turned):
    ranges = trained(encoder, turned=turned)
    found, statistics, means = taken(encoder, ranges, tmp_path / "taken")
    assert (found.ops, found.considered, found.left, found.unmatched, found.whole) == (3, 3, (), (), True)
    assert found.told == "ranges trained: 3 of 3 fully connected ops take them"
    assert ends(statistics, "x") == ranges.layers["layer.dense"].input
    assert ends(statistics, "dense") == ranges.layers["layer.dense"].output
    assert ends(statistics, "logits") == ranges.layers["classifier"].output
    before, every = pickle.loads((encoder / "calibration").read_bytes())
    assert statistics["scores"] == before["scores"], "what is no product keeps its calibrated range"
    assert set(every) == {"dense", "query", "logits"}
    assert means == {}, "biases were trained with rounded weights"
    assert ends({"x": {"min": statistics["x"]["least"], "max": statistics["x"]["greatest"]}}, "x") == ends(before, "x"), "int16's"


def test_ops_without_a_layer_and_layers_without_an_op_are_told(encoder, tmp_path):
    ranges = trained(encoder)
    layers = dict(ranges.layers)
    layers["layer.query"] = replace(layers["layer.query"], weight_sha256="of other weights")
    found, statistics, means = taken(encoder, TrainedRanges(layers), tmp_path / "taken")
    assert (found.ops, found.left, found.unmatched, found.whole) == (2, ("query",), ("layer.query",), False)
    assert found.told.startswith(
        "ranges trained: 2 of 3 fully connected ops take them; 1 keep calibrated ones; no op has the weights of 1 layers, "
        "such as layer.query (--bridge litert"
    )
    before, _ = pickle.loads((encoder / "calibration").read_bytes())
    assert statistics["query"] == before["query"]
    assert set(means) == {"query"}


def test_where_the_bias_is_added_elsewhere_only_the_input_is_the_layers(encoder, tmp_path):
    ranges = trained(encoder)
    layers = {**ranges.layers, "layer.dense": replace(ranges.layers["layer.dense"], bias_sha256="another")}
    found, statistics, _ = taken(encoder, TrainedRanges(layers), tmp_path / "taken")
    assert (found.ops, found.left, found.unmatched) == (2, ("dense",), ())
    assert ends(statistics, "x") == layers["layer.dense"].input
    assert statistics["dense"] == pickle.loads((encoder / "calibration").read_bytes())[0]["dense"]


@pytest.mark.parametrize(("activation", "expected"), [("RELU", (0.0, 300.0)), ("RELU6", (0.0, 6.0))])
def test_a_fused_activation_clips_the_range(tmp_path, activation, expected):
    room = calibrated(encoder_net(activation=activation), encoder_samples(16), tmp_path)
    found, statistics, _ = taken(room, trained(room), tmp_path / "taken")
    assert found.whole
    assert ends(statistics, "dense") == expected


def test_layers_that_are_alike_have_the_wider_range(encoder, tmp_path):
    layers = dict(trained(encoder).layers)
    layers["twin"] = replace(layers["layer.dense"], input=(-1.0, 999.0))
    found, statistics, _ = taken(encoder, TrainedRanges(layers), tmp_path / "taken")
    assert found.whole
    assert found.unmatched == ()
    assert ends(statistics, "x") == (layers["layer.dense"].input[0], 999.0)


# The plan ------------------------------------------------------------------------------------------------------------


def planned(room: Path, target: Path, monkeypatch, **settings: Any) -> QuantizationPlan:
    monkeypatch.setattr(planning, "together", in_turn)
    given = {"samples": room / "rows", "calibration": room / "calibration", "settings": IntegerSettings(**settings)}
    return quantize(room / "float32.tflite", SCHEMES["int8"], target, worker=Inline(), **given)  # type: ignore[arg-type]


def test_the_file_has_the_ranges_and_noise_alone_starts_no_search(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "search", sources.crash)
    monkeypatch.setattr(planning, "_QUIET_DB", 1000.0)
    ranges = trained(encoder)
    plan = planned(encoder, tmp_path / "int8.tflite", monkeypatch, ranges=ranges, max_drop=1.0)
    assert plan.trained_ranges is not None
    assert plan.trained_ranges.whole
    assert "ranges trained: 3 of 3" in plan.reason
    graph = flatbuffer.read(tmp_path / "int8.tflite").subgraphs[0]
    made = {graph.tensors[operator.outputs[0]].name: operator for operator in graph.operators if operator.name == "FULLY_CONNECTED"}
    low, high = ranges.layers["classifier"].output
    scale = graph.tensors[made["logits"].outputs[0]].scale
    assert scale == pytest.approx((high - low) / 255)
    assert plan.candidates[0].name == "matrix products"


def test_with_integers_only_noise_counts_as_ever(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "_QUIET_DB", 1000.0)
    plan = planned(encoder, tmp_path / "int8.tflite", monkeypatch, ranges=trained(encoder), max_drop=1.0, integer_only=True)
    assert plan.trained_ranges is not None
    assert plan.trained_ranges.ops > 0
    assert len(plan.candidates) == 3, "a form that was not trained stops nothing from being tried"


def test_the_form_that_was_trained_is_preferred_where_decisions_are_equal():
    every = Candidate("every op", rows=64, agreement=1.0, error_db=29.0, p50_ms=1.0)
    products = Candidate("matrix products", rows=64, agreement=1.0, error_db=15.0, p50_ms=1.05)
    assert choose([products, every])[0] is every
    assert choose([products, every], trained="matrix products")[0] is products
    assert choose([replace(products, agreement=0.9), every], trained="matrix products")[0] is every


# The file beside the weights -----------------------------------------------------------------------------------------

LAYER = LayerRanges((-1.0, 2.0), (0.0, 3.5), "a", "")


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    write(tmp_path, TrainedRanges({"layer": LAYER}))
    return tmp_path


def test_what_is_written_is_read(checkpoint):
    assert read(checkpoint) == (TrainedRanges({"layer": LAYER}), "")


def test_ranges_of_other_weights_are_not_used(checkpoint):
    (checkpoint / "model.safetensors").write_bytes(b"other weights")
    ranges, note = read(checkpoint)
    assert ranges is None
    assert note.startswith(f"{RANGES} belongs to other weights")
    (checkpoint / RANGES).unlink()
    assert read(checkpoint) == (None, "")


def test_another_scheme_is_not_used(checkpoint):
    file = checkpoint / RANGES
    file.write_text(file.read_text().replace('"bits": 8', '"bits": 4'))
    ranges, note = read(checkpoint)
    assert ranges is None
    assert "another kind" in note


@pytest.mark.parametrize("text", ["", "[]", '{"bits": 8}', None])
def test_a_damaged_file_is_named(checkpoint, text):
    file = checkpoint / RANGES
    file.write_text(file.read_text().replace("3.5", "-3.5") if text is None else text)
    with pytest.raises(CheckpointError, match=f"{RANGES}: holds no ranges"):
        read(checkpoint)


def test_a_bias_of_zeros_is_none():
    assert digest(np.zeros(3, np.float32)) == digest(None) == ""
    assert digest(np.ones(4, np.float32)) != digest(np.ones((2, 2), np.float32))
