"""8-bit linear layers: what they compute, how they are stored, and what is refused."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from edgekit.data.samples import random_samples
from edgekit.errors import CheckpointError, ConfigError
from edgekit.models import linear8
from edgekit.models.checkpoint import Checkpoint
from edgekit.models.weights import load_model, start_model
from edgekit.spec import TensorSpec
from edgekit.stages.export.compact import export_float16, export_int8
from edgekit.system.worker import Worker
from tests.unit.models.test_checkpoint import _Dangerous


def _facts(source: Path, room: Path) -> dict[str, Any]:
    """In a worker: what there is to know of the folders of one model, and what loading damaged ones says."""
    import torch
    from safetensors.torch import load_file, save_file

    specs = [TensorSpec(name, (1, 16), "int32") for name in ("input_ids", "attention_mask")]
    random_samples(specs, 16).save(room / "rows")
    export_float16(Checkpoint.read(source), room / "rows", room / "float16")
    export_int8(Checkpoint.read(source), room / "rows", room / "int8", linear8.TORCHAO)
    stored = load_file(room / "int8" / "model.safetensors")
    model = _load(room / "int8")
    layer = model.bert.encoder.layer[0].attention.self.query
    query = load_file(source / "model.safetensors")["bert.encoder.layer.0.attention.self.query.weight"]
    facts: dict[str, Any] = {
        "float16": {str(tensor.dtype) for tensor in load_file(room / "float16" / "model.safetensors").values()},
        "float16 loads as": str(_load(room / "float16").dtype),
        "int8": sorted(name for name, tensor in stored.items() if tensor.dtype == torch.int8),
        "training": model.training,
        "error": float((layer.weight * layer.weight_scale[:, None] - query).abs().max() / layer.weight_scale.max()),
        "torchao": _errors_beside_torchao(query, layer.bias.detach()),
        "without instructions": _difference_without_instructions(layer),
        "head": type(model.classifier).__name__,
    }
    name = "bert.encoder.layer.1.output.dense.weight"
    for case, changed in (
        ("scale lost", {key: tensor for key, tensor in stored.items() if key != f"{name}_scale"}),
        ("scale cut", {**stored, f"{name}_scale": stored[f"{name}_scale"][:5]}),
        ("scale not finite", {**stored, f"{name}_scale": stored[f"{name}_scale"] / 0}),
        ("weight cut", {**stored, name: stored[name][:5]}),
        ("unsafe pickle", None),
    ):
        folder = room / case
        shutil.copytree(room / "int8", folder)
        if changed is not None:
            save_file({key: tensor.contiguous() for key, tensor in changed.items()}, folder / "model.safetensors")
        else:
            (folder / "model.safetensors").unlink()
            torch.save({"a": _Dangerous(room / "mark")}, folder / "pytorch_model.bin")
        facts[case] = _said(_load, folder)
    shutil.copytree(room / "int8", room / "backend")
    config = json.loads((room / "backend" / "config.json").read_text())
    config[linear8.KEY]["backend"] = "magic"
    (room / "backend" / "config.json").write_text(json.dumps(config))
    facts["backend"] = _said(_load, room / "backend")
    facts["train"] = _said(_start, room / "int8")
    facts["train float16"] = _said(_start, room / "float16")
    beyond = load_file(source / "model.safetensors")
    beyond["bert.pooler.dense.bias"][3] = 1e5
    shutil.copytree(source, room / "beyond")
    save_file(beyond, room / "beyond" / "model.safetensors", metadata={"format": "pt"})
    facts["beyond"] = _said(lambda folder: export_float16(Checkpoint.read(folder), room / "rows", room / "none"), room / "beyond")
    return facts


def _load(folder: Path) -> Any:
    return load_model(Checkpoint.read(folder))


def _start(folder: Path) -> Any:
    source = Checkpoint.read(folder)
    return start_model(source, source.settings)


def _said(load: Any, folder: Path) -> str:
    try:
        load(folder)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _errors_beside_torchao(weight: Any, bias: Any) -> tuple[float, float]:
    """Relative errors of our layer's output, and of torchao's own tensor's, against the float weights."""
    import torch
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    theirs = torch.nn.Sequential(torch.nn.Linear(weight.shape[1], weight.shape[0]))
    theirs[0].weight, theirs[0].bias = torch.nn.Parameter(weight.clone()), torch.nn.Parameter(bias)
    values = torch.randn(2, 50, weight.shape[1])
    values[0, 0, 3] = 40.0
    with torch.inference_mode():
        exact = theirs(values)
        quantize_(theirs, Int8DynamicActivationInt8WeightConfig())
        ours = linear8._dynamic(theirs[0].weight.qdata, theirs[0].weight.scale.reshape(-1), bias)
        one, other = (float((found - exact).norm() / exact.norm()) for found in (ours(values), theirs(values)))
    return one, other


def _difference_without_instructions(layer: Any) -> float:
    import torch

    supported = torch.cpu._is_vnni_supported
    torch.cpu._is_vnni_supported = lambda: not supported()
    try:
        other = linear8._dynamic(layer.weight, layer.weight_scale, layer.bias)
    finally:
        torch.cpu._is_vnni_supported = supported
    values = torch.randn(3, layer.in_features)
    with torch.inference_mode():
        return float((other(values) - layer(values)).abs().max())


@pytest.fixture(scope="module")
def facts(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    room = tmp_path_factory.mktemp("linear8")
    found = Worker(timeout_s=120).run(_facts, tiny_bert, room).value
    assert not (room / "mark").exists(), "a pickle was executed"
    return found


def test_float16_is_storage(facts: dict[str, Any]) -> None:
    assert facts["float16"] == {"torch.float16"}
    assert facts["float16 loads as"] == "torch.float32"
    assert facts["train float16"] == ""


def test_the_encoder_is_in_8_bits_and_the_head_is_not(facts: dict[str, Any]) -> None:
    assert len(facts["int8"]) == 2 * 6 + 1  # six products a layer, and the pooler's
    assert not any("classifier" in name or "embeddings" in name for name in facts["int8"])
    assert facts["head"] == "Linear"
    assert not facts["training"]


def test_a_weight_is_off_by_half_a_step_at_most(facts: dict[str, Any]) -> None:
    # torchao's symmetric range ends half a step beyond 127.
    assert 0 < facts["error"] <= 0.51


def test_it_computes_as_exactly_as_torchao(facts: dict[str, Any]) -> None:
    # Not bit for bit: torchao spreads a token over 127.5 steps and we over 127.
    ours, theirs = facts["torchao"]
    assert 0 < theirs < 0.02
    assert abs(ours - theirs) < 0.1 * theirs
    assert facts["without instructions"] < 1e-4


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("scale lost", "the weights do not fit config.json"),
        ("scale cut", "the 8-bit weights of bert.encoder.layer.1.output.dense do not fit config.json"),
        ("scale not finite", "hold infinite values"),
        ("weight cut", "the 8-bit weights of bert.encoder.layer.1.output.dense do not fit"),
        ("unsafe pickle", "a pickle that may run code"),
        ("backend", "names the backend 'magic'"),
        ("train", "it cannot be trained; give the checkpoint that it was made from, /"),
    ],
)
def test_what_is_refused_in_one_line(facts: dict[str, Any], case: str, words: str) -> None:
    assert facts[case].startswith("CheckpointError: ")
    assert words in facts[case]
    assert "\n" not in facts[case]


def test_a_weight_beyond_float16_is_named(facts: dict[str, Any]) -> None:
    assert facts["beyond"].startswith("RefusedError: ")
    assert "bert.pooler.dense.bias reach 1e+05" in facts["beyond"]


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_a_backend_that_is_not_installed_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pip install 'edgekit\[bitsandbytes\]'"):
        linear8.check_backend(linear8.BITSANDBYTES)
    with pytest.raises(CheckpointError, match=r"pip install 'edgekit\[bitsandbytes\]'"):
        linear8.install(None, {}, {"backend": linear8.BITSANDBYTES}, tmp_path)


def _through_bitsandbytes(source: Path, room: Path) -> tuple[float, str]:
    """In a worker: the relative difference from float32 after a round trip, and what an inner layer is then."""
    specs = [TensorSpec(name, (1, 16), "int32") for name in ("input_ids", "attention_mask")]
    random_samples(specs, 16).save(room / "rows")
    found = export_int8(Checkpoint.read(source), room / "rows", room / "int8", linear8.BITSANDBYTES)
    model = _load(room / "int8")
    return found.parity.max_rel, type(model.bert.encoder.layer[0].intermediate.dense).__name__


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs the extra [bitsandbytes]")
def test_bitsandbytes_makes_its_own_layers(tiny_bert: Path, tmp_path: Path) -> None:
    difference, kind = Worker(timeout_s=120).run(_through_bitsandbytes, tiny_bert, tmp_path).value
    assert kind == "Linear8bitLt"
    assert 0 < difference < 0.1
