"""What edgekit writes: published whole or not at all, with a manifest that says what it is and where it came from."""

import contextlib
import ctypes
import errno
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock

from edgekit.errors import DISK_FULL, OutputError
from edgekit.system import rooms
from edgekit.system.serial import plain, read_json, to_json

# The manifest inside a checkpoint folder; those of files lie beside them. A bundle has checksums.
MANIFEST, SUMS = "edgekit.json", "SHA256SUMS"
LOCK_NAME = ".edgekit.lock"
_PARTIAL = ".edgekit-partial-"
_COMMITTING, _COMMITTED, _REPLACED = ".committing", ".committed", ".replaced"
# Between making a room and locking it lies a moment.
_YOUNG_SECONDS = 60
# An absolute path inside a sentence; what follows a colon, as in https://, is none.
_PLACE = re.compile(r"(?<![\w.:/~-])/(?:[^\s/\"',;:()]+/)+[^\s/\"',;:()]*")


@dataclass(frozen=True)
class Artifact:
    """A published file or folder and its history; written as JSON beside it.

    `parents` maps each source's name to its sha256, `config` is what the stage was told, `tools` the versions of the
    packages that did the work, `measured` what was found when the result was run, `files` the sha256 of each file in a folder."""

    kind: str
    path: str
    sha256: str
    size_bytes: int
    parents: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    config_sha256: str = ""
    tools: Mapping[str, str] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


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
    """Hash what lies at `path` and return its `Artifact`; `name` is what it will be published as, `tools` are package names.

    A tool of another environment comes with its version, as `onnx2tf==2.6.9`."""
    settings, versions = plain(config) if config is not None else {}, {}
    for tool in ("edgekit", *tools):
        package, _, version = tool.partition("==")
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = version or importlib.metadata.version(package)
    files = _digests(path) if path.is_dir() else {}
    return Artifact(
        kind=kind,
        path=name or path.name,
        sha256=_combined(files) if path.is_dir() else sha256(path),
        size_bytes=size(path),
        parents=dict(parents or {}),
        config=settings,
        config_sha256=hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest(),
        tools=versions,
        measured=plain(measured) if measured is not None else {},
        files=files,
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
    refuse_existing(final, overwrite=overwrite)
    with staged(final, overwrite=overwrite) as partial:
        draft = Draft(partial, measured)
        yield draft
        draft.artifact = artifact = describe(
            partial, kind, name=final.name, parents=parents, config=config, tools=tools, measured=draft.measured
        )
        # Names that are not UTF-8 are written as JSON's escapes.
        content = to_json(portable(plain(artifact), final.parent)).encode(errors="backslashreplace")
        inside = partial.is_dir() and manifest is None
        (partial / MANIFEST if inside else partial.with_name((manifest or final.with_suffix(".json")).name)).write_bytes(content)


def portable(value: Any, folder: Path) -> Any:
    """Plain data without this machine's paths: in `folder`, the current one or home relative, elsewhere a name alone.

    What is published does not tell who made it, and where."""
    roots = (folder, folder.resolve(), Path.cwd(), Path.home())
    return _portable(value, [f"{str(root).rstrip('/')}/" for root in dict.fromkeys(roots) if root.is_absolute()])


def _portable(value: Any, roots: Sequence[str]) -> Any:
    if isinstance(value, dict):
        return {_portable(key, roots): _portable(item, roots) for key, item in value.items()}
    if isinstance(value, list):
        return [_portable(item, roots) for item in value]
    if not isinstance(value, str):
        return value
    for root in roots:
        value = value.replace(root, "")
    return _name(value) if value.startswith("/") and "\n" not in value else _PLACE.sub(lambda place: _name(place[0]), value)


def _name(place: str) -> str:
    """The last part of a path; what begins in no folder of this machine is none, such as an op's name in an .onnx file."""
    parts = Path(place).parts
    return Path(place).name if len(parts) > 1 and Path(*parts[:2]).exists() else place


def sha256(path: Path) -> str:
    """Hex digest of a file, or of a folder's relative names and contents in sorted order (hidden ones left out)."""
    if path.is_file():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    return _combined(_digests(path, hidden=False))


def _digests(folder: Path, *, hidden: bool = True) -> dict[str, str]:
    """Of each file in a folder by its relative name, in order."""
    return {file.relative_to(folder).as_posix(): sha256(file) for file in _files(folder, hidden=hidden)}


def _combined(files: Mapping[str, str]) -> str:
    """A folder's digest from those of its files."""
    digest = hashlib.sha256()
    for name in (name for name in files if not _is_hidden(name)):
        digest.update(f"{name}\0{files[name]}\n".encode())
    return digest.hexdigest()


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in Path(name).parts)


def size(path: Path) -> int:
    """Bytes of a file, or of a folder's files together."""
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in _files(path))


def _files(folder: Path, *, hidden: bool = False) -> list[Path]:
    every = (file for file in folder.rglob("*") if file.is_file() or file.is_symlink())
    return sorted(file for file in every if hidden or not _is_hidden(str(file.relative_to(folder))))


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
        _sweep(folder)
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
    with claimed(folder) as room, rooms.writable(room):
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


def refuse_existing(path: Path, *, overwrite: bool, whole: bool = True) -> None:
    """Raise `OutputError` if `path` exists and may not be replaced; asked before the work as well as at its end.

    A folder that is replaced as a `whole` may be where edgekit's own manifest accounts for all that lies in it."""
    _refuse_existing(path, overwrite)
    if whole and path.is_dir() and (foreign := _foreign(path)):
        others = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise OutputError(
            f"{path}: holds {foreign[0]}{others}, which edgekit did not write or which changed since; "
            "move that elsewhere or choose another --out"
        )


def _refuse_existing(path: Path, overwrite: bool) -> None:
    try:
        exists = path.exists()
    except OSError as error:  # no right to look there, or a name too long
        raise _unwritable(path, error) from None
    if exists and not overwrite:
        raise OutputError(f"{path}: exists already; add --overwrite to replace it or choose another --out")


def _foreign(folder: Path) -> list[str]:
    """Names of the files in a folder that none of edgekit's manifests accounts for."""
    known: dict[str, str] = {MANIFEST: ""}
    for manifest in (folder / MANIFEST, folder.with_name(f"{folder.name}.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            known |= read_json(manifest)["files"]
    with contextlib.suppress(OSError, ValueError):
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
        known |= {SUMS: ""} | {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    names = {file.relative_to(folder).as_posix(): file for file in _files(folder, hidden=True)}
    return [name for name, file in names.items() if not (name in known and known[name] in ("", sha256(file)))]


def refuse_source(path: Path, source: Path, what: str = "") -> None:
    """Raise `OutputError` if what is to be written to `path` would take the place of `what` it is made of."""
    made_of = source.resolve()
    if path.resolve() in (made_of, *made_of.parents):
        raise OutputError(f"{path}: holds {what or f'{source}, which it is made of'}; choose another --out")


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
    """Yield a path in a room of its own to write a file or a folder to; when the block ends without error it becomes `final`.

    Files that lie beside it in the room then come to lie beside `final`: a run that is killed between the two is finished by the
    next one that claims the folder. All is synced to disk before. If the block raises, `final` keeps what it held. Raises
    `OutputError` if the place cannot be written or `final` exists and `overwrite` is false."""
    _refuse_existing(final, overwrite)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        _sweep(final.parent)
        room = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=final.parent))
    except OSError as error:
        raise _unwritable(final, error) from None
    lock = None
    # Where the file system has no locks nobody sweeps, either.
    with contextlib.suppress(OSError):
        lock = rooms.locked(room)
    partial = room / final.name
    try:
        try:
            with rooms.writable(room):
                yield partial
        except OSError as error:
            if error.errno in DISK_FULL:
                raise OutputError(f"{final}: {error.strerror}; free some space or choose another --out") from error
            raise
        try:
            partial.stat()
            beside = [item for item in room.iterdir() if item != partial]
            _sync([partial, *partial.rglob("*"), *beside])
            (room / _COMMITTING).write_text(str(partial.stat().st_ino))
            _sync([room / _COMMITTING])
            (room / _COMMITTING).rename(room / _COMMITTED)
            _sync([room])
            _finish(room)
            _sync([final.parent])
        except OSError as error:
            raise _unwritable(final, error) from None
    finally:
        _remove(room)
        if lock is not None:
            os.close(lock)


def _sweep(folder: Path) -> None:
    """Finish what killed runs were about to publish in `folder`, and clear away what they left half-written."""
    for stale in folder.glob(f"{_PARTIAL}*"):
        # Whose owner is at work, or that is gone by now, stays; so does one that was made a moment ago and is not locked yet.
        with contextlib.suppress(OSError):
            young = time.time() - stale.stat().st_mtime < _YOUNG_SECONDS and not any(stale.iterdir())
            lock = rooms.locked(stale)
            try:
                if not young:
                    _finish(stale)
                    _remove(stale)
            finally:
                os.close(lock)


def _finish(room: Path) -> None:
    """Give what lies in a room its final name, if all that belongs together was there; again where a run was killed over it."""
    if not (room / _COMMITTED).exists():
        return
    number = (room / _COMMITTED).read_text()
    for item in [item for item in room.iterdir() if item.name not in (_COMMITTED, _REPLACED)]:
        if item.is_file():
            item.replace(room.parent / item.name)
        # Once folders have changed places it is the old one.
        elif str(item.stat().st_ino) == number:
            _publish(item, room.parent / item.name, room / _REPLACED)


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
