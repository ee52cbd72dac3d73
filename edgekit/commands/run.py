"""`edgekit run`."""

from pathlib import Path

import click

from edgekit import options
from edgekit.console import show_report
from edgekit.errors import RefusedError
from edgekit.options import fail


@options.command()
@click.argument("recipe_file", metavar="RECIPE.toml", type=click.Path(path_type=Path))
@options.overwrite_option
@options.common
def run(recipe_file: Path, overwrite: bool, as_json: bool, quiet: bool, seed: int) -> None:
    """Run a whole recipe: fine-tune, prune, distil, convert, measure, report."""
    from edgekit import pipeline, recipe
    from edgekit.progress import progress

    with progress(quiet) as tell:
        finished = pipeline.run(recipe.load(recipe_file), overwrite=overwrite, on_progress=tell)
    show_report(finished.report, as_json)
    if finished.refusals:
        fail("; ".join(finished.refusals), RefusedError.exit_code)
