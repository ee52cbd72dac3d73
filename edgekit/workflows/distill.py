"""Train a student to say what its teacher says; torch stays in a worker."""

from dataclasses import replace
from pathlib import Path

from edgekit.data.text import open_uncut
from edgekit.errors import CheckpointError, ConfigError
from edgekit.models.checkpoint import Checkpoint, resolve
from edgekit.models.sentence_head import MODULES, Normalize
from edgekit.stages.train.config import DistillConfig, FinetuneResult
from edgekit.system import artifacts
from edgekit.system.worker import OnProgress, Worker
from edgekit.workflows.finetune import read_texts, run_training


def distill(
    model: str | Path,
    out: str | Path,
    config: DistillConfig,
    *,
    overwrite: bool = False,
    on_progress: OnProgress = None,
) -> FinetuneResult:
    """Train `model` on what `config.teacher` says of `config.data` and on the rows' labels; publish the checkpoint folder `out`.

    Of embeddings rows need no labels.

    The student may be the teacher pruned, or smaller, with another tokenizer and with or without a head; the task and the classes
    are the same ones. Rows held out, manifest and resumption are those of `finetune`; the result's `distillation` says which
    losses were used. Raises `CheckpointError`, `DatasetError`, `ConfigError`, `OutputError` or a `WorkerError`."""
    out = Path(out)
    artifacts.refuse_existing(out, overwrite=overwrite)
    if config.teacher is None:
        raise ConfigError("teacher is missing; name the checkpoint to learn from")
    teacher = Checkpoint.read(resolve(config.teacher), config.task)
    student = Checkpoint.read(resolve(str(model)), teacher.task.name)
    if student.sentence_head is None or not (student.path / MODULES).is_file():
        head = teacher.sentence_head
        layers = tuple(layer for layer in head.layers if isinstance(layer, Normalize)) if head is not None else ()
        student = replace(student, sentence_head=head and replace(head, layers=layers))
    settings, order = dict(teacher.settings), None
    if teacher.task.self_supervised:
        order = _token_order(teacher, student)
    elif "labels" in settings:
        settings["labels"] = list((student if "id2label" in student.config else teacher).labels)
        order = _order(teacher, student, settings["labels"])
    train = read_texts(config.data, teacher.task, labelled=not teacher.task.headless)
    worker = Worker(on_progress=on_progress)
    return run_training(student, settings, train, out, config, overwrite=overwrite, worker=worker, teacher=(teacher, order))


def _token_order(teacher: Checkpoint, student: Checkpoint) -> tuple[int, ...] | None:
    """The teacher's id of each of the student's tokens; None if they are the same. Raises `CheckpointError` for one it lacks."""
    theirs, ours = (open_uncut(model.tokenizer).get_vocab() for model in (teacher, student))
    if theirs == ours and teacher.vocabulary == student.vocabulary:
        return None
    names = {number: token for token, number in ours.items()}
    if lacking := [names.get(number) for number in range(student.vocabulary or len(ours)) if names.get(number) not in theirs]:
        raise CheckpointError(
            f"{student.path}: has the token {lacking[0]!r}, which the teacher {teacher.path} lacks; "
            "give a teacher with the student's vocabulary"
        )
    return tuple(theirs[names[number]] for number in range(student.vocabulary or len(ours)))


def _order(teacher: Checkpoint, student: Checkpoint, labels: list[str]) -> tuple[int, ...] | None:
    """The teacher's number of each of the student's classes, by name; None if they are the same, or the teacher has no names."""
    theirs = {name.casefold(): number for name, number in teacher.label_ids.items()}
    if {name.casefold() for name in labels} == set(theirs):
        order = tuple(theirs[name.casefold()] for name in labels)
        return order if order != tuple(range(len(labels))) else None
    if "id2label" not in teacher.config and len(theirs) == len(labels):
        return None
    raise CheckpointError(
        f"{student.path}: its classes are {', '.join(labels)}, but those of the teacher {teacher.path} are "
        f"{', '.join(teacher.labels)}; give two checkpoints with the same classes"
    )
