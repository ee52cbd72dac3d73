"""Every format of `edgekit export` side by side: size on disk, latency and accuracy of the shared MiniLM on SST-2 dev.

python benchmarks/formats.py --shared ../shared [--room FOLDER]

A FOLDER that is named keeps the exported files and their outputs, and both are used again.
bitsandbytes is measured where it is installed.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
from checks import Checks, edgekit
from runtimes import THREADS, clock, outputs

from edgekit import artifacts, bridge, checkpoint
from edgekit.data import sources
from edgekit.data.encode import Encoding, encode
from edgekit.linear8 import BACKENDS, BITSANDBYTES
from edgekit.measure.accuracy import accuracy, drop
from edgekit.measure.benchmark import machine, order
from edgekit.worker import Worker

LENGTH, ROUNDS = 64, 3
CHECKPOINT = "checkpoint"
DROP = 1.0


def exports(source: Path, room: Path, data: Path) -> dict[str, Path]:
    """Each format's file or folder by name; made where it is not there yet."""
    found = {CHECKPOINT: source}
    for kind, name in (
        ("float16", "float16"),
        ("torchscript", "ts/model.pt"),
        ("onnx", "onnx/model.onnx"),
        ("ort", "ort/model.ort"),
    ):
        found[kind] = room / name
    found["saved-model"] = room / "saved"
    for backend in BACKENDS:
        if backend != BITSANDBYTES or _installed():
            found[f"int8, {backend}"] = room / f"int8-{backend}"
    for name, path in found.items():
        if not path.exists():
            kind, _, backend = name.partition(", ")
            command = ["export", source, "--format", kind, "--out", path, "--dataset", data, "--quiet"]
            edgekit([*command, *(("--backend", backend) if backend else ())])
    return found


def _installed() -> bool:
    from importlib.util import find_spec

    return find_spec(BITSANDBYTES) is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--room", type=Path)
    arguments = parser.parse_args()
    source, data = (arguments.shared / "models/minilm-l6-sst2").resolve(), arguments.shared / "data/sst2/dev.tsv"
    checks = Checks(f"MiniLM-L6 on SST-2 dev in every format, batch 1, sequence {LENGTH}, {THREADS} threads")
    with tempfile.TemporaryDirectory() as temporary:
        room = arguments.room or Path(temporary)
        room.mkdir(parents=True, exist_ok=True)
        found = exports(source, room, data)
        rows = sources.read(str(data))
        encoding = Encoding(checkpoint.tokenizer_folder(source), checkpoint.label_ids(source))
        samples = encode(rows, bridge.token_specs(LENGTH, pairs=False), encoding, Path(temporary))
        saved, worker, names = Path(temporary) / "rows", Worker(timeout_s=600), list(found)
        samples.save(saved)
        made = {}
        for name, path in found.items():
            target = room / f"{name}.npy"
            if not target.is_file():
                worker.run(outputs, path, saved, target)
            made[name] = np.load(target)
        times: dict[str, list[float]] = {name: [] for name in names}
        for turn in order(len(names), ROUNDS, 0):
            for name in (names[index] for index in turn):
                times[name] += worker.run(clock, found[name], saved).value
        labels = samples.labels
        if labels is None:
            raise SystemExit(f"{data}: has no labels")
        p50 = {name: statistics.median(values) for name, values in times.items()}
        for name in names[1:]:
            checks.at_most(f"{name}, points lost", 100 * drop(made[name], made[CHECKPOINT], labels).value, DROP, "points")
        checks.say()
        checks.say(f"{len(samples)} rows, p50 of {ROUNDS} processes of each in turns, {machine()}")
        checks.say()
        checks.say("| format | MB on disk | p50 | × checkpoint | accuracy | points lost | 95 % interval |")
        checks.say("| --- | --- | --- | --- | --- | --- | --- |")
        for name, path in found.items():
            right, lost = accuracy(made[name], labels), drop(made[name], made[CHECKPOINT], labels)
            checks.say(
                f"| {name} | {_weights(path) / 1e6:.1f} | {p50[name]:.1f} ms | {p50[name] / p50[CHECKPOINT]:.2f} "
                f"| {right.value:.4f} | {100 * lost.value:.2f} | {100 * lost.low:.1f} to {100 * lost.high:.1f} |"
            )
    checks.finish("formats")


def _weights(path: Path) -> int:
    """Bytes of the model without its tokenizer, which is the same for all."""
    return artifacts.size(path) - (sum(file.stat().st_size for file in checkpoint.tokenizer_files(path)) if path.is_dir() else 0)


if __name__ == "__main__":
    main()
