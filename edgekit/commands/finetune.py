"""`edgekit finetune`."""

from pathlib import Path
from typing import Any

import click

from edgekit import options
from edgekit.console import print_json
from edgekit.options import DATASET


@options.command()
@click.option("--model", required=True, help="A checkpoint folder, hub id or package:NAME to start from.")
@click.option("--dataset", required=True, help=f"Training rows: {DATASET}.")
@click.option("--evaluation-data", help="Rows to judge on; left out, a tenth of the training rows is held out.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the new checkpoint.")
@click.option("--epochs", type=int, default=3, show_default=True)
@click.option("--batch-size", type=int, default=16, show_default=True)
@click.option("--learning-rate", type=float, default=5e-5, show_default=True)
@click.option("--max-length", type=int, default=128, show_default=True, help="Tokens of a row.")
@options.columns
@options.overwrite_option
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
    from edgekit import checkpoint, pipeline
    from edgekit.data.sources import Columns
    from edgekit.progress import progress
    from edgekit.train.finetune import FinetuneConfig
    from edgekit.train.finetune import finetune as train
    from edgekit.worker import Worker

    named = Columns(text_columns, label_column)
    rows = pipeline.read_texts(dataset, named)
    judged = pipeline.read_texts(evaluation_data, named) if evaluation_data else None
    with progress(quiet) as tell:
        folder = checkpoint.resolve(model)
        result = train(folder, rows, judged, out, FinetuneConfig(**settings), overwrite=overwrite, worker=Worker(on_progress=tell))
    if as_json:
        print_json(result)
        return
    click.echo(f"{out}: accuracy {result.accuracy:.4f} ({result.correct} of {result.total}), loss {result.loss:.4f}")
    click.echo(f"judged on {result.evaluated_on}")
    click.echo(
        f"{result.steps} steps in {result.training_s:.1f} s "
        f"({result.samples_per_s:.1f} samples/s, {result.steps_per_s:.2f} steps/s), "
        f"preparation {result.preparation_s:.1f} s, {result.runtime_s:.1f} s in all"
    )
