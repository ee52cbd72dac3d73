"""Distillation: what the losses are, which parts of two models are compared, and what a student makes of it."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit.data.samples import Samples
from edgekit.data.sources import TextRows
from edgekit.errors import CheckpointError, ConfigError, DatasetError, OutputError
from edgekit.models import architectures
from edgekit.models.batches import Batches
from edgekit.models.checkpoint import Checkpoint, load_tokenizer
from edgekit.models.weights import load_model
from edgekit.spec import DataSpec
from edgekit.stages.train import losses
from edgekit.stages.train.config import ATTENTION, HIDDEN, LABELS, SOFT_TARGETS, DistillConfig, FinetuneResult
from edgekit.stages.train.teacher import Shapes, Teacher, correspondence
from edgekit.system import artifacts
from edgekit.system.worker import Worker
from edgekit.workflows.distill import distill
from edgekit.workflows.finetune import encode
from tests import tiny
from tests.commands import edgekit
from tests.killing import kill_training

QUICK = DistillConfig(epochs=1, batch_size=8, learning_rate=2e-3, max_length=32, threads=1)
# Long enough to be killed in the middle; with dropout, so that the state of the random numbers counts.
LONG = dataclasses.replace(QUICK, epochs=5, batch_size=4, checkpoint_every=7, dropout=0.1)


def _told(config: DistillConfig, teacher: Path, data: DataSpec, evaluation: DataSpec | None = None) -> DistillConfig:
    return dataclasses.replace(config, teacher=str(teacher), data=data, evaluation_data=evaluation)


# Losses --------------------------------------------------------------------------------------------------------------


def _losses() -> dict[str, float]:
    import torch

    tensor = torch.tensor
    maps = tensor([[[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]]])
    others = tensor([[[[0.5, 0.5], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]]])
    states, zeros = tensor([[[1.0, 2.0], [9.0, 9.0]]]), torch.zeros(1, 2, 2)
    mask = tensor([[1, 0]])
    found = {
        "soft": losses.soft_targets(tensor([[0.0, 0.0]]), tensor([[2 * math.log(3), 0.0]]), 2.0),
        "two rows": losses.soft_targets(tensor([[0.0, 0.0], [5.0, 1.0]]), tensor([[2 * math.log(3), 0.0], [5.0, 1.0]]), 2.0),
        "sigmoid": losses.soft_targets(tensor([[0.0, 0.0]]), tensor([[2 * math.log(3), 0.0]]), 2.0, "sigmoid"),
        "values": losses.soft_targets(tensor([[1.0], [3.0]]), tensor([[1.0], [1.0]]), 2.0, "values"),
        "tokens": losses.soft_targets(
            *losses.without_padding(
                tensor([[[0.0, 0.0], [0.0, 9.0]]]), tensor([[[2 * math.log(3), 0.0], [9.0, 0.0]]]), tensor([[1, -100]]), mask
            ),
            2.0,
        ),
        "places": losses.soft_targets(
            *losses.without_padding(
                tensor([[0.0, 0.0, 7.0]]), tensor([[2 * math.log(3), 0.0, 0.0]]), tensor([[0, 1]]), tensor([[1, 1, 0]])
            ),
            2.0,
        ),
        "hidden": losses.hidden_states([states], [zeros], mask),
        "two layers": losses.hidden_states([states, states], [zeros, states], mask),
        "attention": losses.attention_maps([maps], [others], mask),
        "unmasked": losses.attention_maps([maps], [others], tensor([[1, 1]])),
    }
    return {name: float(value) for name, value in found.items()}


def test_losses_are_what_a_hand_computes() -> None:
    found = Worker(timeout_s=100).run(_losses).value
    soft = 4 * (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5))
    assert found["soft"] == pytest.approx(soft, rel=1e-5)
    assert found["tokens"] == found["places"] == pytest.approx(found["soft"]), "what is said of padding counts as nothing"
    # Of the two labels only the first is said otherwise, three to one, as the one of two classes is.
    assert found["sigmoid"] == pytest.approx(soft / 2, rel=1e-5)
    assert found["values"] == pytest.approx((0 + 4) / 2)
    assert found["two rows"] == pytest.approx(soft / 2, rel=1e-5)
    assert found["hidden"] == pytest.approx((1 + 4) / 2)
    assert found["two layers"] == pytest.approx((1 + 4) / 2 / 2)
    # The first head's real query differs by 0.5 in both keys, the second head's by nothing.
    assert found["attention"] == pytest.approx((0.25 + 0.25) / 2)
    assert found["unmasked"] == pytest.approx((4 * 0.25 + 2 * 0.25) / 2 / 2)


# What is compared ----------------------------------------------------------------------------------------------------

_PLAIN = Shapes((64,) * 4, (4,) * 4, None)
_PRUNED = Shapes((64,) * 3, (2, 1, 4), {"layers": [0, 1, 3], "heads": [[0, 2], [3], [0, 1, 2, 3]]})


def test_a_pruned_student_is_matched_by_numbers() -> None:
    found = correspondence(_PRUNED, _PLAIN, hidden=True, attention=True)
    assert found.layers == ((0, 0), (1, 1), (2, 3))
    assert found.heads == {(0, 0): ((0, 1), (0, 2)), (1, 1): ((0,), (3,)), (2, 3): ((0, 1, 2, 3), (0, 1, 2, 3))}
    assert not found.left_out


def test_a_pruned_teacher_shares_what_both_still_have() -> None:
    teacher = Shapes((64,) * 2, (2, 3), {"layers": [1, 3], "heads": [[0, 1], [1, 2, 3]]})
    found = correspondence(_PRUNED, teacher, hidden=True, attention=True)
    assert found.layers == ((1, 0), (2, 1))
    assert found.heads == {(2, 1): ((1, 2, 3), (0, 1, 2))}
    assert list(found.left_out) == ["attention maps of 1 of 2 layers"]
    apart = Shapes((64,), (4,), {"layers": [2], "heads": [[0, 1, 2, 3]]})
    assert correspondence(_PRUNED, apart, hidden=True, attention=False).left_out == {
        HIDDEN: "no layer of the student is left in the teacher"
    }


@pytest.mark.parametrize(
    ("ours", "theirs", "pairs"),
    [(2, 4, ((0, 1), (1, 3))), (6, 12, tuple((n, 2 * n + 1) for n in range(6))), (3, 2, ((0, 0), (1, 1), (2, 1)))],
)
def test_other_students_have_the_teachers_layers_spread_over_theirs(
    ours: int, theirs: int, pairs: tuple[tuple[int, int], ...]
) -> None:
    student, teacher = (Shapes((64,) * count, (4,) * count, None) for count in (ours, theirs))
    assert correspondence(student, teacher, hidden=True, attention=True).layers == pairs


def test_what_shapes_do_not_allow_is_left_out_with_its_reason() -> None:
    found = correspondence(Shapes((32,) * 4, (2,) * 4, None), _PLAIN, hidden=True, attention=True)
    assert found.layers == () and found.heads == {}
    assert found.left_out[HIDDEN] == "the student's are 32 wide, the teacher's 64"
    assert found.left_out[ATTENTION] == "the student has 2 heads, the teacher 4, none known to correspond"


# Students made from the tiny teacher -----------------------------------------------------------------------------------


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _make_students(bert: Path, room: Path) -> None:
    """In a worker: students that differ from the teacher `bert` in one respect each."""
    import torch

    # Heads cut, and the second of its two layers.
    pruned = load_model(Checkpoint.read(bert))
    architectures.keep(pruned, [architectures.Kept(0, (1, 3), (tuple(range(128)),))])
    _save(pruned, load_tokenizer(bert), room / "pruned")
    (room / "pruned" / "pruning_plan.json").write_text('{"kept": "here"}')

    # The same pieces under other ids: two models that say the same of every text.
    renumbered, tokenizer = load_model(Checkpoint.read(bert)), load_tokenizer(bert)
    _save(renumbered, tokenizer, room / "renumbered")
    file = room / "renumbered" / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    ordinary = [piece for piece in vocabulary if not piece.startswith("[")]
    moved = dict(zip(ordinary, [vocabulary[piece] for piece in ordinary[1:] + ordinary[:1]], strict=True))
    table = renumbered.get_input_embeddings().weight
    with torch.no_grad():
        source = table.clone()
        for piece, number in moved.items():
            table[number] = source[vocabulary[piece]]
    content["model"]["vocab"] = vocabulary | moved
    file.write_text(json.dumps(content))
    renumbered.save_pretrained(room / "renumbered")

    # No words of praise in its vocabulary: they come apart into letters.
    shutil.copytree(bert, room / "letters")
    content["model"]["vocab"] = {f"unused{n}" if piece in tiny.POSITIVE else piece: n for piece, n in vocabulary.items()}
    (room / "letters" / "tokenizer.json").write_text(json.dumps(content))

    # The same classes the other way round.
    swapped = load_model(Checkpoint.read(bert))
    with torch.no_grad():
        swapped.classifier.weight.copy_(swapped.classifier.weight.flip(0))
        swapped.classifier.bias.copy_(swapped.classifier.bias.flip(0))
    swapped.config.id2label, swapped.config.label2id = {0: "Positive", 1: "Negative"}, {"Positive": 0, "Negative": 1}
    _save(swapped, load_tokenizer(bert), room / "swapped")


@pytest.fixture(scope="module")
def students(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    room = tmp_path_factory.mktemp("students")
    Worker(timeout_s=100).run(_make_students, tiny_bert, room)
    return room


def _attention_losses(teacher: Path, *students: Path) -> list[float]:
    """Of students before any training, on one batch."""
    return [_attention_loss(teacher, student) for student in students]


def _attention_loss(teacher: Path, student: Path) -> float:
    import numpy as np

    pairs = tiny.sentences(8)
    rows = TextRows(tuple(text for text, _ in pairs), None, tuple(label for _, label in pairs), "sentences")
    checkpoint, source = Checkpoint.read(student), Checkpoint.read(teacher)
    model, config = load_model(checkpoint), dataclasses.replace(QUICK, alpha=0.0, hidden=0.0, attention=1.0)
    samples: Samples = encode(rows, checkpoint, checkpoint.settings, 32)
    batches = Batches.of(samples, model, student)
    guide = Teacher(source, None, model, batches, samples, config)
    batch = batches.batch(np.arange(8))
    return float(guide.loss(0.0, model(**batch.inputs, **guide.extra_outputs), guide.outputs(np.arange(8)), batch))


def test_heads_of_a_pruned_student_attend_as_their_originals(tiny_bert: Path, students: Path, tmp_path: Path) -> None:
    mistaken = tmp_path / "mistaken"
    shutil.copytree(students / "pruned", mistaken)
    config = json.loads((mistaken / "config.json").read_text())
    config[architectures.KEY]["heads"] = [[0, 2]]
    (mistaken / "config.json").write_text(json.dumps(config))
    right, wrong = Worker(timeout_s=100).run(_attention_losses, tiny_bert, students / "pruned", mistaken).value
    assert right < 1e-6
    assert wrong > 1e-2


def test_a_pruned_student_learns_and_says_what_from(tiny_bert: Path, students: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(QUICK, epochs=4, attention=1.0)
    result = distill(students / "pruned", tmp_path / "out", _told(config, tiny_bert, tiny.data(128), tiny.data(32, 1)))
    told = result.distillation
    assert told is not None
    assert told.losses == (SOFT_TARGETS, LABELS, HIDDEN, ATTENTION)
    assert (told.teacher, told.layers, dict(told.left_out), told.metric.total) == ("bert", ((0, 0),), {}, 32)
    assert result.epochs[-1].train_loss < result.epochs[0].train_loss
    assert (tmp_path / "out" / "pruning_plan.json").read_text() == '{"kept": "here"}'
    manifest = json.loads((tmp_path / "out" / "edgekit.json").read_text())
    assert manifest["parents"]["bert"] == artifacts.sha256(tiny_bert)
    assert manifest["parents"]["pruned"] == artifacts.sha256(students / "pruned")
    assert manifest["measured"]["distillation"]["scores"][0]["count"] == told.metric.count
    assert manifest["config"]["temperature"] == 2.0


def test_a_teacher_with_other_ids_and_another_class_order_is_understood(tiny_bert: Path, students: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(QUICK, alpha=1.0, learning_rate=1e-9)
    for name in ("renumbered", "swapped"):
        result = distill(tiny_bert, tmp_path / name, _told(config, students / name, tiny.data(64), tiny.data(32, 1)))
        told = result.distillation
        assert told is not None
        # Both say the same of every row, so that there is nothing to learn at the first step.
        assert result.curve[0][1] < 1e-6
        assert told.losses == (SOFT_TARGETS, HIDDEN)
        assert list(result.labels) == ["negative", "positive"]
        assert told.metric == result.metric


def test_tokens_that_do_not_correspond_leave_the_soft_targets(tiny_bert: Path, students: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(QUICK, attention=1.0)
    result = distill(students / "letters", tmp_path / "out", _told(config, tiny_bert, tiny.data(64), tiny.data(32, 1)))
    told = result.distillation
    assert told is not None
    assert told.losses == (SOFT_TARGETS, LABELS)
    assert set(told.left_out) == {HIDDEN, ATTENTION}
    assert "split 32 of 64 rows into other numbers of tokens" in told.left_out[HIDDEN]
    with pytest.raises(ConfigError, match="nothing can be learned from this teacher .*set --alpha above 0"):
        config = _told(dataclasses.replace(QUICK, alpha=0.0), tiny_bert, tiny.data(64), tiny.data(32, 1))
        distill(students / "letters", tmp_path / "none", config)


# The same again ------------------------------------------------------------------------------------------------------


def test_a_killed_run_ends_as_if_it_had_not_been(tiny_bert: Path, students: Path, tmp_path: Path) -> None:
    def run(out: Path) -> FinetuneResult:
        return distill(students / "pruned", out, config)

    config = _told(LONG, tiny_bert, tiny.data(64), tiny.data(16, 1))
    whole = run(tmp_path / "whole")
    out = tmp_path / "killed"
    kill_training(distill, (students / "pruned", out, config), out)
    resumed = run(out)
    assert 0 < resumed.resumed_at < whole.steps
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert (resumed.epochs, resumed.curve, resumed.distillation) == (whole.epochs, whole.curve, whole.distillation)


# Refused -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting",
    [
        {"temperature": 0.0},
        {"temperature": math.nan},
        {"alpha": 1.1},
        {"hidden": -1.0},
        {"attention": math.inf},
        {"labels": ("a", "b")},
        {"alpha": 0.0, "hidden": 0.0},
        {"epochs": 0},
    ],
)
def test_a_setting_out_of_range_is_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        DistillConfig(**setting)


@pytest.mark.parametrize("names", [["bad", "good"], ["negative", "neutral", "positive"]])
def test_heads_of_other_classes_are_refused_by_name(tiny_bert: Path, tmp_path: Path, names: list[str]) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_bert, other)
    config = json.loads((other / "config.json").read_text())
    config |= {"id2label": {str(n): name for n, name in enumerate(names)}, "label2id": {name: n for n, name in enumerate(names)}}
    (other / "config.json").write_text(json.dumps(config))
    for teacher, student in ((tiny_bert, other), (other, tiny_bert)):
        with pytest.raises(CheckpointError, match=f"^{student}: its classes are .* but those of the teacher {teacher} are "):
            distill(student, tmp_path / "out", _told(QUICK, teacher, tiny.data(16)))


def test_what_is_refused_leaves_everything_as_it_was(
    tiny_bert: Path, tmp_path: Path, contents: Callable[[Path], dict[str, bytes]]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(OutputError, match="--overwrite"):
        distill(tiny_bert, out, _told(QUICK, tiny_bert, tiny.data(16)))
    strange = DataSpec({"sentence": ["a film", "a plot"], "label": ["good", "bad"]})
    with pytest.raises(DatasetError, match="^rows in memory: labels outside the head"):
        distill(tiny_bert, tmp_path / "new", _told(QUICK, tiny_bert, strange))
    with pytest.raises(CheckpointError, match="holds no config.json"):
        distill(tiny_bert, tmp_path / "new", _told(QUICK, tmp_path, tiny.data(16)))
    assert contents(tmp_path) == before


# The command ---------------------------------------------------------------------------------------------------------


def test_the_command_tells_accuracy_and_the_difference(tiny_bert: Path, students: Path, tiny_tsv: Path, tmp_path: Path) -> None:
    said = edgekit(
        *("distill", "--teacher", tiny_bert, "--student", students / "pruned", "--dataset", tiny_tsv, "--out", "out"),
        *("--evaluation-data", tiny_tsv, "--epochs", "1", "--max-length", "32", "--bfloat16", "--freeze-embeddings"),
        folder=tmp_path,
    )
    assert said.code == 0, said.err
    assert said.err == ["distill"]
    lines = said.out.splitlines()
    assert lines[0].startswith("out: accuracy 0.")
    assert lines[1].startswith("teacher bert: accuracy 0.")
    assert lines[2].startswith("student against teacher: ") and lines[2].endswith(" points")
    assert lines[3] == "learned from soft targets, labels, hidden states"
    config = json.loads((tmp_path / "out" / "edgekit.json").read_text())["config"]
    assert (config["bfloat16"], config["freeze_embeddings"], config["max_length"]) == (True, True, 32)
    refused = edgekit("distill", "--teacher", "a", "--student", "b", "--dataset", "c", "--out", "d", "--alpha", "2")
    assert (refused.code, refused.err) == (2, ["edgekit: error: alpha is 2; give a proportion between 0 and 1, such as 0.9"])
