"""What a pruning run is told."""

import enum
from dataclasses import dataclass

from edgekit.system import settings
from edgekit.system.settings import Checked, at_least, part, setting


class Importance(enum.StrEnum):
    """How a head or an FFN unit is scored; the formulas are in `edgekit.stages.prune.importance`."""

    GRADIENT = "gradient"
    TAYLOR = "taylor"
    ACTIVATION = "activation"
    MAGNITUDE = "magnitude"
    RANDOM = "random"

    @property
    def needs_labels(self) -> bool:
        """Whether it is measured by the gradient of a loss."""
        return self in (Importance.GRADIENT, Importance.TAYLOR)


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
class StructureConfig(Checked):
    """Structured pruning. `heads` and `ffn` are the shares of attention heads and FFN units to remove, in [0, 1).

    `layers` whole layers, the least important, go first; the shares are of what is left. Each layer keeps one head, and FFN
    widths and heads times their size stay multiples of `round_to`. `samples` training rows, drawn with the seed, give the
    importance; `max_length` is in tokens. Raises `ConfigError`."""

    heads: float = setting(0.0, "Share of the attention heads to remove, such as 0.5.", part(0.5))
    ffn: float = setting(0.0, "Share of the FFN units to remove.", part(0.5))
    layers: int = setting(0, "How many whole layers to remove first.", at_least(0))
    importance: Importance = setting(Importance.GRADIENT, "How heads and FFN units are scored.")
    scope: Scope = setting(Scope.GLOBAL, "Who competes.")
    round_to: int = setting(8, "Widths stay multiples of this.", at_least(1))
    samples: int = setting(2048, "Rows that importance is measured on.", at_least(1))
    max_length: int = setting(128, "Tokens of a row.", at_least(3))
    seed: int = settings.seed()
