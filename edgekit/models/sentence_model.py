"""A sentence-transformers head as torch modules, joined to its encoder; for a worker, because it loads torch."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from edgekit.models import sentence_head
from edgekit.models.sentence_head import Dense, SentenceHead

# What the encoder's outputs hold besides.
OUTPUT = "sentence_embedding"
_LEAST = 1e-12


class Pooled(torch.nn.Module):
    """States (B, L, D) and their mask (B, L) to vectors (B, K). `skipped` are the first real tokens, which are not pooled.

    `from_left` says that padding stands before a text."""

    def __init__(self, head: SentenceHead, skipped: int, *, from_left: bool) -> None:
        super().__init__()
        self.head, self.skipped, self.from_left = head, skipped, from_left
        self.dense = torch.nn.ModuleList(
            torch.nn.Linear(layer.inputs, layer.outputs, layer.bias) for layer in head.layers if isinstance(layer, Dense)
        )

    def forward(self, states: Any, mask: Any) -> Any:
        real = mask.to(states.dtype)
        places = real.cumsum(1) * real if self.from_left else torch.arange(1, mask.shape[1] + 1, dtype=states.dtype) * real
        pooled_mask = real if not self.skipped else (places > self.skipped).to(states.dtype)
        vector = torch.cat([self._pool(way, states, pooled_mask, places) for way in self.head.pooling], dim=-1)
        dense = iter(self.dense)
        for layer in self.head.layers:
            if isinstance(layer, Dense):
                vector = _activation(layer.activation)(next(dense)(vector))
            else:
                # Of all ways to divide by a length, RSQRT alone has an integer kernel.
                vector = vector * torch.rsqrt((vector * vector).sum(-1, keepdim=True).clamp(min=_LEAST**2))
        return vector

    def _pool(self, way: str, states: Any, mask: Any, places: Any) -> Any:
        weights = mask.unsqueeze(-1)
        if way == "max":
            # Of what is not pooled the least there is remains, and no infinity.
            least = states.amin(1, keepdim=True)
            return (least + (states - least) * weights).amax(1)
        if way == "cls":
            if not self.from_left and not self.skipped:
                return states[:, 0]
            first = mask * (torch.nn.functional.pad(mask, (1, 0))[:, :-1] == 0)
            return (states * first.unsqueeze(-1)).sum(1)
        if way == "lasttoken":
            if self.from_left:
                return states[:, -1]
            last = mask * (torch.nn.functional.pad(mask, (0, 1))[:, 1:] == 0)
            return (states * last.unsqueeze(-1)).sum(1)
        if way == "weightedmean":
            weights = (mask * places).unsqueeze(-1)
        count = weights.sum(1).clamp(min=1)
        return (states * weights).sum(1) / (count.sqrt() if way == "mean_sqrt_len_tokens" else count)

    def tensors(self) -> list[dict[str, Any]]:
        """Those of each Dense, by the names of its file."""
        return [{f"linear.{name}": value.detach().clone() for name, value in layer.state_dict().items()} for layer in self.dense]

    def load(self, tensors: Sequence[Mapping[str, Any]]) -> None:
        """Take the tensors of each Dense. Raises `KeyError` and `RuntimeError` where they do not fit."""
        for layer, stored in zip(self.dense, tensors, strict=True):
            layer.load_state_dict({name.removeprefix("linear."): value.float() for name, value in stored.items()})


def joined(model: Any, head: SentenceHead, source: Path, skipped: int, *, from_left: bool) -> Any:
    """`model`, whose outputs have the vector too, as `OUTPUT`, and which is saved with the files of `head`.

    Other files of the head come from the folder `source`."""
    base = type(model)

    class SentenceModel(base):  # type: ignore[misc,valid-type]
        @functools.wraps(base.forward)
        def forward(self, *arguments: Any, **named: Any) -> Any:
            outputs = base.forward(self, *arguments, **named)
            outputs[OUTPUT] = self.sentence_head(outputs.last_hidden_state, named["attention_mask"])
            return outputs

        def save_pretrained(self, folder: Any, **options: Any) -> None:
            base.save_pretrained(self, folder, state_dict=encoder_tensors(self), **options)
            self.save_head(Path(folder))

        def save_head(self, folder: Path) -> None:
            sentence_head.write(head, source, folder, self.sentence_head.tensors())

    # transformers names the architecture by the class, and finds by its name which states it gives.
    SentenceModel.__name__, SentenceModel.__qualname__, SentenceModel.__module__ = base.__name__, base.__qualname__, base.__module__
    model.__class__ = SentenceModel
    setattr(model, sentence_head.NAME, Pooled(head, skipped, from_left=from_left))
    return model.eval()


def encoder_tensors(model: Any) -> dict[str, Any]:
    """The state of a model without what is the head's."""
    return {name: value for name, value in model.state_dict().items() if not name.startswith(f"{sentence_head.NAME}.")}


def _activation(name: str) -> Any:
    return getattr(torch.nn, name)()
