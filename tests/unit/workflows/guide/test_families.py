"""The families of Table 2: their names, their inputs, and rows that fit them."""

from pathlib import Path

import numpy as np
import pytest

from edgekit.data.sources import TextRows, read
from edgekit.errors import ConfigError
from edgekit.spec import DataSpec
from edgekit.system.worker import Worker
from edgekit.workflows.guide.families import FAMILIES, family
from edgekit.workflows.guide.published import TABLE_2

SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "wav2letter": {"mfcc": (296, 39)},
    "deepspeech": {"input_node": (16, 19, 26), "previous_state_c": (2048,), "previous_state_h": (2048,)},
    "yolov3": {"image": (416, 416, 3)},
}


def test_every_row_of_table_2_is_a_family_or_a_mobilenet():
    assert {row.name for row in TABLE_2} - set(FAMILIES) == {"mobilenet_v1", "mobilenet_v2"}
    assert set(FAMILIES) <= {row.name for row in TABLE_2}


def test_an_unknown_family_is_refused_with_the_known_ones():
    assert family("yolov3") is FAMILIES["yolov3"]
    with pytest.raises(ConfigError, match="'yolov4'; choose from wav2letter, deepspeech, yolov3, mobilebert"):
        family("yolov4")


@pytest.mark.parametrize("name", SHAPES)
def test_rows_fit_the_inputs_and_their_range_is_plausible(name: str, tmp_path: Path):
    item = FAMILIES[name]
    for file, seed in (("one", 1), ("again", 1), ("other", 2)):
        item.write_rows(tmp_path / f"{file}.npz", 3, seed)
    one, again, other = (dict(np.load(tmp_path / f"{file}.npz")) for file in ("one", "again", "other"))
    assert set(one) == set(SHAPES[name])
    for tensor, shape in SHAPES[name].items():
        values = one[tensor]
        assert (values.shape, values.dtype) == ((3, *shape), np.float32)
        assert 0.1 < values.std() < 1.5
        assert np.abs(values).max() < 8
        assert not np.array_equal(values[0], values[1])
        assert np.array_equal(values, again[tensor])
        assert not np.array_equal(values, other[tensor])


def test_windows_of_speech_overlap(tmp_path: Path):
    FAMILIES["deepspeech"].write_rows(tmp_path / "rows.npz", 1, 0)
    windows = np.load(tmp_path / "rows.npz")["input_node"][0]
    assert np.array_equal(windows[0, 1:], windows[1, :-1])


def test_texts_hold_known_words_and_no_labels(tmp_path: Path):
    FAMILIES["mobilebert"].write_rows(tmp_path / "rows.tsv", 20, 0)
    rows = read(DataSpec(tmp_path / "rows.tsv"))
    assert isinstance(rows, TextRows)
    assert rows.labels is None
    lengths = [len(text.split()) for text in rows.texts]
    assert min(lengths) >= 38
    assert 200 < max(lengths) <= 382
    assert len({word for text in rows.texts for word in text.split()}) > 1000


def spread_of_wav2letter(folder: Path) -> tuple[int, float]:
    """Its number of parameters, and the standard deviation of the letters' scores on two rows; in a worker's child."""
    import tf_keras

    item = FAMILIES["wav2letter"]
    count = item.build(folder / item.file_name, 0)
    item.write_rows(folder / item.rows_name, 2, 0)
    model = tf_keras.models.load_model(str(folder / item.file_name), compile=False)
    scores = tf_keras.Model(model.inputs, model.get_layer("letters").output)
    return count, float(np.std([scores(row[np.newaxis]) for row in np.load(folder / item.rows_name)["mfcc"]]))


def test_wav2letter_has_its_parameters_and_its_values_keep_their_spread(tmp_path: Path):
    """The others are built the same way, but their size makes them too slow for here."""
    count, spread = Worker().run(spread_of_wav2letter, tmp_path).value
    assert count == 23_594_529
    assert 0.1 < spread < 10
