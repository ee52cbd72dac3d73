"""`edgekit optimize`."""

from pathlib import Path

import click

from edgekit.cli import options
from edgekit.cli.console import print_json, show_report
from edgekit.cli.options import ARRAYS
from edgekit.workflows.optimize import OptimizingConfig


@options.command()
@click.argument("model", metavar="MODEL.h5")
@options.of(OptimizingConfig, data_set=ARRAYS, normalized=True)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the models and the report.")
@options.overwrite_option
@options.common
def optimize(model: str, out: Path, config: OptimizingConfig, overwrite: bool, as_json: bool, quiet: bool) -> None:
    """Train a Keras 2 image classifier to be smaller or faster: quantization-aware, sparse, clustered, or several at once.

    Each model is converted to float32 and int8, measured on rows that training never saw, and published or refused."""
    from edgekit.cli.progress import progress
    from edgekit.workflows import optimize as optimizing
    from edgekit.workflows.report import write_report

    with progress(quiet) as on_progress:
        result = optimizing.optimize(model, out, config, overwrite=overwrite, on_progress=on_progress)
    if result.published:
        write_report(result.report, [out / name for name in optimizing.REPORTS])
    if as_json:
        print_json({"published": result.published, "refused": result.refusals, "report": result.report})
    else:
        show_report(result.report, as_json=False)
        for path in result.published:
            options.say(str(path))
    options.refuse(result.refusals)
