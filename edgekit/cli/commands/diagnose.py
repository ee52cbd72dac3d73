"""`edgekit diagnose`."""

from pathlib import Path

import click

from edgekit.cli import options
from edgekit.cli.console import print_json, show
from edgekit.workflows.diagnose import DiagnoseConfig


@options.command()
@click.argument("file", metavar="FILE.tflite", type=click.Path(path_type=Path))
@options.rows("--data", "Rows to run both on", limit=64)
@options.of(DiagnoseConfig)
@click.option("--out", type=click.Path(path_type=Path), help="Also write it: .html (with a heat map), .md or .json.")
@options.overwrite_option
@options.common
def diagnose(file: Path, config: DiagnoseConfig, out: Path | None, overwrite: bool, as_json: bool, quiet: bool, seed: int) -> None:
    """Say why a quantized file is wrong or slow: each layer against the float file, the causes, and what mends them."""
    from edgekit.cli.progress import progress
    from edgekit.workflows import diagnose as diagnosing

    if out:
        options.check_report(out, overwrite=overwrite)
    with progress(quiet) as tell:
        diagnosis = diagnosing.diagnose(file, config, on_progress=tell)
    if out:
        diagnosing.write(diagnosis, out)
    if as_json:
        print_json(diagnosis)
    else:
        from edgekit.report.diagnosis import terminal

        show(terminal(diagnosis))
