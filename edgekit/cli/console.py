"""What commands print on stdout: a result as JSON, or a report as a table."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edgekit.stages.train.config import FinetuneResult


def print_json(value: Any) -> None:
    from edgekit.system.artifacts import to_json

    click.echo(to_json(value))


def show_report(report: Any, as_json: bool) -> None:
    if as_json:
        print_json(report)
        return
    from edgekit.report.table import terminal

    show(terminal(report))


def show_training(out: Path, result: "FinetuneResult", as_json: bool) -> None:
    """What a training run measured; with a teacher also what it learned from it, and how far from it the student is."""
    if as_json:
        print_json(result)
        return
    click.echo(f"{out}: accuracy {result.accuracy:.4f} ({result.correct} of {result.total}), loss {result.loss:.4f}")
    if (aware := result.quantization) is not None:
        click.echo(
            f"rounded in {aware.layers} linear layers; without rounding {aware.accuracy:.4f} ({aware.correct} of {aware.total})"
        )
    if (told := result.distillation) is not None:
        points = 100 * (result.accuracy - told.accuracy)
        click.echo(f"teacher {told.teacher}: accuracy {told.accuracy:.4f} ({told.correct} of {told.total})")
        click.echo(f"student against teacher: {points:+.2f} points")
        click.echo(f"learned from {', '.join(told.losses)}")
        for name, reason in told.left_out.items():
            click.echo(f"left out {name}: {reason}")
    click.echo(f"judged on {result.evaluated_on}")
    click.echo(
        f"{result.steps} steps in {result.training_s:.1f} s "
        f"({result.samples_per_s:.1f} samples/s, {result.steps_per_s:.2f} steps/s), "
        f"preparation {result.preparation_s:.1f} s, {result.runtime_s:.1f} s in all"
    )


def show(renderable: Any) -> None:
    """A rich renderable, 100 columns wide where stdout is no terminal."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 100)
    with console.capture() as captured:
        console.print(renderable)
    click.echo(captured.get(), nl=False)
