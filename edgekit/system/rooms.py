"""Temporary folders: all that a run makes lies in one, and every run clears away what killed ones left.

A child may write in the rooms of its run and in the places that are `writable` at the time; see `cage`."""

import atexit
import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from edgekit.errors import OutputError

_LOCK = ".lock"
_MAKING, _RUN = "making-", "run-"
# Between making a run's folder and locking it lies a moment.
_YOUNG_SECONDS = 60
_guard = threading.Lock()
# The folder of this process by its id, which a fork changes, and by the place for temporary files, with its open lock and the
# process that made it.
_runs: dict[tuple[int, str], tuple[Path, int, int]] = {}
_writable: list[Path] = []


def rooms() -> Path:
    """The folder for temporary ones of this run, whose children may write there. Raises `OutputError` where none can be made."""
    return _run() / "rooms"


def holds(place: Path) -> bool:
    """Whether something lies in the folder for temporary ones of this run, whose names tell a user nothing."""
    return any(place.is_relative_to(folder) for folder, *_ in _runs.values())


@contextlib.contextmanager
def temporary(purpose: str) -> Iterator[Path]:
    """A folder in `rooms` that is gone when the block ends."""
    with tempfile.TemporaryDirectory(prefix=f"{purpose}-", dir=rooms(), ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def jobs() -> Path:
    """The folder for what each child and this process tell each other, each child in one of its own."""
    return _run() / "jobs"


def inherit() -> None:
    """Let a child that was just forked use the folder of its parent, which removes it."""
    for (_, place), run in list(_runs.items()):
        _runs[os.getpid(), place] = run


@contextlib.contextmanager
def writable(place: Path) -> Iterator[Path]:
    """Let children that start inside the block write to a folder, or to a file that exists."""
    _writable.append(place)
    try:
        yield place
    finally:
        _writable.remove(place)


def open_to_children() -> tuple[Path, ...]:
    """Where a child that starts now may write, besides its own job."""
    return rooms(), *_writable


def _run() -> Path:
    place = tempfile.gettempdir()
    key = os.getpid(), place
    with _guard:
        if key not in _runs or not _runs[key][0].is_dir():
            try:
                _runs[key] = *_made(Path(place)), os.getpid()
            except OSError as error:
                raise OutputError(f"{place}: no temporary folder can be made there ({error.strerror}); set TMPDIR") from error
            if len(_runs) == 1:
                atexit.register(_leave)
        return _runs[key][0]


def _root(place: Path) -> Path:
    return place / f"edgekit-{os.getuid()}"


def _made(place: Path) -> tuple[Path, int]:
    root = _root(place)
    with contextlib.suppress(FileExistsError):
        root.mkdir(mode=0o700)
    found = root.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        # Somebody else's; /tmp is everyone's.
        root = Path(tempfile.mkdtemp(prefix=f"{root.name}-", dir=place))
    try:
        for left in root.iterdir():
            _sweep(left)
        made = Path(tempfile.mkdtemp(prefix=_MAKING, dir=root))
    except FileNotFoundError:  # another run, which was the last, took it away
        return _made(place)
    for name in ("rooms", "jobs"):
        (made / name).mkdir()
    (made / _LOCK).touch(0o600)
    lock = locked(made / _LOCK)
    return made.rename(made.with_name(made.name.replace(_MAKING, _RUN))), lock


def locked(place: Path) -> int:
    """An open lock on a file or folder, which the system takes back from a process that is killed. Raises `BlockingIOError`."""
    lock = os.open(place, os.O_RDONLY if place.is_dir() else os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock


def _sweep(left: Path) -> None:
    """Remove the folder of a run that is no more."""
    with contextlib.suppress(OSError):
        if left.name.startswith(_MAKING) and time.time() - left.stat().st_mtime < _YOUNG_SECONDS:
            return
        (left / _LOCK).touch(0o600)
        lock = locked(left / _LOCK)
        try:
            shutil.rmtree(left, ignore_errors=True)
        finally:
            os.close(lock)


def _leave() -> None:
    for folder, lock, pid in set(_runs.values()):
        if pid == os.getpid():
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
            with contextlib.suppress(OSError):
                folder.parent.rmdir()
