"""Damaged files at every door, kills at every moment, and full disks: in the thousands what the tests try once each.

python benchmarks/faults.py [--shared ../shared] [--part inspect …] [--scale 0.01] [--seed 0] [--work FOLDER]
python benchmarks/faults.py --only PART:NUMBER --work FOLDER

Parts: inspect (.tflite files, as a command itself reads them), interpreter (the same, run in confined children), commands (the
same and .onnx through the command line), onnx (.onnx through `convert`), frameworks (.h5, .keras and .pt2 likewise), files (data,
checkpoints, recipes, manifests, plans, and what travels inside a .tflite), kills (kill -9 of five commands over earlier outputs),
full (outputs and temporary files on a disk that grows until there is room).

Nothing may run what a file says, nothing may be lost, nothing may hang: a file is answered or refused with one line. What breaks
a rule is kept in WORK/failed, and `--only` makes it again, with the same --seed and --scale and the sound files of the same WORK.
With --shared its small models and files of others are damaged, too. A full run is laid out for less than 90 minutes on two cores.
"""

import argparse
import contextlib
import csv
import functools
import hashlib
import itertools
import json
import multiprocessing
import os
import random
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO, Any, NoReturn

import mutations
import numpy as np
import psutil
from checks import Checks
from mutations import Damage

import edgekit
from edgekit.errors import EdgekitError, printable
from edgekit.measure.machine import machine
from edgekit.spec import DataSpec, TensorSpec
from edgekit.system import artifacts, limits
from edgekit.system.cage import confine
from edgekit.system.child import die_with_parent, signal_name
from edgekit.system.worker import peak_memory

ROOT = Path(__file__).resolve().parent.parent
# The tests' own tiny models; a script finds only what lies beside it.
sys.path.append(str(ROOT))
from tests import tiny  # noqa: E402

PACKAGE = Path(edgekit.__file__).parent
CONTEXT = multiprocessing.get_context("fork")
LANES = 2
ANSWERED, STOPPED = "answered", "stopped"

MOST_PARENT_BYTES = 500e6
# Beyond this a process is stopped for the machine's sake.
FATAL_BYTES = 4 * 2**30
# The limits that commands put on their children, in seconds and GiB, where they have such options.
LIMITS = {"--timeout": "20", "--memory-limit": "4"}
WALL_S, SETUP_S = 60.0, 900.0
CODES = (0, 2, 3, 4, 5, 6)
LARGEST_SEED = 4 * 2**20
MOST_KEPT, MOST_TOLD = 100, 12

UNFORESEEN = "no exception but an EdgekitError"
CRASH = "no crash of the process that reads the file"
LATE = "nothing runs beyond its limit"
OUTSIDE = "nothing is written outside the child's own folder"
SOUND = "sound files are answered"
LIMITED = "each command has " + " and ".join(LIMITS)
CODE = f"the exit code is one of {', '.join(map(str, CODES))}"
LINE = "a refusal ends in one line that names the file"
TRACE = "no traceback, and nothing unforeseen"
LEFT = "nothing of a run is left in TMPDIR after the next"
BEFORE = "after a refusal all files are as they were"
MATCH = "what is published fits its manifest, and nothing else has changed"
WHOLE = "what lies there is the old whole or the new whole"
FOREIGN = "foreign files are as they were"
ORPHANS = "no child outlives its parent"
RESUMES = "the next run ends well and leaves nothing half-written"
CLEAN = "nothing half-written is left"
FULL = "the exit code is 6, or 0 where there is room"
NAMED = "a refusal ends in one line that names the place"

TEXT = "a warm, funny film"


@dataclass(frozen=True)
class Case:
    """What became of one file or one run: `kind` is its row in the table, `verdict` an answer or what it was refused with.

    `broken` has the rules that it broke, each with what was seen; `crashed` and `stopped` tell of children, or of the process that
    should have lived."""

    part: str
    number: int
    kind: str
    verdict: str = ANSWERED
    broken: tuple[tuple[str, str], ...] = ()
    crashed: bool = False
    stopped: bool = False
    seconds: float = 0.0
    parent_bytes: int = 0


@dataclass(frozen=True)
class Place:
    """What all parts share: sound files in `seeds`, `work` to work in, `failed` for what broke a rule, or with `keep` for all."""

    work: Path
    seed: int
    scale: float
    keep: bool = False

    @property
    def seeds(self) -> Path:
        return self.work / "seeds"

    @property
    def failed(self) -> Path:
        return self.work / "failed"


class Attack(ABC):
    """One part; its cases are numbered, and each can be made again alone."""

    name = ""
    words = ""
    count = 0
    limit_s = 10.0
    rules: tuple[str, ...] = ()
    # Whether the memory of the process that reads the files is held against its limit.
    weighed = False

    def __init__(self, place: Place) -> None:
        self.place = place

    def numbers(self) -> list[int]:
        return [*range(max(1, round(self.count * self.place.scale)))]

    def shares(self, numbers: Sequence[int]) -> list[list[int]]:
        """What each of the processes that run side by side does."""
        return [[*numbers[lane::LANES]] for lane in range(LANES)]

    @abstractmethod
    def cases(self, numbers: Sequence[int], lane: Path) -> Iterator[Case]:
        """The cases with these numbers; all that they write lies in the folder `lane`."""

    def draw(self, number: int) -> random.Random:
        return random.Random(f"{self.place.seed} {self.name} {number}")

    def damaged(self, number: int, files: Sequence[Path], target: Path, how: Damage) -> None:
        """Write a file like one of `files`, damaged, to `target`: not into the one that is there, which may be mapped."""
        draw = self.draw(number)
        source, other = draw.choice(files), draw.choice(files)
        target.unlink(missing_ok=True)
        target.write_bytes(how(source.read_bytes(), draw, other.read_bytes()))

    def source(self, number: int, files: Sequence[Path]) -> Path:
        """Which one that was."""
        return self.draw(number).choice(files)

    def case(self, number: int, kind: str, verdict: str = ANSWERED, **found: Any) -> Case:
        return Case(self.name, number, kind, verdict, **found)

    def kept(self, case: Case, files: Iterable[Path]) -> Case:
        """`case`; where it broke a rule its files are copied to where they stay."""
        folder = self.place.failed / f"{self.name}-{case.number}"
        if self.place.keep or (case.broken and len([*self.place.failed.glob(f"{self.name}-*")]) < MOST_KEPT):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            for file in files:
                if file.is_dir():
                    shutil.copytree(file, folder / file.name, symlinks=True)
                elif file.exists():
                    shutil.copy2(file, folder / file.name)
        return case


def side_by_side(attack: Attack, numbers: Sequence[int]) -> Iterator[Case]:
    """The cases as they come, from processes that run side by side."""
    running: dict[Connection, Any] = {}
    try:
        for lane, share in enumerate(attack.shares(numbers)):
            if share:
                receiver, sender = CONTEXT.Pipe(duplex=False)
                process = CONTEXT.Process(target=_lane, args=(attack, share, lane, sender, os.getpid()))
                process.start()
                sender.close()
                running[receiver] = process
        while running:
            ready = wait([*running])
            for receiver in [one for one in running if one in ready]:
                try:
                    yield receiver.recv()
                except EOFError:
                    process = running.pop(receiver)
                    process.join()
                    if process.exitcode:
                        raise SystemExit(f"{attack.name}: this script's own process ended with {process.exitcode}") from None
    finally:
        for process in running.values():
            process.kill()


def _lane(attack: Attack, numbers: Sequence[int], lane: int, sender: Connection, parent: int) -> None:
    die_with_parent(parent)
    folder = attack.place.work / attack.name / f"lane{lane}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for case in attack.cases(numbers, folder):
        sender.send(case)


def in_fork(work: Callable[..., None], *arguments: Any) -> None:
    """Call `work` in a process of its own, which may load what this one shall not."""
    process = CONTEXT.Process(target=work, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{getattr(work, '__name__', work)}: ended with {process.exitcode}")


def bound_memory() -> None:
    """Let this process allocate so much more and then see a MemoryError, before the machine runs out."""
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + FATAL_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))


def silence(log: Path | str = os.devnull) -> None:
    """Libraries, and their panics, write on stdout and stderr themselves; here they do so to `log`."""
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for number in (1, 2):
        os.dup2(written, number)


def tree(folder: Path) -> dict[str, str]:
    """The digest of each file below a folder, hidden ones too, and an empty one for each folder, by relative name."""
    found = {}
    for item in sorted(folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            is_file = item.is_file() and not item.is_symlink()
            found[item.relative_to(folder).as_posix()] = hashlib.sha256(item.read_bytes()).hexdigest() if is_file else ""
    return found


# Files that are read in a process that plays edgekit's own: its death is a crash, its silence a hang.


class _Late(KeyboardInterrupt):
    """The time is up; nothing that catches a library's errors catches this."""


def _late(*_: object) -> NoReturn:
    raise _Late


class Read(Attack):
    """Files that readers of edgekit's parent process read."""

    rules = (UNFORESEEN, CRASH, LATE)
    weighed = True
    batch, grace_s = 200, 5.0

    @abstractmethod
    def kind(self, number: int) -> str:
        """The row of the table."""

    @abstractmethod
    def write(self, number: int, lane: Path) -> Path:
        """Make the file, or the folder with it."""

    @abstractmethod
    def read(self, number: int, file: Path) -> None:
        """What a command does with it before it starts a child."""

    def is_sound(self, number: int) -> bool:
        """Whether the file is left as it was, to be answered."""
        return False

    def warm(self) -> None:
        """Import what the readers import, which takes no time from the first file's limit."""

    def cases(self, numbers: Sequence[int], lane: Path) -> Iterator[Case]:
        self.warm()
        left = [*numbers]
        while left:
            done = 0
            for done, case in enumerate(self._batch(left[: self.batch], lane), 1):  # noqa: B007 - counted
                yield self.kept(case, [item for item in lane.iterdir() if item.name.startswith("case")])
            left = left[done:]

    def _batch(self, numbers: Sequence[int], lane: Path) -> Iterator[Case]:
        """The cases of one helper, one at least: it ends where the helper does."""
        receiver, sender = CONTEXT.Pipe(duplex=False)
        helper = CONTEXT.Process(target=self._help, args=(numbers, lane, sender, os.getpid()))
        helper.start()
        sender.close()
        try:
            for number in numbers:
                broken: tuple[str, str] | None = None
                if not receiver.poll(self.limit_s + self.grace_s):
                    broken = LATE, f"{self.kind(number)}: stopped from outside"
                else:
                    try:
                        yield receiver.recv()
                    except (EOFError, OSError):
                        helper.join()
                        broken = CRASH, f"{self.kind(number)}: {_ended(helper.exitcode or 0)}"
                if broken is not None:
                    late = broken[0] == LATE
                    seconds = self.limit_s + self.grace_s if late else 0.0
                    how = {"crashed": not late, "stopped": late, "seconds": seconds, "broken": (broken,)}
                    yield self.case(number, self.kind(number), STOPPED, **how)
                    return
                # Whoever keeps the file does so before it makes place for the next.
                self._go(lane, number)
        finally:
            helper.kill()
            helper.join()
            receiver.close()

    @staticmethod
    def _go(lane: Path, number: int) -> None:
        (lane / "done").write_text(str(number))

    def _help(self, numbers: Sequence[int], lane: Path, sender: Connection, parent: int) -> None:
        die_with_parent(parent)
        silence(lane / "case.log")
        bound_memory()
        signal.signal(signal.SIGALRM, _late)
        for number in numbers:
            case = self._one(number, lane)
            sender.send(case)
            if case.broken or self.place.keep:
                while not (lane / "done").is_file() or (lane / "done").read_text() != str(number):
                    time.sleep(0.001)

    def _one(self, number: int, lane: Path) -> Case:
        kind, verdict, broken = self.kind(number), ANSWERED, []
        file = self.write(number, lane)
        # The kernel's peak is set back to what is held now.
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        started = time.perf_counter()
        signal.setitimer(signal.ITIMER_REAL, self.limit_s)
        try:
            self.read(number, file)
        except EdgekitError as error:
            verdict = type(error).__name__
            if self.is_sound(number):
                broken.append((SOUND, f"{kind}: {error.message}"))
        except _Late:
            verdict = STOPPED
        except BaseException as error:  # what edgekit did not foresee is what this script looks for
            verdict = type(error).__name__
            broken.append((UNFORESEEN, f"{kind}: {_seen(error)}"))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        seconds = time.perf_counter() - started
        if late := verdict == STOPPED or seconds > self.limit_s:
            broken.append((LATE, f"{kind}: {seconds:.0f} s"))
        figures = {"seconds": seconds, "stopped": late, "parent_bytes": peak_memory()}
        return self.case(number, kind, verdict, broken=tuple(broken), **figures)


def _seen(error: BaseException) -> str:
    """An error and where in edgekit it came up."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(PACKAGE)] or [*frames]
    place = Path(ours[-1].filename)
    name = place.relative_to(PACKAGE.parent) if place.is_relative_to(PACKAGE) else place.name
    return f"{type(error).__name__} at {name}:{ours[-1].lineno}: {' '.join(str(error).split())[:100]}"


def _ended(code: int) -> str:
    return signal_name(-code) if code < 0 else f"exit code {code}"


@functools.cache
def own_tflites(place: Place) -> list[Path]:
    return sorted((place.seeds / "tflite").glob("*.tflite"))


@functools.cache
def tflites(place: Place) -> list[Path]:
    return [*own_tflites(place), *sorted((place.seeds / "others").glob("*.tflite"))]


@functools.cache
def onnxes(place: Place) -> list[Path]:
    return [*sorted((place.seeds / "onnx").glob("*.onnx")), *sorted((place.seeds / "others").glob("*.onnx"))]


def row(file: Path) -> str:
    """A model's row in a table."""
    return f"{file.suffix} of others" if file.parent.name == "others" else file.name


class Inspect(Read):
    name = "inspect"
    words = "what `edgekit inspect` reads of a .tflite before a child loads it"
    count = 20_000

    def kind(self, number: int) -> str:
        return row(self.source(number, tflites(self.place)))

    def write(self, number: int, lane: Path) -> Path:
        file = lane / "case.tflite"
        self.damaged(number, tflites(self.place), file, mutations.of_tflite)
        return file

    def warm(self) -> None:
        self.read(0, own_tflites(self.place)[0])

    def read(self, number: int, file: Path) -> None:
        from edgekit.system.serial import to_json
        from edgekit.tflite.inspect import describe, inspect

        summary = inspect(file, probe=False)
        printable(describe(summary)).encode()
        to_json(summary).encode()


class Interpreter(Attack):
    name = "interpreter"
    words = "a .tflite loaded and run once in a confined child; that it crashes is allowed"
    count = 3000
    rules = (OUTSIDE, LATE)

    def cases(self, numbers: Sequence[int], lane: Path) -> Iterator[Case]:
        import ai_edge_litert.interpreter  # noqa: F401 - each child is forked with it in place

        from edgekit.data import samples  # noqa: F401
        from edgekit.tflite import flatbuffer, lengths  # noqa: F401

        flatbuffer.read(own_tflites(self.place)[0])
        own, outside = lane / "own", lane / "outside"
        (outside / "folder").mkdir(parents=True)
        for canary in (outside / "canary", outside / "folder" / "canary"):
            canary.write_text("sings")
        untouched = tree(outside)
        files = tflites(self.place)
        for number in numbers:
            shutil.rmtree(own, ignore_errors=True)
            own.mkdir()
            file = own / "case.tflite"
            self.damaged(number, files, file, mutations.of_tflite)
            case = self._run(number, row(self.source(number, files)), file)
            strays = sorted({item.name for item in lane.iterdir()} - {own.name, outside.name})
            if strays or tree(outside) != untouched:
                case = replace(case, broken=(*case.broken, (OUTSIDE, ", ".join(strays) or "a canary is silent")))
            yield self.kept(case, [file])

    def _run(self, number: int, kind: str, file: Path) -> Case:
        reader, writer = os.pipe()
        parent, started = os.getpid(), time.perf_counter()
        child = os.fork()
        if child == 0:
            _load_and_run(file, writer, parent)
        os.close(writer)
        ended = bool(select.select([reader], [], [], self.limit_s)[0])
        said = os.read(reader, 1000).decode() if ended else ""
        os.close(reader)
        # It is waited for below, so the number is still its own.
        os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        seconds = time.perf_counter() - started
        broken = () if seconds < self.limit_s + 1 else ((LATE, f"{kind}: ended after {seconds:.0f} s"),)
        verdict = said or (_ended(code) if ended else STOPPED)
        figures = {"crashed": ended and not said, "stopped": not ended, "seconds": seconds, "broken": broken}
        return self.case(number, kind, verdict, **figures)


def _load_and_run(file: Path, writer: int, parent: int) -> NoReturn:
    """In a fork: what a measuring child does with a file, in the cage that one has; says in a word how it went."""
    verdict = ANSWERED
    try:
        die_with_parent(parent)
        silence()
        os.chdir(file.parent)
        confine([file.parent], limits.most_memory())
        bound_memory()
        from edgekit.data.samples import random_samples
        from edgekit.tflite import lengths

        model = lengths.load(file, threads=2)
        model.set_inputs(next(iter(random_samples(model.signature.inputs, 1)), {}))
        model.invoke()
        model.outputs()
    except EdgekitError as error:
        verdict = type(error).__name__
    except BaseException as error:  # a worker tells of it as of a crash
        verdict = f"WorkerCrashed ({type(error).__name__})"
    finally:
        try:
            os.write(writer, verdict.encode())
        finally:
            os._exit(0)


# The command line.


@dataclass(frozen=True)
class Said:
    """How a command ended: exit code, lines of stderr, wall seconds, the most memory of its own process; or it was stopped."""

    code: int
    err: tuple[str, ...]
    seconds: float
    parent_bytes: int
    stopped: bool

    @property
    def last(self) -> str:
        return self.err[-1] if self.err else ""

    def ends_in_a_line(self, *names: str) -> bool:
        """Whether the last line says what is wrong and holds one of `names`."""
        return self.last.startswith("edgekit: error: ") and any(name in self.last for name in names)


def start(
    arguments: Sequence[str], folder: Path, temporary: Path, log: int | IO[bytes], prefix: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    """A command in `folder`, quiet, with nothing on its stdin, its stderr in `log`, and a place for temporary files of its own."""
    temporary.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [*prefix, sys.executable, "-m", "edgekit", *arguments, "--quiet"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary), "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=log,
        start_new_session=True,
    )


def run(arguments: Sequence[str], folder: Path, temporary: Path, *, wall_s: float = SETUP_S, prefix: Sequence[str] = ()) -> Said:
    with tempfile.TemporaryFile() as log:
        started, peak, stopped = time.perf_counter(), 0, False
        process = start(arguments, folder, temporary, log, prefix)
        while process.poll() is None:
            peak = max(peak, high_water(process.pid))
            if peak > FATAL_BYTES or time.perf_counter() - started > wall_s:
                stopped = True
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            time.sleep(0.02)
        seconds = time.perf_counter() - started
        log.seek(0)
        return Said(process.returncode, tuple(log.read().decode(errors="replace").splitlines()), seconds, peak, stopped)


def high_water(pid: int) -> int:
    """Peak resident bytes of one process; 0 once it has ended."""
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    return 0


@functools.cache
def limiting(command: str) -> tuple[str, ...]:
    """The options of `LIMITS` that a command has."""
    text = subprocess.run(
        [sys.executable, "-m", "edgekit", command, "--help"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return tuple(word for option, value in LIMITS.items() if option in text for word in (option, value))


PREDICT, EVALUATE, BENCHMARK, CONVERT = "predict", "evaluate", "benchmark", "convert"
STRANGER = "stranger"
REPLACED = tuple(f"out/{name}" for name in (f"{STRANGER}_float32.tflite", f"{STRANGER}_float32.json", "report.html"))


class Commands(Attack):
    name = "commands"
    words = "damaged .tflite and .onnx through the command line, in turns; the first ones are sound"
    count = 500
    limit_s = WALL_S
    rules = (SOUND, LIMITED, CODE, LINE, TRACE, LATE, LEFT, BEFORE, MATCH)
    weighed = True
    # The first are sound: that they are answered says that others are refused for their damage.
    sound: tuple[tuple[str, str], ...] = (
        *((turn, "tflite/bert_float32.tflite") for turn in (PREDICT, EVALUATE, BENCHMARK, CONVERT)),
        (PREDICT, "tflite/conv_float32.tflite"),
        (CONVERT, "onnx/conv.onnx"),
    )

    def numbers(self) -> list[int]:
        return [*range(len(self.sound) + max(4, round(self.count * self.place.scale)))]

    def turn(self, number: int) -> tuple[str, list[Path]]:
        """The command of a case, and the files that its own is like."""
        match number % 8:
            case 0 | 4:
                return PREDICT, own_tflites(self.place)
            case 1 | 5:
                return EVALUATE, [file for file in own_tflites(self.place) if file.name.startswith("bert")]
            case 2 | 6:
                return BENCHMARK, tflites(self.place)
            case 3:
                return CONVERT, onnxes(self.place)
            case _:
                return CONVERT, tflites(self.place)

    def cases(self, numbers: Sequence[int], lane: Path) -> Iterator[Case]:
        folder, pristine, temporary = lane / "place", lane / "pristine", lane / "tmp"
        self._furnish(pristine)
        temporary.mkdir()
        for number in numbers:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(pristine, folder)
            if number < len(self.sound):
                command, name = self.sound[number]
                source = self.place.seeds / name
                file = folder / f"{STRANGER}{source.suffix}"
                shutil.copyfile(source, file)
            else:
                command, files = self.turn(number)
                source = self.source(number, files)
                file = folder / f"{STRANGER}{source.suffix}"
                how = mutations.of_tflite if source.suffix == ".tflite" else mutations.of_bytes
                self.damaged(number, files, file, how)
            case = self._run(number, command, source, file, temporary)
            yield self.kept(case, [file, folder / "out"])

    def _furnish(self, folder: Path) -> None:
        """What a user has lying there: rows, a picture, files of an earlier run and files of others."""
        (folder / "out").mkdir(parents=True)
        for name in ("rows.tsv", "picture.png"):
            shutil.copyfile(self.place.seeds / name, folder / name)
        for suffix in (".tflite", ".json"):
            shutil.copyfile(self.place.seeds / f"convolution/conv_float32{suffix}", folder / f"out/{STRANGER}_float32{suffix}")
        for name in ("out/report.html", "out/foreign.txt", "foreign.txt"):
            (folder / name).write_text("of somebody else")

    def _run(self, number: int, command: str, source: Path, file: Path, temporary: Path) -> Case:
        folder = file.parent
        before, lying = tree(folder), left_in(temporary)
        said = run(_arguments(command, source, file.name), folder, temporary, wall_s=WALL_S)
        broken = [*self._broken(said, folder, before)]
        if both := sorted({*lying} & {*left_in(temporary)}):
            broken.append((LEFT, ", ".join(both[:3])))
        kind = f"{command}, {row(source)}" if self.name == Commands.name else row(source)
        if number < len(self.sound):
            kind = f"{command}, sound {source.name}"
            if said.code != 0:
                broken.append((SOUND, f"{kind}: {_ended(said.code)}: {said.last[:200]}"))
            if missing := [option for option in LIMITS if option not in limiting(command)]:
                broken.append((LIMITED, f"{command} has no {' and no '.join(missing)}"))
        crashed = said.code != 0 and "crashed with" in said.last
        stopped = said.stopped or (said.code != 0 and re.search(r"stopped (after|above) ", said.last) is not None)
        verdict = ANSWERED if said.code == 0 else _ended(said.code)
        figures = {"crashed": crashed, "stopped": stopped, "seconds": said.seconds, "parent_bytes": said.parent_bytes}
        return self.case(number, kind, verdict, broken=tuple(broken), **figures)

    def _broken(self, said: Said, folder: Path, before: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        """The rules that a run broke, by what it said and what it left; one that was stopped from outside said nothing."""
        fine, now = said.code == 0, tree(folder)
        if said.stopped:
            yield LATE, f"stopped after {said.seconds:.0f} s with {said.parent_bytes / 1e6:.0f} MB"
        elif said.code not in CODES:
            yield CODE, f"{_ended(said.code)}: {said.last[:200]}"
        elif not fine and not said.ends_in_a_line(STRANGER):
            yield LINE, f"{_ended(said.code)}: {said.last[:200]!r}"
        if any("Traceback (most recent call last)" in line or "unforeseen" in line for line in said.err):
            yield TRACE, said.last[:200]
        changed = [name for name in before if now.get(name) != before[name] and not (fine and name in REPLACED)]
        strays = [name for name in now if name not in before and not _may_come(name, fine=fine)]
        if wrong := [*changed, *([] if said.stopped else strays)]:
            yield MATCH if fine else BEFORE, f"{_ended(said.code)}: {', '.join(wrong[:4])}"
        model, manifest = (folder / name for name in REPLACED[:2])
        if fine and now.get(REPLACED[0]) != before[REPLACED[0]] and not _fits(model, manifest):
            yield MATCH, f"{model.name} is not the file of its manifest"


def _arguments(command: str, source: Path, name: str) -> list[str]:
    what = {
        PREDICT: ["picture.png" if source.name.startswith("conv") else TEXT],
        EVALUATE: ["--dataset", "rows.tsv", "--limit", "20"],
        BENCHMARK: ["--runs", "3", "--rounds", "1", "--warmup", "0", "--out", "out/report.html", "--overwrite"],
        CONVERT: ["--scheme", "float32", "--max-length", "16", "--out", "out", "--overwrite"],
    }
    return [command, name, *what[command], *limiting(command)]


def _may_come(name: str, *, fine: bool) -> bool:
    """Whether a run may leave this file: the lock, a file that was rejected, and what it published."""
    rejected = name.endswith((".tflite.rejected", ".tflite.rejected.json"))
    return Path(name).name == artifacts.LOCK_NAME or rejected or (fine and name.startswith("out/") and "/." not in name)


def left_in(temporary: Path) -> list[str]:
    """What lies in a place for temporary files; an empty folder of the next run to come is none of it."""
    return [name for name in tree(temporary) if re.fullmatch(r"edgekit-\d+(/making-[^/]*(/.*)?)?", name) is None]


class Onnx(Commands):
    name = "onnx"
    words = "damaged .onnx through `edgekit convert --scheme float32`; the first one is sound"
    count = 300
    sound = ((CONVERT, "onnx/conv.onnx"),)

    def turn(self, number: int) -> tuple[str, list[Path]]:
        return CONVERT, onnxes(self.place)


class Frameworks(Commands):
    name = "frameworks"
    words = "damaged .h5, .keras and .pt2 through `edgekit convert --scheme float32`; the first ones are sound"
    count = 60
    sound = tuple((CONVERT, f"frameworks/conv.{suffix}") for suffix in ("h5", "keras", "pt2"))

    def turn(self, number: int) -> tuple[str, list[Path]]:
        return CONVERT, sorted((self.place.seeds / "frameworks").iterdir())


# Data, checkpoints, recipes, manifests and plans.


@dataclass(frozen=True)
class Kind:
    """A file inside a folder of sound ones that is damaged, and how the folder with it is read."""

    name: str
    file: str
    damage: Damage
    read: Callable[[Path], None]


def _read_config(place: Path) -> None:
    from edgekit.models import linear8
    from edgekit.models.checkpoint import Checkpoint
    from edgekit.models.source import classify

    checkpoint = Checkpoint.read(place)
    linear8.refuse_quantized(place, checkpoint.config, "converted")
    checkpoint.check_length(16)
    checkpoint.refuse_other_head()
    _ = checkpoint.label_ids, checkpoint.settings, checkpoint.vocabulary, checkpoint.has_head, checkpoint.tokenizer
    checkpoint.task.metrics(checkpoint.settings)
    checkpoint.inputs(16, pairs=True)
    classify(str(place))


def _read_tokenizer(place: Path) -> None:
    from edgekit.data.sources import TextRows
    from edgekit.data.text import check_room, encode_text, open_tokenizer, uncut

    check_room(place, 16)
    encode_text(TextRows((TEXT,), None, None, "a text"), place, 16, ("input_ids", "attention_mask", "token_type_ids"))
    uncut(open_tokenizer(place, 16, pair=False)).encode(TEXT)


def _read_vocabulary(place: Path) -> None:
    """As `prune --vocab` does, which cuts a tokenizer in the parent."""
    from edgekit.stages.prune import vocabulary

    ids = vocabulary.used(place, [TEXT], None)
    vocabulary.check(place, vocabulary.complete(place, ids, {}), {}, "a text")


def _read_tokens(place: Path) -> None:
    """A vocab.txt as `prune --vocab FILE` reads it; a checkpoint's own is read by transformers in a child."""
    from edgekit.stages.prune import vocabulary

    vocabulary.named(place, place / "vocab.txt")


def _read_weights(place: Path) -> None:
    from edgekit.measure.runtimes import describe

    describe(place)


def _read_ranges(place: Path) -> None:
    from edgekit.models.ranges import read

    read(place)


def _read_texts(file: str, task: str) -> Callable[[Path], None]:
    """As `finetune` reads its rows, up to the ids and labels that training gets."""

    def read(place: Path) -> None:
        from edgekit.models.checkpoint import Checkpoint
        from edgekit.workflows.finetune import encode, read_texts

        checkpoint = Checkpoint.read(place, task)
        rows = read_texts(DataSpec(str(place / file)), checkpoint.task)
        settings = checkpoint.task.settings_for(rows, checkpoint.config, checkpoint.labels, None, checkpoint.has_head)
        encode(rows, checkpoint, settings, 64)

    return read


def _read_arrays(place: Path) -> None:
    from edgekit.data import sources
    from edgekit.data.encode import Encoding, feed
    from edgekit.data.representative import representative

    specs = [TensorSpec("image", (1, 8, 8, 3), "float32")]
    rows = sources.read(DataSpec(str(place / "rows.npz")), labelled=True)
    representative(feed(rows, specs, Encoding(classes=2, mean=(127.5,), std=(127.5,)), place), specs)


def _read_images(place: Path) -> None:
    from edgekit.data import sources
    from edgekit.data.encode import Encoding
    from edgekit.tasks.classification import IMAGE_CLASSIFICATION

    rows = sources.read(DataSpec(str(place)), labelled=True)
    settings = IMAGE_CLASSIFICATION.settings({}, ("0", "1"))
    specs = [TensorSpec("image", (1, 8, 8, 3), "float32")]
    IMAGE_CLASSIFICATION.encode(rows, specs, Encoding(classes=2), settings, place / "room")


def _read_recipe(place: Path) -> None:
    from edgekit.workflows import recipe

    recipe.dump(recipe.load(place / "recipe.toml").filled())


def _read_report(place: Path) -> None:
    """A report.json, or manifests beside their files, to all that `report` writes."""
    from edgekit.report import table
    from edgekit.report.html import page
    from edgekit.workflows.report import report

    found = report(place)
    for text in (found.json(), table.markdown(found), page(found)):
        text.encode()


def _read_task(place: Path) -> None:
    """What a .tflite and the manifest beside it say of its task, up to the rows that a child is fed."""
    from edgekit.data.text import open_tokenizer
    from edgekit.tflite import flatbuffer
    from edgekit.tflite.inspect import describe, inspect
    from edgekit.workflows.inputs import encode_for, encoding_of, read_task, scheme_of

    file = place / "bert_float32.tflite"
    describe(inspect(file, probe=False))
    content = flatbuffer.read(file)
    scheme_of(file)
    task, settings = read_task(content)
    task.describe(settings)
    if tokenizer := encoding_of(content, settings, DataSpec(""), place / "predict").tokenizer:
        open_tokenizer(tokenizer, 16, pair=bool(settings["pairs"]))
    encode_for(file, DataSpec(str(place / "rows.tsv"), samples=20), place / "evaluate")


def _read_plan(place: Path) -> None:
    from edgekit.system.serial import parse_json
    from edgekit.workflows.convert.publish import read_plan

    sound = parse_json((place / "sound.json").read_text(encoding="utf-8"))
    read_plan(place / "bert_int8.json", sound["parents"])


def _read_pruning_plan(place: Path) -> None:
    """As `prune --plan` does."""
    from edgekit.stages.prune import pruning_plan

    pruning_plan.read(place)


def _read_drawn_plan(place: Path) -> None:
    """As `compare` draws it, whatever checkpoint it is of."""
    from edgekit.report.plots import pruned
    from edgekit.report.pruned import read_plan

    if found := read_plan(place, "pruned"):
        pruned(found)


def _read_foreign(place: Path) -> None:
    artifacts.refuse_existing(place, overwrite=True)


TEXT_CLASSES, TAGS, ANSWERS = "text-classification", "token-classification", "question-answering"
KINDS: tuple[Kind, ...] = (
    Kind("config.json", "checkpoint/config.json", mutations.of_text, _read_config),
    Kind("tokenizer.json", "checkpoint/tokenizer.json", mutations.of_text, _read_tokenizer),
    Kind("tokenizer.json, to be cut", "checkpoint/tokenizer.json", mutations.of_text, _read_vocabulary),
    Kind("tokenizer_config.json", "checkpoint/tokenizer_config.json", mutations.of_text, _read_tokenizer),
    Kind("tokenizer_config.json, to be cut", "checkpoint/tokenizer_config.json", mutations.of_text, _read_vocabulary),
    Kind("vocab.txt", "checkpoint/vocab.txt", mutations.of_text, _read_tokens),
    Kind("safetensors header", "checkpoint/model.safetensors", mutations.of_safetensors, _read_weights),
    Kind("quantization_ranges.json", "checkpoint/quantization_ranges.json", mutations.of_text, _read_ranges),
    Kind("rows .tsv", "texts/rows.tsv", mutations.of_text, _read_texts("rows.tsv", TEXT_CLASSES)),
    Kind("rows .csv", "texts/rows.csv", mutations.of_text, _read_texts("rows.csv", TEXT_CLASSES)),
    Kind("rows .jsonl", "texts/rows.jsonl", mutations.of_text, _read_texts("rows.jsonl", TEXT_CLASSES)),
    Kind("rows .parquet", "texts/rows.parquet", mutations.of_bytes, _read_texts("rows.parquet", TEXT_CLASSES)),
    Kind("SQuAD .json", "texts/squad.json", mutations.of_text, _read_texts("squad.json", ANSWERS)),
    Kind("CoNLL", "texts/rows.conll", mutations.of_text, _read_texts("rows.conll", TAGS)),
    Kind("rows .npz", "arrays/rows.npz", mutations.of_npz, _read_arrays),
    Kind("labels.tsv", "images/labels.tsv", mutations.of_text, _read_images),
    Kind("class_names.txt", "images/class_names.txt", mutations.of_text, _read_images),
    Kind(".png", "images/0.png", mutations.of_png, _read_images),
    Kind("recipe .toml", "recipe/recipe.toml", mutations.of_text, _read_recipe),
    Kind("report.json", "report/report.json", mutations.of_text, _read_report),
    Kind("manifest .json, report", "converted/bert_float32.json", mutations.of_text, _read_report),
    Kind("manifest .json, task", "bare/bert_float32.json", mutations.of_text, _read_task),
    Kind("manifest .json, plan", "planned/bert_int8.json", mutations.of_text, _read_plan),
    Kind("edgekit.json", "pruned/edgekit.json", mutations.of_text, _read_foreign),
    Kind("SHA256SUMS", "app/SHA256SUMS", mutations.of_text, _read_foreign),
    Kind("pruning_plan.json", "pruned/pruning_plan.json", mutations.of_text, _read_pruning_plan),
    Kind("pruning_plan.json, drawn", "pruned/pruning_plan.json", mutations.of_text, _read_drawn_plan),
    *(
        Kind(f"{name} in a .tflite", "converted/bert_float32.tflite", mutations.of_packed(name), _read_task)
        for name in ("edgekit.json", "tokenizer.json", "labels.txt")
    ),
    Kind("TFLITE_METADATA", "converted/bert_float32.tflite", mutations.of_metadata, _read_task),
)


class Files(Read):
    name = "files"
    words = "data, checkpoints, recipes, manifests, plans, and what travels in a .tflite, as a command itself reads them"
    count = 10_000
    rules = (SOUND, *Read.rules)

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.kinds = [kind for kind in KINDS if (place.seeds / "files" / kind.file).is_file()]

    def numbers(self) -> list[int]:
        return [*range(len(self.kinds) + round(self.count * self.place.scale))]

    def is_sound(self, number: int) -> bool:
        return number < len(self.kinds)

    def kind(self, number: int) -> str:
        return self._kind(number).name

    def _kind(self, number: int) -> Kind:
        return self.kinds[number % len(self.kinds)]

    def write(self, number: int, lane: Path) -> Path:
        # A folder of another name for each: a tokenizer is opened once for its path and time.
        for earlier in lane.glob("case-*"):
            shutil.rmtree(earlier, ignore_errors=True)
        kind = self._kind(number)
        sound = self.place.seeds / "files" / kind.file
        folder = lane / f"case-{number}"
        shutil.copytree(sound.parent, folder)
        if not self.is_sound(number):
            self.damaged(number, [sound], folder / sound.name, kind.damage)
        return folder

    def warm(self) -> None:
        for number, kind in enumerate(self.kinds):
            with tempfile.TemporaryDirectory(dir=self.place.work) as room:
                folder = Path(room) / f"sound-{number}"
                shutil.copytree((self.place.seeds / "files" / kind.file).parent, folder)
                # What is wrong with it comes up again, where it is told.
                with contextlib.suppress(Exception):
                    kind.read(folder)

    def read(self, number: int, file: Path) -> None:
        self._kind(number).read(file)


# Kills, and full disks: commands over earlier outputs.


@dataclass(frozen=True)
class Job:
    """A command that takes the place of an earlier output: how that was made, and the command; {seeds} are the sound files."""

    name: str
    earlier: str
    later: str

    def arguments(self, text: str, seeds: Path, place: Path) -> list[str]:
        return [self.name, *(word.format(seeds=seeds, place=place) for word in text.split()), "--overwrite"]


_CONVERT = "{seeds}/bert --scheme float32 --scheme float16 --out {place} --max-length"
_FINETUNE = "--model {seeds}/bert --dataset {seeds}/rows.tsv --epochs 1 --max-length 16 --out {place}/tuned --seed"
_PRUNE = "{seeds}/bert --dataset {seeds}/rows.tsv --max-length 16 --out {place}/pruned --heads"
_OPTIMIZE = "{seeds}/keras.h5 --dataset {seeds}/images.npz --technique sparsity --epochs 1 --max-drop 1 --out {place} --sparsity"
_EXPORT = "{seeds}/bert --format onnx --out {place}/bert.onnx --max-length"
# Two files of one name, after which the Kotlin in a bundle is called.
_BUNDLED = "bert_float32.tflite --out {place}/app"
JOBS = {
    job.name: job
    for job in (
        Job("convert", f"{_CONVERT} 8", f"{_CONVERT} 16"),
        Job("finetune", f"{_FINETUNE} 1", f"{_FINETUNE} 0"),
        Job("prune", f"{_PRUNE} 0.25", f"{_PRUNE} 0.5"),
        Job("optimize", f"{_OPTIMIZE} 0.3", f"{_OPTIMIZE} 0.7"),
        Job("bundle", f"{{seeds}}/converted/{_BUNDLED}", f"{{seeds}}/again/{_BUNDLED}"),
        Job("export", f"{_EXPORT} 8", f"{_EXPORT} 16"),
        Job("report", "{seeds}/convolution --out {place}/report.html", "{seeds}/converted --out {place}/report.html"),
    )
}
_FOREIGN = ("foreign.txt", "foreign/notes.json")


class Replacing(Attack):
    """Commands over earlier outputs, among files of others."""

    jobs: tuple[str, ...] = ()

    def job(self, number: int) -> Job:
        return JOBS[self.jobs[number // 1000 - 1]]

    def shares(self, numbers: Sequence[int]) -> list[list[int]]:
        """All of one command to one process."""
        return [[number for number in numbers if number // 1000 % LANES == lane] for lane in range(LANES)]

    def prepared(self, job: Job, room: Path) -> Path:
        """A folder with the earlier output."""
        earlier = room / "earlier"
        for name in _FOREIGN:
            (earlier / name).parent.mkdir(parents=True, exist_ok=True)
            (earlier / name).write_text("of somebody else")
        said = run(job.arguments(job.earlier, self.place.seeds, earlier), room, room / "tmp")
        if said.code != 0:
            raise SystemExit(f"{job.name}: the earlier output cannot be made: {said.last}")
        return earlier


def state(place: Path, earlier: Path) -> tuple[str, list[tuple[str, str]]]:
    """Whether the old or the new outputs lie in `place`, or some of each, and the rules that they break."""
    old, now = tree(earlier), tree(place)
    broken = [(FOREIGN, name) for name in _FOREIGN if now.get(name) != old[name]]
    broken += [(WHOLE, f"{name} is gone") for name in old if name not in now and not _is_hidden(name)]
    changed = [name for name, digest in now.items() if digest and digest != old.get(name) and not _is_hidden(name)]
    changed = [name for name in changed if name not in _FOREIGN]
    broken += [(WHOLE, f"{name} is of no whole") for name in changed if not _is_whole(place / name, place)]
    models = [name for name in old if name.endswith((".tflite", ".h5", ".onnx", ".safetensors", ".html"))]
    if not changed:
        return "the old", broken
    return "some of each" if any(now.get(name) == old[name] for name in models) else "the new", broken


def _is_hidden(name: str) -> bool:
    """Of a run's lock, its half-written files, and what it would go on from."""
    return any(part.startswith(".") for part in Path(name).parts)


def _is_whole(file: Path, place: Path) -> bool:
    """Whether a file fits the manifest or the checksums that account for it, or is a report with its end."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        folder = next((parent for parent in file.parents if (parent / artifacts.MANIFEST).is_file()), None)
        if folder is not None and folder.is_relative_to(place):
            return _fits_folder(folder, _json(folder / artifacts.MANIFEST)["files"], artifacts.MANIFEST)
        if (sums := file.parent / artifacts.SUMS).is_file():
            digests = (line.split("  ", 1) for line in sums.read_text(encoding="utf-8").splitlines())
            return _fits_folder(file.parent, {name: digest for digest, name in digests}, artifacts.SUMS)
        if file.suffix == ".html":
            return file.read_text(encoding="utf-8").rstrip().endswith("</html>")
        if file.suffix == ".json":
            said = _json(file)
            return "sha256" not in said or artifacts.sha256(file.with_name(said["path"])) == said["sha256"]
        return any(_fits(file, manifest) for manifest in (file.with_suffix(".json"), file.with_name(f"{file.name}.json")))
    return False


def _json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _fits(file: Path, manifest: Path) -> bool:
    with contextlib.suppress(OSError, ValueError, KeyError):
        return bool(_json(manifest)["sha256"] == artifacts.sha256(file))
    return False


def _fits_folder(folder: Path, digests: Mapping[str, str], listing: str) -> bool:
    """Whether the folder holds all that is listed and nothing else."""
    found = {name: digest for name, digest in tree(folder).items() if digest and name != listing}
    return found == dict(digests)


class Kills(Replacing):
    name = "kills"
    words = "kill -9 of a command over an earlier output, at moments spread over its time and while it publishes"
    rules = (WHOLE, FOREIGN, ORPHANS, LEFT, RESUMES)
    jobs = ("convert", "finetune", "prune", "optimize", "bundle")
    # Moments that are spread evenly, and others at which a file is about to get its name.
    spread, publishing = 12, 4
    to_the_end = 900

    def numbers(self) -> list[int]:
        moments = [*range(self._scaled(self.spread)), *range(100, 100 + self._scaled(self.publishing)), self.to_the_end]
        return [1000 * (job + 1) + moment for job in range(len(self.jobs)) for moment in moments]

    def _scaled(self, count: int) -> int:
        return max(1, round(count * self.place.scale))

    def cases(self, numbers: Sequence[int], lane: Path) -> Iterator[Case]:
        for first, group in itertools.groupby(numbers, key=lambda number: number // 1000 * 1000):
            job = self.job(first)
            room = lane / job.name
            earlier, folder, temporary = self.prepared(job, room), room / "place", room / "tmp"
            arguments = job.arguments(job.later, self.place.seeds, folder)
            shutil.copytree(earlier, folder)
            undisturbed = run(arguments, room, temporary)
            if undisturbed.code != 0:
                raise SystemExit(f"{job.name}: cannot be run: {undisturbed.last}")
            for number in group:
                if number % 1000 == self.to_the_end:
                    case = self._to_the_end(number, job, arguments, room, earlier)
                else:
                    shutil.rmtree(folder)
                    shutil.copytree(earlier, folder)
                    case = self._killed(number, job, arguments, room, earlier, undisturbed.seconds)
                yield self.kept(case, [earlier, folder, temporary])

    def _killed(self, number: int, job: Job, arguments: Sequence[str], room: Path, earlier: Path, seconds: float) -> Case:
        folder, temporary, draw, moment = room / "place", room / "tmp", self.draw(number), number % 1000
        process, started = start(arguments, room, temporary, subprocess.DEVNULL), time.perf_counter()
        if moment < 100:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds * (moment + draw.random()) / self._scaled(self.spread))
            children = _children(process.pid)
        else:
            _wait_for_publishing(process, folder, draw.randrange(4))
            children = _children(process.pid)
            time.sleep(draw.random() * 0.03)
        lived = process.poll() is None
        process.kill()
        process.wait()
        passed = time.perf_counter() - started
        broken = [(ORPHANS, f"{len(orphans)} after 5 s")] if (orphans := _alive(children)) else []
        try:
            with artifacts.claimed(folder):
                pass
        except EdgekitError as error:
            broken.append((RESUMES, error.message))
        verdict, wrong = state(folder, earlier)
        if not self.place.keep:
            # What is kept shall show what the kill left.
            broken += _swept(self.place, room, temporary)
        how = "while it publishes" if moment >= 100 else "spread"
        verdict = verdict if lived else f"{verdict} (had ended)"
        told = tuple((rule, f"{job.name}: {what}") for rule, what in (*wrong, *broken))
        return self.case(number, f"{job.name}, {how}", verdict, broken=told, seconds=passed)

    def _to_the_end(self, number: int, job: Job, arguments: Sequence[str], room: Path, earlier: Path) -> Case:
        """The same command over what the last kill left, undisturbed."""
        folder, temporary = room / "place", room / "tmp"
        said = run(arguments, room, temporary)
        verdict, broken = state(folder, earlier)
        if said.code != 0:
            broken.append((RESUMES, f"{_ended(said.code)}: {said.last[:200]}"))
        elif verdict != "the new":
            broken.append((RESUMES, f"{verdict} lies there"))
        if hidden := [name for name in tree(folder) if _is_hidden(name) and Path(name).name != artifacts.LOCK_NAME]:
            broken.append((RESUMES, f"left {', '.join(hidden[:3])}"))
        if rest := left_in(temporary):
            broken.append((LEFT, ", ".join(rest[:3])))
        told = tuple((rule, f"{job.name}: {what}") for rule, what in broken)
        return self.case(number, f"{job.name}, then to the end", verdict, broken=told, seconds=said.seconds)


def _children(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).children(recursive=True)
    return []


def _alive(children: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended after 5 s; one that nobody waits for has ended."""
    found = []
    for child in psutil.wait_procs(children, timeout=5)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
    return found


def _wait_for_publishing(process: subprocess.Popen[bytes], folder: Path, before: int) -> None:
    """Until a room of a file that is about to be published is there, after `before` others, or the command has ended."""
    rooms: set[str] = set()
    while process.poll() is None and len(rooms) <= before:
        rooms |= {item.name for item in folder.glob(".edgekit-partial-*")}
        time.sleep(0.0005)


def _swept(place: Place, room: Path, temporary: Path) -> list[tuple[str, str]]:
    """Run a cheap command in the same place for temporary files, and tell what is left there."""
    said = run(["inspect", str(own_tflites(place)[0])], room, temporary)
    rest = left_in(temporary)
    found = [(LEFT, ", ".join(rest[:3]))] if rest else []
    return found if said.code == 0 else [*found, (RESUMES, f"inspect: {said.last[:200]}")]


# In a mount namespace of its own: a small disk at $2 with what lies in $3; what lies there in the end is copied to $4.
_ON_A_SMALL_DISK = """
mount -t tmpfs -o size="$1" none "$2" || exit 97
cp -R "$3"/. "$2" || exit 98
disk=$2 kept=$4
shift 4
"$@"
code=$?
cp -R "$disk"/. "$kept"
exit $code
"""
_PAGE = 4096


class Full(Replacing):
    name = "full"
    words = "commands over an earlier output on a disk that grows from one run to the next, until one finds room"
    rules = (FULL, NAMED, WHOLE, FOREIGN, CLEAN)
    jobs = ("convert", "export", "bundle", "report")
    # Steps of the disk under --out, which reports need less of; that under TMPDIR doubles.
    step_bytes, report_step_bytes, most_bytes = 2**16, 2**14, 2**30
    out, temporary, most_steps = 0, 500, 100

    def numbers(self) -> list[int]:
        places = (self.out, self.temporary) if can_mount(self.place.work) else (self.out,)
        return [1000 * (job + 1) + where for job in range(len(self.jobs)) for where in places]

    def cases(self, numbers: Sequence[int], lane: Path) -> Iterator[Case]:
        """A number is that of the first of all steps, or of one of them."""
        attempt = self._on_a_disk if can_mount(self.place.work) else self._with_short_files
        earlier = dict[str, Path]()
        for number in numbers:
            job, step = self.job(number), number % 500
            if job.name not in earlier:
                earlier[job.name] = self.prepared(job, lane / job.name)
            for one in [number] if step else range(number + 1, number + 1 + self.most_steps):
                case = attempt(one, job, lane / job.name, earlier[job.name])
                yield self.kept(case, [lane / job.name / "kept"])
                if step or case.verdict == ANSWERED:
                    break
                if self._bytes(job, one, earlier[job.name]) > self.most_bytes:
                    yield self.case(number, case.kind, "never", broken=((FULL, f"{case.kind}: found no room"),))
                    break

    def _bytes(self, job: Job, number: int, earlier: Path) -> int:
        """The size of the disk of a step: under --out so much more than lies there."""
        where, step, coarser = number % 1000 // 500 * 500, number % 500, max(1, round(1 / self.place.scale))
        doublings = (step - 1) * (1 if coarser == 1 else 3)
        if not can_mount(self.place.work):
            return int(_PAGE * 2**doublings)
        if where == self.temporary:
            return int(self.step_bytes * 2**doublings)
        held = sum(-(-item.stat().st_size // _PAGE) * _PAGE if item.is_file() else _PAGE for item in earlier.rglob("*"))
        size = self.report_step_bytes if job.name == "report" else self.step_bytes
        return held + 4 * _PAGE + step * coarser * size

    def _on_a_disk(self, number: int, job: Job, room: Path, earlier: Path) -> Case:
        where = number % 1000 // 500 * 500
        folder, temporary, kept, nothing = room / "place", room / "tmp", room / "kept", room / "nothing"
        for place in (folder, kept, temporary, nothing):
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
        if where == self.temporary:
            shutil.rmtree(folder)
            shutil.copytree(earlier, folder)
        disk, content = (folder, earlier) if where == self.out else (temporary, nothing)
        size = self._bytes(job, number, earlier)
        script = ("unshare", "-m", "-r", "sh", "-c", _ON_A_SMALL_DISK, "sh", str(size), str(disk), str(content), str(kept))
        said = run(job.arguments(job.later, self.place.seeds, folder), room, temporary, prefix=script)
        outputs, rest = (kept, temporary) if where == self.out else (folder, kept)
        what = "--out" if where == self.out else "TMPDIR"
        return self._judged(number, f"{job.name}, small {what}", said, outputs, rest, earlier, (str(folder), str(temporary)))

    def _with_short_files(self, number: int, job: Job, room: Path, earlier: Path) -> Case:
        """Where no disk can be mounted, no file may be longer than so much."""
        folder, temporary, kept = room / "place", room / "tmp", room / "kept"
        for place in (folder, temporary, kept):
            shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(earlier, folder)
        script = ("prlimit", f"--fsize={self._bytes(job, number, earlier)}")
        said = run(job.arguments(job.later, self.place.seeds, folder), room, temporary, prefix=script)
        shutil.copytree(folder, kept)
        return self._judged(number, f"{job.name}, short files", said, kept, temporary, earlier, (str(folder), str(temporary)))

    def _judged(self, number: int, kind: str, said: Said, outputs: Path, rest: Path, earlier: Path, names: tuple[str, ...]) -> Case:
        if said.code in (97, 98):
            raise SystemExit(f"{kind}: the disk cannot be mounted or filled: {said.last}")
        _, wrong = state(outputs, earlier)
        broken = [(rule, f"{kind}: {what}") for rule, what in wrong]
        if said.code not in (0, 6) or said.stopped:
            broken.append((FULL, f"{kind}: {_ended(said.code)}: {said.last[:200]}"))
        elif said.code == 6 and not said.ends_in_a_line(*names):
            broken.append((NAMED, f"{kind}: {said.last[:200]!r}"))
        half = [name for name in tree(outputs) if _is_hidden(name) and Path(name).name != artifacts.LOCK_NAME]
        if half := [*half, *left_in(rest)]:
            broken.append((CLEAN, f"{kind}: {', '.join(half[:3])}"))
        verdict = ANSWERED if said.code == 0 else _ended(said.code)
        return self.case(number, kind, verdict, broken=tuple(broken), seconds=said.seconds, stopped=said.stopped)


@functools.cache
def can_mount(place: Path) -> bool:
    """Whether a disk of our own can be mounted there."""
    place.mkdir(parents=True, exist_ok=True)
    command = ["unshare", "-m", "-r", "mount", "-t", "tmpfs", "-o", "size=64k", "none", str(place)]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


# Sound files of every kind.


def make_seeds(place: Place, shared: Path | None) -> None:
    """Tiny models and all that edgekit makes of them, and small files of others; made once for a folder."""
    seeds, made = place.seeds, place.seeds / "made"
    if made.is_file():
        return
    shutil.rmtree(seeds, ignore_errors=True)
    for name in ("tflite", "onnx", "frameworks", "others", "files", "again"):
        (seeds / name).mkdir(parents=True)
    in_fork(tiny.model, seeds / "bert")
    in_fork(write_keras, seeds / "keras.h5")
    in_fork(write_onnx, seeds / "onnx" / "conv.onnx")
    shutil.copyfile(seeds / "keras.h5", seeds / "frameworks" / "conv.h5")
    in_fork(write_keras_3, seeds / "frameworks" / "conv.keras")
    in_fork(write_program, seeds / "frameworks" / "conv.pt2")
    write_rows(seeds)
    rows, converted, convolution = seeds / "rows.tsv", seeds / "converted", seeds / "convolution"
    bert, short = seeds / "bert", ("--max-length", "16")
    for arguments in (
        ("export", bert, "--format", "onnx", *short, "--out", seeds / "exported" / "bert.onnx"),
        ("convert", bert, *_schemes("float32", "float16"), *short, "--out", converted),
        ("convert", seeds / "onnx" / "conv.onnx", *_schemes("float32", "float16"), "--out", convolution),
        ("prune", bert, "--dataset", rows, "--heads", "0.5", "--ffn", "0.5", *short, "--out", seeds / "pruned"),
        ("bundle", converted / "bert_float32.tflite", "--out", seeds / "app"),
        ("report", converted, "--out", seeds / "report.json"),
    ):
        _made(arguments, seeds, place)
    # Random weights may be worth nothing in int8 and are refused then; without that file its plan is not damaged.
    judged = ("--representative-data", rows, "--representative-samples", "100", "--max-drop", "1", "--search-seconds", "0")
    _made(("convert", bert, *_schemes("dynamic", "int8"), *judged, *short, "--out", converted), seeds, place, wanted=False)
    for file in (*converted.glob("*.tflite"), *convolution.glob("*.tflite")):
        shutil.copyfile(file, seeds / "tflite" / file.name)
    shutil.copyfile(seeds / "exported" / "bert.onnx", seeds / "onnx" / "bert.onnx")
    shutil.copyfile(converted / "bert_float16.tflite", seeds / "again" / "bert_float32.tflite")
    for number, file in enumerate(_of_others(shared)):
        shutil.copyfile(file, seeds / "others" / f"{number:03}_{file.name[-40:]}")
    in_fork(write_files, seeds)
    made.touch()


def _schemes(*names: str) -> list[str]:
    return [word for name in names for word in ("--scheme", name)]


def _made(arguments: Sequence[str | Path], seeds: Path, place: Place, *, wanted: bool = True) -> None:
    words = [str(argument) for argument in arguments]
    print(f"making sound files: {words[0]}", file=sys.stderr, flush=True)
    said = run(words, seeds, place.work / "tmp")
    if said.code != 0:
        told = f"{' '.join(words)}: {said.last}"
        if wanted:
            raise SystemExit(told)
        print(told, file=sys.stderr, flush=True)


def _of_others(shared: Path | None) -> list[Path]:
    folders = [] if shared is None else [shared / "models", shared / "corpus"]
    found = (file for folder in folders for suffix in ("tflite", "onnx") for file in sorted(folder.rglob(f"*.{suffix}")))
    return [file for file in found if file.stat().st_size <= LARGEST_SEED]


def write_keras(path: Path) -> None:
    os.environ |= {"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    import tf_keras

    layers = tf_keras.layers
    tf_keras.utils.set_random_seed(0)
    image = tf_keras.Input((8, 8, 3), name="image")
    tensor = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3)(image)))
    scores = layers.Dense(2, activation="softmax", name="scores")(layers.GlobalAveragePooling2D()(tensor))
    tf_keras.Model(image, scores).save(str(path))


def write_keras_3(path: Path) -> None:
    os.environ |= {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    import keras

    layers = keras.layers
    image = keras.Input((8, 8, 3), name="image")
    tensor = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3)(image)))
    keras.Model(image, layers.Dense(2, name="scores")(layers.GlobalAveragePooling2D()(tensor))).save(path)


def write_program(path: Path) -> None:
    import torch
    from torch import nn

    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    torch.export.save(torch.export.export(net.eval(), (torch.zeros(1, 3, 8, 8),)), path)


def write_onnx(path: Path) -> None:
    """Convolution, ReLU, pooling and a dense layer; input `image` (1, 3, 8, 8), output `scores` (1, 10)."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    draw = np.random.default_rng(0)
    shapes = {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (16, 10), "b2": (10,)}
    weights = [numpy_helper.from_array((0.4 * draw.standard_normal(one)).astype(np.float32), name) for name, one in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["first"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["first"], ["second"]),
        helper.make_node("GlobalAveragePool", ["second"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w2", "b2"], ["scores"]),
    ]
    ends = (("image", [1, 3, 8, 8]), ("scores", [1, 10]))
    first, last = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name, shape in ends)
    graph = helper.make_graph(nodes, "conv", first, last, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def write_rows(seeds: Path) -> None:
    tiny.write_tsv(seeds / "rows.tsv", 300)
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, 400)
    images = 20 * draw.normal(size=(400, 8, 8, 3)) + 12 * labels[:, None, None, None] - 6
    np.savez(seeds / "images.npz", image=images.astype(np.float32), labels=labels)


def write_files(seeds: Path) -> None:
    """The folders that `KINDS` damages one file of."""
    import pyarrow
    import pyarrow.parquet
    from PIL import Image

    from edgekit.models import ranges
    from edgekit.workflows import recipe

    files, bert = seeds / "files", seeds / "bert"
    for name in ("texts", "arrays", "images", "recipe", "report", "bare", "planned", "converted"):
        (files / name).mkdir()

    checkpoint = files / "checkpoint"
    shutil.copytree(bert, checkpoint)
    vocabulary = json.loads((bert / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    (checkpoint / "vocab.txt").write_text("".join(f"{piece}\n" for piece in vocabulary), encoding="utf-8")
    one = {"input": [-1.0, 1.0], "output": [-2.0, 2.0], "weight_sha256": "0" * 64, "bias_sha256": "0" * 64}
    stored = {
        "layers": {"classifier": one, "pooler": one},
        "bits": ranges.BITS,
        "scheme": ranges.SCHEME,
        "weights_sha256": "0" * 64,
    }
    (checkpoint / ranges.RANGES).write_text(json.dumps(stored), encoding="utf-8")

    texts, rows = files / "texts", tiny.sentences(40)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(bert / name, texts / name)
    columns = {"sentence": [text for text, _ in rows], "label": [label for _, label in rows]}
    lines = [f"{text}\t{label}\n" for text, label in rows]
    (texts / "rows.tsv").write_text("sentence\tlabel\n" + "".join(lines), encoding="utf-8")
    with (texts / "rows.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("sentence", "label"), *rows])
    objects = [json.dumps({"sentence": text, "label": label}) for text, label in rows]
    (texts / "rows.jsonl").write_text("\n".join(objects) + "\n", encoding="utf-8")
    pyarrow.parquet.write_table(pyarrow.table(columns), texts / "rows.parquet")
    asked = [{"question": "what was it", "id": str(number), "answers": [_answer(text)]} for number, (text, _) in enumerate(rows)]
    paragraphs = [{"context": text, "qas": [question]} for (text, _), question in zip(rows, asked, strict=True)]
    (texts / "squad.json").write_text(json.dumps({"version": "1", "data": [{"title": "t", "paragraphs": paragraphs}]}))
    judging = (*tiny.POSITIVE, *tiny.NEGATIVE)
    tagged = ("".join(f"{word} {'B-WORD' if word in judging else 'O'}\n" for word in text.split()) for text, _ in rows)
    (texts / "rows.conll").write_text("\n".join(tagged), encoding="utf-8")

    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, 40)
    np.savez_compressed(files / "arrays" / "rows.npz", image=draw.normal(size=(40, 8, 8, 3)).astype(np.float32), labels=labels)
    # The first of them is damaged; one in a hundred may be left out, which is none of so few.
    for number in range(12):
        picture = Image.fromarray(draw.integers(0, 256, (10, 12, 3), dtype=np.uint8))
        picture.save(files / "images" / f"{number}.png")
    table = [f"{number}.png\t{('cat', 'dog')[number % 2]}\n" for number in range(12)]
    (files / "images" / "labels.tsv").write_text("file\tlabel\n" + "".join(table), encoding="utf-8")
    (files / "images" / "class_names.txt").write_text("cat\ndog\n", encoding="utf-8")
    shutil.copyfile(files / "images" / "0.png", seeds / "picture.png")

    whole = recipe.dump(recipe.load(ROOT / "recipes" / "quickstart.toml"))
    (files / "recipe" / "recipe.toml").write_text(whole, encoding="utf-8")
    shutil.copyfile(seeds / "report.json", files / "report" / "report.json")
    for name in ("pruned", "app"):
        shutil.copytree(seeds / name, files / name)
    _write_converted(seeds, files)


def _answer(text: str) -> dict[str, Any]:
    word = text.split()[-1]
    return {"text": word, "answer_start": text.rindex(word)}


def _write_converted(seeds: Path, files: Path) -> None:
    """A .tflite that says all of itself, one whose manifest alone does, and an int8 manifest with its plan, if there is one."""
    from edgekit.tflite import package

    converted, name = seeds / "converted", "bert_float32"
    for folder in (files / "converted", files / "bare"):
        shutil.copyfile(seeds / "rows.tsv", folder / "rows.tsv")
        for suffix in (".tflite", ".json"):
            shutil.copyfile(converted / f"{name}{suffix}", folder / f"{name}{suffix}")
    bare, manifest = files / "bare" / f"{name}.tflite", files / "bare" / f"{name}.json"
    bare.write_bytes(package.strip(bare.read_bytes()))
    shutil.copyfile(converted / "tokenizer.json", bare.with_name("tokenizer.json"))
    told = json.loads(manifest.read_text(encoding="utf-8")) | {"sha256": artifacts.sha256(bare)}
    manifest.write_text(json.dumps(told, indent=2), encoding="utf-8")
    if (planned := converted / "bert_int8.json").is_file():
        for target in ("bert_int8.json", "sound.json"):
            shutil.copyfile(planned, files / "planned" / target)


# What is told of it.


def tell(checks: Checks, attack: Attack, cases: Sequence[Case]) -> None:
    """A line for each rule, with what broke it, and the table."""
    checks.say(f"\n## {attack.name}: {attack.words}\n")
    for rule in attack.rules:
        remarks = defaultdict[str, list[int]](list)
        for case in cases:
            for remark in {what for name, what in case.broken if name == rule}:
                remarks[remark].append(case.number)
        count = len({number for numbers in remarks.values() for number in numbers})
        checks.holds(f"{attack.name}: {rule}" + (f": not so in {count} of {len(cases)} cases" if count else ""), not count)
        often = sorted(remarks.items(), key=lambda item: (-len(item[1]), item[1]))
        for remark, numbers in often[:MOST_TOLD]:
            checks.say(f"  - {attack.name}:{min(numbers)} ({len(numbers)}×): {printable(remark)}")
        if others := often[MOST_TOLD:]:
            checks.say(f"  - and {len(others)} others, of which WORK/failed holds some")
    if attack.weighed:
        largest = max((case.parent_bytes for case in cases), default=0)
        checks.at_most(f"{attack.name}: largest process of edgekit's own", largest / 1e6, MOST_PARENT_BYTES / 1e6, "MB")
        heavy = sorted((case for case in cases if case.parent_bytes > MOST_PARENT_BYTES), key=lambda case: -case.parent_bytes)
        for case in heavy[:MOST_TOLD]:
            checks.say(f"  - {attack.name}:{case.number}: {case.kind}: {case.parent_bytes / 1e6:.0f} MB")
    checks.say()
    for line in table(cases):
        checks.say(line)


def table(cases: Sequence[Case]) -> Iterator[str]:
    yield "| kind | files | answered | refused | crashes | stopped at a limit | slowest, s | largest parent, MB |"
    yield "| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: |"
    kinds = defaultdict[str, list[Case]](list)
    for case in cases:
        kinds[case.kind].append(case)
    for kind, group in sorted(kinds.items()):
        told = Counter(case.verdict for case in group if not case.crashed and not case.stopped)
        answered = told.pop(ANSWERED, 0)
        refused = ", ".join(f"{verdict} {count}" for verdict, count in told.most_common()) or "–"
        crashed, stopped = sum(case.crashed for case in group), sum(case.stopped for case in group)
        largest = max(case.parent_bytes for case in group)
        figures = f"{max(case.seconds for case in group):.2f} | {f'{largest / 1e6:.0f}' if largest else '–'}"
        yield f"| {kind} | {len(group)} | {answered} | {refused} | {crashed} | {stopped} | {figures} |"


ATTACKS: dict[str, type[Attack]] = {one.name: one for one in (Inspect, Interpreter, Commands, Onnx, Frameworks, Files, Kills, Full)}


def cage() -> str:
    """What this system confines children with."""
    receiver, sender = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=lambda: sender.send(confine([], limits.most_memory())))
    process.start()
    sender.close()
    process.join()
    return " and ".join(receiver.recv()) or "nothing, which this system lacks"


def attacked(attack: Attack) -> list[Case]:
    """All cases of a part, with a line now and then."""
    numbers, cases, started = attack.numbers(), list[Case](), time.perf_counter()
    for case in side_by_side(attack, numbers):
        cases.append(case)
        if len(cases) % max(1, len(numbers) // 20) == 0:
            wrong = sum(bool(case.broken) for case in cases)
            passed = time.perf_counter() - started
            print(f"{attack.name}: {len(cases)} of {len(numbers)}, {passed:.0f} s, {wrong} wrong", file=sys.stderr, flush=True)
    return sorted(cases, key=lambda case: case.number)


def only(place: Place, named: str) -> NoReturn:
    """One case again, with its files; exits with 1 if it breaks a rule."""
    part, _, number = named.partition(":")
    if part not in ATTACKS or not number.isdigit():
        raise SystemExit(f"--only {named}: give it as PART:NUMBER; parts are {', '.join(ATTACKS)}")
    attack = ATTACKS[part](replace(place, keep=True))
    cases = [*side_by_side(attack, [int(number)])]
    for case in cases:
        print(case)
    print(place.failed / f"{part}-{number}")
    raise SystemExit(1 if any(case.broken for case in cases) else 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, help="folder with models and corpus, whose small files are damaged as well")
    parser.add_argument("--part", choices=ATTACKS, action="append", help="repeats; default: every part")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of cases: 0.01 is a short run")
    parser.add_argument("--work", type=Path, help="folder for sound files, which are used again, and for what broke a rule")
    parser.add_argument("--only", metavar="PART:NUMBER", help="make one case again and keep its files")
    arguments = parser.parse_args()
    work = (arguments.work or Path(tempfile.mkdtemp(prefix="faults-"))).resolve()
    place = Place(work, arguments.seed, arguments.scale)
    make_seeds(place, arguments.shared and arguments.shared.resolve())
    if arguments.only:
        only(place, arguments.only)
    shutil.rmtree(place.failed, ignore_errors=True)
    checks = Checks("Damaged files, kills and full disks")
    checks.say(f"{machine()}; seed {place.seed}, scale {place.scale:g}; children are confined by {cage()}")
    if Full.name in (arguments.part or ATTACKS) and not can_mount(work):
        checks.say("No disk can be mounted here: in its place, files are limited in length.")
    for name in arguments.part or ATTACKS:
        attack = ATTACKS[name](place)
        try:
            tell(checks, attack, attacked(attack))
        except SystemExit as error:  # the others have their say all the same
            checks.holds(str(error), False)
        shutil.rmtree(work / name, ignore_errors=True)
    if checks.failed:
        print(f"what broke a rule: {place.failed}", file=sys.stderr)
    elif arguments.work is None:
        shutil.rmtree(work, ignore_errors=True)
    checks.finish("faults" if not arguments.part else "_".join(["faults", *arguments.part]))


if __name__ == "__main__":
    main()
