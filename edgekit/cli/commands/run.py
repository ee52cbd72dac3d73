"""`edgekit run`."""

from pathlib import Path

import click

from edgekit.cli import options
from edgekit.cli.console import show_report


@options.command()
@click.argument("recipe_file", metavar="RECIPE.toml", type=click.Path(path_type=Path))
@options.overwrite_option
@options.common
def run(recipe_file: Path, overwrite: bool, as_json: bool, quiet: bool, seed: int) -> None:
    """Run a whole recipe: fine-tune, prune, distill, convert, measure, report."""
    from edgekit.cli.progress import progress
    from edgekit.workflows import recipe
    from edgekit.workflows.run import run as run_recipe

    with progress(quiet) as tell:
        finished = run_recipe(recipe.load(recipe_file), overwrite=overwrite, on_progress=tell)
    show_report(finished.report, as_json)
    options.refuse(finished.refusals)
