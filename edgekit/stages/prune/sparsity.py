"""Unstructured pruning as a stage: single weights become zero for good; shapes, and so latency, stay as they are."""

import fnmatch
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import ConfigError
from edgekit.models.architectures import linear_layers
from edgekit.models.checkpoint import load_classifier, read_config, tokenizer_folder
from edgekit.models.linear8 import refuse_quantized
from edgekit.stages.prune.config import Method, check_share
from edgekit.stages.prune.surgery import TOOLS, save, write_tokenizer
from edgekit.system import artifacts
from edgekit.system.worker import Worker


@dataclass(frozen=True)
class SparsityConfig:
    """`share` of each chosen matrix becomes zero (l1, random), or what is below `threshold` in absolute value (threshold).

    `weights` is a pattern of module names such as `*.layer.*.output.dense`; only linear layers are chosen. Raises `ConfigError`.
    """

    share: float = 0.0
    method: Method = Method.L1
    weights: str = "*"
    threshold: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        check_share("--sparsity", self.share)
        if not 0 < self.threshold < math.inf:
            raise ConfigError(f"--threshold is {self.threshold}; give a value above 0, such as 1e-3")


@dataclass(frozen=True)
class SparsityResult:
    """Zeros in the `chosen` weights of `matrices` linear layers, before and after, and `parameters` of the whole checkpoint."""

    matrices: int
    chosen: int
    zeros: int
    zeros_before: int
    parameters: int


def sparsify(
    checkpoint: Path,
    out: Path,
    config: SparsityConfig,
    *,
    overwrite: bool = False,
    worker: Worker = Worker(),  # noqa: B008 - frozen
) -> SparsityResult:
    """Publish `checkpoint` with weights made zero as the folder `out`, with its tokenizer and the manifest edgekit.json.

    Raises `CheckpointError`, `ConfigError` if no linear layer has a matching name, `OutputError` or a `WorkerError`.
    """
    artifacts.refuse_existing(out, overwrite=overwrite)
    refuse_quantized(checkpoint, read_config(checkpoint), "pruned")
    with artifacts.claimed(out.parent), artifacts.staged(out, overwrite=overwrite) as partial:
        worker.run(write_tokenizer, tokenizer_folder(checkpoint), partial)
        result = worker.run(_zero, checkpoint, config, partial).value
        described = artifacts.describe(
            partial,
            "checkpoint",
            name=out.name,
            parents={checkpoint.resolve().name: artifacts.sha256(checkpoint)},
            config=config,
            tools=TOOLS,
            measured=result,
        )
        artifacts.write_manifest(partial, described)
    return result


def _zero(checkpoint: Path, config: SparsityConfig, folder: Path) -> SparsityResult:
    import torch
    from torch.nn.utils import prune

    torch.manual_seed(config.seed)
    model = load_classifier(checkpoint)
    modules = list(_matching(model, config.weights))
    if not modules:
        raise ConfigError(f"--weights {config.weights}: no linear layer has such a name; {checkpoint} has {_some_names(model)}")
    before = _zeros(modules)
    for module in modules:
        if config.method is Method.L1:
            prune.l1_unstructured(module, "weight", config.share)
        elif config.method is Method.RANDOM:
            prune.random_unstructured(module, "weight", config.share)
        else:
            prune.custom_from_mask(module, "weight", module.weight.detach().abs() >= config.threshold)
        prune.remove(module, "weight")
    chosen, zeros = sum(module.weight.numel() for module in modules), _zeros(modules)
    if zeros == chosen:
        raise ConfigError(f"{checkpoint}: --threshold {config.threshold:g} leaves none of {chosen} weights; give a smaller one")
    save(model, checkpoint, folder)
    return SparsityResult(
        len(modules),
        chosen,
        zeros,
        before,
        sum(parameter.numel() for parameter in model.parameters()),
    )


def _matching(model: Any, pattern: str) -> Iterator[Any]:
    return (module for name, module in linear_layers(model) if fnmatch.fnmatchcase(name, pattern))


def _some_names(model: Any) -> str:
    names = [name for name, _ in linear_layers(model)]
    return ", ".join([*names[:3], "…"] if len(names) > 3 else names)


def _zeros(modules: list[Any]) -> int:
    return sum(int((module.weight == 0).sum()) for module in modules)
