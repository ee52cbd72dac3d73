"""`edgekit advise`."""

import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from edgekit.cli import options
from edgekit.cli.console import print_json, show
from edgekit.cli.options import DATASET, fail
from edgekit.errors import ConfigError, RefusedError

_TARGETS = ("cpu", "gpu", "edgetpu", "hexagon", "microcontroller")
_NEEDS = ("latency", "size", "accuracy", "accelerator")
_CONVERTING = ("out", "evaluation_data", "evaluation_samples", "max_length", "input_shapes", "mean", "std", "threads")


@options.command()
@click.argument("model", metavar="MODEL", help="What edgekit convert takes, or a folder with the files that it published.")
@click.option("--need", type=click.Choice(_NEEDS), help="What matters most; default: latency, on an accelerator that it runs.")
@click.option("--target", type=click.Choice(_TARGETS), help="What will run it; default: cpu.")
@click.option("--data", "representative_data", metavar="D", help=f"Rows to calibrate on, and with labels to judge on: {DATASET}.")
@click.option("--evaluation-data", metavar="D", help="Rows to judge on; left out, others of --data.")
@click.option("--evaluation-samples", type=int, default=1000, show_default=True, help="How many of them, drawn with the seed.")
@click.option("--max-drop", type=click.FloatRange(0, 1), help="Accuracy that may be lost; default: 0.01.")
@click.option("--flash", "flash_bytes", type=click.IntRange(1), metavar="BYTES", help="A microcontroller's room for the file.")
@click.option("--ram", "ram_bytes", type=click.IntRange(1), metavar="BYTES", help="A microcontroller's room for the arena.")
@click.option("--max-length", type=int, default=64, show_default=True, help="Tokens of an input.")
@click.option("--input-shape", "input_shapes", multiple=True, metavar="NAME=1,…", help="Fixes a free shape of an .onnx.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder that keeps the files it makes; left out, none is kept.")
@click.option("--report", type=click.Path(path_type=Path), help="Also write the answer as a page: .html.")
@options.normalize
@options.threads_option
@options.columns
@options.overwrite_option
@options.common
def advise(
    model: str,
    need: str | None,
    target: str | None,
    max_drop: float | None,
    flash_bytes: int | None,
    ram_bytes: int | None,
    input_shapes: tuple[str, ...],
    representative_data: str | None,
    out: Path | None,
    report: Path | None,
    mean: str | None,
    std: str | None,
    text_columns: tuple[str, ...],
    label_column: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Say which scheme to take for MODEL, by the TF Lite guide's decision tree over what was measured.

    On a terminal it asks for what is not given; elsewhere, and with --json, it takes the defaults and says so.
    """
    from edgekit.cli.progress import progress
    from edgekit.data.sources import Columns
    from edgekit.spec import path_of
    from edgekit.system import artifacts
    from edgekit.workflows import advise as advising
    from edgekit.workflows.advise import Asked
    from edgekit.workflows.convert.config import ConvertConfig
    from edgekit.workflows.guide.decision_tree import Need
    from edgekit.workflows.guide.targets import TARGETS, Hardware

    published = advising.is_published(path_of(model))
    if published:
        _refuse_options(model)
    if report is not None:
        if report.suffix.lower() != ".html":
            raise ConfigError(f"--report {report}: the answer is written as a page; end the name with .html")
        artifacts.refuse_existing(report, overwrite=overwrite)
    if asks() and not as_json:
        target = target or _ask("What will run it?", _TARGETS)
        need = need or _ask("What is needed most?", _NEEDS[:3] if target == "cpu" else _NEEDS)
        if representative_data is None and not published:
            representative_data = (
                click.prompt("Data to calibrate and judge on (empty: none)", default="", show_default=False) or None
            )
        if max_drop is None:
            max_drop = click.prompt("Accuracy that may be lost", default=0.01, type=click.FloatRange(0, 1))
    config = ConvertConfig(
        schemes=("float32",),
        representative_data=representative_data,
        input_shapes=dict(options.input_shape(text) for text in input_shapes),
        mean=options.numbers("--mean", mean),
        std=options.numbers("--std", std),
        **settings,
    )
    asked = Asked(Hardware(target) if target else None, Need(need) if need else None, max_drop, flash_bytes, ram_bytes)
    with progress(quiet) as tell:
        found = advising.advise(
            model,
            asked,
            config,
            columns=Columns(text_columns, label_column),
            out=out,
            overwrite=overwrite,
            on_progress=tell,
        )
    if report is not None:
        advising.write_page(found, report)
    if as_json:
        print_json(found)
    else:
        from edgekit.workflows.guide.advice import terminal

        show(terminal(found))
        if report is not None:
            click.echo(str(report))
    if not found.usable:
        answer, title = found.recommendation, TARGETS[found.question.hardware].title
        fail(f"{model}: no file for {title} ({answer.reason}); {answer.title}: {found.next[0]}", RefusedError.exit_code)


def asks() -> bool:
    """Whether somebody is there to answer."""
    return sys.stdin is not None and sys.stdin.isatty()


def _refuse_options(folder: str) -> None:
    """Raise `ConfigError` for what is said of a conversion where nothing is converted."""
    context = click.get_current_context()
    for name in _CONVERTING:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = next(parameter.opts[0] for parameter in context.command.params if parameter.name == name)
            raise ConfigError(f"{folder}: holds files that are measured already; leave {option} out, or give the model itself")


def _ask(question: str, choices: tuple[str, ...]) -> str:
    return str(click.prompt(question, default=choices[0], type=click.Choice(choices)))
