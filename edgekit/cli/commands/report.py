"""`edgekit report`."""

from pathlib import Path

import click

from edgekit.cli import options
from edgekit.cli.console import print_json


@options.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="report.html, report.md or report.json.")
@options.overwrite_option
@options.common
def report(folder: Path, out: Path, overwrite: bool, as_json: bool, quiet: bool, seed: int) -> None:
    """Write the report of a run, or of the files converted into DIR, as HTML, Markdown or JSON."""
    from edgekit.workflows import report as reporting

    options.check_report(out, overwrite=overwrite)
    content = reporting.report(folder)
    reporting.write_report(content, [out])
    if as_json:
        print_json(content)
    else:
        options.say(str(out))
