"""`edgekit evaluate`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from edgekit.cli import options
from edgekit.cli.console import print_json
from edgekit.cli.options import DATASET, fail
from edgekit.errors import RefusedError


@options.command()
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
    from edgekit.cli.progress import progress
    from edgekit.measure.judge import BenchmarkConfig
    from edgekit.tflite import flatbuffer
    from edgekit.workflows import assess

    config = BenchmarkConfig(threads=threads, runs=1, warmup=0, rounds=1, max_accuracy_seconds=None, gzip=False, seed=seed)
    flatbuffer.read(file)
    with progress(quiet) as tell:
        files = [file, *([against] if against else [])]
        report = assess.assess(files, options.data(**data), config, reference=against, on_progress=tell)
    row = report.rows[0]
    if as_json:
        # One inference in one process is timed on the way, which says nothing; edgekit benchmark does.
        print_json(replace(row, latency=None, samples_per_s=None, first_ms=None, load_ms=None))
    if failures := [one.failure for one in report.rows if one.failure]:
        fail("; ".join(failures), RefusedError.exit_code)
    if as_json:
        return
    for name, share in (("accuracy", row.accuracy), (f"agreement with {against}", row.agreement if against else None)):
        if share is not None:
            interval = f"95 % interval {share.low:.4f} to {share.high:.4f}"
            click.echo(f"{file}: {name} {share.value:.4f} ({share.count} of {share.total}), {interval}")
    if row.accuracy is not None:
        return
    if assess.chooses(file):
        click.echo(f"{file}: ran on {report.data}, which has no labels; name them with --label-column")
        return
    far = f"; mean difference from {against} {row.mean_abs_error:.4g}" if against and row.mean_abs_error is not None else ""
    click.echo(f"{file}: ran on {report.data}; it gives one value a row and chooses no class, so it has no accuracy{far}")
