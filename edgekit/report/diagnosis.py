"""A diagnosis as a terminal table, Markdown and one self-contained HTML page with a heat map."""

from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

from edgekit.measure.examine import Diagnosis
from edgekit.measure.layer_errors import Layer
from edgekit.measure.layers import MOVES
from edgekit.report.content import milliseconds, shortened
from edgekit.report.html import render
from edgekit.report.table import MISSING, decibels, escaped, markdown_table
from edgekit.tasks.judgement import MOST_DB

if TYPE_CHECKING:
    from rich.console import Group

_SHOWN = 12
_OPS = 8
_NAME_WIDTH = 48
# From where a heat map's cell is pale to where it is fully coloured.
_SQNR_SCALE, _COSINE_SCALE, _CLIPPED_SCALE = (30.0, 0.0), (1.0, 0.5), (0.0, 0.05)
_ESTIMATE = "Times of single ops are estimates: each op was run by itself on random values, outside the graph."


def title(diagnosis: Diagnosis) -> str:
    return f"{PurePath(diagnosis.file).name} against {PurePath(diagnosis.against).name}"


def summary(diagnosis: Diagnosis) -> tuple[str, ...]:
    """What was compared and how the outputs agree, how fast both are."""
    if diagnosis.failure is not None:
        return (f"{diagnosis.failure}; what follows is told by its scales alone.",)
    judged = f"{diagnosis.rows} rows" + (f" of {diagnosis.data}" if diagnosis.data else "")
    agreement = f"same decision in {diagnosis.agreement:.1%}, " if diagnosis.agreement is not None else ""
    lines = [f"Outputs on {judged}: {agreement}error {_with_unit(diagnosis.error_db)}."]
    if len(diagnosis.outputs) > 1 or agreement == "":
        for output in diagnosis.outputs:
            figures = f"{_with_unit(output.error_db)}, cosine {output.cosine:.4f}, largest difference {output.max_abs:.3g}"
            lines.append(f"Output {output.name}: {figures}.")
    if (speed := diagnosis.speed) is not None:
        split = speed.split
        lines.append(
            f"p50 {milliseconds(speed.p50_ms)} ms against {milliseconds(speed.reference_p50_ms)} ms, measured in turns on "
            f"{diagnosis.threads} threads; XNNPACK runs {split.delegated_ops} of {split.ops} ops in {split.partitions} partitions."
        )
    return tuple(lines)


def sentence(clause: str) -> str:
    """A finding's cause or mend as a sentence of its own."""
    return f"{clause[:1].upper()}{clause[1:]}."


def computing(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Those that compute something: a change of shape repeats what stands before it."""
    return tuple(layer for layer in layers if layer.op not in MOVES)


def cells(layer: Layer) -> tuple[str, ...]:
    """SQNR as run and stored alone, cosine, largest error, both ranges, share clipped."""
    stored = f"{layer.stored_min:.3g} to {layer.stored_max:.3g}" if layer.stored_min is not None else MISSING
    return (
        decibels(layer.sqnr_db),
        decibels(layer.storage_sqnr_db),
        f"{layer.cosine:.3f}",
        f"{layer.max_abs_error:.3g}",
        f"{layer.float_min:.3g} to {layer.float_max:.3g}",
        stored,
        MISSING if layer.clipped is None else f"{layer.clipped * 100:.2f}",
    )


def terminal(diagnosis: Diagnosis) -> "Group":
    """A rich renderable that fits 100 columns: findings first, then the worst layers, then the ops outside the delegate."""
    from rich import box
    from rich.console import Group, RenderableType
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    def indented(text: str, style: str = "") -> RenderableType:
        return Padding(Text(text, style=style), (0, 0, 0, 2))

    def table(heading: str, columns: Sequence[str]) -> Table:
        drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), title=Text(heading, style="bold"), title_justify="left")
        for number, column in enumerate(columns):
            drawn.add_column(Text(column), justify="left" if number == 0 else "right", no_wrap=number > 0, overflow="fold")
        return drawn

    parts: list[RenderableType] = [Text(title(diagnosis), style="bold")]
    parts += [indented(line) for line in summary(diagnosis)]
    for number, finding in enumerate(diagnosis.findings, 1):
        parts += [Text(""), Text(f"{number}. {finding.kind}", style="bold"), indented(sentence(finding.cause))]
        parts.append(indented(f"Mend: {finding.mend}."))
    if not diagnosis.findings:
        parts += [Text(""), indented("No cause found: the layers agree as far as integers can.", "dim")]
    parts.append(Text(""))
    worst = computing(diagnosis.layers)
    if worst:
        layers = table(
            f"Worst {min(_SHOWN, len(worst))} of {len(worst)} layers",
            ("Layer", "Op", "SQNR\ndB", "stored\nalone, dB", "Cosine", "Max\nerror", "Clipped\n%"),
        )
        for layer in worst[:_SHOWN]:
            sqnr, alone, cosine, error, _, _, clipped = cells(layer)
            layers.add_row(shortened(layer.name, _NAME_WIDTH), shortened(layer.op, 16), sqnr, alone, cosine, error, clipped)
        parts.append(layers)
    if diagnosis.speed is not None and diagnosis.speed.split.outside:
        ops = table("Ops outside the delegate", _OP_HEADINGS)
        for line in _ops(diagnosis, _OPS):
            ops.add_row(*line)
        parts += [ops, indented(_ESTIMATE, "dim")]
    parts += [indented(note, "dim") for note in diagnosis.notes]
    return Group(*parts)


def markdown(diagnosis: Diagnosis) -> str:
    """The same as Markdown, with all layers."""
    lines = [f"# {escaped(title(diagnosis))}", "", *map(escaped, summary(diagnosis))]
    for number, finding in enumerate(diagnosis.findings, 1):
        lines += ["", f"## {number}. {escaped(finding.kind)}", "", f"{escaped(finding.cause)}.", ""]
        lines.append(f"Mend: {escaped(finding.mend)}.")
    if diagnosis.layers:
        rows = [(layer.name, layer.op, *cells(layer)) for layer in computing(diagnosis.layers)]
        lines += ["", "## Layers, worst first", ""]
        lines += markdown_table(("Layer", "Op", *HEADINGS), rows, [False, False, *[True] * len(HEADINGS)])
    if diagnosis.speed is not None:
        lines += ["", "## Ops outside the delegate", "", *markdown_table(_OP_HEADINGS, _ops(diagnosis), [False, *[True] * 3])]
        lines += ["", _ESTIMATE]
    lines += ["", *(f"- {escaped(note)}" for note in diagnosis.notes)] if diagnosis.notes else []
    return "\n".join(lines) + "\n"


HEADINGS = ("SQNR, dB", "stored alone, dB", "Cosine", "Max error", "Float range", "Range of the scale", "Clipped, %")
_OP_HEADINGS = ("Op", "Count", "ms", "Share of p50, %")


def page(diagnosis: Diagnosis) -> str:
    """One HTML document without scripts: findings, a heat map of the layers in order of execution, the ops' times."""
    ordered = sorted(computing(diagnosis.layers), key=lambda layer: layer.place)
    ops = _ops(diagnosis)
    return render(
        "report/diagnosis.html.j2",
        title=title(diagnosis),
        summary=summary(diagnosis),
        sentence=sentence,
        findings=diagnosis.findings,
        notes=diagnosis.notes,
        layers=[(layer, cells(layer), heat(layer)) for layer in ordered],
        ops=ops[:-1],
        rest=ops[-1][2:] if ops else None,
        estimate=_ESTIMATE,
    )


def heat(layer: Layer) -> tuple[float, ...]:
    """How bad SQNR as run, SQNR stored alone, cosine and clipping are, each from 0 to 1."""
    return (
        _between(layer.sqnr_db, *_SQNR_SCALE),
        0.0 if layer.storage_sqnr_db is None else _between(layer.storage_sqnr_db, *_SQNR_SCALE),
        _between(layer.cosine, *_COSINE_SCALE),
        _between(layer.clipped or 0.0, *_CLIPPED_SCALE),
    )


def _between(value: float, good: float, bad: float) -> float:
    return round(min(1.0, max(0.0, (value - good) / (bad - good))), 3)


def _ops(diagnosis: Diagnosis, most: int | None = None) -> list[tuple[str, str, str, str]]:
    """Lines of the ops that the delegate leaves out, `most` of them at the most, and one of all that it takes."""
    if (speed := diagnosis.speed) is None:
        return []
    lines = []
    for one in speed.split.outside[:most]:
        times = (milliseconds(one.total_ms), f"{one.share * 100:.1f}") if one.timed else ("not timed", MISSING)
        lines.append((f"{one.op} in {one.dtype}", str(one.count), *times))
    share = f"{speed.delegated_ms / speed.p50_ms * 100:.1f}" if speed.p50_ms else MISSING
    return [*lines, ("the delegate and the rest", "", milliseconds(speed.delegated_ms), share)]


def _with_unit(value: float | None) -> str:
    text = decibels(value)
    return text if value is None or value >= MOST_DB else f"{text} dB"
