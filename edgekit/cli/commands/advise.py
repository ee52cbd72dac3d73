"""`edgekit advise`."""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from edgekit.cli import options
from edgekit.cli.console import print_json, show
from edgekit.cli.options import fail
from edgekit.errors import ConfigError, RefusedError
from edgekit.spec import path_of
from edgekit.system import artifacts
from edgekit.workflows import advise as advising
from edgekit.workflows.advise import AdviseConfig
from edgekit.workflows.guide.decision_tree import Need
from edgekit.workflows.guide.targets import TARGETS, Hardware

_CONVERTING = (
    "out",
    "task",
    "evaluation_data",
    "evaluation_samples",
    "max_length",
    "input_shapes",
    "input_values",
    "mean",
    "std",
    "threads",
)


def _answered(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is not given, as somebody answers it. Raises `ConfigError` and `OutputError` for what no answer would help."""
    model, report = arguments["model"], arguments["report"]
    published = advising.is_published(path_of(model))
    if published:
        _refuse_options(model)
    if report is not None:
        if report.suffix.lower() != ".html":
            raise ConfigError(f"--report {report}: the answer is written as a page; end the name with .html")
        artifacts.refuse_existing(report, overwrite=arguments["overwrite"])
    if arguments["as_json"] or not asks():
        return {}
    target = arguments["hardware"] or _ask("What will run it?", Hardware)
    needs = [need for need in Need if target != Hardware.CPU or need is not Need.ACCELERATOR]
    answers = {"hardware": target, "need": arguments["need"] or _ask("What is needed most?", needs)}
    if arguments["data"] is None and not published:
        words = "Data to calibrate and judge on (empty: none)"
        answers["data"] = click.prompt(words, default="", show_default=False) or None
    if arguments["max_drop"] is None:
        answers["max_drop"] = click.prompt("What of the metric may be lost", default=0.01, type=click.FloatRange(0, 1))
    return answers


@options.command()
@click.argument("model", metavar="MODEL", help="What edgekit convert takes, or a folder with the files that it published.")
@options.of(AdviseConfig, complete=_answered)
@click.option("--out", type=click.Path(path_type=Path), help="Folder that keeps the files it makes; left out, none is kept.")
@click.option("--report", type=click.Path(path_type=Path), help="Also write the answer as a page: .html.")
@options.overwrite_option
@options.common
def advise(
    model: str, config: AdviseConfig, out: Path | None, report: Path | None, overwrite: bool, as_json: bool, quiet: bool
) -> None:
    """Say which scheme to take for MODEL, by the TF Lite guide's decision tree over what was measured.

    On a terminal it asks for what is not given; elsewhere, and with --json, it takes the defaults and says so."""
    from edgekit.cli.progress import progress
    from edgekit.workflows.guide.advice import page, terminal

    with progress(quiet) as tell:
        advice = advising.advise(model, config, out=out, overwrite=overwrite, on_progress=tell)
    if report is not None:
        artifacts.write_text(report, page(advice))
    if as_json:
        print_json(advice)
    else:
        show(terminal(advice))
        if report is not None:
            options.say(str(report))
    if not advice.usable:
        answer, title = advice.recommendation, TARGETS[advice.question.hardware].title
        fail(f"{model}: no file for {title} ({answer.reason}); {answer.title}: {advice.next[0]}", RefusedError.exit_code)


def asks() -> bool:
    """Whether somebody is there to answer."""
    return sys.stdin is not None and sys.stdin.isatty()


def _refuse_options(folder: str) -> None:
    """Raise `ConfigError` for what is said of a conversion where nothing is converted."""
    context = click.get_current_context()
    for parameter in context.command.params:
        if parameter.name in _CONVERTING and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE:
            option = parameter.opts[0]
            raise ConfigError(f"{folder}: holds files that are measured already; leave {option} out, or give the model itself")


def _ask(question: str, choices: Iterable[str]) -> str:
    names = [str(choice) for choice in choices]
    return str(click.prompt(question, default=names[0], type=click.Choice(names)))
