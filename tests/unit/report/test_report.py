"""The report says what was measured, on every surface, and reads back what it wrote."""

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from edgekit.errors import InputError
from edgekit.measure.accuracy import difference, proportion
from edgekit.measure.measurement import Latency, Measurement
from edgekit.report.content import FILE_NAME, labels, names
from edgekit.report.findings import findings
from edgekit.report.html import page
from edgekit.report.table import Report, columns, failures, json, load, markdown, remarks, terminal

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
        accuracy=proportion(total * 9 // 10 - lost, total),
        drop=difference(lost, 0, total) if scheme != "float32" else None,
        agreement=proportion(total - lost, total),
        mean_abs_error=0.01,
    )


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


def cell(report: Report, title: str, row: int) -> tuple[str, str]:
    column = next(column for column in columns(report) if column.title == title)
    return column.cells[row].main, column.cells[row].note


def test_what_is_written_reads_back_equal(report: Report, tmp_path: Path):
    (tmp_path / FILE_NAME).write_text(json(report))
    assert load(tmp_path) == report
    assert load(tmp_path / FILE_NAME) == report


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rows": [{"speed": 1}]}', '{"rows": 3}'])
def test_another_file_is_no_report(text: str, tmp_path: Path):
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(InputError, match=r"report\.json: not an edgekit report"):
        load(tmp_path)


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


def test_fewer_rows_are_remarked(report: Report):
    assert any("int16x8" in line and "200 of 800 rows" in line for line in remarks(report))
    assert remarks(report)[-1] == "one note"


def test_findings_name_the_smallest_and_the_slow_with_their_reasons(report: Report):
    said = "\n".join(findings(report))
    assert "Smallest file within 0.5 points of the accuracy of float32: dynamic, 4.0× smaller." in said
    assert "Fastest file within 0.5 points of the accuracy of float32: dynamic, 4.0× faster" in said
    assert "int8 loses 20.0 points" in said
    assert "int8 is 1.5× slower than float32 here: the CPU delegate runs it in 46 pieces against 2" in said
    assert "int16x8 is 40.0× slower than float32 here: int16 activations run on reference kernels" in said


def test_a_loss_within_chance_is_called_so(report: Report):
    few = replace(report.rows[1], drop=difference(3, 1, 100))
    assert any("cannot be told from chance" in line for line in findings(replace(report, rows=(report.rows[0], few))))


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


def test_the_terminal_table_fits_100_columns(report: Report):
    long = tuple(replace(row, path=f"out/{'y' * 70}{number}.tflite", scheme=None) for number, row in enumerate(report.rows))
    for shown in (report, replace(report, rows=long, reference=long[0].path)):
        stream = io.StringIO()
        Console(file=stream, width=100).print(terminal(shown))
        lines = stream.getvalue().splitlines()
        assert max(len(line.rstrip()) for line in lines) <= 100
        figures = "\n".join(lines)
        assert "87.7–91.9" in figures and "4.0× smaller" in figures and "90/100 ops" in figures


def test_markdown_holds_every_column_and_no_broken_row(report: Report):
    odd = replace(report, rows=(*report.rows[:1], replace(report.rows[1], path="out/a|b.tflite", scheme=None)))
    rows = [line for line in markdown(odd).splitlines() if line.startswith("|")]
    assert len(rows) == 4
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows} == {len(columns(odd)) + 1}
    assert "a\\|b" in rows[3]


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
    unlabelled = replace(report, rows=tuple(replace(row, accuracy=None, drop=None) for row in report.rows))
    text = page(unlabelled)
    assert "Agreement against latency" in text
    assert "Agreement with the reference, %" in text
    assert "on 99.5 % of the rows" in "\n".join(findings(unlabelled))
