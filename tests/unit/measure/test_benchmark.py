"""Files measured in turns, in children of their own."""

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekit.data.samples import Samples
from edgekit.errors import ConfigError, DatasetError, ModelFormatError
from edgekit.measure.execution import Budget, time_file, visited, write_outputs
from edgekit.measure.judge import BenchmarkConfig, benchmark, gzip_size, machine, order, outputs
from edgekit.system.limits import limited
from edgekit.system.worker import Progress, Worker
from edgekit.tasks.judgement import MOST_DB
from tests.unit.measure.files import fully_connected

QUICK = BenchmarkConfig(threads=1, runs=8, warmup=2, rounds=2)
ROWS = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`same` and `reference` choose the larger of two features, `swapped` the smaller one; `corrupt` has no whole graph."""
    room = tmp_path_factory.mktemp("files")
    fully_connected(room / "reference.tflite", [[1, 0], [0, 1]])
    fully_connected(room / "same.tflite", [[2, 0], [0, 2]])
    fully_connected(room / "swapped.tflite", [[0, 1], [1, 0]])
    fully_connected(room / "nan.tflite", [[float("nan"), 0], [0, 1]])
    (room / "corrupt.tflite").write_bytes((room / "same.tflite").read_bytes()[:40])
    return room


@pytest.fixture(scope="module")
def samples() -> Samples:
    features = np.random.default_rng(0).standard_normal((ROWS, 2)).astype(np.float32)
    labels = features.argmax(axis=1)
    labels[:4] = 1 - labels[:4]
    return Samples({"features": features}, labels.astype(np.int64), task="tabular-classification")


def test_every_round_runs_every_file_once_and_orders_differ():
    rounds = order(4, 6, seed=1)
    assert all(sorted(turn) == [0, 1, 2, 3] for turn in rounds)
    assert len({tuple(turn) for turn in rounds}) > 1
    assert rounds == order(4, 6, seed=1) != order(4, 6, seed=2)


def test_files_take_turns(folder: Path):
    told: list[Progress] = []
    files = [folder / "same.tflite", folder / "swapped.tflite"]
    benchmark(files, None, QUICK, on_progress=told.append)
    names = [progress.note for progress in told]
    assert [progress.done for progress in told] == [0, 1, 2, 3, 4]
    assert set(names[:2]) == set(names[2:4]) == {"same.tflite", "swapped.tflite"}


def test_a_corrupt_file_becomes_a_failure_and_the_others_go_on(folder: Path, samples: Samples):
    files = [folder / name for name in ("same.tflite", "corrupt.tflite", "swapped.tflite", "nan.tflite")]
    found = benchmark(files, samples, QUICK, reference=folder / "reference.tflite", schemes={files[0]: "float16"})
    same, corrupt, swapped, nan = found
    assert [item.path for item in found] == [str(file) for file in files]

    assert same.latency is not None
    assert same.latency.runs == 8
    assert same.latency.warmup >= 2
    assert same.latency.p90_ms is not None
    assert same.latency.p99_ms is not None
    assert 0 < same.latency.min_ms <= same.latency.p50_ms <= same.latency.p90_ms <= same.latency.p99_ms
    assert same.load_ms is not None and same.load_ms > 0
    assert same.first_ms is not None and same.first_ms > 0
    # The import of the runtime takes some 25 MB and is not this file's.
    assert same.peak_bytes is not None and 0 < same.peak_bytes < 20e6
    assert (same.ops, same.delegated_ops, same.partitions) == (1, 1, 1)
    assert (same.scheme, same.threads, same.failure) == ("float16", 1, None)

    assert same.task == "tabular-classification"
    assert same.metric is not None and (same.metric.metric, same.metric.count, same.metric.total) == ("accuracy", ROWS - 4, ROWS)
    assert same.agreement is not None and same.agreement.value == 1
    assert same.drop is not None and (same.drop.lost, same.drop.gained) == (0, 0)
    assert swapped.metric is not None and swapped.metric.count == 4
    assert swapped.agreement is not None and swapped.agreement.count == 0
    assert swapped.drop is not None and (swapped.drop.lost, swapped.drop.gained) == (ROWS - 4, 4)
    difference = np.abs(samples.inputs["features"] - samples.inputs["features"][:, ::-1]).max()
    (output,) = swapped.outputs
    assert (output.name, output.decisive) == ("scores", True)
    assert output.max_abs == pytest.approx(difference, rel=1e-5)
    assert swapped.error_db == output.error_db < 0

    assert corrupt.failure is not None and "corrupt.tflite" in corrupt.failure
    assert corrupt.latency is None and corrupt.size_bytes == 40
    assert nan.failure is not None and "not finite" in nan.failure
    assert nan.latency is not None and nan.metric is None


def test_the_reference_row_agrees_with_itself_and_drops_nothing(folder: Path, samples: Samples):
    file = folder / "reference.tflite"
    (found,) = benchmark([file], samples, QUICK, reference=file)
    assert found.agreement is not None and found.agreement.count == ROWS
    assert found.drop is None and found.error_db == MOST_DB and found.outputs[0].max_abs == 0


def test_samples_with_other_input_names_fail_by_name(folder: Path, samples: Samples):
    other = Samples({"pixels": samples.inputs["features"]})
    (found,) = benchmark([folder / "same.tflite"], other, QUICK)
    assert found.failure is not None and "features" in found.failure and "pixels" in found.failure


def test_outputs_come_in_the_order_of_the_rows(folder: Path, samples: Samples, tmp_path: Path):
    samples.save(tmp_path)
    for rows in (samples, tmp_path):
        found = outputs(folder / "swapped.tflite", rows)
        assert list(found) == ["scores"]
        assert np.array_equal(found["scores"], samples.inputs["features"][:, ::-1])


def test_a_time_limit_leaves_a_fair_draw_of_the_rows(folder: Path, samples: Samples, tmp_path: Path):
    samples.save(tmp_path / "samples")
    written = Worker().run(write_outputs, folder / "same.tflite", tmp_path / "samples", tmp_path / "out", 1, 7, 0.0).value
    assert written.count == 1
    first = visited(samples, 7)[0]
    assert np.array_equal(np.load(written.files["scores"])[first], 2 * samples.inputs["features"][first])
    assert sorted(visited(samples, 7)) == list(range(ROWS))
    assert list(visited(samples.take([0, 1, 2]), None)) == [0, 1, 2]


def test_a_time_limit_never_parts_the_samples_of_a_row(folder: Path, samples: Samples, tmp_path: Path):
    row = np.sort(np.arange(ROWS) % 13)
    windows = replace(samples, row=row)
    order = visited(windows, 7)
    assert sorted(order) == list(range(ROWS))
    changes = np.flatnonzero(np.diff(row[order]))
    assert len(changes) == 12
    windows.save(tmp_path / "samples")
    written = Worker().run(write_outputs, folder / "same.tflite", tmp_path / "samples", tmp_path / "out", 1, 7, 0.0).value
    assert written.count == changes[0] + 1
    config = replace(QUICK, max_accuracy_seconds=0.0, runs=2, warmup=0)
    (found,) = benchmark([folder / "same.tflite"], windows, config, reference=folder / "reference.tflite")
    assert found.failure is None and found.metric is not None
    assert found.metric.total in np.cumsum([np.count_nonzero(row == row[place]) for place in order[[0, *(changes + 1)]]])


def test_a_slow_file_gets_fewer_runs_but_never_fewer_than_the_least(folder: Path):
    budget = Budget(runs=1000, warmup=10, seconds=0.0, least=3)
    found = Worker().run(time_file, folder / "same.tflite", None, 1, budget, 0).value
    assert len(found.times_ms) == 3
    assert found.warmup == 0


def test_a_child_that_takes_too_long_is_stopped(folder: Path):
    with limited(timeout_s=0.01):
        (found,) = benchmark([folder / "same.tflite"], None, QUICK)
    assert found.failure is not None and "same.tflite" in found.failure and "limit of 0.01 s" in found.failure
    assert found.latency is None


def test_gzip_size_is_what_gzip_makes(tmp_path: Path):
    file = tmp_path / "data"
    file.write_bytes(bytes(range(256)) * 20_000)
    assert gzip_size(file) == len(gzip.compress(file.read_bytes(), compresslevel=6, mtime=0))


def test_bad_input(folder: Path, samples: Samples):
    with pytest.raises(ModelFormatError, match=r"absent\.tflite"):
        benchmark([folder / "absent.tflite"], None, QUICK)
    with pytest.raises(DatasetError, match="no rows"):
        benchmark([folder / "same.tflite"], samples.take([]), QUICK)
    with pytest.raises(ConfigError, match="rounds is 0; give at least 1"):
        BenchmarkConfig(rounds=0)


def test_machine_names_the_runtime():
    assert "ai-edge-litert" in machine()
    assert "core" in machine()
