"""What the benchmark scripts share: run a command with its wall time and largest process, and hold figures against limits."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

RESULTS = Path(__file__).resolve().parent / "results"


# The peak of a process is at least what the one that started it held by then, which may be the rows of a benchmark: a small one
# starts the command. That counts the command and the descendants that it waited for, not those of commands before it.
_STARTER = """
import os, subprocess, sys, time
started = time.perf_counter()
_, status, usage = os.wait4(subprocess.Popen(sys.argv[2:]).pid, 0)
os.write(int(sys.argv[1]), f"{time.perf_counter() - started} {usage.ru_maxrss}".encode())
sys.exit(os.waitstatus_to_exitcode(status) & 255)
"""


@dataclass(frozen=True)
class Cost:
    """Wall seconds, and peak resident bytes of the largest process among the command and its descendants."""

    seconds: float
    peak_bytes: int
    offline: bool


@dataclass(frozen=True)
class Answer:
    """What a command said with `--json`, and its exit code: 0, or why not is among `told`."""

    code: int
    told: Any
    cost: Cost

    @property
    def failures(self) -> list[str]:
        """What was refused or went wrong, in the command's own words."""
        if self.code == 0:
            return []
        told = self.told if isinstance(self.told, dict) else {}
        return [str(told["error"])] if "error" in told else [*told.get("refused", ())] or [f"exit code {self.code}"]


def edgekit(arguments: Sequence[str | Path], *, offline: bool = True) -> Cost:
    """Run the command line, without any network where the system allows that; exits with its code if it fails."""
    code, cost = _run(arguments, subprocess.DEVNULL, offline)
    if code:
        raise SystemExit(code)
    return cost


def ask(arguments: Sequence[str | Path], *, offline: bool = True) -> Answer:
    """As `edgekit`, with `--json`; a failure is an answer too."""
    with tempfile.TemporaryFile() as said:
        code, cost = _run([*arguments, "--json", "--quiet"], said, offline)
        said.seek(0)
        text = said.read().decode()
    try:
        return Answer(code, json.loads(text), cost)
    except ValueError:
        return Answer(code or 1, None, cost)


def _run(arguments: Sequence[str | Path], stdout: int | IO[bytes], offline: bool) -> tuple[int, Cost]:
    # A network namespace of its own has no interface: whatever tries to reach out fails.
    fence = ["unshare", "--net", "--map-root-user"] if offline and _can_unshare() else []
    command = [*fence, sys.executable, "-m", "edgekit", *(str(argument) for argument in arguments)]
    with tempfile.TemporaryFile() as told:
        starter = [sys.executable, "-ISc", _STARTER, str(told.fileno()), *command]
        code = subprocess.run(starter, stdout=stdout, pass_fds=[told.fileno()]).returncode
        told.seek(0)
        seconds, kilobytes = told.read().split()
    return code, Cost(float(seconds), int(kilobytes) * 1024, bool(fence))


def _can_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "--net", "--map-root-user", "true"], capture_output=True).returncode == 0


@dataclass
class Checks:
    """Figures against their limits, printed as they come."""

    title: str
    lines: list[str] = field(default_factory=list)
    failed: int = 0

    def say(self, line: str = "") -> None:
        print(line, flush=True)
        self.lines.append(line)

    def at_most(self, what: str, value: float, limit: float, unit: str) -> None:
        """One line that says whether `value` keeps the limit."""
        kept = value <= limit
        self.failed += not kept
        self.say(f"- {'PASS' if kept else 'FAIL'}: {what}: {value:.4g} {unit} (at most {limit:g})".replace(" ×", "×"))

    def holds(self, what: str, kept: bool) -> None:
        self.failed += not kept
        self.say(f"- {'PASS' if kept else 'FAIL'}: {what}")

    def finish(self, name: str) -> None:
        """Write `results/<name>.md`, and exit with 1 if a limit was not kept."""
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.md").write_text(f"# {self.title}\n\n" + "\n".join(self.lines) + "\n", encoding="utf-8")
        raise SystemExit(1 if self.failed else 0)
