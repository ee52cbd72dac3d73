"""Progress on stderr: a bar for each stage on a terminal, lines anywhere else."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edgekit.errors import printable
from edgekit.system.worker import OnProgress, Progress

# Without a terminal, a line at least so often while something runs.
_SILENCE_SECONDS = 10.0
# What took less is not worth a word.
_WORTH_SECONDS = 1.0


@contextlib.contextmanager
def progress(quiet: bool) -> Iterator[OnProgress]:
    """Yield what a stage tells its progress to, or None where nothing is to be shown."""
    if quiet or sys.stderr is None:  # None where the caller closed it
        yield None
        return
    from rich.console import Console

    console = Console(stderr=True)

    def say(text: str) -> None:
        console.print(printable(text), style=None, highlight=False, markup=False)

    if not sys.stderr.isatty():
        lines = Lines(say)
        with lines.beating():
            yield lines
        return
    from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=16), TimeElapsedColumn())
    with Bars(*columns, TextColumn("{task.fields[note]}", markup=False), console=console) as bars:
        stages, tasks = Stages(), dict[str, TaskID]()

        def bar(step: Progress) -> None:
            stage = stages.hear(step)
            if stage is None:
                return say(f"{step.stage}: {step.note}")
            if step.stage not in tasks:
                tasks[step.stage] = bars.add_task(printable(step.stage), total=None, note="")
            task, counted = tasks[step.stage], step.total > 1 or stage.is_over
            if stage.is_new:
                bars.reset(task, total=None)
            note = "" if stage.is_over or not counted else ", ".join(filter(None, (stage.far(), step.note)))
            shown = not stage.is_over or stage.spent >= _WORTH_SECONDS
            bars.update(task, completed=step.done, total=step.total if counted else None, note=printable(note), visible=shown)
            return None

        yield bar
        for task in bars.tasks:
            bars.update(task.id, visible=task.visible and task.finished)


@dataclass
class Stage:
    """A stage as it was last heard of, at `heard` on the monotonic clock.

    It `began` at that time where it `is_new`, and `has_ended` where that was told before."""

    began: float
    heard: float
    last: Progress
    is_new: bool = True
    has_ended: bool = False

    @property
    def is_over(self) -> bool:
        return self.last.done >= self.last.total

    @property
    def spent(self) -> float:
        return self.heard - self.began

    def far(self) -> str:
        """How far it is, and how long it will still take where that can be told."""
        done, total, now = self.last.done, self.last.total, time.monotonic()
        so_far = f"{duration(now - self.began)} so far"
        if total == 1:
            return so_far
        left = self.spent * (total - done) / done - (now - self.heard) if done else 0
        return f"{done} of {total}, {f'about {duration(left)} left' if left > 0 else so_far}"


class Stages:
    """What was heard of each stage."""

    def __init__(self) -> None:
        self._stages: dict[str, Stage] = {}

    def hear(self, step: Progress) -> Stage | None:
        """Its stage, which begins anew where it was over; None for a remark."""
        if step.total == 0:
            return None
        now, stage = time.monotonic(), self._stages.get(step.stage)
        if stage is None or (stage.is_over and step.done < step.total):
            stage = self._stages[step.stage] = Stage(now, now, step)
        else:
            stage.has_ended = stage.is_over
            stage.heard, stage.last, stage.is_new = now, step, False
        return stage

    def running(self) -> Stage | None:
        """The last heard of those that are not over."""
        return max((stage for stage in self._stages.values() if not stage.is_over), key=lambda stage: stage.heard, default=None)


class Lines:
    """A line where a stage begins, one where it ends, and one for every `_SILENCE_SECONDS` without one in between."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._stages, self._lock, self._ended = say, Stages(), threading.Lock(), threading.Event()
        self._said = time.monotonic()

    def __call__(self, step: Progress) -> None:
        with self._lock:
            stage = self._stages.hear(step)
            if stage is None:
                self._line(f"{step.stage}: {step.note}")
            elif stage.is_over and not stage.has_ended and stage.spent >= _WORTH_SECONDS:
                self._line(f"{step.stage}: took {duration(stage.spent)}")
            elif stage.is_new:
                self._line(step.stage)

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        def beat() -> None:
            while not self._ended.wait(_SILENCE_SECONDS / 10):
                self.beat()

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def beat(self) -> None:
        """Say how far the last stage is, if nothing was said for long."""
        with self._lock:
            stage = self._stages.running()
            if stage is not None and time.monotonic() - self._said >= _SILENCE_SECONDS:
                self._line(f"{stage.last.stage}: {stage.far()}")

    def _line(self, text: str) -> None:
        self._said = time.monotonic()
        self._say(text)


def duration(seconds: float) -> str:
    """Seconds as a person reads them."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
