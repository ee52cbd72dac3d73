"""A command that goes on in a forked child, so that a file which crashes the interpreter, or keeps it, ends with a line."""

import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from edgekit.errors import WorkerCrashed, WorkerOutOfMemory, WorkerTimeout
from edgekit.system import limits, rooms
from edgekit.system.cage import confine
from edgekit.system.child import die_with_parent, signal_name


def in_child(file: Path, *, listens: bool = False, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Go on in a forked child that is confined, whose exit this process passes on: a malformed file can crash the interpreter.

    A fork shares what is loaded so far, so it costs a few milliseconds where a fresh child would start Python again. This process
    does what it has to do `meanwhile`."""
    parent, place = os.getpid(), rooms.rooms()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        die_with_parent(parent)
        signal.signal(signal.SIGINT, _interrupt_once)
        rooms.inherit()
        confine([place], limits.most_memory(), listens=listens)
        return
    # Ctrl-C reaches the child as well where both have a terminal, and what it says about it is enough.
    signal.signal(signal.SIGINT, lambda number, _: os.kill(child, number))
    meanwhile()
    memory = limits.Memory(child, None)
    code = limits.wait(child, memory)
    if code is None:
        os.kill(child, signal.SIGKILL)
        raise WorkerOutOfMemory(f"{file}: stopped above {memory.told}")
    if code == -signal.SIGALRM:
        raise WorkerTimeout(f"{file}: {limits.stopped(_seconds(file))}")
    if code < 0:
        crash = f"the interpreter crashed with {signal_name(-code)}"
        raise WorkerCrashed(f"{file}: {crash}; convert or download the file again")
    raise click.exceptions.Exit(code)


def _interrupt_once(*_: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


@functools.cache
def _seconds(file: Path) -> float:
    return limits.given().timeout_s or limits.silence([file])


@contextlib.contextmanager
def timed(file: Path) -> Iterator[None]:
    """Let SIGALRM end this process, a child of `in_child`, if what is inside the block takes longer than it may."""
    signal.setitimer(signal.ITIMER_REAL, _seconds(file))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
