"""The command line as a user meets it: its own process, its exit code, and what it says on each stream."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = (sys.executable, "-m", "edgekit")


@dataclass(frozen=True)
class Said:
    """Exit code, stdout and the lines of stderr."""

    code: int
    out: str
    err: list[str]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **(extra or {})}


def edgekit(*arguments: str | Path, folder: Path | None = None, extra: Mapping[str, str] | None = None) -> Said:
    """Run one command in `folder`, with nothing on its stdin and no terminal."""
    done = subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        cwd=folder,
        env=environment(extra),
        timeout=300,
    )
    return Said(done.returncode, done.stdout, done.stderr.splitlines())
