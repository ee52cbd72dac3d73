"""The guide's table with measured figures beside the published ones, for a terminal and as Markdown."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgekit.report.content import megabytes, milliseconds
from edgekit.report.table import MISSING
from edgekit.workflows.guide.pareto import latency_ratio
from edgekit.workflows.guide.published import COLUMNS
from edgekit.workflows.guide.results import GuideModel, GuideRun, columns, differences

if TYPE_CHECKING:
    from rich.console import Group

TECHNIQUES = {
    "float32": "original",
    "float16": "float16",
    "dynamic": "dynamic range",
    "int8": "post-training int8",
    "int16x8": "int16 activations",
    "qat": "QAT int8",
}
_GROUPS = (("Quality", 2), ("ms", 2), ("÷ float", 2), ("MB", 3))
# Raised, since they stand behind every figure of a row.
_LETTERS = "ᵃᵇᶜᵈᵉᶠᵍʰ"
_PARTLY = "over as many of the rows as time allowed"
_PUBLISHED, _MEASURED, _DIFFERENCE = "guide", "here", "diff."


@dataclass
class _Notes:
    """What stands under the table, numbered or lettered in the order in which cells refer to it."""

    reasons: list[str] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)

    def empty(self, reason: str | None) -> str:
        return f"{MISSING} [{_place(self.reasons, reason) + 1}]" if reason else MISSING

    def marked(self, text: str, mark: str) -> str:
        return text + "".join(_LETTERS[_place(self.marks, part)] for part in mark.split(", ") if part)


@dataclass(frozen=True)
class Grid:
    """`rows` hold a model's title, a technique and the cells under `heads`, as text; `notes` explain cells."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[str, ...]], ...]
    notes: tuple[str, ...]


def grid(run: GuideRun) -> Grid:
    """The table of `run` in words."""
    notes = _Notes()
    rows = [
        (model.title, TECHNIQUES.get(scheme, scheme), _cells(model, scheme, notes))
        for model in run.models
        for scheme in _schemes(run, model)
    ]
    heads = tuple(f"{group}, {side}" for group, count in _GROUPS for side in (_PUBLISHED, _MEASURED, _DIFFERENCE)[:count])
    told = [f"{letter} {mark}" for letter, mark in zip(_LETTERS, notes.marks, strict=False)]
    told += [f"[{number}] {reason}" for number, reason in enumerate(notes.reasons, 1)]
    return Grid(f"The guide's Table {run.table}, published and measured", heads, tuple(rows), tuple(told))


def weights(run: GuideRun) -> tuple[str, ...]:
    """A sentence on each model: its weights, and what measuring it took."""
    found = []
    for model in run.models:
        took = f"; {model.seconds:.0f} s" if model.seconds is not None else ""
        peak = f", largest process of the conversion {model.peak_bytes / 1e9:.1f} GB" if model.peak_bytes else ""
        found.append(f"{model.title}: {model.weights}{took}{peak}")
    return tuple(found)


def markdown(run: GuideRun) -> str:
    """The whole run as Markdown."""
    table = grid(run)
    lines = [f"# {table.title}", "", *(f"- {_escape(text)}" for text in (f"Machine: {run.machine}", f"Data: {run.data}"))]
    lines += ["", "| " + " | ".join(("Model", "Technique", *table.heads)) + " |", "| --- | --- |" + " ---: |" * len(table.heads)]
    lines += [f"| {' | '.join(_escape(cell) for cell in (title, technique, *cells))} |" for title, technique, cells in table.rows]
    for title, sentences in (("Cells", table.notes), ("Models", weights(run)), ("What differs", differences(run))):
        if sentences:
            lines += ["", f"## {title}", "", *(f"- {_escape(sentence)}" for sentence in sentences)]
    return "\n".join(lines) + "\n"


def terminal(run: GuideRun) -> "Group":
    """A rich renderable that fits 100 columns."""
    from rich import box
    from rich.console import Group, RenderableType
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    table = grid(run)
    title = Text(table.title, style="bold")
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1), title=title, title_justify="left")
    drawn.add_column("", min_width=max(map(len, TECHNIQUES.values())) + 1, overflow="fold")
    for head in table.heads:
        drawn.add_column(Text(head.replace(", ", "\n")), justify="right", no_wrap=True)
    before = ""
    for model, technique, cells in table.rows:
        if model != before:
            drawn.add_row(Text(model, style="bold"), *[""] * len(cells))
        drawn.add_row(Text(f" {technique}"), *(Text(cell.replace(", ", "\n")) for cell in cells))
        before = model
    parts: list[RenderableType] = [drawn]
    for sentences, style in ((table.notes, ""), (weights(run), "dim"), (differences(run), "dim")):
        parts += [Padding(Text(sentence, style=style), (0, 0, 0, 2)) for sentence in sentences]
    return Group(*parts)


def _schemes(run: GuideRun, model: GuideModel) -> tuple[str, ...]:
    """The guide's own columns always, the others where this model has them or says why it has not."""
    own = COLUMNS[run.table]
    return tuple(scheme for scheme in columns(run) if scheme in own or model.row(scheme) or scheme in model.missing)


def _cells(model: GuideModel, scheme: str, notes: _Notes) -> tuple[str, ...]:
    row, published = model.row(scheme), model.published
    mark = model.marks.get(scheme, "")

    def measured(text: str | None, figure: str, *, partly: int | None = None) -> str:
        if text is not None:
            return notes.marked(text, f"{mark}, {_PARTLY}" if partly else mark) + (f", {partly} rows" if partly else "")
        return notes.empty(model.reason(scheme, figure) or (row.failure if row else None))

    qualities = [(metric, metric.values[scheme]) for metric in published.metrics if scheme in metric.values]
    quality = ", ".join(f"{_kind(metric.name)}{value:g}{f' {metric.unit}' if metric.unit else ''}" for metric, value in qualities)
    ms, float_ms = published.latency_ms.get(scheme), published.latency_ms.get("float32")
    mb = published.size_mb.get(scheme)
    size = row.size_bytes if row and row.failure is None else None
    difference = f"{100 * (size / 1e6 / mb - 1):+.1f} %" if size and mb else None
    ratio = latency_ratio(model, scheme) if scheme != "float32" else None
    share = row.accuracy if row else None
    partly = share.total if share and share.total < (model.judged_rows or 0) else None
    return (
        quality or MISSING,
        measured(f"{share.value:.3f}" if share else None, "accuracy", partly=partly),
        f"{ms:g}" if ms is not None else MISSING,
        measured(milliseconds(row.latency.p50_ms) if row and row.latency else None, "latency"),
        f"{ms / float_ms:.2f}" if ms is not None and float_ms and scheme != "float32" else MISSING,
        measured(f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}", "latency") if ratio is not None else MISSING,
        f"{mb:g}" if mb is not None else MISSING,
        measured(megabytes(size) if size else None, "size"),
        difference or MISSING,
    )


def _kind(name: str) -> str:
    return "" if name == "top-1" else f"{name} "


def _place(known: list[str], text: str) -> int:
    if text not in known:
        known.append(text)
    return known.index(text)


def _escape(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
