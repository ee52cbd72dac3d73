"""`edgekit inspect`."""

import click

from edgekit.cli import options
from edgekit.cli.console import print_json

_MODEL = "a .tflite, .onnx, .keras, .h5 or .pt2 file, a SavedModel or checkpoint folder, package:NAME or hub id"


@options.command()
@click.argument("model", metavar="MODEL", help=f"{_MODEL}.")
@options.common
def inspect(model: str, as_json: bool, quiet: bool, seed: int) -> None:
    """Say what MODEL is made of, and how it is converted."""
    from edgekit.workflows.inspect import describe
    from edgekit.workflows.inspect import inspect as inspect_model

    summary = inspect_model(model)
    if as_json:
        print_json(summary)
    else:
        options.say(describe(summary))
