"""The report's figures as SVG text: accuracy against latency, latency percentiles, sizes, learning curves."""

import math
from typing import TYPE_CHECKING

from edgekit.measure.measurement import Measurement
from edgekit.report.content import LearningCurve, Report, labels, megabytes, milliseconds, shortened
from edgekit.report.drawing import ACCENT, INK, MUTED, PALE, label_points, latency_axis, one_row_each, rows_height, svg
from edgekit.report.pruned import Pruned
from edgekit.tasks.metrics import Proportion

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

_LONGEST_NAME = 26
_LABELLED_EPOCHS = 6  # as many figures as have room beside each other


def scatter(report: Report) -> str:
    """Accuracy (agreement where there are no labels) against p50, with 95 % bars; empty if fewer than two files have both.

    A dashed line runs at the reference's level.
    """
    rows, ticks = _shortened(report)
    shares = [_share(row, any(row.accuracy for row in rows)) for row in rows]
    points = [
        (label, row.latency.p50_ms, share) for label, row, share in zip(ticks, rows, shares, strict=True) if row.latency and share
    ]
    if len(points) < 2:
        return ""
    title = "Accuracy, %" if any(row.accuracy for row in rows) else "Agreement with the reference, %"

    level = _share(report.reference_row, any(row.accuracy for row in rows)) if report.reference_row else None

    def draw(figure: "Figure", axes: "Axes") -> None:
        if level is not None:
            axes.axhline(level.value * 100, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        for _, x, share in points:
            axes.vlines([x], share.low * 100, share.high * 100, color=PALE, linewidth=3)
        axes.plot([x for _, x, _ in points], [share.value * 100 for _, _, share in points], "o", color=ACCENT, markersize=6)
        latency_axis(axes, [x for _, x, _ in points], from_zero=False)
        axes.margins(y=0.12)
        axes.set_xlabel("p50 latency, ms")
        axes.set_ylabel(title)
        axes.grid(True, axis="both")
        label_points(figure, axes, [(label, x, share.value * 100, share.low * 100, share.high * 100) for label, x, share in points])

    told = [f"{label} {share.value * 100:.2f} % at {milliseconds(x)} ms" for label, x, share in points]
    return svg("scatter", f"{title.split(',')[0]} against p50 latency: {', '.join(told)}", 3.6, draw)


def latency(report: Report) -> str:
    """p50, p90 and p99 of each file on one axis; empty if none was timed."""
    rows, ticks = _shortened(report)
    timed = [(label, row.latency) for label, row in zip(ticks, rows, strict=True) if row.latency]
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
        latency_axis(axes, [value for _, item in timed for value in (item.p50_ms, item.p99_ms or item.p50_ms)])
        axes.set_xlabel("latency of one inference, ms")
        one_row_each(axes, [label for label, _ in timed])
        handles, texts = axes.get_legend_handles_labels()
        axes.legend(
            handles[::-1],
            texts[::-1],
            loc="lower right",
            bbox_to_anchor=(1, 1),
            ncol=3,
            frameon=False,
            fontsize=9,
            handletextpad=0.2,
        )

    told = [
        f"{label} {milliseconds(item.p50_ms)} to {milliseconds(end)} ms" for (label, item), end in zip(timed, longest, strict=True)
    ]
    return svg("latency", f"Latency from p50 to p99: {', '.join(told)}", rows_height(len(timed)) + 0.25, draw)


def pruned(plan: Pruned) -> str:
    """A grid of layer × head, and the FFN width of each layer as bars beside it.

    Full squares are heads that were kept, small ones those that went; the shade is the rank of the head's importance.
    """
    layers = len(plan.heads)
    ranked = sorted(score for scores in plan.importance for score in scores)
    shades = {score: 0.15 + 0.85 * place / max(1, len(ranked) - 1) for place, score in enumerate(ranked)}

    def draw(figure: "Figure", axes: "Axes") -> None:
        axes.remove()
        grid, bars = figure.subplots(1, 2, width_ratios=(3, 2), sharey=True)
        for layer, (scores, kept) in enumerate(zip(plan.importance, plan.heads, strict=True)):
            for head, score in enumerate(scores):
                side = 0.84 if head in kept else 0.3
                corner = (head - side / 2, layer - side / 2)
                grid.add_patch(_rectangle(corner, side, shades[score]))
        most = max(len(scores) for scores in plan.importance)
        grid.set_xlim(-0.6, most - 0.4)
        grid.set_xticks(range(0, most, 1 if most <= 12 else 2))
        grid.set_xlabel("head")
        grid.set_yticks(range(layers), [f"layer {layer}" for layer in range(layers)], color=INK)
        grid.set_ylim(layers - 0.45, -0.55)
        bars.barh(range(layers), plan.ffn_before, height=0.56, color=PALE, alpha=0.5)
        bars.barh(range(layers), plan.ffn, height=0.56, color=ACCENT)
        for layer, width in enumerate(plan.ffn):
            bars.annotate(str(width), (max(plan.ffn_before), layer), (4, 0), textcoords="offset points", va="center", fontsize=9)
        bars.set_xlim(0, max(plan.ffn_before) * 1.3 or 1)
        bars.set_xticks([0, max(plan.ffn_before)])
        bars.set_xlabel("FFN units")
        for shown in (grid, bars):
            shown.spines["bottom"].set_visible(False)

    told = [
        f"layer {layer} keeps heads {', '.join(map(str, kept)) or 'none'} of {len(scores)} and {width} of {before} FFN units"
        for layer, (scores, kept, width, before) in enumerate(
            zip(plan.importance, plan.heads, plan.ffn, plan.ffn_before, strict=True)
        )
    ]
    return svg("pruned", f"{plan.version}: {'; '.join(told)}", 0.7 + 0.3 * layers, draw)


def _rectangle(corner: tuple[float, float], side: float, shade: float) -> "Patch":
    from matplotlib.patches import Rectangle

    return Rectangle(corner, side, side, facecolor=ACCENT, alpha=shade, linewidth=0)


def sizes(report: Report) -> str:
    """File size, and gzip size where it is known, of each file as bars; empty if there is no file."""
    rows, ticks = _shortened(report)
    if not rows:
        return ""

    def draw(figure: "Figure", axes: "Axes") -> None:
        places = range(len(rows))
        axes.barh(places, [row.size_bytes / 1e6 for row in rows], height=0.56, color=PALE, label="file")
        packed = [(place, row.gzip_bytes / 1e6) for place, row in enumerate(rows) if row.gzip_bytes is not None]
        if packed:
            axes.barh([place for place, _ in packed], [size for _, size in packed], height=0.22, color=ACCENT, label="gzip")
            axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncol=2, frameon=False, fontsize=9, handlelength=1.2)
        for place, row in enumerate(rows):
            axes.annotate(
                megabytes(row.size_bytes),
                (row.size_bytes / 1e6, place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
            )
        axes.set_xlim(0, max(row.size_bytes for row in rows) / 1e6 * 1.14 or 1)
        axes.set_xlabel("size, MB")
        one_row_each(axes, ticks)

    told = [f"{label} {megabytes(row.size_bytes)} MB" for label, row in zip(ticks, rows, strict=True)]
    return svg("sizes", f"File sizes: {', '.join(told)}", rows_height(len(rows)) + 0.25, draw)


def learning(curve: LearningCurve) -> str:
    """Training loss over the steps, and at the end of each epoch loss and accuracy on other rows; empty without points.

    The accuracy is written at its points, since a second axis would invite comparing it with the loss.
    """
    if not curve.training:
        return ""
    losses = [loss for _, loss in curve.training] + [loss for _, loss, _ in curve.epochs]

    def draw(figure: "Figure", axes: "Axes") -> None:
        axes.plot(*zip(*curve.training, strict=True), color=ACCENT, linewidth=1.4, label="training")
        if curve.epochs:
            axes.plot(
                [step for step, _, _ in curve.epochs],
                [loss for _, loss, _ in curve.epochs],
                color=MUTED,
                marker="o",
                markersize=6,
                linewidth=0.8,
                linestyle=(0, (4, 3)),
                label="evaluation, with accuracy",
            )
        labelled = curve.epochs[:: -(-len(curve.epochs) // _LABELLED_EPOCHS)][:-1] if len(curve.epochs) > 1 else ()
        for step, loss, accuracy in (*labelled, *curve.epochs[-1:]):
            axes.annotate(
                f"{100 * accuracy:.1f} %", (step, loss), xytext=(-4, 9), textcoords="offset points", ha="right", fontsize=9
            )
        last = max(step for step, *_ in (*curve.training, *curve.epochs))
        axes.set_xlim(0, last * 1.03)
        if min(losses) >= 0:
            axes.set_ylim(0, max(losses) * 1.1 or 1)
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        axes.grid(True, axis="y")
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncol=2, frameon=False, fontsize=9, handlelength=1.6)

    ends = [f"{100 * accuracy:.1f} % at step {step}" for step, _, accuracy in curve.epochs]
    first, last = curve.training[0], curve.training[-1]
    told = f"{curve.stage}: training loss {first[1]:.3g} at step {first[0]}, {last[1]:.3g} at step {last[0]}"
    return svg(f"learning-{curve.stage}", f"{told}; accuracy {', '.join(ends)}" if ends else told, 3.0, draw)


def _share(row: Measurement, has_accuracy: bool) -> Proportion | None:
    return row.accuracy if has_accuracy else row.agreement


def _shortened(report: Report) -> tuple[tuple[Measurement, ...], tuple[str, ...]]:
    return report.rows, tuple(shortened(name, _LONGEST_NAME) for name in labels(report))
