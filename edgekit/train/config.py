"""What a fine-tuning run is told, and what it answers."""

from collections.abc import Mapping
from dataclasses import dataclass

from edgekit.errors import ConfigError


@dataclass(frozen=True)
class FinetuneConfig:
    """Settings of a fine-tuning run.

    `max_length` in tokens, `checkpoint_every` in steps (0: at the end of each epoch), `threads` None is torch's choice.
    `bfloat16` trains with matrix products in bfloat16: faster on CPUs with instructions for it (avx512_bf16), slower on others.
    `holdout` is the share of the training rows kept for evaluation where no evaluation rows are given. `labels` names the
    classes 0, 1, 2, … where neither the data nor the model does. Raises `ConfigError`.
    """

    epochs: int = 3
    batch_size: int = 16
    learning_rate: float = 5e-5
    max_length: int = 128
    warmup_ratio: float = 0.1
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    seed: int = 0
    checkpoint_every: int = 0
    threads: int | None = None
    bfloat16: bool = False
    holdout: float = 0.1
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, value, valid, wanted in (
            ("epochs", self.epochs, self.epochs >= 1, "1 or more"),
            ("batch_size", self.batch_size, self.batch_size >= 1, "1 or more"),
            ("learning_rate", self.learning_rate, 0 < self.learning_rate < 1, "between 0 and 1, such as 5e-5"),
            ("max_length", self.max_length, self.max_length >= 3, "3 or more"),
            ("warmup_ratio", self.warmup_ratio, 0 <= self.warmup_ratio < 1, "from 0 to below 1"),
            ("weight_decay", self.weight_decay, 0 <= self.weight_decay < 1, "from 0 to below 1"),
            ("clip_norm", self.clip_norm, self.clip_norm > 0, "above 0"),
            ("seed", self.seed, 0 <= self.seed < 2**32, "from 0 to 4294967295"),
            ("checkpoint_every", self.checkpoint_every, self.checkpoint_every >= 0, "0 or more"),
            ("threads", self.threads, self.threads is None or self.threads >= 1, "1 or more"),
            ("holdout", self.holdout, 0 < self.holdout < 1, "between 0 and 1"),
        ):
            if not valid:
                raise ConfigError(f"{name} is {value}; it must be {wanted}")
        if len(set(self.labels)) != len(self.labels):
            raise ConfigError(f"labels {', '.join(self.labels)} name a class twice; give each class its own name")


@dataclass(frozen=True)
class Epoch:
    """One pass over the training rows: its mean training loss, then what the evaluation rows gave at its end."""

    train_loss: float
    loss: float
    correct: int
    total: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.total


@dataclass(frozen=True)
class FinetuneResult:
    """What a fine-tuning run measured.

    `loss` (mean cross-entropy) and `accuracy` (`correct` of `total`) are those of the last epoch on the evaluation rows, which
    `evaluated_on` describes. `preparation_s` is loading and tokenizing, `training_s` the steps alone, `runtime_s` all of it with
    evaluation; the rates are over `training_s`. Times of a resumed run add up over its parts; `resumed_at` is the
    step at which the last part began, 0 for a run in one piece. `parameters` counts trained values.
    """

    loss: float
    correct: int
    total: int
    evaluated_on: str
    labels: Mapping[str, int]
    epochs: tuple[Epoch, ...]
    steps: int
    parameters: int
    preparation_s: float
    training_s: float
    runtime_s: float
    samples_per_s: float
    steps_per_s: float
    resumed_at: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.total
