"""`edgekit compare`: versions of one model, each with its own tokenizer, judged on the same rows."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekit.errors import ConfigError, ModelFormatError
from edgekit.measure.judge import BenchmarkConfig
from edgekit.report.content import Report
from edgekit.report.html import page
from edgekit.spec import DataSpec
from edgekit.system import artifacts
from edgekit.system.worker import Worker
from edgekit.workflows.compare import CompareConfig, _exported, compare
from tests import tiny
from tests.commands import edgekit
from tests.unit.measure.files import bag_onnx, ort_of

QUICK = BenchmarkConfig(threads=1, runs=4, warmup=1, rounds=1)


def vocabulary(tokenizer: Path) -> list[str]:
    found = json.loads(tokenizer.read_text(encoding="utf-8"))["model"]["vocab"]
    return sorted(found, key=found.__getitem__)


def scores(words: list[str]) -> np.ndarray:
    """One row a word: words of praise speak for class 1, the others of weight for class 0."""
    good, bad = ([float(word in group) for word in words] for group in (tiny.POSITIVE, tiny.NEGATIVE))
    return np.stack([np.array(bad) + 0.01, np.array(good)], axis=1)


@pytest.fixture(scope="module")
def folder(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bags of words with the same scores, whose tokenizers number the words in opposite order, and an .ort of the first."""
    room = tmp_path_factory.mktemp("compare")
    for name, step in (("first", 1), ("second", -1)):
        (room / name).mkdir()
        told = json.loads((tiny_bert / "tokenizer.json").read_text(encoding="utf-8"))
        words = vocabulary(tiny_bert / "tokenizer.json")[::step]
        numbers = {word: number for number, word in enumerate(words)}
        told["model"]["vocab"] = numbers
        for token in told["added_tokens"]:
            token["id"] = numbers[token["content"]]
        for word, special in told["post_processor"]["special_tokens"].items():
            special["ids"] = [numbers[word]]
        told["added_tokens"].sort(key=lambda token: token["id"])
        (room / name / "tokenizer.json").write_text(json.dumps(told), encoding="utf-8")
        bag_onnx(room / name / "bag.onnx", scores(words))
    ort_of(room / "first" / "bag.onnx")
    return room


@pytest.fixture(scope="module")
def report(folder: Path, tiny_tsv: Path) -> Report:
    versions = [folder / "first" / "bag.onnx", folder / "first" / "bag.ort", folder / "second" / "bag.onnx"]
    return compare(
        [str(path) for path in versions], DataSpec(str(tiny_tsv)), CompareConfig(("A", "B", "C"), max_length=24, timing=QUICK)
    )


def test_each_version_reads_the_rows_with_its_own_tokenizer(report: Report) -> None:
    assert report.versions == ("A", "B", "C")
    assert [row.failure for row in report.rows] == [None] * 3
    first, _, second = report.rows
    assert first.metric is not None and first.metric.metric == "accuracy" and first.metric.value > 0.9
    assert second.metric == first.metric
    assert second.agreement is not None and second.agreement.value == 1
    assert second.drop is not None and (second.drop.lost, second.drop.gained) == (0, 0)
    assert first.drop is None
    assert [score.metric for score in first.scores] == ["loss"]
    assert first.scores[0].value == pytest.approx(second.scores[0].value)
    assert first.latency is not None and first.samples_per_s == pytest.approx(1000 / first.latency.mean_ms)
    assert [row.runtime for row in report.rows] == ["ONNX Runtime"] * 3
    assert first.parameters == second.parameters == 2 * len(vocabulary(Path(first.path).parent / "tokenizer.json"))


def test_rows_are_the_same_draw(folder: Path, tiny_tsv: Path) -> None:
    paths = [str(folder / name / "bag.onnx") for name in ("first", "second")]
    found = compare(paths, DataSpec(str(tiny_tsv), samples=10), CompareConfig(timing=QUICK))
    assert found.versions == ("first/bag.onnx", "second/bag.onnx")
    assert found.data.startswith("10 rows")
    assert found.rows[1].outputs[0].max_abs == pytest.approx(0, abs=1e-5)


def test_a_version_that_stops_at_its_first_inference_leaves_the_others_whole(folder: Path, tiny_tsv: Path, tmp_path: Path) -> None:
    # Too few rows for the ids of its tokenizer.
    shutil.copy(folder / "first" / "tokenizer.json", tmp_path / "tokenizer.json")
    bag_onnx(tmp_path / "short.onnx", np.ones((3, 2)))
    found = compare(
        [str(folder / "first" / "bag.onnx"), str(tmp_path / "short.onnx")], DataSpec(str(tiny_tsv)), CompareConfig(timing=QUICK)
    )
    assert found.rows[0].failure is None and found.rows[0].metric is not None
    assert found.rows[1].failure is not None and "stops during inference" in found.rows[1].failure
    assert found.rows[1].parameters == 6


def test_names_and_reference_have_to_fit(folder: Path, tiny_tsv: Path) -> None:
    paths = [str(folder / name / "bag.onnx") for name in ("first", "second")]
    for wrong, message in (
        ({"names": ("A",)}, "1 names for 2 versions"),
        ({"names": ("A", "A")}, "do not tell the versions apart"),
        ({"reference": "third"}, "none of the versions"),
    ):
        with pytest.raises(ConfigError, match=message):
            compare(paths, DataSpec(str(tiny_tsv)), CompareConfig(timing=QUICK, **wrong))
    with pytest.raises(ConfigError, match="given twice"):
        compare([paths[0], paths[0]], DataSpec(str(tiny_tsv)), CompareConfig(timing=QUICK))


def test_each_format_under_one_stem_has_a_manifest_of_its_own(tiny_bert: Path, tmp_path: Path) -> None:
    for name, manifest, length in (("x.onnx", "x.onnx.json", 16), ("x.ort", "x.ort.json", 32)):
        told = {"path": name, "parents": {str(tiny_bert): ""}, "config": {"max_length": length}}
        (tmp_path / manifest).write_text(json.dumps(told))
        assert _exported(tmp_path / name) == (tiny_bert, length)
    assert _exported(tmp_path / "x.pt") == (None, None)


def traced(checkpoint: Path, target: Path) -> None:
    import torch

    from edgekit.models.checkpoint import Checkpoint
    from edgekit.stages.export import module as classifier

    module = classifier.load(Checkpoint.read(checkpoint), ("input_ids", "attention_mask"))
    example = tuple(torch.ones((1, 24), dtype=torch.int32) for _ in range(2))
    torch.jit.freeze(torch.jit.trace(module, example, check_trace=False)).save(str(target))


def test_checkpoint_and_torchscript_beside_onnx(tiny_bert: Path, tiny_tsv: Path, folder: Path, tmp_path: Path) -> None:
    pruned = tmp_path / "pruned"
    shutil.copytree(tiny_bert, pruned)
    plan = {
        "checkpoint_sha256": "",
        "tokens": None,
        "importance": {"method": "gradient", "heads": [[0.1, 0.2, 0.3, 0.4]] * 2, "ffn": [[[0.5] * 128]] * 2},
        "layers": [{"layer": 1, "heads": [0, 2], "ffn": [list(range(64))]}],
    }
    (pruned / "pruning_plan.json").write_text(json.dumps(plan))
    Worker().run(traced, tiny_bert, script := pruned / "bert.pt")
    with pytest.raises(ModelFormatError, match="a program that PyTorch would run"):
        compare([str(pruned), str(script)], DataSpec(str(tiny_tsv), samples=16), CompareConfig(max_length=24, timing=QUICK))
    vouching = {"kind": "torchscript", "sha256": artifacts.sha256(script)}
    (pruned / "bert.pt.json").write_text(json.dumps(vouching))
    versions = [str(pruned), str(pruned / "bert.pt"), str(folder / "first" / "bag.onnx")]
    found = compare(versions, DataSpec(str(tiny_tsv), samples=16), CompareConfig(reference="bert.pt", max_length=24, timing=QUICK))
    eager, traced_row, onnx = found.rows
    assert [row.failure for row in found.rows] == [None] * 3
    assert [row.runtime for row in found.rows] == ["PyTorch", "TorchScript", "ONNX Runtime"]
    assert found.reference == traced_row.path
    assert eager.outputs[0].max_abs < 1e-5
    assert eager.size_bytes == (pruned / "model.safetensors").stat().st_size
    assert traced_row.parameters is not None and eager.parameters is not None and traced_row.parameters <= eager.parameters
    assert eager.latency is not None and onnx.latency is not None and eager.partitions is None
    assert any("different runtimes" in note for note in found.notes)
    assert any("padded to 24 tokens" in note for note in found.notes)
    (kept,) = found.pruned
    assert (kept.heads, kept.ffn, kept.ffn_before) == (((), (0, 2)), (0, 64), (128, 128))
    assert Report.from_json(found.json()) == found
    assert "What pruned kept" in page(found)


def test_wrong_input_is_one_line_and_nothing_is_written(
    tiny_bert: Path, tiny_tsv: Path, folder: Path, tmp_path: Path, contents: Callable[[Path], dict[str, bytes]]
) -> None:
    sound = folder / "first" / "bag.onnx"
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copy(tiny_bert / "config.json", empty / "config.json")
    broken = tmp_path / "broken.ort"
    broken.write_bytes(b"no graph")
    planless = tmp_path / "planless"
    shutil.copytree(tiny_bert, planless)
    (planless / "pruning_plan.json").write_text("{}")
    third = tmp_path / "three.tsv"
    third.write_text("sentence\tlabel\ngood film\t2\nbad film\t0\n")
    before = contents(tmp_path)
    for versions, dataset, told in (
        ((sound, tmp_path / "gone.onnx"), tiny_tsv, "gone.onnx: no such file"),
        ((sound, empty), tiny_tsv, "holds no weights"),
        ((sound, broken), tiny_tsv, "broken.ort: ONNX Runtime cannot load it"),
        ((planless,), tiny_tsv, "no plan to draw"),
        ((sound,), third, "labels outside the head"),
    ):
        said = edgekit("compare", *versions, "--dataset", dataset, "--out", tmp_path / "report.html", "--quiet")
        assert said.code == 3, said.err
        assert len(said.err) == 1 and told in said.err[0]
    assert contents(tmp_path) == before


def test_the_command_prints_and_writes_the_table(tiny_tsv: Path, folder: Path, tmp_path: Path) -> None:
    outs = [part for name in ("r.html", "r.md", "r.json") for part in ("--out", tmp_path / name)]
    fast = ("--runs", "3", "--rounds", "1", "--warmup", "0", "--quiet")
    versions = (folder / "first" / "bag.onnx", folder / "second" / "bag.onnx")
    said = edgekit("compare", *versions, "--dataset", tiny_tsv, "--name", "first", "--name", "second", *outs, *fast)
    assert said.code == 0, said.err
    assert "Params" in said.out and "Partitions" not in said.out
    assert max(map(len, said.out.splitlines())) <= 100
    header = next(line for line in (tmp_path / "r.md").read_text().splitlines() if line.startswith("| Version"))
    assert header == (
        "| Version | Runtime | Params, M | Size, MB | gzip, MB | Accuracy, % | Drop, points | Loss | Samples/s | p50, ms |"
    )
    assert Report.from_json((tmp_path / "r.json").read_text()).versions == ("first", "second")
    assert "<h1>edgekit compare</h1>" in (tmp_path / "r.html").read_text()
