"""MobileNet V2 through all five schemes, and int8 with integer inputs and outputs: top-1 and latency against float32.

python benchmarks/mobilenet.py --shared ../shared
"""

import argparse
import tempfile
from pathlib import Path

from checks import Checks, edgekit

from edgekit.measure.judge import BenchmarkConfig, benchmark, machine
from edgekit.measure.measurement import Measurement
from edgekit.spec import DataSpec
from edgekit.stages.quantize.schemes import SCHEMES
from edgekit.tflite import flatbuffer
from edgekit.workflows.inputs import encode_for

DROP = 1.0
P50 = 0.6
INTEGER_ENDS = "int8, int8 in and out"


def row(name: str, item: Measurement, base: Measurement) -> str:
    """One line of the table; a figure that is not there is a dash."""
    latency = f"{item.latency.p50_ms:.2f} ms" if item.latency else "–"
    ratio = f"{item.latency.p50_ms / base.latency.p50_ms:.2f}" if item.latency and base.latency else "–"
    top1 = f"{item.metric.value:.4f}" if item.metric else "–"
    same = f"{item.agreement.value:.1%}" if item.agreement else "–"
    return f"| {name} | {item.size_bytes / 1e6:.1f} | {top1} | {same} | {latency} | {ratio} | {item.partitions} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True)
    arguments = parser.parse_args()
    model, images = arguments.shared / "models/mobilenet_v2_1.0_224.onnx", arguments.shared / "data/imagenet_val"
    checks = Checks("MobileNet V2 1.0 224, ImageNet validation images, batch 1, two threads")
    with tempfile.TemporaryDirectory() as room:
        five, ends = Path(room) / "five", Path(room) / "ends"
        command = ["convert", model, "--representative-data", images]
        cost = edgekit([*command, "--scheme", "all", "--out", five])
        edgekit([*command, "--scheme", "int8", "--inputs", "int8", "--outputs", "int8", "--out", ends])
        files = {scheme: five / f"{model.stem}_{scheme}.tflite" for scheme in SCHEMES}
        files[INTEGER_ENDS] = ends / f"{model.stem}_int8.tflite"
        checks.holds(f"all five files are published, in {cost.seconds:.0f} s", all(file.is_file() for file in files.values()))
        checks.holds("no network: the command ran without an interface" if cost.offline else "no network (not enforced here)", True)
        content = flatbuffer.read(files[INTEGER_ENDS])
        signature = content.signature(content.entry())
        dtypes = {spec.dtype for spec in (*signature.inputs, *signature.outputs)}
        checks.holds(f"{INTEGER_ENDS}: its ends are {', '.join(sorted(dtypes))}", dtypes == {"int8"})

        samples = encode_for(files["float32"], DataSpec(images), Path(room))
        # int16x8 runs on reference kernels: all images take it minutes.
        config = BenchmarkConfig(threads=2, runs=200, rounds=5, max_accuracy_seconds=None)
        found = dict(zip(files, benchmark(list(files.values()), samples, config, reference=files["float32"]), strict=True))
        base = found["float32"]
        for name, item in found.items():
            if name != "float32":
                lost = 100 * item.drop.value if item.drop else float("inf")
                checks.at_most(f"{name}, top-1 lost against float32", lost, DROP, "points")
        fast = found[INTEGER_ENDS].latency
        ratio = fast.p50_ms / base.latency.p50_ms if fast and base.latency else float("inf")
        checks.at_most(f"{INTEGER_ENDS}, p50 against float32", ratio, P50, "×")
        checks.say()
        checks.say(f"{len(samples)} images, {machine()}")
        checks.say()
        checks.say("| file | MB | top-1 | agreement with float32 | p50 | × float32 | partitions |")
        checks.say("| --- | --- | --- | --- | --- | --- | --- |")
        for name, item in found.items():
            checks.say(row(name, item, base))
    checks.finish("mobilenet")


if __name__ == "__main__":
    main()
