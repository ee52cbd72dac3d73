"""Image files to arrays, written to a memory-mapped file so that memory stays bounded."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.samples import Array, Samples
from edgekit.data.sources import ImageRows
from edgekit.errors import ConfigError, DatasetError, OutputError
from edgekit.spec import TensorSpec

_BRIGHTEST = 255.0
# The share of unreadable images that is left out, and told, rather than stopping everything.
_MOST_UNREADABLE = 0.01

# Of Pillow's many, those that only decode; PostScript is a language, which it hands to Ghostscript.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
# A picture of half a megabyte may unpack to a gigabyte.
_MOST_PIXELS = 64_000_000


@dataclass(frozen=True)
class Preprocessing:
    """real = (pixel - mean) / std per channel, pixels 0 to 255; one value serves all channels.

    `crop` keeps the aspect ratio (shortest side to size, then the centre); otherwise the image is stretched. The defaults are
    MobileNet's, which map pixels to [-1, 1] (TF-Slim's inception preprocessing)."""

    mean: tuple[float, ...] = (127.5,)
    std: tuple[float, ...] = (127.5,)
    crop: bool = True


def for_input(spec: TensorSpec, preprocessing: Preprocessing) -> Preprocessing:
    """`preprocessing`, or for a uint8 input that means the same to within one level, pixels as they are.

    That is what apps feed such an input; between mean 127.5 and a whole zero point lies half a level, which rounds either way."""
    if spec.dtype != "uint8" or not spec.scale:
        return preprocessing
    pixels = np.array([[0.0], [_BRIGHTEST]])
    levels = (pixels - preprocessing.mean) / preprocessing.std / spec.scale + (spec.zero_point or 0)
    if np.abs(levels - pixels).max() > 1:
        return preprocessing
    return Preprocessing((float(spec.zero_point or 0),), (1 / spec.scale,), preprocessing.crop)


def encode_images(rows: ImageRows, spec: TensorSpec, preprocessing: Preprocessing, folder: Path) -> Samples:
    """Decode to RGB or grey, resize bilinearly to the input (1, height, width, channels), and write float32 under `folder`.

    Images that cannot be read are left out, and `Samples.skipped` names them, where they are 1 % of all at most. Raises
    `DatasetError` naming an unreadable image beyond that, `ConfigError` for statistics that do not fit, `OutputError` if
    `folder` cannot hold the array."""
    _, height, width, channels = spec.shape
    mean, std = _statistics(preprocessing, channels)
    shape = (len(rows), height, width, channels)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A memory map on a full disk ends in SIGBUS, not in an exception.
        needed, free = 4 * int(np.prod(shape)), shutil.disk_usage(folder).free
        if needed > free:
            raise OutputError(
                f"{folder}: {len(rows)} images need {needed >> 20} MiB but {free >> 20} MiB are free; free space or give fewer"
            )
        with tempfile.NamedTemporaryFile(prefix="images-", suffix=".npy", dir=folder, delete=False) as place:
            file = Path(place.name)
        array = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from None
    read: list[int] = []
    failed: list[DatasetError] = []
    for index, path in enumerate(rows.files):
        try:
            array[len(read)] = (read_image(path, height, width, channels, crop=preprocessing.crop) - mean) / std
            read.append(index)
        except DatasetError as error:
            failed.append(error)
            if len(failed) > _MOST_UNREADABLE * len(rows):
                others = f" ({len(failed)} of the first {index + 1} cannot be read, and 1 % may be left out)" if failed[1:] else ""
                raise DatasetError(f"{failed[0].message}{others}") from None
    array.flush()
    skipped = tuple(sorted({path.name for path in rows.files} - {rows.files[index].name for index in read})) if failed else ()
    return Samples({spec.name: np.load(file, mmap_mode="r")[: len(read)]}, skipped=skipped, kept=np.array(read) if failed else None)


def head_labels(rows: ImageRows, classes: int | None) -> Array | None:
    """Labels as int64 class numbers of a head with `classes` outputs; None if the rows have none.

    A head with exactly one class more than `class_names` has background at 0 (1001 classes for ImageNet's 1000): labels
    move up by one. Only the names decide that; from the labels alone a class that happens to be absent would look the same.
    Raises `DatasetError` for a label outside the head, and where names and head differ in their number of classes."""
    if rows.labels is None:
        return None
    more = classes - len(rows.class_names) if classes is not None and rows.class_names is not None else 0
    labels = np.asarray(rows.labels, dtype=np.int64) + (more == 1)
    outside = np.flatnonzero((labels < 0) | (labels >= (np.inf if classes is None else classes)))
    if outside.size:
        index = int(outside[0])
        raise DatasetError(
            f"{rows.origin}: labels outside the head: {rows.files[index].name} has {rows.labels[index]}, "
            f"the head has {classes} classes; mend labels.tsv or give the model that it is for"
        )
    if rows.class_names is not None and classes not in (None, 0, 1) and more not in (0, 1):
        raise DatasetError(
            f"{rows.origin}: class_names.txt names {len(rows.class_names)} classes, the model's head has {classes}; "
            "give the data that the model was trained for, or its class_names.txt"
        )
    return labels


def _statistics(preprocessing: Preprocessing, channels: int) -> tuple[Array, Array]:
    if channels not in (1, 3):
        raise ConfigError(f"images have 1 or 3 channels, not {channels}; give an .npz file for this model")
    for name, values in (("mean", preprocessing.mean), ("std", preprocessing.std)):
        if len(values) not in (1, channels):
            raise ConfigError(f"image {name} has {len(values)} values for {channels} channels; give one, or one per channel")
    if not all(value > 0 for value in preprocessing.std):
        raise ConfigError("image std must be above 0 in every channel; the usual values are 127.5 or 255")
    return np.asarray(preprocessing.mean, np.float32), np.asarray(preprocessing.std, np.float32)


def read_image(path: Path, height: int, width: int, channels: int, *, crop: bool) -> Array:
    """float32 (height, width, channels), 0 to 255: RGB or grey, resized bilinearly. Raises `DatasetError` if it is none."""
    from PIL import Image

    try:
        # A pipe would be waited for.
        if not path.is_file():
            raise OSError("not a regular file")
        with Image.open(path, formats=_FORMATS) as opened:
            if opened.width * opened.height > _MOST_PIXELS:
                raise ValueError(f"{opened.width} x {opened.height} pixels, above the {_MOST_PIXELS:,} that are read")
            image: Any = opened.convert("L" if channels == 1 else "RGB")
            box = _centre(image.width, image.height, height, width) if crop else None
            image = image.resize((width, height), Image.Resampling.BILINEAR, box=box)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{path}: not a readable image ({error}); replace it or leave it out") from None
    return np.asarray(image, np.float32).reshape(height, width, channels)


def _centre(image_width: int, image_height: int, height: int, width: int) -> tuple[float, float, float, float]:
    """The largest centred box (left, upper, right, lower) with the target's aspect ratio: resizing it is resize, then crop."""
    scale = min(image_width / width, image_height / height)
    left, upper = (image_width - width * scale) / 2, (image_height - height * scale) / 2
    return left, upper, left + width * scale, upper + height * scale
