"""What `diagnose` finds in tiny files whose faults were put there."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgekit.data.samples import Samples
from edgekit.errors import DatasetError, InputError, ModelFormatError
from edgekit.measure.causes import of_layers, of_scales, of_speed
from edgekit.measure.examine import diagnose
from edgekit.measure.layer_errors import Layer, _Statistics, representable
from edgekit.measure.layers import match, names, plain, roles
from edgekit.measure.op_times import Outside, one_op
from edgekit.report.diagnosis import heat, markdown, page, terminal
from edgekit.stages.export.simplify import simplify
from edgekit.stages.quantize import calibrate, quantizer
from edgekit.stages.quantize.forms import Form
from edgekit.system.serial import to_json
from edgekit.tasks.judgement import MOST_DB, decibels
from edgekit.tflite import flatbuffer, tree
from edgekit.tflite.interpreter import Model
from tests.unit.stages.export.nets import TOKENS, WIDTH, Net
from tests.unit.stages.quantize.models import conv_net, conv_samples, pointwise_net, save, token_net, token_samples
from tests.unit.tflite.conftest import Builder


def integers(room: Path, build: Builder, samples: Samples, name: str = "net") -> tuple[Path, Path, Path]:
    """Float and every-op int8 file of `build`, and the folder with its samples."""
    floating, file, rows = save(build, room / f"{name}.tflite"), room / f"{name}_int8.tflite", room / f"{name}_rows"
    samples.labelled(None, "tabular-classification", {}).save(rows)
    calibrate.calibrate(floating, rows, room / f"{name}.pkl")
    quantizer.write_integer(floating, room / f"{name}.pkl", file, Form("every op"))
    return floating, file, rows


@pytest.fixture(scope="module")
def conv(tmp_path_factory):
    return integers(tmp_path_factory.mktemp("conv"), conv_net(), conv_samples(16))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return integers(tmp_path_factory.mktemp("tokens"), token_net(), token_samples(8))


def graph(file: Path) -> flatbuffer.Subgraph:
    return flatbuffer.read(file).subgraphs[0]


def loaded(file: Path) -> Any:
    root = tree.load(file.read_bytes())
    assert root is not None
    return root


def test_a_sound_file_has_good_layers_and_no_cause(conv):
    floating, file, rows = conv
    found = diagnose(file, floating, rows)
    assert found.failure is None
    assert found.rows == 16
    assert found.error_db is not None
    assert found.error_db > 15
    assert {layer.op for layer in found.layers} == {"CONV_2D", "DEPTHWISE_CONV_2D", "MEAN", "FULLY_CONNECTED", "SOFTMAX"}
    assert [layer.sqnr_db for layer in found.layers] == sorted(layer.sqnr_db for layer in found.layers)
    first = next(layer for layer in found.layers if layer.op == "CONV_2D")
    assert first.sqnr_db > 30
    assert first.cosine > 0.999
    assert first.float_max <= (first.stored_max or 0) * 1.01
    assert not [finding for finding in found.findings if finding.kind in ("attention mask", "clipping", "layer normalization")]
    assert found.speed is not None
    assert found.speed.p50_ms > 0


def test_the_float_file_against_itself_is_exact(conv):
    floating, _, rows = conv
    found = diagnose(floating, floating, rows)
    assert found.agreement == 1
    assert found.error_db == MOST_DB
    assert all(layer.sqnr_db == MOST_DB and layer.cosine == 1 and layer.clipped is None for layer in found.layers)
    assert found.findings == ()


def test_the_mask_is_the_first_cause_though_its_values_are_left_out_of_the_errors(tokens):
    floating, file, rows = tokens
    found = diagnose(file, floating, rows)
    first = found.findings[0]
    assert first.kind == "attention mask"
    assert "-3.4e38" in first.cause
    assert "edgekit convert" in first.mend
    if found.failure is None:  # some runtimes stop on such a scale
        masked = next(layer for layer in found.layers if layer.tensor == "masked")
        assert masked.float_min > -1e3
        assert masked.sqnr_db < 1


def test_a_mask_that_buries_the_scores_is_found_without_an_absurd_scale(tmp_path):
    _, large, _ = integers(tmp_path, token_net(-10000.0), token_samples(8), "large")
    _, small, _ = integers(tmp_path, token_net(-20.0), token_samples(8), "small")
    assert [finding.kind for finding in of_scales(graph(large))] == ["attention mask"]
    assert of_scales(graph(small)) == []


def test_clipped_values_are_counted(conv, tmp_path):
    floating, _, _ = conv
    samples = conv_samples(16)
    dim = Samples({"x": samples.inputs["x"][:4]})
    _, file, _ = integers(tmp_path, conv_net(), dim, "dim")
    samples.save(tmp_path / "bright")
    found = diagnose(file, floating, tmp_path / "bright")
    finding = next(finding for finding in found.findings if finding.kind == "clipping")
    assert "calibrate" in finding.mend
    assert max(layer.clipped or 0 for layer in found.layers) > 0.001


def test_names_match_through_suffixes_and_then_by_order(conv, tmp_path):
    floating, file, _ = conv
    other = graph(floating)
    assert plain("model/dense_quantized__12") == "model/dense"
    renamed = loaded(file)
    for number, tensor in enumerate(renamed.subgraphs[0].tensors):
        tensor.name = f"t{number}".encode()
    strange = tmp_path / "renamed.tflite"
    strange.write_bytes(tree.pack(renamed))
    for path in (file, strange):
        pairs = match(graph(path), other)
        assert [graph(path).operators[pair.op].name for pair in pairs] == [operator.name for operator in other.operators]
        assert [pair.other_op for pair in pairs] == list(range(len(other.operators)))


def test_module_paths_become_names_of_a_checkpoint(conv, tmp_path):
    floating, _, _ = conv
    long = loaded(floating)
    base = "edgekit.load.<locals>.Classifier_module/transformers.models.bert.BertModel_bert/transformers.models.bert."
    made = [
        "BertLayer_0/torch.nn.Linear_query;1",
        "BertLayer_1/torch.nn.Linear_key;1",
        "BertLayer_1/torch.nn.Linear_value;",
        "BertPooler_pooler;2",
        "BertPooler_pooler/torch.nn.Tanh_activation;3",
    ]
    for operator, name in zip(long.subgraphs[0].operators, made, strict=True):
        long.subgraphs[0].tensors[operator.outputs[0]].name = (base + name).encode()
    target = tmp_path / "named.tflite"
    target.write_bytes(tree.pack(long))
    assert list(names(graph(target)).values()) == ["0.query", "1.key", "1.value", "pooler", "pooler.activation"]


def test_one_op_alone_computes_what_it_does_in_the_graph(conv, tmp_path):
    floating, _, _ = conv
    root = loaded(floating)
    alone = tmp_path / "alone.tflite"
    alone.write_bytes(one_op(root, 0))
    row = conv_samples(2).inputs["x"][:1]
    whole = Model(floating, keep_tensors=True)
    whole.run({"x": row})
    first = graph(floating).operators[0].outputs[0]
    np.testing.assert_allclose(next(iter(Model(alone).run({"t0": row}).values())), whole.tensor(first), atol=1e-5)


def test_what_is_masked_or_no_number_counts_nowhere(conv):
    floating = graph(conv[0])
    statistics = _Statistics(floating.tensors[floating.operators[0].outputs[0]])
    statistics.add(np.array([1, 5, -3e38], np.float32), np.array([2, 5, 0], np.float32))
    statistics.add(np.array([3], np.float32), np.array([np.nan], np.float32))
    layer = statistics.layer("CONV_2D", "conv", 0)
    assert (statistics.count, layer.max_abs_error, layer.float_min, layer.float_max) == (2, 1, 2, 5)


def test_causes_need_bad_outputs():
    layer = Layer("RSQRT", "LayerNorm 0: Rsqrt", "x", 0, "int8", 3.0, 0.5, 1.0, 0.0, 1.0, 40.0, 0.0, 1.0, 0.0, None)
    wide = replace(layer, op="FULLY_CONNECTED", name="ffn", channel_ratio=64.0)
    empty = flatbuffer.Subgraph("", (), (), (), ())
    assert [finding.kind for finding in of_layers(empty, [layer, wide], 5.0)] == ["layer normalization", "outlier channels"]
    assert of_layers(empty, [layer, wide], 45.0) == []
    assert "about 4 of 256" in of_layers(empty, [layer, wide], 5.0)[1].cause
    assert of_layers(empty, [replace(wide, op="SOFTMAX")], 5.0) == []  # positions, and no channels


def test_thin_convolutions_that_quantize_on_the_fly_are_named_where_the_file_is_slow(tmp_path, monkeypatch):
    floating = save(pointwise_net(), tmp_path / "m.tflite")
    whole = Outside(1, 2, 2, ())
    quantizer.write_dynamic(floating, None, tmp_path / "ours.tflite")
    assert of_speed(graph(tmp_path / "ours.tflite"), whole, 2.0, 1.0) == []
    monkeypatch.setattr(quantizer, "_thin", lambda data: frozenset())
    quantizer.write_dynamic(floating, None, tmp_path / "theirs.tflite")
    (finding,) = of_speed(graph(tmp_path / "theirs.tflite"), whole, 2.0, 1.0)
    assert (finding.kind, finding.layers) == ("thin convolutions", ("thin",))
    assert of_speed(graph(tmp_path / "theirs.tflite"), whole, 0.4, 1.0) == []


def test_what_others_leave_to_simplify_is_named_with_what_it_gains(tmp_path):
    net = Net()
    weights = net.constant("w", net.draw.standard_normal((WIDTH, 8)).astype(np.float32))
    product = net.result("BATCH_MATMUL", [net.x, weights], "product", [1, TOKENS, 8], schema.BatchMatMulOptionsT())
    net.ends({"x": net.x}, {"y": product}, "serving_default")
    rows = np.random.default_rng(0).standard_normal((16, TOKENS, WIDTH)).astype(np.float32)
    floating = save(net, tmp_path / "net.tflite")
    Samples({"x": rows}, task="generic").save(tmp_path / "rows")
    before = floating.read_bytes()
    quantizer.write_dynamic(floating, None, tmp_path / "dynamic.tflite")
    (finding,) = diagnose(tmp_path / "dynamic.tflite", floating, tmp_path / "rows").findings
    assert finding.kind == "unsimplified graph"
    assert re.match(r"1 BATCH_MATMUL of the float file become 1 FULLY_CONNECTED: the same in 1 ops, not 1", finding.cause)
    assert floating.read_bytes() == before
    simplify(floating)
    assert diagnose(tmp_path / "dynamic.tflite", floating, tmp_path / "rows").findings == ()


def test_what_a_scale_represents(conv):
    tensors = {tensor.name: tensor for tensor in graph(conv[1]).tensors}
    low, high = representable(tensors["probabilities"]) or (1, 1)
    assert low == 0
    assert high == pytest.approx(255 / 256)
    assert decibels(100.0, 1.0) == pytest.approx(20)
    assert decibels(1.0, 0.0) == MOST_DB
    assert decibels(0.0, 1.0) == -MOST_DB


@pytest.mark.parametrize("files", ["conv", "tokens"])
def test_it_is_written_in_every_form(files, request):
    from rich.console import Console

    floating, file, rows = request.getfixturevalue(files)
    found = diagnose(file, floating, rows, data="rows <b>")
    assert json.loads(to_json(found))["rows"] == len(Samples.load(rows))
    html = page(found)
    assert "<b>" not in html
    assert "http" not in html
    console = Console(width=100)
    with console.capture() as captured:
        console.print(terminal(found))
    assert all(len(line) <= 100 for line in captured.get().splitlines())
    for text in (html, markdown(found), captured.get()):
        assert all(finding.kind in text for finding in found.findings)
        assert all(layer.name in text for layer in found.layers)
    assert all(0 <= level <= 1 for layer in found.layers for level in heat(layer))


def test_files_that_do_not_belong_together(conv, tokens, tmp_path):
    floating, file, rows = conv
    with pytest.raises(ModelFormatError, match="quantized itself"):
        diagnose(floating, file, rows)
    with pytest.raises(InputError, match="takes input_ids"):
        diagnose(tokens[1], floating, rows)
    with pytest.raises(ModelFormatError, match="no such file"):
        diagnose(tmp_path / "none.tflite", floating, rows)
    Samples({"x": np.zeros((0, 8, 8, 3), np.float32)}).save(tmp_path / "empty")
    with pytest.raises(DatasetError, match="no rows"):
        diagnose(file, floating, tmp_path / "empty")


def test_roles_need_an_attention():
    assert roles(flatbuffer.Subgraph("", (), (), (), ())) == {}
