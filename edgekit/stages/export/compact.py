"""Checkpoint to a checkpoint in fewer bits: float16 weights, or linear layers in 8 bits."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.samples import Samples
from edgekit.errors import RefusedError
from edgekit.models import checkpoint, linear8
from edgekit.models.architectures import copy_plan
from edgekit.stages.export import module
from edgekit.tasks.parity import Parity, compare


@dataclass(frozen=True)
class CompactExport:
    """How far the written folder lies from its source, and the float32 logits (N, C) of both on all saved rows."""

    parity: Parity
    outputs: np.ndarray
    reference: np.ndarray


def export_float16(source: Path, samples_folder: Path, target: Path) -> CompactExport:
    """Write `source` as a checkpoint folder whose weights are stored in float16; it is loaded and computed in float32.

    Raises `CheckpointError`, and `RefusedError` if a weight lies beyond float16's range. Needs torch.
    """
    model = checkpoint.load_classifier(source)
    _save(_halved(model.state_dict(), source), source, target, model, {})
    return _compared(source, target, samples_folder)


def export_int8(source: Path, samples_folder: Path, target: Path, backend: str) -> CompactExport:
    """Write `source` as a checkpoint folder with its encoder's linear layers in 8 bits and all else stored in float16.

    Raises as `export_float16` does. Needs torch and the backend's package.
    """
    model = checkpoint.load_classifier(source)
    tensors = linear8.quantize(model, backend)
    rest = {name: tensor for name, tensor in tensors.items() if not _is_of_layer(name, tensors)}
    layers = {name: tensor for name, tensor in tensors.items() if name not in rest}
    how = {linear8.KEY: linear8.config(backend, source)}
    _save({**layers, **_halved(rest, source)}, source, target, model, how)
    return _compared(source, target, samples_folder)


def _is_of_layer(name: str, tensors: dict[str, Any]) -> bool:
    return name.endswith(linear8.SCALE) or f"{name}{linear8.SCALE}" in tensors


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


def _save(tensors: dict[str, Any], source: Path, target: Path, model: Any, changed: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    target.mkdir()
    # Clones, because safetensors refuses tensors that share memory.
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, target / "model.safetensors", metadata={"format": "pt"})
    config = {**checkpoint.read_config(source), "architectures": [type(model).__name__], "dtype": "float16", **changed}
    (target / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    checkpoint.copy_tokenizer(source, target)
    copy_plan(source, target)


def _compared(source: Path, target: Path, samples_folder: Path) -> CompactExport:
    """Both folders as they load, on the saved rows."""
    samples = Samples.load(samples_folder)
    names = tuple(samples.inputs)
    reference = module.logits(module.load(source, names), samples)
    outputs = module.logits(module.load(target, names), samples)
    return CompactExport(compare(outputs, reference), outputs, reference)
