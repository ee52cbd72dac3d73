"""The token that stands behind a mask; a text without one has one of its tokens masked, which is its own label."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.encode import Encoding, feed
from edgekit.data.samples import Samples
from edgekit.data.sources import COLUMNS, ColumnNames, Rows, TextRows
from edgekit.data.text import open_tokenizer, uncut
from edgekit.errors import DatasetError, RefusedError
from edgekit.spec import TensorSpec
from edgekit.tasks.base import Description, Outputs, Prediction, Reading, Settings, Task, first_output
from edgekit.tasks.classification import cross_entropy, probabilities, scores
from edgekit.tasks.metrics import ACCURACY, PSEUDO_PERPLEXITY, Metric

# How many tokens a prediction names.
_SHOWN = 5
_IDS, _MASK = "input_ids", "attention_mask"


@dataclass(frozen=True)
class FillMask(Task):
    """Settings: `mask_token` and its `mask_token_id`, those of the tokenizer.

    The model gives the logits (N, V) of the mask's place alone. Labels (N,) int64 are the token that was there, -1 where nobody
    said it; the record of a sample says which `tokenizer` names its tokens."""

    def settings(self, config: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
        return {name: config[name] for name in ("mask_token", "mask_token_id") if name in config}

    def metrics(self, settings: Settings) -> tuple[Metric, ...]:
        return (ACCURACY, PSEUDO_PERPLEXITY)

    def encode(self, rows: Rows, inputs: Sequence[TensorSpec], encoding: Encoding, settings: Settings, folder: Path) -> Samples:
        if not isinstance(rows, TextRows):
            return super().encode(rows, inputs, encoding, settings, folder)
        if rows.pairs is not None or any(not isinstance(text, str) for text in rows.texts):
            raise DatasetError(f"{rows.origin}: task {self.name} takes single texts; name their column with --text-column")
        token, number = _mask_of(rows, settings)
        samples = feed(replace(rows, labels=None), inputs, encoding, folder)
        tokenizer = encoding.tokenizer or Path()
        encoder = open_tokenizer(tokenizer, samples.inputs[_IDS].shape[1], pair=False)
        special = [place for place, added in encoder.get_added_tokens_decoder().items() if added.special]
        ids, labels = np.array(samples.inputs[_IDS]), np.full(len(rows), -1, np.int64)
        real = ~np.isin(ids, special) & (np.asarray(samples.inputs[_MASK]) > 0)
        for index, (text, row) in enumerate(zip(rows.texts, ids, strict=True)):
            where, there = f"{rows.origin}: row {rows.number(index)} (from 0)", int((row == number).sum())
            if there > 1:
                raise DatasetError(f"{where} has {there} masks, of which one is filled; leave one {token} in each text")
            label = rows.labels[index] if rows.labels is not None else None
            if there:
                labels[index] = -1 if label is None else _id_of(encoder, label, where)
            elif token in text:
                raise DatasetError(f"{where} has its {token} behind the {len(row)} tokens that the model takes; shorten the text")
            elif label is not None:
                raise DatasetError(f"{where} has the label {str(label)[:60]!r} but no {token}; put one where it stands")
            elif not (places := np.flatnonzero(real[index])).size:
                raise DatasetError(f"{where} has no token to mask; leave the row out")
            else:
                # The same one whatever rows are drawn with it, and however its tokens are numbered.
                place = places[zlib.crc32(text.encode()) % len(places)]
                labels[index], ids[index, place] = row[place], number
        records = [{"tokenizer": str(tokenizer)}] * len(rows)
        fed = replace(samples, inputs={**samples.inputs, _IDS: ids}, records=records)
        return fed.labelled(labels if (labels >= 0).any() else None, self.name, settings)

    def refuse(self, rows: TextRows, settings: Settings) -> None:
        token, _ = _mask_of(rows, settings)
        if lacking := [text for text in rows.texts if token not in text]:
            raise DatasetError(
                f"{rows.origin}: there is no {token} in {lacking[0][:60]!r}; put one where a token is to be filled in"
            )

    def reading(self, outputs: Outputs, samples: Samples) -> Reading:
        name, first = first_output(outputs)
        logits = scores(first, name)
        if logits.shape[1] < 2:
            raise RefusedError(f"output {name} of shape {first.shape[1:]} holds no tokens to choose from; name another --task")
        if len(logits) > 1 and (logits == logits[:, :1]).all():
            raise RefusedError(
                "every token gets the same score in every row; convert again with another scheme or other representative data"
            )
        chosen = logits.argmax(axis=1)
        if samples.labels is None:
            return Reading(chosen, {name: logits})
        labels = np.asarray(samples.labels)
        if labels.max(initial=-1) >= logits.shape[1]:
            raise DatasetError(f"token {labels.max()} is beyond the model's {logits.shape[1]}; give its own tokenizer")
        labelled = labels >= 0
        losses = cross_entropy(logits[labelled], labels[labelled])
        tallies = {
            ACCURACY.name: (chosen == labels)[labelled][:, np.newaxis],
            PSEUDO_PERPLEXITY.name: np.stack([losses, np.ones_like(losses)], axis=1),
        }
        return Reading(chosen, {name: logits}, tallies)

    def head(self, settings: Settings) -> dict[str, Any]:
        return {}

    def loss(self, outputs: Any, labels: Any, settings: Settings) -> Any:
        from torch.nn import functional

        return functional.cross_entropy(outputs.logits.float(), labels, ignore_index=-1)

    def soft_targets(self, outputs: Any, settings: Settings) -> list[tuple[Any, str]]:
        return [(outputs.logits, "softmax")]

    def predict(self, outputs: Outputs, samples: Samples) -> Prediction:
        """The likeliest tokens, as transformers' pipeline names them."""
        name, first = first_output(outputs)
        shares = probabilities(scores(first, name), {})[0]
        tokenizer = Path((samples.records or [{}])[0]["tokenizer"])
        encoder = open_tokenizer(tokenizer, samples.inputs[_IDS].shape[1], pair=False)
        best = np.argsort(-shares, kind="stable")[:_SHOWN].tolist()
        candidates = [{"token": _named(encoder, number), "id": number, "score": float(shares[number])} for number in best]
        token, score = str(candidates[0]["token"]), float(shares[best[0]])
        return Prediction(token, score, {"token": token, "score": score, "candidates": candidates})

    def describe(self, settings: Settings) -> Description:
        text = f"Logit of each token of the vocabulary to stand where {settings.get('mask_token', 'the mask')} does."
        return Description("Masked language model", {"": ("logits", text)})


def _mask_of(rows: TextRows, settings: Settings) -> tuple[str, int]:
    if not {"mask_token", "mask_token_id"} <= settings.keys():
        raise DatasetError(f"{rows.origin}: nothing says which token is the model's mask; convert its checkpoint with edgekit")
    return str(settings["mask_token"]), int(settings["mask_token_id"])


def _id_of(encoder: Any, label: Any, where: str) -> int:
    """The one token that a label is as a word, alone or behind a space, or whose name it is. Raises `DatasetError` for others."""
    for text in (str(label), f" {label}"):
        ids = uncut(encoder).encode(text, add_special_tokens=False).ids
        if len(ids) == 1:
            return int(ids[0])
    if (number := encoder.token_to_id(str(label))) is not None:
        return int(number)
    raise DatasetError(f"{where} has the label {str(label)[:60]!r}, which is no single token; leave the row out")


def _named(encoder: Any, number: int) -> str:
    """A token as it reads; its name where it reads as nothing, and its number where no tokenizer has it."""
    return encoder.decode([number], skip_special_tokens=False).strip() or encoder.id_to_token(number) or str(number)


FILL_MASK = FillMask(
    "fill-mask",
    "text",
    ("ForMaskedLM", "WithLMHeadModel", "BertForPreTraining"),
    "AutoModelForMaskedLM",
    ("logits",),
    ColumnNames(texts=tuple(group for group in COLUMNS.texts if len(group) == 1), labels=("masked",), verbatim=True),
    self_supervised=True,
)
