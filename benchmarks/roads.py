"""Which road from a checkpoint is quickest and truest: tiny text classifiers of every architecture at hand, by each road.

python benchmarks/roads.py [--only bert --only roberta]
"""

import argparse
import json
import math

from checks import Checks, ask
from tiny_checkpoints import ARCHITECTURES, LENGTH, all_pairs, save

from edgekit.models.source import Kind
from edgekit.system import rooms
from edgekit.system.worker import Worker
from edgekit.workflows.convert.bridge import ROADS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(ARCHITECTURES))
    arguments = parser.parse_args()
    checks = Checks("Checkpoints by each road")
    checks.say("Seconds of `edgekit convert` in float32 and dynamic, largest difference from PyTorch (relative), kB of dynamic.")
    checks.say()
    roads = ROADS[Kind.CHECKPOINT]
    checks.say(f"| architecture | {' | '.join(roads)} |\n| --- | {' | '.join('---' for _ in roads)} |")
    seconds: dict[str, list[float]] = {road: [] for road in roads}
    causes: list[str] = []
    stuck: list[str] = []
    with rooms.temporary("benchmark") as room:
        classifiers = [name for name, task in Worker().run(all_pairs).value if task == "text-classification"]
        for name in arguments.only or classifiers:
            folder, cells, took = room / name, [], {}
            Worker().run(save, folder, name)
            for road in roads:
                out = room / f"{name}_{road}"
                options = [
                    "--scheme",
                    "float32",
                    "--scheme",
                    "dynamic",
                    "--max-length",
                    str(LENGTH),
                    "--bridge",
                    road,
                    "--out",
                    out,
                ]
                answer = ask(["convert", folder, *options])
                if answer.failures:
                    cells.append("–")
                    causes.append(f"- {name}, {road}: {' '.join(answer.failures[0].replace(str(folder), name).split())[:300]}")
                    continue
                manifest = json.loads((out / f"{name}_float32.json").read_text())
                worst = max(parity["max_rel"] for parity in manifest["measured"]["parity"].values())
                size = (out / f"{name}_dynamic.tflite").stat().st_size
                took[road] = answer.cost.seconds
                cells.append(f"{answer.cost.seconds:.1f} s, {worst:.0e}, {size / 1e3:.0f} kB")
            checks.say(f"| {name} | {' | '.join(cells)} |")
            if len(took) == len(roads):
                for road, value in took.items():
                    seconds[road].append(value)
            stuck += [] if took else [name]
    checks.say()
    checks.holds(" ".join(["some road leads there from each", *(f"but {name}" for name in stuck)]), not stuck)
    checks.say()
    means = {road: math.exp(sum(map(math.log, values)) / len(values)) for road, values in seconds.items() if values}
    checks.say(f"Geometric means where all lead there: {', '.join(f'{road} {value:.1f} s' for road, value in means.items())}.")
    checks.say("\n".join(["", *causes]))
    checks.finish("roads")


if __name__ == "__main__":
    main()
