"""Checkpoint to a checkpoint in fewer bits: float16 weights, or linear layers in 8 bits."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.data.samples import Samples
from edgekit.errors import RefusedError
from edgekit.models import linear8, sentence_head
from edgekit.models.architectures import copy_plan
from edgekit.models.checkpoint import Checkpoint, copy_tokenizer
from edgekit.models.weights import load_model
from edgekit.stages.export import module
from edgekit.tasks.judgement import Judgement, judge
from edgekit.tasks.parity import Parity, compare_all


@dataclass(frozen=True)
class CompactExport:
    """How far the written folder lies from its source on all saved rows, and how it is judged on them."""

    parity: Parity
    judgement: Judgement


def export_float16(source: Checkpoint, samples_folder: Path, target: Path) -> CompactExport:
    """Write `source` as a checkpoint folder whose weights are stored in float16; it is loaded and computed in float32.

    Raises `CheckpointError`, and `RefusedError` if a weight lies beyond float16's range. Needs torch."""
    model = load_model(source)
    _save(_halved(_encoder(source, model.state_dict()), source.path), source, target, model, {})
    return _compared(source, target, samples_folder)


def export_int8(source: Checkpoint, samples_folder: Path, target: Path, backend: str) -> CompactExport:
    """As `export_float16`, but the encoder's linear layers in 8 bits; needs the backend's package, too."""
    model = load_model(source)
    tensors = _encoder(source, linear8.quantize(model, backend))
    names = {name for name in tensors if name.endswith(linear8.SCALE) or f"{name}{linear8.SCALE}" in tensors}
    layers = {name: tensor for name, tensor in tensors.items() if name in names}
    rest = {name: tensor for name, tensor in tensors.items() if name not in names}
    how = {linear8.KEY: {"bits": 8, "backend": backend, "parent": str(source.path)}}
    _save({**layers, **_halved(rest, source.path)}, source, target, model, how)
    return _compared(source, target, samples_folder)


def _halved(tensors: dict[str, Any], source: Path) -> dict[str, Any]:
    import torch

    halved = {}
    for name, tensor in tensors.items():
        halved[name] = tensor.to(torch.float16) if tensor.is_floating_point() else tensor
        if not bool(torch.isfinite(halved[name]).all()):
            largest = float(tensor.abs().max())
            raise RefusedError(
                f"{source}: the weights of {name} reach {largest:.3g}, beyond float16's 65504; export it to another format"
            )
    return halved


def _encoder(source: Checkpoint, tensors: dict[str, Any]) -> dict[str, Any]:
    """What is no sentence head's, which has files of its own."""
    own = f"{sentence_head.NAME}." if source.sentence_head is not None else None
    return {name: tensor for name, tensor in tensors.items() if own is None or not name.startswith(own)}


def _save(tensors: dict[str, Any], source: Checkpoint, target: Path, model: Any, changed: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    target.mkdir()
    # Clones, because safetensors refuses tensors that share memory.
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, target / "model.safetensors", metadata={"format": "pt"})
    config = {**source.config, "architectures": [type(model).__name__], "dtype": "float16", **changed}
    (target / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    copy_tokenizer(source.path, target)
    copy_plan(source.path, target)
    if source.sentence_head is not None:
        model.save_head(target)


def _compared(source: Checkpoint, target: Path, samples_folder: Path) -> CompactExport:
    """Both folders as they load, on the saved rows."""
    samples, names = Samples.load(samples_folder), source.task.outputs
    written = Checkpoint.read(target, source.task.name)
    outputs, reference = (
        module.run(module.load(checkpoint, tuple(samples.inputs)), samples, names) for checkpoint in (written, source)
    )
    return CompactExport(compare_all(outputs, reference), judge(outputs, samples, reference))
