"""Prune a checkpoint in one step or in several, let it recover with the unpruned one as its teacher, or prune to a target."""

import functools
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

from edgekit.data.sources import TextRows
from edgekit.data.text import random_texts
from edgekit.errors import ConfigError, RefusedError, about
from edgekit.measure.judge import BenchmarkConfig, benchmark
from edgekit.models.checkpoint import Checkpoint, resolve
from edgekit.models.source import Kind, Source
from edgekit.spec import DataSpec
from edgekit.stages.prune import pruning_plan, surgery
from edgekit.stages.prune.config import StructureConfig
from edgekit.stages.prune.surgery import TOOLS, PruneResult, Vocabulary
from edgekit.stages.train.config import DistillConfig, FinetuneResult
from edgekit.system import artifacts, rooms
from edgekit.system.settings import at_least, setting
from edgekit.system.worker import OnProgress, Progress, Worker
from edgekit.workflows.convert import bridge
from edgekit.workflows.convert.bridge import FloatModel
from edgekit.workflows.convert.config import Bridge
from edgekit.workflows.distill import distill
from edgekit.workflows.finetune import digest_of, read_texts

_KEY = "key"
_PRUNED, _RECOVERED = "pruned_", "recovered_"
_ROWS = 16
_MOST = 0.95  # the largest share that a search tries
_PROBES = 5
_GRAIN = 0.02  # shares nearer than this give much the same model
_CLOSE = 0.97  # of the target: no need to come nearer
_TIMING = BenchmarkConfig(runs=90, rounds=3, gzip=False)
_TARGET = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(x|ms|MB)", re.IGNORECASE)


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
        value = float(match[1]) if match else 0.0
        if unit is None or value <= 0:
            raise ConfigError(f"{option} {text}: give a number with {' or '.join(units)}, such as 0.5{units[0]}")
        return Target(value, unit)

    def __str__(self) -> str:
        return f"{self.value:g} {self.unit}" if self.unit != "x" else f"{self.value:g}x"


@dataclass(frozen=True)
class PruneConfig(StructureConfig):
    """Structured pruning, and what is around it.

    `vocabulary` cuts the tokenizer, `use` is a plan to follow instead of shares. With `recovery` each of `steps`, which remove the
    same share of what is left, is trained on, the unpruned model as the teacher, and judged on `evaluation_data`. With `target` the
    shares of heads and FFN units are searched, by files that `bridge` makes. Raises `ConfigError`."""

    data: DataSpec | None = setting(None, "Rows for importance, tokens and recovery: {data}.", option="--dataset")
    evaluation_data: DataSpec | None = setting(
        None, "Rows to judge on, before and after; left out, recovery holds out a tenth of the data set."
    )
    vocabulary: Vocabulary | None = None
    use: Path | None = setting(None, "Use the pruning_plan.json of an earlier run.", option="--plan", set=False)
    recovery: DistillConfig | None = None
    steps: int = setting(1, "Prune in as many steps, with recovery after each.", at_least(1))
    target: Target | None = setting(None, set=False)
    bridge: Bridge = setting(Bridge.AUTO, "Road of a search.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps > 1 and self.recovery is None:
            raise ConfigError("steps goes with recovery between them; give recovery (--recover-epochs)")
        if self.use is not None and (self.heads or self.ffn or self.layers or self.vocabulary or self.target):
            raise ConfigError(f"{self.use}: a plan says itself what stays; leave --heads, --ffn, --layers, --vocab and targets out")
        if self.target is not None and (self.heads or self.ffn):
            shares = "finds the shares of heads and FFN units itself; leave --heads and --ffn out"
            raise ConfigError(f"a target of {self.target} {shares}")


@dataclass(frozen=True)
class Probe:
    """What a search tried: the share of heads and FFN units removed, and the float32 .tflite's figures."""

    share: float
    size_bytes: int
    p50_ms: float
    unpruned_p50_ms: float

    def value(self, unit: str) -> float:
        return {"x": self.p50_ms / self.unpruned_p50_ms, "ms": self.p50_ms, "MB": self.size_bytes / 1e6}[unit]

    def text(self, unit: str) -> str:
        return str(Target(float(f"{self.value(unit):.3g}"), unit))


@dataclass(frozen=True)
class Pruned:
    """What a run did: what each step left, what the last recovery found, and what a search tried."""

    config: StructureConfig
    steps: tuple[PruneResult, ...]
    recovery: FinetuneResult | None
    probes: tuple[Probe, ...] = ()


def prune(
    model: str | Path, out: str | Path, config: PruneConfig, *, overwrite: bool = False, on_progress: OnProgress = None
) -> Pruned:
    """Publish what is left of `model` as the folder `out`: weights, tokenizer, plan, and the manifest edgekit.json.

    A run with recovery that was killed goes on after its last whole step. Raises `CheckpointError`, `DatasetError`,
    `ConfigError`, `RefusedError` if the target cannot be met, `OutputError` or a `WorkerError`."""
    out = Path(out)
    artifacts.refuse_existing(out, overwrite=overwrite)
    checkpoint, worker = Checkpoint.read(resolve(str(model))), Worker(on_progress=on_progress)
    artifacts.refuse_source(out, checkpoint.path)
    surgery.check_architecture(checkpoint)
    digest = artifacts.sha256(checkpoint.path)
    rows = read_texts(config.data, checkpoint.task, labelled=config.recovery is not None and not checkpoint.task.headless)
    probes: tuple[Probe, ...] = ()
    if config.target is not None:
        config, probes = _search(checkpoint, rows, config, config.target, worker)
    # Only training is worth going on from.
    with artifacts.resumable(out.parent / f".{out.name}.prune", f"*{_RECOVERED}*") as room, about(checkpoint.path):
        listed = [config.use, *((config.vocabulary.tokens, config.vocabulary.extra) if config.vocabulary else ())]
        files = [artifacts.sha256(file) for file in listed if file is not None and file.exists()]
        _clear_unless(room, digest_of([digest, config, files, rows]))
        folders, recovered = _steps(checkpoint, rows, room, config, worker)
        result = Pruned(_structure(config), tuple(surgery.read_result(folder) for folder in folders), recovered, probes)
        parents = {checkpoint.name: digest}
        with artifacts.published(
            out, "checkpoint", parents=parents, config=config, tools=TOOLS, measured=result, overwrite=overwrite
        ) as draft:
            shutil.copytree(folders[-1] if config.recovery is None else _recovered(room, config.steps), draft.path)
            plan = functools.reduce(pruning_plan.compose, map(pruning_plan.read, folders))
            pruning_plan.write(plan, draft.path)
            (draft.path / artifacts.MANIFEST).unlink()
    return result


def _steps(
    checkpoint: Checkpoint, rows: TextRows, room: Path, config: PruneConfig, worker: Worker
) -> tuple[list[Path], FinetuneResult | None]:
    """What each step cut, as folders in `room`, and the last recovery's result; steps that are there are not done again."""
    part = replace(_structure(config), heads=_part(config.heads, config.steps), ffn=_part(config.ffn, config.steps))
    model, folders, result = checkpoint, [], None
    for number in range(1, config.steps + 1):
        # Whole layers and tokens go at once: there is no half of them to recover from.
        first = number == 1
        pruned = room / f"{_PRUNED}{number}"
        if not pruned.is_dir():
            step = part if first else replace(part, layers=0)
            vocabulary, use = (config.vocabulary, config.use) if first else (None, None)
            surgery.prune(model, rows, pruned, step, vocabulary_of=vocabulary, use=use, worker=worker)
        folders.append(pruned)
        if config.recovery is not None:
            folder = _recovered(room, number)
            # The last one's result is wanted, so a run that was killed behind it trains again.
            if number == config.steps or not folder.is_dir():
                training = replace(
                    config.recovery, teacher=str(checkpoint.path), data=config.data, evaluation_data=config.evaluation_data
                )
                result = distill(pruned, folder, training, overwrite=True, on_progress=worker.on_progress)
            model = Checkpoint.read(folder)
    return folders, result


def _structure(config: PruneConfig) -> StructureConfig:
    """What the stage itself is told."""
    return StructureConfig(**{item.name: getattr(config, item.name) for item in fields(StructureConfig)})


def _recovered(room: Path, number: int) -> Path:
    return room / f"{_RECOVERED}{number}"


def _part(share: float, count: int) -> float:
    """The share of what is left that each of `count` steps removes, to remove `share` of all in the end."""
    return 1 - float((1 - share) ** (1 / count))


def _clear_unless(room: Path, key: str) -> None:
    """Empty `room` unless it was left by a run with the same key."""
    file = room / _KEY
    if not (file.is_file() and file.read_text(encoding="utf-8") == key):
        for item in room.iterdir():
            if item.is_dir():
                shutil.rmtree(item)
        file.write_text(key, encoding="utf-8")


def _search(
    checkpoint: Checkpoint, rows: TextRows, config: PruneConfig, target: Target, worker: Worker
) -> tuple[PruneConfig, tuple[Probe, ...]]:
    """`config` with the shares of heads and FFN units that meet `target`, and what was tried; importance is measured once."""
    with rooms.temporary("target") as place:
        structure = _structure(config)
        whole, head_size = surgery.make_plan(checkpoint, rows, structure, config.vocabulary, worker)
        base = _exported(checkpoint, Path(place) / "unpruned", config, worker)
        probes: list[Probe] = []

        def probe(share: float) -> float:
            chosen = pruning_plan.choose(whole.importance, replace(structure, heads=share, ffn=share), head_size)
            folder = Path(place) / f"pruned_{len(probes)}"
            surgery.apply(checkpoint, replace(whole, layers=chosen), folder, rows, worker)
            file = _exported(Checkpoint.read(folder), folder.with_suffix(".export"), config, worker)
            before, after = (row.latency for row in benchmark([base, file], None, _TIMING))
            if before is None or after is None:
                raise RefusedError(f"{checkpoint.path}: with {share:.0%} of heads and FFN units gone the .tflite does not run")
            probes.append(Probe(share, file.stat().st_size, after.p50_ms, before.p50_ms))
            if worker.on_progress is not None:
                note = f"{share:.0%} gone: {probes[-1].text(target.unit)}"
                worker.on_progress(Progress("search", len(probes), _PROBES + 2, note))
            return probes[-1].value(target.unit)

        share = smallest_share(probe, target.value)
        if share == 0 and not (config.layers or config.vocabulary):
            raise ConfigError(f"{checkpoint.path}: meets {target} already ({probes[0].text(target.unit)}); give a lower target")
        if share is None:
            raise RefusedError(
                f"{checkpoint.path}: {target} cannot be met: with {_MOST:.0%} of heads and FFN units gone it is "
                f"{probes[-1].text(target.unit)}; remove layers with --layers, tokens with --vocab, or give a higher target"
            )
        return replace(config, target=None, heads=share, ffn=share), tuple(probes)


def smallest_share(measure: Callable[[float], float], limit: float) -> float | None:
    """About the smallest share, 0 to 0.95, whose `measure` is within `limit`, in seven measurements at most; None if none is.

    Size and latency are nearly straight lines over the share, so each measurement is taken where the line through the two
    nearest ones meets the limit."""
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
        if (value := measure(share)) <= limit:
            high, below = share, value
        else:
            low, above = share, value
    return high


def _exported(checkpoint: Checkpoint, room: Path, config: PruneConfig, worker: Worker) -> Path:
    """The checkpoint as a float32 .tflite of `config.max_length` tokens, compared with PyTorch on the way."""
    room.mkdir()
    samples = random_texts(checkpoint.tokenizer, checkpoint.inputs(config.max_length, pairs=False), _ROWS, config.seed)
    samples.labelled(None, checkpoint.task.name, checkpoint.settings).save(room / "rows")

    def make(road: Bridge, work: Path) -> tuple[FloatModel, None]:
        made = bridge.from_checkpoint(checkpoint, room / "rows", road, config.max_length, work, worker)
        bridge.finish(Source(Kind.CHECKPOINT, checkpoint.path, room.name), made, room / "rows", work, worker)
        return made, None

    return bridge.by_first(Kind.CHECKPOINT, checkpoint.path, config.bridge, make, room, worker.on_progress)[0].path
