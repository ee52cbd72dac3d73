"""Half of MiniLM-L6's heads and FFN units gone, its vocabulary cut, recovered, quantized; importance, sparsity, torch-pruning.

python benchmarks/prune.py --shared ../shared [--part recover --part curve --part sparse --part peer] [--work FOLDER]

`--part peer` needs torch-pruning, which edgekit does not: pip install torch-pruning.
"""

import argparse
import importlib.util
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pruned
from checks import RESULTS, Answer, Checks, ask

from edgekit.data import sources
from edgekit.data.encode import Encoding
from edgekit.data.text import token_specs
from edgekit.measure.judge import BenchmarkConfig
from edgekit.models.checkpoint import Checkpoint
from edgekit.report import table
from edgekit.report.content import Report
from edgekit.spec import DataSpec
from edgekit.system import rooms
from edgekit.system.worker import Worker
from edgekit.workflows.benchmark import benchmark

HALF = ["--heads", "0.5", "--ffn", "0.5", "--vocab", "used"]
RECOVERY = ["--recover-epochs", "3", "--batch-size", "32", "--learning-rate", "1e-4", "--bfloat16"]
RECOVERY_MINUTES = 25
DROP, P50, ENCODER = 1.0, 0.6, 0.55
SMALL_MB, SMALL_P50, SMALL_DROP = 11, 0.20, 1.5
SEEDS, CURVE_ROWS = 5, 512
SHARES = tuple(share / 10 for share in range(10))
CURVES = {"gradient": SEEDS, "random": SEEDS, "taylor": 1, "activation": 1, "magnitude": 1}
LENGTH = "64"
TIMING = BenchmarkConfig(threads=2, runs=200, rounds=5, max_accuracy_seconds=None)


class Bench:
    """The shared checkpoint and data, and where files go."""

    def __init__(self, shared: Path, work: Path, checks: Checks) -> None:
        self.model, self.work, self.checks = shared / "models/minilm-l6-sst2", work, checks
        self.train, self.dev = shared / "data/sst2/train.tsv", shared / "data/sst2/dev.tsv"

    def run(self, *arguments: str | Path) -> Answer:
        answer = ask(list(arguments))
        if answer.code:
            raise SystemExit("; ".join(answer.failures))
        return answer

    def prune(self, name: str, *arguments: str) -> tuple[Path, dict[str, Any]]:
        """`edgekit prune` into `work`/`name`, unless a run before this one left it there."""
        out, said = self.work / name, self.work / f"{name}.said.json"
        if not (out.is_dir() and said.is_file()):
            data = ["--dataset", self.train, "--max-length", LENGTH]
            answer = self.run("prune", self.model, *data, "--out", out, *arguments)
            said.write_text(json.dumps({"told": answer.told, "seconds": answer.cost.seconds, "peak": answer.cost.peak_bytes}))
        return out, json.loads(said.read_text())

    def convert(self, model: Path, *schemes: str) -> dict[str, Path]:
        """The .tflite files of a checkpoint by scheme; a scheme may lose what it likes here, since that is what is measured."""
        out = self.work / f"{model.name}_tflite"
        files = {scheme: out / f"{model.name}_{scheme}.tflite" for scheme in schemes}
        if missing := [scheme for scheme, file in files.items() if not file.is_file()]:
            asked = [part for scheme in missing for part in ("--scheme", scheme)]
            data = ["--representative-data", self.train, "--max-length", LENGTH, "--max-drop", "1"]
            self.run("convert", model, *asked, *data, "--out", out)
        return files

    def measure(self, files: Sequence[Path], title: str) -> Report:
        return benchmark(list(files), DataSpec(self.dev), TIMING, reference=files[0], title=title)

    def save_rows(self, source: Path, target: Path) -> None:
        """The rows of a data set as the model takes them."""
        model = Checkpoint.read(self.model)
        rows = sources.read(DataSpec(source), model.task.columns, labelled=True)
        inputs = token_specs(int(LENGTH), segments=False)
        encoding = Encoding(model.tokenizer, vocabulary=model.vocabulary)
        model.task.encode(rows, inputs, encoding, model.settings, self.work).save(target)


def recover(bench: Bench) -> None:
    """The four versions, their limits."""
    checks = bench.checks
    half, said = bench.prune("half", *HALF, *RECOVERY)
    result, last = said["told"]["recovery"], said["told"]["steps"][-1]
    checks.at_most("recovery with distillation", result["runtime_s"] / 60, RECOVERY_MINUTES, "minutes")
    checks.at_most(
        "parameters of the layers against the unpruned model's",
        last["encoder_parameters"] / last["encoder_parameters_before"],
        ENCODER,
        "×",
    )
    checks.say(f"- prune and recover in all {said['seconds'] / 60:.1f} minutes, largest process {said['peak'] / 1e9:.2f} GB")
    whole = bench.convert(bench.model, "float32", "dynamic")
    ours = bench.convert(half, "float32", "dynamic", "int8")
    # The pruned files have a tokenizer of their own, so each set is encoded by itself and rows stay paired by their order.
    answer = bench.run(
        *("compare", bench.model, half, whole["float32"], whole["dynamic"], *ours.values()),
        *("--dataset", bench.dev, "--max-length", LENGTH, "--reference", whole["float32"]),
        *("--out", bench.work / "versions.html", "--out", bench.work / "versions.md", "--overwrite"),
    )
    rows = {row["path"]: row for row in answer.told["rows"]}
    base = rows[str(whole["float32"])]
    for scheme, drop, share in (("float32", DROP, P50), ("dynamic", SMALL_DROP, SMALL_P50), ("int8", SMALL_DROP, SMALL_P50)):
        row = rows[str(ours[scheme])]
        checks.at_most(f"{scheme}, accuracy lost against the unpruned float32", 100 * row["drop"]["value"], drop, "points")
        checks.at_most(f"{scheme}, p50", row["latency"]["p50_ms"] / base["latency"]["p50_ms"], share, "×")
        if scheme != "float32":
            checks.at_most(f"{scheme}, file", row["size_bytes"] / 1e6, SMALL_MB, "MB")
    checks.say()
    checks.say((bench.work / "versions.md").read_text())


def curve(bench: Bench) -> None:
    """Accuracy over heads removed, without recovery."""
    checks = bench.checks
    train, dev = bench.work / "train_rows", bench.work / "dev_rows"
    for source, target in ((bench.train, train), (bench.dev, dev)):
        bench.save_rows(source, target)
    found: dict[str, list[list[float]]] = {}
    for method, seeds in CURVES.items():
        found |= Worker().run(pruned.head_curve, bench.model, train, dev, [method], seeds, CURVE_ROWS, SHARES).value
    half = SHARES.index(0.5)
    gradient, random = (np.array([line[half] for line in found[method]]) for method in ("gradient", "random"))
    margin = 100 * (gradient.min() - random.max())
    both = {"gradient": gradient, "random": random}
    told = (f"{name} {line.mean():.4f} ({line.min():.4f} to {line.max():.4f})" for name, line in both.items())
    checks.holds(f"half of the heads gone, no recovery, {SEEDS} seeds each, mean and range: {', '.join(told)}", margin > 0)
    ahead = 100 * (gradient.mean() - random.mean())
    checks.say(f"- gradient is ahead by {ahead:.1f} points at the mean; its worst seed leads random's best by {margin:.1f}")
    checks.say()
    checks.say("| importance | " + " | ".join(f"{share:.0%}" for share in SHARES) + " |")
    checks.say("| --- |" + " ---: |" * len(SHARES))
    for method, lines in found.items():
        means = np.mean(lines, axis=0)
        cells = [f"{method}, seeds: {len(lines)}", *(f"{100 * mean:.1f}" for mean in means)]
        checks.say(f"| {' | '.join(cells)} |")
    checks.say()
    _draw(found, RESULTS / "prune_importance.svg")
    checks.say("![accuracy over heads removed](prune_importance.svg)")


def _draw(found: dict[str, list[list[float]]], target: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4), layout="constrained")
    percent = [100 * share for share in SHARES]
    for method, lines in found.items():
        values = 100 * np.array(lines)
        (line,) = axes.plot(percent, values.mean(axis=0), marker="o", markersize=4, label=method)
        if len(lines) > 1:
            axes.fill_between(percent, values.min(axis=0), values.max(axis=0), color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set(xlabel="attention heads removed, %", ylabel="SST-2 dev accuracy, %", ylim=(45, 92))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(target, metadata={"Date": None})


def sparse(bench: Bench) -> None:
    """30 % of the weights zero."""
    thin, _ = bench.prune("sparse30", "--sparsity", "0.3", "--method", "l1")
    dense_files, thin_files = (bench.convert(model, "float32", "dynamic") for model in (bench.model, thin))
    report = bench.measure([*dense_files.values(), *thin_files.values()], "30 % of the linear layers' weights zero (L1)")
    dense, zeros = report.rows[0], report.rows[2]
    if dense.latency and zeros.latency and dense.gzip_bytes and zeros.gzip_bytes and zeros.drop:
        bench.checks.say(
            f"- 30 % L1: gzip {zeros.gzip_bytes / dense.gzip_bytes:.3f}× of the dense float32 file, "
            f"file {zeros.size_bytes / dense.size_bytes:.3f}×, {100 * zeros.drop.value:.2f} points lost"
        )
        slower = zeros.latency.p50_ms / dense.latency.p50_ms
        bench.checks.holds(f"30 % L1: latency stays ({slower:.3f}×, within 10 %)", abs(slower - 1) < 0.1)
    bench.checks.say()
    bench.checks.say(table.markdown(report))


def peer(bench: Bench) -> None:
    """torch-pruning, the same shares, neither recovered."""
    if importlib.util.find_spec("torch_pruning") is None:
        bench.checks.say("- torch-pruning is not installed here; pip install torch-pruning and run --part peer again")
        return
    ours, _ = bench.prune("half_raw", "--heads", "0.5", "--ffn", "0.5")
    theirs, rows = bench.work / "torch_pruning", bench.work / "peer_rows"
    if not theirs.is_dir():
        bench.save_rows(bench.train, rows)
        Worker().run(pruned.torch_pruning, bench.model, rows, theirs, 0.5, 2048)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(bench.model / name, theirs / name)
    files = [bench.convert(model, "float32")["float32"] for model in (bench.model, ours, theirs)]
    report = bench.measure(files, "Half of heads and FFN units gone, no recovery: edgekit beside torch-pruning 1.6")
    bench.checks.say(table.markdown(report))


PARTS = {part.__name__: part for part in (recover, curve, sparse, peer)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--part", action="append", choices=list(PARTS), help="repeats; default: every part")
    parser.add_argument("--work", type=Path, help="Keep checkpoints and files here, and use those that are there.")
    arguments = parser.parse_args()
    parts = arguments.part or list(PARTS)
    checks = Checks("Pruning MiniLM-L6, SST-2 dev (872 rows), sequence 64, two threads")
    with rooms.temporary("benchmark") as room, rooms.writable(arguments.work or room) as work:
        work.mkdir(parents=True, exist_ok=True)
        for part in parts:
            checks.say(f"\n## {part}\n")
            PARTS[part](Bench(arguments.shared, work, checks))
    checks.finish("_".join(["prune", *(arguments.part or [])]))


if __name__ == "__main__":
    main()
