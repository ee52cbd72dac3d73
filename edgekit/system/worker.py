"""Run a function in a fresh child process, so that a framework's crash, exit or appetite stays its own.

The parent believes a child only if it exited with 0 *and* left a result file: libraries here call `sys.exit(0)`
on failure, and the kernel kills without a word."""

import atexit
import contextlib
import errno
import gc
import json
import os
import pickle
import resource
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Generic, ParamSpec, TypeVar

import edgekit
from edgekit.errors import DISK_FULL, EdgekitError, OutputError, WorkerCrashed, WorkerOutOfMemory, WorkerTimeout, one_line
from edgekit.system import forkserver, limits, pickles, rooms
from edgekit.system.cage import confine
from edgekit.system.child import die_with_parent, signal_name
from edgekit.system.forkserver import Forked, ForkServer
from edgekit.system.serial import parse_json

P = ParamSpec("P")
T = TypeVar("T")

PROGRESS_FD = "EDGEKIT_PROGRESS_FD"
_TEMPORARY = "temporary"
_POLL_SECONDS = 0.1
_SIDE_BY_SIDE = 2
# What runs .tflite files, and what that needs loaded. A conversion has dozens of such children.
_INTERPRETER = ("ai_edge_litert.interpreter",)
_QUANTIZER = (*_INTERPRETER, "ai_edge_quantizer.quantizer")
_FORKED = {
    **dict.fromkeys(("edgekit.measure.execution", "edgekit.measure.layer_errors", "edgekit.measure.op_times"), _INTERPRETER),
    "edgekit.workflows.convert.bridge": _INTERPRETER,
    **{
        f"edgekit.stages.quantize.{module}": _QUANTIZER
        for module in ("calibrate", "candidates", "merge", "preflight", "quantizer", "search")
    },
}
# Of the process that it was started by, with the environment that it has.
_servers: tuple[int, Mapping[str, str], ForkServer] | None = None
_starting = threading.Lock()
# Set while the children of `together` are to be killed.
_cancelled = threading.Event()
# Frameworks make millions of objects that live as long as the child does; looking through them again and again took a tenth
# of an export's time.
_GC_THRESHOLD = 200_000
_LOG_TAIL = 4000
_NO_ROOM = "free some space, set TMPDIR or choose another --out"
# What every framework is told: tfmot and onnx2tf need Keras 2, which Keras 3 does not mind, and none should talk unasked.
_QUIET = {
    "TF_USE_LEGACY_KERAS": "1",
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "PYTHONUNBUFFERED": "1",
    "PYTHONFAULTHANDLER": "1",
}
_RUN = "from edgekit.system.worker import main; main(*sys.argv[2:])"
# The parent's sys.path first, and no current folder (-P): a user's own `json.py` or `edgekit/` there must not be imported.
_CHILD = f"import json, sys; sys.path[:] = json.loads(sys.argv[1]); {_RUN}"
# Another interpreter has packages of its own (-I), to which edgekit is added alone.
_ELSEWHERE = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("edgekit", sys.argv[1])
sys.modules["edgekit"] = edgekit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(edgekit)
{_RUN}"""


@dataclass(frozen=True)
class Progress:
    """`done` of `total` steps of `stage`; `note` is a short remark such as the current loss. Without steps it is all there is."""

    stage: str
    done: int
    total: int
    note: str = ""


OnProgress = Callable[[Progress], None] | None


@contextlib.contextmanager
def stage(on_progress: OnProgress, name: str) -> Iterator[None]:
    """Tell that the stage `name` begins and, unless it fails, that it is over."""
    if on_progress is not None:
        on_progress(Progress(name, 0, 1))
    yield
    if on_progress is not None:
        on_progress(Progress(name, 1, 1))


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What a child returned, its wall time in seconds and its peak resident memory in bytes."""

    value: T
    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Worker:
    """How to run children: most seconds, most bytes (resident, with descendants) beside what `limits` says, extra environment.

    `python` is the interpreter of another environment, which has the packages that the function imports and need have no others."""

    timeout_s: float | None = None
    memory_bytes: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    on_progress: OnProgress = None
    python: Path | None = None

    def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Outcome[T]:
        """Call a module-level `function` in a spawned child and return its `Outcome`.

        An `EdgekitError` raised by the child is raised here. Raises `WorkerCrashed`, `WorkerTimeout` or
        `WorkerOutOfMemory` when the child ends in any other way than by returning."""
        name = f"{function.__module__.removeprefix('edgekit.')}.{function.__qualname__}"
        # What a child that is killed has started may still write for a moment.
        with tempfile.TemporaryDirectory(dir=rooms.jobs(), ignore_cleanup_errors=True) as folder:
            job = Path(folder)
            (job / _TEMPORARY).mkdir()
            (job / "call").write_bytes(pickles.dumps((function, args, kwargs)))
            # Messages name the file that the child works on, if that is one the user knows.
            subject = next((given for given in args if isinstance(given, Path) and not rooms.holds(given)), None)
            name = name if subject is None else f"{subject}: {name}"
            started = time.perf_counter()
            code = self._wait(job, name, function.__module__, limits.silence([*args, *kwargs.values()]))
            seconds = time.perf_counter() - started
            return self._read(job, name, code, seconds, function.__module__.split(".")[0])

    def _wait(self, job: Path, name: str, module: str, silence: float) -> int:
        read_fd, write_fd = os.pipe()
        # Libraries leave temporary files behind (TensorFlow's autograph one for each function), more so when they are killed.
        private = {"TMPDIR": str(job / _TEMPORARY), PROGRESS_FD: str(write_fd)}
        environment = {**os.environ, **_QUIET, **self.env, **private}
        started = heard = time.monotonic()
        most = min((bound for bound in (self.timeout_s, limits.given().timeout_s) if bound is not None), default=None)
        try:
            with (job / "log").open("wb") as log:
                child = start(name, module, job, environment, log, write_fd, self.python)
        finally:
            os.close(write_fd)
        try:
            memory = limits.Memory(child.pid, self.memory_bytes)
            with selectors.DefaultSelector() as selector, os.fdopen(read_fd, "rb", buffering=0) as pipe:
                os.set_blocking(read_fd, False)
                selector.register(pipe, selectors.EVENT_READ)
                pending, stages = b"", dict[str, Progress]()
                while child.poll() is None:
                    if selector.select(_POLL_SECONDS):
                        chunk = pipe.read(65536)
                        if chunk:
                            heard = time.monotonic()
                            pending = self._progress(pending + chunk, stages)
                        else:
                            selector.unregister(pipe)
                            # Its end of the pipe closed, so it is leaving: waking at once saves a poll for each child.
                            with contextlib.suppress(subprocess.TimeoutExpired):
                                child.wait(_POLL_SECONDS)
                    if _cancelled.is_set():
                        raise WorkerCrashed(f"{name}: stopped, because what ran beside it ended early; start again", _log_tail(job))
                    now = time.monotonic()
                    if most is not None and now > started + most:
                        raise WorkerTimeout(f"{name}: {limits.stopped(most)}", _log_tail(job))
                    if most is None and now > heard + silence:
                        raise WorkerTimeout(
                            f"{name}: stopped after {silence:.0f} s without progress; allow more with --timeout, if it is sound",
                            _log_tail(job),
                        )
                    if memory.exceeded():
                        raise WorkerOutOfMemory(f"{name}: stopped above {memory.told}", _log_tail(job))
                self._progress(pending + (pipe.read(65536) or b""), stages)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            code = child.wait()
        for step in stages.values() if code == 0 else ():
            if self.on_progress is not None and step.done < step.total:
                self.on_progress(replace(step, done=step.total, note=""))
        return code

    def _progress(self, data: bytes, stages: dict[str, Progress]) -> bytes:
        """Tell what whole lines say and keep the last of each stage; the rest is given back."""
        *lines, rest = data.split(b"\n")
        for line in lines:
            step = Progress(**parse_json(line))
            stages[step.stage] = step
            if self.on_progress is not None:
                self.on_progress(step)
        return rest

    def _read(self, job: Path, name: str, code: int, seconds: float, package: str = "edgekit") -> Outcome[T]:
        result = job / "result"
        if code == 0 and result.exists():
            try:
                value, error, peak = pickles.loads(result.read_bytes(), package)
            except Exception as raised:  # what damaged pickles raise shares no base class
                raise WorkerCrashed(f"{name}: sent no result that can be read ({one_line(raised)})", _log_tail(job)) from raised
            if error is not None:
                raise error
            return Outcome(value, seconds, peak)
        log = _log_tail(job)
        if code == -signal.SIGKILL:
            cause = "killed by the system, most likely out of memory; free memory or give a smaller model"
            raise WorkerOutOfMemory(f"{name}: {cause}", log)
        if code == os.EX_IOERR:
            raise OutputError(f"{tempfile.gettempdir()}: {os.strerror(errno.ENOSPC)}; {_NO_ROOM}", log)
        if code < 0:
            raise WorkerCrashed(f"{name}: crashed with {signal_name(-code)}; run with --debug for its last output", log)
        lines = [line for line in log.splitlines() if line.strip()]
        last = lines[-1].strip()[:200] if lines else "no output"
        raise WorkerCrashed(f"{name}: a library left the process (exit code {code}): {last}", log)


def start(
    name: str, module: str, job: Path, env: Mapping[str, str], log: IO[bytes], progress: int, python: Path | None
) -> subprocess.Popen[bytes] | Forked:
    """A child that runs a function of `module`."""
    if python is None and (server := _server(module, env)) is not None:
        with contextlib.suppress(OSError, ValueError):
            return server.start(job, [name, places(job)], env, log.fileno(), progress, [*_FORKED[module], module])
    if python is None:
        command = [sys.executable, "-P", "-c", _CHILD, json.dumps([str(entry) for entry in sys.path])]
    else:
        command = [str(python), "-I", "-c", _ELSEWHERE, edgekit.__file__]
    return subprocess.Popen(
        [*command, str(job), str(os.getpid()), name, places(job)],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=env,
        pass_fds=(progress,),
        start_new_session=True,
    )


def preload(modules: Iterable[str]) -> None:
    """Have what children of `modules` need loaded while this process does something else."""
    environment = {**os.environ, **_QUIET}
    for module in modules:
        if (server := _server(module, environment)) is not None:
            with contextlib.suppress(OSError):
                server.load([*_FORKED[module], module])


def _server(module: str, env: Mapping[str, str]) -> ForkServer | None:
    """What forks the children of this process that run `module`; none where they would read another environment."""
    global _servers
    if module not in _FORKED or not forkserver.AVAILABLE:
        return None
    shared = {name: value for name, value in env.items() if name not in ("TMPDIR", PROGRESS_FD)}
    with _starting:
        # A fork of this process has none.
        if _servers is None or _servers[0] != os.getpid():
            with contextlib.suppress(OSError):
                _servers = os.getpid(), shared, ForkServer(env)
                atexit.register(_servers[2].close)
    return _servers[2] if _servers is not None and _servers[:2] == (os.getpid(), shared) else None


def places(job: Path) -> str:
    """Where the child of `job` may write, as it is told."""
    return json.dumps([str(place) for place in (job, *rooms.open_to_children())])


def together(tasks: Sequence[Callable[[], T]]) -> list[T]:
    """Results of `tasks`, each of which runs children; two run side by side.

    The first error is raised once all have ended; an interrupt kills the children first. Never for what is timed."""
    interrupted = False
    try:
        with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
            running = [pool.submit(task) for task in tasks]
            try:
                wait(running)
            except BaseException:
                interrupted = True
                _cancelled.set()
                for future in running:
                    future.cancel()
                raise
    finally:
        # By the call that set it and no other: one inside a task would clear it before the tasks beside it have seen it.
        if interrupted:
            _cancelled.clear()
    return [future.result() for future in running]


def progress(stage: str, done: int, total: int, note: str = "") -> None:
    """Tell the parent how far this child is; does nothing outside a worker."""
    if fd := os.environ.get(PROGRESS_FD):
        line = json.dumps({"stage": stage, "done": done, "total": total, "note": note}) + "\n"
        with contextlib.suppress(OSError):
            os.write(int(fd), line.encode())


def peak_memory() -> int:
    """Peak resident memory of this process in bytes.

    VmHWM, because `ru_maxrss` survives exec and would report the parent's peak for a small child."""
    with contextlib.suppress(OSError, IndexError):
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _log_tail(job: Path) -> str:
    return (job / "log").read_bytes()[-_LOG_TAIL:].decode(errors="replace")


def _typed(raised: BaseException, name: str) -> EdgekitError:
    trace = traceback.format_exc()
    if isinstance(raised, EdgekitError):
        raised.detail = raised.detail or trace
        return raised
    if isinstance(raised, MemoryError):
        return WorkerOutOfMemory(f"{name}: out of memory; free memory or give a smaller model", trace)
    text = " ".join(str(raised).split())[:300]
    # Libraries wrap what the system says in errors of their own.
    full = [os.strerror(number) for number in DISK_FULL if number == getattr(raised, "errno", None) or os.strerror(number) in text]
    if full:
        return OutputError(f"{getattr(raised, 'filename', None) or name}: {full[0]}; {_NO_ROOM}", trace)
    return WorkerCrashed(f"{name}: {type(raised).__name__}: {text}; run with --debug for more", trace)


def main(job: str, parent: str, name: str, writable: str) -> None:
    """Do the `job` of the process `parent`; a child's whole life."""
    die_with_parent(int(parent))
    confine(map(Path, json.loads(writable)), limits.most_memory())
    gc.set_threshold(_GC_THRESHOLD)
    try:
        with (Path(job) / "call").open("rb") as call:
            function, args, kwargs = pickle.load(call)
        result = pickles.dumps((function(*args, **kwargs), None, peak_memory()))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as raised:  # a panic of Rust is no Exception
        result = pickles.dumps((None, _typed(raised, name), peak_memory()))
    partial = Path(job) / "result.partial"
    try:
        partial.write_bytes(result)
        partial.rename(partial.with_name("result"))
    except OSError:
        os._exit(os.EX_IOERR)
    sys.stdout.flush()
    sys.stderr.flush()
    # Frameworks run threads and destructors at exit that can hang or crash after the work is safely done.
    os._exit(0)
