"""`edgekit inspect`."""

from pathlib import Path

import click

from edgekit.cli import options
from edgekit.cli.console import print_json


@options.command()
@click.argument("file", metavar="FILE.tflite", type=click.Path(path_type=Path))
@options.common
def inspect(file: Path, as_json: bool, quiet: bool, seed: int) -> None:
    """List a file's signature, ops, delegate partitions, tensors, quantization and metadata."""
    from edgekit.tflite.inspect import describe
    from edgekit.tflite.inspect import inspect as inspect_file

    summary = inspect_file(file)
    if as_json:
        print_json(summary)
    else:
        options.say(describe(summary))
