"""`edgekit evaluate`."""

from pathlib import Path

import click

from edgekit.cli import options
from edgekit.cli.console import print_json
from edgekit.spec import DataSpec
from edgekit.workflows.evaluate import EvaluateConfig


@options.command()
@click.argument("file", metavar="FILE.tflite", type=click.Path(path_type=Path))
@options.rows("--dataset", "Rows to judge it on")
@options.of(EvaluateConfig)
@options.common
def evaluate(file: Path, data: DataSpec, config: EvaluateConfig, as_json: bool, quiet: bool, seed: int) -> None:
    """What one file is worth on a data set: its task's metrics, each with its 95 % interval."""
    from edgekit.cli.progress import progress
    from edgekit.report.table import verdict
    from edgekit.spec import shown
    from edgekit.workflows.evaluate import evaluate as evaluate_file

    with progress(quiet) as tell:
        row = evaluate_file(file, data, config, on_progress=tell)
    if as_json:
        print_json(row)
    options.refuse([row.failure] if row.failure else [])
    if as_json:
        return
    for line in verdict(row, str(config.against or "")):
        options.say(f"{file}: {line}")
    if row.metric is None and config.against is None:
        judged = f"ran on {row.rows} rows of {shown(data.origin)}, which has no labels for {row.task}"
        options.say(f"{file}: {judged}; name them with --label-column, tell its --task, or give --against")
