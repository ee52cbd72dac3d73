"""Techniques, their settings and what they give; no framework."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from edgekit.errors import ConfigError
from edgekit.system import settings
from edgekit.system.settings import Checked, at_least, between, inside, setting


@dataclass(frozen=True)
class Technique:
    """`sparse` and `clustered` say what the weights become; `aware` that int8 comes of quantization-aware training."""

    name: str
    words: str
    sparse: str = ""
    clustered: bool = False
    aware: bool = False


_PRESERVED = ", preserved in quantization-aware training"
# Above it tfmot's cluster-preserving training gives up a layer's clusters.
_MOST_CLUSTERS = 256

TECHNIQUES: Mapping[str, Technique] = {
    technique.name: technique
    for technique in (
        Technique("qat", "quantization-aware training", aware=True),
        Technique("sparsity", "sparsity", sparse="magnitude"),
        Technique("sparsity-2-4", "2:4 sparsity", sparse="2:4"),
        Technique("clustering", "clustering", clustered=True),
        Technique("sparsity-qat", f"sparsity{_PRESERVED}", sparse="magnitude", aware=True),
        Technique("clustering-qat", f"clustering{_PRESERVED}", clustered=True, aware=True),
        Technique("sparsity-clustering-qat", f"sparsity and clustering{_PRESERVED}", "magnitude", clustered=True, aware=True),
    )
}


@dataclass(frozen=True)
class TrainConfig(Checked):
    """How every technique trains: Adam on shuffled batches, the seed fixing order, dropout and centroids.

    `held_out` is the share of the training rows that is kept out of training and picks the best epoch."""

    epochs: int = setting(8, "Passes over the training rows.", at_least(1))
    batch_size: int = setting(32, "Rows of a step.", at_least(1))
    learning_rate: float = setting(2e-4, "Adam's.", inside(0, 1, 1e-4))
    held_out: float = setting(0.1, "", inside(0, 1, 0.1, what="a proportion"))
    seed: int = settings.seed()


CENTROIDS = ("kmeans++", "density")


@dataclass(frozen=True)
class OptimizeConfig(Checked):
    """Settings of a technique: the share of zeros, the number of distinct values and how to find them, and how to train."""

    sparsity: float = setting(0.5, "Share of weights that become zero.", inside(0, 1, 0.5, what="a proportion"))
    clusters: int = setting(16, "Distinct values of each kernel.", between(2, _MOST_CLUSTERS, 16))
    centroids: str = setting(CENTROIDS[0], "How the values begin.", choices=CENTROIDS)
    training: TrainConfig = setting(default_factory=TrainConfig, inline=True)


@dataclass(frozen=True)
class Weights:
    """Of one layer's kernel: how many weights it has, the share that is zero, and how many distinct values.

    `most_in_four` is the most weights that are not zero among four neighbours along the input channels."""

    layer: str
    count: int
    sparsity: float
    distinct: int
    most_in_four: int


@dataclass(frozen=True)
class Optimized:
    """What became of a model by one technique: the trainings it went through, and its kernels in the end."""

    technique: str
    histories: tuple["History", ...]
    weights: tuple[Weights, ...]


@dataclass(frozen=True)
class Epoch:
    """After epoch `number` (0: before training): mean cross-entropy in nats and accuracy (0 to 1) on the held-out rows.

    `training_loss` is the mean over the epoch's batches, None before training."""

    number: int
    loss: float
    accuracy: float
    training_loss: float | None = None


@dataclass(frozen=True)
class History:
    """One training: all epochs, the one whose weights were kept, and how many rows it trained and chose on."""

    stage: str
    epochs: tuple[Epoch, ...]
    best: int
    training_rows: int
    held_out_rows: int
    steps: int
    seconds: float = field(compare=False, default=0.0)


def select(names: Iterable[str]) -> tuple[Technique, ...]:
    """Techniques by name, in the order of `TECHNIQUES`; `all` is every one. Raises `ConfigError` for an unknown name."""
    chosen = set(names)
    if unknown := sorted(chosen - set(TECHNIQUES) - {"all"}):
        raise ConfigError(f"unknown technique {', '.join(unknown)}; choose from {', '.join(TECHNIQUES)} or all")
    if not chosen:
        raise ConfigError(f"no technique given; choose from {', '.join(TECHNIQUES)} or all")
    return tuple(technique for technique in TECHNIQUES.values() if "all" in chosen or technique.name in chosen)
