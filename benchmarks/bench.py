"""What the scripts with several parts share: where things are, conversions that are kept, and limits on figures."""

import argparse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from checks import Checks, ask
from cnns import Cnn, with_input_of
from turns import Entry, Figures, measure, table

from edgekit.measure.judge import BenchmarkConfig
from edgekit.measure.machine import machine
from edgekit.spec import DataSpec
from edgekit.system import rooms
from edgekit.workflows.inputs import encode_for

# int16x8 runs on reference kernels: all rows take it minutes.
CONFIG = BenchmarkConfig(threads=2, runs=200, rounds=5, max_seconds=10.0)
LENGTH = 64
# What a file that says nothing of its task is judged as.
CLASSIFICATION = "image-classification"


@dataclass(frozen=True)
class Bench:
    """Where things are, and the checks that all parts share."""

    shared: Path
    work: Path
    checks: Checks

    @property
    def minilm(self) -> Path:
        return self.shared / "models/minilm-l6-sst2"

    @property
    def train(self) -> Path:
        return self.shared / "data/sst2/train.tsv"

    @property
    def dev(self) -> Path:
        return self.shared / "data/sst2/dev.tsv"

    def room(self, *names: str) -> Path:
        folder = self.work.joinpath(*names)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def convert(self, model: Path, out: Path, schemes: Iterable[str], *options: str | Path) -> dict[str, Entry]:
        """`edgekit convert`, and an entry for each scheme: its file, or why there is none."""
        named = [part for scheme in schemes for part in ("--scheme", scheme)]
        files = {scheme: out / f"{model.stem if model.is_file() else model.name}_{scheme}.tflite" for scheme in schemes}
        missing: list[str] = []
        if not all(file.is_file() for file in files.values()):
            answer = ask(["convert", model, *named, *options, "--out", out, "--overwrite"])
            missing = answer.failures
            out.mkdir(parents=True, exist_ok=True)
            (out / "cost.txt").write_text(f"{answer.cost.seconds} {answer.cost.peak_bytes}")
        told = "; ".join(missing)
        return {scheme: Entry(scheme, file, "float32", None if file.is_file() else told) for scheme, file in files.items()}

    def beside_official(self, model: Cnn, part: str, ours: dict[str, Entry]) -> dict[str, Figures] | None:
        """Figures of `ours` and of the model's official files on the rows to judge; without float32 None, and a failed line."""
        if failure := ours["float32"].failure:
            self.checks.holds(f"{model.name}, float32: {failure}", False)
            return None
        room, base = self.room(part, model.name), ours["float32"].file
        samples = room / "samples"
        if not samples.is_dir():
            encode_for(base, DataSpec(model.judged), room, CLASSIFICATION).save(samples)
        official = [Entry(file.name, with_input_of(base, file, room / file.name), "float32") for file in model.official]
        return measure([*ours.values(), *official], samples, CONFIG, self.room(part, model.name, "outputs"))

    def limit(self, what: str, found: dict[str, Figures], name: str, points: float) -> None:
        """Hold the accuracy lost by `name` against `points`, and say why where there is no figure."""
        item = found[name]
        if item.failure is not None:
            self.checks.holds(f"{what}{name}: {item.failure}", False)
        else:
            self.checks.at_most(f"{what}{name}, accuracy lost against {item.entry.base}", item.lost, points, "points")

    def show(self, found: dict[str, Figures], title: str) -> None:
        self.checks.say()
        for line in ("", title, "", *table(found), ""):
            self.checks.say(line)


def renamed(entry: Entry, name: str, base: str = "float32") -> Entry:
    return Entry(name, entry.file, base, entry.failure)


def run_parts(described: str | None, title: str, stem: str, parts: Mapping[str, Callable[[Bench], None]]) -> None:
    """What a script with several parts does: those that --part names, or all; exits with 1 if a limit was not kept."""
    parser = argparse.ArgumentParser(description=described, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--part", choices=list(parts), action="append", help="repeats; default: every part")
    parser.add_argument("--work", type=Path, help="folder to keep what was made in")
    arguments = parser.parse_args()
    checks = Checks(title)
    with rooms.temporary("benchmark") as room, rooms.writable((arguments.work or room).resolve()) as work:
        bench = Bench(arguments.shared.resolve(), work, checks)
        checks.say(machine())
        for part in arguments.part or list(parts):
            checks.say()
            checks.say(f"## {part}")
            checks.say()
            parts[part](bench)
    checks.finish("_".join([stem, *(arguments.part or [])]))
