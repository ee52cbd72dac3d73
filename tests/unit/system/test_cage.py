"""A child writes in its run's rooms and nowhere else, opens no connection, and sends back values alone."""

import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import WorkerCrashed
from edgekit.system import cage, rooms
from edgekit.system.worker import Worker


def _enforced() -> bool:
    told = "import sys; from edgekit.system.cage import confine; sys.exit(len(confine([], 2**40)) < 2)"
    return subprocess.run([sys.executable, "-c", told], check=False).returncode == 0


pytestmark = pytest.mark.skipif(not _enforced(), reason="needs Landlock and seccomp, which this system lacks")


@pytest.fixture(autouse=True)
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a command: nothing but its rooms."""
    monkeypatch.setattr(rooms, "_writable", [])


def _write(place: Path) -> None:
    place.write_text("new")


def _start_one_that_writes(place: Path) -> None:
    subprocess.run([sys.executable, "-c", f"open({str(place)!r}, 'w').write('new')"], check=True, capture_output=True)


def _connect(family: int) -> None:
    with socket.socket(family):
        pass


def _kill(pid: int) -> None:
    os.kill(pid, 0)


@pytest.mark.parametrize("act", [_write, Path.unlink, _start_one_that_writes], ids=["overwrite", "delete", "by another process"])
def test_what_lies_outside_stays_as_it_is(tmp_path: Path, act: Callable[[Path], Any]) -> None:
    (tmp_path / "thesis.txt").write_text("three years")
    with pytest.raises(WorkerCrashed):
        Worker(timeout_s=60).run(act, tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "three years"


def test_it_makes_no_file_beside_others(tmp_path: Path) -> None:
    with pytest.raises(WorkerCrashed, match="Permission denied"):
        Worker(timeout_s=60).run(_write, tmp_path / "new")
    assert not [*tmp_path.iterdir()]


def test_it_writes_in_rooms_and_where_it_is_told(tmp_path: Path) -> None:
    with rooms.temporary("test") as room, rooms.writable(tmp_path):
        for folder in (room, tmp_path):
            Worker(timeout_s=60).run(_write, folder / "new")
            assert (folder / "new").read_text() == "new"


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
def test_it_opens_no_connection(family: int) -> None:
    with pytest.raises(WorkerCrashed, match="PermissionError"):
        Worker(timeout_s=60).run(_connect, family)


def test_it_reaches_no_process_outside() -> None:
    with pytest.raises(WorkerCrashed, match="PermissionError"):
        Worker(timeout_s=60).run(_kill, os.getpid())


class _Runs:
    """What is run when somebody reads its pickle."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


_POPEN = b"\x8c\x0asubprocess\x94\x8c\x05Popen"
# A dotted name reaches what a module of ours imports.
_OUR_POPEN = b"\x8c\x15edgekit.system.worker\x94\x8c\x10subprocess.Popen"


@pytest.mark.parametrize("sent", [_Runs(os.system, "true"), _Runs(Path.unlink, Path("x")), _Runs(subprocess.Popen, ["true"])])
@pytest.mark.parametrize("name", [_POPEN, _OUR_POPEN], ids=["as it is", "through a module of ours"])
def test_a_result_that_would_run_something_is_refused(sent: Any, name: bytes, tmp_path: Path) -> None:
    (tmp_path / "result").write_bytes(pickle.dumps((sent, None, 0)).replace(_POPEN, name))
    (tmp_path / "log").touch()
    with pytest.raises(WorkerCrashed, match="is no plain data"):
        Worker()._read(tmp_path, "job", 0, 1.0)


def test_without_the_systems_means_a_child_works_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cage.confine([], 2**40) == ()
