"""How much each attention head and each FFN unit matters; runs in a worker, because it loads torch.

With x the joined values of the heads, or the values of the FFN's units, and g the gradient of the loss with respect to
them, each (tokens, values of a row), and the sum over the tokens and values that belong to one head or unit:

gradient    mean over rows of |sum x g|: P. Michel, O. Levy, G. Neubig, "Are sixteen heads really better than one?", 2019
taylor      mean over batches of (sum over rows of sum x g)^2: P. Molchanov et al., "Importance estimation for neural network
            pruning", 2019
activation  mean over rows and tokens of |x|
magnitude   Euclidean norm of the weights that take the head's or unit's values
random      drawn with the seed: what the others have to beat
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from edgekit.data.samples import Samples
from edgekit.errors import DatasetError
from edgekit.models import architectures
from edgekit.stages.prune.config import Importance
from edgekit.stages.prune.pruning_plan import Scores
from edgekit.system.worker import progress

_BATCH = 32


def score(model: Any, samples: Samples, method: Importance, seed: int) -> Scores:
    """Scores of all heads and FFN units of a classifier in eval mode, on labelled `samples` (int32, padded on one side).

    Raises `DatasetError` if the gradient is asked for and there are no labels.
    """
    layers = architectures.layers(model)
    if method is Importance.RANDOM:
        rng = np.random.default_rng(seed)
        return _scores(
            method,
            [rng.random(layer.heads.count) for layer in layers],
            [[rng.random(part.width) for part in layer.ffns] for layer in layers],
        )
    if method is Importance.MAGNITUDE:
        return _scores(
            method,
            [_magnitude(layer.heads.output, layer.heads.count) for layer in layers],
            [[_magnitude(part.down, part.width) for part in layer.ffns] for layer in layers],
        )
    return _measured(model, layers, samples, method)


def _measured(model: Any, layers: tuple[architectures.Layer, ...], samples: Samples, method: Importance) -> Scores:
    import torch

    if samples.labels is None and method is not Importance.ACTIVATION:
        raise DatasetError(
            "importance by gradients needs labelled rows; name the column with --label-column, or take --importance activation"
        )
    gates = [_Gate(layer.heads.output, layer.heads.count) for layer in layers]
    units = [[_Gate(part.down, part.width) for part in layer.ffns] for layer in layers]
    every = [*gates, *(gate for row in units for gate in row)]
    try:
        done = 0
        for inputs, labels in batches(samples):
            with torch.set_grad_enabled(method is not Importance.ACTIVATION):
                logits = model(**inputs).logits
            if method is not Importance.ACTIVATION:
                torch.nn.functional.cross_entropy(logits, labels, reduction="sum").backward()
                model.zero_grad()
            for gate in every:
                gate.add(method, inputs["attention_mask"])
            done += len(logits)
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
            found = shares.sum(0)
        else:
            rows = (values * self._seen.grad).reshape(grouped).sum((1, 3))
            found = rows.sum(0).square() if method is Importance.TAYLOR else rows.abs().sum(0)
        self.total += found.double().numpy()
        self._seen = None


def batches(samples: Samples) -> Iterator[tuple[dict[str, Any], Any]]:
    """int64 tensors (rows, longest of them) by input name with labels (rows,), shortest rows first."""
    import torch

    lengths = samples.inputs["attention_mask"].sum(axis=1)
    ranked = np.argsort(lengths, kind="stable")
    for start in range(0, len(ranked), _BATCH):
        rows = ranked[start : start + _BATCH]
        used = np.flatnonzero(samples.inputs["attention_mask"][rows].any(axis=0))
        span = slice(used[0], used[-1] + 1)
        inputs = {name: torch.from_numpy(np.array(array[rows][:, span])).long() for name, array in samples.inputs.items()}
        yield inputs, None if samples.labels is None else torch.from_numpy(np.array(samples.labels[rows])).long()


def _magnitude(projection: Any, count: int) -> np.ndarray:
    weights = architectures.inputs_first(projection).detach()
    return np.asarray(weights.reshape(count, -1).norm(dim=1).double().numpy())


def _scores(method: Importance, heads: list[np.ndarray], ffn: list[list[np.ndarray]]) -> Scores:
    return Scores(
        str(method),
        tuple(tuple(float(value) for value in layer) for layer in heads),
        tuple(tuple(tuple(float(value) for value in part) for part in layer) for layer in ffn),
    )
