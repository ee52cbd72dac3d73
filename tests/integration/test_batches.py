"""`convert --batch-size` on a checkpoint: exported, quantized, judged, published and used for several texts at once."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.deploy.android.bundle import bundle
from edgekit.errors import ConfigError, UnsupportedOpError
from edgekit.measure.judge import BenchmarkConfig
from edgekit.report.table import markdown
from edgekit.spec import DataSpec
from edgekit.tflite import flatbuffer, loading
from edgekit.tflite.batches import BatchesModel, by_batch
from edgekit.tflite.interpreter import Model
from edgekit.workflows.benchmark import benchmark
from edgekit.workflows.compare import compare
from edgekit.workflows.convert.config import Bridge, ConvertConfig
from edgekit.workflows.convert.conversion import Conversion, Converted, convert
from edgekit.workflows.convert.several_batches import Batches
from edgekit.workflows.evaluate import evaluate
from edgekit.workflows.inputs import encode_for
from edgekit.workflows.predict import Predictor
from tests import tiny

SCHEMES = ("float32", "float16", "dynamic", "int8", "int16x8")
TEXTS = ("a good film", "the plot was dull", "not the story , quite a grim scene and a stale actor", "lovely", "boring and cold")


@pytest.fixture(scope="module")
def sentences(tmp_path_factory) -> Path:
    return tiny.write_tsv(tmp_path_factory.mktemp("data") / "sentences.tsv", 90, seed=5)


def converted(checkpoint: Path, out: Path, sentences: Path, batch_sizes: tuple[int, ...], schemes=SCHEMES) -> Conversion:
    # Looked for and not imported: no framework belongs in this process.
    if find_spec("litert_torch") is None:
        pytest.skip("needs litert-torch (extra litert), the quicker bridge")
    config = ConvertConfig(
        schemes,
        data=DataSpec(str(sentences)),
        representative_samples=48,
        max_length=16,
        batch_sizes=batch_sizes,
        bridge=Bridge.LITERT,
        search_seconds=0,
        max_drop=0.2,
    )
    return convert(str(checkpoint), out, config)


@pytest.fixture(scope="module")
def one_size(tiny_bert, sentences, tmp_path_factory) -> Conversion:
    return converted(tiny_bert, tmp_path_factory.mktemp("four"), sentences, (4,))


@pytest.fixture(scope="module")
def several(tiny_bert, sentences, tmp_path_factory) -> Conversion:
    return converted(tiny_bert, tmp_path_factory.mktemp("several"), sentences, (2, 4))


@pytest.fixture(scope="module")
def alone(tiny_bert, sentences, tmp_path_factory) -> Path:
    """The float32 file that takes a text at a time."""
    return published(converted(tiny_bert, tmp_path_factory.mktemp("one"), sentences, (), ("float32",)).results[0])


def published(result: Converted) -> Path:
    assert result.path is not None, result.refused
    return result.path


def facts(result: Converted) -> dict[str, Any]:
    return dict(json.loads(published(result).with_suffix(".json").read_text())["measured"])


def test_every_scheme_takes_four_texts(one_size):
    for result in one_size.results:
        file = flatbuffer.read(published(result))
        assert {spec.shape for spec in file.signature(file.entry()).inputs} == {(4, 16)}
        assert result.measurement is not None and result.measurement.latency is not None
        assert (result.measurement.latency.batch, result.measurement.rows) == (4, 42)
    assert facts(one_size.results[0])["parity"]["checkpoint to float32 .tflite"]["max_rel"] < 1e-4


def test_rows_are_answered_as_one_at_a_time(one_size, alone, sentences, tmp_path):
    samples = encode_for(alone, DataSpec(sentences), tmp_path)
    own = [Model(alone).run(row)["logits"] for row in samples.span(slice(7))]
    model = Model(published(one_size.results[0]))
    wide = [model.run({name: array[start : min(start + 4, 7)] for name, array in samples.inputs.items()}) for start in (0, 4)]
    assert [len(outputs["logits"]) for outputs in wide] == [4, 3]
    np.testing.assert_allclose(np.concatenate([outputs["logits"] for outputs in wide]), np.concatenate(own), rtol=1e-4, atol=1e-5)


def test_evaluate_benchmark_and_compare_say_what_the_figures_are_of(one_size, several, alone, sentences):
    four, both = published(one_size.results[0]), published(several.results[0])
    data = DataSpec(str(sentences))
    scores = [evaluate(file, data).metric for file in (alone, four, both)]
    assert scores[0] is not None and scores[0] == scores[1] == scores[2]
    quick = BenchmarkConfig(runs=4, warmup=0, rounds=2, gzip=False)
    report = benchmark([alone, four], data, quick, reference=alone)
    latencies = [row.latency.batch for row in report.rows if row.latency]
    assert (latencies, report.settings["batch"]) == ([1, 4], [1, 4])
    assert report.rows[1].agreement is not None and report.rows[1].agreement.value == 1
    assert "takes 4 rows at once" in markdown(report)
    assert benchmark([four], None, quick).rows[0].failure is None
    compared = compare([str(alone), str(four)], data)
    assert compared.rows[1].drop is not None and compared.rows[1].drop.value == 0


def test_predict_fills_up_and_groups(one_size, several, alone):
    expected = [answer.fields["scores"] for answer in Predictor(alone).batch(TEXTS)]
    for conversion in (one_size, several):
        predictor = Predictor(published(conversion.results[0]))
        single = [predictor(text).fields["scores"] for text in TEXTS]
        together = [answer.fields["scores"] for answer in predictor.batch(TEXTS)]
        for scores in (single, together):
            assert [list(one.values()) for one in scores] == [pytest.approx(list(one.values()), abs=1e-5) for one in expected]


def test_a_browser_gets_as_many_rows_as_the_file_takes(one_size, several):
    for conversion, batch, key in ((one_size, 4, None), (several, 2, "run_2x16")):
        predictor = Predictor(published(conversion.results[0]))
        samples, _ = predictor.encode(TEXTS[0])
        row, signature = predictor.fed(samples)
        assert (row["input_ids"].shape, signature) == ((batch, 16), key)
        outputs = Model(predictor.path, signature_key=key).run(row)
        flat = {name: output.ravel().tolist() for name, output in outputs.items()}
        assert predictor.read(flat, samples).answer == predictor(TEXTS[0]).answer


def test_several_sizes_share_their_weights(several):
    for result in several.results:
        file = flatbuffer.read(published(result))
        assert list(by_batch(file)) == [2, 4] and [entry.key for entry in file.entries] == ["run_2x16", "run_4x16"]
        first, second = ({t.buffer: t.data_bytes for t in graph.tensors if t.data_bytes > 1024} for graph in file.subgraphs)
        assert sum(size for buffer, size in first.items() if buffer not in second) < sum(second.values()) / 10, result.scheme
        figures = facts(result)["batches"]
        assert [one["batch"] for one in figures["by_batch"]] == [2, 4]
        assert all(one["same_decision"]["value"] >= 0.9 and one["row_ms"] > 0 for one in figures["by_batch"])
        assert isinstance(result.sizes, Batches)
    assert facts(several.results[0])["parity"]["batch 2: checkpoint to float32 .tflite"]["max_rel"] < 1e-4


def test_one_text_beside_several_shares_what_needs_no_calibration(tiny_bert, sentences, tmp_path):
    results = {result.scheme: result for result in converted(tiny_bert, tmp_path, sentences, (1, 4), ("float32", "int8")).results}
    assert list(by_batch(flatbuffer.read(published(results["float32"])))) == [1, 4]
    # litert-torch gives one text other ops than several.
    assert results["int8"].path is not None or "leave 1 of --batch-size out" in (results["int8"].refused or "")


def test_the_smallest_size_that_holds_the_rows_is_run(several, alone, sentences, tmp_path):
    model = loading.load(published(several.results[0]))
    assert isinstance(model, BatchesModel) and model.batch == 4
    samples = encode_for(alone, DataSpec(sentences), tmp_path)
    for rows, key in ((1, "run_2x16"), (2, "run_2x16"), (3, "run_4x16"), (4, "run_4x16")):
        inputs = {name: array[:rows] for name, array in samples.inputs.items()}
        assert (model.prepare(inputs)[0], len(model.run(inputs)["logits"])) == (key, rows)


def test_a_bundle_of_several_texts_at_once_is_refused(one_size, tmp_path):
    with pytest.raises(UnsupportedOpError, match="takes 4 texts at once.*--batch-size 1,4"):
        bundle(published(one_size.results[0]), tmp_path / "bundle")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_sizes": (0,)}, "writes files of fixed sizes alone"),
        ({"batch_sizes": (4, 1)}, "the smallest first"),
        ({"batch_sizes": (1, 4), "sequence_lengths": (8, 16)}, "goes with one length alone"),
        ({"batch_sizes": (4,), "mediapipe": True}, "feeds one text at a time"),
        ({"batch_sizes": (4,), "schemes": ("int8",), "integer_only": True}, "one text at a time"),
        ({"batch_sizes": (100_000,)}, "more than"),
    ],
)
def test_what_does_not_go_together_is_said(options, message):
    with pytest.raises(ConfigError, match=message):
        ConvertConfig(**options)
