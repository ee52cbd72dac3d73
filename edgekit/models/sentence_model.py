"""A sentence-transformers head as torch modules, joined to its encoder; call these in a worker, because they load torch."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.models import sentence_head
from edgekit.models.sentence_head import Dense, SentenceHead

# What the encoder's outputs hold besides.
OUTPUT = "sentence_embedding"
_LEAST = 1e-12


def joined(
    model: Any, head: SentenceHead, source: Path, tensors: Sequence[Mapping[str, Any]], skipped: int, *, from_left: bool
) -> Any:
    """`model`, whose outputs have the vector (B, K) too, as `OUTPUT`, and which is saved with the files of `head`.

    `tensors` are those of each Dense; other files of the head come from the folder `source`. `skipped` is how many of the first
    tokens are not pooled; `from_left` says that padding stands before a text. Raises `RuntimeError` where tensors do not fit."""
    base = type(model)

    class SentenceModel(base):  # type: ignore[misc,valid-type]
        @functools.wraps(base.forward)
        def forward(self, *arguments: Any, **named: Any) -> Any:
            outputs = base.forward(self, *arguments, **named)
            outputs[OUTPUT] = self.sentence_head(outputs.last_hidden_state, named["attention_mask"])
            return outputs

        def save_pretrained(self, folder: Any, **options: Any) -> None:
            own = f"{sentence_head.NAME}."
            state = {name: value for name, value in self.state_dict().items() if not name.startswith(own)}
            base.save_pretrained(self, folder, state_dict=state, **options)
            self.save_head(Path(folder))

        def save_head(self, folder: Path) -> None:
            dense = [
                {f"linear.{name}": value.detach().clone() for name, value in layer.state_dict().items()}
                for layer in self.sentence_head.dense
            ]
            sentence_head.write(head, source, folder, dense)

    # transformers names the architecture by the class, and finds by its name which states it gives.
    SentenceModel.__name__, SentenceModel.__qualname__, SentenceModel.__module__ = base.__name__, base.__qualname__, base.__module__
    model.__class__ = SentenceModel
    setattr(model, sentence_head.NAME, _module(head, tensors, skipped, from_left))
    return model


def _module(head: SentenceHead, tensors: Sequence[Mapping[str, Any]], skipped: int, from_left: bool) -> Any:
    import torch
    from torch.nn import functional

    class Pooled(torch.nn.Module):
        """States (B, L, D) and their mask (B, L) to vectors (B, K)."""

        def __init__(self) -> None:
            super().__init__()
            # Constants, which a scalar or torch.ones would not be in every exporter's graph.
            self.register_buffer("one", torch.ones(1), persistent=False)
            self.register_buffer("none", torch.zeros(1), persistent=False)
            dense = [layer for layer in head.layers if isinstance(layer, Dense)]
            self.dense = torch.nn.ModuleList(torch.nn.Linear(layer.inputs, layer.outputs, layer.bias) for layer in dense)
            for layer, stored in zip(self.dense, tensors, strict=True):
                layer.load_state_dict({name.removeprefix("linear."): value.float() for name, value in stored.items()})

        def forward(self, states: Any, mask: Any) -> Any:
            # Selected and not cast: a CAST has no integer form.
            real = torch.where(mask > 0, self.one, self.none)
            # Of each token its place in the text, from 1.
            places = real.cumsum(1) if from_left else torch.arange(1, mask.shape[1] + 1, dtype=states.dtype)
            pooled = torch.where(places > skipped, real, self.none) if skipped else real
            vector = torch.cat([pool(way, states, pooled, places) for way in head.pooling], dim=-1)
            dense = iter(self.dense)
            for layer in head.layers:
                if isinstance(layer, Dense):
                    vector = getattr(torch.nn, layer.activation)()(next(dense)(vector))
                else:
                    # Of all ways to divide by a length, RSQRT alone has an integer kernel.
                    vector = vector * torch.rsqrt((vector * vector).sum(-1, keepdim=True).clamp(min=_LEAST**2))
            return vector

    def pool(way: str, states: Any, mask: Any, places: Any) -> Any:
        weights = mask * places if way == "weightedmean" else mask
        if way == "max":
            # Of what is not pooled the least there is remains, and no infinity.
            least = states.amin(1, keepdim=True)
            return (least + (states - least) * mask.unsqueeze(-1)).amax(1)
        if way == "cls" and not from_left and not skipped:
            return states[:, 0]
        if way == "cls":
            weights = mask * (1 - functional.pad(mask, (1, 0))[:, :-1])
        if way == "lasttoken":
            weights = mask * (1 - functional.pad(mask, (0, 1))[:, 1:])
        total = (states * weights.unsqueeze(-1)).sum(1)
        if way in ("cls", "lasttoken"):
            return total
        count = weights.sum(1, keepdim=True).clamp(min=1)
        return total / (count.sqrt() if way == "mean_sqrt_len_tokens" else count)

    return Pooled()
