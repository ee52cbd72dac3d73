"""Unstructured pruning as a stage: single weights become zero for good; shapes, and so latency, stay as they are."""

import fnmatch
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import ConfigError, about
from edgekit.models.architectures import linear_layers
from edgekit.models.checkpoint import Checkpoint
from edgekit.models.linear8 import refuse_quantized
from edgekit.models.weights import load_model
from edgekit.stages.prune.config import Method
from edgekit.stages.prune.surgery import TOOLS, save, write_tokenizer
from edgekit.system import artifacts, settings
from edgekit.system.settings import above, check, part, setting
from edgekit.system.worker import Worker


@dataclass(frozen=True)
class SparsityConfig:
    """`sparsity` of each chosen matrix becomes zero (l1, random), or what is below `threshold` in absolute value (threshold).

    `weights` is a pattern of module names such as `*.layer.*.output.dense`; only linear layers are chosen. Raises `ConfigError`."""

    sparsity: float | None = setting(None, "", part(0.5))
    method: Method = Method.L1
    weights: str = "*"
    threshold: float = setting(1e-3, "", above(0, 1e-3))
    seed: int = settings.seed()

    def __post_init__(self) -> None:
        check(self)
        if self.sparsity is None and self.method is not Method.THRESHOLD:
            raise ConfigError(f"--method {self.method} needs --sparsity, the share of weights to make zero")
        if self.sparsity is not None and self.method is Method.THRESHOLD:
            raise ConfigError("--method threshold takes --threshold, not --sparsity; leave one of them out")


@dataclass(frozen=True)
class SparsityResult:
    """Zeros in the `chosen` weights of `matrices` linear layers, before and after, and `parameters` of the whole checkpoint."""

    matrices: int
    chosen: int
    zeros: int
    zeros_before: int
    parameters: int


def sparsify(
    checkpoint: Checkpoint,
    out: Path,
    config: SparsityConfig,
    *,
    overwrite: bool = False,
    worker: Worker = Worker(),  # noqa: B008 - frozen
) -> SparsityResult:
    """Publish `checkpoint` with weights made zero as the folder `out`, with its tokenizer and the manifest edgekit.json.

    Raises `CheckpointError`, `ConfigError` if no linear layer has a matching name, `OutputError` or a `WorkerError`."""
    artifacts.refuse_existing(out, overwrite=overwrite)
    artifacts.refuse_source(out, checkpoint.path)
    refuse_quantized(checkpoint.path, checkpoint.config, "pruned")
    parents = {checkpoint.name: artifacts.sha256(checkpoint.path)}
    with (
        artifacts.claimed(out.parent),
        about(checkpoint.path),
        artifacts.published(out, "checkpoint", parents=parents, config=config, tools=TOOLS, overwrite=overwrite) as draft,
    ):
        worker.run(write_tokenizer, checkpoint.tokenizer, draft.path)
        draft.measured = result = worker.run(_zero, checkpoint, config, draft.path).value
    return result


def _zero(checkpoint: Checkpoint, config: SparsityConfig, folder: Path) -> SparsityResult:
    import torch
    from torch.nn.utils import prune

    torch.manual_seed(config.seed)
    model = load_model(checkpoint)
    layers = dict(linear_layers(model))
    modules = [module for name, module in layers.items() if fnmatch.fnmatchcase(name, config.weights)]
    if not modules:
        some = ", ".join([*layers][:3] + ["…"] * (len(layers) > 3))
        raise ConfigError(f"--weights {config.weights}: no linear layer has such a name; {checkpoint.path} has {some}")
    before = _zeros(modules)
    for module in modules:
        if config.method is Method.L1:
            prune.l1_unstructured(module, "weight", config.sparsity)
        elif config.method is Method.RANDOM:
            prune.random_unstructured(module, "weight", config.sparsity)
        else:
            prune.custom_from_mask(module, "weight", module.weight.detach().abs() >= config.threshold)
        prune.remove(module, "weight")
    chosen, zeros = sum(module.weight.numel() for module in modules), _zeros(modules)
    if zeros == chosen:
        raise ConfigError(
            f"{checkpoint.path}: --threshold {config.threshold:g} leaves none of {chosen} weights; give a smaller one"
        )
    save(model, checkpoint, folder)
    return SparsityResult(len(modules), chosen, zeros, before, sum(parameter.numel() for parameter in model.parameters()))


def _zeros(modules: list[Any]) -> int:
    return sum(int((module.weight == 0).sum()) for module in modules)
