"""Prune a checkpoint in one step or in several, let it recover with the unpruned one as its teacher, or prune to a target."""

import functools
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from edgekit.data.samples import random_samples
from edgekit.data.sources import TextRows
from edgekit.errors import ConfigError, RefusedError
from edgekit.measure.judge import BenchmarkConfig, benchmark
from edgekit.stages.prune import pruning_plan, surgery
from edgekit.stages.prune.config import PruneConfig
from edgekit.stages.prune.surgery import TOOLS, PruneResult, Vocabulary
from edgekit.stages.train.config import DistilConfig, FinetuneResult
from edgekit.system import artifacts
from edgekit.system.worker import Progress, Worker
from edgekit.workflows.convert import bridge
from edgekit.workflows.convert.bridge import Bridge
from edgekit.workflows.distill import distil

_KEY = "key"
_PRUNED, _RECOVERED = "pruned_", "recovered_"
_ROWS = 16
_MOST = 0.95  # the largest share that a search tries
_PROBES = 5
_GRAIN = 0.02  # shares nearer than this give much the same model
_CLOSE = 0.97  # of the target: no need to come nearer
_TIMING = BenchmarkConfig(runs=90, rounds=3, gzip=False)
_TARGET = re.compile(r"([0-9.]+)(x|ms|MB)", re.IGNORECASE)


@dataclass(frozen=True)
class Recovery:
    """Training after each of `steps` steps, each of which removes the same share of what is left; `evaluation` rows judge it."""

    config: DistilConfig
    evaluation: TextRows | None = None
    steps: int = 1

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"--steps is {self.steps}; give at least 1")


@dataclass(frozen=True)
class Target:
    """A limit for the exported float32 .tflite: `value` times the unpruned p50 (x), ms of p50, or MB of 10^6 bytes."""

    value: float
    unit: str

    @staticmethod
    def parse(option: str, text: str, units: tuple[str, ...]) -> "Target":
        """Raises `ConfigError` unless `text` is a number above 0 with one of the `units`."""
        match = _TARGET.fullmatch(text.strip())
        unit = next((unit for unit in units if match and match[2].lower() == unit.lower()), None)
        try:
            value = float(match[1]) if match else 0.0
        except ValueError:
            value = 0.0
        if unit is None or value <= 0:
            raise ConfigError(f"{option} {text}: give a number with {' or '.join(units)}, such as 0.5{units[0]}")
        return Target(value, unit)

    def __str__(self) -> str:
        return f"{self.value:g} {self.unit}" if self.unit != "x" else f"{self.value:g}x"


@dataclass(frozen=True)
class Probe:
    """What a search tried: the share of heads and FFN units removed, and the float32 .tflite's figures."""

    share: float
    size_bytes: int
    p50_ms: float
    unpruned_p50_ms: float

    def value(self, unit: str) -> float:
        return {"x": self.p50_ms / self.unpruned_p50_ms, "ms": self.p50_ms, "MB": self.size_bytes / 1e6}[unit]

    def told(self, unit: str) -> str:
        return str(Target(float(f"{self.value(unit):.3g}"), unit))


@dataclass(frozen=True)
class Pruned:
    """What a run did: what each step left, what the last recovery found, and what a search tried."""

    config: PruneConfig
    steps: tuple[PruneResult, ...]
    recovery: FinetuneResult | None
    probes: tuple[Probe, ...] = ()


def run(
    checkpoint: Path,
    rows: TextRows,
    out: Path,
    config: PruneConfig,
    *,
    vocabulary: Vocabulary | None = None,
    use: Path | None = None,
    recovery: Recovery | None = None,
    target: Target | None = None,
    road: Bridge = Bridge.ONNX,
    overwrite: bool = False,
    worker: Worker = Worker(),  # noqa: B008 - frozen
) -> Pruned:
    """Publish what is left of `checkpoint` as the folder `out`: weights, tokenizer, plan, and the manifest edgekit.json.

    With `recovery` each step is trained on `rows` with `checkpoint` as the teacher; a run that was killed goes on after its last
    whole step. With `target` the shares of heads and FFN units are searched. Raises `CheckpointError`, `DatasetError`,
    `ConfigError`, `RefusedError` if the target cannot be met, `OutputError` or a `WorkerError`.
    """
    artifacts.refuse_existing(out, overwrite=overwrite)
    surgery.check_architecture(checkpoint)
    digest = artifacts.sha256(checkpoint)
    if use is not None and (config.heads or config.ffn or config.layers or vocabulary or target):
        raise ConfigError(f"{use}: a plan says itself what stays; leave --heads, --ffn, --layers, --vocab and targets out")
    probes: tuple[Probe, ...] = ()
    if target is not None:
        config, probes = _search(checkpoint, rows, config, vocabulary, target, road, worker)
    with artifacts.claimed(out.parent / f".{out.name}.prune") as room:
        listed = [use, *((vocabulary.tokens, vocabulary.extra) if vocabulary else ())]
        files = [artifacts.sha256(file) for file in listed if file is not None and file.exists()]
        _clear_unless(room, _digest([digest, config, vocabulary, use, files, recovery, rows]))
        try:
            folders, recovered = _steps(checkpoint, rows, room, config, vocabulary, use, recovery, worker)
            found = Pruned(config, tuple(surgery.read_result(folder) for folder in folders), recovered, probes)
            with artifacts.staged(out, overwrite=overwrite) as partial:
                shutil.copytree(folders[-1] if recovery is None else _recovered(room, recovery.steps), partial)
                pruning_plan.write(
                    functools.reduce(pruning_plan.compose, (pruning_plan.read(folder) for folder in folders)), partial
                )
                (partial / artifacts.MANIFEST).unlink()
                described = artifacts.describe(
                    partial,
                    "checkpoint",
                    name=out.name,
                    parents={checkpoint.resolve().name: digest},
                    config={"prune": config, "recovery": recovery.config if recovery else None},
                    tools=TOOLS,
                    measured=found,
                )
                artifacts.write_manifest(partial, described)
        except BaseException:
            # Only training is worth going on from.
            if not any(room.glob(f"*{_RECOVERED}*")):
                shutil.rmtree(room, ignore_errors=True)
            raise
        shutil.rmtree(room, ignore_errors=True)
    return found


def _steps(
    checkpoint: Path,
    rows: TextRows,
    room: Path,
    config: PruneConfig,
    vocabulary: Vocabulary | None,
    use: Path | None,
    recovery: Recovery | None,
    worker: Worker,
) -> tuple[list[Path], FinetuneResult | None]:
    """What each step cut, as folders in `room`, and the last recovery's result; steps that are there are not done again."""
    count = recovery.steps if recovery else 1
    part = replace(config, heads=_part(config.heads, count), ffn=_part(config.ffn, count))
    model, folders, result = checkpoint, [], None
    for number in range(1, count + 1):
        # Whole layers and tokens go at once: there is no half of them to recover from.
        first = number == 1
        pruned = room / f"{_PRUNED}{number}"
        if not pruned.is_dir():
            step = part if first else replace(part, layers=0)
            surgery.prune(
                model, rows, pruned, step, vocabulary_of=vocabulary if first else None, use=use if first else None, worker=worker
            )
        folders.append(pruned)
        if recovery is not None:
            model = _recovered(room, number)
            # The last one's result is wanted, so a run that was killed behind it trains again.
            if number == count or not model.is_dir():
                result = distil(
                    checkpoint, pruned, rows, recovery.evaluation, model, recovery.config, overwrite=True, worker=worker
                )
    return folders, result


def _recovered(room: Path, number: int) -> Path:
    return room / f"{_RECOVERED}{number}"


def _part(share: float, count: int) -> float:
    """The share of what is left that each of `count` steps removes, to remove `share` of all in the end."""
    return 1 - (1 - share) ** (1 / count)


def _clear_unless(room: Path, key: str) -> None:
    """Empty `room` unless it was left by a run with the same key."""
    file = room / _KEY
    if not (file.is_file() and file.read_text(encoding="utf-8") == key):
        for item in room.iterdir():
            if item.is_dir():
                shutil.rmtree(item)
        file.write_text(key, encoding="utf-8")


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(artifacts.to_jsonable(value), sort_keys=True).encode()).hexdigest()


def _search(
    checkpoint: Path,
    rows: TextRows,
    config: PruneConfig,
    vocabulary: Vocabulary | None,
    target: Target,
    road: Bridge,
    worker: Worker,
) -> tuple[PruneConfig, tuple[Probe, ...]]:
    """`config` with the shares of heads and FFN units that meet `target`, and what was tried; importance is measured once."""
    if config.heads or config.ffn:
        raise ConfigError(f"a target of {target} finds the shares of heads and FFN units itself; leave --heads and --ffn out")
    with tempfile.TemporaryDirectory(prefix="edgekit-target-") as place:
        whole, head_size = surgery.make_plan(checkpoint, rows, config, vocabulary, worker)
        base = _exported(checkpoint, Path(place) / "unpruned", config, road, worker)
        probes: list[Probe] = []

        def probe(share: float) -> float:
            chosen = pruning_plan.choose(whole.importance, replace(config, heads=share, ffn=share), head_size)
            folder = Path(place) / f"pruned_{len(probes)}"
            surgery.apply(checkpoint, replace(whole, layers=chosen), folder, rows, worker)
            file = _exported(folder, folder.with_suffix(".export"), config, road, worker)
            before, after = (row.latency for row in benchmark([base, file], None, _TIMING))
            if before is None or after is None:
                raise RefusedError(f"{checkpoint}: with {share:.0%} of heads and FFN units gone the .tflite does not run")
            probes.append(Probe(share, file.stat().st_size, after.p50_ms, before.p50_ms))
            if worker.on_progress is not None:
                note = f"{share:.0%} gone: {probes[-1].told(target.unit)}"
                worker.on_progress(Progress("search", len(probes), _PROBES + 2, note))
            return probes[-1].value(target.unit)

        share = smallest_share(probe, target.value)
        if share == 0 and not (config.layers or vocabulary):
            raise ConfigError(f"{checkpoint}: meets {target} already ({probes[0].told(target.unit)}); give a lower target")
        if share is None:
            raise RefusedError(
                f"{checkpoint}: {target} cannot be met: with {_MOST:.0%} of heads and FFN units gone it is "
                f"{probes[-1].told(target.unit)}; remove layers with --layers, tokens with --vocab, or give a higher target"
            )
        return replace(config, heads=share, ffn=share), tuple(probes)


def smallest_share(measure: Callable[[float], float], limit: float) -> float | None:
    """About the smallest share, 0 to 0.95, whose `measure` is within `limit`, in seven measurements at most; None if none is.

    Size and latency are nearly straight lines over the share, so each measurement is taken where the line through the two
    nearest ones meets the limit.
    """
    low, high = 0.0, _MOST
    if (above := measure(low)) <= limit:
        return low
    if (below := measure(high)) > limit:
        return None
    for _ in range(_PROBES):
        if below >= _CLOSE * limit or high - low < _GRAIN:
            break
        # A little beyond where the line meets it, since it is a limit.
        share = high - (high - low) * (limit * (1 + _CLOSE) / 2 - below) / (above - below)
        share = min(max(share, low + _GRAIN / 2), high - _GRAIN / 2)
        if (found := measure(share)) <= limit:
            high, below = share, found
        else:
            low, above = share, found
    return high


def _exported(checkpoint: Path, room: Path, config: PruneConfig, road: Bridge, worker: Worker) -> Path:
    """The checkpoint as a float32 .tflite of `config.max_length` tokens, compared with PyTorch on the way."""
    room.mkdir()
    rows = room / "rows"
    random_samples(bridge.token_specs(config.max_length, pairs=False), _ROWS, config.seed).save(rows)
    return bridge.from_checkpoint(checkpoint.resolve(), rows, road, config.max_length, room, worker).path
