"""`edgekit guide`."""

from pathlib import Path

import click

from edgekit.cli import options
from edgekit.cli.console import print_json, show
from edgekit.cli.options import EXIT_CODES
from edgekit.workflows.guide.model_files import GuideConfig


@click.group(epilog=EXIT_CODES)
def guide() -> None:
    """The TF Lite guide on model optimization, measured here."""


@guide.command("run", epilog=EXIT_CODES)
@options.of(GuideConfig)
@click.option("--out", type=click.Path(path_type=Path), default=Path("tflite_models/guide"), show_default=True)
@options.overwrite_option
@options.common
def run(out: Path, config: GuideConfig, overwrite: bool, as_json: bool, quiet: bool) -> None:
    """Build the models of one of the guide's tables, convert each in every scheme, and measure them beside its figures.

    Run it again with the same options and it goes on where it was interrupted."""
    from edgekit.cli.progress import progress
    from edgekit.workflows.guide import measured_table
    from edgekit.workflows.guide.table import terminal

    with progress(quiet) as tell:
        finished = measured_table.run(out, config, overwrite=overwrite, on_progress=tell)
    if as_json:
        print_json(finished)
    else:
        show(terminal(finished))
        for name in measured_table.WRITTEN:
            if (out / name).is_file():
                options.say(str(out / name))
    options.refuse(measured_table.failures(finished))
