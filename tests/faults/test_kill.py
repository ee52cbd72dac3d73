"""kill -9 and Ctrl-C in the middle: nothing half-written, nothing left running."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.system import artifacts

Contents = Callable[[Path], dict[str, bytes]]

_PUBLISH = """
import sys, time
from pathlib import Path
from edgekit.system import artifacts
final = Path(sys.argv[1])
with artifacts.claimed(final.parent), artifacts.staged(final, overwrite=True) as partial:
    if sys.argv[2] == "folder":
        partial.mkdir()
        (partial / "weights.bin").write_bytes(b"half")
    else:
        partial.write_bytes(b"half")
    print("half", flush=True)
    time.sleep(60)
"""

_SWAP = """
import os, sys
from pathlib import Path
from edgekit.system import artifacts
final = Path(sys.argv[1])
artifacts._remove = lambda path: os.kill(os.getpid(), 9)
with artifacts.staged(final, overwrite=True) as partial:
    partial.mkdir()
    (partial / "weights.bin").write_bytes(b"new")
"""

_WORK = """
import sys
from pathlib import Path
from edgekit.system import rooms
from edgekit.system.worker import Worker
from tests.faults.test_kill import hold
with rooms.writable(Path(sys.argv[1]).parent):
    Worker().run(hold, sys.argv[1])
"""


def hold(pid_file: str) -> None:
    """Say who is running and go on for a minute."""
    Path(f"{pid_file}.partial").write_text(str(os.getpid()))
    Path(f"{pid_file}.partial").rename(pid_file)
    time.sleep(60)


def _start(script: str, *arguments: str, root: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _wait_until(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_kill_while_writing_leaves_the_old_output_and_frees_the_lock(
    tmp_path: Path, contents: Contents, root: Path, kind: str
) -> None:
    final = tmp_path / "out" / "model"
    final.parent.mkdir()
    if kind == "folder":
        final.mkdir()
        (final / "weights.bin").write_bytes(b"old")
    else:
        final.write_bytes(b"old")
    before = contents(final.parent)
    with _start(_PUBLISH, str(final), kind, root=root) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        process.kill()
    after = contents(final.parent)
    assert {name: data for name, data in after.items() if not name.startswith(".edgekit")} == before
    assert any(name.startswith(artifacts._PARTIAL) for name in after)
    with artifacts.claimed(final.parent):
        assert contents(final.parent) == {**before, artifacts.LOCK_NAME: b""}


def test_kill_after_the_exchange_of_folders_leaves_the_new_one_whole(tmp_path: Path, root: Path) -> None:
    final = tmp_path / "out" / "checkpoint"
    final.mkdir(parents=True)
    (final / "weights.bin").write_bytes(b"old")
    with _start(_SWAP, str(final), root=root) as process:
        assert process.wait(timeout=30) == -signal.SIGKILL
    assert (final / "weights.bin").read_bytes() == b"new"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_the_child_ends_with_its_parent(tmp_path: Path, root: Path, number: signal.Signals) -> None:
    pid_file = tmp_path / "pid"
    with _start(_WORK, str(pid_file), root=root) as process:
        assert _wait_until(pid_file.exists)
        child = int(pid_file.read_text())
        assert not _gone(child)
        process.send_signal(number)
        assert process.wait(timeout=20) == -number
    assert _wait_until(lambda: _gone(child), 5)
