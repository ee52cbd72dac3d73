"""Rows and heads that fit each other, whatever the rows are."""

from pathlib import Path

import numpy as np
import pytest

from edgekit.data.encode import Encoding, encode
from edgekit.data.sources import ArrayRows, Rows, TextRows
from edgekit.errors import DatasetError
from edgekit.spec import TensorSpec

IDS = (TensorSpec("input_ids", (1, 6), "int32"),)
SINGLE = TextRows(("a film", "good"), None, ("0.5", "4.25"), "single.tsv")
PAIRS = TextRows(("a film", "good"), ("bad", "the film"), None, "pairs.tsv")


@pytest.mark.parametrize(
    ("rows", "head"),
    [
        (SINGLE, {"label_ids": {"LABEL_0": 0}}),
        (ArrayRows({"input_ids": np.ones((2, 6), np.int32)}, np.array([0, 7]), "rows.npz"), {"classes": 1}),
    ],
)
def test_a_head_of_one_value_takes_rows_whatever_their_labels(rows: Rows, head: dict[str, object], tokenizer: Path) -> None:
    samples = encode(rows, IDS, Encoding(tokenizer, **head), tokenizer)  # type: ignore[arg-type]
    assert len(samples) == 2
    assert samples.labels is None


@pytest.mark.parametrize(
    ("rows", "pairs", "words"),
    [(SINGLE, True, "takes pairs of texts"), (PAIRS, False, "takes single texts")],
)
def test_pairs_are_not_fed_as_single_texts_nor_the_other_way(rows: TextRows, pairs: bool, words: str, tokenizer: Path) -> None:
    with pytest.raises(DatasetError, match=rf"^{rows.origin}: the model {words}.* --text-column"):
        encode(rows, IDS, Encoding(tokenizer, pairs=pairs), tokenizer)
    assert len(encode(PAIRS, IDS, Encoding(tokenizer, pairs=True), tokenizer)) == 2
