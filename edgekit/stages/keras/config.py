"""What optimization is told and what it found; no framework."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from edgekit.errors import ConfigError


@dataclass(frozen=True)
class Technique:
    """`sparse` and `clustered` say what the weights become; `aware` that int8 comes of quantization-aware training."""

    name: str
    words: str
    sparse: str = ""
    clustered: bool = False
    aware: bool = False


# Above it tfmot's cluster-preserving training gives up a layer's clusters.
_MOST_CLUSTERS = 256

TECHNIQUES: Mapping[str, Technique] = MappingProxyType(
    {
        technique.name: technique
        for technique in (
            Technique("qat", "quantization-aware training", aware=True),
            Technique("sparsity", "sparsity", sparse="magnitude"),
            Technique("sparsity-2-4", "2:4 sparsity", sparse="2:4"),
            Technique("clustering", "clustering", clustered=True),
            Technique("sparsity-qat", "sparsity, preserved in quantization-aware training", sparse="magnitude", aware=True),
            Technique("clustering-qat", "clustering, preserved in quantization-aware training", clustered=True, aware=True),
            Technique(
                "sparsity-clustering-qat",
                "sparsity and clustering, preserved in quantization-aware training",
                sparse="magnitude",
                clustered=True,
                aware=True,
            ),
        )
    }
)


@dataclass(frozen=True)
class TrainConfig:
    """How every technique trains: Adam on shuffled batches, the seed fixing order, dropout and centroids.

    `held_out` is the share of the training rows that is kept out of training and picks the best epoch.
    """

    epochs: int = 8
    batch_size: int = 32
    learning_rate: float = 2e-4
    held_out: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; give at least {least}")
        if not 0 < self.learning_rate < 1:
            raise ConfigError(f"learning_rate is {self.learning_rate:g}; give a number between 0 and 1, such as 1e-4")
        if not 0 < self.held_out < 1:
            raise ConfigError(f"held_out is {self.held_out:g}; give a proportion between 0 and 1, such as 0.1")


CENTROIDS = ("kmeans++", "density")


@dataclass(frozen=True)
class OptimizeConfig:
    """What a technique is told: the share of zeros, the number of distinct values and how to find them, and how to train."""

    sparsity: float = 0.5
    clusters: int = 16
    centroids: str = CENTROIDS[0]
    training: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if not 0 < self.sparsity < 1:
            raise ConfigError(f"sparsity is {self.sparsity:g}; give a proportion between 0 and 1, such as 0.5")
        if not 2 <= self.clusters <= _MOST_CLUSTERS:
            raise ConfigError(f"clusters is {self.clusters}; give 2 to {_MOST_CLUSTERS}, such as 16")
        if self.centroids not in CENTROIDS:
            raise ConfigError(f"centroids is {self.centroids}; choose from {', '.join(CENTROIDS)}")


@dataclass(frozen=True)
class Weights:
    """Of one layer's kernel: how many weights it has, the share that is zero, and how many distinct values.

    `most_in_four` is the most weights that are not zero among four neighbours along the input channels.
    """

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

    `training_loss` is the mean over the epoch's batches, None before training.
    """

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
    wanted = set(names)
    if unknown := sorted(wanted - set(TECHNIQUES) - {"all"}):
        raise ConfigError(f"unknown technique {', '.join(unknown)}; choose from {', '.join(TECHNIQUES)} or all")
    if not wanted:
        raise ConfigError(f"no technique given; choose from {', '.join(TECHNIQUES)} or all")
    return tuple(technique for technique in TECHNIQUES.values() if "all" in wanted or technique.name in wanted)
