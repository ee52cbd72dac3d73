"""The words of a context that answer a question; a long context goes in by windows that overlap."""

import re
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.encode import Encoding, token_length
from edgekit.data.samples import Array, Samples
from edgekit.data.sources import ColumnNames, Rows, TextRows
from edgekit.data.text import encodings, fed, open_tokenizer, uncut
from edgekit.errors import ConfigError, DatasetError, RefusedError
from edgekit.spec import TensorSpec
from edgekit.tasks.base import Description, Outputs, Prediction, Reading, Settings, Task
from edgekit.tasks.classification import probabilities
from edgekit.tasks.metrics import ANSWER_F1, EXACT_MATCH, Metric

# Tokens: by how many windows overlap (at most a third of their room), the longest answer, the least room for a context.
STRIDE, LONGEST_ANSWER, _LEAST_ROOM = 128, 15, 8
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class _Span:
    """The best answer of one window: probability, and characters in the context; `null` is the probability of no answer."""

    score: float
    start: int
    end: int
    null: float


@dataclass(frozen=True)
class QuestionAnswering(Task):
    """Settings: `stride` and `max_answer_length` in tokens; `no_answer_threshold` is the probability of no answer from which on
    none is given, None where there always is one.

    A row makes a sample for each window. Samples have labels (N, 2) int64, the first and the last token of the answer, or twice
    `cls` where the window does not hold it; the extras `cls` (N,), the token that stands for no answer, and `offsets` (N, L, 2),
    the characters of the word of each token in the context, -1 outside; and as the record of a row's first sample its context and
    the texts of its answers, None where they are not known."""

    def settings(self, config: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
        threshold = config.get("no_answer_threshold")
        if threshold is not None and not (isinstance(threshold, int | float) and 0 <= threshold <= 1):
            raise ConfigError(f"no_answer_threshold is {threshold!r}, no probability; give one from 0 to 1")
        usual = {"stride": STRIDE, "max_answer_length": LONGEST_ANSWER}
        return {**{name: config.get(name, value) for name, value in usual.items()}, "no_answer_threshold": threshold}

    def labels_of(self, rows: Rows, known: Sequence[str]) -> list[str]:
        return list(known) if len(known) == 2 else ["LABEL_0", "LABEL_1"]

    def metrics(self, settings: Settings) -> tuple[Metric, ...]:
        return (ANSWER_F1, EXACT_MATCH)

    def encode(self, rows: Rows, inputs: Sequence[TensorSpec], encoding: Encoding, settings: Settings, folder: Path) -> Samples:
        if not isinstance(rows, TextRows):
            if rows.labels is not None:
                raise DatasetError(f"{rows.origin}: labels of arrays are no answers; give questions, contexts and answers")
            return super().encode(rows, inputs, encoding, settings, folder)
        if rows.pairs is None:
            raise DatasetError(f"{rows.origin}: a question needs its context; name both columns with --text-column")
        length, names = token_length(rows, inputs, replace(encoding, pairs=True)), [spec.name for spec in inputs]
        arrays: dict[str, list[Any]] = {name: [] for name in names}
        labels, offsets, marks, records, row = [], [], [], list[Any](), []
        for index, answers, windows in _windows(rows, encoding.tokenizer or Path(), length, int(settings.get("stride", STRIDE))):
            for number, (encoded, words) in enumerate(windows):
                for name, held in arrays.items():
                    held.append(fed(encoded, name))
                first = next((place for place, mask in enumerate(encoded.attention_mask) if mask), 0)
                inside = np.array([sequence == 1 for sequence in encoded.sequence_ids])
                offsets.append(np.where(inside[:, np.newaxis], words, -1))
                marks.append(first)
                row.append(index)
                known = None if answers is None else [text for text, _ in answers]
                records.append({"context": rows.pairs[index], "answers": known} if number == 0 else None)
                labels.append(_place(encoded, inside, answers, first))
        return Samples(
            {name: np.array(held) for name, held in arrays.items()},
            None if rows.labels is None else np.array(labels, np.int64),
            extras={"offsets": np.array(offsets, np.int32), "cls": np.array(marks, np.int32)},
            records=records,
            row=np.array(row, np.int64),
            task=self.name,
            settings=settings,
        )

    def reading(self, outputs: Outputs, samples: Samples) -> Reading:
        pair = self._logits(outputs)
        if "offsets" not in samples.extras:
            # Ids alone do not say where the context is.
            return Reading(None, pair)
        inside = np.asarray(samples.extras["offsets"])[:, :, 0] >= 0
        values = {name: logits[inside][:, np.newaxis] for name, logits in pair.items()}
        answers, exact, overlap = [], [], []
        for record, span in self._answers(pair, samples):
            answer = self._text(record, span, samples.settings)
            answers.append(answer)
            if record["answers"] is not None:
                golds = record["answers"] or [""]
                exact.append([max(float(normalized(answer) == normalized(gold)) for gold in golds)])
                overlap.append([max(token_f1(answer, gold) for gold in golds), 1.0])
        tallies = {ANSWER_F1.name: np.array(overlap), EXACT_MATCH.name: np.array(exact)} if samples.labels is not None else {}
        return Reading(np.array(answers), values, tallies)

    def head(self, settings: Settings) -> dict[str, Any]:
        return {name: value for name, value in settings.items() if name in ("stride", "max_answer_length", "no_answer_threshold")}

    def loss(self, outputs: Any, labels: Any, settings: Settings) -> Any:
        from torch.nn import functional

        pair = (outputs.start_logits, outputs.end_logits)
        return sum(functional.cross_entropy(logits.float(), labels[:, side]) for side, logits in enumerate(pair)) / 2

    def soft_targets(self, outputs: Any, settings: Settings) -> list[tuple[Any, str]]:
        return [(outputs.start_logits, "softmax"), (outputs.end_logits, "softmax")]

    def predict(self, outputs: Outputs, samples: Samples) -> Prediction:
        """The answer as transformers' pipeline chose it up to version 4: the softmaxes of start and end over the context and the
        token for no answer, their product, whole words; the best of all windows."""
        ((record, span),) = self._answers(self._logits(outputs), samples)
        answer = self._text(record, span, samples.settings)
        score, start, end = (span.score, span.start, span.end) if answer else (span.null, 0, 0)
        return Prediction(answer or "no answer", score, {"answer": answer, "score": score, "start": start, "end": end})

    def describe(self, settings: Settings) -> Description:
        titles = {f"{side}_logits": (f"{side}_logits", f"Logit of each token to {side} the answer.") for side in ("start", "end")}
        return Description("Question answering", titles)

    def _logits(self, outputs: Outputs) -> dict[str, Array]:
        """Those of start and end (N, L), by their names or in the order of the outputs. Raises `RefusedError`."""
        names = self.outputs if set(self.outputs) <= set(outputs) else tuple(outputs)[:2]
        pair = {name: np.asarray(outputs[name]) for name in names}
        if len(pair) < 2 or any(logits.ndim != 2 or logits.shape[1] < 2 for logits in pair.values()):
            shapes = ", ".join(f"{name} {np.shape(array)[1:]}" for name, array in outputs.items())
            raise RefusedError(f"outputs {shapes} are no logits of where answers start and end; name another --task")
        return pair

    def _answers(self, pair: Mapping[str, Array], samples: Samples) -> Iterator[tuple[Mapping[str, Any], _Span]]:
        """The record and the best span of each row, with the least probability of no answer that a window gives."""
        offsets, marks = np.asarray(samples.extras["offsets"]), np.asarray(samples.extras["cls"])
        longest = int(samples.settings.get("max_answer_length", LONGEST_ANSWER))
        start_logits, end_logits = pair.values()
        spans = _best_spans(start_logits, end_logits, offsets, marks, longest)
        rows = np.arange(len(spans)) if samples.row is None else np.asarray(samples.row)[: len(spans)]
        firsts = np.flatnonzero(np.diff(rows, prepend=rows[:1] - 1))
        for start, end in zip(firsts, [*firsts[1:], len(spans)], strict=True):
            windows = spans[start:end]
            best = max(windows, key=lambda span: span.score)
            yield (samples.records or ())[int(start)], replace(best, null=min(span.null for span in windows))

    def _text(self, record: Mapping[str, Any], span: _Span, settings: Settings) -> str:
        threshold = settings.get("no_answer_threshold")
        none = threshold is not None and span.null >= threshold
        return "" if none else str(record["context"][span.start : span.end])


def normalized(text: str) -> str:
    """In lower case, without punctuation and articles, with single spaces: SQuAD's official evaluation, evaluate-v2.0.py."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def token_f1(answer: str, gold: str) -> float:
    """F1 of the words that two answers share, after `normalized`; of nothing, whether both are nothing."""
    ours, theirs = normalized(answer).split(), normalized(gold).split()
    if not ours or not theirs:
        return float(ours == theirs)
    return 2 * (Counter(ours) & Counter(theirs)).total() / (len(ours) + len(theirs))


def _best_spans(start: Array, end: Array, offsets: Array, marks: Array, longest: int) -> list[_Span]:
    rows, inside = np.arange(len(start)), offsets[:, :, 0] >= 0
    counted = inside.copy()
    counted[rows, marks] = True
    shares = [probabilities(np.where(counted, logits, -np.inf), {"activation": "softmax"}) for logits in (start, end)]
    null = shares[0][rows, marks] * shares[1][rows, marks]
    first, last = (np.where(inside, share, 0) for share in shares)
    best, places = np.zeros(len(start)), np.zeros((len(start), 2), np.int64)
    for length in range(min(longest, start.shape[1])):
        products = first[:, : start.shape[1] - length] * last[:, length:]
        chosen = products.argmax(axis=1)
        better = products[rows, chosen] > best
        best = np.where(better, products[rows, chosen], best)
        places[better] = np.stack([chosen, chosen + length], axis=1)[better]
    # Without an answer both ends are 0.
    ends = np.where(best[:, np.newaxis] > 0, np.stack([offsets[rows, places[:, 0], 0], offsets[rows, places[:, 1], 1]], axis=1), 0)
    return [_Span(score, a, b, none) for score, (a, b), none in zip(best.tolist(), ends.tolist(), null.tolist(), strict=True)]


def _windows(rows: TextRows, tokenizer: Path, length: int, stride: int) -> Iterator[tuple[int, Any, list[tuple[Any, Array]]]]:
    """Number of each row, its answers, and its windows, each with the characters (L, 2) of the word of every token."""
    encoder = open_tokenizer(tokenizer, length, pair=True)
    contexts = rows.pairs or ()
    halves = (encodings(uncut(encoder), texts, special=False) for texts in (rows.texts, contexts))
    for index, (question, context) in enumerate(zip(*halves, strict=True)):
        where = f"{rows.origin}: row {rows.number(index)} (from 0)"
        answers = None if rows.labels is None else _given(where, rows.labels[index], contexts[index])
        room = length - encoder.num_special_tokens_to_add(True) - len(question.ids)
        if room < min(_LEAST_ROOM, max(1, len(context.ids))):
            raise DatasetError(
                f"{where} has a question of {len(question.ids)} tokens, which leaves its context {max(0, room)} of {length}; "
                "shorten it or give a larger --max-length"
            )
        context.truncate(room, stride=min(stride, room // 3))
        windows = []
        for part in (context, *context.overflowing):
            # As much of a word as the window holds, as the pipeline has it.
            spelled: dict[int, tuple[int, int]] = {}
            for word, (start, end) in zip(part.word_ids, part.offsets, strict=True):
                spelled[word] = (spelled.get(word, (start, end))[0], end)
            encoded = encoder.post_process(question, part)
            windows.append((encoded, np.array([spelled.get(word, (0, 0)) for word in encoded.word_ids])))
        yield index, answers, windows


def _place(encoded: Any, inside: Array, answers: Sequence[tuple[str, int]] | None, none: int) -> tuple[int, int]:
    """First and last token of the first answer, or twice `none` where the window does not hold it whole."""
    places = np.flatnonzero(inside)
    if not answers or not len(places):
        return none, none
    (text, start), offsets = answers[0], np.array(encoded.offsets)[places]
    touched = places[(offsets[:, 0] < start + len(text)) & (offsets[:, 1] > start)]
    whole = offsets[0, 0] <= start and offsets[-1, 1] >= start + len(text)
    return (int(touched[0]), int(touched[-1])) if whole and len(touched) else (none, none)


def _given(where: str, label: Any, context: str) -> list[tuple[str, int]]:
    """Texts of the answers of a row and where they start; the first stands in the context. Raises `DatasetError`."""
    if isinstance(label, Mapping):
        texts, starts = (label.get(name) for name in ("text", "answer_start"))
    elif isinstance(label, list | tuple) and label and all(isinstance(answer, Mapping) for answer in label):
        texts, starts = ([answer.get(name) for answer in label] for name in ("text", "answer_start"))
    else:
        texts, starts = label, None
    texts = list(texts) if isinstance(texts, list | tuple) else [] if texts is None else [texts]
    starts = list(starts) if isinstance(starts, list | tuple) else [starts] if isinstance(starts, int) else []
    starts = starts if any(start is not None for start in starts) else []
    typed = all(isinstance(text, str) for text in texts) and all(isinstance(start, int) for start in starts)
    if not typed or len(starts) not in (0, len(texts)):
        raise DatasetError(
            f"{where} has the answers {str(label)[:80]!r}; give their text and answer_start, a list of texts or one text"
        )
    texts = [text for text in texts if text.strip()] if not starts else texts
    found = [(text, start) for text, start in zip(texts, starts or [context.find(text) for text in texts], strict=True)]
    wrong = [text for text, start in found if start < 0 or context[start : start + len(text)] != text]
    if wrong and (starts or len(wrong) == len(found)):
        raise DatasetError(f"{where} has the answer {wrong[0][:60]!r}, which does not stand in its context; mend the row")
    return sorted(found, key=lambda answer: answer[0] in wrong)


QUESTION_ANSWERING = QuestionAnswering(
    "question-answering",
    "text",
    ("ForQuestionAnswering", "ForQuestionAnsweringSimple"),
    "AutoModelForQuestionAnswering",
    ("start_logits", "end_logits"),
    ColumnNames(texts=(("question", "context"),), labels=("answers", "answer"), verbatim=True),
    per_token=True,
)
