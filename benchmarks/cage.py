"""What the cage costs: `edgekit convert` with it, and by a copy of the package whose children are not confined, in turns.

python benchmarks/cage.py CHECKPOINT [--rounds 2]
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from checks import Checks

import edgekit
from edgekit.measure.machine import machine

LIMIT = 1.05
_OPENED = "\n\ndef confine(*_: object, **__: object) -> tuple[str, ...]:\n    return ()\n"


def seconds(package: Path, model: Path, out: Path) -> float:
    """Wall time of a conversion to float32, float16 and dynamic: the schemes whose work does not depend on time."""
    schemes = [part for scheme in ("float32", "float16", "dynamic") for part in ("--scheme", scheme)]
    command = [sys.executable, "-P", "-m", "edgekit", "convert", str(model), *schemes, "--out", str(out), "--quiet"]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(package)})
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--rounds", type=int, default=2, help="of four conversions each: with, without, without, with")
    given = parser.parse_args()
    checks = Checks("What the cage costs")
    with tempfile.TemporaryDirectory() as folder:
        room, caged = Path(folder), Path(edgekit.__file__).parent
        shutil.copytree(caged, room / "open" / "edgekit", ignore=shutil.ignore_patterns("__pycache__"))
        with (room / "open" / "edgekit" / "system" / "cage.py").open("a", encoding="utf-8") as stream:
            stream.write(_OPENED)
        packages = {"with": caged.parent, "without": room / "open"}
        for package in packages.values():
            # The first of all reads files that the others find in memory.
            seconds(package, given.checkpoint, room / "warm")
            shutil.rmtree(room / "warm")
        took: dict[str, list[float]] = {name: [] for name in packages}
        for number, name in enumerate(("with", "without", "without", "with") * given.rounds):
            took[name].append(seconds(packages[name], given.checkpoint, room / f"out{number}"))
    checks.at_most("convert, wall, with the cage against without", sum(took["with"]) / sum(took["without"]), LIMIT, "×")
    for name, each in took.items():
        checks.say(f"- {name}: {', '.join(f'{value:.1f}' for value in each)} s")
    checks.say(f"\n{machine()}")
    checks.finish("cage")


if __name__ == "__main__":
    main()
