"""`edgekit run`."""

from pathlib import Path

import click

from edgekit.cli import options
from edgekit.cli.console import show_report
from edgekit.cli.options import fail
from edgekit.errors import RefusedError


@options.command()
@click.argument("recipe_file", metavar="RECIPE.toml", type=click.Path(path_type=Path))
@options.overwrite_option
@options.common
def run(recipe_file: Path, overwrite: bool, as_json: bool, quiet: bool, seed: int) -> None:
    """Run a whole recipe: fine-tune, prune, distil, convert, measure, report."""
    from edgekit.cli.progress import progress
    from edgekit.workflows import recipe
    from edgekit.workflows import run as pipeline

    with progress(quiet) as tell:
        finished = pipeline.run(recipe.load(recipe_file), overwrite=overwrite, on_progress=tell)
    show_report(finished.report, as_json)
    if finished.refusals:
        fail("; ".join(finished.refusals), RefusedError.exit_code)
