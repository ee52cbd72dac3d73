"""`edgekit bundle`."""

from dataclasses import replace
from pathlib import Path

import click

from edgekit.cli import options
from edgekit.cli.console import print_json
from edgekit.spec import DataSpec

_ROWS = "8 rows of it go into golden.json; left out, built-in sentences or random values"


@options.command()
@click.argument("file", metavar="FILE.tflite", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@options.rows("--dataset", _ROWS, required=False, limit=None, leave=("tokenizer",))
@click.option("--tokenizer", type=click.Path(path_type=Path), help="Folder of the tokenizer, if it is not in the file.")
@options.overwrite_option
@options.common
def bundle(
    file: Path, out: Path, data: DataSpec | None, tokenizer: Path | None, overwrite: bool, as_json: bool, quiet: bool, seed: int
) -> None:
    """Write what an Android app takes over: the file, Kotlin for it, Gradle lines, and a test with expected outputs."""
    from edgekit.deploy.android.bundle import BundleConfig
    from edgekit.deploy.android.bundle import bundle as write
    from edgekit.deploy.android.golden import ROWS

    spec = replace(data, samples=ROWS, tokenizer=tokenizer) if data else None
    bundled = write(file, out, BundleConfig(spec, tokenizer, seed), overwrite=overwrite)
    if as_json:
        print_json(bundled)
        return
    options.say(f"{out}: {', '.join(bundled.files)}")
    limits = ", ".join(f"{name} {value:.2g}" for name, value in bundled.tolerance.items())
    options.say(f"golden rows: {bundled.source}; tolerance: {limits}")
    needs = bundled.requirements
    options.say(f"needs TensorFlow Lite {needs.minimum or 'of an unknown version'} or later")
    for what, names in (("not known since when", needs.unknown), ("custom ops", needs.custom)):
        if names:
            options.say(f"{what}: {', '.join(names)}")
