from pathlib import Path

import numpy as np
import pytest

from edgekit.data.representative import draw, representative
from edgekit.data.samples import Array, Samples
from edgekit.errors import CalibrationError
from edgekit.spec import TensorSpec

IDS = TensorSpec("input_ids", (1, 4), "int32")
MASK = TensorSpec("attention_mask", (-1, -1), "int32")
IMAGE = TensorSpec("image", (1, 2, 2, 3), "float32")


def tokens(count: int = 12) -> dict[str, Array]:
    ids = np.arange(count * 4, dtype=np.int32).reshape(count, 4)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def pictures(count: int = 12) -> Array:
    return np.random.default_rng(0).standard_normal((count, 2, 2, 3)).astype(np.float32)


def test_valid_tokens_with_a_constant_mask_pass_and_iterate_again() -> None:
    dataset = representative(Samples(tokens()), [MASK, IDS])
    assert list(dataset.inputs) == ["attention_mask", "input_ids"]
    assert len(list(dataset)) == len(list(dataset)) == 12


def test_integers_are_brought_to_the_inputs_width() -> None:
    wide = TensorSpec("input_ids", (1, 4), "int64")
    assert representative(Samples({"input_ids": tokens()["input_ids"]}), [wide]).inputs["input_ids"].dtype == np.int64
    values = tokens()["input_ids"].astype(np.int64)
    values[5, 2] = 2**40
    with pytest.raises(CalibrationError, match=r"sample 5 .* int32 does not hold"):
        representative(Samples({"input_ids": values}), [IDS])


def test_memory_mapped_images_stay_mapped(tmp_path: Path) -> None:
    Samples({"image": pictures()}).save(tmp_path)
    dataset = representative(Samples.load(tmp_path), [IMAGE])
    assert isinstance(dataset.inputs["image"], np.memmap)


@pytest.mark.parametrize("count", [0, 9])
def test_empty_or_too_few(count: int) -> None:
    with pytest.raises(CalibrationError, match="is empty" if count == 0 else "9 samples, too few .* at least 10"):
        representative(Samples(tokens(count)), [IDS, MASK])


def test_minimum_can_be_lowered() -> None:
    assert len(representative(Samples(tokens(1)), [IDS, MASK], minimum=1)) == 1


def test_names_missing_and_surplus() -> None:
    with pytest.raises(CalibrationError, match="lacks the input 'image'; it has input_ids, attention_mask"):
        representative(Samples(tokens()), [IDS, MASK, IMAGE])
    with pytest.raises(CalibrationError, match="'attention_mask', which is none of the model's inputs: input_ids"):
        representative(Samples(tokens()), [IDS])


@pytest.mark.parametrize(
    ("array", "spec", "message"),
    [
        (pictures()[:, :, :1], IMAGE, r"'image' needs the shape \(2, 2, 3\) per sample but has \(2, 1, 3\)"),
        (pictures().reshape(12, -1), IMAGE, r"has \(12,\)"),
        (tokens()["input_ids"].astype(np.float32), IDS, "needs int32 but has float32; convert"),
        (pictures().astype(np.uint8), IMAGE, "needs float32 but has uint8; normalize"),
        (np.full((12, 4), "x"), IDS, "needs int32 but has <U1"),
        (tokens()["input_ids"].astype(np.int8), TensorSpec("q", (1, 4), "int8", 0.1, 0), "needs float32 but has int8"),
    ],
)
def test_wrong_shape_or_dtype(array: Array, spec: TensorSpec, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        representative(Samples({spec.name: array}), [spec])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_name_their_sample(value: float) -> None:
    array = pictures()
    array[7, 1, 1, 2] = value
    array[9, 0, 0, 0] = value
    with pytest.raises(CalibrationError, match=r"sample 7 .* NaN or infinity in input 'image'"):
        representative(Samples({"image": array}), [IMAGE])


def test_not_finite_beyond_the_first_block() -> None:
    array = np.zeros((40, 1024, 1024), np.float32)
    array[:, 0, 0] = np.arange(40)
    array[33, 5, 5] = np.nan
    with pytest.raises(CalibrationError, match="sample 33 "):
        representative(Samples({"x": array}), [TensorSpec("x", (1, 1024, 1024), "float32")])


def test_constant_sets_are_refused() -> None:
    same = {name: np.repeat(array[:1], 12, axis=0) for name, array in tokens().items()}
    with pytest.raises(CalibrationError, match="all 12 samples are the same"):
        representative(Samples(same), [IDS, MASK])


def test_constant_float_input_is_refused_beside_one_that_varies() -> None:
    with pytest.raises(CalibrationError, match="'image' is constant, the same in all 12"):
        representative(Samples({**tokens(), "image": np.repeat(pictures(1), 12, axis=0)}), [IDS, MASK, IMAGE])


def test_float_input_of_one_value_within_every_sample_is_refused() -> None:
    flat = np.broadcast_to(np.arange(12, dtype=np.float32)[:, None, None, None], (12, 2, 2, 3))
    with pytest.raises(CalibrationError, match="'image' is constant, one value throughout each"):
        representative(Samples({"image": flat}), [IMAGE])


def test_one_number_per_sample_need_only_vary_between_samples() -> None:
    column = np.arange(12, dtype=np.float32)[:, None]
    representative(Samples({"x": column}), [TensorSpec("x", (1, 1), "float32")])


def test_draw_is_seeded_sorted_and_unique() -> None:
    first, again, other = draw(1000, 50, 3), draw(range(1000), 50, 3), draw(1000, 50, 4)
    assert first.tolist() == again.tolist() == sorted(set(first.tolist()))
    assert len(first) == 50
    assert first.tolist() != other.tolist()
    assert draw(1000).shape == (200,)
    assert draw(5, 200).tolist() == [0, 1, 2, 3, 4]
