"""Options that several commands share, and what their texts mean."""

import functools
from collections.abc import Callable
from typing import Any

import click

from edgekit.errors import ConfigError

Command = Callable[..., Any]


def common(command: Command) -> Command:
    """Options of every command: --json --quiet --debug --seed."""

    @functools.wraps(command)
    def called(*, debug: bool, **arguments: Any) -> Any:
        return command(**arguments)

    for option in (
        click.option("--seed", type=int, default=0, show_default=True, help="Seed of every draw."),
        click.option("--debug", is_flag=True, help="Show the traceback and a child's last output on an error."),
        click.option("--quiet", is_flag=True, help="No progress on stderr."),
        click.option("--json", "as_json", is_flag=True, help="The result alone on stdout, as JSON."),
    ):
        called = option(called)
    return called


def columns(command: Command) -> Command:
    command = click.option("--label-column", help="Column with the label.")(command)
    return click.option("--text-column", "text_columns", multiple=True, help="Column with the text; twice for pairs.")(command)


def normalize(command: Command) -> Command:
    command = click.option("--std", help="Divisor of each channel after --mean is taken off; images: 127.5.")(command)
    return click.option("--mean", help="Mean of each channel, comma-separated; images: 127.5.")(command)


overwrite_option = click.option("--overwrite", is_flag=True, help="Replace what is at --out.")


def threads_option(command: Command) -> Command:
    return click.option("--threads", type=int, default=2, show_default=True, help="Interpreter threads.")(command)


def timing(command: Command) -> Command:
    for option in (
        click.option("--rounds", type=int, default=5, show_default=True, help="Fresh processes for each file, in turns."),
        click.option("--warmup", type=int, default=10, show_default=True, help="Uncounted inferences in each process."),
        click.option("--runs", type=int, default=100, show_default=True, help="Timed inferences of each file in all."),
        threads_option,
    ):
        command = option(command)
    return command


def numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"{option} {text}: not numbers; give one for each channel, such as 123.7,116.3,103.5") from None


def input_shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, sizes = text.rpartition("=")
    if not name or not all(part.strip().isdigit() and int(part) > 0 for part in sizes.split(",")):
        raise ConfigError(f"--input-shape {text}: give it as NAME=1,3,224,224")
    return name, tuple(int(part) for part in sizes.split(","))
