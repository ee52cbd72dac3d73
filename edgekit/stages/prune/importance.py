"""How much each attention head and each FFN unit matters; runs in a worker, because it loads torch.

With x the joined values of the heads, or the values of the FFN's units, and g the gradient of the loss with respect to
them, each (tokens, values of a row), and the sum over the tokens and values that belong to one head or unit:

gradient    mean over rows of |sum x g|: P. Michel, O. Levy, G. Neubig, "Are sixteen heads really better than one?", 2019
taylor      mean over batches of (sum over rows of sum x g)^2: P. Molchanov et al., "Importance estimation for neural network
            pruning", 2019
activation  mean over rows and tokens of |x|
magnitude   Euclidean norm of the weights that take the head's or unit's values
random      drawn with the seed: what the others have to beat"""

from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.samples import Samples
from edgekit.errors import DatasetError
from edgekit.models import architectures
from edgekit.models.batches import Batches
from edgekit.stages.prune.config import Importance
from edgekit.stages.prune.pruning_plan import Scores
from edgekit.system.worker import progress
from edgekit.tasks import table as tasks

_BATCH = 32


def score(model: Any, samples: Samples, method: Importance, seed: int) -> Scores:
    """Scores of all heads and FFN units of a model in eval mode, by the loss of the task of its `samples` (int32, padded).

    Raises `DatasetError` if the gradient is asked for and there are no labels."""
    layers = architectures.layers(model)
    if method not in (Importance.RANDOM, Importance.MAGNITUDE):
        return _measured(model, layers, samples, method)
    rng = np.random.default_rng(seed)

    def scored(projection: Any, count: int) -> np.ndarray:
        return rng.random(count) if method is Importance.RANDOM else _magnitude(projection, count)

    heads = [scored(layer.heads.output, layer.heads.count) for layer in layers]
    return _scores(method, heads, [[scored(part.down, part.width) for part in layer.ffns] for layer in layers])


def _measured(model: Any, layers: tuple[architectures.Layer, ...], samples: Samples, method: Importance) -> Scores:
    import torch

    task = tasks.find(samples.task)
    if samples.labels is None and method.needs_labels and not task.headless:
        raise DatasetError(
            "importance by gradients needs labelled rows; name the column with --label-column, or take --importance activation"
        )
    rows = Batches.of(samples, model, Path(model.name_or_path))
    gates = [_Gate(layer.heads.output, layer.heads.count) for layer in layers]
    units = [[_Gate(part.down, part.width) for part in layer.ffns] for layer in layers]
    every = [*gates, *(gate for row in units for gate in row)]
    try:
        done = 0
        for numbers in rows.ranked(_BATCH):
            batch = rows.batch(numbers)
            with torch.set_grad_enabled(method.needs_labels):
                outputs = model(**batch.inputs)
            if method.needs_labels:
                # Without labels what outputs are moved by counts as much as a loss. Of the sum over rows each has its own gradient.
                labels = batch.labels
                loss = task.sensitivity(outputs) if labels is None else task.loss(outputs, labels, samples.settings)
                (loss * len(numbers)).backward()
                model.zero_grad()
            for gate in every:
                gate.add(method, batch.mask)
            done += len(numbers)
            progress("importance", done, len(samples))
    finally:
        for gate in every:
            gate.hook.remove()
    over = -(-len(samples) // _BATCH) if method is Importance.TAYLOR else len(samples)
    return _scores(method, [gate.total / over for gate in gates], [[gate.total / over for gate in row] for row in units])


class _Gate:
    """Watches what goes into one projection, `count` groups of values, and adds up their scores."""

    def __init__(self, projection: Any, count: int) -> None:
        self.total = np.zeros(count)
        self._seen: Any = None
        self.hook = projection.register_forward_pre_hook(self._see)

    def _see(self, _: Any, arguments: tuple[Any, ...]) -> None:
        self._seen = arguments[0]
        if self._seen.requires_grad:
            self._seen.retain_grad()

    def add(self, method: Importance, mask: Any) -> None:
        values = self._seen.detach()
        grouped = (*values.shape[:2], len(self.total), -1)
        if method is Importance.ACTIVATION:
            shares = (values.abs() * mask[:, :, None]).reshape(grouped).mean(3).sum(1) / mask.sum(1, keepdim=True)
            scores = shares.sum(0)
        else:
            rows = (values * self._seen.grad).reshape(grouped).sum((1, 3))
            scores = rows.sum(0).square() if method is Importance.TAYLOR else rows.abs().sum(0)
        self.total += scores.double().numpy()
        self._seen = None


def _magnitude(projection: Any, count: int) -> np.ndarray:
    weights = architectures.inputs_first(projection).detach()
    return np.asarray(weights.reshape(count, -1).norm(dim=1).double().numpy())


def _scores(method: Importance, heads: list[np.ndarray], ffn: list[list[np.ndarray]]) -> Scores:
    units = tuple(tuple(tuple(part.tolist()) for part in layer) for layer in ffn)
    return Scores(str(method), tuple(tuple(layer.tolist()) for layer in heads), units)
