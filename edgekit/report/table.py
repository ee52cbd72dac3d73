"""The guide's trade-off table with measured columns: technique, data needed, size, the task's metric, latency, hardware."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from edgekit.measure.measurement import Measurement
from edgekit.report.content import Report, labels, megabytes, milliseconds, names, shortened
from edgekit.report.findings import findings
from edgekit.stages.quantize.schemes import SCHEMES, Scheme
from edgekit.tasks.judgement import MOST_DB, OutputError
from edgekit.tasks.metrics import Score

if TYPE_CHECKING:
    from rich.console import Group

MISSING = "–"
AGREEMENT, ERROR, PARTITIONS = "Agreement, %", "Error, dB", "Partitions"
TIMINGS = "Latency and memory in full"
_LABEL_WIDTH = 22  # of which a narrow terminal folds the rest
_FEW_RUNS = 20  # below this, p90 and p99 are little more than the slowest run
_MARKS = str.maketrans({"<": "&lt;", ">": "&gt;", **{mark: f"\\{mark}" for mark in "\\`*[]|"}})
_FIGURE = re.compile(r"\d\s?(%|(ms|MB|dB|points?|rows?|runs?|partitions?|samples?)\b)")


@dataclass(frozen=True)
class Cell:
    """A figure and, smaller beside it, what qualifies it: an interval, a ratio, a count."""

    main: str = MISSING
    note: str = ""


@dataclass(frozen=True)
class Column:
    """`numeric` columns are set flush right."""

    title: str
    cells: tuple[Cell, ...]
    numeric: bool = True


@dataclass(frozen=True)
class Entry:
    """A name and its value as words, or what lies below it."""

    name: str
    value: str = ""
    below: tuple["Entry", ...] = ()


def columns(report: Report) -> tuple[Column, ...]:
    """The trade-off table, one cell for each row of `report`; ratios are against the reference row's own figures."""
    rows, reference = report.rows, report.reference_row
    if report.versions:
        return tuple(column for column in _of_versions(report) if column.title == "Version" or _is_known(column))
    # The scheme with the file's name below it, or the name alone, which may be cut.
    files = tuple(
        Cell(label, name if label in SCHEMES and label != name else "")
        for label, name in zip(labels(report), names(report), strict=True)
    )
    schemes = [SCHEMES.get(row.scheme or "") for row in rows]

    def guide(title: str, words: Callable[[Scheme], str]) -> Column:
        return Column(title, tuple(Cell(words(scheme)) if scheme else Cell() for scheme in schemes), numeric=False)

    table = (
        Column("File", files, numeric=False),
        guide("Technique", lambda scheme: scheme.technique),
        guide("Data needed", lambda scheme: "representative samples" if scheme.needs_data else "none"),
        Column("Size, MB", tuple(_size(row, reference) for row in rows)),
        *_judged(rows),
        _figures("p50, ms", rows, _p50, milliseconds, reference),
        Column(PARTITIONS, tuple(_partitions(row) for row in rows)),
        guide("Hardware", lambda scheme: scheme.hardware),
    )
    # The guide's words are left out where no file is known to follow a scheme of its.
    return tuple(column for column in table if column.numeric or _is_known(column))


def _of_versions(report: Report) -> tuple[Column, ...]:
    """The table of a comparison: what a version weighs, what it decides and how fast."""
    rows, reference = report.rows, report.reference_row
    return (
        Column("Version", tuple(map(Cell, report.versions)), numeric=False),
        Column("Runtime", tuple(Cell(row.runtime or MISSING) for row in rows), numeric=False),
        _figures("Params, M", rows, lambda row: row.parameters, megabytes, reference),
        _figures("Size, MB", rows, lambda row: row.size_bytes, megabytes, reference),
        _figures("gzip, MB", rows, lambda row: row.gzip_bytes, megabytes, reference),
        *_judged(rows, every_metric=True),
        _figures("Samples/s", rows, lambda row: row.samples_per_s, _per_second, reference),
        _figures("p50, ms", rows, _p50, milliseconds, reference),
    )


def _figures(
    title: str,
    rows: Sequence[Measurement],
    figure: Callable[[Measurement], float | None],
    words: Callable[[Any], str] = milliseconds,
    reference: Measurement | None = None,
) -> Column:
    """A figure of each row in `words`, with its ratio to that of the `reference`."""
    base = figure(reference) if reference is not None else None

    def cell(row: Measurement) -> Cell:
        value = figure(row)
        if value is None:
            return Cell()
        return Cell(words(value), f"{value / base:.2f}×" if base and row is not reference else "")

    return Column(title, tuple(map(cell, rows)))


def _per_second(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _judged(rows: Sequence[Measurement], *, every_metric: bool = False) -> list[Column]:
    """What the files are worth, in their task's terms: the metric and what is lost of it, decisions, the error of other outputs.

    With `every_metric` the task's other metrics stand in place of the decisions, where there are any."""
    metrics = {row.metric.metric: row.metric for row in rows if row.metric is not None}
    table = []
    if metrics:
        first, alone = next(iter(metrics.values())), len(metrics) == 1
        scores = tuple(_score(row.metric, named=not alone) for row in rows)
        table.append(Column(titled(first) if alone else "Metric", scores))
        table.append(Column("Drop, points" if alone and first.percent else "Drop", tuple(map(_drop, rows))))
    if metrics and every_metric:
        for other in {score.metric: score for row in rows for score in row.scores}.values():
            values = [next((score for score in row.scores if score.metric == other.metric), None) for row in rows]
            table.append(Column(titled(other), tuple(Cell(_value(value)) if value else Cell() for value in values)))
    else:
        table.append(Column(AGREEMENT, tuple(map(_agreement, rows))))
    table.append(Column(ERROR, tuple(map(_error, rows))))
    return [column for column in table if _is_known(column)]


def titled(score: Score) -> str:
    """A metric as the head of a column."""
    return f"{score.metric[:1].upper()}{score.metric[1:]}" + (", %" if score.percent else "")


def verdict(row: Measurement, against: str = "") -> tuple[str, ...]:
    """The figures of one file as lines: metrics, decisions and outputs compared with the file `against`."""
    lines = []
    if (score := row.metric) is not None:
        counted = f"({score.count} of {score.total})" if score.count is not None else f"on {score.total} rows"
        others = "".join(f"; {other.metric} {other.value:.4f}" for other in row.scores)
        lines.append(f"{score.metric} {score.value:.4f} {counted}, 95 % interval {score.low:.4f} to {score.high:.4f}{others}")
    if against and (same := row.agreement) is not None:
        interval = f"95 % interval {same.low:.4f} to {same.high:.4f}"
        lines.append(f"agreement with {against} {same.value:.4f} ({same.count} of {same.total}), {interval}")
    for output in (output for output in row.outputs if against and not output.decisive):
        lines.append(f"output {output.name}: {decibels(output.error_db)} dB from {against}, {_off(output)}")
    return tuple(lines)


def timings(report: Report) -> tuple[Column, ...]:
    """The second table: latency, memory and gzip size in full; empty where none of it was measured."""
    rows = report.rows

    def latency(title: str, name: str, words: Callable[[Any], str] = milliseconds) -> Column:
        return _figures(title, rows, lambda row: getattr(row.latency, name, None), words)

    table = (
        *(latency(f"{name}, ms", f"{name.lower()}_ms") for name in ("p50", "p90", "p99", "Mean", "Min")),
        latency("Runs", "runs", str),
        _figures("Load, ms", rows, lambda row: row.load_ms),
        _figures("First inference, ms", rows, lambda row: row.first_ms),
        _figures("Peak memory, MB", rows, lambda row: row.peak_bytes, megabytes),
        _figures("gzip, MB", rows, lambda row: row.gzip_bytes, megabytes),
    )
    if not any(_is_known(column) for column in table):
        return ()
    first = "Version" if report.versions else "File"
    return (Column(first, tuple(Cell(label) for label in labels(report)), numeric=False), *table)


def failures(report: Report) -> tuple[str, ...]:
    """One line for each file that could not be measured in full."""
    failed = [(label, row.path, row.failure) for label, row in zip(labels(report), report.rows, strict=True) if row.failure]
    return tuple(reason if path in reason else f"{label}: {reason}" for label, path, reason in failed)


def remarks(report: Report) -> tuple[str, ...]:
    """What a reader of the table has to know: which files were measured on less than the others, and the run's own notes."""
    lines = []
    most = max((row.rows for row in report.rows if row.rows is not None), default=0)
    named = list(zip(labels(report), report.rows, strict=True))
    for name, row in named:
        if row.rows is not None and row.rows < most:
            fair = "; its drop is against the reference on the same rows, so compare that" if row.drop else ""
            lines.append(f"{name}: judged on {row.rows} of {most} rows, drawn at random, to keep within the time limit{fair}.")
    for name, row in named:
        if row.latency and row.latency.batch > 1:
            batch, p50 = row.latency.batch, milliseconds(row.latency.p50_ms * row.latency.batch)
            lines.append(f"{name}: takes {batch} rows at once, p50 {p50} ms; its latency here is that by {batch}, a row's share.")
    if few := [f"{name} on {row.latency.runs}" for name, row in named if row.latency and row.latency.runs < _FEW_RUNS]:
        lines.append(f"p90 and p99 rest on few runs ({', '.join(few)}); edgekit benchmark --runs takes more.")
    return (*lines, *(note for note in report.notes if _helps(note, report)))


def entries(values: Mapping[str, Any]) -> tuple[Entry, ...]:
    """Names as they are given, values as words; what a mapping, or a list of them, holds lies below its name."""
    return tuple(_entry(str(name), value) for name, value in values.items())


def settings(report: Report) -> tuple[Entry, ...]:
    """What the benchmark was told, its options' names as words."""
    words = ((str(name).replace("_", " "), value) for name, value in report.settings.items())
    return entries({word[:1].upper() + word[1:]: value for word, value in words})


def markdown(report: Report) -> str:
    """The whole report as Markdown: the trade-off table, findings, remarks and failures, then the second table."""
    lines = [f"# {escaped(report.title)}", ""]
    lines += _nested([*(Entry(name, value) for name, value in report.circumstances), *settings(report)])
    lines += ["", *_table(columns(report))]
    listed = {"What the figures say": findings(report), "Notes": remarks(report), "Failures": failures(report)}
    for title, sentences in listed.items():
        if sentences:
            lines += ["", f"## {title}", "", *(f"- {escaped(sentence)}" for sentence in sentences)]
    if full := timings(report):
        lines += ["", f"## {TIMINGS}", "", *_table(full)]
    if report.training:
        lines += ["", "## Training", "", *_nested(entries(report.training))]
    return "\n".join(lines) + "\n"


def terminal(report: Report) -> "Group":
    """The measured columns as a rich renderable that fits 80 columns, with findings, remarks and failures below."""
    from rich import box
    from rich.console import Group, RenderableType
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    # One space behind a column and one between two: the widest tables have eight.
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title=Text(report.title, style="bold"), title_justify="left"
    )
    files, *others = columns(report)
    shown = [files, *(column for column in others if column.numeric and _is_known(column))]
    crowded = {AGREEMENT, ERROR} <= {column.title for column in shown}
    if crowded:
        shown = [column for column in shown if column.title != PARTITIONS]
    for column in shown:
        title = Text(column.title.replace(", ", "\n").replace("/", "\n/"))
        if column.numeric:
            table.add_column(title, justify="right", no_wrap=True)
        else:
            table.add_column(title, overflow="fold")

    def two_lines(cell: Cell, column: Column) -> Text:
        text = Text(cell.main)
        # A crowded table has no room for all.
        noted = cell.note and not (crowded and column.title == ERROR)
        return text.append(f"\n{cell.note.replace(', ', chr(10))}", style="dim") if noted else text

    for index, label in enumerate(labels(report)):
        runtime = report.rows[index].runtime or "" if report.versions else ""
        cells = [Cell(shortened(label, _LABEL_WIDTH), runtime), *(column.cells[index] for column in shown[1:])]
        table.add_row(*map(two_lines, cells, shown))
    parts: list[RenderableType] = [table]
    for sentences, style in ((findings(report), ""), (remarks(report), "dim"), (failures(report), "red")):
        parts += [Padding(Text(sentence, style=style), (0, 0, 0, 2)) for sentence in sentences]
    return Group(*parts)


def _size(row: Measurement, reference: Measurement | None) -> Cell:
    note = ""
    if reference is not None and row is not reference and row.size_bytes and row.latency is not None:
        ratio = reference.size_bytes / row.size_bytes
        note = f"{ratio:.1f}× smaller" if ratio >= 1 else f"{1 / ratio:.1f}× larger"
    return Cell(megabytes(row.size_bytes), note)


def _score(score: Score | None, *, named: bool = False) -> Cell:
    if score is None:
        return Cell()
    interval = "–".join(_figure(value, score.percent, 1 if score.percent else 3) for value in (score.low, score.high))
    return Cell(_value(score), f"{score.metric}, {interval}" if named else interval)


def _value(score: Score) -> str:
    return _figure(score.value, score.percent, 2 if score.percent else 4)


def _drop(row: Measurement) -> Cell:
    if row.drop is None or row.metric is None:
        return Cell()
    percent = row.metric.percent
    low, high = (_figure(value, percent, 1 if percent else 3) for value in (row.drop.low, row.drop.high))
    return Cell(_figure(row.drop.value, percent, 2 if percent else 4), f"{low} … {high}")


def _figure(value: float, percent: bool, digits: int) -> str:
    text = f"{value * (100 if percent else 1):.{digits}f}"
    return (text.lstrip("-") if float(text) == 0 else text).replace("-", "−")


def _agreement(row: Measurement) -> Cell:
    same = row.agreement
    return Cell(f"{same.value * 100:.2f}", f"{same.count}/{same.total}") if same else Cell()


def _error(row: Measurement) -> Cell:
    worst = row.extra
    return Cell() if worst is None else Cell(decibels(worst.error_db), _off(worst))


def decibels(value: float | None) -> str:
    """An error in dB without its unit."""
    if value is None:
        return MISSING
    return "exact" if value >= MOST_DB else f"{value:.1f}".replace("-0.0", "0.0").replace("-", "−")


def _off(output: OutputError) -> str:
    return f"cosine {output.cosine:.4f}, off by {output.max_abs:.3g}"


def _p50(row: Measurement) -> float | None:
    return row.latency.p50_ms if row.latency else None


def _partitions(row: Measurement) -> Cell:
    if row.partitions is None:
        return Cell()
    known = row.ops is not None and row.delegated_ops is not None
    return Cell(str(row.partitions), f"{row.delegated_ops}/{row.ops} ops" if known else "")


def _is_known(column: Column) -> bool:
    return any(cell.main != MISSING for cell in column.cells)


def _helps(note: str, report: Report) -> bool:
    """Whether a note says more than the table: a sentence about one of its files does so by a figure alone."""
    subject, colon, _ = note.partition(": ")
    files = {*labels(report), *names(report), *(row.path for row in report.rows), *(PurePath(row.path).name for row in report.rows)}
    return not colon or subject not in files or _FIGURE.search(note) is not None


def _entry(name: str, value: object) -> Entry:
    if isinstance(value, list | tuple) and any(isinstance(item, Mapping | list | tuple) for item in value):
        value = {str(number): item for number, item in enumerate(value, 1)}
    if isinstance(value, Mapping) and value:
        return Entry(name, below=entries(value))
    return Entry(name, _plain(value))


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value) or MISSING
    return MISSING if value is None or value == {} else str(value)


def _table(table: Sequence[Column]) -> list[str]:
    cells = zip(*(column.cells for column in table), strict=True)
    lines = [[f"{cell.main} ({cell.note})" if cell.note else cell.main for cell in line] for line in cells]
    return markdown_table([column.title for column in table], lines, [column.numeric for column in table])


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[bool]) -> list[str]:
    """The lines of a Markdown table; `numeric` columns are set flush right."""
    rules = ["---:" if right else "---" for right in numeric]
    return [f"| {' | '.join(line)} |" for line in (heads, rules, *([escaped(cell) for cell in row] for row in rows))]


def _nested(listed: Sequence[Entry], depth: int = 0) -> list[str]:
    lines = []
    for entry in listed:
        lines.append(f"{'  ' * depth}- {escaped(entry.name)}:{' ' * bool(entry.value)}{escaped(entry.value)}")
        lines += _nested(entry.below, depth + 1)
    return lines


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, also inside a table."""
    return " ".join(text.translate(_MARKS).split())
