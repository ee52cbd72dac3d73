"""Files that others made, broken and strange ones among them: `inspect` on every .tflite, `convert` to float32 on every .onnx.

python benchmarks/corpus.py --shared ../shared

A file may be refused, with one line that says why; it may not crash anything.
"""

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import EdgekitError, WorkerError
from edgekit.tflite.inspect import inspect
from edgekit.workflows.convert.config import ConvertConfig
from edgekit.workflows.convert.conversion import convert

RESULTS = Path(__file__).resolve().parent / "results" / "corpus.md"


@dataclass(frozen=True)
class Outcome:
    """What became of one file: `sound`, `refused` with a reason, or a `crash`."""

    name: str
    verdict: str
    note: str
    seconds: float

    def line(self) -> str:
        return f"{self.verdict:8} {self.seconds:5.1f} s  {self.name}: {self.note}"


def attempt(file: Path, work: Callable[[Path], str]) -> Outcome:
    started = time.perf_counter()
    try:
        verdict, note = "sound", work(file)
    except WorkerError as error:
        verdict, note = "crash", f"{type(error).__name__}: {error}"
    except EdgekitError as error:
        verdict, note = "refused", f"{type(error).__name__}: {str(error).replace(f'{file}: ', '')}"
    except Exception as error:  # what edgekit did not foresee is what this script looks for
        verdict, note = "crash", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return Outcome(file.name, verdict, note, time.perf_counter() - started)


def inspected(file: Path) -> str:
    summary = inspect(file)
    partitions = summary.delegation.partitions if summary.delegation is not None else None
    return f"{summary.ops} ops, " + (summary.probe_failure or f"{partitions} partitions").replace(f"{file}: ", "")


def converted(file: Path) -> str:
    with tempfile.TemporaryDirectory() as folder:
        result = convert(str(file), Path(folder), ConvertConfig(schemes=("float32",)))
    if result.results[0].path is None:
        raise EdgekitError(result.refusals[0])
    return f"parity {max((parity.max_rel for parity in result.float_model.parity.values()), default=0.0):.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, help="folder with corpus/onnx and corpus/tflite")
    parser.add_argument("--onnx", type=Path, help="folder of .onnx files")
    parser.add_argument("--tflite", type=Path, help="folder of .tflite files")
    arguments = parser.parse_args()
    shared = arguments.shared
    jobs = (
        ("inspect", arguments.tflite or (shared and shared / "corpus" / "tflite"), "*.tflite", inspected),
        ("convert", arguments.onnx or (shared and shared / "corpus" / "onnx"), "*.onnx", converted),
    )
    summary = ["| command | files | sound | refused | crashes |", "| --- | --- | --- | --- | --- |"]
    details: list[str] = []
    crashes = 0
    for command, folder, pattern, work in jobs:
        if folder is None:
            continue
        outcomes = []
        for file in sorted(folder.resolve().glob(pattern)):
            outcomes.append(attempt(file, work))
            print(outcomes[-1].line(), flush=True)
        counts = Counter(outcome.verdict for outcome in outcomes)
        crashes += counts["crash"]
        summary.append(f"| {command} | {len(outcomes)} | {counts['sound']} | {counts['refused']} | {counts['crash']} |")
        details += ["", f"## {command}", "", "| file | | | s |", "| --- | --- | --- | --- |"]
        details += [f"| {item.name} | {item.verdict} | {item.note.replace('|', '/')} | {item.seconds:.1f} |" for item in outcomes]
    print("\n".join(summary))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n".join(["# Files that others made", "", *summary, *details]) + "\n", encoding="utf-8")
    if crashes:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
