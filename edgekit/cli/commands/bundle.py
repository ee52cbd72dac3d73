"""`edgekit bundle`."""

from pathlib import Path
from typing import Any

import click

from edgekit.cli import options
from edgekit.cli.console import print_json
from edgekit.cli.options import DATASET


@options.command()
@click.argument("file", metavar="FILE.tflite", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--dataset", help=f"8 rows of it go into golden.json: {DATASET}. Left out: built-in sentences or random values.")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="Folder of the tokenizer, if it is not in the file.")
@options.normalize
@options.columns
@options.overwrite_option
@options.common
def bundle(
    file: Path,
    out: Path,
    dataset: str | None,
    tokenizer: Path | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    seed: int,
    **data: Any,
) -> None:
    """Write what an Android app takes over: the file, Kotlin for it, Gradle lines, and a test with expected outputs."""
    from edgekit.deploy.android.bundle import bundle as write
    from edgekit.deploy.android.golden import ROWS

    given = options.data(dataset=dataset, limit=ROWS, tokenizer=tokenizer, **data) if dataset else None
    found = write(file, out, given, tokenizer=tokenizer, seed=seed, overwrite=overwrite)
    if as_json:
        print_json(found)
        return
    click.echo(f"{out}: {', '.join(found.files)}")
    limits = ", ".join(f"{name} {value:.2g}" for name, value in found.tolerance.items())
    click.echo(f"golden rows: {found.source}; tolerance: {limits}")
    needs = found.requirements
    click.echo(f"needs TensorFlow Lite {needs.minimum or 'of an unknown version'} or later")
    for what, names in (("not known since when", needs.unknown), ("custom ops", needs.custom)):
        if names:
            click.echo(f"{what}: {', '.join(names)}")
