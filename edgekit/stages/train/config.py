"""What a training run is told, and what it answers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from edgekit.errors import ConfigError

SOFT_TARGETS, LABELS, HIDDEN, ATTENTION = "soft targets", "labels", "hidden states", "attention maps"


@dataclass(frozen=True)
class FinetuneConfig:
    """Settings of a fine-tuning run.

    `max_length` in tokens, `checkpoint_every` in steps (0: at the end of each epoch), `threads` None is torch's choice.
    `bfloat16` trains with matrix products in bfloat16: faster on CPUs with instructions for it (avx512_bf16), slower on others.
    `dropout` is the probability of the model's dropouts, None for what its own config says; without them a step is faster.
    `freeze_embeddings` leaves the token embeddings as they are. `holdout` is the share of the training rows kept for
    evaluation where no evaluation rows are given. `quantization_aware` rounds in linear layers as an int8 .tflite will, so that the
    weights learn to live with it, and keeps their ranges. `labels` names the classes 0, 1, 2, … where neither the data nor the
    model does. Raises `ConfigError`.
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
    dropout: float | None = None
    freeze_embeddings: bool = False
    holdout: float = 0.1
    labels: tuple[str, ...] = ()
    quantization_aware: bool = False

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
            ("dropout", self.dropout, self.dropout is None or 0 <= self.dropout < 1, "from 0 to below 1"),
            ("holdout", self.holdout, 0 < self.holdout < 1, "between 0 and 1"),
        ):
            if not valid:
                raise ConfigError(f"{name} is {value}; it must be {wanted}")
        if len(set(self.labels)) != len(self.labels):
            raise ConfigError(f"labels {', '.join(self.labels)} name a class twice; give each class its own name")
        if self.quantization_aware and self.bfloat16:
            raise ConfigError("quantization_aware and bfloat16: bfloat16 rounds as coarsely as int8 does; leave one of the two out")


@dataclass(frozen=True)
class DistilConfig(FinetuneConfig):
    """Settings of a distillation: those of fine-tuning, and how much of the loss each lesson makes.

    `alpha` is the share of the soft targets, at `temperature`, against the labels' cross-entropy; `hidden` and `attention`
    weigh the squared differences of hidden states and of attention maps beside them, 0 leaves them out. There is no
    dropout unless it is asked for, because the teacher has none either and noise in its states is nothing to be learned.
    `labels` stays empty, since the classes are the teacher's. Raises `ConfigError`.
    """

    dropout: float | None = 0.0
    temperature: float = 2.0
    alpha: float = 0.9
    hidden: float = 1.0
    attention: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value, valid, wanted in (
            ("temperature", self.temperature, 0 < self.temperature < math.inf, "above 0, such as 2"),
            ("alpha", self.alpha, 0 <= self.alpha <= 1, "from 0 to 1"),
            ("hidden", self.hidden, 0 <= self.hidden < math.inf, "0 or more"),
            ("attention", self.attention, 0 <= self.attention < math.inf, "0 or more"),
        ):
            if not valid:
                raise ConfigError(f"{name} is {value}; it must be {wanted}")
        if self.alpha == self.hidden == self.attention == 0:
            raise ConfigError("alpha, hidden and attention are all 0, so that nothing is learned from the teacher; set one of them")
        if self.labels:
            raise ConfigError(f"labels is {', '.join(self.labels)}; leave it out, since the classes are the teacher's")


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
class Distillation:
    """What a student was told by its `teacher`, which gave `correct` of the `total` evaluation rows their class.

    `losses` were used; `left_out` says why others, or parts of them, were not. `layers` pairs each of the student's layers
    that has one with the teacher's layer, both from 0, as hidden states were compared.
    """

    teacher: str
    correct: int
    total: int
    losses: tuple[str, ...]
    left_out: Mapping[str, str]
    layers: tuple[tuple[int, int], ...]

    @property
    def accuracy(self) -> float:
        return self.correct / self.total


@dataclass(frozen=True)
class QuantizationAware:
    """What the weights of a quantization-aware training, which rounded in `layers` linear layers, give without rounding.

    Mean cross-entropy and how many of the `total` evaluation rows got their class.
    """

    layers: int
    loss: float
    correct: int
    total: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.total


@dataclass(frozen=True)
class FinetuneResult:
    """What a training run measured.

    `loss` (mean cross-entropy) and `accuracy` (`correct` of `total`) are those of the last epoch on the evaluation rows, which
    `evaluated_on` describes. `preparation_s` is loading and tokenizing, `training_s` the steps alone, `runtime_s` all of it with
    evaluation; the rates are over `training_s`. Times of a resumed run add up over its parts; `resumed_at` is the
    step at which the last part began, 0 for a run in one piece. `parameters` counts trained values. `curve` holds
    200 points at most: a step, and the mean training loss of the steps since the point before. `distillation` is None
    without a teacher. Where training was quantization-aware, all figures are with rounding, and `quantization` has those without.
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
    curve: tuple[tuple[int, float], ...] = ()
    distillation: Distillation | None = None
    quantization: QuantizationAware | None = None

    @property
    def accuracy(self) -> float:
        return self.correct / self.total
