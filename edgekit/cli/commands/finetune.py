"""`edgekit finetune`."""

from pathlib import Path
from typing import Any

import click

from edgekit.cli import options
from edgekit.cli.console import show_training


@options.command()
@click.option("--model", required=True, help="A checkpoint folder, hub id or package:NAME to start from.")
@options.training
@click.option("--dropout", type=float, help="Probability of the model's dropouts; left out, what its config.json says.")
@options.common
def finetune(
    model: str,
    dataset: str,
    evaluation_data: str | None,
    out: Path,
    text_columns: tuple[str, ...],
    label_column: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Fine-tune an encoder as a text classifier. A killed run goes on where it was when it is started again."""
    from edgekit.cli.progress import progress
    from edgekit.data.sources import Columns
    from edgekit.models import checkpoint
    from edgekit.system.worker import Worker
    from edgekit.workflows import run
    from edgekit.workflows.finetune import FinetuneConfig
    from edgekit.workflows.finetune import finetune as train

    config = FinetuneConfig(**settings)
    rows, judged = run.read_training(dataset, evaluation_data, Columns(text_columns, label_column))
    with progress(quiet) as tell:
        folder = checkpoint.resolve(model)
        result = train(folder, rows, judged, out, config, overwrite=overwrite, worker=Worker(on_progress=tell))
    show_training(out, result, as_json)
