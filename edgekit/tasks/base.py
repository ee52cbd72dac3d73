"""What a task is: rows, what is fed, what outputs mean, what is learned, and what a person sees."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.encode import Encoding, feed
from edgekit.data.samples import Array, Samples
from edgekit.data.sources import COLUMNS, ColumnNames, Rows, TextRows
from edgekit.errors import ConfigError
from edgekit.spec import MASK, TensorSpec
from edgekit.tasks.metrics import Metric

Settings = Mapping[str, Any]
Outputs = Mapping[str, Array]


@dataclass(frozen=True)
class Reading:
    """What a task makes of the outputs of some rows.

    `decisions` (D,) are compared one by one with the reference's, numbers or strings; None where the task decides nothing.
    `values` are the real outputs that count, by output name, each (P, …) with padding left out; their error is taken against
    what varies along the first axis. `tallies` (rows, k) are what each metric reduces, by its name; empty without labels."""

    decisions: Array | None
    values: Mapping[str, Array]
    tallies: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    """What a person sees of one row. `answer` is it in one line; `fields` are for programs, as JSON holds them.

    `milliseconds` counts encoding and inference. `remark` says what happened to an input that was empty or too long."""

    answer: str
    score: float
    fields: Mapping[str, Any]
    milliseconds: float = 0.0
    remark: str = ""


@dataclass(frozen=True)
class Description:
    """What metadata, bundle and demo say: `what` the model is, such as "Text classifier", and of each output its title and text."""

    what: str
    outputs: Mapping[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Task(ABC):
    """One kind of model, stateless; what differs from model to model stands in its `settings`, which travel in files and samples.

    `name` is a Hugging Face pipeline tag. `heads` are the suffixes of the architectures that serve it, `auto` is the transformers
    class that loads them, `outputs` are the fields of what that gives, all of which are kept. `modality` is text, image or
    arrays. `columns` are the names that its rows' columns are found by. `headless` is one that reads an encoder's states: any
    checkpoint serves it, each text of a row goes in by itself, and it is learned from a teacher without labels. `per_token` says
    that outputs (N, L, …) are about tokens. `self_supervised` is what encoders are pretrained for: rows
    are their own labels."""

    name: str
    modality: str = "arrays"
    heads: tuple[str, ...] = ()
    auto: str = ""
    outputs: tuple[str, ...] = ()
    columns: ColumnNames = COLUMNS
    headless: bool = False
    per_token: bool = False
    self_supervised: bool = False

    def serves(self, architecture: str) -> bool:
        """Whether the head of an architecture, such as BertForTokenClassification, is this task's."""
        return architecture.endswith(self.heads)

    def joins(self, rows: Rows | None) -> bool:
        """Whether `rows` are pairs of texts that go in side by side."""
        return isinstance(rows, TextRows) and rows.pairs is not None and not self.headless

    def settings(self, config: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
        """What of a checkpoint's config.json decides how its outputs are read."""
        return {"labels": list(labels)}

    def labels_of(self, rows: Rows, known: Sequence[str]) -> list[str]:
        """Names of the classes of a head for labelled `rows`: the checkpoint's own, `known`, where they cover them.

        Raises `DatasetError` for labels that make no classes."""
        return list(known)

    def settings_for(
        self, rows: Rows, config: Mapping[str, Any], known: Sequence[str], problem: str | None, trained: bool
    ) -> dict[str, Any]:
        """Settings of a head to train on labelled `rows`, where config.json says `config` and names the classes `known`.

        `problem` is what the user calls it; `trained` says that the checkpoint has such a head, which is kept. Raises `ConfigError`
        if the rows or the user ask for another, and `DatasetError`."""
        if problem is not None:
            raise ConfigError(f"--problem {problem}: task {self.name} knows one problem alone; leave it out")
        return self.settings(config, self.labels_of(rows, known))

    def metrics(self, settings: Settings) -> tuple[Metric, ...]:
        """What rows with labels are judged by; the first one gates."""
        return ()

    def likeness_metrics(self) -> tuple[Metric, ...]:
        """What rows are judged by against a reference, with or without labels, beside decisions and the error of values."""
        return ()

    def likeness(self, ours: Reading, theirs: Reading, samples: Samples) -> Mapping[str, Array]:
        """Tallies (rows, k) of `likeness_metrics` by name, of what was read of the same `samples`."""
        return {}

    def encode(self, rows: Rows, inputs: Sequence[TensorSpec], encoding: Encoding, settings: Settings, folder: Path) -> Samples:
        """Samples for `inputs` with labels in the task's own form, here none; large arrays lie under `folder`.

        Raises `DatasetError`."""
        return feed(rows, inputs, encoding, folder).labelled(None, self.name, settings)

    def with_prompt(self, settings: Settings, name: str) -> Settings:
        """`settings` with the prompt of that name before every text. Raises `ConfigError` where there is none."""
        raise ConfigError(f"prompt {name!r}: task {self.name} has no prompts; leave it out")

    def refuse(self, rows: TextRows, settings: Settings) -> None:
        """Raise `DatasetError` for rows of which there is nothing to predict."""
        return

    def without_padding(self, outputs: Outputs, samples: Samples) -> Outputs:
        """`outputs` (N, …) of `samples`, of which those about padding tokens, which nobody reads, are zeros."""
        mask = samples.inputs.get(MASK)
        if not self.per_token or mask is None:
            return outputs
        padding = np.asarray(mask) == 0
        kept = {name: np.array(array) for name, array in outputs.items()}
        for array in kept.values():
            if array.shape[:2] == padding.shape:
                array[padding] = 0
        return kept

    @abstractmethod
    def reading(self, outputs: Outputs, samples: Samples) -> Reading:
        """What the outputs (N, …) of `samples`, which are whole rows, mean. Raises `RefusedError` where they mean nothing."""

    def head(self, settings: Settings) -> dict[str, Any]:
        """What a transformers config is told for a head with these settings. Raises `ConfigError` if the task is not trained."""
        raise ConfigError(f"task {self.name}: is not fine-tuned; give a checkpoint of another task")

    def loss(self, outputs: Any, labels: Any, settings: Settings) -> Any:
        """Mean loss, a torch scalar, of a transformers model's outputs against `Samples.labels` of the batch as a tensor."""
        raise NotImplementedError

    def sensitivity(self, outputs: Any) -> Any:
        """A torch scalar whose gradient says what outputs depend on, mean over rows, where no labels say what is right.

        None where labels are needed."""
        return None

    def soft_targets(self, outputs: Any, settings: Settings) -> list[tuple[Any, str]]:
        """What a student learns from a teacher's outputs: torch logits (rows, …, classes), each with how they are compared.

        That is "softmax" over the last axis, "sigmoid" for each value, "values" as they are, or "vectors" along the last axis."""
        raise NotImplementedError

    @abstractmethod
    def predict(self, outputs: Outputs, samples: Samples) -> Prediction:
        """What a person sees of one row, whose samples and outputs (N, …) these are."""

    def describe(self, settings: Settings) -> Description:
        """Words for metadata, bundle and demo."""
        return Description("Model")


def first_output(outputs: Outputs) -> tuple[str, Array]:
    """Name and values of what a model gives first."""
    name = next(iter(outputs))
    return name, np.asarray(outputs[name])
