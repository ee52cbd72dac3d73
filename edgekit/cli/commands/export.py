"""`edgekit export`."""

from pathlib import Path

import click

from edgekit.cli import options
from edgekit.cli.console import print_json
from edgekit.cli.options import DATASET
from edgekit.models.linear8 import BACKENDS, TORCHAO


@options.command()
@click.argument("checkpoint")
@click.option(
    "--format",
    "kind",
    required=True,
    type=click.Choice(["onnx", "ort", "torchscript", "saved-model", "float16", "int8"]),
    help="float16 and int8 are checkpoint folders.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File or folder to write.")
@click.option("--max-length", type=int, default=64, show_default=True, help="Tokens of an input.")
@click.option("--backend", type=click.Choice(BACKENDS), default=TORCHAO, show_default=True, help="Who makes int8 linear layers.")
@click.option("--max-drop", type=float, default=0.05, show_default=True, help="Accuracy that int8 may lose before it is refused.")
@click.option("--dataset", help=f"Rows to compare with PyTorch on: {DATASET}.")
@options.columns
@options.overwrite_option
@options.common
def export(
    checkpoint: str,
    kind: str,
    out: Path,
    max_length: int,
    backend: str,
    max_drop: float,
    dataset: str | None,
    text_columns: tuple[str, ...],
    label_column: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    seed: int,
) -> None:
    """Write a CHECKPOINT in another format or in fewer bits, compared with PyTorch."""
    from edgekit.cli.progress import progress
    from edgekit.data.sources import Columns
    from edgekit.workflows.export import Format, export_checkpoint

    with progress(quiet) as tell:
        exported = export_checkpoint(
            checkpoint,
            Format(kind),
            out,
            dataset=dataset,
            columns=Columns(text_columns, label_column),
            max_length=max_length,
            backend=backend,
            max_drop=max_drop,
            seed=seed,
            overwrite=overwrite,
            on_progress=tell,
        )
    if as_json:
        print_json(exported)
        return
    for hop, parity in exported.measured["parity"].items():
        click.echo(f"{hop}: {parity['max_abs']:.1e} largest difference, {parity['same_argmax']:.1%} same decisions")
    if lost := exported.measured.get("drop"):
        click.echo(
            f"accuracy: {exported.measured['accuracy']['value']:.2%}, {100 * lost['value']:.2f} points lost on {lost['total']} rows"
        )
    click.echo(f"{out}: {exported.size_bytes / 1e6:.1f} MB")
