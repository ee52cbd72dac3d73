"""What a pruned checkpoint kept of each layer, and how important its heads were: from its pruning plan."""

from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import CheckpointError, ConfigError
from edgekit.stages.prune.pruning_plan import FILE_NAME, read


@dataclass(frozen=True)
class Pruned:
    """A version's plan; each outer tuple has one entry for each layer of the unpruned model, empty or 0 where it went whole.

    `importance` are the scores of all its heads by `method`, `heads` the numbers of those it kept. `ffn` counts the FFN
    units kept and `ffn_before` those there were, over all FFNs of the layer."""

    version: str
    method: str
    importance: tuple[tuple[float, ...], ...]
    heads: tuple[tuple[int, ...], ...]
    ffn: tuple[int, ...]
    ffn_before: tuple[int, ...]

    def __post_init__(self) -> None:
        layers = len(self.importance)
        if not layers or any(len(part) != layers for part in (self.heads, self.ffn, self.ffn_before)):
            raise ValueError("importance, heads and ffn do not have one entry for each layer")
        for scores, kept in zip(self.importance, self.heads, strict=True):
            if any(not 0 <= head < len(scores) for head in kept):
                raise ValueError(f"it keeps head {max(kept)} of a layer with {len(scores)}")


def read_plan(folder: Path, version: str) -> Pruned | None:
    """The plan beside a checkpoint, None where there is none. Raises `CheckpointError` if it is not as edgekit writes it."""
    file = folder / FILE_NAME
    if not file.is_file():
        return None
    try:
        plan = read(file)
        kept = {layer.layer: layer for layer in plan.layers}
        numbers = range(len(plan.importance.heads))
        return Pruned(
            version,
            plan.importance.method,
            plan.importance.heads,
            tuple(kept[number].heads if number in kept else () for number in numbers),
            tuple(sum(map(len, kept[number].ffn)) if number in kept else 0 for number in numbers),
            tuple(sum(map(len, layer)) for layer in plan.importance.ffn),
        )
    except (ConfigError, ValueError) as error:
        raise CheckpointError(f"{file}: no plan to draw ({error}); prune again, or remove it to compare without it") from None
