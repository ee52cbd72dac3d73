"""The guide's trade-off table with measured columns: technique, data needed, size, accuracy, latency, hardware."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from edgekit.measure.measurement import Measurement
from edgekit.report.content import Report, labels, load, megabytes, milliseconds, names, shortened
from edgekit.report.findings import findings
from edgekit.stages.quantize.schemes import SCHEMES, Scheme

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

__all__ = [
    "Cell",
    "Column",
    "Entry",
    "Report",
    "columns",
    "entries",
    "failures",
    "json",
    "load",
    "markdown",
    "remarks",
    "settings",
    "terminal",
    "timings",
]

MISSING = "–"
TIMINGS = "Latency and memory in full"
_LABEL_WIDTH = 22  # what 100 columns leave beside the main figures
_FEW_RUNS = 20  # below this, p90 and p99 are little more than the slowest run
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
    table = (
        Column("File", files, numeric=False),
        Column("Technique", tuple(Cell(scheme.technique) if scheme else Cell() for scheme in schemes), numeric=False),
        Column("Data needed", tuple(_data_needed(scheme) for scheme in schemes), numeric=False),
        Column("Size, MB", tuple(_size(row, reference) for row in rows)),
        Column("Accuracy, %", tuple(_accuracy(row) for row in rows)),
        Column("Drop, points", tuple(_drop(row) for row in rows)),
        Column("Agreement, %", tuple(_agreement(row) for row in rows)),
        Column("p50, ms", tuple(_p50(row, reference) for row in rows)),
        Column("Partitions", tuple(_partitions(row) for row in rows)),
        Column("Hardware", tuple(Cell(scheme.hardware) if scheme else Cell() for scheme in schemes), numeric=False),
    )
    # The guide's words are left out where no file is known to follow a scheme of its.
    return tuple(column for column in table if column.numeric or _is_known(column))


def _of_versions(report: Report) -> tuple[Column, ...]:
    """The table of a comparison: what a version weighs, what it decides and how fast."""
    rows, reference = report.rows, report.reference_row

    def column(title: str, figure: Callable[[Measurement], float | None], words: Callable[[Any], str]) -> Column:
        base = figure(reference) if reference is not None else None

        def cell(row: Measurement) -> Cell:
            value = figure(row)
            if value is None:
                return Cell()
            return Cell(words(value), f"{value / base:.2f}×" if base and row is not reference else "")

        return Column(title, tuple(cell(row) for row in rows))

    return (
        Column("Version", tuple(Cell(name) for name in report.versions), numeric=False),
        Column("Runtime", tuple(Cell(row.runtime or MISSING) for row in rows), numeric=False),
        column("Params, M", lambda row: row.parameters, megabytes),
        column("Size, MB", lambda row: row.size_bytes, megabytes),
        column("gzip, MB", lambda row: row.gzip_bytes, megabytes),
        Column("Accuracy, %", tuple(_accuracy(row) for row in rows)),
        Column("Drop, points", tuple(_drop(row) for row in rows)),
        Column("Loss, nats", tuple(Cell() if row.loss is None else Cell(f"{row.loss:.4f}") for row in rows)),
        column("Samples/s", lambda row: row.samples_per_s, lambda value: f"{value:.0f}" if value >= 100 else f"{value:.3g}"),
        column("p50, ms", lambda row: row.latency.p50_ms if row.latency else None, milliseconds),
    )


def timings(report: Report) -> tuple[Column, ...]:
    """The second table: latency, memory and gzip size in full; empty where none of it was measured."""
    rows = report.rows

    def column(title: str, figure: Callable[[Measurement], float | None], words: Callable[[Any], str] = milliseconds) -> Column:
        return Column(title, tuple(Cell() if (value := figure(row)) is None else Cell(words(value)) for row in rows))

    def latency(title: str, name: str, words: Callable[[Any], str] = milliseconds) -> Column:
        return column(title, lambda row: getattr(row.latency, name) if row.latency else None, words)

    table = (
        latency("p50, ms", "p50_ms"),
        latency("p90, ms", "p90_ms"),
        latency("p99, ms", "p99_ms"),
        latency("Mean, ms", "mean_ms"),
        latency("Min, ms", "min_ms"),
        latency("Runs", "runs", str),
        column("Load, ms", lambda row: row.load_ms),
        column("First inference, ms", lambda row: row.first_ms),
        column("Peak memory, MB", lambda row: row.peak_bytes, megabytes),
        column("gzip, MB", lambda row: row.gzip_bytes, megabytes),
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
    counted = [row.accuracy or row.agreement for row in report.rows]
    most = max((count.total for count in counted if count), default=0)
    for name, row, count in zip(labels(report), report.rows, counted, strict=True):
        if count and count.total < most:
            judged = "accuracy and agreement" if row.accuracy else "agreement"
            fair = "; its drop is against the reference on the same rows, so compare that" if row.drop else ""
            lines.append(f"{name}: {judged} on {count.total} of {most} rows, drawn at random, to keep within the time limit{fair}.")
    hasty = {name: row.latency.runs for name, row in zip(labels(report), report.rows, strict=True) if row.latency}
    if few := [f"{name} on {runs}" for name, runs in hasty.items() if runs < _FEW_RUNS]:
        lines.append(f"p90 and p99 rest on few runs ({', '.join(few)}); edgekit benchmark --runs takes more.")
    return (*lines, *(note for note in report.notes if _helps(note, report)))


def entries(values: Mapping[str, Any]) -> tuple[Entry, ...]:
    """Names as they are given, values as words; what a mapping, or a list of them, holds lies below its name."""
    return tuple(_entry(str(name), value) for name, value in values.items())


def settings(report: Report) -> tuple[Entry, ...]:
    """What the benchmark was told, its options' names as words."""
    words = {name: str(name).replace("_", " ") for name in report.settings}
    return entries({word[:1].upper() + word[1:]: report.settings[name] for name, word in words.items()})


def markdown(report: Report) -> str:
    """The whole report as Markdown: the trade-off table, findings, remarks and failures, then the second table."""
    circumstances = [("Model", report.model), ("Data", report.data), ("Machine", report.machine)]
    lines = [f"# {_escape(report.title)}", ""]
    lines += _nested([*(Entry(name, value) for name, value in circumstances if value), *settings(report)])
    lines += ["", *_table(columns(report))]
    for title, sentences in (
        ("What the figures say", findings(report)),
        ("Notes", remarks(report)),
        ("Failures", failures(report)),
    ):
        if sentences:
            lines += ["", f"## {title}", "", *(f"- {_escape(sentence)}" for sentence in sentences)]
    if full := timings(report):
        lines += ["", f"## {TIMINGS}", "", *_table(full)]
    if report.training:
        lines += ["", "## Training", "", *_nested(entries(report.training))]
    return "\n".join(lines) + "\n"


def json(report: Report) -> str:
    """Everything the report holds, as `Report.from_json` reads it."""
    return report.json()


def terminal(report: Report) -> "Group":
    """The measured columns as a rich renderable that fits 100 columns, with findings, remarks and failures below."""
    from rich import box
    from rich.console import Group, RenderableType
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), title=Text(report.title, style="bold"), title_justify="left")
    files, *others = columns(report)
    shown = [files, *(column for column in others if column.numeric and _is_known(column))]
    for column in shown:
        title = Text(column.title.replace(", ", "\n").replace("/", "\n/"))
        if column.numeric:
            table.add_column(title, justify="right", no_wrap=True)
        else:
            table.add_column(title, overflow="fold")
    for index, label in enumerate(labels(report)):
        runtime = report.rows[index].runtime or "" if report.versions else ""
        name = _two_lines(Cell(shortened(label, _LABEL_WIDTH), runtime))
        table.add_row(name, *(_two_lines(column.cells[index]) for column in shown[1:]))
    parts: list[RenderableType] = [table]
    for sentences, style in ((findings(report), ""), (remarks(report), "dim"), (failures(report), "red")):
        parts += [Padding(Text(sentence, style=style), (0, 0, 0, 2)) for sentence in sentences]
    return Group(*parts)


def _two_lines(cell: Cell) -> "str | Text":
    from rich.text import Text

    text = Text(cell.main)
    return text.append(f"\n{cell.note}", style="dim") if cell.note else text


def _data_needed(scheme: Scheme | None) -> Cell:
    if scheme is None:
        return Cell()
    return Cell("representative samples" if scheme.needs_data else "none")


def _size(row: Measurement, reference: Measurement | None) -> Cell:
    note = ""
    if reference is not None and row is not reference and row.size_bytes and row.latency is not None:
        ratio = reference.size_bytes / row.size_bytes
        note = f"{ratio:.1f}× smaller" if ratio >= 1 else f"{1 / ratio:.1f}× larger"
    return Cell(megabytes(row.size_bytes), note)


def _accuracy(row: Measurement) -> Cell:
    if row.accuracy is None:
        return Cell()
    return Cell(f"{row.accuracy.value * 100:.2f}", f"{row.accuracy.low * 100:.1f}–{row.accuracy.high * 100:.1f}")


def _drop(row: Measurement) -> Cell:
    if row.drop is None:
        return Cell()
    return Cell(_signed(row.drop.value, 2), f"{_signed(row.drop.low, 1)} to {_signed(row.drop.high, 1)}")


def _signed(share: float, digits: int) -> str:
    text = f"{share * 100:.{digits}f}"
    return (text.lstrip("-") if float(text) == 0 else text).replace("-", "−")


def _agreement(row: Measurement) -> Cell:
    if row.agreement is None:
        return Cell()
    return Cell(f"{row.agreement.value * 100:.2f}", f"{row.agreement.count} of {row.agreement.total}")


def _p50(row: Measurement, reference: Measurement | None) -> Cell:
    if row.latency is None:
        return Cell()
    base = reference.latency.p50_ms if reference is not None and reference.latency is not None else 0
    note = f"{row.latency.p50_ms / base:.2f}×" if base > 0 and row is not reference else ""
    return Cell(milliseconds(row.latency.p50_ms), note)


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
    lines = ["| " + " | ".join(column.title for column in table) + " |"]
    lines.append("| " + " | ".join("---:" if column.numeric else "---" for column in table) + " |")
    for cells in zip(*(column.cells for column in table), strict=True):
        lines.append("| " + " | ".join(_escape(f"{cell.main} ({cell.note})" if cell.note else cell.main) for cell in cells) + " |")
    return lines


def _nested(listed: Sequence[Entry], depth: int = 0) -> list[str]:
    lines = []
    for entry in listed:
        lines.append(f"{'  ' * depth}- {_escape(entry.name)}:{' ' * bool(entry.value)}{_escape(entry.value)}")
        lines += _nested(entry.below, depth + 1)
    return lines


def _escape(text: str) -> str:
    """Text that Markdown shows as it is, also inside a table."""
    for mark in "\\`*[]<>|":
        text = text.replace(mark, f"\\{mark}" if mark not in "<>" else {"<": "&lt;", ">": "&gt;"}[mark])
    return " ".join(text.split())
