"""The task of a file that is no checkpoint: what it says itself, what a user says, or what its outputs and data look like."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from edgekit.data.sources import ArrayRows, ImageRows, Rows, TextRows, is_fraction
from edgekit.spec import TensorSpec
from edgekit.tasks import table
from edgekit.tasks.base import Task
from edgekit.tasks.classification import REGRESSION
from edgekit.tasks.generic import GENERIC


def named(told: Mapping[str, Any], asked: str | None = None) -> Task | None:
    """The task that is `asked` for, else the one that a file's settings name; None where neither is known.

    Raises `ConfigError` for one that is asked for and not known."""
    return table.find(asked) if asked else table.TASKS.get(str(told.get("task")))


def recognise(
    told: Mapping[str, Any], outputs: Sequence[TensorSpec], rows: Rows | None, asked: str | None = None
) -> tuple[Task, dict[str, Any]]:
    """The task of a file with these `outputs` and the settings to read them with; `told` are the settings inside the file.

    A file that says nothing is a classifier only where its first output has a value for each class and the `rows` have labels
    that are such classes, and a regression where it gives one value and they have values; else it is generic, unless a task is
    `asked` for. Raises `ConfigError` for one that is not known."""
    if (task := named(told, asked)) is not None:
        return task, {**_usual(task, outputs), **told}
    kinds = _label_kinds(rows) if rows is not None and rows.labels is not None else set()
    task = by_labels(outputs, type(rows), kinds)
    if task is GENERIC:
        return GENERIC, dict(told)
    if outputs[0].shape[-1] == 1:
        return task, {"problem": REGRESSION, "activation": "none", "labels": ["value"], **told}
    return task, {**_usual(task, outputs), **told}


def by_labels(outputs: Sequence[TensorSpec], rows: type, kinds: Collection[str]) -> Task:
    """The task of a file that says nothing of it, where its rows are of the class `rows` and their labels of numpy's `kinds`."""
    shape = outputs[0].shape if outputs else ()
    size, flat = shape[-1] if shape else 0, math.prod(shape[1:-1]) == 1 and shape[:1] in ((1,), (-1,))
    if not flat or not kinds:
        return GENERIC
    if len(shape) > 1 and size > 1 and {*kinds} <= {*"iuU"}:
        names = {TextRows: "text-classification", ImageRows: "image-classification", ArrayRows: "tabular-classification"}
        return table.TASKS[names[rows]]
    if size == 1 and {*kinds} <= {*"iuf"} and rows is not ImageRows:
        return table.TASKS["text-classification" if rows is TextRows else "tabular-regression"]
    return GENERIC


def _label_kinds(rows: Rows) -> set[str]:
    """numpy's kinds of the labels, U for the name of a class; none where a row has more than one label, or none."""
    if isinstance(rows, TextRows):
        # A fraction is read as a text.
        labels = [float(one) if is_fraction(one) else one for one in rows.labels or ()]
        single = all(isinstance(one, int | float | str) for one in labels)
        return {np.dtype(type(one)).kind for one in labels} if single else set()
    held = np.asarray(rows.labels)
    return {held.dtype.kind} if held.ndim == 1 else set()


def _usual(task: Task, outputs: Sequence[TensorSpec]) -> dict[str, Any]:
    """Settings of a file that has none."""
    return task.settings({"problem_type": REGRESSION} if outputs and outputs[0].shape[-1:] == (1,) else {}, ())
