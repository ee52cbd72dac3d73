"""Ranges by percentile, squared error and entropy: what they clip, what they never do, and what they count."""

import pickle

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgekit.data.samples import Samples
from edgekit.errors import ConfigError
from edgekit.stages.quantize import calibrate, quantizer
from edgekit.stages.quantize.calibrate import full_range
from edgekit.stages.quantize.forms import Form
from edgekit.stages.quantize.histogram import RANGES, Histogram
from edgekit.stages.quantize.schemes import CALIBRATIONS
from edgekit.stages.quantize.tensors import Tensors
from edgekit.system.worker import Worker
from edgekit.tflite import flatbuffer
from edgekit.tflite.interpreter import Model
from tests.unit.stages.quantize.models import conv_net, conv_samples, save, sqnr_db, token_net
from tests.unit.tflite.conftest import Builder

# As long as a row of the table is wide, so that shapes alone do not tell tokens from features.
LENGTH = WIDTH = 6
PADDING, MASK = 3.0, -20.0


def histogram(values: np.ndarray) -> Histogram:
    found = Histogram(float(values.min()), float(values.max()))
    for chunk in np.array_split(values.astype(np.float32), 5):
        found.add(chunk)
    return found


def gaussian_with_one_outlier() -> np.ndarray:
    return np.append(np.random.default_rng(0).standard_normal(1_000_000), 40)


def rounded(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """`values` in int8 and back."""
    scale = (max(high, 0) - min(low, 0)) / 255
    zero = round(-128 - min(low, 0) / scale)
    return (np.clip(np.rint(values / scale) + zero, -128, 127) - zero) * scale


def squared_error(values: np.ndarray, low: float, high: float) -> float:
    return float(np.square(rounded(values, low, high) - values).mean())


def test_chunks_add_up_to_the_whole():
    values = gaussian_with_one_outlier().astype(np.float32)
    wanted, _ = np.histogram(values, bins=2048, range=(values.min(), values.max()))
    found = histogram(values).counts
    assert found.sum() == len(values)
    # float32 puts a value at an edge into one bin or the other.
    assert np.abs(found - wanted).max() < 100


@pytest.mark.parametrize("method", RANGES)
def test_one_outlier_among_a_million_is_clipped(method):
    low, high = RANGES[method](histogram(gaussian_with_one_outlier()))
    assert low == pytest.approx(-4.5, abs=1)
    assert 3.5 < high < 20


@pytest.mark.parametrize("method", RANGES)
@pytest.mark.parametrize("zeros", [0, 500_000], ids=["without zeros", "half of them zeros"])
def test_where_every_value_is_as_likely_nothing_is_clipped(method, zeros):
    values = np.append(np.random.default_rng(0).uniform(0, 1, 1_000_000), np.zeros(zeros))
    low, high = RANGES[method](histogram(values))
    assert low == pytest.approx(0, abs=0.01)
    assert high == pytest.approx(1, abs=0.01)


def test_percentile_cuts_its_share_off_each_end():
    values = np.random.default_rng(0).standard_normal(1_000_000)
    low, high = RANGES["percentile"](histogram(values))
    assert (low, high) == pytest.approx((-3.719, 3.719), abs=0.03)


@pytest.mark.parametrize("tail", ["standard_normal", "standard_exponential", "standard_cauchy"])
def test_mse_finds_the_range_of_least_error(tail):
    values = getattr(np.random.default_rng(0), tail)(100_000)
    values = values[np.abs(values) < 50]
    found = squared_error(values, *RANGES["mse"](histogram(values)))
    shares = np.linspace(0.05, 1, 40)
    assert found <= 1.05 * min(squared_error(values, values.min() * a, values.max() * b) for a in shares for b in shares)


@pytest.mark.parametrize("method", RANGES)
@pytest.mark.parametrize("values", [[0.0, -20.0], [1.0, 2.0], [-2.0, -1.0]])
def test_few_values_stay_within_the_range(method, values):
    low, high = RANGES[method](histogram(np.repeat(values, 1000)))
    assert min(values) - 0.02 <= low <= min(values) + 0.02
    assert max(values) - 0.02 <= high <= max(values) + 0.02


def attention_net(*, masked: bool = True) -> Builder:
    """input_ids and attention_mask (1, 6): rows of a table attend to each other; id 0 is padding, far from all other rows."""
    build = Builder()
    ids, mask = (build.tensor(name, [1, LENGTH], "int32") for name in ("input_ids", "attention_mask"))
    table = np.random.default_rng(0).normal(0, 0.3, (50, WIDTH)).astype(np.float32)
    table[0] = PADDING
    names = ("rows", "scores", "weights", "mixed")
    rows, scores, weights, mixed = (build.tensor(name, [1, LENGTH, LENGTH]) for name in names)
    build.op("GATHER", [build.tensor("table", [50, WIDTH], data=table), ids], [rows], schema.GatherOptionsT())
    build.op("BATCH_MATMUL", [rows, rows], [scores], schema.BatchMatMulOptionsT(adjY=True))
    if masked:
        real, inverse, added = (build.tensor(name, [1, LENGTH]) for name in ("real", "inverse", "added"))
        build.op("CAST", [mask], [real], schema.CastOptionsT())
        build.op("SUB", [build.tensor("one", [1], data=np.ones(1, np.float32)), real], [inverse], schema.SubOptionsT())
        build.op("MUL", [inverse, build.tensor("low", [1], data=np.full(1, 2 * MASK, np.float32))], [added], schema.MulOptionsT())
        wide, sums = build.tensor("wide", [1, 1, LENGTH]), build.tensor("sums", [1, LENGTH, LENGTH])
        shape = build.tensor("shape", [3], "int32", data=np.array([1, 1, LENGTH], np.int32))
        build.op("RESHAPE", [added, shape], [wide], schema.ReshapeOptionsT(newShape=[1, 1, LENGTH]))
        build.op("ADD", [scores, wide], [sums], schema.AddOptionsT())
        scores = sums
    build.op("SOFTMAX", [scores], [weights], schema.SoftmaxOptionsT(beta=1.0))
    build.op("BATCH_MATMUL", [weights, rows], [mixed], schema.BatchMatMulOptionsT())
    result = build.tensor("result", [1, LENGTH, LENGTH])
    build.op("ADD", [mixed, rows], [result], schema.AddOptionsT())
    build.ends({"input_ids": ids, "attention_mask": mask}, {"result": result}, "serving_default")
    return build


def padded_samples(count: int) -> Samples:
    draw = np.random.default_rng(1)
    mask = (np.arange(LENGTH) < draw.integers(2, LENGTH, (count, 1))).astype(np.int32)
    return Samples({"input_ids": draw.integers(1, 50, (count, LENGTH), dtype=np.int32) * mask, "attention_mask": mask})


def calibrated(build: Builder, samples: Samples, room, method: str):
    save(build, room / "float32.tflite")
    samples.save(room / "rows")
    calibrate.calibrate(room / "float32.tflite", room / "rows", room / "calibration", method)
    return pickle.loads((room / "calibration").read_bytes())[0]


@pytest.mark.parametrize("method", RANGES)
def test_padding_is_left_out(method, tmp_path):
    found = calibrated(attention_net(), padded_samples(64), tmp_path, method)
    assert found["rows"]["greatest"].item() == PADDING
    assert found["rows"]["max"].item() < 1.2
    # The scores themselves are what the mask is added to, so the mixed rows are the next that may be clipped.
    assert found["mixed"]["greatest"].item() == pytest.approx(PADDING, rel=0.01)
    assert found["mixed"]["max"].item() < 1.2


def test_padding_that_counts_is_not_left_out(tmp_path):
    found = calibrated(attention_net(masked=False), padded_samples(64), tmp_path, "percentile")
    assert found["mixed"]["max"].item() > 0.9 * PADDING


def test_token_axes_are_told_from_features_as_many(tmp_path):
    path = save(attention_net(), tmp_path / "m.tflite")
    file = flatbuffer.read(path)
    graph = file.subgraphs[0]
    tensors = Tensors(path.read_bytes(), file.entry(), sorted(calibrate.computed(graph)))
    row = next(iter(padded_samples(1)))
    axes = calibrate.token_axes(tensors, row, row["attention_mask"].reshape(-1) > 0)
    found = {graph.tensors[index].name: axis for index, axis in axes.items()}
    assert found["rows"] == (1,)
    assert found["scores"] == (1, 2)
    assert found["added"] == ()


@pytest.mark.parametrize("method", RANGES)
def test_a_mask_and_what_a_softmax_reads_or_gives_keep_their_range(method, tmp_path):
    found = calibrated(attention_net(), padded_samples(64), tmp_path, method)
    for name in ("added", "wide", "sums", "weights", "inverse", "real", "result"):
        assert "least" not in found[name], name
    assert found["wide"]["min"].item() == 2 * MASK
    samples = padded_samples(20)
    target = tmp_path / "int8.tflite"
    quantizer.write_integer(tmp_path / "float32.tflite", tmp_path / "calibration", target, Form("every op"))
    outputs = []
    for path in (target, tmp_path / "float32.tflite"):
        model = Model(path)
        outputs.append(np.concatenate([model.run(row)["result"][row["attention_mask"] > 0] for row in samples]))
    assert sqnr_db(*outputs) > 15


def test_ends_and_what_shares_their_scale_keep_their_range():
    build = token_net(MASK)
    flat = build.tensor("flat", [64])
    shape = build.tensor("shape", [1], "int32", data=np.array([64], np.int32))
    rows = next(number for number, tensor in enumerate(build.current.tensors) if tensor.name == "rows")
    build.op("RESHAPE", [rows, shape], [flat], schema.ReshapeOptionsT(newShape=[64]))
    build.ends({"input_ids": 0}, {"flat": flat}, "serving_default")
    graph = flatbuffer.parse(build.pack(), "m").subgraphs[0]
    assert {"rows", "flat", "masked", "result"} <= {graph.tensors[index].name for index in full_range(graph)}


def test_minmax_clips_nothing_and_int16_neither(tmp_path):
    wanted = calibrated(conv_net(), conv_samples(32), tmp_path, "minmax")
    assert not any("least" in limits for limits in wanted.values())
    quantizer.write_integer(tmp_path / "float32.tflite", tmp_path / "calibration", tmp_path / "a", Form("every op", 16))
    clipped = calibrated(conv_net(), conv_samples(32), tmp_path, "percentile")
    assert clipped["second"]["max"].item() < wanted["second"]["max"].item()
    assert clipped["logits"] == wanted["logits"]
    quantizer.write_integer(tmp_path / "float32.tflite", tmp_path / "calibration", tmp_path / "b", Form("every op", 16))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("method", ["minmax", "mse"])
def test_memory_does_not_grow_with_the_number_of_samples(method, tmp_path):
    model = save(conv_net(), tmp_path / "float32.tflite")
    peaks = []
    for count in (30, 3000):
        conv_samples(count).save(tmp_path / str(count))
        peaks.append(Worker().run(calibrate.calibrate, model, tmp_path / str(count), tmp_path / "calibration", method).peak_bytes)
    # All that is computed from 3,000 rows is 27 MB and the rows 2 MB, on top of some 90.
    assert peaks[1] < 1.1 * peaks[0]


def test_an_unknown_method_is_an_error_that_names_the_others(tmp_path):
    with pytest.raises(ConfigError, match="calibration median: unknown; choose from minmax, percentile, mse, entropy"):
        calibrate.calibrate(tmp_path / "m", tmp_path / "rows", tmp_path / "calibration", "median")
    assert (CALIBRATIONS[0], *RANGES) == CALIBRATIONS
