"""Encoded rows as padded torch batches that a model takes; for a worker, because it loads torch."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.samples import Array, Samples
from edgekit.errors import CheckpointError, DatasetError
from edgekit.tasks import table as tasks


@dataclass(frozen=True, eq=False)
class Batch:
    """int64 `inputs` and `mask` (rows, tokens), and `labels` (rows, …); the tokens are those in `span` of the samples'."""

    inputs: dict[str, Any]
    mask: Any
    labels: Any
    span: slice


@dataclass(frozen=True, eq=False)
class Batches:
    """Samples (N, max_length) and their attention mask, by which each batch is cut to its longest row."""

    samples: Samples
    mask: Array
    lengths: Array

    @staticmethod
    def of(samples: Samples, model: Any, origin: Path) -> "Batches":
        """The inputs of `samples` that `model`, loaded from `origin`, takes.

        Raises `CheckpointError` for a token id that it does not know."""
        accepted = inspect.signature(model.forward).parameters
        highest, count = int(samples.inputs["input_ids"].max()), model.config.vocab_size
        if highest >= count:
            raise CheckpointError(
                f"{origin}: the tokenizer gives id {highest} but config.json allows {count} ids; give its own tokenizer"
            )
        inputs = {name: array for name, array in samples.inputs.items() if name in accepted}
        mask = samples.inputs["attention_mask"]
        return Batches(replace(samples, inputs=inputs), mask, mask.sum(axis=1))

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def by_token(self) -> bool:
        """Whether outputs are about tokens, and labels, where there are any, their tags or places."""
        return tasks.find(self.samples.task).per_token

    @property
    def group_lengths(self) -> Array:
        """The longest of the samples that a loss compares with each other: two texts of a row, else each sample alone."""
        return self.lengths.reshape(-1, self._group).max(axis=1)

    def members(self, groups: Array) -> Array:
        """Numbers of the samples of some groups, see `group_lengths`."""
        return (groups[:, np.newaxis] * self._group + np.arange(self._group)).reshape(-1)

    @cached_property
    def _group(self) -> int:
        task = tasks.find(self.samples.task)
        if self.samples.row is None or not (task.headless or task.columns.choices):
            return 1
        counts = np.unique(np.unique(self.samples.row, return_counts=True)[1])
        if len(counts) > 1:
            raise DatasetError(f"rows have {counts[0]} to {counts[-1]} choices; training takes as many of each row")
        return int(counts[0])

    def ranked(self, size: int) -> Iterator[Array]:
        """Numbers of the samples in batches of `size` groups, shortest first."""
        order = np.argsort(self.group_lengths, kind="stable")
        return (self.members(order[start : start + size]) for start in range(0, len(order), size))

    def batch(self, numbers: Array) -> Batch:
        """The samples with these numbers."""
        import torch

        labels = self.samples.labels
        used = np.flatnonzero(self.mask[numbers].any(axis=0))
        tags = self.by_token and labels is not None and labels.shape[1] == self.mask.shape[1]
        # Places of tokens are counted from the first column, which has to stay.
        start = int(used[0]) if used.size and (tags or not self.by_token) else 0
        span = slice(start, int(used[-1]) + 1 if used.size else 1)

        def cut(array: Array) -> Any:
            return torch.from_numpy(array[numbers][:, span].astype(np.int64))

        inputs = {name: cut(array) for name, array in self.samples.inputs.items()}
        answers = None if labels is None else cut(labels) if tags else torch.from_numpy(labels[numbers])
        return Batch(inputs, cut(self.mask), answers, span)
