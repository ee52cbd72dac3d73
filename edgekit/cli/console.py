"""What commands print on stdout: a result as JSON, or a report as a table."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.options import refuse, say
from edgekit.errors import printable

if TYPE_CHECKING:
    from edgekit.stages.train.config import FinetuneResult


def print_json(value: Any) -> None:
    from edgekit.system.serial import to_json

    click.echo(to_json(value))


def show_report(report: Any, as_json: bool, *, unless_all_failed: bool = False) -> None:
    """A report as JSON or as a table; with `unless_all_failed` the command ends in an error where no row could be measured."""
    if as_json:
        print_json(report)
    else:
        from edgekit.report.table import terminal

        show(terminal(report))
    if unless_all_failed and all(row.failure for row in report.rows):
        refuse([row.failure for row in report.rows])


def show_training(out: Path, result: "FinetuneResult", as_json: bool) -> None:
    """What a training run measured; with a teacher also what it learned from it, and how far from it the student is."""
    if as_json:
        print_json(result)
        return
    others = "".join(f", {score}" for score in result.scores[1:] if score.metric != "loss")
    say(f"{out}: {result.metric}{others}, loss {result.loss:.4f}")
    if (aware := result.quantization) is not None:
        say(f"rounded in {aware.layers} linear layers; without rounding {aware.metric}")
    if (lessons := result.distillation) is not None:
        say(f"teacher {lessons.teacher}: {lessons.metric}")
        apart = result.metric.value - lessons.metric.value
        distance = f"{100 * apart:+.2f} points" if result.metric.percent else f"{apart:+.4f}"
        say(f"student against teacher: {distance}")
        say(f"learned from {', '.join(lessons.losses)}")
        for name, reason in lessons.left_out.items():
            say(f"left out {name}: {reason}")
    say(f"judged on {result.evaluated_on}")
    say(
        f"{result.steps} steps in {result.training_s:.1f} s "
        f"({result.samples_per_s:.1f} samples/s, {result.steps_per_s:.2f} steps/s), "
        f"preparation {result.preparation_s:.1f} s, {result.runtime_s:.1f} s in all"
    )


def show(renderable: Any) -> None:
    """A rich renderable, 100 columns wide where stdout is no terminal."""
    from rich.console import Console
    from rich.segment import Segment, Segments

    console = Console(width=None if sys.stdout.isatty() else 100)
    shown = (Segment(printable(part.text), part.style, part.control) for part in console.render(renderable))
    with console.capture() as captured:
        console.print(Segments(shown), end="")
    click.echo(captured.get(), nl=False)
