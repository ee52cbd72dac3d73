"""How long the command line takes to answer: `edgekit --help`, and `edgekit inspect` on models.

python benchmarks/startup.py MODEL …
"""

import argparse
import statistics
from pathlib import Path

from checks import Checks, edgekit

RUNS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    files = parser.parse_args().files
    checks = Checks("Start-up")
    for what, arguments, limit in (
        ("edgekit --help", ["--help"], 0.2),
        *((f"edgekit inspect, {file.suffix} of {file.stat().st_size / 1e6:.1f} MB", ["inspect", file], 1.0) for file in files),
    ):
        edgekit(arguments, offline=False)
        times = [edgekit(arguments, offline=False).seconds for _ in range(RUNS)]
        checks.at_most(f"{what}, median of {RUNS}", statistics.median(times), limit, "s")
    checks.finish("startup")


if __name__ == "__main__":
    main()
