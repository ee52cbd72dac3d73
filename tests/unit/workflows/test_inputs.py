"""What files say of how they are fed, and which rows it is meant for."""

from pathlib import Path

import numpy as np

from edgekit.spec import DataSpec
from edgekit.tflite import flatbuffer, package
from edgekit.tflite.metadata import ModelMetadata, TensorMetadata
from edgekit.workflows.inputs import encode_for, encoding_of, settings_of
from tests.unit.classifiers import image_classifier


def test_arrays_are_taken_as_they_are_whatever_the_metadata_says_of_images(tmp_path: Path) -> None:
    described = package.build(ModelMetadata("images", inputs=(TensorMetadata("image", mean=(127.5,), std=(127.5,)),)))
    file, rows = tmp_path / "foreign.tflite", np.linspace(-1, 1, 96, dtype=np.float32).reshape(2, 4, 4, 3)
    package.attach(image_classifier(), file, described, {})
    content = flatbuffer.read(file)
    encoding = encoding_of(content, settings_of(content), DataSpec(""), tmp_path)
    assert (encoding.mean, encoding.of_images) == ((127.5,), True)
    data = tmp_path / "rows.npz"
    np.savez(data, image=rows)
    np.testing.assert_array_equal(encode_for(file, DataSpec(data), tmp_path).inputs["image"], rows)
    told = encode_for(file, DataSpec(data, mean=(0.5,), std=(2.0,)), tmp_path).inputs["image"]
    np.testing.assert_allclose(told, (rows - 0.5) / 2, rtol=1e-6)
