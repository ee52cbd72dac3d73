"""Fine-tune an encoder as a text classifier; torch stays in a worker."""

import dataclasses
import hashlib
import importlib.metadata
import json
import shutil
from pathlib import Path

import numpy as np

from edgekit.data.sources import TextRows, is_fraction
from edgekit.data.text import class_numbers
from edgekit.errors import ConfigError, DatasetError
from edgekit.models.checkpoint import label_ids, read_config
from edgekit.spec import shown
from edgekit.stages.train import loop
from edgekit.stages.train.config import FinetuneConfig, FinetuneResult
from edgekit.stages.train.tokens import Encoded
from edgekit.system import artifacts
from edgekit.system.artifacts import MANIFEST
from edgekit.system.worker import Worker

__all__ = ["MANIFEST", "FinetuneConfig", "FinetuneResult", "finetune"]

_TOOLS = ("torch", "transformers", "tokenizers")


def finetune(
    model: Path,
    train: TextRows,
    evaluation: TextRows | None,
    out: Path,
    config: FinetuneConfig,
    *,
    overwrite: bool = False,
    worker: Worker = Worker(),  # noqa: B008 - frozen
) -> FinetuneResult:
    """Train `model` on `train` and publish the checkpoint folder `out`, with a tokenizer and the manifest edgekit.json.

    Without evaluation rows `config.holdout` of the training rows, drawn by class with the seed, are kept back. A run
    that was killed goes on where it last wrote its state if model, data and settings are the same.
    Raises `CheckpointError`, `DatasetError`, `ConfigError`, `OutputError` or a `WorkerError`.
    """
    artifacts.refuse_existing(out, overwrite=overwrite)
    labels = _classes(model, train, config)
    return run_training(model, labels, train, evaluation, out, config, overwrite=overwrite, worker=worker)


def run_training(
    model: Path,
    labels: dict[str, int],
    train: TextRows,
    evaluation: TextRows | None,
    out: Path,
    config: FinetuneConfig,
    *,
    overwrite: bool,
    worker: Worker,
    teacher: tuple[Path, tuple[int, ...]] | None = None,
) -> FinetuneResult:
    """What fine-tuning and distillation have in common, once the classes of the head are settled; `teacher` as in `loop.Job`."""
    numbers = _numbers(train, labels)
    if evaluation is None:
        kept, held = _split(numbers, config)
        evaluated_on = f"{len(held)} of the {len(train)} rows of {shown(train.origin)}, held out"
        learn, judge = _rows(train, numbers, kept), _rows(train, numbers, held)
    else:
        evaluated_on = f"{len(evaluation)} rows of {shown(evaluation.origin)}"
        learn, judge = _rows(train, numbers), _rows(evaluation, _numbers(evaluation, labels))
    parents = {model.resolve().name: artifacts.sha256(model), train.origin: _digest(learn)}
    if evaluation is not None:
        parents[evaluation.origin] = _digest(judge)
    if teacher is not None:
        name = teacher[0].resolve().name
        parents[f"teacher {name}" if name in parents else name] = artifacts.sha256(teacher[0])
    tools = {tool: importlib.metadata.version(tool) for tool in _TOOLS}
    key = _digest([parents, _digest(judge), labels, _deciding(config), tools, teacher[1] if teacher else None])
    job = loop.Job(model, labels, learn, judge, evaluated_on, config, key, teacher)
    with artifacts.claimed(out.parent / f".{out.name}.resume") as room:
        try:
            result = worker.run(loop.run, job, room).value
            with artifacts.staged(out, overwrite=overwrite) as partial:
                (room / loop.MODEL).rename(partial)
                manifest = artifacts.describe(
                    partial, "checkpoint", name=out.name, parents=parents, config=config, tools=_TOOLS, measured=result
                )
                artifacts.write_manifest(partial, manifest)
        except BaseException:
            if not any(room.glob(f"{loop.STATE}*")):
                shutil.rmtree(room, ignore_errors=True)
            raise
        shutil.rmtree(room, ignore_errors=True)
    return result


def _classes(model: Path, train: TextRows, config: FinetuneConfig) -> dict[str, int]:
    """Class name to class number of the head: the model's own names where they are as many, else the data's."""
    if train.labels is None:
        raise DatasetError(f"{train.origin}: has no label column; name it with --label-column")
    if not train.labels:
        raise DatasetError(f"{train.origin}: holds no rows; give a file with at least one of each class")
    found = set(train.labels)
    if fractions := sorted(label for label in found if is_fraction(label) and label not in config.labels):
        raise DatasetError(
            f"{train.origin}: the label {fractions[0]} is a fraction, no class; a regression is not trained here, so give classes "
            "or set --label-column"
        )
    if len(found) < 2:
        raise DatasetError(f"{train.origin}: all rows have the label {train.labels[0]!r}; give rows of at least two classes")
    named = label_ids(model) if "id2label" in read_config(model) else {}
    if all(isinstance(label, str) for label in found):
        names = sorted(str(label) for label in found)
        if config.labels:
            if missing := [name for name in names if name not in config.labels]:
                raise ConfigError(
                    f"{train.origin}: the label {missing[0]!r} is not among the labels {', '.join(config.labels)}; add it"
                )
            return {name: number for number, name in enumerate(config.labels)}
        if {name.casefold() for name in names} == {name.casefold() for name in named}:
            return named
        return {name: number for number, name in enumerate(names)}
    if not all(isinstance(label, int) for label in found):
        raise DatasetError(f"{train.origin}: some labels are numbers and some are names; use one or the other")
    given = config.labels or train.class_names
    known_names = {name: number for number, name in enumerate(given)} if given else named
    if {str(label) for label in found} <= known_names.keys():
        return known_names
    count = len(given) if given else max(int(label) for label in found) + 1
    numbers = {int(label) for label in found}
    if strays := sorted(numbers - set(range(count))):
        known = f"the {count} classes {', '.join(given)}" if given else "0 and upwards"
        raise DatasetError(f"{train.origin}: the label {strays[0]} is outside {known}; mend the labels")
    if not given and (gaps := sorted(set(range(count)) - numbers)):
        raise DatasetError(
            f"{train.origin}: no row has the label {gaps[0]} but some have {count - 1}; number the classes 0, 1, 2, …"
        )
    if given:
        return {name: number for number, name in enumerate(given)}
    return named if len(named) == count else {f"LABEL_{number}": number for number in range(count)}


def _numbers(rows: TextRows, labels: dict[str, int]) -> np.ndarray:
    numbers = class_numbers(rows, labels)
    if numbers is None:
        raise DatasetError(f"{rows.origin}: has no label column; name it with --label-column")
    if len(numbers) == 0:
        raise DatasetError(f"{rows.origin}: holds no rows; give at least one")
    return numbers


def _split(numbers: np.ndarray, config: FinetuneConfig) -> tuple[np.ndarray, np.ndarray]:
    """Sorted indices of the rows to learn from and of those held out: the same share of every class, one at least of each."""
    rng = np.random.default_rng(config.seed)
    held: list[int] = []
    for number in np.unique(numbers):
        members = np.flatnonzero(numbers == number)
        if len(members) < 2:
            raise DatasetError(f"class {number} has a single row, too few to hold one out; add rows or give evaluation data")
        count = min(max(1, round(len(members) * config.holdout)), len(members) - 1)
        held += rng.choice(members, count, replace=False).tolist()
    mask = np.zeros(len(numbers), bool)
    mask[held] = True
    return np.flatnonzero(~mask), np.flatnonzero(mask)


def _rows(rows: TextRows, numbers: np.ndarray, chosen: np.ndarray | None = None) -> Encoded:
    indices = range(len(rows)) if chosen is None else chosen.tolist()
    pairs = None if rows.pairs is None else tuple(rows.pairs[index] for index in indices)
    return Encoded(tuple(rows.texts[index] for index in indices), pairs, tuple(int(numbers[index]) for index in indices))


def _deciding(config: FinetuneConfig) -> FinetuneConfig:
    """The settings without those that leave the result as it is."""
    return dataclasses.replace(config, checkpoint_every=0)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(artifacts.to_jsonable(value), sort_keys=True).encode()).hexdigest()
