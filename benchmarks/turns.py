"""Files of two runtimes side by side: .tflite and .onnx, timed in turns and judged on the same rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.data.samples import Samples
from edgekit.errors import EdgekitError
from edgekit.measure.execution import Budget, Timing, time_file
from edgekit.measure.judge import BenchmarkConfig, order, outputs
from edgekit.system.worker import Worker
from edgekit.tasks.judgement import judge
from edgekit.tasks.metrics import Difference, Score


@dataclass(frozen=True)
class Entry:
    """A file to measure; `base` is the name of the entry that its drop and ratio are taken from, `failure` why there is no file."""

    name: str
    file: Path
    base: str
    failure: str | None = None


@dataclass(frozen=True)
class Figures:
    """What was found of one entry; `failure` says why figures are missing."""

    entry: Entry
    size_bytes: int = 0
    p50_ms: float | None = None
    partitions: int | None = None
    accuracy: Score | None = None
    drop: Difference | None = None
    failure: str | None = None

    @property
    def lost(self) -> float:
        """Points of accuracy lost against the base; infinite where that is not known."""
        return 100 * self.drop.value if self.drop else float("inf")


def measure(entries: Sequence[Entry], samples_folder: Path, config: BenchmarkConfig, room: Path) -> dict[str, Figures]:
    """Figures by name. Outputs are kept in `room` and used again while they are newer than their file."""
    failures = {entry.name: entry.failure for entry in entries if entry.failure}
    timings = _time_in_turns(entries, samples_folder, config, failures)
    samples = Samples.load(samples_folder)
    scores: dict[str, dict[str, np.ndarray]] = {}
    for entry in entries:
        target = room / f"{entry.file.parent.name}_{entry.file.stem}.npy"
        try:
            if entry.name in failures:
                continue
            if not target.is_file() or target.stat().st_mtime < entry.file.stat().st_mtime:
                _write_outputs(entry.file, samples_folder, target, config)
            # Files of other tools call their output otherwise.
            scores[entry.name] = {"scores": np.load(target)}
        except EdgekitError as error:
            failures[entry.name] = error.message
    found = {}
    for entry in entries:
        if entry.name in failures:
            found[entry.name] = Figures(entry, failure=failures[entry.name])
            continue
        rounds = timings[entry.name]
        base = scores.get(entry.base) if entry.base != entry.name else None
        judged = judge(scores[entry.name], samples, base)
        found[entry.name] = Figures(
            entry,
            size_bytes=entry.file.stat().st_size,
            p50_ms=float(np.median(np.concatenate([item.times_ms for item in rounds]))),
            partitions=rounds[0].partitions,
            accuracy=next(iter(judged.scores), None),
            drop=judged.drop,
        )
    return found


def ratio(found: dict[str, Figures], name: str) -> float:
    """p50 against the base's; infinite where one of them is missing."""
    ours, base = found[name].p50_ms, found[found[name].entry.base].p50_ms
    return ours / base if ours and base else float("inf")


def table(found: dict[str, Figures]) -> list[str]:
    """Markdown; a figure that is not there is a dash."""
    lines = [
        "| file | accuracy | 95 % interval | points lost | 95 % interval | p50 | × its float32 | MB | partitions |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, item in found.items():
        if item.failure is not None:
            lines.append(f"| {name} | {item.failure.replace('|', '/')} | – | – | – | – | – | – | – |")
            continue
        cells = [name]
        cells += [f"{item.accuracy.value:.4f}", _interval(item.accuracy)] if item.accuracy else ["–", "–"]
        cells += [f"{item.lost:.2f}", _interval(item.drop)] if item.drop else ["–", "–"]
        cells += [f"{item.p50_ms:.2f} ms", f"{ratio(found, name):.2f}", f"{item.size_bytes / 1e6:.1f}"]
        cells.append("–" if item.partitions is None else str(item.partitions))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _interval(item: Score | Difference) -> str:
    return f"{100 * item.low:.1f} to {100 * item.high:.1f}"


def _time_in_turns(
    entries: Sequence[Entry], samples: Path, config: BenchmarkConfig, failures: dict[str, str]
) -> dict[str, list[Timing]]:
    found: dict[str, list[Timing]] = {entry.name: [] for entry in entries}
    budget = Budget(-(-config.runs // config.rounds), config.warmup, config.max_seconds / config.rounds, least=1)
    worker = Worker()
    for turn in order(len(entries), config.rounds, config.seed):
        for entry in (entries[index] for index in turn):
            if entry.name in failures:
                continue
            try:
                found[entry.name].append(worker.run(time_file, entry.file, samples, config.threads, budget, config.seed).value)
            except EdgekitError as error:
                failures[entry.name] = error.message
    return found


def _write_outputs(file: Path, samples: Path, target: Path, config: BenchmarkConfig) -> None:
    # A killed run must not leave a part of them under the name that the next run looks for.
    partial = target.with_suffix(".part.npy")
    first = next(iter(outputs(file, samples, config.threads).values()))
    np.save(partial, first)
    partial.replace(target)
