"""`edgekit optimize`."""

from pathlib import Path
from typing import Any

import click

from edgekit.cli import options
from edgekit.cli.console import print_json, show_report
from edgekit.cli.options import ARRAYS, fail
from edgekit.errors import RefusedError
from edgekit.stages.keras.config import CENTROIDS, TECHNIQUES


@options.command()
@click.argument("model", metavar="MODEL.h5")
@click.option("--dataset", required=True, help=f"Labelled training rows: {ARRAYS}.")
@click.option("--evaluation-data", help="Labelled rows to judge on, never trained on; left out, a share of the data set.")
@click.option("--evaluation-share", type=float, default=0.2, show_default=True, help="Share kept without --evaluation-data.")
@click.option("--technique", "techniques", required=True, multiple=True, type=click.Choice([*TECHNIQUES, "all"]), help="Repeats.")
@click.option("--sparsity", type=float, default=0.5, show_default=True, help="Share of weights that become zero.")
@click.option("--clusters", type=int, default=16, show_default=True, help="Distinct values of each kernel.")
@click.option("--centroids", type=click.Choice(CENTROIDS), default=CENTROIDS[0], show_default=True, help="How the values begin.")
@click.option("--epochs", type=int, default=8, show_default=True)
@click.option("--batch-size", type=int, default=32, show_default=True)
@click.option("--learning-rate", type=float, default=2e-4, show_default=True)
@click.option("--max-drop", type=float, default=0.05, show_default=True, help="Accuracy that a file may lose before it is refused.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the models and the report.")
@options.normalize
@options.threads_option
@options.columns
@options.overwrite_option
@options.common
def optimize(
    model: str,
    dataset: str,
    evaluation_data: str | None,
    techniques: tuple[str, ...],
    out: Path,
    max_drop: float,
    evaluation_share: float,
    mean: str | None,
    std: str | None,
    threads: int,
    text_columns: tuple[str, ...],
    label_column: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    sparsity: float,
    clusters: int,
    centroids: str,
    **training: Any,
) -> None:
    """Train a Keras 2 image classifier to be smaller or faster: quantization-aware, sparse, clustered, or several at once.

    Each model is converted to float32 and int8, measured on rows that training never saw, and published or refused.
    """
    from edgekit.cli.progress import progress
    from edgekit.data.sources import Columns
    from edgekit.stages.keras.config import OptimizeConfig, TrainConfig
    from edgekit.workflows import optimize as optimizing
    from edgekit.workflows.run import write_report

    config = optimizing.OptimizingConfig(
        techniques,
        OptimizeConfig(sparsity, clusters, centroids, TrainConfig(**training)),
        max_drop,
        evaluation_share,
        mean=options.numbers("--mean", mean),
        std=options.numbers("--std", std),
        threads=threads,
    )
    named = Columns(text_columns, label_column)
    with progress(quiet) as tell:
        found = optimizing.run(
            model, dataset, out, config, evaluation_data=evaluation_data, columns=named, overwrite=overwrite, on_progress=tell
        )
    if found.published:
        for name in optimizing.REPORTS:
            write_report(found.report, {options.report_format(out / name, overwrite=True): out / name})
    if as_json:
        print_json({"published": found.published, "refused": found.refusals, "report": found.report})
    else:
        show_report(found.report, as_json=False)
        for path in found.published:
            click.echo(str(path))
    if found.refusals:
        fail("; ".join(found.refusals), RefusedError.exit_code)
