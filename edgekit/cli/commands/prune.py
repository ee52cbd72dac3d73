"""`edgekit prune`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli import options
from edgekit.cli.console import print_json, show_report
from edgekit.cli.options import TEXTS
from edgekit.errors import ConfigError
from edgekit.stages.prune.config import Importance, Method, PruneConfig, Scope

if TYPE_CHECKING:
    from edgekit.stages.prune.surgery import Vocabulary
    from edgekit.workflows.prune import Pruned, Recovery, Target

_USED = "used"


@options.command()
@click.argument("checkpoint", metavar="CHECKPOINT")
@click.option("--dataset", help=f"Rows for importance, tokens and recovery: {TEXTS}.")
@click.option("--evaluation-data", help="Rows to judge on, before and after; left out, recovery holds out a tenth of the data set.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the new checkpoint.")
@click.option("--heads", type=float, default=0.0, help="Share of the attention heads to remove, such as 0.5.")
@click.option("--ffn", type=float, default=0.0, help="Share of the FFN units to remove.")
@click.option("--layers", type=int, default=0, help="How many whole layers to remove first.")
@click.option("--vocab", metavar="used|FILE", help="Tokens to keep: those that the data set uses, or one a line in FILE.")
@click.option("--keep-tokens", type=click.Path(path_type=Path), help="File of tokens to keep besides, one a line.")
@click.option("--importance", type=click.Choice([*map(str, Importance)]), default=Importance.GRADIENT.value, show_default=True)
@click.option("--scope", type=click.Choice([*map(str, Scope)]), default=Scope.GLOBAL.value, show_default=True, help="Who competes.")
@click.option("--round-to", type=int, default=8, show_default=True, help="Widths stay multiples of this.")
@click.option("--samples", type=int, default=2048, show_default=True, help="Rows that importance is measured on.")
@click.option("--max-length", type=int, default=128, show_default=True, help="Tokens of a row.")
@click.option("--plan", type=click.Path(path_type=Path), help="Use the pruning_plan.json of an earlier run.")
@click.option("--target-latency", metavar="0.5x|5ms", help="Search the shares that bring the float32 .tflite to this p50.")
@click.option("--target-size", metavar="8MB", help="Search the shares that bring the float32 .tflite to this size.")
@click.option("--bridge", type=click.Choice(["onnx", "litert"]), default="onnx", show_default=True, help="Road of a search.")
@click.option("--recover-epochs", type=int, default=0, help="Then train on the data set, the unpruned model as the teacher.")
@click.option("--steps", type=int, default=1, show_default=True, help="Prune in as many steps, with recovery after each.")
@click.option("--batch-size", type=int, default=32, show_default=True, help="Rows of a recovery step.")
@click.option("--learning-rate", type=float, default=1e-4, show_default=True, help="Of recovery.")
@click.option("--bfloat16", is_flag=True, help="Recover in bfloat16: faster on CPUs with instructions for it.")
@click.option("--sparsity", type=float, help="Unstructured: share of each linear layer's weights to make zero.")
@click.option("--method", type=click.Choice([*map(str, Method)]), help="Which weights become zero.  [default: l1]")
@click.option("--weights", default="*", show_default=True, help="Pattern of linear layers' names for --sparsity.")
@click.option("--threshold", type=float, default=1e-3, show_default=True, help="Of --method threshold.")
@options.columns
@options.overwrite_option
@options.common
def prune(checkpoint: str, out: Path, overwrite: bool, as_json: bool, quiet: bool, **settings: Any) -> None:
    """Remove heads, FFN units, layers and tokens of a checkpoint, or make single weights zero.

    What is left is a checkpoint like any other: it fine-tunes, exports and converts.
    """
    from edgekit.cli.progress import progress
    from edgekit.models.checkpoint import resolve
    from edgekit.system.worker import Worker

    structured = any(settings[name] for name in ("heads", "ffn", "layers", "vocab", "plan", "target_latency", "target_size"))
    unstructured = settings["sparsity"] is not None or settings["method"] is not None
    if structured and unstructured:
        raise ConfigError("--sparsity and --method make single weights zero; prune heads, units, layers or tokens in another run")
    if not structured and not unstructured:
        raise ConfigError("nothing to prune: give --heads, --ffn, --layers, --vocab, a target, a plan, or --sparsity")
    with progress(quiet) as tell:
        worker = Worker(on_progress=tell)
        folder = resolve(checkpoint)
        found, lines = (_structured if structured else _sparse)(folder, out, settings, overwrite, worker)
        report = _compared(folder, out, settings, tell)
    if as_json:
        from edgekit.system.artifacts import to_jsonable

        print_json({**to_jsonable(found), "comparison": report})
        return
    for line in lines:
        click.echo(f"{out}: {line}")
    if report is not None:
        show_report(report, as_json=False)
    else:
        click.echo(f"size, accuracy and latency: edgekit compare {checkpoint} {out} --dataset D")


def _compared(folder: Path, out: Path, settings: dict[str, Any], tell: Any) -> Any:
    """Before and after in one table, where there are rows to judge on."""
    if settings["evaluation_data"] is None:
        return None
    from edgekit.measure.judge import BenchmarkConfig
    from edgekit.workflows.compare import compare

    data = options.data(
        dataset=settings["evaluation_data"],
        text_columns=settings["text_columns"],
        label_column=settings["label_column"],
        mean=None,
        std=None,
    )
    names, config = (folder.resolve().name, out.resolve().name), BenchmarkConfig(seed=settings["seed"])
    names = names if names[0] != names[1] else ("before", "after")
    return compare([str(folder), str(out)], data, config, names=names, max_length=settings["max_length"], on_progress=tell)


def _structured(folder: Path, out: Path, settings: dict[str, Any], overwrite: bool, worker: Any) -> tuple[Any, list[str]]:
    from edgekit.data.sources import Columns
    from edgekit.workflows import prune as pruning
    from edgekit.workflows import run
    from edgekit.workflows.convert.bridge import Bridge

    if settings["dataset"] is None:
        raise ConfigError("--dataset is missing: heads, units and tokens are chosen by what rows use")
    config = PruneConfig(
        importance=Importance(settings["importance"]),
        scope=Scope(settings["scope"]),
        **{name: settings[name] for name in ("heads", "ffn", "layers", "round_to", "samples", "max_length", "seed")},
    )
    named = Columns(settings["text_columns"], settings["label_column"])
    vocabulary, target, recovery = _vocabulary(settings), _target(settings), _recovery(settings, named)
    found = pruning.run(
        folder,
        run.read_texts(settings["dataset"], named, labelled=recovery is not None),
        out,
        config,
        vocabulary=vocabulary,
        use=settings["plan"],
        recovery=recovery,
        target=target,
        road=Bridge(settings["bridge"]),
        overwrite=overwrite,
        worker=worker,
    )
    return found, _lines(found)


def _vocabulary(settings: dict[str, Any]) -> "Vocabulary | None":
    from edgekit.stages.prune.surgery import Vocabulary

    tokens, extra = settings["vocab"], settings["keep_tokens"]
    if tokens is None and extra is not None:
        raise ConfigError("--keep-tokens goes with --vocab; add --vocab used")
    return Vocabulary(None if tokens == _USED else Path(tokens), extra) if tokens is not None else None


def _target(settings: dict[str, Any]) -> "Target | None":
    from edgekit.workflows.prune import Target

    latency, size = settings["target_latency"], settings["target_size"]
    if latency and size:
        raise ConfigError("--target-latency and --target-size are two searches; give one of them")
    if latency:
        return Target.parse("--target-latency", latency, ("x", "ms"))
    return Target.parse("--target-size", size, ("MB",)) if size else None


def _recovery(settings: dict[str, Any], named: Any) -> "Recovery | None":
    from edgekit.stages.train.config import DistilConfig
    from edgekit.workflows import run
    from edgekit.workflows.prune import Recovery

    if settings["recover_epochs"] == 0:
        if settings["steps"] != 1:
            raise ConfigError("--steps goes with recovery between them; add --recover-epochs")
        return None
    judged = settings["evaluation_data"]
    return Recovery(
        DistilConfig(
            epochs=settings["recover_epochs"],
            **{name: settings[name] for name in ("batch_size", "learning_rate", "max_length", "seed", "bfloat16")},
        ),
        run.read_texts(judged, named) if judged else None,
        settings["steps"],
    )


def _sparse(folder: Path, out: Path, settings: dict[str, Any], overwrite: bool, worker: Any) -> tuple[Any, list[str]]:
    from edgekit.stages.prune.sparsity import SparsityConfig, sparsify

    method = Method(settings["method"] or "l1")
    share = settings["sparsity"]
    if share is None and method is not Method.THRESHOLD:
        raise ConfigError(f"--method {method} needs --sparsity, the share of weights to make zero")
    if share is not None and method is Method.THRESHOLD:
        raise ConfigError("--method threshold takes --threshold, not --sparsity; leave one of them out")
    config = SparsityConfig(share or 0.0, method, settings["weights"], settings["threshold"], settings["seed"])
    found = sparsify(folder, out, config, overwrite=overwrite, worker=worker)
    share, before = found.zeros / found.chosen, found.zeros_before / found.chosen
    zeros = f"{found.zeros:,} of {found.chosen:,} weights"
    return found, [f"{zeros} of {found.matrices} linear layers are zero ({share:.1%}, before {before:.1%})"]


def _lines(found: "Pruned") -> list[str]:
    first, last = found.steps[0], found.steps[-1]
    lines = [
        f"{probe.share:.0%} of heads and FFN units gone: {probe.size_bytes / 1e6:.1f} MB, p50 {probe.p50_ms:.2f} ms "
        f"({probe.value('x'):.2f}x)"
        for probe in found.probes
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
    if (result := found.recovery) is not None:
        lines.append(f"accuracy after recovery {result.accuracy:.4f} on {result.evaluated_on}")
        if result.distillation is not None:
            lines.append(f"accuracy of the unpruned model there {result.distillation.accuracy:.4f}")
    return lines


def _listed(values: Any) -> str:
    return ", ".join(str(value) for value in values)
