"""Children forked from a server: the same results and ends as those that start from nothing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from edgekit.errors import ConfigError, WorkerCrashed, WorkerOutOfMemory, WorkerTimeout
from edgekit.system import worker
from edgekit.system.worker import Progress, Worker, together


@pytest.fixture(autouse=True)
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions of this module run in forked children, of a server for each test."""
    monkeypatch.setitem(worker._FORKED, __name__, ("json",))
    monkeypatch.setattr(worker, "_servers", None)


def _ids(variable: str = "") -> tuple[int, int, str, str]:
    return os.getpid(), os.getppid(), str(Path.cwd()), os.environ.get(variable, "")


def _end(how: str) -> None:
    os.write(1, b"its last words\n")
    worker.progress("working", 1, 2)
    if how == "config":
        raise ConfigError("no such option")
    if how == "exit":
        sys.exit(0)
    if how == "abort":
        os.abort()
    time.sleep(60)


def test_children_have_one_parent_which_is_not_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, parent, _, _ = Worker().run(_ids).value
    monkeypatch.chdir(tmp_path)
    second, same, folder, _ = Worker().run(_ids).value
    assert first != second
    assert parent == same != os.getpid()
    assert folder == str(tmp_path)
    assert len({outcome.value[0] for outcome in together([lambda: Worker().run(_ids)] * 5)}) == 5


def test_another_environment_is_a_fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Worker().run(_ids).value[1]
    monkeypatch.setenv("EDGEKIT_TEST", "changed")
    _, parent, _, value = Worker().run(_ids, "EDGEKIT_TEST").value
    assert (parent, value) == (os.getpid(), "changed")
    assert server != parent


@pytest.mark.parametrize(
    ("how", "error", "text"),
    [
        ("config", ConfigError, "^no such option$"),
        ("exit", WorkerCrashed, r"a library left the process \(exit code 0\): its last words"),
        ("abort", WorkerCrashed, "crashed with SIGABRT"),
    ],
)
def test_an_end_is_told_as_that_of_any_child(how: str, error: type[Exception], text: str) -> None:
    steps: list[Progress] = []
    with pytest.raises(error, match=text):
        Worker(on_progress=steps.append).run(_end, how)
    assert steps[0] == Progress("working", 1, 2)


def test_a_limit_ends_the_child_and_not_the_server() -> None:
    server = Worker().run(_ids).value[1]
    with pytest.raises(WorkerTimeout, match="the limit of 1 s"):
        Worker(timeout_s=1).run(_end, "sleep")
    assert psutil.Process(server).children() == []
    assert Worker().run(_ids).value[1] == server


def test_a_killed_server_takes_its_children_along_and_is_done_without() -> None:
    server = Worker().run(_ids).value[1]

    def kill(step: Progress) -> None:
        os.kill(server, signal.SIGKILL)

    with pytest.raises(WorkerOutOfMemory, match="killed by the system"):
        Worker(on_progress=kill).run(_end, "sleep")
    assert Worker().run(_ids).value[1] == os.getpid()


def test_no_server_is_left_behind(root: Path) -> None:
    script = """
import psutil
from edgekit.stages.quantize import preflight
from edgekit.system.worker import Worker
Worker().run(preflight.measure_rates)
print(*(child.pid for child in psutil.Process().children()))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    (server,) = done.stdout.split()
    assert not psutil.pid_exists(int(server))
