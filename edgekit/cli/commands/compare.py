"""`edgekit compare`."""

from pathlib import Path

import click

from edgekit.cli import options
from edgekit.cli.console import show_report
from edgekit.spec import DataSpec
from edgekit.workflows.compare import CompareConfig


@options.command()
@click.argument("versions", metavar="VERSION…", nargs=-1, required=True)
@options.rows("--dataset", "Rows that all are judged on")
@options.of(CompareConfig)
@click.option("--out", "outs", multiple=True, type=click.Path(path_type=Path), help="Also write it: .html, .md, .json; repeats.")
@options.overwrite_option
@options.common
def compare(
    versions: tuple[str, ...],
    data: DataSpec,
    config: CompareConfig,
    outs: tuple[Path, ...],
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Versions of one model in one table: size, speed, and their task's metric on the same rows.

    A VERSION is a checkpoint folder, or a .tflite, .onnx, .ort or .pt (TorchScript) file; each has its tokenizer beside it."""
    from edgekit.cli.progress import progress
    from edgekit.workflows.compare import compare as compare_versions
    from edgekit.workflows.report import write_report

    for out in outs:
        options.check_report(out, overwrite=overwrite)
    with progress(quiet) as tell:
        report = compare_versions(versions, data, config, on_progress=tell)
    show_report(report, as_json, unless_all_failed=True)
    write_report(report, outs)
