"""`edgekit convert`."""

from pathlib import Path

import click

from edgekit.cli import options
from edgekit.cli.console import print_json, show_report
from edgekit.workflows.convert.config import ConvertConfig

_MODEL = "a checkpoint folder, hub id, package:NAME, .onnx, SavedModel folder, .keras, .h5, torch.export .pt2 or float .tflite"


@options.command()
@click.argument("model", metavar="MODEL", help=f"{_MODEL}.")
@options.of(ConvertConfig)
@click.option("--out", type=click.Path(path_type=Path), default=Path("tflite_models"), show_default=True)
@options.overwrite_option
@options.common
def convert(model: str, out: Path, config: ConvertConfig, overwrite: bool, as_json: bool, quiet: bool) -> None:
    """Convert MODEL to .tflite files, run each, and publish it with its figures or refuse it."""
    from edgekit.cli.progress import progress
    from edgekit.workflows.convert.conversion import convert as convert_model

    with progress(quiet) as tell:
        conversion = convert_model(model, out, config, overwrite=overwrite, on_progress=tell)
    if as_json:
        print_json({"published": conversion.published, "refused": conversion.refusals})
    elif conversion.published:
        show_report(conversion.report(), as_json=False)
        for result in conversion.published:
            options.say(str(result.path))
    options.refuse(conversion.refusals)
