"""What a guide run measured, to JSON and back, and the guide's own figures."""

import json
from dataclasses import replace

import pytest

from edgekit.errors import InputError
from edgekit.measure.measurement import Latency, Measurement
from edgekit.tasks.metrics import Score
from edgekit.workflows.guide.page import page
from edgekit.workflows.guide.published import COLUMNS, TABLES
from edgekit.workflows.guide.results import GuideModel, GuideRun, cell, columns, differences
from edgekit.workflows.guide.table import markdown


def _row(scheme: str) -> Measurement:
    latency = Latency(runs=10, warmup=1, mean_ms=2.0, p50_ms=1.9, p90_ms=2.2, p99_ms=2.4, min_ms=1.8)
    accuracy = Score("accuracy", 0.8, 0.5, 0.94, 10, 8)
    return Measurement(f"m_{scheme}.tflite", 1000, None, scheme, threads=1, latency=latency, metric=accuracy)


def _run() -> GuideRun:
    published = TABLES[1][0]
    whole = GuideModel(
        published.name,
        published.title,
        published,
        "random weights",
        (_row("float32"), _row("int8")),
        missing={cell("float32", "accuracy"): "random weights", "qat": "not supported"},
        marks={"float32": "random weights"},
        judged_rows=20,
        skipped=("a.png",),
        seconds=3.5,
    )
    failed = GuideModel("mobilenet_v2", "MobileNet-v2-1-224", TABLES[1][1], "random weights", failure="out of memory")
    return GuideRun(1, "a machine", "no data", {"threads": 2}, (whole, failed), "2026-01-02T03:04:05")


def test_a_run_survives_json() -> None:
    assert GuideRun.from_json(_run().json()) == _run()


def test_reasons_are_found_by_cell_row_and_model() -> None:
    whole, failed = _run().models
    assert whole.reason("float32", "accuracy") == "random weights"
    assert whole.reason("float32", "latency") is None
    assert whole.reason("qat", "size") == "not supported"
    assert failed.reason("int8", "size") == "out of memory"


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("table",), 3, "table is 3"),
        (("models", 0, "marks"), {"int8": 1}, "int8 must be a string"),
        (("models", 0, "rows", 0, "size_bytes"), "big", "size_bytes"),
        (("models", 0, "published", "size_mb"), [], "size_mb must be a table"),
        (("models", 0, "colour"), "red", "unknown key 'colour'"),
    ],
)
def test_what_is_no_run_is_refused(path: tuple[str | int, ...], value: object, told: str) -> None:
    content = json.loads(_run().json())
    place = content
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(InputError, match=told) as raised:
        GuideRun.from_json(json.dumps(content), "guide.json")
    assert "guide.json" in raised.value.message


def test_accuracy_over_a_part_of_the_rows_says_over_how_many() -> None:
    run = _run()
    assert "| 0.800ᵃᵇ, 10 rows | 124 |" in markdown(run)
    assert "10 of 20 rows" in page(run)
    whole = replace(run, models=(replace(run.models[0], judged_rows=10),))
    assert "| 0.800ᵃ | 124 |" in markdown(whole)
    assert "10 of" not in page(whole)


def test_columns_are_the_guides_then_what_was_measured() -> None:
    run = _run()
    assert columns(run) == ("float32", "int8", "qat")
    more = replace(run.models[0], rows=(*run.models[0].rows, _row("dynamic")))
    assert columns(replace(run, models=(more,))) == ("float32", "int8", "qat", "dynamic")


def test_differences_name_device_and_machine() -> None:
    told = " ".join(differences(_run()))
    assert "Pixel 2" in told
    assert "a machine" in told
    assert "2026-01-02" in told


def test_the_guides_tables_hold_what_it_publishes() -> None:
    assert [model.name for model in TABLES[1]] == ["mobilenet_v1", "mobilenet_v2", "inception_v3", "resnet_v2_101"]
    assert len(TABLES[2]) == 6
    for number, models in TABLES.items():
        for model in models:
            for metric in model.metrics:
                assert set(metric.values) <= set(COLUMNS[number])
    ratios = [model.latency_ms["int8"] / model.latency_ms["float32"] for model in TABLES[1]]
    assert [round(ratio, 2) for ratio in ratios] == [0.90, 1.10, 0.75, 0.72]
