"""`edgekit finetune`."""

from pathlib import Path

import click

from edgekit.cli import options
from edgekit.cli.console import show_training
from edgekit.cli.options import TEXTS
from edgekit.stages.train.config import FinetuneConfig


@options.command()
@click.option("--model", required=True, help="A checkpoint folder, hub id or package:NAME to start from.")
@options.of(FinetuneConfig, data_set=TEXTS)
@options.checkpoint_out
@options.overwrite_option
@options.common
def finetune(model: str, out: Path, config: FinetuneConfig, overwrite: bool, as_json: bool, quiet: bool) -> None:
    """Fine-tune an encoder on texts. A killed run goes on where it was when it is started again."""
    from edgekit.cli.progress import progress
    from edgekit.workflows.finetune import finetune as train

    with progress(quiet) as report:
        result = train(model, out, config, overwrite=overwrite, on_progress=report)
    show_training(out, result, as_json)
