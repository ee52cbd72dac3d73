"""What a child finds when it scores heads and units, by the module and by hand."""

import copy
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.samples import Samples
from edgekit.stages.prune.config import Importance
from edgekit.stages.prune.pruning_plan import Scores
from tests.unit.stages.prune import models

SHOWN = ("bert", "distilbert", "mobilebert", "deberta-v2", "gpt2")
ROWS = 37  # two batches, the second short


def samples() -> Samples:
    inputs = {name: tensor.int().numpy() for name, tensor in models.inputs(ROWS).items()}
    return Samples(inputs, np.arange(ROWS) % 3, task="text-classification", settings={"problem": "single_label_classification"})


def score_all() -> dict[str, dict[str, tuple[Scores, Scores]] | str]:
    """In a child: scores of each form and method by the module and by hand."""
    found: dict[str, dict[str, tuple[Scores, Scores]] | str] = {}
    for form in SHOWN:
        try:
            found[form] = _score(form)
        except Exception as error:
            found[form] = f"{type(error).__name__}: {error}"
    return found


def _score(form: str) -> dict[str, tuple[Scores, Scores]]:
    from edgekit.stages.prune import importance

    model = models.build(form)
    with_hand = {Importance.GRADIENT: _gradient, Importance.TAYLOR: _taylor, Importance.ACTIVATION: _activation}
    rows = samples()
    found = {method: (importance.score(model, rows, method, 0), by_hand(model, rows)) for method, by_hand in with_hand.items()}
    found[Importance.MAGNITUDE] = (importance.score(model, rows, Importance.MAGNITUDE, 0), _magnitude(model))
    assert all(parameter.grad is None for parameter in model.parameters())
    return {str(method): pair for method, pair in found.items()}


def _row_gradients(model: Any, rows: Samples) -> tuple[list[Any], list[list[Any]]]:
    """d loss / d m of each row at m = 1, where m multiplies what a head or a unit gives: by layer (rows, heads or units)."""
    import torch

    from edgekit.models import architectures

    layers = architectures.layers(model)
    masks = [torch.ones(layer.heads.count, requires_grad=True) for layer in layers]
    units = [[torch.ones(part.width, requires_grad=True) for part in layer.ffns] for layer in layers]
    hooks = []

    def gate(projection: Any, mask: Any, size: int) -> None:
        hooks.append(projection.register_forward_pre_hook(lambda _, arguments: (arguments[0] * mask.repeat_interleave(size),)))

    for layer, mask, parts in zip(layers, masks, units, strict=True):
        gate(layer.heads.output, mask, layer.heads.size)
        for part, own in zip(layer.ffns, parts, strict=True):
            gate(part.down, own, 1)
    every = [*masks, *(own for parts in units for own in parts)]
    found: list[list[Any]] = []
    for number, row in enumerate(rows):
        length = int(row["attention_mask"].sum())
        inputs = {name: torch.from_numpy(array[:, :length]).long() for name, array in row.items()}
        assert rows.labels is not None
        loss = torch.nn.functional.cross_entropy(model(**inputs).logits, torch.tensor([int(rows.labels[number])]))
        found.append(list(torch.autograd.grad(loss, every)))
    for hook in hooks:
        hook.remove()
    stacked = [torch.stack(list(column)) for column in zip(*found, strict=True)]
    heads, rest = stacked[: len(masks)], iter(stacked[len(masks) :])
    return heads, [[next(rest) for _ in parts] for parts in units]


def _packed(method: str, heads: list[Any], units: list[list[Any]]) -> Scores:
    return Scores(
        method,
        tuple(tuple(map(float, layer)) for layer in heads),
        tuple(tuple(tuple(map(float, part)) for part in layer) for layer in units),
    )


def _gradient(model: Any, rows: Samples) -> Scores:
    heads, units = _row_gradients(model, rows)
    return _packed("gradient", [g.abs().mean(0) for g in heads], [[g.abs().mean(0) for g in parts] for parts in units])


def _taylor(model: Any, rows: Samples) -> Scores:
    """Batches as the module makes them: 32 of the shortest rows, then the others."""
    heads, units = _row_gradients(model, rows)
    order = np.argsort(rows.inputs["attention_mask"].sum(1), kind="stable")

    def squared(gradients: Any) -> Any:
        return sum(gradients[chosen.tolist()].sum(0).square() for chosen in (order[:32], order[32:])) / 2

    return _packed("taylor", [squared(g) for g in heads], [[squared(g) for g in parts] for parts in units])


def _activation(model: Any, rows: Samples) -> Scores:
    import torch

    from edgekit.models import architectures

    layers = architectures.layers(model)
    projections = [layer.heads.output for layer in layers] + [part.down for layer in layers for part in layer.ffns]
    seen: dict[int, list[Any]] = {number: [] for number in range(len(projections))}
    hooks = []
    for number, projection in enumerate(projections):

        def see(_: Any, arguments: Any, number: int = number) -> None:
            seen[number].append(arguments[0].abs().mean((0, 1)))

        hooks.append(projection.register_forward_pre_hook(see))
    with torch.no_grad():
        for row in rows:
            length = int(row["attention_mask"].sum())
            model(**{name: torch.from_numpy(array[:, :length]).long() for name, array in row.items()})
    for hook in hooks:
        hook.remove()
    means = [torch.stack(seen[number]).mean(0) for number in range(len(projections))]
    heads = [mean.reshape(layer.heads.count, -1).mean(1) for mean, layer in zip(means, layers, strict=False)]
    rest = iter(means[len(layers) :])
    return _packed("activation", heads, [[next(rest) for _ in layer.ffns] for layer in layers])


def _magnitude(model: Any) -> Scores:
    from edgekit.models import architectures

    heads, units = [], []
    for layer in architectures.layers(model):
        # GPT-2's Conv1D is (inputs, outputs), a linear layer (outputs, inputs).
        weights = [
            projection.weight.detach().numpy() if hasattr(projection, "nf") else projection.weight.detach().numpy().T
            for projection in (layer.heads.output, *(part.down for part in layer.ffns))
        ]
        size = layer.heads.size
        heads.append([np.sqrt(np.square(weights[0][h * size : (h + 1) * size]).sum()) for h in range(layer.heads.count)])
        units.append([np.sqrt(np.square(weight).sum(1)) for weight in weights[1:]])
    return _packed("magnitude", heads, units)


def silenced() -> dict[str, list[tuple[Scores, tuple[int, ...], tuple[int, ...]]]]:
    """In a child: scores by method where layer 1 ignores its head 2 and its unit 5, and what layer 1 keeps of nearly all."""
    import torch

    from edgekit.models import architectures
    from edgekit.stages.prune import importance, pruning_plan
    from edgekit.stages.prune.config import StructureConfig

    found: dict[str, list[tuple[Scores, tuple[int, ...], tuple[int, ...]]]] = {}
    for form in SHOWN:
        model = copy.deepcopy(models.build(form))
        layer = architectures.layers(model)[1]
        size = layer.heads.size
        with torch.no_grad():
            architectures.inputs_first(layer.heads.output)[2 * size : 3 * size] = 0
            architectures.inputs_first(layer.ffns[-1].down)[5] = 0
        found[form] = []
        for method in (Importance.GRADIENT, Importance.TAYLOR, Importance.MAGNITUDE):
            scores = importance.score(model, samples(), method, 0)
            kept = pruning_plan.choose(scores, StructureConfig(heads=0.08, ffn=0.003, round_to=1), size)
            found[form].append((scores, kept[1].heads, kept[1].ffn[-1]))
    return found


def drawn() -> tuple[list[Scores], str]:
    """In a child: random scores with seeds 0, 0 and 1; and what is told without labels."""
    from edgekit.errors import DatasetError
    from edgekit.stages.prune import importance

    model = models.build("bert")
    unlabelled = Samples(samples().inputs)
    importance.score(model, unlabelled, Importance.ACTIVATION, 0)
    told = ""
    try:
        importance.score(model, unlabelled, Importance.GRADIENT, 0)
    except DatasetError as error:
        told = str(error)
    return [importance.score(model, samples(), Importance.RANDOM, seed) for seed in (0, 0, 1)], told


def measure(_: Path) -> tuple[Any, Any, Any]:
    return score_all(), silenced(), drawn()
