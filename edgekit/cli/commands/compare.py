"""`edgekit compare`."""

from pathlib import Path
from typing import Any

import click

from edgekit.cli import options
from edgekit.cli.console import show_report
from edgekit.cli.options import DATASET, fail
from edgekit.errors import RefusedError


@options.command()
@click.argument("versions", metavar="VERSION…", nargs=-1, required=True)
@click.option("--dataset", required=True, help=f"Rows that all are judged on: {DATASET}.")
@click.option("--name", "names", multiple=True, help="What to call a version; once for each, in their order.")
@click.option("--reference", help="The version, by name or path, that ratios and drops are taken from; default: the first.")
@click.option("--max-length", type=click.IntRange(1), help="Tokens of an input; default: what a file fixes, else 64.")
@options.judged
@click.option("--out", "outs", multiple=True, type=click.Path(path_type=Path), help="Also write it: .html, .md, .json; repeats.")
@options.timing
@options.normalize
@options.columns
@options.overwrite_option
@options.common
def compare(
    versions: tuple[str, ...],
    dataset: str,
    names: tuple[str, ...],
    reference: str | None,
    max_length: int | None,
    outs: tuple[Path, ...],
    overwrite: bool,
    threads: int,
    runs: int,
    warmup: int,
    rounds: int,
    as_json: bool,
    quiet: bool,
    seed: int,
    **data: Any,
) -> None:
    """Versions of one model in one table: size, accuracy and speed on the same rows.

    A VERSION is a checkpoint folder, or a .tflite, .onnx, .ort or .pt (TorchScript) file; each has its tokenizer beside it.
    """
    from edgekit.cli.progress import progress
    from edgekit.measure.judge import BenchmarkConfig
    from edgekit.workflows import compare as comparing

    config = BenchmarkConfig(threads=threads, runs=runs, warmup=warmup, rounds=rounds, seed=seed)
    given = options.data(dataset=dataset, **data)
    targets = [{options.report_format(out, overwrite=overwrite): out} for out in outs]
    with progress(quiet) as tell:
        report = comparing.compare(
            versions, given, config, names=names, reference=reference, max_length=max_length, on_progress=tell
        )
    if targets:
        from edgekit.workflows.run import write_report

        for target in targets:
            write_report(report, target)
    show_report(report, as_json)
    if all(row.failure for row in report.rows):
        fail("; ".join(row.failure for row in report.rows if row.failure), RefusedError.exit_code)
