"""`edgekit export`."""

from pathlib import Path

import click

from edgekit import options
from edgekit.console import print_json
from edgekit.options import DATASET


@options.command()
@click.argument("checkpoint")
@click.option("--format", "kind", required=True, type=click.Choice(["onnx", "torchscript", "saved-model"]))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File or folder to write.")
@click.option("--max-length", type=int, default=64, show_default=True, help="Tokens of an input.")
@click.option("--dataset", help=f"Rows to compare with PyTorch on: {DATASET}.")
@options.columns
@options.overwrite_option
@options.common
def export(
    checkpoint: str,
    kind: str,
    out: Path,
    max_length: int,
    dataset: str | None,
    text_columns: tuple[str, ...],
    label_column: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    seed: int,
) -> None:
    """Write a CHECKPOINT as ONNX, TorchScript or SavedModel, compared with PyTorch."""
    from edgekit.data.sources import Columns
    from edgekit.exporting import Format, export_checkpoint
    from edgekit.progress import progress

    with progress(quiet) as tell:
        exported = export_checkpoint(
            checkpoint,
            Format(kind),
            out,
            dataset=dataset,
            columns=Columns(text_columns, label_column),
            max_length=max_length,
            seed=seed,
            overwrite=overwrite,
            on_progress=tell,
        )
    if as_json:
        print_json(exported)
        return
    for hop, parity in exported.measured["parity"].items():
        click.echo(f"{hop}: {parity['max_abs']:.1e} largest difference, {parity['same_argmax']:.0%} same decisions")
    click.echo(f"{out}: {exported.size_bytes / 1e6:.1f} MB")
