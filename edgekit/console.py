"""What commands print on stdout: a result as JSON, or a report as a table."""

import sys
from typing import Any

import click


def print_json(value: Any) -> None:
    from edgekit.artifacts import to_json

    click.echo(to_json(value))


def show_report(report: Any, as_json: bool) -> None:
    if as_json:
        print_json(report)
        return
    from edgekit.report.table import terminal

    show(terminal(report))


def show(renderable: Any) -> None:
    """A rich renderable, 100 columns wide where stdout is no terminal."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 100)
    with console.capture() as captured:
        console.print(renderable)
    click.echo(captured.get(), nl=False)
