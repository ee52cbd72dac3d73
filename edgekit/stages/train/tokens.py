"""Rows as token ids in memory, and the order in which training takes them; for a worker, because it loads torch."""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import CheckpointError, ConfigError
from edgekit.models.checkpoint import tokenizer_folder

# Batches that are drawn together and sorted by length: more wastes less padding, fewer mix the rows better.
_POOL = 16


@dataclass(frozen=True)
class Encoded:
    """Rows to learn from or to judge by: texts, second halves if they are pairs, and int class numbers."""

    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Tokens:
    """Token ids of every row, and what fills the room behind a short one."""

    columns: dict[str, list[Any]]
    fill: dict[str, int]
    labels: Any
    lengths: np.ndarray

    @classmethod
    def encode(cls, rows: Encoded, tokenizer: Any, model: Any, folder: Path, max_length: int) -> "Tokens":
        """Token ids as `model` from `folder` takes them.

        Raises `ConfigError` if `max_length` is more than it takes, `CheckpointError` for an id that it does not know.
        """
        import torch

        places = min(getattr(model.config, "max_position_embeddings", None) or max_length, tokenizer.model_max_length)
        if max_length > places:
            raise ConfigError(f"max_length is {max_length} but {folder} takes {places} tokens; set --max-length {places} or less")
        pairs = None if rows.pairs is None else list(rows.pairs)
        encoded = tokenizer(list(rows.texts), pairs, truncation=True, max_length=max_length, return_attention_mask=True)
        highest, known = max(max(ids) for ids in encoded["input_ids"]), model.config.vocab_size
        if highest >= known:
            raise CheckpointError(
                f"{folder}: the tokenizer gives id {highest} but config.json allows {known} ids; give its own tokenizer"
            )
        accepted = inspect.signature(model.forward).parameters
        fill = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id, "attention_mask": 0}
        columns = {name: [torch.tensor(row) for row in encoded[name]] for name in fill if name in encoded and name in accepted}
        lengths = np.array([len(row) for row in encoded["input_ids"]])
        return cls(columns, fill, torch.tensor(rows.labels), lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, rows: np.ndarray) -> tuple[dict[str, Any], Any]:
        """int64 tensors (rows, longest of them) by input name, and the labels (rows,)."""
        from torch.nn.utils.rnn import pad_sequence

        inputs = {
            name: pad_sequence([column[row] for row in rows], batch_first=True, padding_value=self.fill[name])
            for name, column in self.columns.items()
        }
        return inputs, self.labels[rows]


def load_tokenizer(folder: Path) -> Any:
    """The checkpoint's tokenizer. Raises `CheckpointError` if there is none, it does not load or it cannot pad."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(tokenizer_folder(folder)), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(
            f"{folder}: its tokenizer does not load ({lines[0][:200]}); save one there with save_pretrained"
        ) from error
    if tokenizer.pad_token_id is None:
        raise CheckpointError(f"{folder}: the tokenizer has no padding token; set pad_token in tokenizer_config.json")
    return tokenizer


def batches(lengths: np.ndarray, size: int, seed: Sequence[int]) -> Iterator[np.ndarray]:
    """Row numbers in batches of rows of similar length, all of an epoch in shuffled order."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(lengths))
    found = []
    for start in range(0, len(order), size * _POOL):
        pool = order[start : start + size * _POOL]
        ranked = pool[np.argsort(lengths[pool], kind="stable")]
        found += [ranked[first : first + size] for first in range(0, len(ranked), size)]
    return (found[number] for number in rng.permutation(len(found)))
