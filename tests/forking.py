"""Children forked from processes that have loaded what they need: hundreds of them would spend seconds each on imports.

What they run and how they end is the same; that a child starts from nothing, the tests that call the command line see to.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.forkserver import ForkServer
from pathlib import Path
from typing import IO, Any
from unittest import mock

from edgekit.system import worker

# What is loaded, and the functions that want it by the beginning of their names.
_LOADED = {
    "torch transformers.models.bert.modeling_bert transformers.models.auto.modeling_auto edgekit.models.weights": """
        stages.train. stages.prune. stages.export.onnx. stages.export.torchscript. stages.export.litert. stages.export.compact.
        tests.tiny. tests.unit.tasks. tests.unit.models. tests.unit.stages.train. tests.unit.stages.prune.
        tests.unit.stages.export.architectures.save_ tests.unit.stages.export.architectures.to_onnx
        tests.unit.stages.export.architectures.ranges tests.unit.stages.export.architectures.layer_outputs
        tests.unit.classifiers. tests.integration.test_tasks. tests.integration.test_prune.prune_each
        tests.integration.test_export.prune tests.integration.test_compare.traced
    """,
    "tensorflow tf_keras onnx2tf": """
        stages.keras. stages.export.saved_model. stages.quantize.converter. tests.unit.stages.keras.
        tests.unit.stages.export.graphs. tests.unit.stages.export.architectures.to_tflite tests.integration.sources.write_
        tests.integration.test_prune.convert_each tests.integration.test_export.serve tests.integration.test_advise.
        tests.integration.test_diagnose.
    """,
    "ai_edge_litert.interpreter ai_edge_quantizer.quantizer edgekit.workflows.convert.conversion": """
        stages. tasks. models. workflows.
    """,
}
# The worker's own variables, pytest's, which change from test to test, and what scikit-learn and the quantizer set in this process.
_OWN = ("TMPDIR", worker._PROGRESS_FD, "PYTEST_", "KMP_", "TQDM_")
_CONTEXT = multiprocessing.get_context("forkserver")
_STARTING = threading.Lock()


def install() -> None:
    """From now on `Worker.run` of this process forks the children of `_LOADED`."""
    start = worker._start
    loaded_with = _shared({**os.environ, **worker._QUIET})
    servers = [(_server(modules.split()), tuple(names.split())) for modules, names in _LOADED.items()]

    def forked(name: str, job: Path, env: Mapping[str, str], log: IO[bytes], progress: int, python: Path | None) -> Any:
        # A name may begin with the file that the child works on.
        function = name.rpartition(": ")[2]
        server = next((server for server, names in servers if function.startswith(names)), None)
        if server is None or python is not None or _shared(env) != loaded_with:
            return start(name, job, env, log, progress, python)
        return _Forked(server, name, job, env, log, progress)

    worker._start = forked


def _server(modules: list[str]) -> ForkServer:
    server, kept = ForkServer(), os.dup(2)
    server.set_forkserver_preload(modules)
    with mock.patch.dict(os.environ, worker._QUIET), Path(os.devnull).open("wb") as nowhere:
        # Libraries tell what they miss while they load.
        os.dup2(nowhere.fileno(), 2)
        server.ensure_running()
        os.dup2(kept, 2)
    os.close(kept)
    return server


def _shared(env: Mapping[str, str]) -> dict[str, str]:
    """What a library may have read when it was loaded."""
    return {name: value for name, value in env.items() if not name.startswith(_OWN)}


class _Forked:
    """What a worker asks of `subprocess.Popen`."""

    def __init__(self, server: ForkServer, name: str, job: Path, env: Mapping[str, str], log: IO[bytes], progress: int) -> None:
        # A connection is what multiprocessing hands on to a process that runs already.
        handed = [Connection(os.dup(number), readable=False) for number in (log.fileno(), progress)]
        self._process = _CONTEXT.Process(
            target=_run, args=(*handed, Path.cwd(), dict(env), sys.path, str(job), name, worker.places(job))
        )
        # multiprocessing knows of one server.
        with _STARTING, mock.patch.object(forkserver, "connect_to_new_process", server.connect_to_new_process):
            self._process.start()
        self.pid = self._process.pid
        for connection in handed:
            connection.close()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        if timeout is not None and self.returncode is None:
            raise subprocess.TimeoutExpired("a forked child", timeout)
        return self.returncode


def _run(
    log: Connection, progress: Connection, folder: Path, env: dict[str, str], paths: list[str], job: str, name: str, writable: str
) -> None:
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env, **{worker._PROGRESS_FD: str(progress.fileno())})
    for number in (1, 2):
        os.dup2(log.fileno(), number)
    sys.path[:] = paths
    tempfile.tempdir = None
    worker._main(job, str(os.getppid()), name, writable)
