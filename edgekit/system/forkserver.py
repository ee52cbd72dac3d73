"""Children forked from a process that has loaded what they run: they start in milliseconds, not after a second of imports.

It reads no file of anyone's and starts no thread; it ends with the process that asks it, and its children with it."""

import contextlib
import importlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

_SERVE = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from edgekit.system.forkserver import serve; serve(sys.argv[2])"
_BEGIN = "begin"
_LONGEST_PATH = 4096
_STATUS = struct.Struct("i")
# Linux has had it since 5.3.
AVAILABLE = hasattr(os, "pidfd_open")


class Forked:
    """A child of another process, with what a worker asks of `subprocess.Popen`."""

    def __init__(self, pid: int, status: int) -> None:
        self.pid, self._status = pid, status
        self.returncode: int | None = None

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a forked child", timeout or 0)
            status = os.read(self._status, _STATUS.size)
            os.close(self._status)
            # A server that was killed took its children with it.
            self.returncode = int(_STATUS.unpack(status)[0]) if status else -signal.SIGKILL
        return self.returncode


class ForkServer:
    """A process with the environment `env` that forks on demand. Raises `OSError` where none can be started."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _SERVE, json.dumps([str(entry) for entry in sys.path]), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=env,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )

    def load(self, modules: Sequence[str]) -> None:
        """Have it load `modules`, which is not waited for."""
        with self._lock:
            socket.send_fds(self._socket, [json.dumps([*modules]).encode()], [])

    def start(
        self, job: Path, call: Sequence[str], env: Mapping[str, str], log: int, progress: int, modules: Sequence[str]
    ) -> Forked:
        """A child that does the worker's `job` as `call` says once `modules` are loaded; `log` and `progress` are descriptors.

        Raises `OSError` and `ValueError` if the server is gone."""
        begin = {"call": [*call], "env": dict(env), "folder": str(Path.cwd()), "modules": [*modules], "path": [*map(str, sys.path)]}
        (job / _BEGIN).write_text(json.dumps(begin))
        reading, writing = os.pipe()
        try:
            with self._lock:
                socket.send_fds(self._socket, [str(job).encode()], [log, progress, writing])
                return Forked(int(self._socket.recv(32)), reading)
        except (OSError, ValueError):
            os.close(reading)
            raise
        finally:
            os.close(writing)

    def close(self) -> None:
        """End it, and its children with it."""
        self._process.kill()
        self._process.wait()
        self._socket.close()


def serve(number: str) -> None:
    """Fork what is asked for on the socket with this number; the server's whole life."""
    from edgekit.system import worker

    requests = socket.socket(fileno=int(number))
    # By what tells of a child's end: the child, and where its status is told.
    children: dict[int, tuple[int, int]] = {}
    while True:
        ready = select.select([requests.fileno(), *children], [], [])[0]
        for ended in children.keys() & ready:
            pid, status = children.pop(ended)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            with contextlib.suppress(OSError):
                os.write(status, _STATUS.pack(code))
            os.close(status)
            os.close(ended)
        if requests.fileno() not in ready:
            continue
        message, descriptors, *_ = socket.recv_fds(requests, _LONGEST_PATH, 3)
        if not message:
            os._exit(0)
        if not descriptors:
            _load(json.loads(message))
            continue
        job, (log, progress, status) = message.decode(), descriptors
        begin = json.loads((Path(job) / _BEGIN).read_bytes())
        _load(begin["modules"])
        parent, pid = os.getpid(), os.fork()
        if pid == 0:
            for one in (requests.fileno(), status, *children, *(other for _, other in children.values())):
                os.close(one)
            os.setsid()
            os.chdir(begin["folder"])
            os.environ.clear()
            os.environ.update(begin["env"], **{worker.PROGRESS_FD: str(progress)})
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.path[:] = begin["path"]
            tempfile.tempdir = None
            worker.main(job, str(parent), *begin["call"])
        children[os.pidfd_open(pid)] = pid, status
        os.close(log)
        os.close(progress)
        requests.send(str(pid).encode())


def _load(modules: Sequence[str]) -> None:
    for module in modules:
        # The child comes to the same end, and tells of it.
        with contextlib.suppress(Exception):
            importlib.import_module(module)
