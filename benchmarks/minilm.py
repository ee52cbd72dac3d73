"""MiniLM-L6 on SST-2 through all five schemes: time, memory, accuracy, latency.

python benchmarks/minilm.py --shared ../shared [--bridge tf]
"""

import argparse
from pathlib import Path

import numpy as np
from checks import Checks, edgekit
from children import torch_outputs

from edgekit.data.samples import Samples
from edgekit.measure.judge import BenchmarkConfig, outputs
from edgekit.report import table
from edgekit.spec import DataSpec
from edgekit.stages.quantize.schemes import SCHEMES
from edgekit.system import rooms
from edgekit.system.worker import Worker
from edgekit.tasks.judgement import judge
from edgekit.workflows.benchmark import benchmark
from edgekit.workflows.inputs import encode_for

LIMITS = {"direct": (35, 1.5), "litert": (35, 1.5), "tf": (90, 4.0)}
DROP = {"dynamic": 0.5, "int16x8": 0.5, "int8": 1.5}
P50 = {"dynamic": 0.35, "int8": 0.5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--bridge", choices=list(LIMITS), default="direct")
    arguments = parser.parse_args()
    model, data = arguments.shared / "models/minilm-l6-sst2", arguments.shared / "data/sst2"
    checks = Checks(f"MiniLM-L6, SST-2 dev, sequence 64, two threads, --bridge {arguments.bridge}")
    with rooms.temporary("benchmark") as room:
        out = room / "out"
        command = ["convert", model, "--scheme", "all", "--representative-data", data / "train.tsv", "--max-length", "64"]
        cost = edgekit([*command, "--bridge", arguments.bridge, "--out", out])
        seconds, gigabytes = LIMITS[arguments.bridge]
        files = {scheme: out / f"{model.name}_{scheme}.tflite" for scheme in SCHEMES}
        checks.holds("all five files are published", all(file.is_file() for file in files.values()))
        checks.at_most("convert, wall", cost.seconds, seconds, "s")
        checks.at_most("convert, largest process", cost.peak_bytes / 1e9, gigabytes, "GB")
        checks.holds("no network: the command ran without an interface" if cost.offline else "no network (not enforced here)", True)

        config = BenchmarkConfig(threads=2, runs=200, rounds=5, max_accuracy_seconds=None)
        judged = DataSpec(data / "dev.tsv")
        report = benchmark(list(files.values()), judged, config, title="MiniLM-L6 on SST-2 dev")
        rows = {row.scheme: row for row in report.rows}
        for scheme, limit in DROP.items():
            drop = rows[scheme].drop
            checks.at_most(f"{scheme}, accuracy lost against float32", 100 * drop.value if drop else np.inf, limit, "points")
        base = rows["float32"].latency
        for scheme, limit in P50.items():
            found = rows[scheme].latency
            checks.at_most(f"{scheme}, p50 against float32", found.p50_ms / base.p50_ms if found and base else np.inf, limit, "×")

        samples = room / "samples"
        rows_of_dev = encode_for(files["float32"], judged, room)
        rows_of_dev.save(samples)
        Worker().run(torch_outputs, model, samples, room / "torch")
        reference = Samples.load(room / "torch").inputs
        for scheme in ("float32", "float16"):
            same = judge(outputs(files[scheme], samples), rows_of_dev, reference).agreement
            told = f"{same.count} of {same.total}" if same else "none"
            checks.holds(f"{scheme}: same decisions as PyTorch on {told} rows", same is not None and same.count == same.total)
        checks.say()
        checks.say(table.markdown(report))
    checks.finish(f"minilm_{arguments.bridge}")


if __name__ == "__main__":
    main()
