"""Mask values: found, softened, and chosen so that the outputs stay the same."""

import numpy as np

from edgekit.models import attention_masks
from edgekit.stages.quantize.soften import soften_masks
from edgekit.tflite.interpreter import Model
from tests.unit.stages.quantize.models import conv_net, conv_samples, save, token_net, token_samples

LOWEST = float(np.finfo(np.float32).min)


def test_a_mask_is_told_from_weights():
    assert attention_masks.is_mask(np.array([0, LOWEST], np.float32))
    assert attention_masks.is_mask(np.array([-np.inf]))
    assert not attention_masks.is_mask(np.array([-1e8, 5.0], np.float32))
    assert not attention_masks.is_mask(np.array([-(10**10)]))
    assert not attention_masks.is_mask(np.array([], np.float32))


def test_only_mask_values_change_and_the_dtype_stays():
    softened = attention_masks.soften(np.array([1.5, -7, LOWEST], np.float32), -20.0)
    assert softened.dtype == np.float32
    assert softened.tolist() == [1.5, -7.0, -20.0]


def test_the_smallest_value_that_gives_the_same_outputs_is_chosen():
    reference = {"first": np.ones((3, 2)), "second": np.ones((3, 4))}
    other = {**reference, "second": reference["second"] + 0.1}
    assert attention_masks.choose(lambda value: reference if value <= -80 else other, reference) == -80.0


def test_none_where_every_value_changes_the_outputs():
    reference = {"only": np.ones((3, 2))}
    assert attention_masks.choose(lambda value: {"only": reference["only"] * 2}, reference) is None


def test_a_file_s_mask_is_softened_in_place_and_it_answers_alike(tmp_path):
    path, rows = save(token_net(), tmp_path / "m.tflite"), token_samples(8)
    rows.save(tmp_path / "rows")
    before = [Model(path).run(row)["result"] for row in rows]
    size = path.stat().st_size
    value = soften_masks(path, tmp_path / "rows")
    assert value in attention_masks.CANDIDATES
    assert path.stat().st_size == size
    assert np.float32(LOWEST).tobytes() not in path.read_bytes()
    for row, wanted in zip(rows, before, strict=True):
        np.testing.assert_allclose(Model(path).run(row)["result"], wanted, atol=1e-6)


def test_a_file_without_mask_stays_byte_for_byte(tmp_path):
    path = save(conv_net(), tmp_path / "m.tflite")
    conv_samples(4).save(tmp_path / "rows")
    before = path.read_bytes()
    assert soften_masks(path, tmp_path / "rows") is None
    assert path.read_bytes() == before
    assert list(tmp_path.glob("*.mask.tflite")) == []
