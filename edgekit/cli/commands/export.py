"""`edgekit export`."""

from pathlib import Path

import click

from edgekit.cli import options
from edgekit.cli.console import print_json
from edgekit.workflows.export import ExportConfig
from edgekit.workflows.export import export as export_checkpoint


@options.command()
@click.argument("checkpoint")
@options.of(ExportConfig)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File or folder to write.")
@options.overwrite_option
@options.common
def export(checkpoint: str, out: Path, config: ExportConfig, overwrite: bool, as_json: bool, quiet: bool) -> None:
    """Write a CHECKPOINT in another format or in fewer bits, compared with PyTorch."""
    from edgekit.cli.progress import progress

    with progress(quiet) as tell:
        exported = export_checkpoint(checkpoint, out, config, overwrite=overwrite, on_progress=tell)
    if as_json:
        print_json(exported)
        return
    for hop, parity in exported.measured["parity"].items():
        options.say(f"{hop}: {parity['max_abs']:.1e} largest difference, {parity['max_rel']:.1e} of what varies")
    if (lost := exported.measured.get("drop")) and (metric := exported.measured["metric"]):
        points = f"{100 * lost['value']:.2f} points" if metric["percent"] else f"{lost['value']:.3g}"
        options.say(f"{metric['metric']}: {metric['value']:.4f}, {points} lost on {lost['total']} rows")
    options.say(f"{out}: {exported.size_bytes / 1e6:.1f} MB")
