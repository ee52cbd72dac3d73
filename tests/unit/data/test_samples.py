from pathlib import Path

import numpy as np
import pytest

from edgekit.data.samples import Samples, random_samples
from edgekit.errors import DatasetError, OutputError
from edgekit.spec import TensorSpec


@pytest.fixture
def samples() -> Samples:
    ids = np.arange(12, dtype=np.int32).reshape(4, 3)
    return Samples({"serving_default_ids:0": ids, "mask/x": ids * 0}, np.array([0, 1, 0, 1], np.int64))


def test_rows_have_a_leading_axis_of_one_and_come_again(samples: Samples) -> None:
    first, second = list(samples), list(samples)
    assert len(samples) == len(first) == len(second) == 4
    assert first[2]["serving_default_ids:0"].tolist() == [[6, 7, 8]]
    assert second[2]["serving_default_ids:0"].tolist() == [[6, 7, 8]]


def test_inputs_and_labels_must_agree_in_number() -> None:
    with pytest.raises(DatasetError, match="x 3, labels 2"):
        Samples({"x": np.zeros((3, 1))}, np.zeros(2, np.int64))


def test_take_keeps_rows_and_labels_together(samples: Samples) -> None:
    taken = samples.take([3, 0])
    assert taken.inputs["serving_default_ids:0"][0].tolist() == [9, 10, 11]
    assert taken.labels is not None
    assert taken.labels.tolist() == [1, 0]


def test_saved_samples_come_back_as_memory_maps(samples: Samples, tmp_path: Path) -> None:
    samples.save(tmp_path / "kept")
    loaded = Samples.load(tmp_path / "kept")
    assert list(loaded.inputs) == list(samples.inputs)
    for name, array in loaded.inputs.items():
        assert isinstance(array, np.memmap)
        assert array.dtype == samples.inputs[name].dtype
        np.testing.assert_array_equal(array, samples.inputs[name])
    np.testing.assert_array_equal(loaded.labels, samples.labels)


def test_samples_without_labels_come_back_without(tmp_path: Path) -> None:
    Samples({"x": np.ones((2, 2), np.float32)}).save(tmp_path)
    assert Samples.load(tmp_path).labels is None


def test_damaged_and_unwritable_folders_are_named(samples: Samples, tmp_path: Path, unwritable: Path) -> None:
    samples.save(tmp_path)
    file = tmp_path / "inputs_0.npy"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(DatasetError, match="damaged"):
        Samples.load(tmp_path)
    with pytest.raises(DatasetError, match="missing"):
        Samples.load(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="cannot be written"):
        samples.save(unwritable)


def test_random_samples_follow_shape_dtype_and_seed() -> None:
    inputs = (
        TensorSpec("ids", (-1, -1), "int64"),
        TensorSpec("flag", (1,), "bool"),
        TensorSpec("image", (1, 8, 8, 3), "float32"),
        TensorSpec("quantized", (1, 4), "int8", 0.5, 3),
    )
    drawn, again, other = random_samples(inputs, 6, 1), random_samples(inputs, 6, 1), random_samples(inputs, 6, 2)
    assert {name: (array.shape, array.dtype.name) for name, array in drawn.inputs.items()} == {
        "ids": ((6, 1), "int64"),
        "flag": ((6,), "bool"),
        "image": ((6, 8, 8, 3), "float32"),
        "quantized": ((6, 4), "float32"),
    }
    assert set(np.unique(drawn.inputs["ids"])) <= {0, 1}
    np.testing.assert_array_equal(drawn.inputs["image"], again.inputs["image"])
    assert not np.array_equal(drawn.inputs["image"], other.inputs["image"])
    mask = random_samples([TensorSpec("attention_mask", (1, 9), "int32")], 40).inputs["attention_mask"]
    assert mask[0].all()
    assert set(mask.sum(axis=1)) == set(range(1, 10))
    assert (np.diff(mask, axis=1) <= 0).all()
    with pytest.raises(DatasetError, match=r"input text: .* str "):
        random_samples([TensorSpec("text", (1,), "str")], 2)
