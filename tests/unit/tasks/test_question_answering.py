"""Answers in contexts: how they are read, put into windows, judged and shown."""

import re
import string
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.data.encode import Encoding
from edgekit.data.samples import Array, Samples
from edgekit.data.sources import ArrayRows, TextRows, read
from edgekit.errors import ConfigError, DatasetError, RefusedError
from edgekit.spec import DataSpec, TensorSpec
from edgekit.system.worker import Worker
from edgekit.tasks.judgement import judge
from edgekit.tasks.question_answering import QUESTION_ANSWERING, normalized, token_f1
from tests import tiny

LENGTH = 24
INPUTS = tuple(TensorSpec(name, (1, LENGTH), "int32") for name in ("input_ids", "attention_mask", "token_type_ids"))
SETTINGS = QUESTION_ANSWERING.settings({}, ())
CONTEXT = "the film was very good and the plot was not bad . the actor is zq"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("answers") / "bert"
    return Worker(timeout_s=300).run(tiny.model, folder, "question-answering").value


def encode(folder: Path, questions: Any, contexts: Any, answers: Any = None, length: int = LENGTH, **settings: Any) -> Samples:
    rows = TextRows(tuple(questions), tuple(contexts), None if answers is None else tuple(answers), "rows.jsonl")
    inputs = tuple(TensorSpec(spec.name, (1, length), spec.dtype) for spec in INPUTS)
    return QUESTION_ANSWERING.encode(rows, inputs, Encoding(folder), SETTINGS | settings, folder)


def texts(count: int) -> tuple[list[str], list[str]]:
    held = [text for text, _ in tiny.sentences(3 * count, seed=7)]
    contexts = [f"{held[place]} Zq, {held[-1 - place]}" if place % 2 else held[place] for place in range(count)]
    return [held[place + count][:20] for place in range(count)], contexts


def transformers_answers(folder: Path, questions: list[str], contexts: list[str], none: bool) -> tuple[dict[str, Array], list[Any]]:
    """In a worker: logits of the encoded windows, and what the pipeline of transformers 4 says.

    Version 5 has that pipeline no more, but its decoding of spans, which serves documents.
    """
    import torch
    import transformers
    from transformers.pipelines.document_question_answering import select_starts_ends

    model = transformers.AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    samples = encode(folder, questions, contexts)
    with torch.no_grad():
        outputs = model(**{name: torch.tensor(array, dtype=torch.long) for name, array in samples.inputs.items()})
        logits = {name: outputs[name].numpy() for name in ("start_logits", "end_logits")}
        told = []
        for question, context in zip(questions, contexts, strict=True):
            room = LENGTH - 3 - len(tokenizer(question, add_special_tokens=False)["input_ids"])
            fed = tokenizer(
                question, context, truncation="only_second", max_length=LENGTH, stride=room // 3, return_overflowing_tokens=True,
                padding="max_length", return_tensors="pt", return_token_type_ids=True,
            )  # fmt: skip
            fed.pop("overflow_to_sample_mapping")
            found, null = [], 1000000.0
            for window in range(len(fed["input_ids"])):
                one = {name: array[window : window + 1] for name, array in fed.items()}
                result, encoded = model(**one), fed.encodings[window]
                mask = np.array([[0 if place == 0 or part == 1 else 1 for place, part in enumerate(encoded.sequence_ids)]])
                starts, ends, scores, null = select_starts_ends(
                    result.start_logits.numpy(), result.end_logits.numpy(), mask, one["attention_mask"].numpy(), null, 1, none, 15
                )
                for start, end, score in zip(starts, ends, scores, strict=True):
                    first = encoded.word_to_chars(encoded.token_to_word(start), 1)[0]
                    found.append((float(score), first, encoded.word_to_chars(encoded.token_to_word(end), 1)[1]))
            if none:
                found.append((float(null), 0, 0))
            told.append(max(found))
    return logits, told


def test_answers_are_those_of_transformers(checkpoint: Path) -> None:
    questions, contexts = texts(20)
    outputs, expected = Worker(timeout_s=300).run(transformers_answers, checkpoint, questions, contexts, False).value
    samples = encode(checkpoint, questions, contexts)
    assert samples.row is not None
    assert len(samples) > 25
    for index, (score, start, end) in enumerate(expected):
        one = {name: array[samples.row == index] for name, array in outputs.items()}
        told = QUESTION_ANSWERING.predict(one, samples.take_rows([index]))
        assert (told.fields["start"], told.fields["end"]) == (start, end)
        assert told.fields["score"] == pytest.approx(score, abs=1e-3)
        assert told.answer == contexts[index][start:end]


def transformers_windows(folder: Path) -> dict[str, list[list[int]]]:
    from transformers import AutoTokenizer

    return dict(
        AutoTokenizer.from_pretrained(folder)(
            "was good",
            CONTEXT,
            truncation="only_second",
            max_length=14,
            stride=3,
            return_overflowing_tokens=True,
            padding="max_length",
            return_token_type_ids=True,
        )
    )


def test_windows_are_those_of_transformers(checkpoint: Path) -> None:
    samples = encode(checkpoint, ["was good"], [CONTEXT], length=14)
    fed = Worker(timeout_s=300).run(transformers_windows, checkpoint).value
    assert len(samples) == 3
    for name, array in samples.inputs.items():
        assert array.tolist() == fed[name]
    assert samples.row is not None
    assert (samples.row.tolist(), samples.row_count()) == ([0, 0, 0], 1)
    assert samples.records == [{"context": CONTEXT, "answers": None}, None, None]


def test_the_answer_is_labelled_in_the_windows_that_hold_it(checkpoint: Path) -> None:
    held = {"text": ["zq"], "answer_start": [CONTEXT.index("zq")]}
    samples = encode(checkpoint, ["was good"], [CONTEXT], [held], length=14)
    # The last window is [CLS] was good [SEP] not bad . the actor is z ##q [SEP], as far as it goes.
    assert samples.labels is not None
    assert (samples.labels.dtype.name, samples.labels[:2].tolist()) == ("int64", [[0, 0], [0, 0]])
    start, end = samples.labels[2]
    assert end == start + 1
    assert samples.extras["offsets"][2, [start, end]].tolist() == [[63, 65], [63, 65]]
    assert samples.extras["offsets"][2, :4].tolist() == [[-1, -1]] * 4


@pytest.mark.parametrize(
    "answers",
    [
        {"text": ["plot", "the plot"], "answer_start": [31, 27]},
        {"text": "plot", "answer_start": 31},
        [{"text": "plot", "answer_start": 31}],
        ("plot",),
        "plot",
        ("no such words", "plot"),
    ],
)
def test_answers_in_every_form(checkpoint: Path, answers: Any) -> None:
    samples = encode(checkpoint, ["was good"], [CONTEXT], [answers])
    assert samples.labels is not None
    assert samples.labels[0].tolist() == [11, 11]


def test_a_number_is_a_word(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,context,answer\nWhen?,in 007,007\n")
    assert read(DataSpec(str(tmp_path / "a.csv")), QUESTION_ANSWERING.columns).labels == ("007",)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (
            {"text": ["plots"], "answer_start": [31]},
            r"row 1 \(from 0\) has the answer 'plots', which does not stand in its context",
        ),
        ({"text": ["plot"], "answer_start": [30]}, "has the answer 'plot'"),
        ({"text": ["plot"], "answer_start": [-1]}, "has the answer 'plot'"),
        ({"text": ["plot"], "answer_start": [31, 5]}, "give their text and answer_start"),
        ("dull", "has the answer 'dull'"),
        (7, "give their text and answer_start"),
    ],
)
def test_answers_that_do_not_stand_in_the_context(checkpoint: Path, answers: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        encode(checkpoint, ["was", "was"], [CONTEXT] * 2, ["film", answers])
    assert str(caught.value).startswith("rows.jsonl: row 1 ")


def test_a_context_without_room_for_the_question(checkpoint: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"rows.jsonl: row 1 \(from 0\) has a question of 20 tokens, which leaves its context 1 of 24"
    ):
        encode(checkpoint, ["good", "good " * 20], [CONTEXT] * 2)
    with pytest.raises(DatasetError, match="needs its context"):
        QUESTION_ANSWERING.encode(TextRows(("a",), None, None, "rows.tsv"), INPUTS, Encoding(checkpoint), SETTINGS, checkpoint)


@pytest.mark.parametrize("threshold", [-0.1, 1.5, "high"])
def test_a_threshold_is_a_probability(threshold: Any) -> None:
    with pytest.raises(ConfigError, match="no_answer_threshold is"):
        QUESTION_ANSWERING.settings({"no_answer_threshold": threshold}, ())


def logits(samples: Samples, places: list[tuple[int, int]], height: float = 8.0) -> dict[str, Array]:
    """Outputs that point at a start and an end in each sample."""
    start, end = np.zeros((2, *samples.extras["offsets"].shape[:2]))
    for row, (first, last) in enumerate(places):
        start[row, first] = end[row, last] = height
    return {"start_logits": start, "end_logits": end}


def test_scores_of_rows_with_and_without_an_answer(checkpoint: Path) -> None:
    answers = [{"text": ["very good"], "answer_start": [13]}, {"text": [], "answer_start": []}]
    samples = encode(checkpoint, ["was"] * 2, [CONTEXT, CONTEXT[4:]], answers)
    # [CLS] was [SEP] the film was very good …
    outputs = logits(samples, [(5, 7), (0, 0)])
    assert samples.labels is not None
    assert samples.labels.tolist() == [[6, 7], [0, 0]]
    f1, exact = judge(outputs, samples).scores
    # "was very good" shares two words of three, and there is always an answer.
    assert [(score.metric, round(score.value, 6)) for score in (f1, exact)] == [("F1", 0.4), ("exact match", 0)]
    threshold = encode(checkpoint, ["was"] * 2, [CONTEXT, CONTEXT[4:]], answers, no_answer_threshold=0.5)
    f1, exact = judge(outputs, threshold).scores
    assert [round(score.value, 6) for score in (f1, exact)] == [0.9, 0.5]
    one = {name: array[1:] for name, array in outputs.items()}
    told = QUESTION_ANSWERING.predict(one, threshold.take_rows([1]))
    assert (told.answer, told.fields["answer"], told.fields["start"], told.fields["end"]) == ("no answer", "", 0, 0)
    assert told.score > 0.9


def test_an_answer_is_no_longer_than_allowed_and_ends_behind_its_start(checkpoint: Path) -> None:
    samples = encode(checkpoint, ["was"], [CONTEXT], max_answer_length=3)
    outputs = logits(samples, [(8, 5)], 4.0)
    outputs["end_logits"][0, 9] = 3.0
    assert QUESTION_ANSWERING.predict(outputs, samples).answer == "and the"
    outputs["end_logits"][0, 11] = 6.0
    assert len(QUESTION_ANSWERING.predict(outputs, samples).answer.split()) <= 3


def test_an_empty_context_has_no_answer(checkpoint: Path) -> None:
    samples = encode(checkpoint, ["was", "was"], ["", CONTEXT])
    reading = QUESTION_ANSWERING.reading(logits(samples, [(0, 0), (4, 4)]), samples)
    assert reading.decisions is not None
    assert reading.decisions.tolist() == ["", "film"]


def test_arrays_are_judged_by_their_values_and_other_outputs_refused() -> None:
    rows = ArrayRows({"input_ids": np.ones((3, LENGTH), np.int32)}, None, "rows.npz")
    samples = QUESTION_ANSWERING.encode(rows, INPUTS[:1], Encoding(), SETTINGS, Path())
    outputs = {"start": np.random.default_rng(0).normal(0, 1, (3, LENGTH)), "end": np.zeros((3, LENGTH))}
    found = judge(outputs, samples, outputs)
    assert (found.agreement, [output.name for output in found.outputs]) == (None, ["start", "end"])
    with pytest.raises(RefusedError, match="no logits of where answers start and end"):
        judge({"logits": np.zeros((3, 2))}, samples)
    with pytest.raises(DatasetError, match="labels of arrays"):
        labelled = ArrayRows(rows.arrays, np.zeros(3), "rows.npz")
        QUESTION_ANSWERING.encode(labelled, INPUTS[:1], Encoding(), SETTINGS, Path())


def official(prediction: str, truth: str) -> tuple[float, float]:
    """Exact match and F1 after the definition of SQuAD: https://rajpurkar.github.io/SQuAD-explorer, evaluate-v1.1.py."""

    def plain(text: str) -> str:
        kept = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())

    ours, theirs = plain(prediction).split(), plain(truth).split()
    same = sum((Counter(ours) & Counter(theirs)).values())
    if same == 0:
        return float(ours == theirs), float(ours == theirs)
    precision, recall = same / len(ours), same / len(theirs)
    return float(ours == theirs), 2 * precision * recall / (precision + recall)


def test_exact_match_and_f1_are_squads() -> None:
    draw = np.random.default_rng(0)
    words = ("the", "a", "Denver", "Broncos", "broncos,", "24-10", "U.S.", "an", "title.", "–", "élan", "theatre")
    for _ in range(300):
        one, other = (" ".join(draw.choice(words, draw.integers(0, 6))) for _ in range(2))
        exact, f1 = official(one, other)
        assert float(normalized(one) == normalized(other)) == exact
        assert token_f1(one, other) == pytest.approx(f1)


def losses(folder: Path) -> list[float]:
    """In a worker: the model's own loss and the task's."""
    import torch
    import transformers

    model = transformers.AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    samples = encode(folder, ["was good"] * 2, [CONTEXT] * 2, ["plot", "the actor"], length=14)
    labels = torch.tensor(samples.labels)
    with torch.no_grad():
        fed = {name: torch.tensor(array, dtype=torch.long) for name, array in samples.inputs.items()}
        outputs = model(**fed, start_positions=labels[:, 0], end_positions=labels[:, 1])
    return [float(outputs.loss), float(QUESTION_ANSWERING.loss(outputs, labels, SETTINGS))]


def test_the_loss_is_the_models_own(checkpoint: Path) -> None:
    own, ours = Worker(timeout_s=300).run(losses, checkpoint).value
    assert ours == pytest.approx(own, rel=1e-5)


def test_xquad_is_read_and_fed(checkpoint: Path, shared: Path) -> None:
    rows = read(DataSpec(str(shared / "data/xquad/en_dev.jsonl")), QUESTION_ANSWERING.columns)
    inputs = tuple(TensorSpec(spec.name, (1, 512), spec.dtype) for spec in INPUTS)
    samples = QUESTION_ANSWERING.encode(rows, inputs, Encoding(checkpoint), SETTINGS, checkpoint)
    assert samples.labels is not None
    assert samples.row_count() == len(rows) == 137
    # Every answer stands whole in some window.
    assert {int(row) for row, (start, _) in zip(samples.row, samples.labels, strict=True) if start} == set(range(137))  # type: ignore[arg-type]
