"""`edgekit setup`."""

from pathlib import Path

import click

from edgekit.cli import options
from edgekit.cli.console import print_json


@options.command()
@click.argument("what", metavar="onnx", type=click.Choice(["onnx"]))
@click.option(
    "--python",
    type=click.Path(path_type=Path),
    help="Python 3.12 or 3.13 to make it with; left out, the one that runs edgekit, else one that is looked for.",
)
@options.common
def setup(what: str, python: Path | None, as_json: bool, quiet: bool, seed: int) -> None:
    """Install what `--bridge direct` converts with, in an environment of its own: onnx2tf 2, some 700 MB."""
    from edgekit.stages.export.direct import ENVIRONMENT

    made = ENVIRONMENT.make(python, tell=lambda note: None if quiet or as_json else options.say(note))
    if as_json:
        print_json({"python": str(made)})
    else:
        options.say(f"{what}: {made}")
