"""What padding changes of a model's answers: nothing where convolutions can be kept from it, else it is told."""

import json
from pathlib import Path
from typing import Any

import pytest

from edgekit.data.text import random_texts
from edgekit.errors import RefusedError
from edgekit.models.checkpoint import Checkpoint
from edgekit.stages.export import module as exported
from edgekit.system.worker import Worker
from edgekit.tasks.parity import compare_all
from tests import tiny

LENGTH = 16


def _saved(folder: Path, architecture: str, task: str, side: str, config: dict[str, Any]) -> Path:
    tiny.encoder(folder, architecture, task, max_position_embeddings=64, **config)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "padding_side": side}))
    return folder


def _differences(folder: Path, architecture: str, task: str, config: dict[str, Any]) -> tuple[float, float]:
    """Of padded texts from texts alone, as transformers has the model and as edgekit has it."""
    checkpoint = Checkpoint.read(_saved(folder, architecture, task, "right", config))
    samples = random_texts(folder, checkpoint.inputs(LENGTH, pairs=False), 16)
    ours = exported.load(checkpoint, tuple(samples.inputs))
    alone = exported.reference(ours, samples, checkpoint)
    theirs = exported.load(checkpoint, tuple(samples.inputs))
    del theirs.model.base_model.forward

    def difference(module: Any) -> float:
        outputs = exported.run(module, samples, checkpoint.task.outputs)
        return compare_all(checkpoint.task.without_padding(outputs, samples), alone).max_rel

    return difference(theirs), difference(ours)


@pytest.mark.parametrize("task", ["text-classification", "feature-extraction"])
@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("convbert", {"embedding_size": 64}),
        ("nystromformer", {"num_landmarks": LENGTH, "segment_means_seq_len": LENGTH}),
    ],
    ids=["convbert", "nystromformer"],
)
def test_convolutions_read_no_padding(tmp_path: Path, architecture: str, config: dict[str, Any], task: str) -> None:
    theirs, ours = Worker(timeout_s=300).run(_differences, tmp_path / architecture, architecture, task, config).value
    assert theirs > 0.01
    assert ours < 1e-5


def _refusal(folder: Path, architecture: str, side: str) -> str:
    checkpoint = Checkpoint.read(_saved(folder, architecture, "text-classification", side, {}))
    samples = random_texts(folder, checkpoint.inputs(LENGTH, pairs=False), 16)
    try:
        exported.reference(exported.load(checkpoint, tuple(samples.inputs)), samples, checkpoint)
    except RefusedError as error:
        return error.message
    return ""


@pytest.mark.parametrize(
    ("architecture", "side", "advice"),
    [("fnet", "right", "give an encoder that masks padding"), ("bert", "left", "padding_side right"), ("bert", "right", "")],
)
def test_a_model_whose_answer_padding_changes_is_refused(tmp_path: Path, architecture: str, side: str, advice: str) -> None:
    refusal = Worker(timeout_s=300).run(_refusal, tmp_path / architecture, architecture, side).value
    assert advice in refusal
    assert ("changes with the padding" in refusal) is bool(advice)
