"""Published files in MediaPipe Tasks, in an environment of its own, against `edgekit predict`, PyTorch and `edgekit evaluate`.

python -m venv /tmp/mediapipe && /tmp/mediapipe/bin/pip install mediapipe
python benchmarks/mediapipe.py --shared ../shared --mediapipe-python /tmp/mediapipe/bin/python
"""

import argparse
import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from checks import Checks, edgekit
from children import probabilities
from PIL import Image

from edgekit.data.images import read_image
from edgekit.measure.judge import outputs
from edgekit.spec import DataSpec
from edgekit.system.worker import Worker
from edgekit.tflite import flatbuffer
from edgekit.workflows.inputs import encode_for
from edgekit.workflows.predict import Predictor

Array = np.ndarray[Any, np.dtype[Any]]

SCHEMES = ("float32", "dynamic", "int8")
LENGTH = 64
IMAGES = 100
SAME_LABEL = 0.995
SCORES = 1e-2

# Run by the other Python: prints a list of scores by label for each text or image.
TASKS = """
import json, sys
from mediapipe import Image
from mediapipe.tasks.python import BaseOptions, text, vision
kind, file, listing = sys.argv[1:]
items = json.load(open(listing))
base = BaseOptions(model_asset_path=file)
if kind == "text":
    task = text.TextClassifier.create_from_options(text.TextClassifierOptions(base_options=base))
    results = [task.classify(item) for item in items]
else:
    task = vision.ImageClassifier.create_from_options(vision.ImageClassifierOptions(base_options=base))
    results = [task.classify(Image.create_from_file(item)) for item in items]
scores = []
for result in results:
    categories = sorted(result.classifications[0].categories, key=lambda category: category.index)
    scores.append([category.score for category in categories])
print(json.dumps(scores))
"""


def in_mediapipe(python: Path, kind: str, file: Path, items: Sequence[str], room: Path) -> Array:
    """Scores (N, classes) of the task of that kind."""
    listing = room / "items.json"
    listing.write_text(json.dumps(list(items)))
    done = subprocess.run([python, "-c", TASKS, kind, file, listing], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{file.name}: MediaPipe refused it: {done.stderr.strip().splitlines()[-1][:500]}")
    return np.array(json.loads(done.stdout.splitlines()[-1]))


def compared(checks: Checks, what: str, first: Array, second: Array, limit: float | None = None) -> str:
    """Checks the labels, and the scores where there is a limit; returns a line of the table."""
    share = float((first.argmax(-1) == second.argmax(-1)).mean())
    apart = np.abs(first - second).max(-1)
    checks.holds(f"{what}: same label on {share:.2%} of {len(apart)} (at least {SAME_LABEL:.1%})", share >= SAME_LABEL)
    within = float((apart <= SCORES).mean())
    if limit is not None:
        checks.holds(
            f"{what}: scores within {limit:g} on {within:.2%} of {len(apart)} (at least {SAME_LABEL:.1%})", within >= SAME_LABEL
        )
    return f"| {what} | {share:.2%} | {within:.2%} | {np.median(apart):.1e} | {apart.max():.1e} |"


def texts(checks: Checks, shared: Path, python: Path, room: Path) -> list[str]:
    model, data = shared / "models/minilm-l6-sst2", shared / "data/sst2"
    files = {scheme: room / f"{model.name}_{scheme}.tflite" for scheme in SCHEMES}
    if not all(file.is_file() for file in files.values()):
        command = ["convert", model, "--mediapipe", "--max-length", str(LENGTH), "--out", room]
        command += [part for scheme in SCHEMES for part in ("--scheme", scheme)]
        edgekit([*command, "--representative-data", data / "train.tsv", "--evaluation-data", data / "dev.tsv"])
    sentences = [line.split("\t")[0] for line in (data / "dev.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    reference = Worker().run(probabilities, model, sentences, LENGTH).value
    table = []
    for scheme, file in files.items():
        tasks = in_mediapipe(python, "text", file, sentences, room)
        predictor = Predictor(file)
        ours = np.array([list(predictor(text).fields["scores"].values()) for text in sentences])
        table.append(
            compared(checks, f"{scheme}: MediaPipe against edgekit predict", tasks, ours, SCORES if scheme == "dynamic" else None)
        )
        for name, found in (("MediaPipe", tasks), ("edgekit predict", ours)):
            table.append(compared(checks, f"{scheme}: {name} against PyTorch", found, reference))
    return table


def images(checks: Checks, shared: Path, python: Path, room: Path) -> list[str]:
    """MediaPipe stretches an image where edgekit crops it, so it is given the cropped one."""
    model, data = shared / "models/mobilenet_v2_1.0_224.onnx", shared / "data/imagenet_val"
    file = room / f"{model.stem}_int8.tflite"
    if not file.is_file():
        command = ["convert", model, "--mediapipe", "--scheme", "int8", "--inputs", "uint8", "--out", room]
        edgekit([*command, "--representative-data", data])
    _, height, width, channels = flatbuffer.read(file).signature(flatbuffer.read(file).entry()).inputs[0].shape
    files = sorted((data / "images").iterdir())[:IMAGES]
    cropped = []
    for number, path in enumerate(files):
        pixels = read_image(path, height, width, channels, crop=True)
        Image.fromarray(np.rint(pixels).astype(np.uint8)).save(room / f"{number}.png")
        cropped.append(str(room / f"{number}.png"))
    tasks = in_mediapipe(python, "image", file, cropped, room)
    # Encoded and run as `edgekit evaluate` does it.
    (room / "labels.tsv").write_text("file\n" + "".join(f"{path}\n" for path in files))
    ours = next(iter(outputs(file, encode_for(file, DataSpec(room), room / "encoded")).values()))
    return [compared(checks, "MobileNet V2 int8: MediaPipe against edgekit evaluate", tasks, ours)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--mediapipe-python", type=Path, required=True, help="a Python that has mediapipe installed")
    parser.add_argument("--work", type=Path, help="folder for the files, which are used again if they are there")
    arguments = parser.parse_args()
    version = subprocess.run(
        [arguments.mediapipe_python, "-c", "from importlib.metadata import version; print(version('mediapipe'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    checks = Checks(f"MiniLM-L6 and MobileNet V2 in MediaPipe Tasks {version}")
    with tempfile.TemporaryDirectory() as room:
        work = arguments.work or Path(room)
        table = texts(checks, arguments.shared, arguments.mediapipe_python, work)
        table += images(checks, arguments.shared, arguments.mediapipe_python, work)
    checks.say()
    checks.say("| compared | same label | scores within 0.01 | median difference of a score | largest |")
    checks.say("| --- | --- | --- | --- | --- |")
    for line in table:
        checks.say(line)
    checks.finish("mediapipe")


if __name__ == "__main__":
    main()
