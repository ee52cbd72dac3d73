"""`edgekit diagnose`."""

from pathlib import Path
from typing import Any

import click

from edgekit.cli import options
from edgekit.cli.console import print_json, show
from edgekit.cli.options import DATASET


@options.command()
@click.argument("file", metavar="FILE.tflite", type=click.Path(path_type=Path))
@click.option("--against", required=True, type=click.Path(path_type=Path), help="The float32 .tflite that FILE was made of.")
@click.option("--data", "dataset", required=True, metavar="D", help=f"Rows to run both on: {DATASET}.")
@click.option("--limit", type=click.IntRange(0), default=64, show_default=True, help="Rows drawn from the data; 0 takes all.")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="Folder of the tokenizer, if it is not beside the file.")
@click.option("--out", type=click.Path(path_type=Path), help="Also write it: .html (with a heat map), .md or .json.")
@options.normalize
@options.threads_option
@options.columns
@options.overwrite_option
@options.common
def diagnose(
    file: Path,
    against: Path,
    out: Path | None,
    threads: int,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    seed: int,
    **data: Any,
) -> None:
    """Say why a quantized file is wrong or slow: each layer against the float file, the causes, and what mends them."""
    from edgekit.cli.progress import progress
    from edgekit.workflows import diagnose as diagnosing

    target = options.report_format(out, overwrite=overwrite) if out else None
    with progress(quiet) as tell:
        found = diagnosing.diagnose_file(file, against, options.data(**data), threads=threads, seed=seed, on_progress=tell)
    if target and out:
        diagnosing.write(found, target.value, out)
    if as_json:
        print_json(found)
    else:
        from edgekit.report.diagnosis import terminal

        show(terminal(found))
