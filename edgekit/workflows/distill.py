"""Train a student to say what its teacher says; torch stays in a worker."""

from pathlib import Path

from edgekit.data.sources import TextRows
from edgekit.errors import CheckpointError
from edgekit.models.checkpoint import label_ids, read_config
from edgekit.stages.train.config import DistilConfig, FinetuneResult
from edgekit.system import artifacts
from edgekit.system.worker import Worker
from edgekit.workflows.finetune import run_training

__all__ = ["DistilConfig", "distil"]


def distil(
    teacher: Path,
    student: Path,
    train: TextRows,
    evaluation: TextRows | None,
    out: Path,
    config: DistilConfig,
    *,
    overwrite: bool = False,
    worker: Worker = Worker(),  # noqa: B008 - frozen
) -> FinetuneResult:
    """Train `student` on what `teacher` says of the rows of `train` and on their labels; publish the checkpoint folder `out`.

    The student may be the teacher pruned, or smaller, with another tokenizer and with or without a head; the classes are the
    same ones. Rows held out, manifest and resumption are those of `finetune`; the result's `distillation` says which
    losses were used. Raises `CheckpointError`, `DatasetError`, `ConfigError`, `OutputError` or a `WorkerError`.
    """
    artifacts.refuse_existing(out, overwrite=overwrite)
    labels = label_ids(student if _names_classes(student) else teacher)
    order = _order(teacher, student, labels)
    return run_training(
        student, labels, train, evaluation, out, config, overwrite=overwrite, worker=worker, teacher=(teacher, order)
    )


def _names_classes(model: Path) -> bool:
    return "id2label" in read_config(model)


def _order(teacher: Path, student: Path, labels: dict[str, int]) -> tuple[int, ...]:
    """The teacher's number of each of the student's classes: by name, or by place if the teacher has no names."""
    theirs = {name.casefold(): number for name, number in label_ids(teacher).items()}
    if {name.casefold() for name in labels} == set(theirs):
        return tuple(theirs[name.casefold()] for name in labels)
    if not _names_classes(teacher) and len(theirs) == len(labels):
        return tuple(range(len(labels)))
    raise CheckpointError(
        f"{student}: its classes are {', '.join(labels)}, but those of the teacher {teacher} are {', '.join(label_ids(teacher))}; "
        "give two checkpoints with the same classes"
    )
