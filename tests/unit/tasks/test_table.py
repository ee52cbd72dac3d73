"""Every task with a tiny checkpoint of its own: one row of `CASES` each."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.data.encode import Encoding
from edgekit.data.samples import Array, Samples
from edgekit.data.sources import read
from edgekit.measure.measurement import Measurement, refusal
from edgekit.models.checkpoint import Checkpoint
from edgekit.models.weights import load_model
from edgekit.spec import DataSpec, TensorSpec
from edgekit.system.worker import Worker
from edgekit.tasks.base import Outputs, Prediction
from edgekit.tasks.judgement import judge
from edgekit.tasks.table import TASKS
from tests import tiny


@dataclass(frozen=True)
class Case:
    """`columns` are a row's texts, with `mask` in place of the first word of each; what the model itself says, `field` of a
    prediction, is the truth, in the column `label`."""

    task: str
    labels: tuple[str, ...]
    columns: tuple[str, ...]
    label: str
    field: str
    mask: str = ""


CASES = (
    Case("text-classification", ("negative", "positive"), ("text",), "label", "label"),
    Case("token-classification", ("O", "B-A", "I-A", "B-B", "I-B"), ("text",), "spans", "entities"),
    Case("question-answering", ("LABEL_0", "LABEL_1"), ("question", "context"), "answer", "answer"),
    Case("multiple-choice", ("LABEL_0", "LABEL_1"), ("context", "choices"), "label", "index"),
    Case("fill-mask", ("LABEL_0", "LABEL_1"), ("text",), "masked", "token", mask="[MASK]"),
)
LENGTH = 24


@dataclass(frozen=True)
class Run:
    """What a checkpoint gives for its rows, what it gives with one layer's weights shuffled, and its losses on the rows' labels
    and on those of other rows.
    """

    checkpoint: Checkpoint
    samples: Samples
    outputs: Outputs
    ruined: Outputs
    losses: tuple[float, float]


def encode(case: Case, checkpoint: Checkpoint, rows: list[dict[str, Any]]) -> Samples:
    names = ("input_ids", "attention_mask", "token_type_ids")[: 3 if len(case.columns) > 1 else 2]
    inputs = tuple(TensorSpec(name, (1, LENGTH), "int32") for name in names)
    task = checkpoint.task
    return task.encode(
        read(DataSpec(rows), task.columns), inputs, Encoding(checkpoint.tokenizer), checkpoint.settings, checkpoint.path
    )


def predictions(checkpoint: Checkpoint, samples: Samples, outputs: Outputs) -> list[Prediction]:
    numbers = np.arange(len(samples)) if samples.row is None else samples.row
    return [
        checkpoint.task.predict({name: array[numbers == row] for name, array in outputs.items()}, samples.take_rows([row]))
        for row in np.unique(numbers)
    ]


def run(case: Case, folder: Path) -> tuple[list[Any], dict[str, Array], dict[str, Array], tuple[float, float]]:
    """In a worker: the rows with the model's own answers as labels, the outputs of the model and of a ruined one, `Run.losses`."""
    import torch

    tiny.model(folder, case.task, case.labels)
    checkpoint = Checkpoint.read(folder)
    model, texts = load_model(checkpoint), [text for text, _ in tiny.sentences(60)]
    texts = [" ".join([case.mask, *text.split()[1:]]) for text in texts] if case.mask else texts
    rows: list[dict[str, Any]] = [
        dict(zip(reversed(case.columns), (text, texts[-1 - place]), strict=False)) for place, text in enumerate(texts)
    ]
    if case.columns[-1] == "choices":
        rows = [{**row, "choices": [texts[place - back] for back in range(3)]} for place, row in enumerate(rows)]
    samples = encode(case, checkpoint, rows)

    def forward(labels: Array | None) -> tuple[dict[str, Array], float]:
        with torch.no_grad():
            outputs = model(**{name: torch.tensor(array, dtype=torch.long) for name, array in samples.inputs.items()})
        targets = checkpoint.task.soft_targets(outputs, checkpoint.settings)
        assert all(how in ("softmax", "sigmoid", "values") and logits.ndim >= 2 for logits, how in targets)
        loss = 0.0 if labels is None else float(checkpoint.task.loss(outputs, torch.tensor(labels), checkpoint.settings))
        return {name: getattr(outputs, name).numpy() for name in checkpoint.task.outputs}, loss

    outputs, _ = forward(None)
    told = predictions(checkpoint, samples, outputs)
    rows = [{**row, case.label: answer.fields[case.field]} for row, answer in zip(rows, told, strict=True)]
    labels = encode(case, checkpoint, rows).labels
    assert labels is not None
    losses = (forward(labels)[1], forward(labels[::-1].copy())[1])
    with torch.no_grad():
        for part in (model.base_model.encoder.layer[1].output.dense, model.base_model.encoder.layer[1].attention.output.dense):
            part.weight.copy_(part.weight[torch.randperm(64, generator=torch.Generator().manual_seed(0))])
    return rows, outputs, forward(None)[0], losses


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.task)
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    case, folder = request.param, tmp_path_factory.mktemp("task") / request.param.task
    rows, outputs, ruined, losses = Worker(timeout_s=300).run(run, case, folder).value
    checkpoint = Checkpoint.read(folder)
    return Run(checkpoint, encode(case, checkpoint, rows), outputs, ruined, losses)


def refused(ran: Run, outputs: Outputs, samples: Samples) -> str:
    judgement = judge(outputs, samples, ran.outputs)
    found = Measurement("file.tflite", 1, None).judged(judgement, samples.task)
    return refusal(found, 0.01, 20, "try another scheme") or ""


def test_the_head_says_the_task(ran: Run) -> None:
    assert ran.samples.task == ran.checkpoint.task.name
    assert TASKS[ran.samples.task] is ran.checkpoint.task
    assert json.loads(json.dumps(ran.samples.settings)) == ran.checkpoint.settings


def test_what_is_good_is_published_and_what_is_ruined_refused(ran: Run) -> None:
    metric = ran.checkpoint.task.metrics(ran.checkpoint.settings)[0].name
    assert refused(ran, ran.outputs, ran.samples) == ""
    assert f"of {metric} against float32" in refused(ran, ran.ruined, ran.samples)
    unlabelled = ran.samples.labelled(None, ran.samples.task, ran.samples.settings)
    assert refused(ran, ran.outputs, unlabelled) == ""
    assert refused(ran, ran.ruined, unlabelled).startswith("decides otherwise than float32 on")


def test_the_models_own_answers_are_right_by_every_metric(ran: Run) -> None:
    judgement = judge(ran.outputs, ran.samples, ran.outputs)
    metrics = ran.checkpoint.task.metrics(ran.checkpoint.settings)
    assert {score.metric for score in judgement.scores} <= {metric.name for metric in metrics}
    assert judgement.scores[0].metric == metrics[0].name
    assert judgement.scores[0].value > 0.8
    assert judgement.agreement is not None
    assert judgement.agreement.value == 1
    assert {output.name for output in judgement.outputs} == set(ran.checkpoint.task.outputs)


def test_the_loss_is_less_where_more_is_right(ran: Run) -> None:
    own, others = ran.losses
    assert 0 < own < others


def test_what_a_person_sees_is_json(ran: Run) -> None:
    for told in predictions(ran.checkpoint, ran.samples, ran.outputs):
        assert told.answer
        assert 0 <= told.score <= 1
        assert json.loads(json.dumps(dict(told.fields))) == told.fields
    assert ran.checkpoint.task.describe(ran.checkpoint.settings).what


def test_saved_samples_are_read_alike(ran: Run, tmp_path: Path) -> None:
    ran.samples.save(tmp_path)
    assert judge(ran.ruined, Samples.load(tmp_path), ran.outputs) == judge(ran.ruined, ran.samples, ran.outputs)


def test_a_new_head_for_the_rows_has_the_checkpoints_labels(ran: Run) -> None:
    head = ran.checkpoint.task.head(ran.checkpoint.settings)
    assert list(head.get("id2label", dict(enumerate(ran.checkpoint.labels))).values()) == list(ran.checkpoint.labels)
