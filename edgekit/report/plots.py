"""The report's figures as SVG text: the task's metric against latency, latency percentiles, sizes, learning curves."""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from edgekit.measure.measurement import Measurement
from edgekit.report.content import LearningCurve, Report, labels, megabytes, milliseconds, shortened
from edgekit.report.drawing import ACCENT, INK, MUTED, PALE, label_points, latency_axis, one_row_each, rows_height, svg
from edgekit.report.pruned import Pruned
from edgekit.report.table import titled
from edgekit.tasks.judgement import MOST_DB
from edgekit.tasks.metrics import Proportion, Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LONGEST_NAME = 26
_LABELLED_EPOCHS = 6  # as many figures as have room beside each other
_DASHED = (0, (4, 3))
_LEGEND: Mapping[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1), "frameon": False, "fontsize": 9}
_BESIDE: Mapping[str, Any] = {"textcoords": "offset points", "fontsize": 9}


def scatter(report: Report) -> str:
    """The metric against p50 with 95 % bars; empty if fewer than two files have both.

    Without labels it is the agreement with the reference, and where nothing is decided the error of the worst output. A dashed
    line runs at the reference's level."""
    title, figure_of = judged_by(report)
    points = [
        (label, row.latency.p50_ms, *figure)
        for label, row in zip(_ticks(report), report.rows, strict=True)
        if row.latency and (figure := figure_of(row))
    ]
    if len(points) < 2:
        return ""
    reference = report.reference_row
    level = figure_of(reference) if reference is not None else None

    def draw(figure: "Figure", axes: "Axes") -> None:
        if level is not None:
            axes.axhline(level[0], color=MUTED, linewidth=0.8, linestyle=_DASHED)
        for _, x, _, low, high in points:
            axes.vlines([x], low, high, color=PALE, linewidth=3)
        axes.plot([x for _, x, *_ in points], [value for _, _, value, *_ in points], "o", color=ACCENT, markersize=6)
        latency_axis(axes, [x for _, x, *_ in points], from_zero=False)
        axes.margins(y=0.12)
        axes.set_xlabel("p50 latency, ms")
        axes.set_ylabel(title)
        axes.grid(True, axis="both")
        label_points(figure, axes, points)

    name, _, unit = title.partition(", ")
    told = [f"{label} {value:.2f}{unit and f' {unit}'} at {milliseconds(x)} ms" for label, x, value, *_ in points]
    return svg("scatter", f"{name} against p50 latency: {', '.join(told)}", 3.6, draw)


def judged_by(report: Report) -> tuple[str, Callable[[Measurement], tuple[float, float, float] | None]]:
    """What tells the files of a report apart, as an axis' title, and how to get it with its interval from a row."""
    metric = next((row.metric for row in report.rows if row.metric is not None), None)
    if metric is not None:
        return titled(metric), lambda row: _interval(row.metric, 100 if metric.percent else 1)
    if any(row.agreement for row in report.rows):
        return "Agreement with the reference, %", lambda row: _interval(row.agreement, 100)
    # The reference is exact, and infinitely far above the others.
    title = "Error against the reference, dB"
    return title, lambda row: None if row.error_db is None or row.error_db >= MOST_DB else (row.error_db,) * 3


def _interval(share: Score | Proportion | None, factor: int) -> tuple[float, float, float] | None:
    return None if share is None else (share.value * factor, share.low * factor, share.high * factor)


def latency(report: Report) -> str:
    """p50, p90 and p99 of each file on one axis; empty if none was timed."""
    timed = [(label, row.latency) for label, row in zip(_ticks(report), report.rows, strict=True) if row.latency]
    if not timed:
        return ""
    longest = [item.p99_ms or item.p50_ms for _, item in timed]

    def draw(figure: "Figure", axes: "Axes") -> None:
        places = range(len(timed))
        axes.hlines(places, [item.p50_ms for _, item in timed], longest, color=PALE, linewidth=5)
        for name, marker, colour, size in (("p99", "|", ACCENT, 9), ("p90", "o", PALE, 6), ("p50", "o", ACCENT, 7)):
            values = [math.nan if (value := getattr(item, f"{name}_ms")) is None else value for _, item in timed]
            if all(map(math.isnan, values)):
                continue
            points = axes.plot(values, places, marker, color=colour, markersize=size, label=name, linestyle="none")
            points[0].set(markeredgecolor=ACCENT, markeredgewidth=1.6)
        latency_axis(axes, [*(item.p50_ms for _, item in timed), *longest])
        axes.set_xlabel("latency of one inference, ms")
        one_row_each(axes, [label for label, _ in timed])
        handles, texts = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], texts[::-1], ncol=3, handletextpad=0.2, **_LEGEND)

    ends = zip(timed, longest, strict=True)
    words = [f"{label} {milliseconds(item.p50_ms)} to {milliseconds(end)} ms" for (label, item), end in ends]
    return svg("latency", f"Latency from p50 to p99: {', '.join(words)}", rows_height(len(timed)) + 0.25, draw)


def pruned(plan: Pruned) -> str:
    """A grid of layer × head, and the FFN width of each layer as bars beside it.

    Full squares are heads that were kept, small ones those that went; the shade is the rank of the head's importance."""
    layers = len(plan.heads)
    ranked = sorted(score for scores in plan.importance for score in scores)
    shades = {score: 0.15 + 0.85 * place / max(1, len(ranked) - 1) for place, score in enumerate(ranked)}

    def draw(figure: "Figure", axes: "Axes") -> None:
        from matplotlib.patches import Rectangle

        axes.remove()
        grid, bars = figure.subplots(1, 2, width_ratios=(3, 2), sharey=True)
        for layer, (scores, kept) in enumerate(zip(plan.importance, plan.heads, strict=True)):
            for head, score in enumerate(scores):
                side = 0.84 if head in kept else 0.3
                corner = (head - side / 2, layer - side / 2)
                grid.add_patch(Rectangle(corner, side, side, facecolor=ACCENT, alpha=shades[score], linewidth=0))
        most = max(map(len, plan.importance))
        grid.set_xlim(-0.6, most - 0.4)
        grid.set_xticks(range(0, most, 1 if most <= 12 else 2))
        grid.set_xlabel("head")
        grid.set_yticks(range(layers), [f"layer {layer}" for layer in range(layers)], color=INK)
        grid.set_ylim(layers - 0.45, -0.55)
        bars.barh(range(layers), plan.ffn_before, height=0.56, color=PALE, alpha=0.5)
        bars.barh(range(layers), plan.ffn, height=0.56, color=ACCENT)
        for layer, width in enumerate(plan.ffn):
            bars.annotate(str(width), (max(plan.ffn_before), layer), (4, 0), va="center", **_BESIDE)
        bars.set_xlim(0, max(plan.ffn_before) * 1.3 or 1)
        bars.set_xticks([0, max(plan.ffn_before)])
        bars.set_xlabel("FFN units")
        for shown in (grid, bars):
            shown.spines["bottom"].set_visible(False)

    each = zip(range(layers), plan.importance, plan.heads, plan.ffn, plan.ffn_before, strict=True)
    words = [
        f"layer {layer} keeps heads {', '.join(map(str, kept)) or 'none'} of {len(scores)} and {width} of {before} FFN units"
        for layer, scores, kept, width, before in each
    ]
    return svg("pruned", f"{plan.version}: {'; '.join(words)}", 0.7 + 0.3 * layers, draw)


def sizes(report: Report) -> str:
    """File size, and gzip size where it is known, of each file as bars; empty if there is no file."""
    rows, ticks = report.rows, _ticks(report)
    if not rows:
        return ""

    def draw(figure: "Figure", axes: "Axes") -> None:
        places = range(len(rows))
        axes.barh(places, [row.size_bytes / 1e6 for row in rows], height=0.56, color=PALE, label="file")
        packed = [(place, row.gzip_bytes / 1e6) for place, row in enumerate(rows) if row.gzip_bytes is not None]
        if packed:
            axes.barh([place for place, _ in packed], [size for _, size in packed], height=0.22, color=ACCENT, label="gzip")
            axes.legend(ncol=2, handlelength=1.2, **_LEGEND)
        for place, row in enumerate(rows):
            axes.annotate(megabytes(row.size_bytes), (row.size_bytes / 1e6, place), (4, 0), va="center", **_BESIDE)
        axes.set_xlim(0, max(row.size_bytes for row in rows) / 1e6 * 1.14 or 1)
        axes.set_xlabel("size, MB")
        one_row_each(axes, ticks)

    told = [f"{label} {megabytes(row.size_bytes)} MB" for label, row in zip(ticks, rows, strict=True)]
    return svg("sizes", f"File sizes: {', '.join(told)}", rows_height(len(rows)) + 0.25, draw)


def learning(curve: LearningCurve) -> str:
    """Training loss over the steps, and at the end of each epoch loss and metric on other rows; empty without points.

    The metric is written at its points, since a second axis would invite comparing it with the loss."""
    if not curve.training:
        return ""
    losses = [loss for _, loss in curve.training] + [loss for _, loss, _ in curve.epochs]

    def draw(figure: "Figure", axes: "Axes") -> None:
        axes.plot(*zip(*curve.training, strict=True), color=ACCENT, linewidth=1.4, label="training")
        if curve.epochs:
            steps, means, _ = zip(*curve.epochs, strict=True)
            label = f"evaluation, with {curve.metric}"
            axes.plot(steps, means, marker="o", color=MUTED, markersize=6, linewidth=0.8, linestyle=_DASHED, label=label)
        labelled = curve.epochs[:: -(-len(curve.epochs) // _LABELLED_EPOCHS)][:-1] if len(curve.epochs) > 1 else ()
        for step, loss, value in (*labelled, *curve.epochs[-1:]):
            axes.annotate(curve.told(value), (step, loss), (-4, 9), ha="right", **_BESIDE)
        last = max(step for step, *_ in (*curve.training, *curve.epochs))
        axes.set_xlim(0, last * 1.03)
        if min(losses) >= 0:
            axes.set_ylim(0, max(losses) * 1.1 or 1)
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        axes.grid(True, axis="y")
        axes.legend(ncol=2, handlelength=1.6, **_LEGEND)

    ends = [f"{curve.told(value)} at step {step}" for step, _, value in curve.epochs]
    first, last = curve.training[0], curve.training[-1]
    told = f"{curve.stage}: training loss {first[1]:.3g} at step {first[0]}, {last[1]:.3g} at step {last[0]}"
    return svg(f"learning-{curve.stage}", f"{told}; {curve.metric} {', '.join(ends)}" if ends else told, 3.0, draw)


def _ticks(report: Report) -> list[str]:
    return [shortened(name, _LONGEST_NAME) for name in labels(report)]
