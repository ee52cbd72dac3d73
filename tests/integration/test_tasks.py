"""Every task that is trained, from the checkpoint to the file: what is good is published, what is ruined is refused, and the
file says what transformers says. One row of `CASES` each; and models of no such task.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekit
from edgekit.errors import RefusedError
from edgekit.spec import DataSpec
from edgekit.stages.quantize import quantizer
from edgekit.system.worker import Worker
from edgekit.tflite.inspect import inspect
from edgekit.workflows.convert.config import ConvertConfig
from edgekit.workflows.convert.conversion import Conversion, convert
from tests import tiny
from tests.commands import edgekit as command
from tests.integration import sources
from tests.unit.tasks import test_question_answering as questions
from tests.unit.tasks import test_token_classification as tags

COUNT = 64
LENGTH = questions.LENGTH
Row = dict[str, Any]


def classes(folder: Path, rows: list[Row]) -> list[Row]:
    """In a worker: the scores that transformers' own pipeline gives, and what is decided by them."""
    import transformers

    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ask = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)
    scores = [{one["label"]: one["score"] for one in ask([row["text"]])[0]} for row in rows]
    if model.config.problem_type == "multi_label_classification":
        labels = model.config.id2label.values()
        return [{"labels": [label for label in labels if told[label] >= 0.5], "scores": told} for told in scores]
    return [{"label": max(told, key=lambda label: told[label]), "scores": told} for told in scores]


def entities(folder: Path, rows: list[Row]) -> list[Row]:
    _, told = tags.pipeline(folder, tuple(row["text"] for row in rows))
    names = {"label": "entity_group", "score": "score", "start": "start", "end": "end"}
    return [{"entities": [{ours: one[theirs] for ours, theirs in names.items()} for one in found]} for found in told]


def answers(folder: Path, rows: list[Row]) -> list[Row]:
    asked = [row["question"] for row in rows], [row["context"] for row in rows]
    _, told = questions.transformers_answers(folder, *asked, False)
    return [
        {"answer": row["context"][start:end], "score": score, "start": start, "end": end}
        for row, (score, start, end) in zip(rows, told, strict=True)
    ]


def fillings(folder: Path, rows: list[Row]) -> list[Row]:
    """In a worker: the five tokens that transformers' own pipeline fills in."""
    import transformers

    model = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    ask = transformers.pipeline("fill-mask", model=model, tokenizer=transformers.AutoTokenizer.from_pretrained(folder))
    told = [[{"token": one["token_str"], "id": one["token"], "score": one["score"]} for one in ask(row["text"])] for row in rows]
    return [{"token": best[0]["token"], "score": best[0]["score"], "candidates": best} for best in told]


def masked() -> list[Row]:
    """Each text with another of its words masked."""
    texts = [text.split() for text, _ in tiny.sentences(COUNT)]
    places = [number % len(words) for number, words in enumerate(texts)]
    return [{"text": " ".join([*words[:place], "[MASK]", *words[place + 1 :]])} for words, place in zip(texts, places, strict=True)]


def choosings(folder: Path, rows: list[Row]) -> list[Row]:
    """In a worker: what transformers chooses when it is given all choices of a row at once, (1, C, L), without a length."""
    import torch
    import transformers

    model = transformers.AutoModelForMultipleChoice.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    told = []
    for row in rows:
        choices = row["choices"]
        encoded = tokenizer([row["context"]] * len(choices), choices, padding=True, return_token_type_ids=True, return_tensors="pt")
        with torch.no_grad():
            scores = model(**{name: values[None] for name, values in encoded.items()}).logits[0].softmax(0)
        best = int(scores.argmax())
        told.append({"choice": choices[best], "index": best, "score": float(scores[best]), "scores": scores.tolist()})
    return told


def contexts_and_choices() -> list[Row]:
    """Two to four choices each."""
    texts = [" ".join(text.split()[:8]) for text, _ in tiny.sentences(COUNT)]
    return [
        {"context": text, "choices": [texts[number - back] for back in range(1, 3 + number % 3)]}
        for number, text in enumerate(texts)
    ]


def sentences() -> list[Row]:
    return [{"text": text} for text, _ in tiny.sentences(COUNT)]


def questions_and_contexts() -> list[Row]:
    return [{"question": one, "context": other} for one, other in zip(*questions.texts(COUNT), strict=True)]


@dataclass(frozen=True)
class Case:
    """`told` asks transformers about rows, in the fields of a prediction, of which `truth` makes a row's `label`.

    `metric` is what a ruined file loses, `unlabelled` what it is told without labels.
    """

    name: str
    task: str
    labels: tuple[str, ...]
    metric: str
    told: Callable[[Path, list[Row]], list[Row]]
    truth: Callable[[Row], Any]
    label: str = "label"
    rows: Callable[[], list[Row]] = sentences
    unlabelled: str = "decides otherwise than float32 on "
    config: Mapping[str, Any] = field(default_factory=dict)


CASES = (
    Case("single", "text-classification", ("no", "yes", "maybe"), "accuracy", classes, lambda told: told["label"]),
    Case(
        "several",
        "text-classification",
        ("warm", "cold", "long"),
        "micro F1",
        classes,
        lambda told: told["labels"],
        config={"problem_type": "multi_label_classification"},
    ),
    Case(
        "value",
        "text-classification",
        ("stars",),
        "Pearson",
        classes,
        lambda told: told["scores"]["stars"],
        unlabelled="output logits is ",
        config={"problem_type": "regression"},
    ),
    Case(
        "tokens",
        "token-classification",
        ("O", "B-A", "I-A", "B-B", "I-B"),
        "entity F1",
        entities,
        lambda told: told["entities"],
        label="spans",
    ),
    Case(
        "answers",
        "question-answering",
        ("LABEL_0", "LABEL_1"),
        "F1",
        answers,
        lambda told: told["answer"],
        label="answer",
        rows=questions_and_contexts,
    ),
    Case(
        "masks",
        "fill-mask",
        ("LABEL_0", "LABEL_1"),
        "accuracy",
        fillings,
        lambda told: told["token"],
        label="masked",
        rows=masked,
    ),
    Case(
        "choices",
        "multiple-choice",
        ("LABEL_0", "LABEL_1"),
        "accuracy",
        choosings,
        lambda told: told["index"],
        rows=contexts_and_choices,
    ),
)


@dataclass(frozen=True)
class Published:
    """What a conversion of a case's checkpoint published; `rows` are without labels, `told` is what transformers says of each."""

    case: Case
    conversion: Conversion
    rows: list[Row]
    told: list[Row]

    @property
    def labelled(self) -> list[Row]:
        return [{**row, self.case.label: self.case.truth(told)} for row, told in zip(self.rows, self.told, strict=True)]

    @property
    def file(self) -> Path:
        path = self.conversion.results[0].path
        assert path is not None, self.conversion.refusals
        return path


def config(rows: list[Row], *schemes: str) -> ConvertConfig:
    return ConvertConfig(schemes, evaluation_data=DataSpec(rows), evaluation_samples=COUNT, max_length=LENGTH)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Published:
    case: Case = request.param
    folder, worker = tmp_path_factory.mktemp(case.name), Worker(timeout_s=300)
    checkpoint = worker.run(tiny.model, folder / "tiny", case.task, case.labels, **case.config).value
    rows = case.rows()
    told = worker.run(case.told, checkpoint, rows).value
    labelled = [{**row, case.label: case.truth(one)} for row, one in zip(rows, told, strict=True)]
    return Published(case, convert(checkpoint, folder / "out", config(labelled, "float32", "float16")), rows, told)


def test_float_files_are_published_and_right_by_their_own_answers(published: Published) -> None:
    assert published.conversion.refusals == ()
    for result in published.conversion.results:
        measured = result.measurement
        assert result.path is not None and measured is not None and measured.metric is not None
        assert (measured.task, measured.metric.metric) == (published.case.task, published.case.metric)
        assert measured.metric.value > 0.98
        manifest = json.loads(result.path.with_suffix(".json").read_text())["measured"]
        assert manifest["task"] == published.case.task
        assert manifest["measurement"]["metric"]["metric"] == published.case.metric
    assert published.conversion.results[0].measurement is not None
    assert published.conversion.results[0].measurement.metric is not None
    assert published.conversion.results[0].measurement.metric.value == pytest.approx(1)


@pytest.mark.parametrize("labels", [True, False])
def test_a_ruined_file_is_refused(published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: bool) -> None:
    monkeypatch.setattr(quantizer, "write_float16", sources.ruin)
    rows = published.labelled if labels else published.rows
    result = convert(published.file, tmp_path / "out", config(rows, "float16"))
    (refused,) = result.refusals
    case = published.case
    assert (f" of {case.metric} against float32" if labels else case.unlabelled) in refused
    assert not list((tmp_path / "out").glob("*.tflite"))
    assert len(list((tmp_path / "out").glob("*.rejected"))) == 1


def test_its_float_file_goes_on_to_integers_alone(published: Published, tmp_path: Path) -> None:
    rows = DataSpec(published.rows)
    # Random weights: that there is such a file is asked, and not how true it is.
    told = ConvertConfig(
        ("int8",), data=rows, representative_samples=32, max_length=LENGTH, integer_only=True, max_drop=None, min_db=5.0
    )
    (result,) = convert(published.file, tmp_path / "out", told).results
    assert result.path is not None, result.refused
    assert inspect(result.path, probe=False).integer_only


def predictions(file: Path, rows: list[Row]) -> list[Row]:
    """In a worker: the fields of each answer."""
    return [dict(answer.fields) for answer in edgekit.load(file).batch(rows)]


def alike(found: Any, told: Any) -> bool:
    """The same texts, places and labels, and scores within 1e-3."""
    if isinstance(told, dict):
        return all(alike(found[name], value) for name, value in told.items())
    if isinstance(told, list):
        return len(found) == len(told) and all(alike(*pair) for pair in zip(found, told, strict=True))
    return bool(found == pytest.approx(told, abs=1e-3) if isinstance(told, float | np.floating) else found == told)


def test_the_file_predicts_what_transformers_says(published: Published) -> None:
    found = Worker(timeout_s=120).run(predictions, published.file, published.rows).value
    assert [
        (row, one, told) for row, one, told in zip(published.rows, found, published.told, strict=True) if not alike(one, told)
    ] == []


# Models of no such task -----------------------------------------------------------------------------------------------


def test_a_detector_is_judged_by_its_values_and_nobody_speaks_of_classes(tmp_path: Path) -> None:
    Worker(timeout_s=120).run(sources.write_detector, tmp_path / "detector.onnx")
    np.savez(tmp_path / "rows.npz", image=np.random.default_rng(0).random((96, 8, 8, 3), np.float32))
    said = command(
        *("convert", "detector.onnx", "--scheme", "dynamic", "--scheme", "int8", "--representative-data", "rows.npz"),
        *("--out", "out", "--search-seconds", "0"),
        folder=tmp_path,
    )
    assert said.code == 0, said.err
    manifests = [(tmp_path / "out" / f"detector_{scheme}.json").read_text() for scheme in ("dynamic", "int8")]
    for manifest in manifests:
        measured = json.loads(manifest)["measured"]
        assert measured["task"] == measured["measurement"]["task"] == "generic"
        assert {output["name"] for output in measured["measurement"]["outputs"]} == {"boxes", "scores"}
        assert measured["measurement"]["metric"] is None
    for words in (said.out, *said.err, *manifests):
        assert not {word for word in ("accuracy", "decisions") if word in words.lower()}, words
    assert "dB" in said.out


def test_values_around_two_thousand_are_a_regression(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Worker(timeout_s=120).run(sources.write_prices, tmp_path / "prices.onnx", tmp_path / "rows.npz")
    monkeypatch.setattr(quantizer, "write_float16", sources.ruin)
    told = ConvertConfig(("float32", "float16"), evaluation_data=DataSpec(tmp_path / "rows.npz"))
    sound, ruined = convert(tmp_path / "prices.onnx", tmp_path / "out", told).results
    assert sound.path is not None and sound.measurement is not None and sound.measurement.metric is not None
    assert sound.measurement.task == "tabular-regression"
    assert sound.measurement.metric.metric == "Pearson"
    assert sound.measurement.metric.value == pytest.approx(1)
    assert ruined.path is None
    assert "of Pearson against float32" in str(ruined.refused)


def test_what_is_refused_ends_the_command_with_its_code(tmp_path: Path) -> None:
    Worker(timeout_s=120).run(sources.write_prices, tmp_path / "prices.onnx", tmp_path / "rows.npz")
    asked = ("convert", "prices.onnx", "--scheme", "float32", "--scheme", "dynamic", "--evaluation-data", "rows.npz")
    said = command(*asked, "--max-drop", "0", "--out", "out", folder=tmp_path)
    assert said.code == RefusedError.exit_code == 4
    assert (tmp_path / "out/prices_float32.tflite").is_file()
    assert not (tmp_path / "out/prices_dynamic.tflite").exists()
