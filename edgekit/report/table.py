"""The guide's trade-off table with measured columns: technique, data needed, size, accuracy, latency, hardware."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.measure.measurement import Measurement
from edgekit.quantize.schemes import SCHEMES, Scheme
from edgekit.report.content import Report, labels, load, megabytes, milliseconds, names, shortened
from edgekit.report.findings import findings

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

__all__ = ["Cell", "Column", "Report", "columns", "failures", "json", "load", "markdown", "pairs", "remarks", "terminal"]

MISSING = "–"
_LABEL_WIDTH = 22  # what 100 columns leave beside the main figures


@dataclass(frozen=True)
class Cell:
    """A figure and, smaller beside it, what qualifies it: an interval, a ratio, a count."""

    main: str = MISSING
    note: str = ""


@dataclass(frozen=True)
class Column:
    """`main` columns are shown on the terminal too; `numeric` ones are set flush right."""

    title: str
    cells: tuple[Cell, ...]
    numeric: bool = True
    main: bool = False


def columns(report: Report) -> tuple[Column, ...]:
    """The table's columns, one cell for each row of `report`; ratios are against the reference row's own figures."""
    rows, reference = report.rows, report.reference_row
    # The scheme with the file's name below it, or the name alone, which may be cut.
    files = tuple(
        Cell(label, name if label in SCHEMES and label != name else "")
        for label, name in zip(labels(report), names(report), strict=True)
    )
    schemes = [SCHEMES.get(row.scheme or "") for row in rows]
    table = (
        Column("File", files, numeric=False, main=True),
        Column("Technique", tuple(Cell(scheme.technique) if scheme else Cell() for scheme in schemes), numeric=False),
        Column("Data needed", tuple(_data_needed(scheme) for scheme in schemes), numeric=False),
        Column("Size, MB", tuple(_size(row, reference) for row in rows), main=True),
        Column("gzip, MB", tuple(Cell(megabytes(row.gzip_bytes)) if row.gzip_bytes else Cell() for row in rows)),
        Column("Accuracy, %", tuple(_accuracy(row) for row in rows), main=True),
        Column("Drop, points", tuple(_drop(row) for row in rows), main=True),
        Column("Agreement, %", tuple(_agreement(row) for row in rows), main=True),
        Column("p50, ms", tuple(_percentile(row, reference, "p50_ms") for row in rows), main=True),
        Column("p90, ms", tuple(_percentile(row, reference, "p90_ms") for row in rows)),
        Column("p99, ms", tuple(_percentile(row, reference, "p99_ms") for row in rows)),
        Column("Runs", tuple(Cell(str(row.latency.runs)) if row.latency else Cell() for row in rows)),
        Column("Load, ms", tuple(Cell(milliseconds(row.load_ms)) if row.load_ms is not None else Cell() for row in rows)),
        Column("First, ms", tuple(Cell(milliseconds(row.first_ms)) if row.first_ms is not None else Cell() for row in rows)),
        Column("Peak memory, MB", tuple(Cell(megabytes(row.peak_bytes)) if row.peak_bytes is not None else Cell() for row in rows)),
        Column("Partitions", tuple(_partitions(row) for row in rows), main=True),
        Column("Hardware", tuple(Cell(scheme.hardware) if scheme else Cell() for scheme in schemes), numeric=False),
    )
    # The guide's words are left out where no file is known to follow a scheme of its.
    return tuple(column for column in table if column.numeric or any(cell.main != MISSING for cell in column.cells))


def failures(report: Report) -> tuple[str, ...]:
    """One line for each file that could not be measured in full."""
    failed = [(label, row.path, row.failure) for label, row in zip(labels(report), report.rows, strict=True) if row.failure]
    return tuple(reason if path in reason else f"{label}: {reason}" for label, path, reason in failed)


def remarks(report: Report) -> tuple[str, ...]:
    """What a reader of the table has to know: which files were measured on less than the others, and the run's own notes."""
    lines = []
    counted = [row.accuracy or row.agreement for row in report.rows]
    most = max((count.total for count in counted if count), default=0)
    for name, count in zip(labels(report), counted, strict=True):
        if count and count.total < most:
            lines.append(
                f"{name}: accuracy and agreement on {count.total} of {most} rows, drawn at random, to keep within the time limit."
            )
    timed = [row.latency.runs for row in report.rows if row.latency]
    for name, row in zip(labels(report), report.rows, strict=True):
        if row.latency and row.latency.runs < max(timed):
            lines.append(f"{name}: {row.latency.runs} timed runs against {max(timed)}, to keep within the time limit.")
    return (*lines, *report.notes)


def pairs(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values as words."""
    return [(name.replace("_", " ").capitalize(), _plain(value)) for name, value in settings.items()]


def markdown(report: Report) -> str:
    """The whole report as Markdown: the table in full, then findings, remarks and failures."""
    table = columns(report)
    circumstances = [("Model", report.model), ("Data", report.data), ("Machine", report.machine)]
    circumstances += pairs(report.settings)
    lines = [f"# {_escape(report.title)}", ""]
    lines += [f"- {_escape(name)}: {_escape(value)}" for name, value in circumstances if value]
    lines += ["", "| " + " | ".join(column.title for column in table) + " |"]
    lines += ["| " + " | ".join("---:" if column.numeric else "---" for column in table) + " |"]
    for index in range(len(report.rows)):
        lines.append("| " + " | ".join(_escape(_joined(column.cells[index])) for column in table) + " |")
    blocks = [("What the figures say", findings(report)), ("Notes", remarks(report)), ("Failures", failures(report))]
    if report.training:
        blocks.append(("Training", tuple(f"{name}: {value}" for name, value in pairs(report.training))))
    for title, sentences in blocks:
        if sentences:
            lines += ["", f"## {title}", "", *(f"- {_escape(sentence)}" for sentence in sentences)]
    return "\n".join(lines) + "\n"


def json(report: Report) -> str:
    """Everything the report holds, as `Report.from_json` reads it."""
    return report.json()


def terminal(report: Report) -> "Group":
    """The main columns as a rich renderable that fits 100 columns, with findings, remarks and failures below."""
    from rich import box
    from rich.console import Group, RenderableType
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), title=Text(report.title, style="bold"), title_justify="left")
    shown = [column for column in columns(report) if column.main and any(cell.main != MISSING for cell in column.cells)]
    for column in shown:
        title = Text(column.title.replace(", ", "\n"))
        if column.numeric:
            table.add_column(title, justify="right", no_wrap=True)
        else:
            table.add_column(title, overflow="fold")
    for index, label in enumerate(labels(report)):
        table.add_row(shortened(label, _LABEL_WIDTH), *(_two_lines(column.cells[index]) for column in shown[1:]))
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


def _percentile(row: Measurement, reference: Measurement | None, name: str) -> Cell:
    if row.latency is None:
        return Cell()
    value = getattr(row.latency, name)
    base = getattr(reference.latency, name) if reference is not None and reference.latency is not None else 0
    return Cell(milliseconds(value), f"{value / base:.2f}×" if base > 0 and row is not reference else "")


def _partitions(row: Measurement) -> Cell:
    if row.partitions is None:
        return Cell()
    known = row.ops is not None and row.delegated_ops is not None
    return Cell(str(row.partitions), f"{row.delegated_ops}/{row.ops} ops" if known else "")


def _joined(cell: Cell) -> str:
    return f"{cell.main} ({cell.note})" if cell.note else cell.main


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value)
    return MISSING if value is None else str(value)


def _escape(text: str) -> str:
    """Text that Markdown shows as it is, also inside a table."""
    for mark in "\\`*[]<>|":
        text = text.replace(mark, f"\\{mark}" if mark not in "<>" else {"<": "&lt;", ">": "&gt;"}[mark])
    return " ".join(text.split())
