"""Labels of one class, of several and of a value, as rows hold them; what a person sees of the outputs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.data.encode import Encoding
from edgekit.data.samples import Samples
from edgekit.data.sources import ArrayRows, TextRows
from edgekit.errors import ConfigError, DatasetError
from edgekit.spec import TensorSpec
from edgekit.tasks import table
from edgekit.tasks.classification import MULTI, REGRESSION, SINGLE, TABULAR_CLASSIFICATION, TEXT_CLASSIFICATION
from edgekit.tasks.recognition import recognise

LABELS = ("toxic", "rude", "Threat")


def labels(held: tuple[Any, ...], problem: str, names: tuple[str, ...] = LABELS, columns: tuple[str, ...] = ()) -> Any:
    rows = TextRows(("a",) * len(held), None, held, "rows.tsv", label_columns=columns)
    return TEXT_CLASSIFICATION.labels(rows, Encoding(), {"problem": problem, "labels": list(names)})


@pytest.mark.parametrize(
    ("held", "columns"),
    [
        (((1, 0, 1), (0, 0, 0)), ()),
        (((1, 0, 1), (0, 0, 0)), LABELS),
        (((0, 1, 1), (0, 0, 0)), ("Rude", "threat", "toxic")),
        ((("toxic", "threat"), ()), ()),
        ((("toxic", 2), ()), ()),
        (("Toxic, threat", ""), ()),
    ],
)
def test_any_number_of_labels_in_every_form(held: tuple[Any, ...], columns: tuple[str, ...]) -> None:
    found = labels(held, MULTI, columns=columns)
    assert (found.dtype, found.tolist()) == (np.float64, [[1, 0, 1], [0, 0, 0]])


@pytest.mark.parametrize(
    ("held", "columns", "message"),
    [
        ((("toxic",), ("kind",)), (), r"row 1 \(from 0\) has the labels \['kind'\], which are not among the model's 3"),
        (((3,),), (), "row 0"),
        (((0, 1), (1, 0)), ("rude", "toxic"), "no label column for Threat"),
    ],
)
def test_labels_that_the_model_does_not_have(held: tuple[Any, ...], columns: tuple[str, ...], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        labels(held, MULTI, columns=columns)


def test_one_label_of_its_own_column_is_0_or_1() -> None:
    assert labels((1, 0, 1), MULTI, ("toxic",), ("toxic",)).tolist() == [[1], [0], [1]]


def test_values_of_a_regression() -> None:
    assert labels((3, "2.5", "-1e-3"), REGRESSION).tolist() == [3, 2.5, -0.001]
    with pytest.raises(DatasetError, match=r"row 1 \(from 0\) has the label 'high', no value"):
        labels((3, "high"), REGRESSION)


@pytest.mark.parametrize(
    ("config", "names", "settings"),
    [
        ({}, ("a", "b"), {"problem": SINGLE, "activation": "softmax"}),
        ({}, ("a",), {"problem": REGRESSION, "activation": "none"}),
        ({"problem_type": MULTI}, ("a",), {"problem": MULTI, "activation": "sigmoid", "threshold": 0.5}),
        ({"problem_type": MULTI, "threshold": 0.3}, ("a",), {"problem": MULTI, "activation": "sigmoid", "threshold": 0.3}),
        ({"problem_type": "no such one"}, ("a", "b"), {"problem": SINGLE, "activation": "softmax"}),
    ],
)
def test_settings_of_a_checkpoint(config: dict[str, Any], names: tuple[str, ...], settings: dict[str, Any]) -> None:
    found = TEXT_CLASSIFICATION.settings(config, names)
    assert found == {**settings, "labels": list(names)}
    assert TEXT_CLASSIFICATION.head(found)["problem_type"] == settings["problem"]


def predicted(values: list[float], **settings: Any) -> Any:
    return TEXT_CLASSIFICATION.predict({"logits": np.array([values])}, Samples({"x": np.zeros((1, 1))}, settings=settings))


def test_what_a_person_sees() -> None:
    one = predicted([0.0, np.log(3)], labels=["no", "yes"])
    assert (one.answer, one.fields["label"]) == ("yes", "yes")
    assert one.fields["scores"] == pytest.approx({"no": 0.25, "yes": 0.75})
    several = predicted([-9.5, 2.0, 1.0], problem=MULTI, activation="sigmoid", threshold=0.8, labels=list(LABELS))
    assert (several.answer, several.fields["labels"]) == ("rude", ["rude"])
    assert several.fields["scores"]["toxic"] == pytest.approx(1 / (1 + np.exp(9.5)))
    assert predicted([-9.5], problem=MULTI, activation="sigmoid", labels=["toxic"]).answer == "none"


def test_the_words_of_a_regression_are_a_value() -> None:
    text = TEXT_CLASSIFICATION.describe({"problem": REGRESSION, "activation": "none"})
    assert (text.what, text.outputs[""][0]) == ("Text regression", "value")


def specs(*shape: int) -> tuple[TensorSpec, ...]:
    return (TensorSpec("out", shape, "float32"),)


@pytest.mark.parametrize(
    ("shape", "held", "task"),
    [
        ((1, 3), np.array([0, 2]), "tabular-classification"),
        ((1, 1), np.array([0.5, 2]), "tabular-regression"),
        ((1, 3), None, "generic"),
        ((1, 16, 4), np.array([0, 2]), "generic"),
        ((172, 18), np.array([0, 2]), "generic"),
        ((1, 3), np.array([0.5, 2]), "generic"),
        ((), np.array([0, 2]), "generic"),
    ],
)
def test_a_file_that_says_nothing_is_a_classifier_only_where_outputs_and_labels_say_so(
    shape: tuple[int, ...], held: Any, task: str
) -> None:
    rows = ArrayRows({"x": np.zeros((2, 1))}, held, "rows.npz")
    assert recognise({}, specs(*shape), rows)[0].name == task
    assert recognise({"task": "image-classification"}, specs(*shape), rows)[0].name == "image-classification"
    assert recognise({}, specs(*shape), rows, "text-classification")[0].name == "text-classification"


def test_texts_with_values_are_a_regressions() -> None:
    rows = TextRows(("a", "b"), None, (1, "0.5"), "rows.tsv")
    task, settings = recognise({}, specs(1, 1), rows)
    assert (task.name, settings["problem"]) == ("text-classification", REGRESSION)
    assert recognise({}, specs(1, 3), rows)[0].name == "generic"
    assert recognise({}, specs(1, 3), TextRows(("a", "b"), None, (1, "no"), "rows.tsv"))[0].name == "text-classification"


def test_a_task_that_is_none() -> None:
    with pytest.raises(ConfigError, match="unknown task poetry; choose from text-classification"):
        recognise({}, specs(1, 2), None, "poetry")
    assert table.of_heads(["BertModel", "BertForSequenceClassification"]) is TEXT_CLASSIFICATION
    assert table.of_heads(["BertModel"]) is table.TASKS["feature-extraction"]
    assert table.of_heads(["GPT2LMHeadModel"]) is None
    assert TABULAR_CLASSIFICATION.describe({}).what == "Array classifier"


def test_saved_samples_know_their_task(tmp_path: Path) -> None:
    rows = Samples(
        {"x": np.zeros((3, 2))},
        np.zeros((3, 2)),
        extras={"offsets": np.ones((3, 4, 2), np.int32)},
        records=[{"context": "ä"}, None, {"context": "b"}],
        row=np.array([4, 4, 7]),
        task="text-classification",
        settings={"problem": MULTI},
    )
    rows.save(tmp_path)
    loaded = Samples.load(tmp_path)
    assert (loaded.task, loaded.settings, loaded.records) == (rows.task, rows.settings, rows.records)
    assert loaded.row_count() == 2
    taken = loaded.take_rows([7])
    assert (taken.records, taken.extras["offsets"].shape) == ([{"context": "b"}], (1, 4, 2))
    assert (loaded.row_end(1, 3), loaded.row_end(1, 1), loaded.row_end(3, 3)) == (2, 1, 3)
    assert loaded.span(slice(0, 2)).records == [{"context": "ä"}, None]
