"""The command line: parse, build a config, call, print. Nothing heavy is imported before a command runs."""

import functools
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import click

from edgekit import __version__, options
from edgekit.errors import DISK_FULL, ConfigError, EdgekitError, OutputError, RefusedError
from edgekit.options import DATASET, EXIT_CODES, fail
from edgekit.quantize.schemes import SCHEMES

_MODEL = "a checkpoint folder, hub id, package:NAME, .onnx, SavedModel folder, Keras-2 .h5 or float .tflite"


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0, or the error's own code with one line on stderr."""
    _prepare()
    given = sys.argv[1:] if arguments is None else arguments
    try:
        sys.exit(_run(given) or 0)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(options.INTERRUPTED)


def _run(arguments: list[str]) -> Any:
    detail, code = "", 1
    try:
        return cli.main(arguments, prog_name="edgekit", standalone_mode=False)
    except click.exceptions.Exit:
        raise
    except EdgekitError as error:
        message, code, detail = error.message, error.exit_code, error.detail or traceback.format_exc()
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "edgekit"
        message, code = f"{error.format_message()} See {command} --help", ConfigError.exit_code
    except Exception as error:
        message = f"unforeseen {type(error).__name__}: {' '.join(str(error).split())[:300]}; run with --debug and report it"
        detail = traceback.format_exc()
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            message, code = f"no room for what is to be written ({error.strerror}); free some space", OutputError.exit_code
    if detail and "--debug" in arguments:
        click.echo(detail, err=True)
    if "--json" in arguments:
        _print_json({"error": message, "exit_code": code})
    return fail(message, code)


def _prepare() -> None:
    """Characters that the terminal lacks are replaced, and the signals that end a process let it clean up first."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, lambda received, _: sys.exit(128 + received))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120}, epilog=EXIT_CODES)
@click.version_option(__version__, "--version", prog_name="edgekit")
def cli() -> None:
    """From a PyTorch checkpoint to .tflite files that were run and measured before they got their names."""


command = functools.partial(cli.command, epilog=EXIT_CODES)


@command()
@click.argument("recipe_file", metavar="RECIPE.toml", type=click.Path(path_type=Path))
@options.overwrite_option
@options.common
def run(recipe_file: Path, overwrite: bool, as_json: bool, quiet: bool, seed: int) -> None:
    """Run a whole recipe: fine-tune, convert, measure, report."""
    from edgekit import pipeline, recipe
    from edgekit.progress import progress

    with progress(quiet) as tell:
        finished = pipeline.run(recipe.load(recipe_file), overwrite=overwrite, on_progress=tell)
    _show_report(finished.report, as_json)
    if finished.refusals:
        fail("; ".join(finished.refusals), RefusedError.exit_code)


@command()
@click.option("--model", required=True, help="A checkpoint folder, hub id or package:NAME to start from.")
@click.option("--dataset", required=True, help=f"Training rows: {DATASET}.")
@click.option("--evaluation-data", help="Rows to judge on; left out, a tenth of the training rows is held out.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the new checkpoint.")
@click.option("--epochs", type=int, default=3, show_default=True)
@click.option("--batch-size", type=int, default=16, show_default=True)
@click.option("--learning-rate", type=float, default=5e-5, show_default=True)
@click.option("--max-length", type=int, default=128, show_default=True, help="Tokens of a row.")
@options.columns
@options.overwrite_option
@options.common
def finetune(
    model: str,
    dataset: str,
    evaluation_data: str | None,
    out: Path,
    text_columns: tuple[str, ...],
    label_column: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Fine-tune an encoder as a text classifier. A killed run goes on where it was when it is started again."""
    from edgekit import checkpoint, pipeline
    from edgekit.data.sources import Columns
    from edgekit.progress import progress
    from edgekit.train.finetune import FinetuneConfig
    from edgekit.train.finetune import finetune as train
    from edgekit.worker import Worker

    named = Columns(text_columns, label_column)
    rows = pipeline.read_texts(dataset, named)
    judged = pipeline.read_texts(evaluation_data, named) if evaluation_data else None
    with progress(quiet) as tell:
        folder = checkpoint.resolve(model)
        result = train(folder, rows, judged, out, FinetuneConfig(**settings), overwrite=overwrite, worker=Worker(on_progress=tell))
    if as_json:
        _print_json(result)
        return
    click.echo(f"{out}: accuracy {result.accuracy:.4f} ({result.correct} of {result.total}), loss {result.loss:.4f}")
    click.echo(f"judged on {result.evaluated_on}")
    click.echo(
        f"{result.steps} steps in {result.training_s:.1f} s "
        f"({result.samples_per_s:.1f} samples/s, {result.steps_per_s:.2f} steps/s), "
        f"preparation {result.preparation_s:.1f} s, {result.runtime_s:.1f} s in all"
    )


@command()
@click.argument("checkpoint")
@click.option("--format", "kind", required=True, type=click.Choice(["onnx", "torchscript", "saved-model"]))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File or folder to write.")
@click.option("--max-length", type=int, default=64, show_default=True, help="Tokens of an input.")
@click.option("--dataset", help=f"Rows to compare with PyTorch on: {DATASET}.")
@options.columns
@options.overwrite_option
@options.common
def export(
    checkpoint: str,
    kind: str,
    out: Path,
    max_length: int,
    dataset: str | None,
    text_columns: tuple[str, ...],
    label_column: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    seed: int,
) -> None:
    """Write a CHECKPOINT as ONNX, TorchScript or SavedModel, compared with PyTorch."""
    from edgekit.data.sources import Columns
    from edgekit.exporting import Format, export_checkpoint
    from edgekit.progress import progress

    with progress(quiet) as tell:
        exported = export_checkpoint(
            checkpoint,
            Format(kind),
            out,
            dataset=dataset,
            columns=Columns(text_columns, label_column),
            max_length=max_length,
            seed=seed,
            overwrite=overwrite,
            on_progress=tell,
        )
    if as_json:
        _print_json(exported)
        return
    for hop, parity in exported.measured["parity"].items():
        click.echo(f"{hop}: {parity['max_abs']:.1e} largest difference, {parity['same_argmax']:.0%} same decisions")
    click.echo(f"{out}: {exported.size_bytes / 1e6:.1f} MB")


@command()
@click.argument("model", metavar="MODEL", help=f"{_MODEL}.")
@click.option("--scheme", "schemes", required=True, multiple=True, type=click.Choice([*SCHEMES, "all"]), help="Repeats.")
@click.option("--representative-data", metavar="D", help=f"Rows to calibrate on: {DATASET}.")
@click.option("--representative-samples", type=int, default=200, show_default=True, help="How many of them, drawn with the seed.")
@click.option("--evaluation-data", metavar="D", help="Rows to judge on; left out, others of the representative data.")
@click.option("--evaluation-samples", type=int, default=200, show_default=True, help="How many of them, drawn with the seed.")
@click.option("--max-length", type=int, default=64, show_default=True, help="Tokens of an input.")
@click.option("--max-drop", type=float, default=0.05, show_default=True, help="Accuracy that may be lost before a file is refused.")
@click.option("--bridge", type=click.Choice(["onnx", "litert"]), default="onnx", show_default=True, help="Road from a checkpoint.")
@click.option("--inputs", type=click.Choice(["float32", "int8", "uint8"]), default="float32", show_default=True)
@click.option("--outputs", type=click.Choice(["float32", "int8", "uint8"]), default="float32", show_default=True)
@click.option("--input-shape", "input_shapes", multiple=True, metavar="NAME=1,…", help="Fixes a free shape of an .onnx.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("tflite_models"), show_default=True)
@options.normalize
@options.threads_option
@options.columns
@options.overwrite_option
@options.common
def convert(
    model: str,
    schemes: tuple[str, ...],
    input_shapes: tuple[str, ...],
    out: Path,
    mean: str | None,
    std: str | None,
    bridge: str,
    text_columns: tuple[str, ...],
    label_column: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Convert MODEL to .tflite files, run each, and publish it with its figures or refuse it."""
    from edgekit import assess
    from edgekit.bridge import Bridge
    from edgekit.convert import ConvertConfig
    from edgekit.convert import convert as convert_model
    from edgekit.data.sources import Columns
    from edgekit.progress import progress

    shapes = dict(options.input_shape(text) for text in input_shapes)
    config = ConvertConfig(
        schemes,
        bridge=Bridge(bridge),
        input_shapes=shapes,
        mean=options.numbers("--mean", mean),
        std=options.numbers("--std", std),
        **settings,
    )
    with progress(quiet) as tell:
        found = convert_model(
            model, out, config, columns=Columns(text_columns, label_column), overwrite=overwrite, on_progress=tell
        )
    measured = [result.measurement for result in found.results if result.path and result.measurement]
    if as_json:
        _print_json({"published": [result for result in found.results if result.path], "refused": found.refusals})
    elif measured:
        notes = [f"{result.scheme}: {result.plan.reason}" for result in found.results if result.path and result.plan]
        _show_report(assess.of_conversion(measured, found.reference, found.source.name, found.data, notes), as_json=False)
        for result in found.results:
            if result.path:
                click.echo(str(result.path))
    if found.refusals:
        fail("; ".join(found.refusals), RefusedError.exit_code)


@command()
@click.argument("file", metavar="FILE.tflite", type=click.Path(path_type=Path))
@options.common
def inspect(file: Path, as_json: bool, quiet: bool, seed: int) -> None:
    """List a file's signature, ops, delegate partitions, tensors, quantization and metadata."""
    from edgekit.tflite.inspect import describe
    from edgekit.tflite.inspect import inspect as inspect_file

    summary = inspect_file(file)
    if as_json:
        _print_json(summary)
    else:
        click.echo(describe(summary))


@command()
@click.argument("file", metavar="FILE.tflite", type=click.Path(path_type=Path))
@click.option("--dataset", required=True, help=DATASET)
@click.option("--against", type=click.Path(path_type=Path), help="A .tflite to agree with, such as the float32 one.")
@options.judged
@options.normalize
@options.threads_option
@options.columns
@options.common
def evaluate(file: Path, against: Path | None, threads: int, as_json: bool, quiet: bool, seed: int, **data: Any) -> None:
    """Accuracy of one file, with its 95 % interval."""
    from edgekit import assess
    from edgekit.measure.benchmark import BenchmarkConfig
    from edgekit.progress import progress

    config = BenchmarkConfig(threads=threads, runs=1, warmup=0, rounds=1, max_accuracy_seconds=None, gzip=False, seed=seed)
    with progress(quiet) as tell:
        files = [file, *([against] if against else [])]
        report = assess.assess(files, options.data(**data), config, reference=against, on_progress=tell)
    row = report.rows[0]
    if as_json:
        _print_json(row)
    if failures := [one.failure for one in report.rows if one.failure]:
        fail("; ".join(failures), RefusedError.exit_code)
    if as_json:
        return
    for name, share in (("accuracy", row.accuracy), (f"agreement with {against}", row.agreement if against else None)):
        if share is not None:
            interval = f"95 % interval {share.low:.4f} to {share.high:.4f}"
            click.echo(f"{file}: {name} {share.value:.4f} ({share.count} of {share.total}), {interval}")
    if row.accuracy is None:
        click.echo(f"{file}: ran on {report.data}, which has no labels; name them with --label-column")


@command()
@click.argument("files", metavar="FILE.tflite…", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--dataset", help=f"Rows for accuracy and as inputs: {DATASET}.")
@click.option("--against", type=click.Path(path_type=Path), help="The file that ratios are taken from; default: the float32 one.")
@options.judged
@click.option("--out", type=click.Path(path_type=Path), help="Also write the report: .html, .md or .json.")
@options.timing
@options.normalize
@options.columns
@options.common
def benchmark(
    files: tuple[Path, ...],
    dataset: str | None,
    against: Path | None,
    out: Path | None,
    threads: int,
    runs: int,
    warmup: int,
    rounds: int,
    as_json: bool,
    quiet: bool,
    seed: int,
    **data: Any,
) -> None:
    """Time files side by side, in fresh processes and in turns; with --dataset, their accuracy too."""
    from edgekit import assess
    from edgekit.measure.benchmark import BenchmarkConfig
    from edgekit.progress import progress

    config = BenchmarkConfig(threads=threads, runs=runs, warmup=warmup, rounds=rounds, seed=seed)
    given = options.data(dataset=dataset, **data) if dataset else None
    target = options.report_format(out) if out else None
    compared = [*files, *([against] if against is not None and against not in files else [])]
    with progress(quiet) as tell:
        report = assess.assess(compared, given, config, reference=against, on_progress=tell)
    if target and out:
        from edgekit.pipeline import write_report

        write_report(report, {target: out})
    _show_report(report, as_json)
    if all(row.failure for row in report.rows):
        fail("; ".join(row.failure for row in report.rows if row.failure), RefusedError.exit_code)


@command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="report.html, report.md or report.json.")
@options.overwrite_option
@options.common
def report(folder: Path, out: Path, overwrite: bool, as_json: bool, quiet: bool, seed: int) -> None:
    """Write the report of a run, or of the files converted into DIR, as HTML, Markdown or JSON."""
    from edgekit import artifacts, assess
    from edgekit.pipeline import write_report
    from edgekit.report.content import FILE_NAME, load

    artifacts.refuse_existing(out, overwrite=overwrite)
    found = load(folder) if folder.is_file() or (folder / FILE_NAME).is_file() else assess.from_manifests(folder)
    write_report(found, {options.report_format(out): out})
    if as_json:
        _print_json(found)
    else:
        click.echo(str(out))


@command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell: eval "$(edgekit completion bash)"."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    if found is not None:
        click.echo(found(cli, {}, "edgekit", "_EDGEKIT_COMPLETE").source())


def _print_json(value: Any) -> None:
    from edgekit.artifacts import to_json

    click.echo(to_json(value))


def _show_report(report: Any, as_json: bool) -> None:
    if as_json:
        _print_json(report)
        return
    from rich.console import Console

    from edgekit.report.table import terminal

    console = Console(width=None if sys.stdout.isatty() else 100)
    with console.capture() as captured:
        console.print(terminal(report))
    click.echo(captured.get(), nl=False)


if __name__ == "__main__":
    main()
