"""The guide's table with measured figures beside the published ones, for a terminal and as Markdown."""

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgekit.report.content import megabytes, milliseconds
from edgekit.report.table import MISSING
from edgekit.workflows.guide.published import COLUMNS
from edgekit.workflows.guide.results import GuideModel, GuideRun, columns, differences, to_float32

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
_SIDES = ("guide", "here", "diff.")
_HEADS = tuple(
    f"{group}, {side}" for group, count in (("Quality", 2), ("ms", 2), ("÷ float", 2), ("MB", 3)) for side in _SIDES[:count]
)
# Raised, since they stand behind every figure of a row.
_LETTERS = "ᵃᵇᶜᵈᵉᶠᵍʰ"
_PARTLY = "over as many of the rows as time allowed"


@dataclass
class _Notes:
    """What stands under the table with its place there, in the order in which cells refer to it."""

    reasons: dict[str, int] = field(default_factory=dict)
    marks: dict[str, int] = field(default_factory=dict)

    def empty(self, reason: str | None) -> str:
        return f"{MISSING} [{self.reasons.setdefault(reason, len(self.reasons) + 1)}]" if reason else MISSING

    def marked(self, text: str, mark: str) -> str:
        return text + "".join(_LETTERS[self.marks.setdefault(part, len(self.marks))] for part in mark.split(", ") if part)


@dataclass(frozen=True)
class Grid:
    """`rows` hold a model's title, a technique and the cells under `_HEADS`, as text; `notes` explain cells."""

    title: str
    rows: tuple[tuple[str, str, tuple[str, ...]], ...]
    notes: tuple[str, ...]


def grid(run: GuideRun) -> Grid:
    """The table of `run` in words."""
    notes, own = _Notes(), COLUMNS[run.table]
    # The guide's own columns always, the others where the model has them or says why it has not.
    rows = [
        (model.title, TECHNIQUES.get(scheme, scheme), _cells(model, scheme, notes))
        for model in run.models
        for scheme in columns(run)
        if scheme in own or scheme in model.missing or model.row(scheme)
    ]
    below = [f"{letter} {mark}" for letter, mark in zip(_LETTERS, notes.marks, strict=False)]
    below += [f"[{number}] {reason}" for reason, number in notes.reasons.items()]
    return Grid(f"The guide's Table {run.table}, published and measured", tuple(rows), tuple(below))


def weights(run: GuideRun) -> tuple[str, ...]:
    """A sentence on each model: its weights, and what measuring it took."""
    return tuple(
        f"{model.title}: {model.weights}"
        + (f"; {model.seconds:.0f} s" if model.seconds is not None else "")
        + (f", largest process of the conversion {model.peak_bytes / 1e9:.1f} GB" if model.peak_bytes else "")
        for model in run.models
    )


def markdown(run: GuideRun) -> str:
    """The whole run as Markdown."""
    table = grid(run)
    lines = [f"# {table.title}", "", *(f"- {_escape(text)}" for text in (f"Machine: {run.machine}", f"Data: {run.data}"))]
    lines += ["", "| " + " | ".join(("Model", "Technique", *_HEADS)) + " |", "| --- | --- |" + " ---: |" * len(_HEADS)]
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
    for head in _HEADS:
        drawn.add_column(Text(head.replace(", ", "\n")), justify="right", no_wrap=True)
    for model, rows in itertools.groupby(table.rows, key=lambda row: row[0]):
        drawn.add_row(Text(model, style="bold"))
        for _, technique, cells in rows:
            drawn.add_row(Text(f" {technique}"), *(Text(cell.replace(", ", "\n")) for cell in cells))
    parts: list[RenderableType] = [drawn]
    for sentences, style in ((table.notes, ""), (weights(run), "dim"), (differences(run), "dim")):
        parts += [Padding(Text(sentence, style=style), (0, 0, 0, 2)) for sentence in sentences]
    return Group(*parts)


def _cells(model: GuideModel, scheme: str, notes: _Notes) -> tuple[str, ...]:
    row, published = model.row(scheme), model.published
    mark = model.marks.get(scheme, "")

    def measured(text: str | None, figure: str, *, partly: int | None = None) -> str:
        if text is not None:
            return notes.marked(text, f"{mark}, {_PARTLY}" if partly else mark) + (f", {partly} rows" if partly else "")
        return notes.empty(model.reason(scheme, figure))

    quality = ", ".join(
        f"{'' if metric.name == 'top-1' else metric.name} {metric.values[scheme]:g} {metric.unit}".strip()
        for metric in published.metrics
        if scheme in metric.values
    )
    ms, times = published.latency_ms.get(scheme), to_float32(published.latency_ms)
    mb, size = published.size_mb.get(scheme), row.size_bytes if row and row.failure is None else None
    ratio = to_float32(model.latency_ms).get(scheme)
    share = row.metric if row else None
    partly = share.total if share and share.total < (model.judged_rows or 0) else None
    return (
        quality or MISSING,
        measured(f"{share.value:.3f}" if share else None, "accuracy", partly=partly),
        f"{ms:g}" if ms is not None else MISSING,
        measured(milliseconds(row.latency.p50_ms) if row and row.latency else None, "latency"),
        f"{times[scheme]:.2f}" if scheme in times else MISSING,
        measured(f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}", "latency") if ratio is not None else MISSING,
        f"{mb:g}" if mb is not None else MISSING,
        measured(megabytes(size) if size else None, "size"),
        f"{100 * (size / 1e6 / mb - 1):+.1f} %" if size and mb else MISSING,
    )


def _escape(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
