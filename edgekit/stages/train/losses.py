"""What a student is told by its teacher, as losses on torch tensors."""

from collections.abc import Sequence
from typing import Any

# A logit that no softmax gives any probability; finite, so that differences of two are.
_NEVER = -1e4
_LEAST = 1e-12


def soft_targets(student: Any, teacher: Any, temperature: float, how: str = "softmax") -> Any:
    """How far a student's logits (rows, …, classes) are from its teacher's, mean over all but the classes.

    `how` they are compared: "softmax" is the Kullback–Leibler divergence of softened classes, "sigmoid" that of each softened
    label, mean over them, both times temperature² so that gradients keep their size; "values" is the mean squared difference;
    "vectors" is each vector's as a share of the teacher's square, which is 2 (1 - cosine) where both have the same length.
    Hinton, Vinyals and Dean, 2015, "Distilling the Knowledge in a Neural Network"."""
    from torch.nn import functional

    student, teacher = student.float(), teacher.float()
    if how == "values":
        return functional.mse_loss(student, teacher)
    if how == "vectors":
        return ((student - teacher).square().sum(-1) / teacher.square().sum(-1).clamp(min=_LEAST)).mean()
    student, teacher = student / temperature, teacher / temperature
    if how == "sigmoid":
        ours, theirs = ((functional.logsigmoid(values), functional.logsigmoid(-values)) for values in (student, teacher))
        parts = [there.exp() * (there - here) for here, there in zip(ours, theirs, strict=True)]
        return (parts[0] + parts[1]).mean() * temperature**2
    log_student, log_teacher = (functional.log_softmax(values, -1).flatten(0, -2) for values in (student, teacher))
    return functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True) * temperature**2


def without_padding(student: Any, teacher: Any, labels: Any, mask: Any) -> tuple[Any, Any]:
    """Logits about tokens without those of padding, by `mask` (rows, tokens), and of tokens whose label, if each has one, is none.

    Logits of each token (rows, tokens, classes) become (real tokens, classes); where tokens are what is chosen from
    (rows, tokens), padding gets no probability."""
    real = (mask > 0) & (labels >= 0) if labels is not None and labels.shape == mask.shape else mask > 0
    if student.dim() > 2:
        return student[real], teacher[real]
    return student.masked_fill(~real, _NEVER), teacher.masked_fill(~real, _NEVER)


def hidden_states(student: Sequence[Any], teacher: Sequence[Any], mask: Any) -> Any:
    """Mean squared difference of states (rows, tokens, width) where `mask` (rows, tokens) is 1, mean over the layers."""
    return _squares(student, teacher, mask.unsqueeze(-1).float(), -1)


def attention_maps(student: Sequence[Any], teacher: Sequence[Any], mask: Any) -> Any:
    """Squared difference of attention probabilities (rows, heads, queries, keys), mean over the layers.

    Summed over the keys, so that long rows weigh as much as short ones, and averaged over heads and the queries where
    `mask` (rows, tokens) is 1."""
    return _squares(student, teacher, mask[:, None, :, None].float(), 1)


def _squares(student: Sequence[Any], teacher: Sequence[Any], real: Any, averaged: int) -> Any:
    """Over what is `real` and the layers, mean squares of differences, themselves a mean over the axis `averaged` alone."""
    squares = [
        ((ours.float() - theirs.float()) * real).square().sum() / ours.shape[averaged]
        for ours, theirs in zip(student, teacher, strict=True)
    ]
    return sum(squares) / (len(squares) * real.sum())
