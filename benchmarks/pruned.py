"""What prune.py runs in workers: accuracy over heads removed, and torch-pruning on the same model."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.samples import Samples
from edgekit.models import architectures
from edgekit.models.checkpoint import Checkpoint
from edgekit.models.weights import load_model
from edgekit.stages.prune import importance, pruning_plan
from edgekit.stages.prune.config import Importance, StructureConfig


def head_curve(
    checkpoint: Path, train: Path, judge: Path, methods: Sequence[str], seeds: int, rows: int, shares: Sequence[float]
) -> dict[str, list[list[float]]]:
    """Accuracy on `judge` by method, seed and share of heads removed, without recovery. Heads are gated, which gives the same
    logits as cutting them. Each seed draws its own `rows` training rows."""
    model = load_model(Checkpoint.read(checkpoint))
    layers = architectures.layers(model)
    stored, judged = Samples.load(train), Samples.load(judge)
    gates = [_Gate(layer.heads) for layer in layers]
    found: dict[str, list[list[float]]] = {}
    for method in methods:
        found[method] = []
        for seed in range(seeds):
            drawn = stored.take(np.random.default_rng(seed).choice(len(stored), rows, replace=False))
            _open(gates)
            scores = importance.score(model, drawn, Importance(method), seed)
            line = []
            for share in shares:
                kept = pruning_plan.choose(scores, StructureConfig(heads=share), layers[0].heads.size)
                for gate, part in zip(gates, kept, strict=True):
                    gate.keep(part.heads)
                line.append(accuracy(model, judged))
            found[method].append(line)
    return found


class _Gate:
    def __init__(self, heads: architectures.Heads) -> None:
        import torch

        self.size, self.mask = heads.size, torch.ones(heads.count * heads.size)
        heads.output.register_forward_pre_hook(lambda _, arguments: (arguments[0] * self.mask, *arguments[1:]))

    def keep(self, heads: Sequence[int]) -> None:
        self.mask.zero_()
        for head in heads:
            self.mask[head * self.size : (head + 1) * self.size] = 1


def _open(gates: Sequence[_Gate]) -> None:
    for gate in gates:
        gate.mask.fill_(1)


def _batches(samples: Samples) -> Iterator[tuple[dict[str, Any], Any]]:
    import torch

    for start in range(0, len(samples), 32):
        rows = samples.take(range(start, min(start + 32, len(samples))))
        yield (
            {name: torch.from_numpy(np.array(array)) for name, array in rows.inputs.items()},
            torch.from_numpy(np.array(rows.labels)),
        )


def accuracy(model: Any, samples: Samples) -> float:
    """Share of rows with the label's class."""
    import torch

    correct = 0
    with torch.inference_mode():
        for inputs, labels in _batches(samples):
            correct += int((model(**inputs).logits.argmax(-1) == labels).sum())
    return correct / len(samples)


def torch_pruning(checkpoint: Path, train: Path, folder: Path, share: float, rows: int) -> int:
    """Prune with torch-pruning's group Taylor importance, heads and FFN units by the same share, and save what is left.

    Returns the parameters of the layers. Its own road ends with the module in memory; it is written as a pruned checkpoint of
    ours, so that both can be exported.
    """
    import torch
    import torch_pruning

    model = load_model(Checkpoint.read(checkpoint))
    model.set_attn_implementation("eager")
    drawn = Samples.load(train)
    drawn = drawn.take(np.random.default_rng(0).choice(len(drawn), rows, replace=False))
    layers = architectures.layers(model)
    example = {name: torch.ones(1, 16, dtype=torch.int64) for name in drawn.inputs}
    heads = {projection: layer.heads.count for layer in layers for projection in layer.heads.inputs}
    # Everything that the residual stream runs through keeps its width, as in our own pruning.
    ignored = [model.classifier, model.bert.pooler.dense]
    ignored += [part for layer in layers for part in (layer.heads.output, *(ffn.down for ffn in layer.ffns))]
    pruner = torch_pruning.pruner.MetaPruner(
        model,
        example,
        importance=torch_pruning.importance.GroupTaylorImportance(),
        global_pruning=True,
        pruning_ratio=share,
        head_pruning_ratio=share,
        num_heads=heads,
        prune_num_heads=True,
        prune_head_dims=False,
        ignored_layers=ignored,
        output_transform=lambda output: output.logits.sum(),
        round_to=8,
    )
    for inputs, labels in _batches(drawn):
        torch.nn.functional.cross_entropy(model(**inputs).logits, labels).backward()
    for group in pruner.step(interactive=True):
        group.prune()
    after = architectures.layers(model)
    shape = {
        "layers": list(range(len(after))),
        "heads": [list(range(layer.heads.output.weight.shape[1] // layer.heads.size)) for layer in after],
        "ffn": [[part.width for part in layer.ffns] for layer in after],
    }
    setattr(model.config, architectures.KEY, shape)
    model.save_pretrained(folder)
    return architectures.encoder_parameters(model)
