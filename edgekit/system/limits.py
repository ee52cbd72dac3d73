"""How much time and memory a child may take: what `--timeout` and `--memory-limit` say, else what file and machine suggest."""

import contextlib
import os
import select
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from edgekit.system.settings import Checked, above, setting

# Without --timeout a child may work for days as long as it tells how far it is. A convolution of BERT-large takes seconds, its
# export minutes; what is silent for so long does not come back. Larger files get more, at a rate that slow machines reach.
_SILENT_SECONDS, _BYTES_A_SECOND = 900.0, 2**20
# Of the machine's memory; the rest is the system's.
_SHARE = 0.9
_POLL_SECONDS = 0.1
# Going through all processes takes milliseconds, which what is timed would notice.
_TREE_SECONDS = 1.0


@dataclass(frozen=True)
class Limits(Checked):
    """Of each child: seconds in all, and bytes of memory that it and what it starts hold; None leaves it to file and machine."""

    timeout_s: float | None = setting(None, "", above(0, 600))
    memory_bytes: int | None = setting(None, "", above(0, 2**30))


_given = Limits()


@contextlib.contextmanager
def limited(*, timeout_s: float | None = None, memory_bytes: int | None = None) -> Iterator[None]:
    """Let each child that starts inside the block take no more than these seconds and bytes. Raises `ConfigError`."""
    global _given
    before, _given = _given, Limits(timeout_s, memory_bytes)
    try:
        yield
    finally:
        _given = before


def given() -> Limits:
    """What `limited` said last."""
    return _given


def stopped(seconds: float) -> str:
    """What is told of a child that took longer."""
    return f"stopped after the limit of {seconds:g} s; allow more with --timeout or give a smaller model"


def silence(arguments: Iterable[Any]) -> float:
    """Seconds that a child may take between two words of progress; it gets more for the files among its `arguments`."""
    files = (argument for argument in arguments if isinstance(argument, Path))
    return _SILENT_SECONDS + sum(file.stat().st_size for file in files if file.is_file()) / _BYTES_A_SECOND


@cache
def most_memory() -> int:
    """Bytes that a child may hold where nobody says: most of what the machine, or the container, has."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):  # "max", or no such file
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return int(_SHARE * total)


class Memory:
    """The memory of a child and of what it starts, against a limit in bytes."""

    def __init__(self, pid: int, limit: int | None) -> None:
        self.limit = min(bound for bound in (limit, _given.memory_bytes, most_memory()) if bound is not None)
        self._pid = pid
        self._next = time.monotonic() + _TREE_SECONDS

    def exceeded(self) -> bool:
        """Asked again and again; cheap most times."""
        import psutil

        with contextlib.suppress(psutil.Error):
            members = [psutil.Process(self._pid)]
            if time.monotonic() > self._next:
                self._next = time.monotonic() + _TREE_SECONDS
                members += members[0].children(recursive=True)
            return sum(_resident(member) for member in members) > self.limit
        return False

    @property
    def told(self) -> str:
        return f"the limit of {self.limit / 2**30:.1f} GiB; allow more with --memory-limit or give a smaller model"


def _resident(process: Any) -> int:
    import psutil

    with contextlib.suppress(psutil.Error):
        return int(process.memory_info().rss)
    return 0


def wait(pid: int, memory: Memory) -> int | None:
    """The exit code of a child of this process, negative for a signal; None, once it holds too much memory."""
    ended = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
    try:
        while True:
            reaped, status = os.waitpid(pid, os.WNOHANG)
            if reaped:
                return os.waitstatus_to_exitcode(status)
            if memory.exceeded():
                return None
            if ended is None:
                time.sleep(_POLL_SECONDS / 10)
            else:
                select.select([ended], [], [], _POLL_SECONDS)
    finally:
        if ended is not None:
            os.close(ended)
