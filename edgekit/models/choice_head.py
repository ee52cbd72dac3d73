"""A multiple-choice model on each choice by itself; call these in a worker, because they load torch."""

from typing import Any


def alone(model: Any) -> Any:
    """`model`, which takes choices (N, L) and gives their logits (N, 1), and not rows (B, C, L) and (B, C).

    Choices are compared by the softmax alone, which is no part of it, so the logits are the same for any number of them."""

    def as_rows(_: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        import torch

        def row(value: Any) -> Any:
            return value.unsqueeze(1) if isinstance(value, torch.Tensor) and value.dim() == 2 else value

        return tuple(map(row, arguments)), {name: row(value) for name, value in named.items()}

    model.register_forward_pre_hook(as_rows, with_kwargs=True)
    return model
