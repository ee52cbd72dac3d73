"""What a student is told by its teacher, as losses on torch tensors."""

from collections.abc import Sequence
from typing import Any


def soft_targets(student: Any, teacher: Any, temperature: float) -> Any:
    """Kullback–Leibler divergence of softened classes, times temperature² so that its gradients keep their size.

    Logits are (rows, classes). Hinton, Vinyals and Dean, 2015, "Distilling the Knowledge in a Neural Network".
    """
    from torch.nn import functional

    log_student = functional.log_softmax(student.float() / temperature, -1)
    log_teacher = functional.log_softmax(teacher.float() / temperature, -1)
    return functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True) * temperature**2


def hidden_states(student: Sequence[Any], teacher: Sequence[Any], mask: Any) -> Any:
    """Mean squared difference of states (rows, tokens, width) where `mask` (rows, tokens) is 1, mean over the layers."""
    real = mask.unsqueeze(-1).float()
    squares = [
        ((ours.float() - theirs.float()) * real).square().sum() / ours.shape[-1]
        for ours, theirs in zip(student, teacher, strict=True)
    ]
    return sum(squares) / (len(squares) * real.sum())


def attention_maps(student: Sequence[Any], teacher: Sequence[Any], mask: Any) -> Any:
    """Squared difference of attention probabilities (rows, heads, queries, keys), mean over the layers.

    Summed over the keys, so that long rows weigh as much as short ones, and averaged over heads and the queries where
    `mask` (rows, tokens) is 1.
    """
    real = mask[:, None, :, None].float()
    squares = [
        ((ours.float() - theirs.float()) * real).square().sum() / ours.shape[1]
        for ours, theirs in zip(student, teacher, strict=True)
    ]
    return sum(squares) / (len(squares) * real.sum())
