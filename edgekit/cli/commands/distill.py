"""`edgekit distill`."""

from pathlib import Path
from typing import Any

import click

from edgekit.cli import options
from edgekit.cli.console import show_training


@options.command()
@click.option("--teacher", required=True, help="A fine-tuned checkpoint (folder, hub id or package:NAME) to learn from.")
@click.option("--student", required=True, help="The checkpoint to train: the teacher pruned, or a smaller one.")
@options.training
@click.option("--temperature", type=float, default=2.0, show_default=True, help="Softens the teacher's classes.")
@click.option("--alpha", type=float, default=0.9, show_default=True, help="Share of the soft targets; the labels have the rest.")
@click.option("--hidden", type=float, default=1.0, show_default=True, help="Weight of the hidden states' squared difference.")
@click.option("--attention", type=float, default=0.0, show_default=True, help="Weight of the attention maps' squared difference.")
@click.option("--dropout", type=float, default=0.0, show_default=True, help="Probability of the student's dropouts.")
@options.common
def distill(
    teacher: str,
    student: str,
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
    """Train a student to say what its teacher says. A killed run goes on where it was when it is started again."""
    from edgekit.cli.progress import progress
    from edgekit.data.sources import Columns
    from edgekit.models import checkpoint
    from edgekit.system.worker import Worker
    from edgekit.workflows import run
    from edgekit.workflows.distill import DistilConfig, distil

    config = DistilConfig(**settings)
    rows, judged = run.read_training(dataset, evaluation_data, Columns(text_columns, label_column))
    with progress(quiet) as tell:
        folders = checkpoint.resolve(teacher), checkpoint.resolve(student)
        result = distil(*folders, rows, judged, out, config, overwrite=overwrite, worker=Worker(on_progress=tell))
    show_training(out, result, as_json)
