"""The shared CNNs, the rows each is calibrated and judged on, and the official quantized files of the same models."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.data.representative import COUNT, draw
from edgekit.spec import TensorSpec
from edgekit.tflite import flatbuffer, signatures


@dataclass(frozen=True)
class Cnn:
    """`calibration` and `judged` share no row; `described` says what they are."""

    name: str
    path: Path
    calibration: Path
    judged: Path
    official: tuple[Path, ...]
    described: str


def models(shared: Path, room: Path) -> Iterator[Cnn]:
    """The data sets are written below `room` as each model's turn comes."""
    reference = shared / "reference"
    images = _split_images(shared / "data/imagenet_val", room)
    told = f"{COUNT} ImageNet images to calibrate, the other {len(_lines(images[1])) - 1} to judge"
    yield Cnn(
        "MobileNet V2",
        shared / "models/mobilenet_v2_1.0_224.onnx",
        *images,
        (reference / "mobilenet_v2_1.0_224_quant.tflite", reference / "tf2_mobilenet_v2_1.0_224_ptq.tflite"),
        told,
    )
    v1 = shared / "models/mobilenet_v1_0.25_224.tflite"
    yield Cnn("MobileNet V1 0.25", v1, *images, (reference / "mobilenet_v1_0.25_224_quant.tflite",), told)
    yield Cnn(
        "ResNet-8",
        shared / "models/pretrainedResnet.h5",
        *_cifar(shared / "data/cifar10_jpeg", room),
        (reference / "pretrainedResnet_quant.tflite",),
        f"{COUNT} CIFAR-10 training images to calibrate, 2000 test images to judge",
    )
    keywords = _keywords(shared / "data/kws/mfcc.npz", reference / "kws_ref_model.tflite", room)
    yield Cnn(
        "KWS",
        shared / "models/kws_ref_model",
        *keywords,
        (reference / "kws_ref_model.tflite",),
        f"{COUNT} keyword inputs to calibrate, the other 500 to judge",
    )


def with_input_of(model: Path, official: Path, target: Path) -> Path:
    """`official` with its input named as `model` names it, so that both take the same samples."""
    content = signatures.add_signature(official.read_bytes(), origin=official.name)
    (ours,), (theirs,) = _inputs(model.read_bytes()), _inputs(content)
    if ours.name != theirs.name:
        content = signatures.rename(content, {theirs.name: ours.name}, origin=official.name)
    target.write_bytes(content)
    return target


def _inputs(content: bytes) -> tuple[TensorSpec, ...]:
    file = flatbuffer.parse(content, "model")
    return file.signature(file.entry()).inputs


def _lines(folder: Path) -> list[str]:
    return (folder / "labels.tsv").read_text(encoding="utf-8").splitlines()


def _split_images(source: Path, room: Path) -> tuple[Path, Path]:
    """Two image folders: `COUNT` drawn images, and all others."""
    header, *lines = _lines(source)
    drawn = set(draw(len(lines), COUNT, 0).tolist())
    folders = room / "images_calibration", room / "images_judged"
    for folder, chosen in zip(folders, (True, False), strict=True):
        folder.mkdir(parents=True, exist_ok=True)
        kept = [line for number, line in enumerate(lines) if (number in drawn) is chosen]
        (folder / "labels.tsv").write_text("\n".join([header, *kept]) + "\n", encoding="utf-8")
        for name in ("images", "class_names.txt"):
            if not (folder / name).exists():
                (folder / name).symlink_to((source / name).resolve())
    return folders


def _cifar(source: Path, room: Path) -> tuple[Path, Path]:
    """The network takes pixels as they are, 0 to 255."""
    return (
        _write(source / "train.npz", room / "cifar_calibration.npz", slice(COUNT)),
        _write(source / "test.npz", room / "cifar_judged.npz", slice(None)),
    )


def _keywords(source: Path, reference: Path, room: Path) -> tuple[Path, Path]:
    """The features are stored as the official file's input takes them; its scale gives their real values."""
    (spec,) = _inputs(signatures.add_signature(reference.read_bytes(), origin=reference.name))
    with np.load(source) as stored:
        drawn = draw(len(stored["y"]), COUNT, 0)
        rest = np.setdiff1d(np.arange(len(stored["y"])), drawn)
    scale, zero = spec.scale or 1.0, spec.zero_point or 0
    return (
        _write(source, room / "kws_calibration.npz", drawn, scale, zero),
        _write(source, room / "kws_judged.npz", rest, scale, zero),
    )


def _write(source: Path, target: Path, rows: slice | np.ndarray, scale: float = 1.0, zero: int = 0) -> Path:
    """Real float32 values: integer arrays would be taken for values that an integer file has stored."""
    with np.load(source) as stored:
        x = (stored["x"][rows].astype(np.float32) - np.float32(zero)) * np.float32(scale)
        np.savez(target, x=x, y=stored["y"][rows])
    return target
