"""What is kept of each layer, and why: chosen from the importance of heads and units, written beside the checkpoint, read again."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgekit.errors import ConfigError
from edgekit.models.architectures import PLAN, Kept
from edgekit.stages.prune.config import Scope, StructureConfig
from edgekit.system import artifacts, serial
from edgekit.system.serial import read_json

FILE_NAME = PLAN


@dataclass(frozen=True)
class Scores:
    """Importance by `method`: of the heads of each layer, and of the units of each FFN of each layer."""

    method: str
    heads: tuple[tuple[float, ...], ...]
    ffn: tuple[tuple[tuple[float, ...], ...], ...]


@dataclass(frozen=True)
class PruningPlan:
    """What stays of the checkpoint with this hash: layers with their heads and units, and token ids (None: all)."""

    checkpoint_sha256: str
    importance: Scores
    layers: tuple[Kept, ...]
    tokens: tuple[int, ...] | None = None


def choose(scores: Scores, config: StructureConfig, head_size: int) -> tuple[Kept, ...]:
    """The most important heads and units within the shares that may stay; heads have `head_size` values each.

    Raises `ConfigError` if more layers are to go than there are."""
    count = len(scores.heads)
    if config.layers >= count:
        raise ConfigError(f"--layers is {config.layers} but the model has {count}; leave at least one")
    weights = [sum(heads) + sum(map(sum, ffn)) for heads, ffn in zip(scores.heads, scores.ffn, strict=True)]
    gone = sorted(range(count), key=lambda layer: (weights[layer], -layer))[: config.layers]
    staying = [layer for layer in range(count) if layer not in gone]
    # So many heads together are a multiple of what widths are rounded to.
    block = config.round_to // math.gcd(config.round_to, head_size)
    heads = _choose([scores.heads[layer] for layer in staying], config.heads, block, config.scope)
    parts = [(layer, number) for layer in staying for number in range(len(scores.ffn[layer]))]
    units = _choose([scores.ffn[layer][number] for layer, number in parts], config.ffn, config.round_to, config.scope)
    by_part = dict(zip(parts, units, strict=True))
    return tuple(
        Kept(layer, kept, tuple(members for (number, _), members in by_part.items() if number == layer))
        for layer, kept in zip(staying, heads, strict=True)
    )


def _choose(scores: Sequence[Sequence[float]], share: float, block: int, scope: Scope) -> list[tuple[int, ...]]:
    """Members to keep of each group, in blocks of `block`: one block of each at least, else `share` of all goes.

    Scores are divided by their group's Euclidean norm first, as Michel et al. do, so that groups can be compared."""
    ranked = [np.argsort(-np.asarray(group), kind="stable") for group in scores]
    blocks = []
    for number, (group, order) in enumerate(zip(scores, ranked, strict=True)):
        values = np.asarray(group)[order] / (np.linalg.norm(group) or 1.0)
        blocks += [(float(values[start : start + block].mean()), number, start) for start in range(0, len(values), block)]
    sizes = [len(group) for group in scores]
    kept = [min(block, size) for size in sizes]
    rooms = [math.floor((1 - share) * size + 1e-9) for size in sizes]
    room, used = math.floor((1 - share) * sum(sizes) + 1e-9), sum(kept)
    # In a group the best block comes first, so a group's blocks are taken from its start.
    for _, number, start in sorted(blocks, key=lambda item: (-item[0], item[1], item[2])):
        size = min(block, sizes[number] - start)
        fits = used + size <= room if scope is Scope.GLOBAL else kept[number] + size <= rooms[number]
        if start == kept[number] and fits:
            kept[number] += size
            used += size
    return [tuple(sorted(int(member) for member in order[:count])) for order, count in zip(ranked, kept, strict=True)]


def write(plan: PruningPlan, folder: Path) -> None:
    """Write the plan as `FILE_NAME` into `folder`; scores keep six digits."""

    def short(values: Sequence[float]) -> tuple[float, ...]:
        return tuple(float(f"{value:.6g}") for value in values)

    scores = plan.importance
    shortened = Scores(scores.method, tuple(map(short, scores.heads)), tuple(tuple(map(short, layer)) for layer in scores.ffn))
    text = json.dumps(serial.plain(replace(plan, importance=shortened)))
    (folder / FILE_NAME).write_text(text + "\n", encoding="utf-8")


def compose(first: PruningPlan, second: PruningPlan) -> PruningPlan:
    """The plan that does at once what `first` and then, on what it left, `second` do; tokens go with the first."""
    parts = []
    for then in second.layers:
        before = first.layers[then.layer]
        units = tuple(tuple(old[unit] for unit in new) for old, new in zip(before.ffn, then.ffn, strict=True))
        parts.append(Kept(before.layer, tuple(before.heads[head] for head in then.heads), units))
    return replace(first, layers=tuple(parts))


def read(path: Path) -> PruningPlan:
    """The plan in `path`, a file or a folder that holds one. Raises `ConfigError` if it is none."""
    file = path / FILE_NAME if path.is_dir() else path
    try:
        return serial.read(PruningPlan, read_json(file))
    except (OSError, ValueError) as error:
        wrong = f"cannot be read ({error.strerror})" if isinstance(error, OSError) else "not a pruning plan"
        raise ConfigError(f"{file}: {wrong}; give the {FILE_NAME} of a pruned checkpoint") from None


def check_source(plan: PruningPlan, checkpoint: Path, origin: Path) -> None:
    """Raise `ConfigError` if the plan at `origin` is not of this checkpoint."""
    found = artifacts.sha256(checkpoint)
    if plan.checkpoint_sha256 != found:
        raise ConfigError(
            f"{origin}: is the plan of another checkpoint (sha256 {plan.checkpoint_sha256[:12]}, {checkpoint} has {found[:12]}); "
            "leave --plan out to make a new one"
        )
