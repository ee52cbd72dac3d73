"""`convert --sequence-lengths` on a checkpoint: each length exported, quantized alike, merged, measured and published."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.spec import DataSpec
from edgekit.tflite import flatbuffer, loading
from edgekit.tflite.inspect import inspect
from edgekit.tflite.lengths import LengthsModel
from edgekit.workflows.convert.config import Bridge, ConvertConfig
from edgekit.workflows.convert.conversion import Conversion, Converted, convert
from edgekit.workflows.convert.several_lengths import Lengths
from edgekit.workflows.inputs import encode_for
from edgekit.workflows.predict import Predictor
from edgekit.workflows.recipe import Recipe, dump, load
from tests import tiny

LENGTHS = (8, 16)
SCHEMES = ("float32", "dynamic", "int8")


@pytest.fixture(scope="module")
def sentences(tmp_path_factory) -> Path:
    return tiny.write_tsv(tmp_path_factory.mktemp("data") / "sentences.tsv", 96, seed=5)


@pytest.fixture(scope="module")
def several(tiny_bert, sentences, tmp_path_factory) -> Conversion:
    # Looked for and not imported: no framework belongs in this process.
    if find_spec("litert_torch") is None:
        pytest.skip("needs litert-torch (extra litert), the quicker bridge")
    config = ConvertConfig(
        SCHEMES,
        data=DataSpec(str(sentences)),
        representative_samples=48,
        sequence_lengths=LENGTHS,
        bridge=Bridge.LITERT,
        search_seconds=0,
        max_drop=0.2,
    )
    return convert(str(tiny_bert), tmp_path_factory.mktemp("lengths") / "out", config)


def published(result: Converted) -> Path:
    assert result.path is not None, result.refused
    return result.path


def facts(result: Converted) -> dict[str, Any]:
    return dict(json.loads(published(result).with_suffix(".json").read_text())["measured"])


def test_every_scheme_has_every_length(several):
    assert several.refusals == ()
    for result in several.results:
        found = inspect(published(result), probe=False)
        assert list(found.signatures) == ["run_16", "run_8"]
        assert [found.signatures[f"run_{length}"].inputs[0].shape for length in LENGTHS] == [(1, 8), (1, 16)]


def test_weights_are_shared_in_every_scheme(several):
    for result in several.results:
        file = flatbuffer.read(published(result))
        longest, shorter = ({t.buffer: t.data_bytes for t in graph.tensors if t.data_bytes > 1024} for graph in file.subgraphs)
        alone = sum(size for buffer, size in shorter.items() if buffer not in longest)
        # What a length has for itself are its tables of positions and of segments, 8 rows of 64 numbers each.
        assert alone <= 2 * 8 * 64 * 4 < sum(longest.values()) / 10, result.scheme
        # Of so small a file the tables of tensors and ops are half.
        assert isinstance(result.sizes, Lengths) and result.sizes.growth < 0.55


def test_each_length_was_compared_with_pytorch(several):
    parity = facts(several.results[0])["parity"]
    assert parity["checkpoint to float32 .tflite"]["max_rel"] < 1e-4
    assert parity["8 tokens: checkpoint to float32 .tflite"]["max_rel"] < 1e-4


def test_short_rows_are_answered_as_in_the_longest(several, sentences, tmp_path):
    for result in several.results:
        model = loading.load(published(result))
        assert isinstance(model, LengthsModel)
        samples = encode_for(published(result), DataSpec(sentences), tmp_path)
        short = [row for row in samples if row["attention_mask"].sum() <= 8]
        assert len(short) >= 8
        own = np.concatenate([model.run(row)["logits"] for row in short])
        assert model.length == 8
        wide = np.concatenate([model.models[16].run(row)["logits"] for row in short])
        scale = np.abs(wide).max()
        # The ranges of integers hold the padding too, so that each length rounds by itself.
        assert np.abs(own - wide).max() / scale < {"float32": 1e-4, "int8": 0.15}.get(result.scheme, 0.02), result.scheme


def test_the_manifest_has_figures_for_each_length(several):
    for result in several.results:
        found = facts(result)["lengths"]
        assert [figures["length"] for figures in found["by_length"]] == list(LENGTHS)
        assert all(figures["p50_ms"] > 0 and figures["rows"] >= 8 for figures in found["by_length"])
        assert all(figures["same_decision"]["value"] >= 0.8 for figures in found["by_length"])
        assert found["single_length_bytes"] * (1 + found["growth"]) == pytest.approx(published(result).stat().st_size)
        assert any(step["name"].startswith("8 tokens: ") for step in facts(result)["steps"])


def test_predict_takes_it(several):
    predictor = Predictor(published(several.results[-1]))
    assert set(predictor("a good film").fields["scores"]) == {"negative", "positive"}
    assert "cut to the 16 tokens" in predictor("good " * 40).remark


def test_a_recipe_says_it(tmp_path):
    (tmp_path / "r.toml").write_text(
        'name = "x"\nout = "o"\n[model]\nsource = "m"\n[convert]\nschemes = ["dynamic"]\nsequence_lengths = [16, 32]\n'
    )
    found = load(tmp_path / "r.toml")
    assert (found.convert.sequence_lengths, found.convert.max_length) == ((16, 32), 32)
    (tmp_path / "again.toml").write_text(dump(found))
    again = load(tmp_path / "again.toml")
    assert isinstance(again, Recipe)
    assert again.convert == replace(found.convert)
