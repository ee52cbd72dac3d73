from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.data.encode import Encoding
from edgekit.data.images import Preprocessing, encode_images, for_input, head_labels
from edgekit.data.samples import described
from edgekit.data.sources import ImageRows
from edgekit.errors import ConfigError, DatasetError, OutputError
from edgekit.spec import TensorSpec
from edgekit.tasks.classification import IMAGE_CLASSIFICATION
from edgekit.tflite.interpreter import quantize

MOBILENET = Preprocessing(mean=(127.5,), std=(127.5,), crop=True)
INPUT = (TensorSpec("input", (1, 4, 4, 3), "float32"),)
STRETCH = Preprocessing(mean=(0.0,), std=(1.0,), crop=False)


@pytest.fixture
def rows(tmp_path: Path) -> ImageRows:
    """A red 8x8 PNG and a 24x8 one that is black, white, black in thirds from left to right."""
    red, bands = tmp_path / "red.png", tmp_path / "bands.png"
    Image.new("RGB", (8, 8), (255, 0, 0)).save(red)
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, 8:16] = 255
    Image.fromarray(pixels).save(bands)
    return ImageRows((red, bands), (0, 1), ("red", "bands"), str(tmp_path))


def image(height: int, width: int, channels: int = 3) -> TensorSpec:
    return TensorSpec("x", (1, height, width, channels), "float32")


def test_memory_mapped_nhwc_in_the_models_range(rows: ImageRows, tmp_path: Path) -> None:
    samples = IMAGE_CLASSIFICATION.encode(rows, INPUT, Encoding(classes=2), {}, tmp_path / "out")
    array = samples.inputs["input"]
    assert isinstance(array, np.memmap)
    assert (array.shape, array.dtype) == ((2, 4, 4, 3), np.float32)
    assert array[0, 0, 0].tolist() == [1.0, -1.0, -1.0]
    assert samples.labels is not None
    assert samples.labels.tolist() == [0, 1]
    (file,) = (tmp_path / "out").iterdir()
    np.testing.assert_array_equal(np.load(file), array)


def test_crop_keeps_the_centre_and_stretch_keeps_all(rows: ImageRows, tmp_path: Path) -> None:
    plain = Preprocessing((0.0,), (1.0,), crop=True)
    cropped = encode_images(rows, image(8, 8), plain, tmp_path).inputs["x"]
    stretched = encode_images(rows, image(8, 24), STRETCH, tmp_path).inputs["x"]
    assert (cropped[1] == 255).all()
    assert stretched[1, 0, 0].tolist() == [0, 0, 0]
    assert stretched[1, 0, 12].tolist() == [255, 255, 255]


def test_two_encodings_in_one_folder_do_not_mix(rows: ImageRows, tmp_path: Path) -> None:
    first = encode_images(rows, image(4, 4), STRETCH, tmp_path).inputs["x"]
    before = first.copy()
    encode_images(rows, image(4, 4), MOBILENET, tmp_path)
    np.testing.assert_array_equal(first, before)


def test_grey_and_per_channel_statistics(rows: ImageRows, tmp_path: Path) -> None:
    grey = encode_images(rows, image(4, 4, 1), STRETCH, tmp_path).inputs["x"]
    assert grey.shape == (2, 4, 4, 1)
    assert grey[0, 0, 0, 0] == 76  # ITU-R 601-2: 0.299 of a red of 255
    statistics = Preprocessing((255.0, 10.0, 20.0), (1.0, 2.0, 4.0), crop=True)
    assert encode_images(rows, image(2, 2), statistics, tmp_path).inputs["x"][0, 0, 0].tolist() == [0.0, -5.0, -5.0]


@pytest.mark.parametrize(
    ("preprocessing", "channels", "message"),
    [
        (Preprocessing((1.0, 2.0), (1.0,), crop=True), 3, "mean has 2 values for 3 channels"),
        (Preprocessing((1.0,), (0.0,), crop=True), 3, "std must be above 0"),
        (MOBILENET, 4, "not 4"),
    ],
)
def test_statistics_that_do_not_fit(
    rows: ImageRows, tmp_path: Path, preprocessing: Preprocessing, channels: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        encode_images(rows, image(4, 4, channels), preprocessing, tmp_path)


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_unreadable_image_is_named(rows: ImageRows, tmp_path: Path, content: bytes | None) -> None:
    broken = rows.files[1]
    broken.write_bytes(broken.read_bytes()[:60] if content is None else content)
    with pytest.raises(DatasetError, match=r"bands.png: not a readable image"):
        encode_images(rows, image(4, 4), MOBILENET, tmp_path)


def test_unwritable_folder(rows: ImageRows, unwritable: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        encode_images(rows, image(4, 4), MOBILENET, unwritable)


def test_images_larger_than_the_disk(rows: ImageRows, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="are free"):
        encode_images(rows, image(10**7, 10**7), MOBILENET, tmp_path)


@pytest.mark.parametrize(("classes", "expected"), [(2, [0, 1]), (3, [1, 2]), (None, [0, 1])])
def test_background_class_moves_labels_up(rows: ImageRows, classes: int | None, expected: list[int]) -> None:
    labels = head_labels(rows, classes)
    assert labels is not None
    assert labels.tolist() == expected


def test_labels_alone_never_move() -> None:
    labels = head_labels(ImageRows((Path("a"), Path("b")), (0, 1), None, "folder"), 3)
    assert labels is not None
    assert labels.tolist() == [0, 1]


def test_labels_outside_the_head(rows: ImageRows) -> None:
    with pytest.raises(DatasetError, match=r"outside the head: bands.png has 1"):
        head_labels(rows, 1)


@pytest.mark.parametrize(("zero_point", "same"), [(127, True), (128, True), (126, False)])
def test_a_uint8_input_that_means_pixels_is_fed_pixels(zero_point, same):
    spec = TensorSpec("image", (1, 4, 4, 3), "uint8", 2 / 255, zero_point)
    found = for_input(spec, Preprocessing())
    pixels = np.arange(256, dtype=np.float32)
    real = (pixels - np.asarray(found.mean, np.float32)) / np.asarray(found.std, np.float32)
    assert (quantize(real, spec) == pixels).all() == same
    assert (found == Preprocessing()) != same
    assert for_input(TensorSpec("image", (1, 4, 4, 3), "float32"), Preprocessing()) == Preprocessing()


def test_one_unreadable_image_in_a_hundred_is_left_out_and_told(rows: ImageRows, tmp_path: Path) -> None:
    many = ImageRows((*rows.files[:1] * 99, rows.files[1]), (0,) * 99 + (1,), rows.class_names, "folder")
    rows.files[1].write_bytes(b"no image")
    samples = IMAGE_CLASSIFICATION.encode(many, INPUT, Encoding(classes=2), {}, tmp_path / "out")
    assert len(samples) == 99
    assert samples.skipped == ("bands.png",)
    assert samples.labels is not None
    assert set(samples.labels) == {0}
    assert described(samples, "folder") == "99 rows of folder, without bands.png (not readable)"
    samples.save(tmp_path / "saved")
    fewer = ImageRows(many.files[1:], (many.labels or ())[1:], None, "folder")
    with pytest.raises(DatasetError, match=r"bands.png: not a readable image"):
        encode_images(fewer, image(4, 4), MOBILENET, tmp_path / "other")


def test_names_and_head_differ_in_their_number_of_classes(rows: ImageRows) -> None:
    with pytest.raises(DatasetError, match=r"names 2 classes, the model's head has 4"):
        head_labels(rows, 4)
