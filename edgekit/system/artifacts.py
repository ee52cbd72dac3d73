"""What edgekit writes: published whole or not at all, with a manifest that says what it is and where it came from."""

import contextlib
import ctypes
import errno
import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock

from edgekit.errors import DISK_FULL, OutputError
from edgekit.system.serial import plain, to_json

# The manifest inside a checkpoint folder; those of files lie beside them.
MANIFEST = "edgekit.json"
LOCK_NAME = ".edgekit.lock"
_PARTIAL = ".edgekit-partial-"
# Between making a work folder's lock and holding it lies a moment.
_YOUNG_SECONDS = 60


@dataclass(frozen=True)
class Artifact:
    """A published file or folder and its history; written as JSON beside it.

    `parents` maps each source's name to its sha256, `config` is what the stage was told, `tools` the versions of the
    packages that did the work, `measured` what was found when the result was run."""

    kind: str
    path: str
    sha256: str
    size_bytes: int
    parents: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    config_sha256: str = ""
    tools: Mapping[str, str] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)


def describe(
    path: Path,
    kind: str,
    *,
    name: str = "",
    parents: Mapping[str, str] | None = None,
    config: Any = None,
    tools: Sequence[str] = (),
    measured: Any = None,
) -> Artifact:
    """Hash what lies at `path` and return its `Artifact`; `name` is what it will be published as, `tools` are package names."""
    settings, versions = plain(config) if config is not None else {}, {}
    for tool in ("edgekit", *tools):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[tool] = importlib.metadata.version(tool)
    return Artifact(
        kind=kind,
        path=name or path.name,
        sha256=sha256(path),
        size_bytes=size(path),
        parents=dict(parents or {}),
        config=settings,
        config_sha256=hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest(),
        tools=versions,
        measured=plain(measured) if measured is not None else {},
    )


@dataclass
class Draft:
    """What is about to be published: where to write it, and what goes into its manifest as `measured`."""

    path: Path
    measured: Any = None
    artifact: Artifact = field(init=False)


@contextlib.contextmanager
def published(
    final: Path,
    kind: str,
    *,
    parents: Mapping[str, str] | None = None,
    config: Any = None,
    tools: Sequence[str] = (),
    measured: Any = None,
    manifest: Path | None = None,
    overwrite: bool = False,
) -> Iterator[Draft]:
    """Yield a draft to write a file or a folder to, which becomes `final` with its manifest when the block ends without error.

    Unless `manifest` says where, that of a folder lies in it and that of a file beside it, with `.json` for its suffix.
    Raises what `staged` does."""
    with staged(final, overwrite=overwrite) as partial:
        draft = Draft(partial, measured)
        yield draft
        draft.artifact = artifact = describe(
            partial, kind, name=final.name, parents=parents, config=config, tools=tools, measured=draft.measured
        )
        if partial.is_dir() and manifest is None:
            (partial / MANIFEST).write_text(to_json(artifact) + "\n", encoding="utf-8")
    if final.is_file() or manifest is not None:
        write_text(manifest or final.with_suffix(".json"), to_json(artifact))


def sha256(path: Path) -> str:
    """Hex digest of a file, or of a folder's relative names and contents in sorted order (hidden ones left out)."""
    if path.is_file():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    digest = hashlib.sha256()
    for file in _files(path):
        digest.update(f"{file.relative_to(path).as_posix()}\0{sha256(file)}\n".encode())
    return digest.hexdigest()


def size(path: Path) -> int:
    """Bytes of a file, or of a folder's files together."""
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in _files(path))


def _files(folder: Path) -> list[Path]:
    visible = (file for file in folder.rglob("*") if not any(part.startswith(".") for part in file.relative_to(folder).parts))
    return sorted(file for file in visible if file.is_file())


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[Path]:
    """Make `folder`, keep every other run out of it until the block ends, and clear what a killed run left half-written.

    Raises `OutputError` if it cannot be written or another run holds it."""
    try:
        made = [place for place in (folder, *folder.parents) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / LOCK_NAME)
        lock.acquire(blocking=False)
    except filelock.Timeout:
        if not (folder / LOCK_NAME).exists():  # a place such as /proc, where nothing can be made
            raise OutputError(f"{folder}: cannot be written; choose another --out") from None
        raise OutputError(f"{folder}: another edgekit run is writing here; wait for it or choose another --out") from None
    except OSError as error:
        raise _unwritable(folder, error) from None
    try:
        for stale in folder.glob(f"{_PARTIAL}*"):
            _remove(stale)
        yield folder
    except BaseException:
        _leave_nothing(folder, made)
        raise
    finally:
        # The lock file stays where anything else does: removing it would let a waiting run lock a file that is no longer there.
        lock.release()


@contextlib.contextmanager
def resumable(folder: Path, worth: str) -> Iterator[Path]:
    """`claimed`, and removed when the block ends; a run that fails leaves it where something in it is called like `worth`."""
    with claimed(folder) as room:
        try:
            yield room
        except BaseException:
            if not any(room.glob(worth)):
                _remove(room)
            raise
        _remove(room)


def _leave_nothing(folder: Path, made: Sequence[Path]) -> None:
    """Take back the folders that a failed run `made`, innermost first, where it published nothing into them."""
    with contextlib.suppress(OSError):
        if made and not any(file.name != LOCK_NAME for file in folder.iterdir()):
            (folder / LOCK_NAME).unlink()
    with contextlib.suppress(OSError):
        for place in made:
            if place.exists():
                place.rmdir()


@contextlib.contextmanager
def work_folder(prefix: str) -> Iterator[Path]:
    """A temporary folder that is gone when the block ends; those of the same `prefix` that killed runs left go first."""
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        _sweep(left)
    with tempfile.TemporaryDirectory(prefix=prefix) as made:
        # The system takes the lock back from a process that is killed, which tells its folder from one at work.
        lock = filelock.FileLock(Path(made) / LOCK_NAME)
        with contextlib.suppress(OSError, NotImplementedError, filelock.Timeout):
            lock.acquire(blocking=False)
        try:
            yield Path(made)
        finally:
            lock.release()


def _sweep(left: Path) -> None:
    """Remove a work folder of this user's whose lock nobody holds."""
    lock = left / LOCK_NAME
    with contextlib.suppress(OSError, NotImplementedError, filelock.Timeout):
        if left.is_symlink() or left.stat().st_uid != os.getuid() or time.time() - lock.stat().st_mtime < _YOUNG_SECONDS:
            return
        with filelock.FileLock(lock, timeout=0):
            shutil.rmtree(left, ignore_errors=True)


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Raise `OutputError` if `path` exists and may not be replaced; asked before the work as well as at its end."""
    try:
        exists = path.exists()
    except OSError as error:  # no right to look there, or a name too long
        raise _unwritable(path, error) from None
    if exists and not overwrite:
        raise OutputError(f"{path}: exists already; add --overwrite to replace it or choose another --out")


def check_place(path: Path) -> None:
    """Raise `OutputError` if a file cannot be put at `path`, as far as that shows; asked before what may take minutes."""
    try:
        folder = next(place for place in path.absolute().parents if place.exists())
        code = errno.EISDIR if path.is_dir() else 0 if folder.is_dir() else errno.ENOTDIR
        if not code and not os.access(folder, os.W_OK | os.X_OK):
            code = errno.EACCES
        if code:
            raise OSError(code, os.strerror(code))
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{path}: cannot be written ({error.strerror}); choose another --out")


@contextlib.contextmanager
def staged(final: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a path in `final`'s folder to write a file or a folder to; when the block ends without error it becomes `final`.

    Synced to disk before the rename. If the block raises, `final` keeps what it held. Raises `OutputError` if the
    place cannot be written or `final` exists and `overwrite` is false."""
    refuse_existing(final, overwrite=overwrite)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        room = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=final.parent))
    except OSError as error:
        raise _unwritable(final, error) from None
    partial = room / final.name
    try:
        try:
            yield partial
        except OSError as error:
            if error.errno in DISK_FULL:
                raise OutputError(f"{final}: {error.strerror}; free some space or choose another --out") from error
            raise
        try:
            _sync([partial, *partial.rglob("*")])
            _publish(partial, final, room / "replaced")
            _sync([final.parent])
        except OSError as error:
            raise _unwritable(final, error) from None
    finally:
        _remove(room)


def _publish(partial: Path, final: Path, replaced: Path) -> None:
    if not (partial.is_dir() and final.exists()):
        partial.replace(final)
    elif not _exchange(partial, final):
        final.rename(replaced)
        partial.rename(final)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two paths in one step, so that a kill finds the old folder or the new one; false where the system cannot."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    here, swap = -100, 2  # AT_FDCWD and RENAME_EXCHANGE, renameat2(2)
    return renameat2 is not None and renameat2(here, os.fsencode(one), here, os.fsencode(other), swap) == 0


def write_text(final: Path, text: str, *, overwrite: bool = True) -> None:
    """Publish a small text file."""
    with staged(final, overwrite=overwrite) as partial:
        partial.write_text(text, encoding="utf-8")


def _sync(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir() or path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
