"""The training loop; runs in a worker, because it loads torch.

It writes its state at intervals and goes on from there, to the same weights bit for bit, when it is called again with
the same job after a kill."""

import dataclasses
import itertools
import pickle
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.samples import Array, Samples
from edgekit.errors import ConfigError, OutputError
from edgekit.models import ranges
from edgekit.models.architectures import copy_plan
from edgekit.models.batches import Batches
from edgekit.models.checkpoint import Checkpoint, load_tokenizer
from edgekit.models.weights import start_model
from edgekit.stages.train.config import (
    ATTENTION,
    HIDDEN,
    LABELS,
    SOFT_TARGETS,
    Distillation,
    DistillConfig,
    Epoch,
    FinetuneConfig,
    FinetuneResult,
    QuantizationAware,
)
from edgekit.stages.train.quantization import RANGES_RATE, FakeQuantization
from edgekit.stages.train.teacher import Teacher
from edgekit.system import artifacts
from edgekit.system.worker import progress
from edgekit.tasks.base import Task
from edgekit.tasks.judgement import judge
from edgekit.tasks.metrics import Score

STATE, MODEL = "state-", "model"
# Where a job's rows lie: a teacher that has a tokenizer of its own has its own, too.
TRAIN, EVALUATION = "train", "evaluation"
TEACHER = "teacher_"
_CURVE_POINTS = 200
_NOT_IN_BFLOAT16 = ("deberta",)  # of transformers 5: it masks scores with the smallest float32
_EVALUATION_BATCH, _NOTE_SECONDS = 64, 0.5
# Batches that are drawn together and sorted by length: more wastes less padding, fewer mix the rows better.
_POOL = 16


@dataclass(frozen=True)
class Job:
    """All that decides the weights that come out; `key` is the digest of it, which a state must bear to be gone on from.

    `settings` are those of the task's head. `rows` is the folder of the encoded rows, which took `encoding_s`. `teacher` is its
    checkpoint and, where they differ, its number of each of the head's classes, for a `config` that is a `DistillConfig`."""

    checkpoint: Checkpoint
    settings: Mapping[str, Any]
    rows: Path
    evaluated_on: str
    config: FinetuneConfig
    key: str
    teacher: tuple[Checkpoint, tuple[int, ...] | None] | None = None
    encoding_s: float = 0.0


@dataclass
class _Position:
    step: int = 0
    loss_sum: float = 0.0  # over the rows of the epoch so far
    epochs: list[Epoch] = field(default_factory=list)
    curve: list[tuple[int, float]] = field(default_factory=list)
    curve_sum: float = 0.0  # over the steps since the curve's last point
    preparation_s: float = 0.0
    training_s: float = 0.0
    evaluation_s: float = 0.0


def run(job: Job, room: Path) -> FinetuneResult:
    """Train, and write model and tokenizer to `room`/model; states go to `room`/state-STEP.

    Raises `CheckpointError` for an unusable model or tokenizer, `ConfigError` if the loss stops being finite."""
    import torch
    import transformers

    started = time.perf_counter()
    transformers.utils.logging.set_verbosity_error()
    config = job.config
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    task, folder = job.checkpoint.task, job.checkpoint.path
    model = _prepared(start_model(job.checkpoint, job.settings), config).train()
    train, evaluation = (Batches.of(Samples.load(job.rows / name), model, folder) for name in (TRAIN, EVALUATION))
    teacher, distillation, reference = _taught(job, model, train)
    lengths = train.group_lengths
    per_epoch = -(-len(lengths) // config.batch_size)
    total = per_epoch * config.epochs
    rounding = FakeQuantization(model, train.batch(np.arange(1)).inputs, total) if config.quantization_aware else None
    optimizer = _optimizer(model, config, rounding)
    position, resumed_at = _Position(), 0
    state = max(room.glob(f"{STATE}*"), default=None)
    if state is not None and (saved := _load_state(state, job.key, model, optimizer, rounding)) is not None:
        position, resumed_at = saved, saved.step
    position.preparation_s += time.perf_counter() - started + job.encoding_s

    interval = config.checkpoint_every or per_epoch
    spacing = -(-total // _CURVE_POINTS)
    stage = "finetune" if teacher is None else "distill"
    noted = clock = time.perf_counter()
    while position.step < total:
        epoch, first = divmod(position.step, per_epoch)
        for groups in itertools.islice(batches(lengths, config.batch_size, (config.seed, epoch)), first, None):
            numbers = train.members(groups)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * _schedule(position.step, total, config.warmup_ratio)
            if rounding is not None:
                rounding.at(position.step)
            batch = train.batch(numbers)
            with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
                targets = teacher.outputs(numbers) if teacher is not None else None
                outputs = model(**batch.inputs, **(teacher.extra_outputs if teacher is not None else {}))
            loss: Any = task.loss(outputs, batch.labels, job.settings) if batch.labels is not None else None
            if teacher is not None:
                loss = teacher.loss(loss, outputs, targets, batch)
            if not bool(torch.isfinite(loss)):
                raise ConfigError(f"the loss is no longer finite at step {position.step}; set a lower --learning-rate")
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            optimizer.step()
            optimizer.zero_grad()
            position.step += 1
            position.loss_sum += loss.item() * len(numbers)
            position.curve_sum += loss.item()
            if position.step % spacing == 0 or position.step == total:
                position.curve.append((position.step, position.curve_sum / ((position.step - 1) % spacing + 1)))
                position.curve_sum = 0.0
            now = time.perf_counter()
            position.training_s, clock = position.training_s + now - clock, now
            if now - noted > _NOTE_SECONDS or position.step == total:
                noted = now
                progress(stage, position.step, total, f"epoch {epoch + 1}/{config.epochs} loss {loss.item():.3f}")
            if rounding is not None:
                rounding.at(position.step)
            if position.step % per_epoch == 0:
                evaluation_loss, scores, _ = _evaluate(model, evaluation, task, reference=reference)
                position.epochs.append(Epoch(scores, position.loss_sum / len(train), evaluation_loss))
                position.loss_sum = 0.0
                position.evaluation_s += time.perf_counter() - clock
            if position.step % interval == 0 and position.step < total:
                _save_state(room, job.key, model, optimizer, position, rounding)
            clock = time.perf_counter()
    aware = None
    if rounding is not None:
        # What the weights give without rounding.
        rounding.detach()
        loss, scores, _ = _evaluate(model, evaluation, task, reference=reference)
        aware = QuantizationAware(scores, len(rounding.used), loss)
    _save_model(room / MODEL, model, load_tokenizer(folder))
    if rounding is not None:
        ranges.write(room / MODEL, rounding.trained())
    copy_plan(folder, room / MODEL)
    last = position.epochs[-1]
    return FinetuneResult(
        scores=last.scores,
        task=task.name,
        loss=last.loss,
        evaluated_on=job.evaluated_on,
        labels=tuple(job.settings.get("labels", ())),
        epochs=tuple(position.epochs),
        steps=total,
        parameters=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        preparation_s=position.preparation_s,
        training_s=position.training_s,
        runtime_s=position.preparation_s + position.training_s + position.evaluation_s,
        samples_per_s=len(train) * config.epochs / position.training_s,
        steps_per_s=total / position.training_s,
        resumed_at=resumed_at,
        curve=tuple(position.curve),
        distillation=distillation,
        quantization=aware,
    )


def batches(lengths: Array, size: int, seed: Sequence[int]) -> Iterator[Array]:
    """Row numbers in batches of rows of similar length, all of an epoch in shuffled order."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(lengths))
    batched = []
    for start in range(0, len(order), size * _POOL):
        pool = order[start : start + size * _POOL]
        ranked = pool[np.argsort(lengths[pool], kind="stable")]
        batched += [ranked[first : first + size] for first in range(0, len(ranked), size)]
    return (batched[number] for number in rng.permutation(len(batched)))


def _schedule(step: int, total: int, warmup_ratio: float) -> float:
    """Share of the learning rate at `step`: up in a straight line during the warm-up, then down to 0 at `total`."""
    warmup = round(total * warmup_ratio)
    return (step + 1) / (warmup + 1) if step < warmup else (total - step) / max(1, total - warmup)


def _optimizer(model: Any, config: FinetuneConfig, rounding: FakeQuantization | None) -> Any:
    import torch

    # Biases and the scales of LayerNorm (MobileBERT's NoNorm too) are the vectors among the parameters.
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices, vectors = ([item for item in parameters if (item.dim() > 1) is wide] for wide in (True, False))
    groups = [(matrices, config.weight_decay, config.learning_rate), (vectors, 0.0, config.learning_rate)]
    groups += [(rounding.learned, 0.0, RANGES_RATE)] if rounding is not None else []
    named = [dict(zip(("params", "weight_decay", "peak"), group, strict=True)) for group in groups]
    return torch.optim.AdamW(named, lr=config.learning_rate, fused=True)


def _prepared(model: Any, config: FinetuneConfig) -> Any:
    """The model with the dropout that was asked for, its embeddings frozen if they are to be, and the faster attention."""
    import torch

    if config.bfloat16:
        if model.config.model_type in _NOT_IN_BFLOAT16:
            raise ConfigError(f"{model.config.model_type} cannot be trained in bfloat16: its attention mask overflows; use float32")
        # torch's fused attention takes half as long again for a bfloat16 backward pass of short rows.
        model.set_attn_implementation("eager")

    if config.dropout is not None:
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = config.dropout
    if config.freeze_embeddings:
        model.get_input_embeddings().weight.requires_grad_(False)
    return model


def _taught(job: Job, student: Any, train: Batches) -> tuple[Teacher | None, Distillation | None, dict[str, Array] | None]:
    """The teacher, ready for the first batch, what can be said of it beforehand, and its vectors of the evaluation rows, where
    the student's are compared with them; None for fine-tuning."""
    if job.teacher is None or not isinstance(job.config, DistillConfig):
        return None, None, None
    checkpoint, order = job.teacher
    teacher = Teacher(checkpoint, order, student, train, Samples.load(job.rows / f"{TEACHER}{TRAIN}"), job.config)
    evaluation = Batches.of(Samples.load(job.rows / f"{TEACHER}{EVALUATION}"), teacher.model, checkpoint.path)
    _, scores, outputs = _evaluate(teacher.model, evaluation, checkpoint.task, order)
    reference = outputs if checkpoint.task.likeness_metrics() else None
    if reference is not None:
        scores = judge(reference, evaluation.samples, reference).scores
    if job.config.bfloat16:
        teacher.hasten()
    used = tuple(name for name in (SOFT_TARGETS, LABELS, HIDDEN, ATTENTION) if name in teacher.used)
    lessons = teacher.lessons
    return teacher, Distillation(scores, checkpoint.name, used, lessons.left_out, lessons.layers), reference


def _evaluate(
    model: Any, rows: Batches, task: Task, order: Sequence[int] | None = None, reference: dict[str, Array] | None = None
) -> tuple[float, tuple[Score, ...], dict[str, Array]]:
    """Mean loss, scores and outputs; `order` is the model's number of each class, if not the same.

    Where rows have no labels the loss is what the cosine to the `reference` lacks of 1, and 0 without one."""
    import torch

    settings, total, outputs, training = rows.samples.settings, 0.0, dict[str, Array](), model.training
    model.eval()
    with torch.inference_mode():
        for numbers in rows.ranked(_EVALUATION_BATCH):
            batch = rows.batch(numbers)
            output = model(**batch.inputs)
            for name in task.outputs:
                if order is not None:
                    output[name] = output[name][..., list(order)]
                values = output[name].float().numpy()
                if rows.by_token:
                    spans = [(0, 0), (batch.span.start, rows.mask.shape[1] - batch.span.stop)]
                    values = np.pad(values, [*spans, *[(0, 0)] * (values.ndim - 2)])
                outputs.setdefault(name, np.empty((len(rows), *values.shape[1:]), np.float32))[numbers] = values
            if batch.labels is not None:
                total += task.loss(output, batch.labels, settings).item() * len(numbers)
    model.train(training)
    scores = judge(outputs, rows.samples, reference).scores
    if rows.samples.labels is None:
        return 1 - scores[0].value if scores else 0.0, scores, outputs
    return total / len(rows), scores, outputs


def _save_state(room: Path, key: str, model: Any, optimizer: Any, position: _Position, rounding: FakeQuantization | None) -> None:
    import torch
    from safetensors.torch import save_file

    older = list(room.glob(f"{STATE}*"))
    with artifacts.staged(room / f"{STATE}{position.step:09d}", overwrite=True) as partial:
        partial.mkdir()
        save_file({name: parameter.detach() for name, parameter in model.named_parameters()}, partial / "model.safetensors")
        state = {
            "key": key,
            "position": dataclasses.asdict(position),
            "optimizer": optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "ranges": rounding.state() if rounding is not None else None,
        }
        torch.save(state, partial / "state.pt")
    for folder in older:
        shutil.rmtree(folder, ignore_errors=True)


def _load_state(folder: Path, key: str, model: Any, optimizer: Any, rounding: FakeQuantization | None) -> _Position | None:
    """Set model, optimizer, random numbers and ranges as they were; None if the state belongs to another job."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = torch.load(folder / "state.pt", weights_only=True)
        if state["key"] != key:
            return None
        weights = load_file(folder / "model.safetensors")
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(weights[name])
        optimizer.load_state_dict(state["optimizer"])
        if rounding is not None:
            rounding.restore(state["ranges"])
        torch.set_rng_state(state["rng"])
    except (OSError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError, SafetensorError) as error:
        raise OutputError(
            f"{folder}: the state of an interrupted run is damaged; remove {folder.parent} to start anew", str(error)
        ) from None
    position = _Position(**state["position"])
    position.epochs = [
        Epoch(**{**epoch, "scores": tuple(Score(**score) for score in epoch["scores"])}) for epoch in state["position"]["epochs"]
    ]
    position.curve = [(step, loss) for step, loss in state["position"]["curve"]]
    return position


def _save_model(folder: Path, model: Any, tokenizer: Any) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and type(backend.model).__name__ == "WordPiece":
        # Android's text tasks read this file; transformers 5 no longer writes it.
        pieces = sorted(backend.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1])
        if [number for _, number in pieces] == list(range(len(pieces))):
            (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece, _ in pieces), encoding="utf-8")
