"""Quantization-aware training: what is rounded, what is kept, and that the int8 .tflite computes what was trained."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit import ranges
from edgekit.data.samples import Samples
from edgekit.errors import ConfigError
from edgekit.export.litert import export_litert
from edgekit.quantize import plan as planning
from edgekit.quantize.calibrate import calibrate
from edgekit.quantize.forms import PRODUCTS, Form
from edgekit.quantize.plan import IntegerSettings, quantize
from edgekit.quantize.quantizer import write_integer
from edgekit.quantize.schemes import SCHEMES
from edgekit.quantize.trained import take_ranges
from edgekit.tflite import flatbuffer
from edgekit.train import loop
from edgekit.train.config import DistilConfig
from edgekit.train.finetune import FinetuneConfig, finetune
from edgekit.train.tokens import Encoded
from edgekit.worker import Worker
from tests import tiny
from tests.killing import kill_training
from tests.unit.quantize.models import Inline, in_turn, outputs
from tests.unit.train.test_finetune import ARCHITECTURES, _rows

QUICK = FinetuneConfig(epochs=1, batch_size=8, learning_rate=1e-3, max_length=32, threads=1, quantization_aware=True)
LONG = dataclasses.replace(QUICK, epochs=8, batch_size=4, checkpoint_every=9)
LENGTH, ROWS = 16, 24
SETTINGS: dict[str, dict[str, Any]] = {
    "bert": {},
    "distilbert": {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": 64},
    "gpt2": {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64},
}


def _make(bert: Path, room: Path) -> dict[str, Any]:
    """In a worker: each architecture trained, its float32 .tflite, and what PyTorch gives with rounding and without."""
    import torch
    from transformers import AutoConfig, AutoTokenizer

    from edgekit.checkpoint import load_classifier
    from edgekit.train.quantization import FakeQuantization

    pairs = tiny.sentences(80)
    rows = Encoded(tuple(text for text, _ in pairs), None, tuple(label for _, label in pairs))
    encoded = AutoTokenizer.from_pretrained(bert)(list(rows.texts[:ROWS]), padding="max_length", truncation=True, max_length=LENGTH)
    inputs = {name: np.array(encoded[name], np.int32) for name in ("input_ids", "attention_mask")}
    Samples(inputs).save(room / "rows")
    vocabulary = len(AutoTokenizer.from_pretrained(bert))
    found = {}
    for name, settings in SETTINGS.items():
        source = bert
        if name != "bert":
            source = room / f"{name}.config"
            shutil.copytree(bert, source, ignore=shutil.ignore_patterns("model.safetensors", "config.json"))
            config = AutoConfig.for_model(name, vocab_size=vocabulary, pad_token_id=0, initializer_range=0.2, **settings)
            config.save_pretrained(source)
        result = loop.run(loop.Job(source, {"no": 0, "yes": 1}, rows, rows, "themselves", QUICK, name), room / name)
        folder = room / name / loop.MODEL
        export_litert(folder, room / "rows", room / f"{name}.tflite", room / f"{name}.npy")
        model = load_classifier(folder)
        names = set(model.state_dict())
        tensors = {key: torch.from_numpy(values).long() for key, values in inputs.items()}
        with torch.no_grad():
            plain = model(**tensors).logits
            rounding = FakeQuantization(model, tensors, 1)
            trained, _ = ranges.read(folder)
            assert trained is not None
            rounding.restore(
                {layer: [(ends.input, torch.zeros(2)), (ends.output, torch.zeros(2))] for layer, ends in trained.layers.items()}
            )
            rounding.at(1)
            rounded = model(**tensors).logits
            same = set(model.state_dict()) == names
            rounding.detach()
            again = model(**tensors).logits
        found[name] = (result, plain.numpy(), rounded.numpy(), same and bool((again == plain).all()))
    return found


@pytest.fixture(scope="module")
def made(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    pytest.importorskip("litert_torch", reason="needs litert-torch (extra litert)")
    room = tmp_path_factory.mktemp("aware")
    return room, Worker(timeout_s=200).run(_make, tiny_bert, room).value


@pytest.fixture(scope="module")
def quantized(made: tuple[Path, dict[str, Any]]) -> dict[str, tuple[Path, ranges.TrainedRanges]]:
    """Each architecture's int8 file with integers in matrix products, and the ranges that it was made with."""
    room, found = made[0], {}
    for name in SETTINGS:
        model, target = room / f"{name}.tflite", room / f"{name}.int8.tflite"
        trained, _ = ranges.read(room / name / loop.MODEL)
        assert trained is not None
        calibrate(model, room / "rows", room / f"{name}.calibration")
        taken = take_ranges(model, room / f"{name}.calibration", trained, room / f"{name}.trained")
        assert (taken.left, taken.unmatched) == ((), ())
        write_integer(model, room / f"{name}.trained", target, Form("matrix products", ops=PRODUCTS))
        found[name] = target, trained
    return found


@pytest.mark.parametrize("name", SETTINGS)
def test_the_file_computes_what_was_trained(made: tuple[Path, Any], quantized: dict[str, Any], name: str) -> None:
    _, plain, rounded, _ = made[1][name]
    file, trained = quantized[name]
    found = outputs(file, Samples.load(made[0] / "rows"))
    head = next(reversed(list(trained.layers.values())))
    step = (head.output[1] - head.output[0]) / 255
    assert np.abs(found - rounded).max() < 2.5 * step
    assert np.abs(found - rounded).mean() < 0.5 * np.abs(rounded - plain).mean(), "that is not float32's doing"


@pytest.mark.parametrize("name", SETTINGS)
def test_the_files_ranges_are_those_trained(quantized: dict[str, Any], name: str) -> None:
    file, trained = quantized[name]
    graph = flatbuffer.read(file).subgraphs[0]
    ops = [operator for operator in graph.operators if operator.name == "FULLY_CONNECTED"]
    scales = sorted(graph.tensors[index].scale or 0 for op in ops for index in (op.inputs[0], *op.outputs))
    expected = sorted((ends[1] - ends[0]) / 255 for layer in trained.layers.values() for ends in (layer.input, layer.output))
    assert len(ops) == len(trained.layers)
    np.testing.assert_allclose(scales, expected, rtol=1e-5)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_checkpoint_is_an_ordinary_one(made: tuple[Path, Any], name: str) -> None:
    result, _, _, same = made[1][name]
    assert same, "attached and detached, the model has its names and its outputs"
    trained, note = ranges.read(made[0] / name / loop.MODEL)
    assert trained is not None
    assert note == ""
    assert result.quantization.layers == len(trained.layers)
    assert result.quantization.total == result.total == 80
    assert result.quantization.loss != result.loss


def test_what_is_one_tensor_has_one_range(made: tuple[Path, Any]) -> None:
    trained, _ = ranges.read(made[0] / "bert" / loop.MODEL)
    assert trained is not None
    attention = "bert.encoder.layer.0.attention"
    query, key, value = (trained.layers[f"{attention}.self.{name}"] for name in ("query", "key", "value"))
    assert query.input == key.input == value.input
    assert len({query.output, key.output, value.output}) == 3
    assert trained.layers[f"{attention}.output.dense"].input != query.input


def test_the_plan_takes_them(made: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "together", in_turn)
    room = made[0]
    trained, _ = ranges.read(room / "bert" / loop.MODEL)
    plan = quantize(
        room / "bert.tflite",
        SCHEMES["int8"],
        tmp_path / "int8.tflite",
        samples=room / "rows",
        calibration=room / "bert.calibration",
        settings=IntegerSettings(ranges=trained),
        worker=Inline(),  # type: ignore[arg-type]
    )
    assert plan.trained_ranges is not None
    assert plan.trained_ranges.ops == 14
    assert plan.candidates[0].name == "matrix products"


# Killed and resumed --------------------------------------------------------------------------------------------------


def test_a_killed_run_ends_with_the_same_ranges(tiny_bert: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed" / "model"
    out.parent.mkdir()
    kill_training(finetune, (tiny_bert, _rows(48), _rows(16, 1), out, LONG), out)
    resumed = finetune(tiny_bert, _rows(48), _rows(16, 1), out, LONG)
    whole = finetune(tiny_bert, _rows(48), _rows(16, 1), tmp_path / "whole", LONG)
    assert 0 < resumed.resumed_at < whole.steps
    assert (out / ranges.RANGES).read_bytes() == (tmp_path / "whole" / ranges.RANGES).read_bytes()
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert resumed.quantization == whole.quantization
    assert ranges.read(out)[0] is not None
    assert json.loads((out / "edgekit.json").read_text())["measured"]["quantization"]["layers"] == 14


# The rounding itself -------------------------------------------------------------------------------------------------


def _rounding() -> dict[str, Any]:
    """In a worker: a Linear and a Conv1D of the same weights, gradients, and what of each architecture is rounded and learned."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification
    from transformers.pytorch_utils import Conv1D

    from edgekit.architectures import linear_layers
    from edgekit.train.quantization import FakeQuantization, Range, _rounded_weight

    every = {}
    for name, settings in {**ARCHITECTURES, "gpt2": SETTINGS["gpt2"]}.items():
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


@pytest.mark.parametrize("kind", [FinetuneConfig, DistilConfig])
def test_bfloat16_beside_it_is_refused(kind: Callable[..., FinetuneConfig]) -> None:
    with pytest.raises(ConfigError, match="quantization_aware and bfloat16"):
        kind(quantization_aware=True, bfloat16=True)
