"""Fine-tuning: what is learned, published, refused, and resumed after a kill."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.data.sources import TextRows
from edgekit.errors import CheckpointError, ConfigError, DatasetError, OutputError
from edgekit.models.checkpoint import Checkpoint
from edgekit.models.weights import load_model
from edgekit.spec import DataSpec
from edgekit.stages.train import loop
from edgekit.stages.train.config import DistillConfig, FinetuneConfig, FinetuneResult
from edgekit.stages.train.loop import batches
from edgekit.system import artifacts
from edgekit.system.worker import Progress, Worker
from edgekit.tasks.classification import MULTI, REGRESSION, TEXT_CLASSIFICATION
from edgekit.workflows.distill import distill
from edgekit.workflows.finetune import encode, finetune
from tests import tiny
from tests.killing import kill_training

QUICK = FinetuneConfig(epochs=2, batch_size=8, learning_rate=2e-3, max_length=32, threads=1)
# Long enough to be killed in the middle.
LONG = dataclasses.replace(QUICK, epochs=20, batch_size=4, checkpoint_every=7)


def _told(config: FinetuneConfig, data: DataSpec, evaluation: DataSpec | None = None) -> FinetuneConfig:
    return dataclasses.replace(config, data=data, evaluation_data=evaluation)


# What is learned -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[FinetuneResult, Path, list[Progress]]:
    """One run on named classes with rows held out."""
    out = tmp_path_factory.mktemp("finetune") / "model"
    heard: list[Progress] = []
    config = dataclasses.replace(QUICK, epochs=6, learning_rate=1e-3, data=tiny.data(400, names=("wretched", "fine")))
    return finetune(tiny_bert, out, config, on_progress=heard.append), out, heard


def test_it_learns(run: tuple[FinetuneResult, Path, list[Progress]]) -> None:
    result = run[0]
    assert (result.task, result.metric.metric) == ("text-classification", "accuracy")
    assert result.metric.value > 0.85
    assert result.epochs[-1].train_loss < 0.5 * result.epochs[0].train_loss
    assert (result.loss, result.metric, result.metric.total) == (result.epochs[-1].loss, result.epochs[-1].metric, 40)


def test_it_says_what_was_held_out(run: tuple[FinetuneResult, Path, list[Progress]]) -> None:
    assert run[0].evaluated_on == "40 of the 400 rows of rows in memory, held out"


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
    assert run[0].labels == Checkpoint.read(run[1]).labels == ("fine", "wretched")


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
    assert manifest["measured"]["scores"][0]["count"] == result.metric.count
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


def _job(source: Path, room: Path, rows: TextRows, config: FinetuneConfig) -> loop.Job:
    """A job whose rows judge themselves."""
    checkpoint = Checkpoint.read(source, "text-classification")
    settings = TEXT_CLASSIFICATION.settings({}, ("no", "yes"))
    for name in (loop.TRAIN, loop.EVALUATION):
        encode(rows, checkpoint, settings, config.max_length).save(room / name)
    return loop.Job(checkpoint, settings, room, "themselves", config, source.name)


def _train_each(tokenizer: Path, room: Path) -> dict[str, tuple[list[float], bool]]:
    """In a worker: training losses of each architecture from a config alone, and whether what was saved loads."""
    from transformers import AutoConfig

    vocabulary = json.loads((tokenizer / "tokenizer.json").read_text())["model"]["vocab"]
    pairs = tiny.sentences(64)
    rows = TextRows(tuple(text for text, _ in pairs), tuple("a plot" for _ in pairs), tuple(label for _, label in pairs), "pairs")
    found = {}
    for name, settings in ARCHITECTURES.items():
        source = room / name
        shutil.copytree(tokenizer, source, ignore=shutil.ignore_patterns("model.safetensors", "config.json"))
        AutoConfig.for_model(name, vocab_size=len(vocabulary), pad_token_id=0, **settings).save_pretrained(source)
        job = _job(source, room / f"{name}.rows", rows, dataclasses.replace(QUICK, epochs=3))
        result = loop.run(job, room / f"{name}.out")
        load_model(Checkpoint.read(room / f"{name}.out" / loop.MODEL))
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
    rows = TextRows(tuple(text for text, _ in pairs), None, tuple(label for _, label in pairs), "sentences")
    config = dataclasses.replace(QUICK, bfloat16=True)
    result = loop.run(_job(bert, room / "rows", rows, config), room / "bert")
    deberta = room / "deberta"
    shutil.copytree(bert, deberta, ignore=shutil.ignore_patterns("model.safetensors"))
    (deberta / "config.json").write_text(json.dumps({"model_type": "deberta", "vocab_size": 200, **ARCHITECTURES["deberta"]}))
    try:
        loop.run(_job(deberta, room / "rows", rows, config), room / "none")
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
    kill_training(finetune, (tiny_bert, out, _told(LONG, tiny.data(64), tiny.data(16, 1))), out)
    return out


def _copy(killed: Path, folder: Path) -> Path:
    shutil.copytree(killed.parent / ".model.resume", folder / ".model.resume")
    return folder / "model"


def test_a_killed_run_ends_as_if_it_had_not_been(killed: Path, tiny_bert: Path, tmp_path: Path) -> None:
    whole = finetune(tiny_bert, tmp_path / "whole", _told(LONG, tiny.data(64), tiny.data(16, 1)))
    out = _copy(killed, tmp_path)
    resumed = finetune(tiny_bert, out, _told(LONG, tiny.data(64), tiny.data(16, 1)))
    assert whole.resumed_at == 0
    assert 0 < resumed.resumed_at < whole.steps
    assert resumed.resumed_at % LONG.checkpoint_every == 0
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert (resumed.epochs, resumed.curve) == (whole.epochs, whole.curve)
    assert not (tmp_path / ".model.resume").exists()


def test_other_settings_start_anew(killed: Path, tiny_bert: Path, tmp_path: Path) -> None:
    result = finetune(
        tiny_bert, _copy(killed, tmp_path), _told(dataclasses.replace(QUICK, seed=1), tiny.data(64), tiny.data(16, 1))
    )
    assert result.resumed_at == 0
    assert result.steps == 16


def test_a_damaged_state_is_named(killed: Path, tiny_bert: Path, tmp_path: Path) -> None:
    out = _copy(killed, tmp_path)
    (newest,) = (tmp_path / ".model.resume").glob("state-*")
    (newest / "state.pt").write_bytes(b"not a state")
    with pytest.raises(OutputError, match="state of an interrupted run is damaged; remove .*resume to start anew"):
        finetune(tiny_bert, out, _told(LONG, tiny.data(64), tiny.data(16, 1)))


# Refused -------------------------------------------------------------------------------------------------------------


def test_numbers_that_the_model_knows_by_name_are_its_classes() -> None:
    rows = TextRows(("a film", "a plot"), None, (1, 3), "stars.tsv")
    assert TEXT_CLASSIFICATION.labels_of(rows, ("1", "2", "3")) == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (None, "no label column"),
        ((), "holds no rows"),
        ((1, 1, 1), "all rows have the label 1"),
        (("a", 1, 0), "some labels are numbers and some are names"),
        ((0, 2, 2), "no row has the label 1 but some have 2"),
        ((0, 1, -1), "the label -1 is outside 0 and upwards"),
    ],
)
def test_labels_without_clear_classes_are_refused(tiny_bert: Path, tmp_path: Path, labels: Any, words: str) -> None:
    texts = ["a film"] * (3 if labels is None else len(labels))
    data = DataSpec({"sentence": texts} | ({} if labels is None else {"label": list(labels)}))
    with pytest.raises(DatasetError, match=f"^rows in memory: {words}"):
        finetune(tiny_bert, tmp_path / "out", _told(QUICK, data))
    assert list(tmp_path.iterdir()) == []


def test_an_evaluation_label_that_was_not_trained_is_refused(tiny_bert: Path, tmp_path: Path) -> None:
    evaluation = DataSpec({"sentence": ["a film", "a plot"], "label": [0, 2]})
    with pytest.raises(DatasetError, match="^rows in memory: .*row 1 .*has 2"):
        finetune(tiny_bert, tmp_path / "out", _told(QUICK, tiny.data(16), evaluation))


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
        finetune(tiny_bert, out, _told(QUICK, tiny.data(16)))
    with pytest.raises(OutputError, match="holds precious, which edgekit did not write"):
        finetune(tiny_bert, out, _told(QUICK, tiny.data(16)), overwrite=True)
    with pytest.raises(ConfigError, match="max_length is 500 but .* takes 128 tokens"):
        finetune(tiny_bert, tmp_path / "new", _told(dataclasses.replace(QUICK, max_length=500), tiny.data(16)))
    assert contents(tmp_path) == before


def test_an_output_that_cannot_be_written_is_refused(tiny_bert: Path, unwritable: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        finetune(tiny_bert, unwritable, _told(QUICK, tiny.data(16)))


def test_a_model_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no config.json"):
        finetune(tmp_path, tmp_path / "out", _told(QUICK, tiny.data(16)))


# Other problems ------------------------------------------------------------------------------------------------------


def _several(count: int, seed: int = 0) -> DataSpec:
    """Sentences with two labels, any number of which hold."""
    texts = [text for text, _ in tiny.sentences(count, seed)]
    flags = {"praise": tiny.POSITIVE, "film": ("film", "plot", "actor")}
    columns = {name: [int(any(word in text.split() for word in words)) for text in texts] for name, words in flags.items()}
    return DataSpec({"sentence": texts, **columns}, label_columns=tuple(columns))


def _graded(count: int, seed: int = 0) -> DataSpec:
    """Sentences and how much praise is in them, from -1.5 to 1.5."""
    texts = [text for text, _ in tiny.sentences(count, seed)]
    grades = [sum((word in tiny.POSITIVE) - (word in tiny.NEGATIVE) for word in text.split()) / 2 for text in texts]
    return DataSpec({"sentence": texts, "grade": grades}, label_columns=("grade",))


def _base(bert: Path, room: Path) -> Path:
    """A checkpoint whose config names no head, so that one starts with the data."""
    shutil.copytree(bert, room / "base")
    config = json.loads((bert / "config.json").read_text())
    plain = {name: value for name, value in config.items() if name not in ("architectures", "id2label", "label2id")}
    (room / "base" / "config.json").write_text(json.dumps(plain))
    return room / "base"


LEARNING = dataclasses.replace(QUICK, epochs=4)


@pytest.fixture(scope="module")
def labelled(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[FinetuneResult, Path]:
    room = tmp_path_factory.mktemp("several")
    return finetune(_base(tiny_bert, room), room / "out", _told(LEARNING, _several(320))), room / "out"


def test_columns_of_labels_are_learned_each_for_itself(labelled: tuple[FinetuneResult, Path]) -> None:
    result, out = labelled
    assert [score.metric for score in result.scores] == ["micro F1", "macro F1"]
    assert result.metric.value > 0.75
    assert result.labels == ("praise", "film")
    assert Checkpoint.read(out).settings["problem"] == MULTI
    assert json.loads((out / "config.json").read_text())["problem_type"] == MULTI


def test_a_head_of_several_labels_is_not_thrown_away(labelled: tuple[FinetuneResult, Path], tmp_path: Path) -> None:
    _, out = labelled
    one = dataclasses.replace(_several(64), label_columns=("praise",))
    with pytest.raises(ConfigError, match=f"those of a single_.* head is trained for {MULTI} .*a column for each label.*--problem"):
        finetune(out, tmp_path / "out", _told(QUICK, one))
    again = finetune(out, tmp_path / "again", _told(QUICK, _several(64)))
    assert again.labels == ("praise", "film")
    anew = dataclasses.replace(_told(QUICK, one), problem="single_label_classification", epochs=1)
    assert finetune(out, tmp_path / "anew", anew).metric.metric == "accuracy"


def test_lists_of_names_are_several_labels(tiny_bert: Path, tmp_path: Path) -> None:
    flags = _several(48)
    columns = {name: flags.source[name] for name in flags.label_columns}
    names = [[name for name, column in columns.items() if column[row]] for row in range(48)]
    listed = DataSpec({"sentence": flags.source["sentence"], "labels": names})
    with pytest.raises(ConfigError, match=f"those of a {MULTI}, but the model's head is trained for single_label_classification"):
        finetune(tiny_bert, tmp_path / "out", _told(QUICK, listed))
    result = finetune(_base(tiny_bert, tmp_path), tmp_path / "out", _told(dataclasses.replace(QUICK, epochs=1), listed))
    assert result.labels == ("film", "praise")


def test_fractions_are_a_regression_named_after_their_column(tiny_bert: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"those of a {REGRESSION}, but .* single_label_classification \\(negative, positive"):
        finetune(tiny_bert, tmp_path / "out", _told(QUICK, _graded(32)))
    config = dataclasses.replace(QUICK, epochs=6, learning_rate=1e-3)
    result = finetune(_base(tiny_bert, tmp_path), tmp_path / "out", _told(config, _graded(400)))
    assert [score.metric for score in result.scores] == ["Pearson", "Spearman", "mean absolute error"]
    assert result.metric.value > 0.7
    assert result.labels == ("grade",)
    settings = Checkpoint.read(tmp_path / "out").settings
    assert (settings["problem"], settings["activation"]) == (REGRESSION, "none")


@pytest.mark.parametrize(
    ("task", "metric"),
    [
        ("token-classification", "entity F1"),
        ("question-answering", "F1"),
        ("fill-mask", "accuracy"),
        ("multiple-choice", "accuracy"),
    ],
)
def test_tasks_of_tokens_are_learned_and_taught(tiny_bert: Path, tmp_path: Path, task: str, metric: str) -> None:
    words = [text.split() for text, _ in tiny.sentences(320)]
    tags = [["B-POS" if word in tiny.POSITIVE else "B-NEG" if word in tiny.NEGATIVE else "O" for word in row] for row in words]
    second = [{"text": [row[1]], "answer_start": [len(row[0]) + 1]} for row in words]
    columns = {
        "token-classification": {"tokens": words, "ner_tags": tags},
        "multiple-choice": {
            "premise": ["which is it"] * 320,
            "choice1": ["good" if place % 2 else row[0] for place, row in enumerate(words)],
            "choice2": [row[0] if place % 2 else "good" for place, row in enumerate(words)],
            "label": [0 if place % 2 else 1 for place in range(320)],
        },
        # The last word says what the first was.
        "fill-mask": {"text": [f"[MASK] {row[0]}" for row in words], "masked": [row[0] for row in words]},
        "question-answering": {"question": ["was it good"] * 320, "context": list(map(" ".join, words)), "answers": second},
    }
    data = DataSpec(columns[task])
    learning = dataclasses.replace(QUICK, epochs=6, learning_rate=1e-3, task=task)
    result = finetune(_base(tiny_bert, tmp_path), tmp_path / "out", _told(learning, data))
    assert (result.task, result.metric.metric, result.metric.total) == (task, metric, 32)
    assert result.metric.value > 0.7
    assert result.loss < 0.5 * result.epochs[0].train_loss
    lesson = DistillConfig(
        teacher=str(tmp_path / "out"), data=data, epochs=1, batch_size=8, learning_rate=1e-9, alpha=1.0, max_length=32, threads=1
    )
    taught = distill(tmp_path / "out", tmp_path / "taught", lesson)
    assert taught.distillation is not None
    assert taught.distillation.scores[0] == taught.scores[0]
    assert taught.curve[0][1] < 1e-6, "the student says what its teacher says"


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
