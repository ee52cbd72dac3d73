"""Quantization-aware training: what is rounded, what is kept, and what is resumed."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from edgekit.errors import ConfigError
from edgekit.models import ranges
from edgekit.stages.train.config import DistillConfig, FinetuneConfig
from edgekit.system.worker import Worker
from edgekit.workflows.finetune import finetune
from tests import tiny
from tests.commands import edgekit
from tests.killing import kill_training
from tests.unit.stages.train.test_finetune import ARCHITECTURES, _told

QUICK = FinetuneConfig(epochs=1, batch_size=8, learning_rate=1e-3, max_length=32, threads=1, quantization_aware=True)
LONG = dataclasses.replace(QUICK, epochs=8, batch_size=4, checkpoint_every=9)
GPT2 = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64}


def _names(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", framework="np") as weights:
        return set(weights.keys())


# Killed and resumed --------------------------------------------------------------------------------------------------


def test_a_killed_run_ends_with_the_same_ranges_beside_an_ordinary_checkpoint(tiny_bert: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed" / "model"
    out.parent.mkdir()
    config = _told(LONG, tiny.data(48), tiny.data(16, 1))
    kill_training(finetune, (tiny_bert, out, config), out)
    resumed = finetune(tiny_bert, out, config)
    whole = finetune(tiny_bert, tmp_path / "whole", config)
    assert 0 < resumed.resumed_at < whole.steps
    assert (out / ranges.RANGES).read_bytes() == (tmp_path / "whole" / ranges.RANGES).read_bytes()
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert resumed.quantization == whole.quantization
    trained, note = ranges.read(out)
    assert trained is not None
    assert note == ""
    attention = "bert.encoder.layer.0.attention"
    query, key, value = (trained.layers[f"{attention}.self.{name}"] for name in ("query", "key", "value"))
    assert query.input == key.input == value.input, "one tensor, one range"
    assert len({query.output, key.output, value.output}) == 3
    assert trained.layers[f"{attention}.output.dense"].input != query.input
    assert _names(out) == _names(tiny_bert)
    assert json.loads((out / "edgekit.json").read_text())["measured"]["quantization"]["layers"] == 14


# The rounding itself -------------------------------------------------------------------------------------------------


def _rounding() -> dict[str, Any]:
    """In a worker: a Linear and a Conv1D of the same weights, gradients, and what of each architecture is rounded and learned."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification
    from transformers.pytorch_utils import Conv1D

    from edgekit.models.architectures import linear_layers
    from edgekit.stages.train.quantization import FakeQuantization, Range, _rounded_weight

    every = {}
    for name, settings in {**ARCHITECTURES, "gpt2": GPT2}.items():
        config = AutoConfig.for_model(name, vocab_size=60, pad_token_id=0, **settings)
        model = AutoModelForSequenceClassification.from_config(config).train()
        batch = {"input_ids": torch.randint(1, 60, (3, 10)), "attention_mask": torch.ones(3, 10, dtype=torch.long)}
        rounding = FakeQuantization(model, batch, 10)
        for step in range(2):
            rounding.at(step)
            model(**batch).logits.sum().backward()
        every[name] = (
            len(linear_layers(model)),
            len(rounding.trained().layers),
            all(held.grad is not None for held in rounding.learned),
        )

    torch.manual_seed(0)
    linear, turned = torch.nn.Linear(6, 4), Conv1D(4, 6)
    turned.weight.data.copy_(linear.weight.data.T)
    rounded = _rounded_weight(linear)
    rounded.sum().backward()
    steps = rounded.detach() / (linear.weight.detach().abs().amax(1, keepdim=True) / 127)
    held = Range()
    held.observe(torch.tensor([-1.0, 3.0]))
    held.observe(torch.tensor([-2.0, 3.0]))
    values = torch.tensor([-9.0, 0.0, 0.5, 9.0], requires_grad=True)
    result = held.rounded(values)
    result.sum().backward()
    assert held.factors.grad is not None
    return {
        "every": every,
        "turned": bool((rounded == _rounded_weight(turned).T).all()),
        "steps": steps.tolist(),
        "weight gradient": linear.weight.grad.tolist(),
        "ends": held.ends,
        "result": result.tolist(),
        "gradient": values.grad.tolist() if values.grad is not None else None,
        "range gradient": held.factors.grad.tolist(),
    }


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return Worker(timeout_s=100).run(_rounding).value


@pytest.mark.parametrize("name", [*ARCHITECTURES, "gpt2"])
def test_every_linear_layer_of_each_architecture_is_rounded_and_its_ranges_are_learned(found: dict[str, Any], name: str) -> None:
    layers, trained, learned = found["every"][name]
    assert trained == layers > 0
    assert learned


def test_the_rounding_is_int8s_and_gradients_pass_it(found: dict[str, Any]) -> None:
    assert found["turned"]
    steps = np.array(found["steps"])
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-4)
    assert np.abs(steps).max(axis=1) == pytest.approx([127] * 4)
    assert (np.array(found["weight gradient"]) == 1).all()
    assert found["ends"] == pytest.approx((-1.1, 3.0))
    step = 4.1 / 255
    low, zero, inner, high = found["result"]
    assert zero == 0
    assert (low, high) == pytest.approx((-1.1, 3.0), abs=step)
    assert inner == pytest.approx(0.5, abs=0.51 * step)
    assert found["gradient"] == [0, 1, 1, 0], "what is clipped has no gradient"
    down, up = found["range gradient"]
    assert down == pytest.approx(-1.1, abs=0.01), "a clipped value follows its end"
    assert up == pytest.approx(3.0, abs=0.01)


@pytest.mark.parametrize("kind", [FinetuneConfig, DistillConfig])
def test_bfloat16_beside_it_is_refused(kind: Callable[..., FinetuneConfig]) -> None:
    with pytest.raises(ConfigError, match="quantization_aware and bfloat16"):
        kind(quantization_aware=True, bfloat16=True)


@pytest.mark.parametrize("command", [("finetune", "--model", "m"), ("distill", "--teacher", "m", "--student", "m")])
def test_the_option_reaches_the_settings(command: tuple[str, ...], tmp_path: Path) -> None:
    run = edgekit(*command, "--dataset", "none.tsv", "--out", str(tmp_path / "out"), "--qat", "--bfloat16")
    assert run.code == 2
    assert "quantization_aware and bfloat16" in run.err[-1]
