"""Progress on stderr: a bar on a terminal, a line for each new stage anywhere else."""

import contextlib
import sys
from collections.abc import Iterator

from edgekit.errors import printable
from edgekit.system.worker import OnProgress, Progress


@contextlib.contextmanager
def progress(quiet: bool) -> Iterator[OnProgress]:
    """Yield what a stage tells its progress to, or None where nothing is to be shown."""
    if quiet or sys.stderr is None:  # None where the caller closed it
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if not sys.stderr.isatty():
        told: set[tuple[str, str]] = set()

        def line(step: Progress) -> None:
            # A note that changes with every step is for a bar; in a log the stage's name is enough.
            key = (step.stage, step.note if step.stage == "convert" else "")
            if key not in told:
                told.add(key)
                console.print(printable(": ".join(part for part in key if part)), style=None, highlight=False, markup=False)

        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn())
    with Bars(*columns, TextColumn("{task.fields[note]}", markup=False), console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def bar(step: Progress) -> None:
            if step.stage not in tasks:
                tasks[step.stage] = bars.add_task(step.stage, total=step.total, note="")
            bars.update(tasks[step.stage], completed=step.done, total=step.total, note=printable(step.note))

        yield bar
