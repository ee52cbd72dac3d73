"""The training loop; runs in a worker, because it loads torch.

It writes its state at intervals and goes on from there, to the same weights bit for bit, when it is called again with
the same job after a kill.
"""

import dataclasses
import inspect
import itertools
import pickle
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import artifacts
from edgekit.checkpoint import start_classifier, tokenizer_folder
from edgekit.errors import CheckpointError, ConfigError, OutputError
from edgekit.train.config import Epoch, FinetuneConfig, FinetuneResult
from edgekit.worker import progress

STATE = "state-"
MODEL = "model"
# Batches that are drawn together and sorted by length: more wastes less padding, fewer mix the rows better.
_POOL = 16
_EVALUATION_BATCH = 64
_NOTE_SECONDS = 0.5


@dataclass(frozen=True)
class Encoded:
    """Rows to learn from or to judge by: texts, second halves if they are pairs, and int class numbers."""

    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Job:
    """All that decides the weights that come out; `key` is the digest of it, which a state must bear to be gone on from."""

    model: Path
    labels: dict[str, int]
    train: Encoded
    evaluation: Encoded
    evaluated_on: str
    config: FinetuneConfig
    key: str


@dataclass
class _Position:
    step: int = 0
    loss_sum: float = 0.0  # over the rows of the epoch so far
    epochs: list[Epoch] = field(default_factory=list)
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
    model = start_classifier(job.model, job.labels).train()
    tokenizer = _tokenizer(job.model)
    train, evaluation = (_Tokens.encode(rows, tokenizer, model, job) for rows in (job.train, job.evaluation))
    optimizer = _optimizer(model, config)
    position, resumed_at = _Position(), 0
    if (state := _newest_state(room)) is not None and (found := _load_state(state, job.key, model, optimizer)) is not None:
        position, resumed_at = found, found.step
    position.preparation_s += time.perf_counter() - started

    per_epoch = -(-len(train) // config.batch_size)
    total = per_epoch * config.epochs
    interval = config.checkpoint_every or per_epoch
    noted = clock = time.perf_counter()
    while position.step < total:
        epoch, first = divmod(position.step, per_epoch)
        for batch in itertools.islice(_batches(train.lengths, config.batch_size, (config.seed, epoch)), first, None):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * _schedule(position.step, total, config.warmup_ratio)
            inputs, labels = train.batch(batch)
            with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
                logits = model(**inputs).logits
            loss = torch.nn.functional.cross_entropy(logits.float(), labels)
            if not bool(torch.isfinite(loss)):
                raise ConfigError(f"the loss is no longer finite at step {position.step}; set a lower --learning-rate")
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            optimizer.step()
            optimizer.zero_grad()
            position.step += 1
            position.loss_sum += loss.item() * len(batch)
            now = time.perf_counter()
            position.training_s, clock = position.training_s + now - clock, now
            if now - noted > _NOTE_SECONDS or position.step == total:
                noted = now
                progress("finetune", position.step, total, f"epoch {epoch + 1}/{config.epochs} loss {loss.item():.3f}")
            if position.step % per_epoch == 0:
                position.epochs.append(_end_epoch(model, evaluation, position.loss_sum / len(train)))
                position.loss_sum = 0.0
                position.evaluation_s += time.perf_counter() - clock
            if position.step % interval == 0 and position.step < total:
                _save_state(room, job.key, model, optimizer, position)
            clock = time.perf_counter()
    _save_model(room / MODEL, model, tokenizer)
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
    )


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(tokenizer_folder(folder)), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(
            f"{folder}: its tokenizer does not load ({lines[0][:200]}); save one there with save_pretrained"
        ) from error
    if tokenizer.pad_token_id is None:
        raise CheckpointError(f"{folder}: the tokenizer has no padding token; set pad_token in tokenizer_config.json")
    return tokenizer


@dataclass(frozen=True)
class _Tokens:
    """Token ids of every row, and what fills the room behind a short one."""

    columns: dict[str, list[Any]]
    fill: dict[str, int]
    labels: Any
    lengths: np.ndarray

    @classmethod
    def encode(cls, rows: Encoded, tokenizer: Any, model: Any, job: Job) -> "_Tokens":
        import torch

        longest = job.config.max_length
        places = min(getattr(model.config, "max_position_embeddings", None) or longest, tokenizer.model_max_length)
        if longest > places:
            raise ConfigError(f"max_length is {longest} but {job.model} takes {places} tokens; set --max-length {places} or less")
        pairs = None if rows.pairs is None else list(rows.pairs)
        encoded = tokenizer(list(rows.texts), pairs, truncation=True, max_length=longest, return_attention_mask=True)
        highest, known = max(max(ids) for ids in encoded["input_ids"]), model.config.vocab_size
        if highest >= known:
            raise CheckpointError(
                f"{job.model}: the tokenizer gives id {highest} but config.json allows {known} ids; give its own tokenizer"
            )
        accepted = inspect.signature(model.forward).parameters
        fill = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id, "attention_mask": 0}
        columns = {name: [torch.tensor(row) for row in encoded[name]] for name in fill if name in encoded and name in accepted}
        lengths = np.array([len(row) for row in encoded["input_ids"]])
        return cls(columns, fill, torch.tensor(rows.labels), lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, rows: np.ndarray) -> tuple[dict[str, Any], Any]:
        """int64 tensors (rows, longest of them) by input name, and the labels (rows,)."""
        from torch.nn.utils.rnn import pad_sequence

        inputs = {
            name: pad_sequence([column[row] for row in rows], batch_first=True, padding_value=self.fill[name])
            for name, column in self.columns.items()
        }
        return inputs, self.labels[rows]


def _batches(lengths: np.ndarray, size: int, seed: Sequence[int]) -> Iterator[np.ndarray]:
    """Row numbers in batches of rows of similar length, all of an epoch in shuffled order."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(lengths))
    batches = []
    for start in range(0, len(order), size * _POOL):
        pool = order[start : start + size * _POOL]
        ranked = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [ranked[first : first + size] for first in range(0, len(ranked), size)]
    return (batches[number] for number in rng.permutation(len(batches)))


def _schedule(step: int, total: int, warmup_ratio: float) -> float:
    """Share of the learning rate at `step`: up in a straight line during the warm-up, then down to 0 at `total`."""
    warmup = round(total * warmup_ratio)
    return (step + 1) / (warmup + 1) if step < warmup else (total - step) / max(1, total - warmup)


def _optimizer(model: Any, config: FinetuneConfig) -> Any:
    import torch

    # Biases and the scales of LayerNorm (MobileBERT's NoNorm too) are the vectors among the parameters.
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in parameters if parameter.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [parameter for parameter in parameters if parameter.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def _end_epoch(model: Any, evaluation: _Tokens, train_loss: float) -> Epoch:
    import torch

    model.eval()
    loss, correct = 0.0, 0
    ranked = np.argsort(evaluation.lengths, kind="stable")
    with torch.inference_mode():
        for start in range(0, len(ranked), _EVALUATION_BATCH):
            inputs, labels = evaluation.batch(ranked[start : start + _EVALUATION_BATCH])
            logits = model(**inputs).logits
            loss += torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
            correct += int((logits.argmax(-1) == labels).sum())
    model.train()
    return Epoch(train_loss, loss / len(evaluation), correct, len(evaluation))


def _save_state(room: Path, key: str, model: Any, optimizer: Any, position: _Position) -> None:
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
        }
        torch.save(state, partial / "state.pt")
    for folder in older:
        shutil.rmtree(folder, ignore_errors=True)


def _newest_state(room: Path) -> Path | None:
    return max(room.glob(f"{STATE}*"), default=None)


def _load_state(folder: Path, key: str, model: Any, optimizer: Any) -> _Position | None:
    """Set model, optimizer and random numbers as they were; None if the state belongs to another job."""
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
        torch.set_rng_state(state["rng"])
    except (OSError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError, SafetensorError) as error:
        raise OutputError(
            f"{folder}: the state of an interrupted run is damaged; remove {folder.parent} to start anew", str(error)
        ) from None
    position = _Position(**state["position"])
    position.epochs = [Epoch(**epoch) for epoch in state["position"]["epochs"]]
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
