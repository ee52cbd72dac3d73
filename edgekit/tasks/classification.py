"""Classes, labels or a value of a whole input: one text or a pair, an image, arrays."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.encode import Encoding, feed
from edgekit.data.images import head_labels
from edgekit.data.samples import Array, Samples
from edgekit.data.sources import ArrayRows, ImageRows, Rows, TextRows, is_fraction
from edgekit.data.text import class_numbers
from edgekit.errors import ConfigError, DatasetError, RefusedError
from edgekit.spec import TensorSpec
from edgekit.tasks import metrics
from edgekit.tasks.base import Description, Outputs, Prediction, Reading, Settings, Task, first_output
from edgekit.tasks.metrics import Metric, moments

# As transformers calls them in config.json's problem_type, and what makes scores of the outputs.
SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
ACTIVATIONS = {SINGLE: "softmax", MULTI: "sigmoid", REGRESSION: "none"}
THRESHOLD, MOST_CLASSES = 0.5, 10**6
# How far the float32 or int8 outputs of a softmax may be from a sum of 1.
_SUM_TOLERANCE = 0.02
_METRICS: Mapping[str, tuple[Metric, ...]] = {
    SINGLE: (metrics.ACCURACY, metrics.CROSS_ENTROPY),
    MULTI: (metrics.MICRO_F1, metrics.MACRO_F1),
    REGRESSION: (metrics.PEARSON, metrics.SPEARMAN, metrics.MEAN_ABSOLUTE_ERROR),
}
_REMEDIES = {SINGLE: "give one class a row", MULTI: "name a column for each label with --label-column", REGRESSION: "give values"}
_TITLES = {
    "softmax": ("logits", "Logit of each class."),
    "sigmoid": ("logits", "Logit of each label."),
    "none": ("probability", "Probability of each class."),
    REGRESSION: ("value", "The value that the model estimates."),
}


@dataclass(frozen=True)
class Classification(Task):
    """Settings: `problem` is one of the three, `labels` names the classes, `activation` makes scores of the outputs (softmax,
    sigmoid, or none where they are scores already), `threshold` is the least probability with which a label of several holds."""

    def settings(self, config: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
        problem = config.get("problem_type") or (REGRESSION if len(labels) == 1 else SINGLE)
        if problem not in _METRICS:
            problem = SINGLE
        settings = {"problem": problem, "labels": list(labels), "activation": ACTIVATIONS[problem]}
        return settings | ({"threshold": float(config.get("threshold", THRESHOLD))} if problem == MULTI else {})

    def labels_of(self, rows: Rows, known: Sequence[str]) -> list[str]:
        return _names(rows, known, problem_of(rows))

    def settings_for(
        self, rows: Rows, config: Mapping[str, Any], known: Sequence[str], problem: str | None, trained: bool
    ) -> dict[str, Any]:
        if problem is not None and problem not in _METRICS:
            raise ConfigError(f"--problem {problem}: no such problem; choose from {', '.join(_METRICS)}")
        own = self.settings(config, known)["problem"]
        kind = problem or (own if trained and _are_of(rows, own, known) else problem_of(rows))
        if trained and problem is None and kind != own:
            raise ConfigError(
                f"{rows.origin}: its labels are those of a {kind}, but the model's head is trained for {own} "
                f"({', '.join(known[:8])}); {_REMEDIES[own]}, or give --problem {kind} to start a new head"
            )
        return self.settings({**config, "problem_type": kind}, _names(rows, known, kind))

    def metrics(self, settings: Settings) -> tuple[Metric, ...]:
        return _METRICS[problem(settings)]

    def encode(self, rows: Rows, inputs: Sequence[TensorSpec], encoding: Encoding, settings: Settings, folder: Path) -> Samples:
        samples = feed(rows, inputs, encoding, folder)
        labels = self.labels(rows, encoding, settings)
        # Images that cannot be read are left out.
        if labels is not None and samples.kept is not None:
            labels = labels[samples.kept]
        return samples.labelled(labels, self.name, settings)

    def labels(self, rows: Rows, encoding: Encoding, settings: Settings) -> Array | None:
        """int64 (N,) class numbers, float64 (N, labels) of 0 and 1, or float64 (N,) values. Raises `DatasetError`."""
        if rows.labels is None:
            return None
        kind = problem(settings)
        if kind == REGRESSION:
            return numbers(rows)
        if kind == MULTI:
            return several(rows, settings["labels"])
        if isinstance(rows, ImageRows):
            return head_labels(rows, encoding.classes)
        if isinstance(rows, ArrayRows):
            return _within(rows, np.asarray(rows.labels), encoding.classes)
        names = settings.get("labels", ())
        labels = class_numbers(rows, {name: number for number, name in enumerate(names)})
        return labels if names or labels is None else _within(rows, labels, encoding.classes)

    def reading(self, outputs: Outputs, samples: Samples) -> Reading:
        name, first = first_output(outputs)
        kind, labels = problem(samples.settings), samples.labels
        values = scores(first, name)
        if kind == REGRESSION:
            if labels is None:
                return Reading(None, {name: values})
            x, y = values[:, 0].astype(np.float64), np.asarray(labels, np.float64)
            off = np.stack([np.abs(x - y), np.ones_like(x)], axis=1)
            tallies = {
                metrics.PEARSON.name: moments(x, y),
                metrics.SPEARMAN.name: np.stack([x, y], axis=1),
                metrics.MEAN_ABSOLUTE_ERROR.name: off,
            }
            return Reading(None, {name: values}, tallies)
        if kind == MULTI:
            chosen = probabilities(values, samples.settings) >= samples.settings.get("threshold", THRESHOLD)
            if labels is None:
                return Reading(chosen.reshape(-1), {name: values})
            true = np.asarray(labels) > 0
            counts = np.stack([chosen & true, chosen & ~true, ~chosen & true], axis=2)
            tallies = {metrics.MICRO_F1.name: counts.sum(axis=1), metrics.MACRO_F1.name: counts.reshape(len(counts), -1)}
            return Reading(chosen.reshape(-1), {name: values}, tallies)
        if values.shape[1] < 2:
            raise RefusedError(f"output {name} of shape {first.shape[1:]} holds no classes to choose from; name another --task")
        if len(values) > 1 and (values == values[:, :1]).all():
            raise RefusedError(
                "every class gets the same score in every row; convert again with another scheme or other representative data"
            )
        chosen = values.argmax(axis=1)
        if labels is None:
            return Reading(chosen, {name: values})
        true = np.asarray(labels)
        if (outside := (true < 0) | (true >= values.shape[1])).any():
            place = int(outside.argmax())
            classes = f"the model's {values.shape[1]} classes"
            raise DatasetError(f"label {int(true[place])} of row {place} is outside {classes}; check the label column")
        tallies = {metrics.ACCURACY.name: (chosen == true)[:, np.newaxis]}
        if (losses := _cross_entropy(values, true)) is not None:
            tallies[metrics.CROSS_ENTROPY.name] = np.stack([losses, np.ones_like(losses)], axis=1)
        return Reading(chosen, {name: values}, tallies)

    def head(self, settings: Settings) -> dict[str, Any]:
        labels = settings["labels"]
        found: dict[str, Any] = {
            "label2id": {name: number for number, name in enumerate(labels)},
            "id2label": dict(enumerate(labels)),
            "problem_type": problem(settings),
        }
        return found | ({"threshold": settings["threshold"]} if "threshold" in settings else {})

    def loss(self, outputs: Any, labels: Any, settings: Settings) -> Any:
        from torch.nn import functional

        logits, kind = outputs.logits.float(), problem(settings)
        if kind == REGRESSION:
            return functional.mse_loss(logits[:, 0], labels.float())
        if kind == MULTI:
            return functional.binary_cross_entropy_with_logits(logits, labels.float())
        return functional.cross_entropy(logits, labels)

    def soft_targets(self, outputs: Any, settings: Settings) -> list[tuple[Any, str]]:
        return [(outputs.logits, {SINGLE: "softmax", MULTI: "sigmoid", REGRESSION: "values"}[problem(settings)])]

    def predict(self, outputs: Outputs, samples: Samples) -> Prediction:
        settings = samples.settings
        name, first = first_output(outputs)
        values = probabilities(scores(first, name), settings)[0]
        usual = [str(number) for number in range(len(values))] if len(values) > 1 else ["value"]
        labels = list(settings.get("labels", ())) or usual
        by_label = dict(zip(labels, values.tolist(), strict=True))
        if problem(settings) == MULTI:
            least = settings.get("threshold", THRESHOLD)
            chosen = [label for label, score in by_label.items() if score >= least]
            return Prediction(", ".join(chosen) or "none", max(by_label.values()), {"labels": chosen, "scores": by_label})
        label = labels[int(values.argmax())]
        return Prediction(label, by_label[label], {"label": label, "scores": by_label})

    def describe(self, settings: Settings) -> Description:
        kind = problem(settings)
        what = {SINGLE: "classifier", MULTI: "classifier of several labels", REGRESSION: "regression"}[kind]
        modality = {"text": "Text", "image": "Image"}.get(self.modality, "Array")
        title = _TITLES[REGRESSION if kind == REGRESSION else settings.get("activation", ACTIVATIONS[kind])]
        return Description(f"{modality} {what}", {"": title})


def problem_of(rows: Rows) -> str:
    """Which of the three the labels of `rows` are for: lists and several columns name any number, fractions are values."""
    labels = rows.labels if rows.labels is not None else ()
    names = getattr(rows, "class_names", None) or ()
    if len(getattr(rows, "label_columns", ())) > 1 or any(isinstance(label, list | tuple) for label in labels):
        return MULTI
    return REGRESSION if any(is_fraction(label) and label not in names for label in labels) else SINGLE


def _are_of(rows: Rows, kind: str, names: Sequence[str]) -> bool:
    """Whether the rows' labels are those of a trained head, though they might be a simple class's, too."""
    try:
        if kind == MULTI:
            several(rows, names)
        elif kind == REGRESSION:
            numbers(rows)
    except DatasetError:
        return False
    return kind != SINGLE


def _names(rows: Rows, known: Sequence[str], kind: str) -> list[str]:
    if rows.labels is None or isinstance(rows, ArrayRows):
        raise DatasetError(f"{rows.origin}: has no labels to train on; name their column with --label-column")
    if not len(rows.labels):
        raise DatasetError(f"{rows.origin}: holds no rows; give a file with at least one of each class")
    columns = rows.label_columns if isinstance(rows, TextRows) else ()
    if kind == REGRESSION:
        return list(known) if len(known) == 1 else [columns[0] if columns else "value"]
    named = rows.class_names or ()
    return _class_names(rows, named, known) if kind == SINGLE else _label_names(rows, named or known, columns)


def _label_names(rows: Rows, known: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Of a head of several labels: a column's or a name's in a list; a list of 0 and 1 has a place for each."""
    folded = {name.casefold() for name in known}
    rest = [_listed(label) for label in (rows.labels if rows.labels is not None else ())]
    if len(columns) > 1:
        names = list(columns)
    elif words := sorted({value for label in rest for value in label if isinstance(value, str)}):
        names = words
    else:
        lengths = {len(label) for label in rest}
        flags = len(lengths) == 1 and {value for label in rest for value in label} <= {0, 1}
        count = max(lengths) if flags else 1 + max((int(value) for label in rest for value in label), default=0)
        _check_count(rows, count)
        names = [] if count <= len(known) else [f"LABEL_{number}" for number in range(count)]
    return list(known) if {name.casefold() for name in names} <= folded else names


def _check_count(rows: Rows, count: int) -> None:
    if count > MOST_CLASSES:
        raise DatasetError(f"{rows.origin}: has the label {count - 1}, beyond the {MOST_CLASSES:,} classes of a head; mend it")


def _class_names(rows: Rows, named: Sequence[str], known: Sequence[str]) -> list[str]:
    """Of a head that chooses one: those that the data names, else the model's own where they are as many, else the data's."""
    if odd := [label for label in rows.labels or () if not isinstance(label, str | int)]:
        raise DatasetError(f"{rows.origin}: the label {str(odd[0])[:80]!r} is neither a name nor a number; give one of these")
    labels = set(rows.labels)  # type: ignore[arg-type]
    if len(labels) < 2:
        raise DatasetError(f"{rows.origin}: all rows have the label {labels.pop()!r}; give rows of at least two classes")
    if all(isinstance(label, str) for label in labels):
        names = sorted(str(label) for label in labels)
        if named:
            if missing := [name for name in names if name not in named]:
                raise ConfigError(f"{rows.origin}: the label {missing[0]!r} is not among the labels {', '.join(named)}; add it")
            return list(named)
        return list(known) if {name.casefold() for name in names} == {name.casefold() for name in known} else names
    if not all(isinstance(label, int) for label in labels):
        raise DatasetError(f"{rows.origin}: some labels are numbers and some are names; use one or the other")
    names = list(named or known)
    if {str(label) for label in labels} <= set(names):
        return names
    count = len(named) or max(labels) + 1
    _check_count(rows, count)
    if strays := sorted(labels - set(range(count))):
        among = f"the {count} classes {', '.join(named)}" if named else "0 and upwards"
        raise DatasetError(f"{rows.origin}: the label {strays[0]} is outside {among}; mend the labels")
    if not named and (gaps := sorted(set(range(count)) - labels)):
        raise DatasetError(
            f"{rows.origin}: no row has the label {gaps[0]} but some have {count - 1}; number the classes 0, 1, 2, …"
        )
    return names if len(names) == count else [f"LABEL_{number}" for number in range(count)]


def problem(settings: Settings) -> str:
    """Which of the three the settings say."""
    return str(settings.get("problem", SINGLE))


def scores(output: Array, name: str = "") -> Array:
    """(N, C) of an output (N, …, C) whose axes between are 1. Raises `RefusedError` for any other."""
    if output.ndim == 1:
        return output[:, np.newaxis]
    if math.prod(output.shape[1:-1]) != 1:
        raise RefusedError(
            f"output {name} of shape {output.shape[1:]} gives no row one class; give --task generic, which judges its values"
        )
    return output.reshape(len(output), output.shape[-1])


def probabilities(values: Array, settings: Settings) -> Array:
    """Scores (N, C) as the activation makes them of the outputs."""
    values = values.astype(np.float64)
    activation = settings.get("activation", "softmax")
    if activation == "softmax":
        powers = np.exp(values - values.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))
    if activation == "sigmoid":
        return np.asarray(0.5 * (1 + np.tanh(values / 2)))
    return values


def numbers(rows: Rows) -> Array:
    """Labels as float64 values (N,). Raises `DatasetError` naming the row that holds none."""
    values = np.full(len(rows), np.nan)
    for index, label in enumerate(rows.labels if rows.labels is not None else ()):
        with contextlib.suppress(TypeError, ValueError):
            values[index] = float(label)
        if not np.isfinite(values[index]):
            raise DatasetError(
                f"{rows.origin}: row {rows.number(index)} (from 0) has the label {label!r}, no value; mend it or set --label-column"
            )
    return values


def several(rows: Rows, names: Sequence[str]) -> Array:
    """Labels of rows that have any number of `names`, as float64 (N, names) of 0 and 1.

    A row holds a value of each label's own column, a list of 0 and 1 for every label, or a list of names or numbers; a text
    of names has commas between. Raises `DatasetError` naming the row whose labels do not fit."""
    places = {name.casefold(): number for number, name in enumerate(names)}
    columns = rows.label_columns if isinstance(rows, TextRows) else ()
    if columns and set(map(str.casefold, columns)) <= set(places):
        if missing := [name for name in names if name.casefold() not in map(str.casefold, columns)]:
            raise DatasetError(f"{rows.origin}: no label column for {', '.join(missing)}; name one for each label of the model")
        order = [places[name.casefold()] for name in columns]
    else:
        order = list(range(len(names)))
    # Such a column says whether one label holds, and which one it does not say.
    if len(names) > 1 and rows.labels is not None and all(not np.iterable(label) and label in (0, 1) for label in rows.labels):
        raise DatasetError(
            f"{rows.origin}: holds one label column of 0 and 1, the model has {len(names)} labels ({', '.join(names)}); "
            "name a column for each with --label-column"
        )
    found = np.zeros((len(rows), len(names)))
    held = [_listed(label) for label in (rows.labels if rows.labels is not None else ())]
    flags = all(len(label) == len(names) and all(value in (0, 1, "0", "1") for value in label) for label in held)
    for index, label in enumerate(held):
        try:
            if flags:
                found[index, order] = [float(value) for value in label]
                continue
            if len(names) > 1 and not isinstance(rows.labels[index], str | list | tuple | np.ndarray):  # type: ignore[index]
                raise ValueError("one number says nothing of the other labels")
            for value in label:
                number = places[value.casefold()] if isinstance(value, str) else int(value)
                found[index, range(len(names))[number]] = 1
        except (KeyError, IndexError, ValueError, TypeError):
            raise DatasetError(
                f"{rows.origin}: row {rows.number(index)} (from 0) has the labels {label!r}, which are not among the model's "
                f"{len(names)}: {', '.join(names)}; give a list of them, or name a column of 0 and 1 for each "
                "with --label-column"
            ) from None
    return found


def _listed(label: Any) -> list[Any]:
    if isinstance(label, str):
        return [part.strip() for part in label.split(",") if part.strip()]
    return list(label) if isinstance(label, list | tuple | np.ndarray) else [label]


def _within(rows: Rows, labels: Array, classes: int | None) -> Array:
    """Class numbers as int64. Raises `DatasetError` for one that is none of the head's `classes`."""
    if labels.ndim != 1:
        raise DatasetError(
            f"{rows.origin}: labels are {labels.dtype} {labels.shape}; give one integer per row or set --label-column"
        )
    wrong = labels % 1 != 0
    if classes:
        wrong |= (labels < 0) | (labels >= classes)
    if outside := np.flatnonzero(wrong).tolist():
        raise DatasetError(
            f"{rows.origin}: labels outside the head: sample {rows.number(outside[0])} (from 0) has {labels[outside[0]]}, "
            f"the head has {classes or 'no known number of'} classes; mend the labels or set --label-column"
        )
    return labels.astype(np.int64)


def _cross_entropy(outputs: Array, labels: Array) -> Array | None:
    """As `cross_entropy`; None where the outputs are probabilities already, which an int8 softmax rounds to zero."""
    logits = outputs.astype(np.float64)
    if (logits >= 0).all() and (logits <= 1).all() and np.allclose(logits.sum(axis=1), 1, atol=_SUM_TOLERANCE):
        return None
    return cross_entropy(logits, labels)


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Cross-entropy (N,) of each row's logits (N, C) in nats, float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels])


TEXT_CLASSIFICATION = Classification(
    "text-classification", "text", ("ForSequenceClassification",), "AutoModelForSequenceClassification", ("logits",)
)
IMAGE_CLASSIFICATION = Classification("image-classification", "image")
TABULAR_CLASSIFICATION = Classification("tabular-classification")
TABULAR_REGRESSION = Classification("tabular-regression")
