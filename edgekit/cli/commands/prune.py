"""`edgekit prune`."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from edgekit.cli import options
from edgekit.cli.console import print_json, show_report
from edgekit.cli.options import TEXTS
from edgekit.errors import ConfigError
from edgekit.measure.judge import BenchmarkConfig
from edgekit.models.checkpoint import Checkpoint, resolve
from edgekit.report.content import Report
from edgekit.stages.prune.config import Method
from edgekit.stages.prune.sparsity import SparsityConfig, SparsityResult, sparsify
from edgekit.stages.prune.surgery import Vocabulary
from edgekit.stages.train.config import DistillConfig
from edgekit.system.serial import plain
from edgekit.system.worker import OnProgress, Worker
from edgekit.workflows.compare import CompareConfig, compare
from edgekit.workflows.prune import PruneConfig, Pruned, Target
from edgekit.workflows.prune import prune as cut

_USED = "used"


def _completed(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parts of the config that several options make up. Raises `ConfigError`."""
    tokens, extra, latency, size = (arguments[name] for name in ("vocab", "keep_tokens", "target_latency", "target_size"))
    if tokens is None and extra is not None:
        raise ConfigError("--keep-tokens goes with --vocab; add --vocab used")
    if latency and size:
        raise ConfigError("--target-latency and --target-size are two searches; give one of them")
    target = Target.parse("--target-latency", latency, ("x", "ms")) if latency else None
    same = {name: arguments[name] for name in ("batch_size", "learning_rate", "max_length", "seed", "bfloat16")}
    return {
        "vocabulary": Vocabulary(None if tokens == _USED else Path(tokens), extra) if tokens is not None else None,
        "target": Target.parse("--target-size", size, ("MB",)) if size else target,
        "recovery": DistillConfig(epochs=arguments["recover_epochs"], **same) if arguments["recover_epochs"] else None,
    }


@options.command()
@click.argument("checkpoint", metavar="CHECKPOINT")
@options.of(PruneConfig, data_set=TEXTS, complete=_completed)
@options.checkpoint_out
@click.option("--vocab", metavar="used|FILE", help="Tokens to keep: those that the data set uses, or one a line in FILE.")
@click.option("--keep-tokens", type=click.Path(path_type=Path), help="File of tokens to keep besides, one a line.")
@click.option("--target-latency", metavar="0.5x|5ms", help="Search the shares that bring the float32 .tflite to this p50.")
@click.option("--target-size", metavar="8MB", help="Search the shares that bring the float32 .tflite to this size.")
@click.option("--recover-epochs", type=int, default=0, help="Then train on the data set, the unpruned model as the teacher.")
@click.option("--batch-size", type=int, default=32, show_default=True, help="Rows of a recovery step.")
@click.option("--learning-rate", type=float, default=1e-4, show_default=True, help="Of recovery.")
@click.option("--bfloat16", is_flag=True, help="Recover in bfloat16: faster on CPUs with instructions for it.")
@click.option("--sparsity", type=float, help="Unstructured: share of each linear layer's weights to make zero.")
@click.option("--method", type=click.Choice([*map(str, Method)]), help="Which weights become zero.  [default: l1]")
@click.option("--weights", default="*", show_default=True, help="Pattern of linear layers' names for --sparsity.")
@click.option("--threshold", type=float, default=1e-3, show_default=True, help="Of --method threshold.")
@options.overwrite_option
@options.common
def prune(checkpoint: str, out: Path, config: PruneConfig, overwrite: bool, as_json: bool, quiet: bool, **rest: Any) -> None:
    """Remove heads, FFN units, layers and tokens of a checkpoint, or make single weights zero.

    What is left is a checkpoint like any other: it fine-tunes, exports and converts."""
    from edgekit.cli.progress import progress

    structured = any((config.heads, config.ffn, config.layers, config.vocabulary, config.use, config.target))
    unstructured = rest["sparsity"] is not None or rest["method"] is not None
    if structured and unstructured:
        raise ConfigError("--sparsity and --method make single weights zero; prune heads, units, layers or tokens in another run")
    if not structured and not unstructured:
        raise ConfigError("nothing to prune: give --heads, --ffn, --layers, --vocab, a target, a plan, or --sparsity")
    result: Pruned | SparsityResult
    with progress(quiet) as tell:
        if structured:
            if config.data is None:
                raise ConfigError("--dataset is missing: heads, units and tokens are chosen by what rows use")
            result = cut(checkpoint, out, config, overwrite=overwrite, on_progress=tell)
            lines = _lines(result)
        else:
            how = {name: rest[name] for name in ("sparsity", "weights", "threshold")}
            sparsity = SparsityConfig(method=Method(rest["method"] or "l1"), seed=config.seed, **how)
            source = Checkpoint.read(resolve(checkpoint))
            result = sparsify(source, out, sparsity, overwrite=overwrite, worker=Worker(on_progress=tell))
            share, before = result.zeros / result.chosen, result.zeros_before / result.chosen
            zeros = f"{result.zeros:,} of {result.chosen:,} weights of {result.matrices} linear layers are zero"
            lines = [f"{zeros} ({share:.1%}, before {before:.1%})"]
        report = _compared(checkpoint, out, config, tell)
    if as_json:
        print_json({**plain(result), "comparison": report})
        return
    for line in lines:
        options.say(f"{out}: {line}")
    if report is not None:
        show_report(report, as_json=False)
    else:
        options.say(f"size, quality and latency: edgekit compare {checkpoint} {out} --dataset D")


def _compared(checkpoint: str, out: Path, config: PruneConfig, tell: OnProgress) -> Report | None:
    """Before and after in one table, where there are rows to judge on."""
    if config.evaluation_data is None:
        return None
    folder = resolve(checkpoint)
    names = (folder.resolve().name, out.resolve().name)
    names = names if names[0] != names[1] else ("before", "after")
    how = CompareConfig(names, max_length=config.max_length, timing=BenchmarkConfig(seed=config.seed))
    return compare([str(folder), str(out)], config.evaluation_data, how, on_progress=tell)


def _lines(pruned: Pruned) -> list[str]:
    first, last = pruned.steps[0], pruned.steps[-1]
    lines = [
        f"{probe.share:.0%} of heads and FFN units gone: {probe.size_bytes / 1e6:.1f} MB, p50 {probe.p50_ms:.2f} ms "
        f"({probe.value('x'):.2f}x)"
        for probe in pruned.probes
    ]
    units = sum(map(sum, last.ffn))
    lines.append(f"{sum(last.heads)} of {first.heads_before} heads ({_listed(last.heads)} by layer)")
    lines.append(f"{units} of {first.units_before} FFN units ({_listed(sum(part) for part in last.ffn)} by layer)")
    for label, after, before in (
        ("tokens", last.tokens, first.tokens_before),
        ("parameters of the layers", last.encoder_parameters, first.encoder_parameters_before),
        ("parameters", last.parameters, first.parameters_before),
    ):
        lines.append(f"{after:,} of {before:,} {label} ({after / before:.2f}x)")
    if (result := pruned.recovery) is not None:
        lines.append(f"after recovery: {result.metric} on {result.evaluated_on}")
        if result.distillation is not None:
            lines.append(f"the unpruned model there: {result.distillation.metric}")
    return lines


def _listed(values: Iterable[int]) -> str:
    return ", ".join(map(str, values))
