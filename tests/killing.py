"""Training runs that get kill -9 in the middle."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekit.errors import OutputError
from edgekit.system import artifacts

_SCRIPT = """
import pickle, sys
stage, arguments = pickle.load(open(sys.argv[1], "rb"))
stage(*arguments)
"""


def kill_training(stage: Callable[..., Any], arguments: tuple[Any, ...], out: Path) -> None:
    """Start a training stage that writes `out` and kill it once its first state is there; the hidden folder alone stays."""
    call = out.parent / "call"
    call.write_bytes(pickle.dumps((stage, arguments)))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", _SCRIPT, str(call)], env=environment)
    room = out.parent / f".{out.name}.resume"
    deadline = time.monotonic() + 60
    while not any(room.glob("state-*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    call.unlink()
    while not _unlocked(room):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not out.exists()


def _unlocked(room: Path) -> bool:
    try:
        with artifacts.claimed(room):
            return True
    except OutputError:
        return False
