"""What a training run is told, and what it answers."""

from collections.abc import Mapping
from dataclasses import dataclass

from edgekit.errors import ConfigError
from edgekit.spec import DataSpec, ModelReference
from edgekit.system import settings
from edgekit.system.settings import above, at_least, check, inside, part, setting, share
from edgekit.tasks.metrics import Score

PROBLEMS = ("single_label_classification", "multi_label_classification", "regression")
SOFT_TARGETS, LABELS, HIDDEN, ATTENTION = "soft targets", "labels", "hidden states", "attention maps"


@dataclass(frozen=True)
class FinetuneConfig:
    """Settings of a fine-tuning run, beside what each field says of itself.

    `checkpoint_every` counts steps (0: at the end of each epoch); `threads` None is torch's choice; `holdout` is the share of the
    training rows kept for evaluation where none are given. `labels` names the classes where neither data nor model does."""

    data: DataSpec | None = setting(None, "Training rows: {data}.", option="--dataset", required=True)
    evaluation_data: DataSpec | None = setting(None, "Rows to judge on; left out, a tenth of the training rows is held out.")
    task: str | None = setting(None, "What the model is to be for; left out, what its head is for.")
    problem: str | None = setting(None, "Which classification; left out, what the labels say.", choices=PROBLEMS)
    epochs: int = setting(3, "Passes over the training rows.", at_least(1))
    batch_size: int = setting(16, "Rows of a step.", at_least(1))
    learning_rate: float = setting(5e-5, "At its highest.", inside(0, 1, 5e-5))
    max_length: int = setting(128, "Tokens of a row.", at_least(3))
    warmup_ratio: float = setting(0.1, "", part())
    weight_decay: float = setting(0.01, "", part())
    clip_norm: float = setting(1.0, "", above(0, 1))
    seed: int = settings.seed()
    checkpoint_every: int = setting(0, "", at_least(0))
    threads: int | None = settings.threads(None, "")
    bfloat16: bool = setting(False, "Matrix products in bfloat16; faster on CPUs with avx512_bf16 or amx_bf16.")
    dropout: float | None = setting(None, "Probability of the model's dropouts; left out, what its config.json says.", part())
    freeze_embeddings: bool = setting(False, "Leave the token embeddings as they are: a step is faster.")
    holdout: float = setting(0.1, "", inside(0, 1, 0.1))
    labels: tuple[str, ...] = ()
    quantization_aware: bool = setting(
        False, "Quantization-aware: round in linear layers as int8 will, and keep the ranges for edgekit convert.", option="--qat"
    )

    def __post_init__(self) -> None:
        check(self)
        if len(set(self.labels)) != len(self.labels):
            raise ConfigError(f"labels {', '.join(self.labels)} name a class twice; give each class its own name")
        if self.quantization_aware and self.bfloat16:
            raise ConfigError("quantization_aware and bfloat16: bfloat16 rounds as coarsely as int8 does; leave one of the two out")


@dataclass(frozen=True)
class DistillConfig(FinetuneConfig):
    """Settings of a distillation: those of fine-tuning, and how much of the loss each lesson makes.

    There is no dropout unless it is asked for, because the teacher has none either and noise in its states is nothing to be
    learned. `labels` and `problem` stay empty, since the head is the teacher's."""

    teacher: ModelReference | None = setting(
        None, "A fine-tuned checkpoint (folder, hub id or package:NAME) to learn from.", required=True
    )
    dropout: float | None = setting(0.0, "Probability of the student's dropouts.", part())
    temperature: float = setting(2.0, "Softens the teacher's classes.", above(0, 2))
    alpha: float = setting(0.9, "Share of the soft targets; the labels have the rest.", share(0.9))
    hidden: float = setting(1.0, "Weight of the hidden states' squared difference.", at_least(0))
    attention: float = setting(0.0, "Weight of the attention maps' squared difference.", at_least(0))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha == self.hidden == self.attention == 0:
            raise ConfigError("alpha, hidden and attention are all 0, so that nothing is learned from the teacher; set one of them")
        for name, of_head in (("labels", ", ".join(self.labels)), ("problem", self.problem)):
            if of_head:
                raise ConfigError(f"{name} is {of_head}; leave it out, since the head is the teacher's")


@dataclass(frozen=True)
class Scored:
    """What a model reaches on the evaluation rows by its task's metrics, of which `metric`, the first, counts."""

    scores: tuple[Score, ...]

    @property
    def metric(self) -> Score:
        return self.scores[0]


@dataclass(frozen=True)
class Epoch(Scored):
    """One pass over the training rows: its mean training loss, then the evaluation rows' loss and scores at its end."""

    train_loss: float
    loss: float


@dataclass(frozen=True)
class Distillation(Scored):
    """What a student learned from its `teacher`, which has the `scores` itself.

    `losses` were used; `left_out` says why others, or parts of them, were not. `layers` pairs each of the student's layers
    that has one with the teacher's layer, both from 0, as hidden states were compared."""

    teacher: str
    losses: tuple[str, ...]
    left_out: Mapping[str, str]
    layers: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class QuantizationAware(Scored):
    """What the weights of a quantization-aware training, which rounded in `layers` linear layers, give without rounding."""

    layers: int
    loss: float


@dataclass(frozen=True)
class FinetuneResult(Scored):
    """What a training run of a `task` measured.

    `loss`, the task's mean, and `scores` are those of the last epoch on the evaluation rows, which
    `evaluated_on` describes. `preparation_s` is loading and tokenizing, `training_s` the steps alone, `runtime_s` all of it with
    evaluation; the rates are over `training_s`. Times of a resumed run add up over its parts; `resumed_at` is the
    step at which the last part began, 0 for a run in one piece. `parameters` counts trained values. `curve` holds
    200 points at most: a step, and the mean training loss of the steps since the point before. `distillation` is None
    without a teacher. Where training was quantization-aware, all figures are with rounding, and `quantization` has those without.
    """

    task: str
    loss: float
    evaluated_on: str
    labels: tuple[str, ...]
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
