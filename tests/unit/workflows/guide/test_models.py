"""Where weights are found, and what is no weights of a model."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from edgekit.errors import ConfigError, ModelFormatError
from edgekit.workflows.guide.networks import ARCHITECTURES, RANDOM, check_size, find_weights, parameters, random_images
from edgekit.workflows.guide.published import TABLE_1


def test_every_row_of_table_1_can_be_built() -> None:
    assert [row.name for row in TABLE_1] == list(ARCHITECTURES)
    for row in TABLE_1:
        # The published sizes are those of the float weights.
        assert abs(4e-6 * ARCHITECTURES[row.name].parameters / row.size_mb["float32"] - 1) < 0.01


def test_weights_are_found_by_name(tmp_path: Path) -> None:
    assert find_weights(RANDOM, "m") is not None
    assert find_weights(str(tmp_path), "m") is None
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.create_group("model_weights").create_dataset("kernel", data=np.zeros((3, 5)))
    found = find_weights(str(tmp_path), "m")
    assert found is not None
    assert (found.path, found.whole) == (tmp_path / "m.h5", False)
    with h5py.File(tmp_path / "m.h5", "a") as file:
        file.attrs["model_config"] = "{}"
    found = find_weights(str(tmp_path), "m")
    assert found is not None
    assert found.whole
    assert parameters(tmp_path / "m.h5") == 15
    (tmp_path / "m.onnx").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"m.h5 and m.onnx"):
        find_weights(str(tmp_path), "m")


def test_no_such_folder_and_no_hdf5(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        find_weights(str(tmp_path / "none"), "m")
    (tmp_path / "m.h5").write_bytes(b"text")
    with pytest.raises(ModelFormatError, match=r"m.h5: not a readable HDF5 file"):
        find_weights(str(tmp_path), "m")


def test_a_model_of_another_size_is_another_architecture() -> None:
    v2 = ARCHITECTURES["mobilenet_v2"]
    check_size(v2, v2.parameters + 1281, Path("v2.onnx"))  # a background class
    check_size(v2, None, Path("v2"))
    with pytest.raises(ModelFormatError, match=r"v1.h5: has 4.23 million weights, MobileNet-v2-1-224 3.50"):
        check_size(v2, ARCHITECTURES["mobilenet_v1"].parameters, Path("v1.h5"))


def test_random_images_fill_the_range_of_the_models(tmp_path: Path) -> None:
    random_images(tmp_path / "a.npz", 3, 0, 32)
    random_images(tmp_path / "b.npz", 3, 1, 32)
    with np.load(tmp_path / "a.npz") as first, np.load(tmp_path / "b.npz") as second:
        images = first["image"]
        assert (images.shape, images.dtype) == ((3, 32, 32, 3), np.float32)
        assert images.min() < -0.9
        assert images.max() > 0.9
        assert (images != second["image"]).any()


def test_a_keras_3_file_is_told_and_an_h5_beside_it_is_taken(tmp_path: Path) -> None:
    (tmp_path / "m.keras").write_bytes(b"PK\x03\x04")
    with pytest.raises(ModelFormatError, match=r"m.keras: is a Keras 3 file"):
        find_weights(str(tmp_path), "m")
    h5py.File(tmp_path / "m.h5", "w").close()
    found = find_weights(str(tmp_path), "m")
    assert found is not None
    assert found.path == tmp_path / "m.h5"
