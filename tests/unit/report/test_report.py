"""The report says what was measured, on every surface, and reads back what it wrote."""

import io
import re
from dataclasses import replace
from json import dumps, loads
from pathlib import Path

import pytest
from rich.console import Console

from edgekit.errors import InputError
from edgekit.measure.measurement import Latency, Measurement
from edgekit.report.content import FILE_NAME, LearningCurve, Report, labels, load, measurement, names
from edgekit.report.findings import findings
from edgekit.report.html import page
from edgekit.report.table import columns, entries, failures, markdown, remarks, settings, terminal, timings
from edgekit.system.serial import plain
from edgekit.tasks.judgement import OutputError
from edgekit.tasks.metrics import Score, difference, proportion

EVIL = "<script>alert('x')</script> & \"co\""


def measured(name: str, scheme: str | None, size: int, p50: float, partitions: int, lost: int = 0, total: int = 800) -> Measurement:
    return Measurement(
        path=f"out/{name}.tflite",
        size_bytes=size,
        gzip_bytes=size // 2,
        scheme=scheme,
        threads=2,
        load_ms=12.5,
        first_ms=2 * p50,
        latency=Latency(100, 10, p50 * 1.1, p50, p50 * 1.2, p50 * 1.5, p50 * 0.9),
        peak_bytes=3 * size,
        ops=100,
        delegated_ops=90,
        partitions=partitions,
        task="text-classification",
        rows=total,
        metric=accuracy(total * 9 // 10 - lost, total),
        drop=difference(lost, 0, total) if scheme != "float32" else None,
        agreement=proportion(total - lost, total),
        beyond_chance=1 - lost / total,
        error_db=30.0,
        outputs=(OutputError("logits", 30.0, 0.9995, 0.25, decisive=True),),
    )


def accuracy(right: int, total: int) -> Score:
    share = proportion(right, total)
    return Score("accuracy", share.value, share.low, share.high, total, share.count)


@pytest.fixture
def report() -> Report:
    return Report(
        title="tiny: five schemes",
        model="tiny",
        data="dev.tsv, 800 rows",
        machine="a CPU, 2 cores",
        settings={"threads": 2, "max_length": 64},
        rows=(
            measured("tiny_float32", "float32", 80_000_000, 4.0, 2),
            measured("tiny_dynamic", "dynamic", 20_000_000, 1.0, 2, lost=2),
            measured("tiny_int8", "int8", 21_000_000, 6.0, 46, lost=160),
            measured("tiny_int16x8", "int16x8", 30_000_000, 160.0, 13, total=200),
            Measurement("out/tiny_float16.tflite", 40_000_000, 30_000_000, "float16", failure="out/tiny_float16.tflite: crashed"),
        ),
        reference="out/tiny_float32.tflite",
        notes=("one note",),
        training={"epochs": 3, "train_loss": 0.25},
    )


CURVES = (
    LearningCurve("Fine-tuning", ((5, 0.75), (10, 0.5)), ((10, 0.625, 0.8125),)),
    LearningCurve(EVIL, ((1, 2.0), (2, 1.0)), ()),
)


def cell(report: Report, title: str, row: int) -> tuple[str, str]:
    column = next(column for column in (*columns(report), *timings(report)) if column.title == title)
    return column.cells[row].main, column.cells[row].note


def test_what_is_written_reads_back_equal(report: Report, tmp_path: Path):
    (tmp_path / FILE_NAME).write_text(report.json())
    assert load(tmp_path) == report
    assert load(tmp_path / FILE_NAME) == report


def test_learning_curves_read_back_equal_and_older_reports_have_none(report: Report):
    trained = replace(report, curves=CURVES)
    assert Report.from_json(trained.json()) == trained
    older = loads(report.json())
    del older["curves"]
    assert Report.from_json(dumps(older)) == report
    for broken in ([[1, 2, 3]], [["a", 1]], 3):
        changed = loads(trained.json())
        changed["curves"][0]["training"] = broken
        with pytest.raises(InputError, match="not an edgekit report"):
            Report.from_json(dumps(changed))


def test_learning_curves_are_drawn_and_told(report: Report):
    text = page(replace(report, curves=(*CURVES, LearningCurve("empty", (), ()))))
    assert text.count("<svg") == 3 + 2
    assert "Fine-tuning: training loss 0.75 at step 5, 0.5 at step 10; accuracy 81.2 % at step 10" in text
    assert re.search(r"<text[^>]*>81.2 %</text>", text)
    assert "<script" not in text.lower()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"rows": [{"speed": 1}]}',
        '{"rows": 3}',
        '{"rows": [3]}',
        '{"notes": 3}',
        '{"notes": [3]}',
        '{"settings": 3}',
    ],
)
def test_another_file_is_no_report(text: str, tmp_path: Path):
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(InputError, match=r"report\.json: not an edgekit report"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"speed": 1}, "unknown key 'speed'"),
        ({"size_bytes": "8"}, "size_bytes must be a whole number, not '8'"),
        ({"latency": {"runs": 1}}, "'warmup' is missing"),
        ({"metric": 0.9}, "metric must be an object"),
        ({"outputs": [3]}, "must be an object"),
    ],
)
def test_a_manifests_broken_figures_are_named_with_the_file(report: Report, changed: dict[str, object], reason: str):
    figures = plain(report.rows[0])
    assert measurement(figures) == report.rows[0]
    with pytest.raises(InputError, match=rf"out/tiny_float32\.tflite: .*{reason}"):
        measurement({**figures, **changed})


def test_a_folder_without_a_report_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=re.escape(str(tmp_path / FILE_NAME))):
        load(tmp_path)


def test_ratios_are_against_the_measured_reference(report: Report):
    assert cell(report, "Size, MB", 1) == ("20.0", "4.0× smaller")
    assert cell(report, "p50, ms", 1) == ("1.00", "0.25×")
    assert cell(report, "p50, ms", 0) == ("4.00", "")
    assert cell(replace(report, reference=""), "p50, ms", 1) == ("1.00", "")


def test_accuracy_has_its_interval_and_drop_its_sign(report: Report):
    assert cell(report, "Accuracy, %", 0) == ("90.00", "87.7–91.9")
    assert cell(report, "Drop, points", 1)[0] == "0.25"
    gained = replace(report.rows[1], drop=difference(0, 2, 800))
    better = replace(report, rows=(report.rows[0], gained))
    assert cell(better, "Drop, points", 1)[0] == "−0.25"


def test_the_guides_columns_come_from_the_schemes(report: Report):
    assert cell(report, "Data needed", 1) == ("none", "")
    assert cell(report, "Data needed", 2) == ("representative samples", "")
    assert cell(report, "Hardware", 1) == ("CPU", "")


def test_files_of_no_scheme_have_no_guide_columns(report: Report):
    plain = replace(report, rows=tuple(replace(row, scheme=None) for row in report.rows))
    assert {column.title for column in columns(report)} - {column.title for column in columns(plain)} == {
        "Technique",
        "Data needed",
        "Hardware",
    }


def test_missing_figures_are_dashes_and_failures_are_told_once(report: Report):
    assert all(cell(report, title, 4) == ("–", "") for title in ("Accuracy, %", "p50, ms", "Load, ms", "Partitions"))
    assert failures(report) == ("out/tiny_float16.tflite: crashed",)
    assert markdown(report).count("out/tiny_float16.tflite: crashed") == 1


def test_the_second_table_holds_what_the_first_leaves_out(report: Report):
    assert [column.title for column in columns(report)] == [
        "File",
        "Technique",
        "Data needed",
        "Size, MB",
        "Accuracy, %",
        "Drop, points",
        "Agreement, %",
        "p50, ms",
        "Partitions",
        "Hardware",
    ]
    assert cell(report, "Mean, ms", 0) == ("4.40", "")
    assert cell(report, "Min, ms", 0) == ("3.60", "")
    assert cell(report, "gzip, MB", 1) == ("10.0", "")
    assert timings(replace(report, rows=(Measurement("a.tflite", 1, None, failure="crashed"),))) == ()


def test_a_gzip_size_not_taken_is_a_dash_and_no_bar(report: Report):
    without = replace(report, rows=tuple(replace(row, gzip_bytes=None) for row in report.rows))
    assert cell(without, "gzip, MB", 1) == ("–", "")
    assert ">gzip</text>" in page(report)
    assert ">gzip</text>" not in page(without)
    assert "what gzip makes of it" not in page(without)


def test_fewer_rows_and_too_few_runs_are_remarked(report: Report):
    assert any("int16x8" in line and "200 of 800 rows" in line for line in remarks(report))
    assert not any("runs" in line for line in remarks(report))
    assert remarks(report)[-1] == "one note"
    slow = report.rows[3]
    assert slow.latency is not None
    hasty = replace(report, rows=(*report.rows[:3], replace(slow, latency=replace(slow.latency, runs=6))))
    assert any(line.startswith("p90 and p99 rest on few runs (int16x8 on 6)") for line in remarks(hasty))


def test_a_note_on_a_file_of_the_table_is_shown_for_its_figures(report: Report):
    helpful = (
        "int8: 98.4% agreement; integers in every op: 93.8% agreement",
        "tiny_int8.tflite: integers in every op take 9.42 ms",
        "all files: made on another machine",
        "full_int8: not published",
    )
    noise = ("float32: no quantization asked for", "dynamic: int8 weights", "tiny_int8.tflite: int8 weights in CONV_2D")
    assert remarks(replace(report, rows=report.rows[:3], notes=(*noise, *helpful))) == helpful
    refused = ("int16x8: loses too much",)
    assert remarks(replace(report, rows=report.rows[:3], notes=refused)) == refused  # not in the table, so told in full


def test_findings_name_the_smallest_and_the_slow_with_their_reasons(report: Report):
    said = "\n".join(findings(report))
    assert "Smallest and fastest file within 0.5 points of the accuracy of float32: dynamic, 4.0× smaller, 4.0× faster" in said
    assert "int8 loses 20.0 points of accuracy against float32: calibrate it on more data" in said
    assert "or take dynamic" in said
    assert "int8 is 1.5× slower than float32 here: the CPU delegate runs it in 46 pieces against 2" in said
    assert "int16x8 is 40.0× slower than float32 here: the CPU delegate takes 90 of its 100 ops, and int16 activations" in said


def test_the_smallest_and_the_fastest_are_told_apart(report: Report):
    quick = measured("tiny_int8", "int8", 30_000_000, 0.5, 2)
    said = findings(replace(report, rows=(*report.rows[:2], quick)))
    assert said[0].startswith("Smallest file") and "dynamic, 4.0× smaller" in said[0]
    assert said[1].startswith("Fastest file") and "int8, 8.0× faster" in said[1]


@pytest.mark.parametrize(("total", "sure"), [(300, False), (20_000, True)])
def test_close_on_few_rows_is_said_to_be_unsure(report: Report, total: int, sure: bool):
    few = replace(report.rows[1], drop=difference(1, 1, total))
    (best,) = findings(replace(report, rows=(report.rows[0], few)))
    assert ("cannot be ruled out" not in best) is sure
    assert (f"on {total} rows a loss of up to" in best) is not sure


@pytest.mark.parametrize(
    ("ops", "taken", "pieces", "cause"),
    [
        (100, 0, 0, "takes none of its 100 ops"),
        (100, 80, 2, "leaves out 20 of its 100 ops"),
        (140, 130, 2, "runs 140 ops against 100"),
        (100, 90, 2, "do not say why"),
        (None, None, None, "is not known"),
    ],
)
def test_slowness_has_the_cause_that_the_figures_show(
    report: Report, ops: int | None, taken: int | None, pieces: int | None, cause: str
):
    slow = replace(report.rows[2], drop=None, agreement=None, ops=ops, delegated_ops=taken, partitions=pieces)
    (line,) = findings(replace(report, rows=(report.rows[0], slow)))
    assert line.startswith("int8 is 1.5× slower than float32 here") and cause in line


def test_float16_that_is_no_faster_is_said_to_save_storage_only(report: Report):
    half = measured("tiny_float16", "float16", 40_000_000, 4.1, 2)
    same = replace(half, peak_bytes=250_000_000)
    assert any(
        "saves storage only" in line and "peak" not in line for line in findings(replace(report, rows=(report.rows[0], half)))
    )
    assert any("(peak 250.0 MB against 240.0)" in line for line in findings(replace(report, rows=(report.rows[0], same))))


def test_a_loss_within_chance_is_called_so_with_the_rows_it_takes(report: Report):
    few = replace(report.rows[1], drop=difference(3, 1, 100))
    (line,) = (line for line in findings(replace(report, rows=(report.rows[0], few))) if "chance" in line)
    needed = re.search(r"100 rows cannot tell, about (\d+) could", line)
    assert needed is not None
    factor = int(needed[1]) // 100
    assert factor >= 2
    assert difference(3 * factor, factor, 100 * factor).low > -0.002  # about where zero leaves the interval


def test_a_failed_file_is_not_recommended(report: Report):
    broken = replace(report.rows[1], failure="gives values that are not finite")
    assert not any("dynamic" in line for line in findings(replace(report, rows=(report.rows[0], broken))))


def test_without_a_reference_nothing_is_compared_with_one(report: Report):
    (line,) = findings(replace(report, reference=""))
    assert line == "Fastest: dynamic at 1.00 ms. Smallest: dynamic."


def test_rows_are_told_apart():
    rows = tuple(Measurement(path, 1, 1) for path in ("a/model.tflite", "b/model.tflite", "other.tflite"))
    report = Report("t", "", "", "", {}, rows)
    assert names(report) == ("a/model", "b/model", "other")
    long = tuple(Measurement(f"{'x' * 60}_{number}.tflite", 1, 1) for number in range(2))
    first, second = labels(replace(report, rows=long))
    assert first != second
    assert len(first) == len(second) == 40


def test_the_terminal_table_fits_80_columns(report: Report):
    long = tuple(replace(row, path=f"out/{'y' * 70}{number}.tflite", scheme=None) for number, row in enumerate(report.rows))
    for shown in (report, replace(report, rows=long, reference=long[0].path)):
        stream = io.StringIO()
        Console(file=stream, width=80).print(terminal(shown))
        lines = stream.getvalue().splitlines()
        assert max(len(line.rstrip()) for line in lines) <= 80
        figures = "\n".join(lines)
        assert "87.7–91.9" in figures and "4.0× smaller" in figures and "90/100 ops" in figures


def test_markdown_holds_every_column_and_no_broken_row(report: Report):
    odd = replace(report, rows=(*report.rows[:1], replace(report.rows[1], path="out/a|b.tflite", scheme=None)))
    rows = [line for line in markdown(odd).splitlines() if line.startswith("|")]
    assert len(rows) == 8
    bars = [len(re.findall(r"(?<!\\)\|", line)) for line in rows]
    assert bars == [len(columns(odd)) + 1] * 4 + [len(timings(odd)) + 1] * 4
    assert "a\\|b" in rows[3]


def test_training_is_shown_as_given_and_never_as_a_dict(report: Report):
    given = {
        "Training rate": "82 samples/s",
        "labels": {"neg": 0, "pos": 1},
        "Epochs": [{"loss": 0.5}, {"loss": 0.25}],
        "kept": True,
    }
    trained = replace(report, training=given)
    text = markdown(trained)
    assert "- Training rate: 82 samples/s\n- labels:\n  - neg: 0\n  - pos: 1\n" in text
    assert "- Epochs:\n  - 1:\n    - loss: 0.5\n  - 2:\n    - loss: 0.25\n- kept: yes\n" in text
    shown = page(trained)
    assert "<dt>Training rate</dt><dd>82 samples/s</dd>" in shown
    assert "<li>neg: 0</li>" in shown
    assert "{" not in text and "{&#39;" not in shown
    assert [entry.name for entry in entries(given)] == list(given)
    assert [(entry.name, entry.value) for entry in settings(report)] == [("Threads", "2"), ("Max length", "64")]


def test_the_page_escapes_what_it_did_not_write(report: Report):
    rows = tuple(
        replace(row, path=f"out/{EVIL}{number}.tflite", scheme=None, failure=EVIL) for number, row in enumerate(report.rows)
    )
    evil = Report(EVIL, EVIL, EVIL, EVIL, {EVIL: EVIL}, rows, rows[0].path, (EVIL,), {EVIL: EVIL})
    text = page(evil)
    assert "<script" not in text.lower()
    assert "&lt;script&gt;" in text


def test_the_page_loads_nothing(report: Report):
    text = page(report)
    assert text.count("<svg") == 3
    assert not re.search(r"(src|href)\s*=\s*(?![\"']?#)", text)
    assert not re.search(r"url\((?!#)|@import|<(script|link|iframe|object|embed|img)\b", text)
    namespaces = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert set(re.findall(r"https?://[^\"'\s<)]+", text)) <= namespaces


def test_the_page_can_be_heard(report: Report):
    text = page(report)
    told = re.findall(r'<svg role="img" aria-label="([^"]+)"', text)
    assert len(told) == text.count("<svg")
    assert "dynamic 89.75 % at 1.00 ms" in told[0]
    assert text.count("<th scope=") == text.count("<th ") == text.count("<th") - text.count("<thead")
    for table in re.findall(r'<table aria-labelledby="(\w+)"', text):
        assert f'<h2 id="{table}">' in text


def test_the_page_is_the_same_each_time_and_its_text_is_text(report: Report):
    text = page(report)
    assert text == page(report)
    assert re.search(r"<text[^>]*>int16x8</text>", text)
    assert "#1b1e23" not in text.split("</style>", 1)[1]


@pytest.mark.parametrize("kept", [0, 1])
def test_a_page_of_almost_nothing(report: Report, kept: int):
    bare = replace(report, rows=report.rows[4:][:kept], training=None, settings={}, notes=())
    text = page(bare)
    assert text.count("<svg") == kept
    assert "tiny: five schemes" in markdown(bare)
    Console(file=io.StringIO(), width=100).print(terminal(bare))


def test_agreement_stands_in_where_there_are_no_labels(report: Report):
    unlabelled = replace(report, rows=tuple(replace(row, metric=None, drop=None) for row in report.rows))
    text = page(unlabelled)
    assert "Agreement against latency" in text
    assert "Agreement with the reference, %" in text
    assert "on 99.5 % of the rows" in "\n".join(findings(unlabelled))
