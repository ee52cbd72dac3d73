"""Calibration by each method on MiniLM-L6: memory for 16 and for 1,600 samples, seconds, and how true the int8 files are.

python benchmarks/calibration.py --shared ../shared [--bridge tf]
"""

import argparse
from pathlib import Path

import numpy as np
from checks import Checks, edgekit

from edgekit.data.representative import COUNT
from edgekit.data.samples import Samples
from edgekit.measure.judge import outputs
from edgekit.measure.machine import machine
from edgekit.spec import DataSpec
from edgekit.stages.quantize.calibrate import calibrate
from edgekit.stages.quantize.forms import PRODUCTS, Form
from edgekit.stages.quantize.quantizer import write_integer
from edgekit.stages.quantize.schemes import CALIBRATIONS
from edgekit.system import rooms
from edgekit.system.worker import Worker
from edgekit.tasks.judgement import judge
from edgekit.workflows.inputs import encode_for

FEW, MANY, HELD_OUT = 16, 1600, 500
GROWTH = 1.1
FORMS = (Form("every op"), Form("matrix products", ops=PRODUCTS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--bridge", choices=["direct", "litert", "tf"], default="litert")
    arguments = parser.parse_args()
    model, data = arguments.shared / "models/minilm-l6-sst2", arguments.shared / "data/sst2/train.tsv"
    checks = Checks("Calibration methods, MiniLM-L6, SST-2 train, sequence 64")
    worker = Worker()
    with rooms.temporary("benchmark") as name:
        room = Path(name)
        edgekit(
            ["convert", model, "--scheme", "float32", "--max-length", "64", "--bridge", arguments.bridge, "--out", room / "out"]
        )
        file = room / "out" / f"{model.name}_float32.tflite"
        rows = encode_for(file, DataSpec(data, samples=HELD_OUT + MANY), room)
        order = np.random.default_rng(0).permutation(len(rows))
        rows.take(order[:HELD_OUT]).save(room / "held_out")
        for count in (FEW, COUNT, MANY):
            rows.take(order[HELD_OUT : HELD_OUT + count]).save(room / str(count))
        held_out = Samples.load(room / "held_out")
        expected = outputs(file, room / "held_out")
        (float32, *_) = judge(expected, held_out).scores
        memory, truth = [], []
        for method in CALIBRATIONS:
            found = {
                count: worker.run(calibrate, file, room / str(count), room / f"{method}_{count}", method)
                for count in (FEW, COUNT, MANY)
            }
            growth = found[MANY].peak_bytes / found[FEW].peak_bytes
            checks.at_most(f"{method}, peak memory for {MANY} samples against {FEW}", growth, GROWTH, "×")
            peaks = " | ".join(f"{found[count].peak_bytes / 1e6:.0f}" for count in (FEW, MANY))
            times = " | ".join(f"{found[count].seconds:.1f}" for count in (FEW, COUNT, MANY))
            memory.append(f"| {method} | {peaks} | {growth:.2f} | {times} |")
            for form in FORMS:
                made = room / "int8.tflite"
                worker.run(write_integer, file, room / f"{method}_{COUNT}", made, form)
                judged = judge(outputs(made, room / "held_out"), held_out, expected)
                same, right = judged.agreement, judged.scores[0]
                shares = f"{same.value:.1%} | {right.value:.1%}" if same else "– | –"
                truth.append(f"| {method} | {form.name} | {judged.error_db:.2f} | {shares} |")
        checks.say()
        checks.say(f"{machine()}")
        checks.say()
        checks.say(f"| method | peak MB, {FEW} samples | peak MB, {MANY} | ratio | s, {FEW} | s, {COUNT} | s, {MANY} |")
        checks.say("| --- | --- | --- | --- | --- | --- | --- |")
        for line in memory:
            checks.say(line)
        checks.say()
        checks.say(
            f"int8 files calibrated on {COUNT} samples, judged on {HELD_OUT} other rows of train.tsv; "
            f"float32 decides {float32.value:.1%} of them right."
        )
        checks.say()
        checks.say("| method | integers in | error of the logits, dB | agreement with float32 | accuracy |")
        checks.say("| --- | --- | --- | --- | --- |")
        for line in truth:
            checks.say(line)
    checks.finish("calibration")


if __name__ == "__main__":
    main()
