"""Rows of choices: the forms that data sets have, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.data.encode import Encoding
from edgekit.data.samples import Samples
from edgekit.data.sources import TextRows, read
from edgekit.data.text import token_specs
from edgekit.errors import DatasetError
from edgekit.spec import DataSpec
from edgekit.system.worker import Worker
from edgekit.tasks.judgement import judge
from edgekit.tasks.multiple_choice import MULTIPLE_CHOICE
from tests import tiny


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Worker(timeout_s=120).run(tiny.model, tmp_path_factory.mktemp("choice") / "tiny", "multiple-choice").value


def encode(tokenizer: Path, rows: list[dict[str, Any]]) -> Samples:
    texts = read(DataSpec(rows), MULTIPLE_CHOICE.columns)
    return MULTIPLE_CHOICE.encode(texts, token_specs(16, segments=True), Encoding(tokenizer), {}, Path())


@pytest.mark.parametrize(
    ("row", "context", "choices"),
    [
        ({"sent1": "a film", "sent2": "it", "ending0": "was", "ending1": "is", "label": 0}, "a film", ("it was", "it is")),
        ({"premise": "a film", "choice1": "good", "choice2": "bad", "label": 1}, "a film", ("good", "bad")),
        (
            {"article": "a film", "question": "is it", "options": ["good", "bad"], "answer": "B"},
            "a film",
            ("is it good", "is it bad"),
        ),
        ({"ctx": "a film", "endings": ["good", "bad", "dull"], "label": "2"}, "a film", ("good", "bad", "dull")),
    ],
)
def test_rows_are_read_as_data_sets_have_them(row: dict[str, Any], context: str, choices: tuple[str, ...]) -> None:
    rows = read(DataSpec([row]), MULTIPLE_CHOICE.columns)
    assert isinstance(rows, TextRows)
    assert rows.texts == (context,)
    assert rows.pairs == (choices,)
    assert rows.labels is not None


def test_each_choice_is_a_sample_and_the_right_one_is_marked(tokenizer: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"context": "a film", "choices": ["good", "bad", "dull"], "label": 2},
        {"context": "a plot", "choices": ["very cold", "warm"], "label": "A"},
        {"context": "the actor", "choices": ["is", "was"], "label": "was"},
    ]
    samples = encode(tokenizer, rows)
    assert samples.row is not None and samples.labels is not None
    assert samples.row.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert samples.labels.tolist() == [0, 0, 1, 1, 0, 0, 1]
    logits = np.array([[0.0], [1.0], [2.0], [5.0], [3.0], [0.5], [0.0]], np.float32)
    accuracy = judge({"logits": logits}, samples).scores[0]
    assert (accuracy.metric, accuracy.count, accuracy.total) == ("accuracy", 2, 3)


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ({"context": "a film", "label": 0}, "no choices among 'context', 'label'"),
        ({"context": "a film", "choices": ["good"], "label": 0}, "has 1 of the two choices and more"),
        ({"context": "a film", "choices": ["good", "bad"], "label": 2}, "has the label 2, which is none of its 2 choices"),
        (
            {"context": "a film", "choices": ["good", "bad"], "label": "dull"},
            "has the label 'dull', which is none of its 2 choices",
        ),
    ],
)
def test_rows_without_a_right_choice_are_refused(tokenizer: Path, row: dict[str, Any], cause: str) -> None:
    with pytest.raises(DatasetError, match=cause):
        encode(tokenizer, [row])
