"""Several texts at once: time a row at each batch size of the same checkpoint, in one run.

python benchmarks/batches.py CHECKPOINT --data ROWS.tsv [--bridge direct] [--batches 1,4,8] [--max-length 64]
"""

import argparse
import tempfile
from pathlib import Path

from checks import Checks, edgekit

from edgekit.measure.judge import BenchmarkConfig, benchmark
from edgekit.spec import DataSpec
from edgekit.workflows.inputs import encode_for

SCHEMES = ("float32", "dynamic", "int8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bridge", choices=["direct", "litert", "tf"], default="direct")
    parser.add_argument("--batches", default="1,4,8")
    parser.add_argument("--max-length", type=int, default=64)
    arguments = parser.parse_args()
    model, batches = arguments.checkpoint, [int(part) for part in arguments.batches.split(",")]
    checks = Checks(
        f"Batches of {arguments.batches}: {model.name}, {arguments.max_length} tokens, two threads, --bridge {arguments.bridge}"
    )
    with tempfile.TemporaryDirectory() as room:
        files = {}
        for batch in batches:
            out = Path(room) / str(batch)
            schemes = [part for scheme in SCHEMES for part in ("--scheme", scheme)]
            options = ["--representative-data", arguments.data, "--bridge", arguments.bridge, "--max-length", arguments.max_length]
            edgekit(["convert", model, *schemes, *options, "--batch-size", batch, "--quiet", "--out", out])
            files |= {(scheme, batch): out / f"{model.name}_{scheme}.tflite" for scheme in SCHEMES}
        samples = encode_for(files["float32", batches[0]], DataSpec(arguments.data, samples=200), Path(room))
        timing = BenchmarkConfig(runs=60, rounds=6, max_accuracy_seconds=None, gzip=False)
        rows = dict(
            zip(files, benchmark(list(files.values()), samples, timing, reference=files["float32", batches[0]]), strict=True)
        )
        checks.say("| scheme | texts at once | MB | p50, ms | a row, ms | of a row at a time | agreement with float32 |")
        checks.say("| --- | --- | --- | --- | --- | --- | --- |")
        for (scheme, batch), row in rows.items():
            first = rows[scheme, batches[0]]
            if row.latency is None or first.latency is None:
                raise SystemExit(f"{scheme}, {batch} texts: {row.failure or first.failure}")
            p50, same = row.latency.p50_ms, "–" if row.agreement is None else f"{row.agreement.value:.1%}"
            checks.say(
                f"| {scheme} | {batch} | {row.size_bytes / 1e6:.2f} | {p50 * batch:.2f} | {p50:.2f} "
                f"| {p50 / first.latency.p50_ms:.2f} | {same} |"
            )
        checks.say()
        for batch in batches[1:]:
            same = rows["float32", batch].agreement
            checks.holds(f"float32, {batch} texts: every answer as a row at a time", same is not None and same.value == 1)
    checks.finish("batches")


if __name__ == "__main__":
    main()
