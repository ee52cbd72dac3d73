"""Rows and inputs that fit each other, whatever the rows are."""

from pathlib import Path

import numpy as np
import pytest

from edgekit.data.encode import Encoding, feed, refuse_statistics
from edgekit.data.sources import ArrayRows, Rows, TextRows
from edgekit.errors import ConfigError, DatasetError
from edgekit.spec import TensorSpec
from edgekit.tasks.classification import TABULAR_CLASSIFICATION
from edgekit.tasks.generic import GENERIC

IDS = (TensorSpec("input_ids", (1, 6), "int32"),)
SINGLE = TextRows(("a film", "good"), None, ("0.5", "4.25"), "single.tsv")
PAIRS = TextRows(("a film", "good"), ("bad", "the film"), None, "pairs.tsv")


@pytest.mark.parametrize(
    "rows",
    [
        SINGLE,
        ArrayRows({"input_ids": np.ones((2, 6), np.int32)}, np.array([0, 7]), "rows.npz"),
        ArrayRows({"input_ids": np.ones((2, 6), np.int32)}, np.array([0.5, 7]), "rows.npz"),
    ],
)
def test_a_model_of_no_task_takes_rows_whatever_their_labels(rows: Rows, tokenizer: Path) -> None:
    samples = GENERIC.encode(rows, IDS, Encoding(tokenizer), {}, tokenizer)
    assert len(samples) == 2
    assert samples.labels is None


@pytest.mark.parametrize(
    ("rows", "pairs", "words"),
    [(SINGLE, True, "takes pairs of texts"), (PAIRS, False, "takes single texts")],
)
def test_pairs_are_not_fed_as_single_texts_nor_the_other_way(rows: TextRows, pairs: bool, words: str, tokenizer: Path) -> None:
    with pytest.raises(DatasetError, match=rf"^{rows.origin}: the model {words}.* --text-column"):
        feed(rows, IDS, Encoding(tokenizer, pairs=pairs), tokenizer)
    assert len(feed(PAIRS, IDS, Encoding(tokenizer, pairs=True), tokenizer)) == 2


@pytest.mark.parametrize("classes", [None, 2])
def test_a_fraction_is_no_class(classes: int | None, tokenizer: Path) -> None:
    rows = ArrayRows({"input_ids": np.ones((2, 6), np.int32)}, np.array([1.0, 0.5]), "rows.npz")
    with pytest.raises(DatasetError, match=r"^rows\.npz: labels outside the head: sample 1 \(from 0\) has 0\.5"):
        TABULAR_CLASSIFICATION.encode(rows, IDS, Encoding(tokenizer, classes=classes), {}, tokenizer)


def test_a_row_of_several_labels_is_none_of_a_head_that_chooses_one(tokenizer: Path) -> None:
    rows = ArrayRows({"input_ids": np.ones((3, 6), np.int32)}, np.zeros((3, 2)), "rows.npz")
    with pytest.raises(DatasetError, match="one integer per row"):
        TABULAR_CLASSIFICATION.encode(rows, IDS, Encoding(tokenizer, classes=2), {}, tokenizer)


def test_texts_for_a_model_that_takes_none_are_not_asked_for_a_tokenizer() -> None:
    with pytest.raises(DatasetError, match=r"^single\.tsv: the model takes image \(1, 8, 8, 3\), which texts cannot fill"):
        feed(SINGLE, (TensorSpec("image", (1, 8, 8, 3), "float32"),), Encoding(), Path())


def test_what_a_file_says_of_images_is_not_done_to_arrays() -> None:
    rows = ArrayRows({"image": np.full((2, 2, 2, 3), 0.25, np.float32)}, None, "rows.npz")
    specs = (TensorSpec("image", (1, 2, 2, 3), "float32"),)
    of_images, told = (feed(rows, specs, Encoding(mean=(0.5,), std=(0.5,), of_images=known), Path()) for known in (True, False))
    assert np.unique(of_images.inputs["image"]).tolist() == [0.25]
    assert np.unique(told.inputs["image"]).tolist() == [-0.5]


def test_texts_have_no_mean_to_take_off() -> None:
    refuse_statistics(SINGLE, None, None)
    refuse_statistics(ArrayRows({}, None, "rows.npz"), (0.5,), None)
    with pytest.raises(ConfigError, match=r"single\.tsv: holds texts, which --mean and --std do not normalize"):
        refuse_statistics(SINGLE, None, (2.0,))
    with pytest.raises(ConfigError, match="holds texts"):
        feed(SINGLE, IDS, Encoding(Path(), mean=(0.5,)), Path())
