"""Fine-tune an encoder for a task on texts; torch stays in a worker."""

import hashlib
import importlib.metadata
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data import sources
from edgekit.data.encode import Encoding
from edgekit.data.representative import draw
from edgekit.data.samples import Array, Samples
from edgekit.data.sources import TextRows
from edgekit.data.text import check_ids
from edgekit.errors import ConfigError, DatasetError, about
from edgekit.models.checkpoint import Checkpoint, resolve
from edgekit.spec import DataSpec, shown
from edgekit.stages.train import loop
from edgekit.stages.train.config import FinetuneConfig, FinetuneResult
from edgekit.system import artifacts, rooms
from edgekit.system.serial import plain
from edgekit.system.worker import OnProgress, Worker
from edgekit.tasks.base import Task

_TOOLS = ("torch", "transformers", "tokenizers")
# Settings that leave the result as it is, or whose rows are digested themselves.
_NOT_DECIDING: Mapping[str, Any] = {"checkpoint_every": 0, "data": None, "evaluation_data": None}


def finetune(
    model: str | Path, out: str | Path, config: FinetuneConfig, *, overwrite: bool = False, on_progress: OnProgress = None
) -> FinetuneResult:
    """Train `model` on `config.data` and publish the checkpoint folder `out`, with a tokenizer and the manifest edgekit.json.

    Without evaluation data `config.holdout` of the training rows, drawn with the seed, by class where each row has one, are
    kept back. A run that was killed goes on where it last wrote its state if model, data and settings are the same.
    Raises `CheckpointError`, `DatasetError`, `ConfigError`, `OutputError` or a `WorkerError`."""
    out = Path(out)
    artifacts.refuse_existing(out, overwrite=overwrite)
    checkpoint = Checkpoint.read_to_train(resolve(str(model)), config.task)
    train = read_texts(config.data, checkpoint.task, labelled=bool(checkpoint.task.columns.labels))
    names = checkpoint.labels if "id2label" in checkpoint.config else ()
    labelled = replace(train, class_names=config.labels) if config.labels else train
    settings = checkpoint.task.settings_for(labelled, checkpoint.described, names, config.problem, checkpoint.has_head)
    return run_training(checkpoint, settings, train, out, config, overwrite=overwrite, worker=Worker(on_progress=on_progress))


def read_texts(data: DataSpec | None, task: Task, *, labelled: bool = True) -> TextRows:
    """The rows of a text data set, with labels where they are needed.

    Raises `ConfigError` where there is no data set, `DatasetError` for one of any other kind."""
    if data is None:
        raise ConfigError("--dataset is missing: name the rows to learn from")
    labelled = labelled and not task.self_supervised
    rows = sources.read(data, task.columns, labelled=labelled)
    if not isinstance(rows, TextRows):
        raise DatasetError(f"{data.origin}: holds no texts; give a .tsv, .csv, .jsonl or .parquet file, or hub:NAME")
    if labelled and rows.labels is None:
        raise DatasetError(f"{data.origin}: its labels are withheld; give a split that has them")
    return rows if data.samples is None else sources.take(rows, draw(rows, data.samples, data.seed))


def encode(rows: TextRows, checkpoint: Checkpoint, settings: Mapping[str, Any], max_length: int) -> Samples:
    """The rows as the checkpoint's tokenizer splits them, with the labels of a head with these settings.

    Raises `ConfigError` if the checkpoint takes fewer tokens, and what the task's `encode` does."""
    checkpoint.check_length(max_length)
    check_ids(checkpoint.tokenizer, rows)
    encoding = Encoding(checkpoint.tokenizer, vocabulary=checkpoint.vocabulary)
    inputs = checkpoint.inputs(max_length, pairs=checkpoint.task.joins(rows))
    return checkpoint.task.encode(rows, inputs, encoding, settings, Path())


def run_training(
    checkpoint: Checkpoint,
    settings: Mapping[str, Any],
    train: TextRows,
    out: Path,
    config: FinetuneConfig,
    *,
    overwrite: bool,
    worker: Worker,
    teacher: tuple[Checkpoint, tuple[int, ...] | None] | None = None,
) -> FinetuneResult:
    """What fine-tuning and distillation have in common, once the head is settled; `teacher` as in `loop.Job`."""
    started = time.perf_counter()
    for source in (checkpoint, *teacher[:1]) if teacher else (checkpoint,):
        artifacts.refuse_source(out, source.path)
    labelled = teacher is None or not checkpoint.task.headless
    evaluation = read_texts(config.evaluation_data, checkpoint.task, labelled=labelled) if config.evaluation_data else None
    models = {"": checkpoint} | ({loop.TEACHER: teacher[0]} if teacher else {})
    parts: dict[str, Samples] = {}
    for prefix, model in models.items():
        # Each tokenizer has its own mask, and the student's labels are what is learned.
        own = model.settings if model.task.self_supervised else settings
        learn = encode(train, model, own, config.max_length)
        if evaluation is not None:
            judge = encode(evaluation, model, own, config.max_length)
        else:
            if not prefix:
                kept, held = _split(learn, train.origin, config)
            learn, judge = learn.take_rows(kept), learn.take_rows(held)
        if prefix and model.task.self_supervised:
            learn, judge = (
                replace(own, labels=parts[name].labels) for own, name in ((learn, loop.TRAIN), (judge, loop.EVALUATION))
            )
        parts |= {f"{prefix}{loop.TRAIN}": learn, f"{prefix}{loop.EVALUATION}": judge}
    if evaluation is None:
        evaluated_on = f"{len(held)} of the {len(train)} rows of {shown(train.origin)}, held out"
    else:
        evaluated_on = f"{len(evaluation)} rows of {shown(evaluation.origin)}"
    parents = {checkpoint.name: artifacts.sha256(checkpoint.path), train.origin: digest_of(train)}
    if evaluation is not None:
        parents[f"{evaluation.origin} (evaluation)" if evaluation.origin in parents else evaluation.origin] = digest_of(evaluation)
    if teacher is not None:
        name = teacher[0].name
        parents[f"teacher {name}" if name in parents else name] = artifacts.sha256(teacher[0].path)
    tools = {tool: importlib.metadata.version(tool) for tool in _TOOLS}
    resume, deciding = out.parent / f".{out.name}.resume", replace(config, **_NOT_DECIDING)
    key = digest_of([parents, settings, deciding, tools, teacher[1] if teacher else None])
    with artifacts.resumable(resume, f"{loop.STATE}*") as room, rooms.temporary("train") as rows, about(checkpoint.path):
        for name, samples in parts.items():
            samples.save(rows / name)
        seconds = time.perf_counter() - started
        job = loop.Job(checkpoint, settings, rows, evaluated_on, config, key, teacher, seconds)
        result = worker.run(loop.run, job, room).value
        with artifacts.published(
            out, "checkpoint", parents=parents, config=config, tools=_TOOLS, measured=result, overwrite=overwrite
        ) as draft:
            (room / loop.MODEL).rename(draft.path)
    return result


def _split(samples: Samples, origin: str, config: FinetuneConfig) -> tuple[Array, Array]:
    """Sorted numbers of the rows to learn from and of those held out: the same share of every class where each row has one."""
    rng = np.random.default_rng(config.seed)
    rows = np.arange(len(samples)) if samples.row is None else np.unique(samples.row)
    groups, labels = [rows], samples.labels
    classes = samples.settings.get("labels")
    if classes and labels is not None and samples.row is None and labels.ndim == 1 and labels.dtype.kind == "i":
        groups = [np.flatnonzero(labels == number) for number in np.unique(labels)]
    held: list[int] = []
    for members in groups:
        if len(members) < 2:
            what = f"class {labels[members[0]]} has" if labels is not None and len(groups) > 1 else f"{origin}: has"
            raise DatasetError(f"{what} a single row, too few to hold one out; add rows or give evaluation data")
        count = min(max(1, round(len(members) * config.holdout)), len(members) - 1)
        held += rng.choice(members, count, replace=False).tolist()
    return np.setdiff1d(rows, held), np.sort(held)


def digest_of(value: object) -> str:
    """SHA-256 of what `plain` makes of a value."""
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()
