"""`edgekit distill`."""

from pathlib import Path

import click

from edgekit.cli import options
from edgekit.cli.console import show_training
from edgekit.cli.options import TEXTS
from edgekit.stages.train.config import DistillConfig


@options.command()
@click.option("--student", required=True, help="The checkpoint to train: the teacher pruned, or a smaller one.")
@options.of(DistillConfig, data_set=TEXTS, leave=("problem",))
@options.checkpoint_out
@options.overwrite_option
@options.common
def distill(student: str, out: Path, config: DistillConfig, overwrite: bool, as_json: bool, quiet: bool) -> None:
    """Train a student to say what its teacher says. A killed run goes on where it was when it is started again."""
    from edgekit.cli.progress import progress
    from edgekit.workflows.distill import distill as train

    with progress(quiet) as report:
        result = train(student, out, config, overwrite=overwrite, on_progress=report)
    show_training(out, result, as_json)
