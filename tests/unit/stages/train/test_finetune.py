"""Fine-tuning: what is learned, published, refused, and resumed after a kill."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.data.sources import TextRows
from edgekit.errors import CheckpointError, ConfigError, DatasetError, OutputError
from edgekit.models.checkpoint import label_ids
from edgekit.stages.train import loop
from edgekit.stages.train.tokens import Encoded, batches
from edgekit.system import artifacts
from edgekit.system.worker import Progress, Worker
from edgekit.workflows.finetune import FinetuneConfig, FinetuneResult, _classes, finetune
from tests import tiny
from tests.killing import kill_training

QUICK = FinetuneConfig(epochs=2, batch_size=8, learning_rate=2e-3, max_length=32, threads=1)
# Long enough to be killed in the middle.
LONG = dataclasses.replace(QUICK, epochs=20, batch_size=4, checkpoint_every=7)


def _rows(count: int, seed: int = 0, names: Sequence[str | int] = (0, 1)) -> TextRows:
    pairs = tiny.sentences(count, seed)
    return TextRows(tuple(text for text, _ in pairs), None, tuple(names[label] for _, label in pairs), f"rows {seed}")


# What is learned -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[FinetuneResult, Path, list[Progress]]:
    """One run on named classes with rows held out."""
    out = tmp_path_factory.mktemp("finetune") / "model"
    heard: list[Progress] = []
    config = dataclasses.replace(QUICK, epochs=6, learning_rate=1e-3)
    rows = _rows(400, names=("wretched", "fine"))
    return finetune(tiny_bert, rows, None, out, config, worker=Worker(timeout_s=120, on_progress=heard.append)), out, heard


def test_it_learns(run: tuple[FinetuneResult, Path, list[Progress]]) -> None:
    result = run[0]
    assert result.accuracy > 0.85
    assert result.epochs[-1].train_loss < 0.5 * result.epochs[0].train_loss
    assert (result.loss, result.correct, result.total) == (result.epochs[-1].loss, result.epochs[-1].correct, 40)


def test_it_says_what_was_held_out(run: tuple[FinetuneResult, Path, list[Progress]]) -> None:
    assert run[0].evaluated_on == "40 of the 400 rows of rows 0, held out"


def test_the_figures_fit_together(run: tuple[FinetuneResult, Path, list[Progress]]) -> None:
    result = run[0]
    assert result.steps == 6 * 45  # 360 rows in batches of 8
    assert result.steps_per_s == pytest.approx(result.steps / result.training_s)
    assert result.samples_per_s == pytest.approx(360 * 6 / result.training_s)
    assert result.runtime_s >= result.preparation_s + result.training_s
    assert result.resumed_at == 0
    assert len(result.curve) == 135  # 270 steps, two of them a point
    assert result.curve[-1][0] == 270
    assert np.mean([loss for _, loss in result.curve]) == pytest.approx(np.mean([epoch.train_loss for epoch in result.epochs]))


def test_names_become_classes_in_their_order(run: tuple[FinetuneResult, Path, list[Progress]]) -> None:
    assert run[0].labels == label_ids(run[1]) == {"fine": 0, "wretched": 1}


def test_progress_reaches_the_last_step(run: tuple[FinetuneResult, Path, list[Progress]]) -> None:
    assert (run[2][-1].done, run[2][-1].total) == (270, 270)


def test_the_folder_holds_a_checkpoint_and_its_history(run: tuple[FinetuneResult, Path, list[Progress]], tiny_bert: Path) -> None:
    result, out, _ = run
    names = {file.name for file in out.iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json", "vocab.txt", "edgekit.json"}
    assert {file.name for file in out.parent.iterdir()} == {out.name}, "nothing may be left beside the output"
    vocabulary = json.loads((out / "tokenizer.json").read_text())["model"]["vocab"]
    assert (out / "vocab.txt").read_text().split("\n")[:-1] == sorted(vocabulary, key=lambda piece: vocabulary[piece])
    manifest = json.loads((out / "edgekit.json").read_text())
    assert manifest["kind"] == "checkpoint"
    assert manifest["path"] == out.name
    assert manifest["parents"]["bert"] == artifacts.sha256(tiny_bert)
    assert manifest["measured"]["correct"] == result.correct
    assert manifest["tools"].keys() >= {"torch", "transformers"}


# Architectures -------------------------------------------------------------------------------------------------------

_SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bert": _SMALL,
    "distilbert": {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": 64},
    "mobilebert": {
        **_SMALL,
        "embedding_size": 16,
        "intra_bottleneck_size": 16,
        "true_hidden_size": 16,
        "num_feedforward_networks": 2,
    },
    "deberta": {
        **_SMALL,
        "type_vocab_size": 0,
        "relative_attention": True,
        "pos_att_type": ["c2p", "p2c"],
        "position_biased_input": False,
    },
    "deberta-v2": {
        **_SMALL,
        "type_vocab_size": 0,
        "relative_attention": True,
        "pos_att_type": ["c2p", "p2c"],
        "position_buckets": 16,
    },
    "roberta": {**_SMALL, "type_vocab_size": 2},
    "electra": {**_SMALL, "embedding_size": 16},
}


def _train_each(tokenizer: Path, room: Path) -> dict[str, tuple[list[float], bool]]:
    """In a worker: training losses of each architecture from a config alone, and whether what was saved loads."""
    from transformers import AutoConfig

    from edgekit.models.checkpoint import load_classifier

    vocabulary = json.loads((tokenizer / "tokenizer.json").read_text())["model"]["vocab"]
    pairs = tiny.sentences(64)
    rows = Encoded(tuple(text for text, _ in pairs), tuple("a plot" for _ in pairs), tuple(label for _, label in pairs))
    found = {}
    for name, settings in ARCHITECTURES.items():
        source = room / name
        shutil.copytree(tokenizer, source, ignore=shutil.ignore_patterns("model.safetensors", "config.json"))
        AutoConfig.for_model(name, vocab_size=len(vocabulary), pad_token_id=0, **settings).save_pretrained(source)
        config = dataclasses.replace(QUICK, epochs=3)
        job = loop.Job(source, {"no": 0, "yes": 1}, rows, rows, "themselves", config, name)
        result = loop.run(job, room / f"{name}.out")
        load_classifier(room / f"{name}.out" / loop.MODEL)
        found[name] = ([epoch.train_loss for epoch in result.epochs], bool(np.isfinite(result.loss)))
    return found


@pytest.fixture(scope="module")
def losses(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[float], bool]]:
    return Worker(timeout_s=200).run(_train_each, tiny_bert, tmp_path_factory.mktemp("architectures")).value


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_architecture_builds_and_trains_from_its_config(losses: dict[str, tuple[list[float], bool]], name: str) -> None:
    training, finite = losses[name]
    assert finite
    assert min(training[1:]) < training[0]


def _train_in_bfloat16(bert: Path, room: Path) -> tuple[float, str]:
    """In a worker: the loss of the tiny BERT, and what DeBERTa is told."""
    pairs = tiny.sentences(16)
    rows = Encoded(tuple(text for text, _ in pairs), None, tuple(label for _, label in pairs))
    config = dataclasses.replace(QUICK, bfloat16=True)
    result = loop.run(loop.Job(bert, {"no": 0, "yes": 1}, rows, rows, "themselves", config, "bfloat16"), room / "bert")
    deberta = room / "deberta"
    shutil.copytree(bert, deberta, ignore=shutil.ignore_patterns("model.safetensors"))
    (deberta / "config.json").write_text(json.dumps({"model_type": "deberta", "vocab_size": 200, **ARCHITECTURES["deberta"]}))
    try:
        loop.run(loop.Job(deberta, {"no": 0, "yes": 1}, rows, rows, "themselves", config, "bfloat16"), room / "none")
    except ConfigError as error:
        return result.loss, str(error)
    return result.loss, ""


def test_bfloat16_trains_and_says_where_it_cannot(tiny_bert: Path, tmp_path: Path) -> None:
    loss, refusal = Worker(timeout_s=100).run(_train_in_bfloat16, tiny_bert, tmp_path).value
    assert np.isfinite(loss)
    assert refusal == "deberta cannot be trained in bfloat16: its attention mask overflows; use float32"


# Killed and resumed --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def killed(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run that got kill -9 after its first state was written: nothing but the hidden folder."""
    out = tmp_path_factory.mktemp("killed") / "model"
    kill_training(finetune, (tiny_bert, _rows(64), _rows(16, 1), out, LONG), out)
    return out


def _copy(killed: Path, folder: Path) -> Path:
    shutil.copytree(killed.parent / ".model.resume", folder / ".model.resume")
    return folder / "model"


def test_a_killed_run_ends_as_if_it_had_not_been(killed: Path, tiny_bert: Path, tmp_path: Path) -> None:
    whole = finetune(tiny_bert, _rows(64), _rows(16, 1), tmp_path / "whole", LONG)
    out = _copy(killed, tmp_path)
    resumed = finetune(tiny_bert, _rows(64), _rows(16, 1), out, LONG)
    assert whole.resumed_at == 0
    assert 0 < resumed.resumed_at < whole.steps
    assert resumed.resumed_at % LONG.checkpoint_every == 0
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert (resumed.epochs, resumed.curve) == (whole.epochs, whole.curve)
    assert not (tmp_path / ".model.resume").exists()


def test_other_settings_start_anew(killed: Path, tiny_bert: Path, tmp_path: Path) -> None:
    result = finetune(tiny_bert, _rows(64), _rows(16, 1), _copy(killed, tmp_path), dataclasses.replace(QUICK, seed=1))
    assert result.resumed_at == 0
    assert result.steps == 16


def test_a_damaged_state_is_named(killed: Path, tiny_bert: Path, tmp_path: Path) -> None:
    out = _copy(killed, tmp_path)
    (newest,) = (tmp_path / ".model.resume").glob("state-*")
    (newest / "state.pt").write_bytes(b"not a state")
    with pytest.raises(OutputError, match="state of an interrupted run is damaged; remove .*resume to start anew"):
        finetune(tiny_bert, _rows(64), _rows(16, 1), out, LONG)


# Refused -------------------------------------------------------------------------------------------------------------


def test_numbers_that_the_model_knows_by_name_are_its_classes(tmp_path: Path) -> None:
    config = {"model_type": "bert", "id2label": {"0": "1", "1": "2", "2": "3"}}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    rows = TextRows(("a film", "a plot"), None, (1, 3), "stars.tsv")
    assert _classes(tmp_path, rows, QUICK) == {"1": 0, "2": 1, "3": 2}


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (None, "has no label column"),
        ((), "holds no rows"),
        ((1, 1, 1), "all rows have the label 1"),
        ((1, "0.5", 0, "2.25"), "the label 0.5 is a fraction, no class"),
        (("0.5", "1.5"), "the label 0.5 is a fraction, no class"),
        (("a", 1, 0), "some labels are numbers and some are names"),
        ((0, 2, 2), "no row has the label 1 but some have 2"),
        ((0, 1, -1), "the label -1 is outside 0 and upwards"),
    ],
)
def test_labels_without_clear_classes_are_refused(tiny_bert: Path, tmp_path: Path, labels: Any, words: str) -> None:
    rows = TextRows(("a film",) * (3 if labels is None else len(labels)), None, labels, "rows.tsv")
    with pytest.raises(DatasetError, match=f"^rows.tsv: {words}"):
        finetune(tiny_bert, rows, None, tmp_path / "out", QUICK)
    assert list(tmp_path.iterdir()) == []


def test_an_evaluation_label_that_was_not_trained_is_refused(tiny_bert: Path, tmp_path: Path) -> None:
    evaluation = TextRows(("a film", "a plot"), None, (0, 2), "dev.tsv")
    with pytest.raises(DatasetError, match="^dev.tsv: .*row 1 .*has 2"):
        finetune(tiny_bert, _rows(16), evaluation, tmp_path / "out", QUICK)


@pytest.mark.parametrize(
    "setting",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"warmup_ratio": 1.0},
        {"holdout": 0.0},
        {"dropout": 1.0},
        {"labels": ("a", "a")},
    ],
)
def test_a_setting_out_of_range_is_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        FinetuneConfig(**setting)


def test_an_existing_output_is_kept(tiny_bert: Path, tmp_path: Path, contents: Callable[[Path], dict[str, bytes]]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(OutputError, match="--overwrite"):
        finetune(tiny_bert, _rows(16), None, out, QUICK)
    with pytest.raises(ConfigError, match="max_length is 500 but .* takes 128 tokens"):
        finetune(tiny_bert, _rows(16), None, out, dataclasses.replace(QUICK, max_length=500), overwrite=True)
    assert contents(tmp_path) == before


def test_an_output_that_cannot_be_written_is_refused(tiny_bert: Path, unwritable: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        finetune(tiny_bert, _rows(16), None, unwritable, QUICK)


def test_a_model_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no config.json"):
        finetune(tmp_path, _rows(16), None, tmp_path / "out", QUICK)


# Batches and schedule ------------------------------------------------------------------------------------------------


def test_every_row_comes_once_in_batches_of_like_length() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, 1001)
    found = list(batches(lengths, 16, (0, 0)))
    assert sorted(np.concatenate(found)) == list(range(1001))
    padded = sum(len(batch) * lengths[batch].max() for batch in found)
    assert padded < 1.15 * lengths.sum()


def test_each_epoch_has_its_own_order_and_the_seed_brings_it_back() -> None:
    lengths = np.arange(100)
    first, again, second = (np.concatenate(list(batches(lengths, 8, seed))) for seed in ((0, 0), (0, 0), (0, 1)))
    assert first.tolist() == again.tolist() != second.tolist()


def test_the_rate_rises_to_its_peak_and_falls_to_nothing() -> None:
    rates = [loop._schedule(step, 100, 0.1) for step in range(101)]
    assert rates[10] == max(rates) == 1.0
    assert 0 < rates[0] < rates[9] < 1
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == 0
    assert loop._schedule(0, 1, 0.0) == 1.0
