"""Which of a row's choices fits its context: each choice goes in by itself, with the context, and gets one logit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.encode import Encoding, feed
from edgekit.data.samples import Samples
from edgekit.data.sources import ColumnNames, Rows, TextRows
from edgekit.errors import DatasetError
from edgekit.spec import TensorSpec
from edgekit.tasks.base import Description, Outputs, Prediction, Reading, Settings, Task, first_output
from edgekit.tasks.classification import cross_entropy, probabilities, scores
from edgekit.tasks.metrics import ACCURACY, CROSS_ENTROPY, Metric


@dataclass(frozen=True)
class MultipleChoice(Task):
    """No settings. A row makes a sample for each of its choices, of which there may be any number.

    Labels (N,) int64 are 1 for the right choice and 0 for the others; the record of a row's first sample holds its `choices`."""

    def settings(self, config: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
        return {}

    def metrics(self, settings: Settings) -> tuple[Metric, ...]:
        return (ACCURACY, CROSS_ENTROPY)

    def encode(self, rows: Rows, inputs: Sequence[TensorSpec], encoding: Encoding, settings: Settings, folder: Path) -> Samples:
        if not isinstance(rows, TextRows):
            return super().encode(rows, inputs, encoding, settings, folder)
        choices: list[tuple[str, ...]] = [(pair,) if isinstance(pair, str) else tuple(pair) for pair in rows.pairs or ()]
        for index, listed in enumerate(choices or [()] * len(rows)):
            if len(listed) < 2:
                where = f"{rows.origin}: row {rows.number(index)} (from 0)"
                raise DatasetError(f"{where} has {len(listed)} of the two choices and more that a question needs; add some")
        counts = [len(listed) for listed in choices]
        texts = tuple(text for text, count in zip(rows.texts, counts, strict=True) for _ in range(count))
        alone = replace(rows, texts=texts, pairs=tuple(choice for listed in choices for choice in listed), labels=None, numbers=())
        samples, labels = feed(alone, inputs, encoding, folder), None
        if rows.labels is not None:
            right = [_place(rows, index, listed) for index, listed in enumerate(choices)]
            labels = np.array([int(place == own) for own, count in zip(right, counts, strict=True) for place in range(count)])
        records = [{"choices": list(listed)} if place == 0 else None for listed in choices for place in range(len(listed))]
        fed = replace(samples, records=records, row=np.repeat(np.arange(len(rows)), counts))
        return fed.labelled(labels, self.name, settings)

    def reading(self, outputs: Outputs, samples: Samples) -> Reading:
        name, first = first_output(outputs)
        logits = scores(first, name)[:, :1]
        if samples.row is None:
            return Reading(None, {name: logits})
        starts = np.unique(samples.row, return_index=True)[1][1:]
        groups = np.split(logits[:, 0], starts)
        chosen = np.array([group.argmax() for group in groups])
        if samples.labels is None:
            return Reading(chosen, {name: logits})
        right = np.array([group.argmax() for group in np.split(np.asarray(samples.labels), starts)])
        losses = np.array([cross_entropy(group[None], place[None])[0] for group, place in zip(groups, right, strict=True)])
        tallies = {
            ACCURACY.name: (chosen == right)[:, np.newaxis],
            CROSS_ENTROPY.name: np.stack([losses, np.ones_like(losses)], axis=1),
        }
        return Reading(chosen, {name: logits}, tallies)

    def head(self, settings: Settings) -> dict[str, Any]:
        return {}

    def loss(self, outputs: Any, labels: Any, settings: Settings) -> Any:
        from torch.nn import functional

        # All rows of a batch have as many choices, of which one is right.
        rows = int(labels.sum())
        return functional.cross_entropy(outputs.logits.float().reshape(rows, -1), labels.reshape(rows, -1).argmax(1))

    def soft_targets(self, outputs: Any, settings: Settings) -> list[tuple[Any, str]]:
        return [(outputs.logits, "values")]

    def predict(self, outputs: Outputs, samples: Samples) -> Prediction:
        name, first = first_output(outputs)
        shares = probabilities(scores(first, name)[:, :1].T, {})[0]
        choices, best = (samples.records or [{}])[0]["choices"], int(shares.argmax())
        fields = {"choice": choices[best], "index": best, "score": float(shares[best]), "scores": shares.tolist()}
        return Prediction(choices[best], float(shares[best]), fields)

    def describe(self, settings: Settings) -> Description:
        text = "How well the second text goes with the first; the softmax over all choices says how likely each is."
        return Description("Multiple choice", {"": ("logits", text)})


def _place(rows: TextRows, index: int, choices: Sequence[str]) -> int:
    """The number of the right choice, which a label says as a number from 0, a letter from A, or its text."""
    label = (rows.labels or ())[index]
    if isinstance(label, str):
        letter = ord(label.upper()) - ord("A") if len(label) == 1 else -1
        label = choices.index(label) if label in choices else letter
    if not isinstance(label, int) or not 0 <= label < len(choices):
        where = f"{rows.origin}: row {rows.number(index)} (from 0)"
        raise DatasetError(
            f"{where} has the label {(rows.labels or ())[index]!r}, which is none of its {len(choices)} choices; "
            "give a number from 0, a letter from A, or the choice itself"
        )
    return label


MULTIPLE_CHOICE = MultipleChoice(
    "multiple-choice",
    "text",
    ("ForMultipleChoice",),
    "AutoModelForMultipleChoice",
    ("logits",),
    ColumnNames(
        texts=(
            ("sent1", "sent2"),
            *((name, "question") for name in ("article", "context", "premise", "passage")),
            *((name,) for name in ("ctx", "context", "premise", "sent1", "startphrase", "question", "sentence", "goal", "text")),
        ),
        labels=("label", "answer", "labels", "gold"),
        choices=("choices", "endings", "options", "ending", "choice", "option", "sol"),
    ),
)
