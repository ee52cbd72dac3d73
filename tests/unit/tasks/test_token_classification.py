"""Tags of words: how they are read, fed, judged and shown."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.data.encode import Encoding
from edgekit.data.samples import Array, Samples
from edgekit.data.sources import ArrayRows, TextRows, read
from edgekit.errors import DatasetError, RefusedError
from edgekit.measure.measurement import Measurement, refusal
from edgekit.spec import DataSpec, TensorSpec
from edgekit.system.worker import Worker
from edgekit.tasks.judgement import judge
from edgekit.tasks.token_classification import TOKEN_CLASSIFICATION, entities
from tests import tiny

NAMES = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
SETTINGS = TOKEN_CLASSIFICATION.settings({}, NAMES)
LENGTH = 24
INPUTS = tuple(TensorSpec(name, (1, LENGTH), "int32") for name in ("input_ids", "attention_mask", "token_type_ids"))
TEXTS = ("good film, the actor was zq", "a very bright and funny scene", "stale")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tags") / "bert"
    return Worker(timeout_s=300).run(tiny.model, folder, "token-classification", tuple(NAMES)).value


def rows(texts: tuple[Any, ...], labels: tuple[Any, ...] | None, class_names: tuple[str, ...] | None = None) -> TextRows:
    return TextRows(texts, None, labels, "rows.jsonl", class_names)


def encode(folder: Path, texts: tuple[Any, ...], labels: tuple[Any, ...] | None, **options: Any) -> Samples:
    return TOKEN_CLASSIFICATION.encode(rows(texts, labels, **options), INPUTS, Encoding(folder), SETTINGS, folder)


def pipeline(folder: Path, texts: tuple[str, ...]) -> tuple[dict[str, Array], list[Any]]:
    """Run in a worker: logits of the encoded texts, and what transformers' own pipeline says."""
    import torch
    import transformers

    model = transformers.AutoModelForTokenClassification.from_pretrained(folder).eval()
    samples = encode(folder, texts, None)
    with torch.no_grad():
        fed = {name: torch.tensor(array, dtype=torch.long) for name, array in samples.inputs.items()}
        outputs = {"logits": model(**fed).logits.numpy()}
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tagger = transformers.pipeline("token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="simple")
    return outputs, [tagger(text) for text in texts]


def test_entities_are_those_of_transformers_pipeline(checkpoint: Path) -> None:
    texts = (*TEXTS, *(text for text, _ in tiny.sentences(12)))
    outputs, expected = Worker(timeout_s=300).run(pipeline, checkpoint, texts).value
    samples = encode(checkpoint, texts, None)
    assert sum(map(len, expected)) > 12
    for index, told in enumerate(expected):
        one = TOKEN_CLASSIFICATION.predict({"logits": outputs["logits"][index : index + 1]}, samples.take([index]))
        found = one.fields["entities"]
        assert [(it["label"], it["start"], it["end"]) for it in found] == [
            (it["entity_group"], it["start"], it["end"]) for it in told
        ]
        assert [it["score"] for it in found] == pytest.approx([it["score"] for it in told], abs=1e-3)
        assert all(it["text"] == texts[index][it["start"] : it["end"]] for it in found)
        assert all(it["text"] in one.answer for it in found)


def test_only_the_first_piece_of_a_word_has_its_tag(checkpoint: Path) -> None:
    samples = encode(checkpoint, (("Zq", "good,", "was"),), (("B-PER", "I-PER", "O"),))
    # [CLS] z ##q good , was [SEP]
    assert samples.labels is not None
    assert samples.labels[0, :8].tolist() == [-100, 1, -100, 2, -100, 0, -100, -100]
    assert samples.extras["words"][0, :8].tolist() == [-1, 0, -1, 1, -1, 2, -1, -1]
    assert samples.extras["offsets"][0, :7].tolist() == [[-1, -1], [0, 1], [1, 2], [3, 7], [7, 8], [9, 12], [-1, -1]]
    assert samples.records == ["Zq good, was"]
    assert (samples.task, samples.labels.dtype.name) == ("token-classification", "int64")


@pytest.mark.parametrize(
    ("text", "label", "class_names"),
    [
        (("good", "film", "zq"), ("B-PER", "I-PER", "O"), None),
        (("good", "film", "zq"), (1, 2, 0), None),
        (("good", "film", "zq"), (0, 1, 2), ("B-PER", "I-PER", "O")),
        (("good", "film", "zq"), ("b-per", "I-Per", "O"), None),
        ("good film zq", ("B-PER", "I-PER", "O"), None),
        ("good film zq", "B-PER I-PER O", None),
        ("good film zq", ({"start": 0, "end": 9, "label": "PER"},), None),
        ("good film zq", ({"start": 0, "end": 9, "type": "PER"},), None),
        ("good film zq", ([0, 9, "PER"],), None),
        ("good film zq", {"start": [0], "end": [9], "label": ["PER"]}, None),
    ],
)
def test_tags_in_every_form(checkpoint: Path, text: Any, label: Any, class_names: tuple[str, ...] | None) -> None:
    samples = encode(checkpoint, (text,), (label,), class_names=class_names)
    assert samples.labels is not None
    assert samples.labels[0, :6].tolist() == [-100, 1, 2, 0, -100, -100]
    assert TOKEN_CLASSIFICATION.labels_of(rows((text,), (label,), class_names), NAMES) == list(NAMES)


@pytest.mark.parametrize(
    ("text", "label", "message"),
    [
        (("a", "film"), ("O",), r"row 1 \(from 0\) has 2 words and 1 tags"),
        (("a", "film"), ("O", "B-ORG"), r"row 1 \(from 0\) has the tag 'B-ORG', the head's 5 are O, B-PER"),
        (("a", "film"), (0, 5), r"row 1 \(from 0\) has the tag 5"),
        (("a", "film"), (0, -1), r"row 1 \(from 0\) has the tag -1"),
        ("a film", ({"start": 2, "end": 9, "label": "PER"},), r"row 1 \(from 0\) has a span from 2 to 9, its text has 6"),
        ("a film", ({"start": 0, "end": 1, "label": "ORG"},), r"has the tag 'B-ORG'"),
        ("a film", ({"begin": 0, "end": 1, "label": "PER"},), r"row 1 \(from 0\) has the span"),
    ],
)
def test_labels_that_do_not_fit_are_named_with_file_and_row(checkpoint: Path, text: Any, label: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        encode(checkpoint, (("a",) if isinstance(text, tuple) else "a", text), (("O",) if isinstance(text, tuple) else (), label))
    assert str(caught.value).startswith("rows.jsonl: ")


def test_pairs_and_arrays_with_labels_are_refused(checkpoint: Path) -> None:
    pairs = TextRows(("a",), ("b",), None, "rows.tsv")
    with pytest.raises(DatasetError, match="tags are of one text"):
        TOKEN_CLASSIFICATION.encode(pairs, INPUTS, Encoding(checkpoint), SETTINGS, checkpoint)
    arrays = ArrayRows({"input_ids": np.ones((2, LENGTH), np.int32)}, np.zeros(2), "rows.npz")
    with pytest.raises(DatasetError, match="labels of arrays"):
        TOKEN_CLASSIFICATION.encode(arrays, INPUTS[:1], Encoding(checkpoint), SETTINGS, checkpoint)


def test_words_that_are_cut_off_are_no_decisions(checkpoint: Path) -> None:
    samples = encode(checkpoint, (("good",) * 40, ()), (("O",) * 40, ()))
    assert samples.extras["words"].max() == LENGTH - 3
    outputs = np.random.default_rng(0).normal(0, 1, (2, LENGTH, 5))
    reading = TOKEN_CLASSIFICATION.reading({"logits": outputs}, samples)
    assert reading.decisions is not None
    assert reading.decisions.shape == (LENGTH - 2,)
    assert reading.values["logits"].shape == (LENGTH - 2, 5)
    assert reading.tallies["token accuracy"].tolist()[1] == [0, 0]


def test_rows_are_found_in_files(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"id": "1", "tokens": ["Ada", "ran"], "pos_tags": [3, 4], "ner_tags": ["B-PER", "O"]}) + "\n")
    found = read(DataSpec(str(file)), TOKEN_CLASSIFICATION.columns)
    assert isinstance(found, TextRows)
    assert (found.texts, found.labels) == ((("Ada", "ran"),), (("B-PER", "O"),))


TAGS = ("O", *(f"{mark}-{kind}" for kind in ("PER", "LOC") for mark in "BIES"))


def tagged(seed: int, names: tuple[str, ...], count: int = 60) -> tuple[list[list[str]], list[list[str]]]:
    draw = np.random.default_rng(seed)
    truth = [[names[number] for number in draw.integers(0, len(names), draw.integers(1, 12))] for _ in range(count)]
    named = [[tag if draw.random() < 0.7 else names[draw.integers(len(names))] for tag in row] for row in truth]
    return truth, named


def as_samples(truth: list[list[str]], named: list[list[str]], names: tuple[str, ...]) -> tuple[dict[str, Array], Samples]:
    """Logits and samples that hold these tags, one piece a word."""
    logits, labels = np.zeros((len(truth), 12, len(names))), np.full((len(truth), 12), -100)
    for row, (right, ours) in enumerate(zip(truth, named, strict=True)):
        for place, (tag, our) in enumerate(zip(right, ours, strict=True)):
            labels[row, place], logits[row, place, names.index(our)] = names.index(tag), 4
    words = np.where(labels >= 0, np.arange(12), -1)
    settings = {"labels": list(names)}
    return {"logits": logits}, Samples(
        {"x": labels}, labels, extras={"words": words}, task="token-classification", settings=settings
    )


@pytest.mark.parametrize("names", [NAMES, TAGS])
def test_entity_f1_is_seqevals(names: tuple[str, ...]) -> None:
    seqeval = pytest.importorskip("seqeval.metrics", reason="needs seqeval, which not every pip can build")
    for seed in range(5):
        truth, named = tagged(seed, names)
        f1, accuracy = judge(*as_samples(truth, named, names)).scores
        assert f1.value == pytest.approx(seqeval.f1_score(truth, named))
        assert accuracy.value == pytest.approx(seqeval.accuracy_score(truth, named))


# (names, seed): entity F1 and token accuracy by seqeval 1.2.2, with which the test above compares where it is installed.
SEQEVAL = ((NAMES, 0, 0.738462, 0.771712), (TAGS, 0, 0.785276, 0.746898), (TAGS, 1, 0.793548, 0.764249))


@pytest.mark.parametrize(("names", "seed", "f1", "accuracy"), SEQEVAL)
def test_entity_f1_is_what_seqeval_said(names: tuple[str, ...], seed: int, f1: float, accuracy: float) -> None:
    scores = judge(*as_samples(*tagged(seed, names), names)).scores
    assert [(score.metric, round(score.value, 6)) for score in scores] == [("entity F1", f1), ("token accuracy", accuracy)]


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("B-A I-A O B-A B-A", {("A", 0, 1), ("A", 3, 3), ("A", 4, 4)}),
        ("I-A I-B I-B", {("A", 0, 0), ("B", 1, 2)}),
        ("B-A I-A E-A S-B O S-B S-B", {("A", 0, 2), ("B", 3, 3), ("B", 5, 5), ("B", 6, 6)}),
        ("B-A E-A I-A E-A", {("A", 0, 1), ("A", 2, 3)}),
        ("B-A-1 I-A-1", {("A-1", 0, 1)}),
        ("", set()),
    ],
)
def test_entities_of_tags(tags: str, expected: set[Any]) -> None:
    assert entities(tags.split()) == expected


def test_tags_that_mark_no_entities_are_judged_by_their_accuracy() -> None:
    names = ("DET", "NOUN", "VERB")
    truth, named = tagged(0, names)
    outputs, samples = as_samples(truth, named, names)
    judgement = judge(outputs, samples, outputs)
    assert [score.metric for score in judgement.scores] == ["token accuracy"]
    assert judgement.drop is not None
    assert judgement.drop.value == 0


def test_shuffled_weights_are_refused_by_the_metric_and_without_labels_by_the_decisions() -> None:
    truth, _ = tagged(0, NAMES)
    reference, samples = as_samples(truth, truth, NAMES)
    ruined = {"logits": reference["logits"][:, :, [1, 0, 2, 4, 3]]}
    for rows_, word in ((samples, "of entity F1"), (samples.labelled(None, samples.task, samples.settings), "decides otherwise")):
        for outputs, refused in ((ruined, True), (reference, False)):
            found = Measurement("a.tflite", 1, None).judged(judge(outputs, rows_, reference), "token-classification")
            reason = refusal(found, 0.01, 20, "try another scheme")
            assert (reason is not None) == refused
            assert not refused or word in (reason or "")


def test_outputs_that_are_no_tags_are_refused() -> None:
    samples = Samples({"x": np.zeros((2, 3))}, task="token-classification")
    with pytest.raises(RefusedError, match="gives no token a tag"):
        judge({"logits": np.zeros((2, 5))}, samples)
    with pytest.raises(RefusedError, match="same score at every word"):
        judge({"logits": np.zeros((2, 3, 5))}, samples)


def test_iobes_is_shown_as_entities(checkpoint: Path) -> None:
    names = ("O", "B-PER", "I-PER", "E-PER", "S-PER")
    samples = encode(checkpoint, ("good film was bad bad",), None)
    samples = samples.labelled(None, samples.task, TOKEN_CLASSIFICATION.settings({}, names))
    logits = np.zeros((1, LENGTH, 5))
    logits[0, np.arange(1, 6), [1, 3, 0, 4, 4]] = 9
    found = TOKEN_CLASSIFICATION.predict({"logits": logits}, samples).fields["entities"]
    assert [(it["label"], it["text"]) for it in found] == [("PER", "good film"), ("PER", "bad"), ("PER", "bad")]


def test_labels_for_a_new_head() -> None:
    held = rows((("a", "b"), ("c",)), (("I-PER", "O"), ("B-LOC",)))
    assert TOKEN_CLASSIFICATION.labels_of(held, ("LABEL_0", "LABEL_1")) == ["O", "B-LOC", "I-PER"]
    assert TOKEN_CLASSIFICATION.labels_of(held, NAMES) == list(NAMES)
    spans = rows(("a b",), (({"start": 0, "end": 1, "label": "PER"},),))
    assert TOKEN_CLASSIFICATION.labels_of(spans, ()) == ["O", "B-PER", "I-PER"]


def test_labels_of_an_iobes_head_come_from_spans(checkpoint: Path) -> None:
    names = ["O", "B-PER", "I-PER", "E-PER", "S-PER"]
    held = rows(("good film was zq",), (({"start": 0, "end": 13, "label": "PER"}, {"start": 14, "end": 16, "label": "PER"}),))
    samples = TOKEN_CLASSIFICATION.encode(held, INPUTS, Encoding(checkpoint), {"labels": names}, checkpoint)
    assert samples.labels is not None
    assert samples.labels[0, 1:6].tolist() == [1, 2, 3, 4, -100]


def losses(folder: Path) -> list[float]:
    """Run in a worker: the model's own loss, the task's, and that of a batch without labels."""
    import torch
    import transformers

    model = transformers.AutoModelForTokenClassification.from_pretrained(folder).eval()
    samples = encode(folder, TEXTS, ((), ({"start": 2, "end": 6, "label": "PER"},), ()))
    fed = {name: torch.tensor(array, dtype=torch.long) for name, array in samples.inputs.items()}
    labels = torch.tensor(samples.labels)
    with torch.no_grad():
        outputs = model(**fed, labels=labels)
    none = TOKEN_CLASSIFICATION.loss(outputs, torch.full_like(labels, -100), SETTINGS)
    return [float(outputs.loss), float(TOKEN_CLASSIFICATION.loss(outputs, labels, SETTINGS)), float(none)]


def test_the_loss_is_the_models_own(checkpoint: Path) -> None:
    own, ours, none = Worker(timeout_s=300).run(losses, checkpoint).value
    assert ours == pytest.approx(own, rel=1e-5)
    assert none == 0
