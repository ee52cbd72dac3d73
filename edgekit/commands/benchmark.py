"""`edgekit benchmark`."""

from pathlib import Path
from typing import Any

import click

from edgekit import options
from edgekit.console import show_report
from edgekit.errors import RefusedError
from edgekit.options import DATASET, fail


@options.command()
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
    show_report(report, as_json)
    if all(row.failure for row in report.rows):
        fail("; ".join(row.failure for row in report.rows if row.failure), RefusedError.exit_code)
