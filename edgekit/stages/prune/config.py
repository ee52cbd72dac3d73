"""What a pruning run is told."""

import enum
from dataclasses import dataclass

from edgekit.errors import ConfigError


class Importance(enum.StrEnum):
    """How a head or an FFN unit is scored; the formulas are in `edgekit.stages.prune.importance`."""

    GRADIENT = "gradient"
    TAYLOR = "taylor"
    ACTIVATION = "activation"
    MAGNITUDE = "magnitude"
    RANDOM = "random"


class Scope(enum.StrEnum):
    """What heads and units compete with: all of the model, or those of their own layer."""

    GLOBAL = "global"
    LAYER = "layer"


class Method(enum.StrEnum):
    """Which single weights become zero: the smallest, any, or all below a threshold."""

    L1 = "l1"
    RANDOM = "random"
    THRESHOLD = "threshold"


@dataclass(frozen=True)
class PruneConfig:
    """Structured pruning. `heads` and `ffn` are the shares of attention heads and FFN units to remove, in [0, 1).

    `layers` whole layers, the least important, go first; the shares are of what is left. Each layer keeps one head, and FFN
    widths and heads times their size stay multiples of `round_to`. `samples` training rows, drawn with the seed, give the
    importance; `max_length` is in tokens. Raises `ConfigError`.
    """

    heads: float = 0.0
    ffn: float = 0.0
    layers: int = 0
    importance: Importance = Importance.GRADIENT
    scope: Scope = Scope.GLOBAL
    round_to: int = 8
    samples: int = 2048
    max_length: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("heads", "ffn"):
            check_share(f"--{name}", getattr(self, name))
        for name, least in (("layers", 0), ("round_to", 1), ("samples", 1), ("max_length", 3), ("seed", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"--{name.replace('_', '-')} is {getattr(self, name)}; give at least {least}")


def check_share(option: str, value: float) -> None:
    """Raise `ConfigError` unless `value` is a share below 1."""
    if not 0 <= value < 1:
        raise ConfigError(f"{option} is {value}; give the share to remove, from 0 to below 1, such as 0.5")
