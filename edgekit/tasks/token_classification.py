"""A tag for each word of a text: entities (IOB2, IOBES read) or any other tags, such as parts of speech."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.encode import Encoding, token_length
from edgekit.data.samples import Array, Samples
from edgekit.data.sources import ColumnNames, Rows, TextRows
from edgekit.data.text import encodings, fed, open_tokenizer
from edgekit.errors import DatasetError, RefusedError
from edgekit.spec import TensorSpec
from edgekit.tasks.base import Description, Outputs, Prediction, Reading, Settings, Task, first_output
from edgekit.tasks.classification import probabilities
from edgekit.tasks.metrics import ENTITY_F1, TOKEN_ACCURACY, Metric

# What torch's cross entropy leaves out: every piece of a word but the first, special tokens, padding.
IGNORED = -100
OUTSIDE = "O"
_MARKS = ("B-", "I-", "E-", "S-")


@dataclass(frozen=True)
class TokenClassification(Task):
    """Settings: `labels` names the tags. The first piece of a word decides its tag; words that a text is too long for have none.

    Samples have labels (N, L) int64, `IGNORED` but at first pieces, the extras `words` (N, L), the word's number at its first
    piece and else -1, and `offsets` (N, L, 2), the characters of each token in the text, -1 where it is no text; and the texts
    as records. Words given apart are read as a text with a space between each two."""

    def settings(self, config: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
        return {"labels": list(labels), "activation": "softmax"}

    def labels_of(self, rows: Rows, known: Sequence[str]) -> list[str]:
        """Tags for a new head: those of a checkpoint if they cover the rows', else the rows' own, O first."""
        tags: set[str] = set()
        texts, names = (rows.texts, rows.class_names) if isinstance(rows, TextRows) else ((), None)
        for label, text in zip(rows.labels if rows.labels is not None else (), texts, strict=False):
            if names and any(isinstance(tag, int) for tag in label):
                tags |= set(names)
            elif _are_spans(label, text):
                tags |= {OUTSIDE, *(f"{mark}{name}" for *_, name in _spans(label) for mark in _MARKS[:2])}
            else:
                tags |= {tag if isinstance(tag, str) else _numbered(tag, known) for tag in _tags(label) if tag != IGNORED}
        covered = {tag.casefold() for tag in tags} <= {name.casefold() for name in known}
        return list(known) if covered else sorted(tags, key=lambda tag: (tag != OUTSIDE, tag[2:], tag))

    def metrics(self, settings: Settings) -> tuple[Metric, ...]:
        """Entity F1 gates where every tag but O begins with B-, I-, E- or S-, and token accuracy elsewhere."""
        return (ENTITY_F1, TOKEN_ACCURACY) if _marked(settings.get("labels", ())) else (TOKEN_ACCURACY,)

    def encode(self, rows: Rows, inputs: Sequence[TensorSpec], encoding: Encoding, settings: Settings, folder: Path) -> Samples:
        if not isinstance(rows, TextRows):
            if rows.labels is not None:
                raise DatasetError(f"{rows.origin}: labels of arrays are no words' tags; give texts or words with tags")
            return super().encode(rows, inputs, encoding, settings, folder)
        if rows.pairs is not None:
            raise DatasetError(f"{rows.origin}: tags are of one text, these are pairs; name one column with --text-column")
        length, names = token_length(rows, inputs, replace(encoding, pairs=False)), [spec.name for spec in inputs]
        encoder = open_tokenizer(encoding.tokenizer or Path(), length, pair=False)
        texts, bounds = zip(*(_joined(rows, index) for index in range(len(rows))), strict=True)
        count = len(rows)
        arrays = {name: np.empty((count, length), np.int32) for name in names}
        words, offsets = np.full((count, length), -1, np.int32), np.full((count, length, 2), -1, np.int32)
        labels = None if rows.labels is None else np.full((count, length), IGNORED, np.int64)
        for index, encoded in enumerate(encodings(encoder, texts)):
            for name, array in arrays.items():
                array[index] = fed(encoded, name)
            inside = np.asarray(encoded.special_tokens_mask) == 0
            offsets[index, inside] = np.asarray(encoded.offsets, np.int32).reshape(-1, 2)[inside]
            starts = _words(encoded, bounds[index], inside)
            first = inside & (starts >= 0) & (np.diff(starts, prepend=-1) != 0)
            words[index, first] = starts[first]
            if labels is not None:
                spans = bounds[index] if bounds[index] is not None else _spelled(encoded, starts)
                labels[index, first] = self._numbers(rows, index, texts[index], spans, settings)[starts[first]]
        extras = {"words": words, "offsets": offsets}
        return Samples(arrays, labels, extras=extras, records=list(texts), task=self.name, settings=settings)

    def _numbers(self, rows: TextRows, index: int, text: str, words: Array, settings: Settings) -> Array:
        """The head's number of each word's tag."""
        label, names = rows.labels[index] if rows.labels else (), list(settings.get("labels", ()))
        where = f"{rows.origin}: row {rows.number(index)} (from 0)"
        if _are_spans(label, rows.texts[index]):
            tags: Sequence[Any] = _of_spans(where, _spans(label, where), text, words, names)
        else:
            tags = _tags(label)
            if len(tags) != len(words):
                raise DatasetError(f"{where} has {len(words)} words and {len(tags)} tags; give one tag for each word")
        numbers = {name: number for number, name in enumerate(names)}
        folded = {name.casefold(): number for number, name in enumerate(names)}
        found = np.full(len(words), IGNORED, np.int64)
        for place, tag in enumerate(tags):
            if isinstance(tag, int) and rows.class_names and 0 <= tag < len(rows.class_names):
                tag = rows.class_names[tag]
            number = numbers.get(tag, folded.get(tag.casefold(), -1)) if isinstance(tag, str) else tag
            if number != IGNORED and (not isinstance(number, int) or number < 0 or (names and number >= len(names))):
                listed = ", ".join(names[:12])
                raise DatasetError(
                    f"{where} has the tag {tag!r}, the head's {len(names)} are {listed}; mend it or set --label-column"
                )
            found[place] = number
        return found

    def reading(self, outputs: Outputs, samples: Samples) -> Reading:
        name, logits = first_output(outputs)
        if logits.ndim != 3 or logits.shape[2] < 2:
            raise RefusedError(f"output {name} of shape {logits.shape[1:]} gives no token a tag; name another --task")
        first = _first_pieces(samples, logits)
        values = logits[first]
        if len(values) > 1 and (values == values[:, :1]).all():
            raise RefusedError(
                "every tag gets the same score at every word; convert again with another scheme or other representative data"
            )
        chosen = values.argmax(axis=1)
        if samples.labels is None:
            return Reading(chosen, {name: values})
        truth = np.asarray(samples.labels)[first]
        if (truth >= logits.shape[2]).any():
            raise DatasetError(f"label {int(truth.max())} is outside the model's {logits.shape[2]} tags; check the label column")
        ends = np.cumsum(first.sum(axis=1))
        right = np.split((chosen == truth) & (truth != IGNORED), ends[:-1])
        counted = np.split(truth != IGNORED, ends[:-1])
        tallies = {TOKEN_ACCURACY.name: np.array([[a.sum(), b.sum()] for a, b in zip(right, counted, strict=True)])}
        names = samples.settings.get("labels", ())
        if _marked(names) and len(names) == logits.shape[2]:
            tags = [[*names, OUTSIDE][number] for number in np.where(truth == IGNORED, len(names), truth)]
            ours = [names[number] for number in chosen]
            spans = [(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
            pairs = [(entities(ours[start:end]), entities(tags[start:end])) for start, end in spans]
            tallies[ENTITY_F1.name] = np.array([[len(a & b), len(a - b), len(b - a)] for a, b in pairs])
        return Reading(chosen, {name: values}, tallies)

    def head(self, settings: Settings) -> dict[str, Any]:
        labels = settings["labels"]
        return {"label2id": {name: number for number, name in enumerate(labels)}, "id2label": dict(enumerate(labels))}

    def loss(self, outputs: Any, labels: Any, settings: Settings) -> Any:
        from torch.nn import functional

        logits = outputs.logits.float().flatten(0, 1)
        summed = functional.cross_entropy(logits, labels.flatten(), ignore_index=IGNORED, reduction="sum")
        return summed / (labels != IGNORED).sum().clamp(min=1)

    def soft_targets(self, outputs: Any, settings: Settings) -> list[tuple[Any, str]]:
        return [(outputs.logits, "softmax")]

    def predict(self, outputs: Outputs, samples: Samples) -> Prediction:
        """Entities as transformers' pipeline groups them with aggregation_strategy "simple": tokens one after the other with
        the same tag, unless the later one begins an entity; the score is the tokens' mean. E- and S- are read as in IOBES."""
        _, logits = first_output(outputs)
        offsets, text = np.asarray(samples.extras["offsets"])[0], samples.records[0] if samples.records else ""
        places = np.flatnonzero(offsets[:, 0] >= 0)
        shares = probabilities(logits[0, places], samples.settings)
        names = list(samples.settings.get("labels", ())) or [str(number) for number in range(logits.shape[2])]
        groups: list[tuple[str, list[int]]] = []
        for place, number in enumerate(shares.argmax(axis=1)):
            tag = names[number]
            mark, kind = (tag[:2], tag[2:]) if tag.startswith(_MARKS) else ("", tag)
            if groups and groups[-1][0] == kind and mark not in ("B-", "S-"):
                groups[-1][1].append(place)
            else:
                groups.append((kind, [place]))
        found = []
        for kind, tokens in groups:
            if kind != OUTSIDE:
                start, end = int(offsets[places[tokens[0]], 0]), int(offsets[places[tokens[-1]], 1])
                score = float(shares[tokens].max(axis=1).mean())
                found.append({"label": kind, "score": score, "start": start, "end": end, "text": text[start:end]})
        answer = ", ".join(f"{entity['text']} ({entity['label']})" for entity in found) or "none"
        best = shares.max(axis=1).mean() if len(shares) else 0.0
        return Prediction(answer, float(np.mean([entity["score"] for entity in found]) if found else best), {"entities": found})

    def describe(self, settings: Settings) -> Description:
        return Description("Token classifier", {"": ("logits", "Logit of each tag for each token.")})


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Type, first and last word of each entity, read as the CoNLL-2000 evaluation and seqeval's default mode do.

    An I- or E- behind another type, or behind what ended an entity, begins one."""
    found, start, last = set(), 0, OUTSIDE
    for place, tag in enumerate([*tags, OUTSIDE]):
        goes_on = tag[:1] in ("I", "E") and last[:1] in ("B", "I") and tag[2:] == last[2:]
        if not goes_on:
            if last != OUTSIDE:
                found.add((last[2:], start, place - 1))
            start = place
        last = tag
    return found


def _marked(names: Sequence[str]) -> bool:
    return any(name != OUTSIDE for name in names) and all(name == OUTSIDE or name.startswith(_MARKS) for name in names)


def _first_pieces(samples: Samples, logits: Array) -> Array:
    """Where words begin, bool (N, L): as encoded, or every token for arrays that do not say."""
    if "words" in samples.extras:
        return np.asarray(samples.extras["words"]) >= 0
    mask = samples.inputs.get("attention_mask")
    return np.asarray(mask) > 0 if mask is not None and mask.shape == logits.shape[:2] else np.ones(logits.shape[:2], bool)


def _joined(rows: TextRows, index: int) -> tuple[str, Array | None]:
    """The text of a row, and the characters (words, 2) of each word where the row says what its words are."""
    text = rows.texts[index]
    label = rows.labels[index] if rows.labels is not None else ()
    if isinstance(text, str):
        if rows.labels is None or _are_spans(label, text):
            return text, None
        text = text.split()
    ends = np.cumsum([len(word) + 1 for word in text], dtype=np.int64)
    starts = ends - [len(word) + 1 for word in text]
    return " ".join(text), np.stack([starts, ends - 1], axis=1) if len(text) else np.empty((0, 2), np.int64)


def _words(encoded: Any, bounds: Array | None, inside: Array) -> Array:
    """The number of the word that each token is of, -1 for none."""
    if bounds is None:
        return np.array([-1 if word is None else word for word in encoded.word_ids])
    if not len(bounds):
        return np.full(len(inside), -1)
    # A token may begin with the space before its word.
    starts = np.asarray(encoded.offsets).reshape(-1, 2)[:, 0]
    return np.where(inside, np.minimum(np.searchsorted(bounds[:, 1], starts, side="right"), len(bounds) - 1), -1)


def _spelled(encoded: Any, words: Array) -> Array:
    """The characters (words, 2) of the tokenizer's own words."""
    found = np.zeros((int(words.max(initial=-1)) + 1, 2), np.int64)
    for word, (start, end) in zip(words, encoded.offsets, strict=True):
        if word >= 0:
            found[word] = (start, end) if found[word, 1] == 0 else (found[word, 0], end)
    return found


def _tags(label: Any) -> Sequence[Any]:
    """Tags of a row: a list of names or numbers, or a text of names with spaces between."""
    if isinstance(label, str):
        return label.split()
    return label if isinstance(label, list | tuple) else (label,)


def _numbered(tag: Any, known: Sequence[str]) -> str:
    return known[tag] if isinstance(tag, int) and 0 <= tag < len(known) else f"LABEL_{tag}"


def _are_spans(label: Any, text: Any) -> bool:
    """Whether labels are characters of a raw text with their names, and not tags of words."""
    if not isinstance(text, str) or not isinstance(label, tuple | Mapping):
        return False
    return isinstance(label, Mapping) or all(isinstance(part, Mapping | list | tuple) for part in label)


def _spans(label: Any, where: str = "rows") -> list[tuple[int, int, str]]:
    found: list[tuple[int, int, str]] = []
    # `datasets` holds a list of objects as an object of lists.
    columns = isinstance(label, Mapping) and all(isinstance(values, list | tuple) for values in label.values())
    for span in [dict(zip(label, values, strict=False)) for values in zip(*label.values(), strict=False)] if columns else label:
        parts: Any = span
        if isinstance(span, Mapping):
            parts = (span.get("start"), span.get("end"), span.get("label", span.get("type", span.get("entity_group"))))
        if len(parts) != 3 or not isinstance(parts[2], str) or not all(isinstance(place, int) for place in parts[:2]):
            raise DatasetError(f"{where} has the span {span!r}; give start and end in characters and a label")
        found.append((parts[0], parts[1], parts[2]))
    return found


def _of_spans(where: str, spans: Sequence[tuple[int, int, str]], text: str, words: Array, names: Sequence[str]) -> list[str]:
    """IOB2 tags of the words, IOBES ones where the head has them, its bare labels where it marks no beginnings."""
    tags = [OUTSIDE] * len(words)
    for start, end, label in spans:
        if not 0 <= start < end <= len(text):
            raise DatasetError(f"{where} has a span from {start} to {end}, its text has {len(text)} characters; mend it")
        covered = np.flatnonzero((words[:, 0] < end) & (words[:, 1] > start))
        for place in covered:
            marks = "B-" if place == covered[0] else "I-"
            if place == covered[-1] and f"S-{label}" in names and f"E-{label}" in names:
                marks = "S-" if len(covered) == 1 else "E-"
            tags[place] = label if label in names and f"{marks}{label}" not in names else f"{marks}{label}"
    return tags


TOKEN_CLASSIFICATION = TokenClassification(
    "token-classification",
    "text",
    ("ForTokenClassification",),
    "AutoModelForTokenClassification",
    ("logits",),
    ColumnNames(
        texts=(("tokens",), ("words",), ("text",), ("sentence",)),
        labels=("ner_tags", "tags", "labels", "pos_tags", "chunk_tags", "spans", "entities"),
    ),
    per_token=True,
)
