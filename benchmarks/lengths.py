"""Several sequence lengths in one file: what short sentences cost in it, and what the file costs.

python benchmarks/lengths.py --shared ../shared [--bridge litert] [--lengths 16,32,64,128] [--scheme dynamic]
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
from checks import Checks, ask, edgekit
from children import time_lengths

from edgekit.data.samples import Samples
from edgekit.measure.judge import BenchmarkConfig, benchmark
from edgekit.spec import DataSpec
from edgekit.system.worker import Worker
from edgekit.workflows.inputs import encode_for

GROWTH, RATIO, SAME = 0.05, 0.40, 0.995
STARTS = 5
SENTENCE = "a warm , funny film"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--bridge", choices=["direct", "litert", "tf"], default="direct")
    parser.add_argument("--lengths", default="16,32,64,128")
    parser.add_argument("--scheme", default="dynamic")
    arguments = parser.parse_args()
    model, data = arguments.shared / "models/minilm-l6-sst2", arguments.shared / "data/sst2"
    scheme, known = arguments.scheme, [int(part) for part in arguments.lengths.split(",")]
    checks = Checks(
        f"Signatures for {arguments.lengths} tokens: MiniLM-L6, {scheme}, SST-2 dev, two threads, --bridge {arguments.bridge}"
    )
    with tempfile.TemporaryDirectory() as room:
        command = ["convert", model, "--scheme", scheme, "--bridge", arguments.bridge, "--evaluation-data", data / "dev.tsv"]
        if scheme in ("int8", "int16x8"):
            command += ["--representative-data", data / "train.tsv"]
        files, costs = {}, {}
        for name, lengths in (("one", ["--max-length", known[-1]]), ("several", ["--sequence-lengths", arguments.lengths])):
            costs[name] = edgekit([*command, *lengths, "--quiet", "--out", Path(room) / name])
            files[name] = Path(room) / name / f"{model.name}_{scheme}.tflite"
        one, several = files["one"], files["several"]
        before, after = one.stat().st_size, several.stat().st_size
        checks.at_most("bytes added to the file of one length", 100 * (after / before - 1), 100 * GROWTH, "%")

        samples = Path(room) / "samples"
        encode_for(several, DataSpec(data / "dev.tsv"), Path(room)).save(samples)
        found = Worker().run(time_lengths, several, samples, 2).value
        mean, longest = found["ms"].mean(), found["ms_longest"].mean()
        checks.at_most(f"mean latency against signature {known[-1]} alone, same file", mean / longest, RATIO, "×")
        labels = Samples.load(samples).labels
        chosen, wide = found["logits"].argmax(axis=-1), found["logits_longest"].argmax(axis=-1)
        same = int((chosen == wide).sum())
        checks.holds(f"same label as at {known[-1]} tokens on {same} of {len(wide)} rows", same >= SAME * len(wide))
        right, right_wide = int((chosen == labels).sum()), int((wide == labels).sum())
        checks.holds(
            f"accuracy {right / len(wide):.4f}, at {known[-1]} tokens {right_wide / len(wide):.4f}", right >= right_wide - 4
        )
        difference = np.abs(found["logits"] - found["logits_longest"]).max() / np.abs(found["logits_longest"]).max()
        checks.say()
        checks.say(f"Mean {mean:.2f} ms against {longest:.2f} ms; logits differ by at most {difference:.1e} relative.")
        checks.say()
        checks.say("| tokens | rows | mean ms | mean ms at the longest |")
        checks.say("| --- | --- | --- | --- |")
        for length in known:
            rows = found["length"] == length
            if rows.any():
                checks.say(f"| {length} | {rows.sum()} | {found['ms'][rows].mean():.2f} | {found['ms_longest'][rows].mean():.2f} |")
        measured = benchmark([one, several], samples, BenchmarkConfig(runs=40, rounds=5, max_accuracy_seconds=1, gzip=False))
        checks.say()
        checks.say("| file | MB | convert s | load ms | peak MB | `predict`, cold: s | peak MB |")
        checks.say("| --- | --- | --- | --- | --- | --- | --- |")
        for name, row in zip(files, measured, strict=True):
            starts = [ask(["predict", files[name], SENTENCE], offline=False).cost for _ in range(STARTS)]
            seconds, peak = statistics.median(cost.seconds for cost in starts), max(cost.peak_bytes for cost in starts)
            load, held = row.load_ms or 0, (row.peak_bytes or 0) / 1e6
            what = "one length" if name == "one" else f"{len(known)} lengths"
            checks.say(
                f"| {what} | {row.size_bytes / 1e6:.2f} | {costs[name].seconds:.0f} | {load:.0f} | {held:.0f} "
                f"| {seconds:.2f} | {peak / 1e6:.0f} |"
            )
    checks.finish(f"lengths_{scheme}" if arguments.bridge == "direct" else f"lengths_{scheme}_{arguments.bridge}")


if __name__ == "__main__":
    main()
