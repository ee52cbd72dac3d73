"""The training loop; runs in a worker, because it loads torch.

It writes its state at intervals and goes on from there, to the same weights bit for bit, when it is called again with
the same job after a kill.
"""

import dataclasses
import itertools
import pickle
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import ConfigError, OutputError
from edgekit.models import ranges
from edgekit.models.architectures import copy_plan
from edgekit.models.checkpoint import start_classifier
from edgekit.stages.train.config import (
    ATTENTION,
    HIDDEN,
    LABELS,
    SOFT_TARGETS,
    DistilConfig,
    Distillation,
    Epoch,
    FinetuneConfig,
    FinetuneResult,
    QuantizationAware,
)
from edgekit.stages.train.quantization import RANGES_RATE, FakeQuantization
from edgekit.stages.train.teacher import Teacher
from edgekit.stages.train.tokens import Encoded, Tokens, batches, load_tokenizer
from edgekit.system import artifacts
from edgekit.system.worker import progress

STATE = "state-"
MODEL = "model"
_CURVE_POINTS = 200
_NOT_IN_BFLOAT16 = ("deberta",)  # of transformers 5: it masks scores with the smallest float32
_EVALUATION_BATCH = 64
_NOTE_SECONDS = 0.5


@dataclass(frozen=True)
class Job:
    """All that decides the weights that come out; `key` is the digest of it, which a state must bear to be gone on from.

    `teacher` is its checkpoint folder and its class number of each class of `labels`, for a `config` that is a `DistilConfig`.
    """

    model: Path
    labels: dict[str, int]
    train: Encoded
    evaluation: Encoded
    evaluated_on: str
    config: FinetuneConfig
    key: str
    teacher: tuple[Path, tuple[int, ...]] | None = None


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

    Raises `CheckpointError` for an unusable model or tokenizer, `ConfigError` if the loss stops being finite.
    """
    import torch
    import transformers

    started = time.perf_counter()
    transformers.utils.logging.set_verbosity_error()
    config = job.config
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    model = _prepared(start_classifier(job.model, job.labels), config).train()
    tokenizer = load_tokenizer(job.model)
    train, evaluation = (
        Tokens.encode(rows, tokenizer, model, job.model, config.max_length) for rows in (job.train, job.evaluation)
    )
    teacher, distillation = _taught(job, model, train)
    per_epoch = -(-len(train) // config.batch_size)
    total = per_epoch * config.epochs
    rounding = FakeQuantization(model, train.batch(np.arange(1))[0], total) if config.quantization_aware else None
    optimizer = _optimizer(model, config, rounding)
    position, resumed_at = _Position(), 0
    if (state := _newest_state(room)) is not None and (
        found := _load_state(state, job.key, model, optimizer, rounding)
    ) is not None:
        position, resumed_at = found, found.step
    position.preparation_s += time.perf_counter() - started

    interval = config.checkpoint_every or per_epoch
    spacing = -(-total // _CURVE_POINTS)
    stage = "finetune" if teacher is None else "distill"
    noted = clock = time.perf_counter()
    while position.step < total:
        epoch, first = divmod(position.step, per_epoch)
        for batch in itertools.islice(batches(train.lengths, config.batch_size, (config.seed, epoch)), first, None):
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * _schedule(position.step, total, config.warmup_ratio)
            if rounding is not None:
                rounding.at(position.step)
            inputs, labels = train.batch(batch)
            with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
                wanted = teacher.outputs(batch) if teacher is not None else None
                found = model(**inputs, **(teacher.asks if teacher is not None else {}))
            loss = torch.nn.functional.cross_entropy(found.logits.float(), labels)
            if teacher is not None:
                loss = teacher.loss(loss, found, wanted, inputs["attention_mask"])
            if not bool(torch.isfinite(loss)):
                raise ConfigError(f"the loss is no longer finite at step {position.step}; set a lower --learning-rate")
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            optimizer.step()
            optimizer.zero_grad()
            position.step += 1
            position.loss_sum += loss.item() * len(batch)
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
                position.epochs.append(_end_epoch(model, evaluation, position.loss_sum / len(train)))
                position.loss_sum = 0.0
                position.evaluation_s += time.perf_counter() - clock
            if position.step % interval == 0 and position.step < total:
                _save_state(room, job.key, model, optimizer, position, rounding)
            clock = time.perf_counter()
    aware = _end_rounding(rounding, model, evaluation) if rounding is not None else None
    _save_model(room / MODEL, model, tokenizer)
    if rounding is not None:
        ranges.write(room / MODEL, rounding.trained())
    copy_plan(job.model, room / MODEL)
    last = position.epochs[-1]
    return FinetuneResult(
        loss=last.loss,
        correct=last.correct,
        total=last.total,
        evaluated_on=job.evaluated_on,
        labels=job.labels,
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


def _schedule(step: int, total: int, warmup_ratio: float) -> float:
    """Share of the learning rate at `step`: up in a straight line during the warm-up, then down to 0 at `total`."""
    warmup = round(total * warmup_ratio)
    return (step + 1) / (warmup + 1) if step < warmup else (total - step) / max(1, total - warmup)


def _optimizer(model: Any, config: FinetuneConfig, rounding: FakeQuantization | None) -> Any:
    import torch

    # Biases and the scales of LayerNorm (MobileBERT's NoNorm too) are the vectors among the parameters.
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in parameters if parameter.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [parameter for parameter in parameters if parameter.dim() <= 1], "weight_decay": 0.0},
    ]
    for group in groups:
        group["peak"] = config.learning_rate
    if rounding is not None:
        groups.append({"params": rounding.learned, "weight_decay": 0.0, "peak": RANGES_RATE})
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


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


def _taught(job: Job, student: Any, train: Tokens) -> tuple[Teacher | None, Distillation | None]:
    """The teacher, ready for the first batch, and what can be said of it beforehand; None for fine-tuning."""
    if job.teacher is None or not isinstance(job.config, DistilConfig):
        return None, None
    folder, order = job.teacher
    teacher = Teacher(folder, order, student, (job.train, train), job.evaluation, job.config)
    correct = _judge(teacher.model, teacher.evaluation, order)[1]
    if job.config.bfloat16:
        teacher.hasten()
    used = tuple(name for name in (SOFT_TARGETS, LABELS, HIDDEN, ATTENTION) if name in teacher.used)
    told = teacher.lessons
    return teacher, Distillation(folder.resolve().name, correct, len(teacher.evaluation), used, told.left_out, told.layers)


def _end_rounding(rounding: FakeQuantization, model: Any, evaluation: Tokens) -> QuantizationAware:
    """What the model gives without rounding; it is detached from it here."""
    rounding.detach()
    model.eval()
    loss, correct = _judge(model, evaluation)
    return QuantizationAware(len(rounding.used), loss, correct, len(evaluation))


def _end_epoch(model: Any, evaluation: Tokens, train_loss: float) -> Epoch:
    model.eval()
    loss, correct = _judge(model, evaluation)
    model.train()
    return Epoch(train_loss, loss, correct, len(evaluation))


def _judge(model: Any, rows: Tokens, order: Sequence[int] | None = None) -> tuple[float, int]:
    """Mean cross-entropy and how many rows got their class; `order` is the model's number of each class, if not the same."""
    import torch

    loss, correct = 0.0, 0
    ranked = np.argsort(rows.lengths, kind="stable")
    with torch.inference_mode():
        for start in range(0, len(ranked), _EVALUATION_BATCH):
            inputs, labels = rows.batch(ranked[start : start + _EVALUATION_BATCH])
            logits = model(**inputs).logits
            if order is not None:
                logits = logits[:, list(order)]
            loss += torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
            correct += int((logits.argmax(-1) == labels).sum())
    return loss / len(rows), correct


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


def _newest_state(room: Path) -> Path | None:
    return max(room.glob(f"{STATE}*"), default=None)


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
    position.epochs = [Epoch(**epoch) for epoch in state["position"]["epochs"]]
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
