"""What every drawing of the report shares: its colours, its way to a latency axis and to names beside points, and SVG text."""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Drawn in these colours, written as the page's own, so that a figure follows a light or a dark page.
INK, MUTED, GRID, PAPER = "#1b1e23", "#656c77", "#dfe2e7", "#ffffff"
ACCENT, PALE = "#2f6db3", "#a9c5e6"
_PAGE_COLOURS = {INK: "ink", MUTED: "muted", GRID: "line", PAPER: "page", ACCENT: "accent", PALE: "pale"}
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": GRID,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    **dict.fromkeys(("font.size", "axes.labelsize"), 10),
    **dict.fromkeys(("axes.labelcolor", "xtick.color", "ytick.color"), MUTED),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize"), 9),
    **dict.fromkeys([f"{axis}tick.{kind}.size" for axis in "xy" for kind in ("major", "minor")], 0),
    **dict.fromkeys([f"axes.spines.{side}" for side in ("top", "right", "left")], False),
}
_WIDTH = 5.4  # inches, 72 points each: about what a phone shows, so that text stays readable there
_ROW = 0.42
_LOG_FROM = 8.0  # the spread of latencies from which a linear axis squeezes the fast files into one spot


def svg(name: str, told: str, height: float, draw: Callable[["Figure", "Axes"], None]) -> str:
    """Draw on one pair of axes and return the `<svg>` element, which says `told` to who cannot see it.

    The same figures give the same text."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": f"edgekit-{name}"}), warnings.catch_warnings():
        # Letters that the font lacks are only measured wrongly: the browser writes them with its own.
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        draw(figure, axes)
        stream = io.StringIO()
        unnamed = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(stream, format="svg", transparent=True, metadata=unnamed)
    text = stream.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    # Group ids repeat from figure to figure, and nothing refers to them.
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    for side in ("width", "height"):
        text = re.sub(rf'^<svg ([^>]*?){side}="[^"]*"', r"<svg \1", text)
    for drawn, shown in _PAGE_COLOURS.items():
        text = text.replace(drawn, f"var(--{shown})")
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(told)}" ', 1)


def rows_height(rows: int) -> float:
    """Inches that a drawing of so many rows takes, its axis included."""
    return 0.85 + _ROW * rows


def one_row_each(axes: "Axes", labels: Sequence[str]) -> None:
    """The first row at the top, each with its label."""
    axes.set_yticks(range(len(labels)), labels, color=INK)
    axes.set_ylim(len(labels) - 0.45, -0.55)
    axes.grid(True, axis="x")


def latency_axis(axes: "Axes", values: Sequence[float], *, from_zero: bool = True) -> None:
    """Milliseconds along x, by powers where `values` spread widely."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if min(values) > 0 and max(values) / min(values) >= _LOG_FROM:
        axes.set_xscale("log")
        axes.set_xlim(min(values) / 1.6, max(values) * 1.6)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    elif from_zero:
        axes.set_xlim(0, max(values) * 1.14 or 1)
    else:
        # Room for names on both sides, and no more zoom than makes a difference of a few per cent look like one.
        room = max(0.35 * (max(values) - min(values)), 0.2 * max(values)) or 1
        axes.set_xlim(max(0, min(values) - room), max(values) + room)


def label_points(figure: "Figure", axes: "Axes", points: Sequence[tuple[str, float, float, float, float]]) -> None:
    """Write each point's name beside it: (name, x, y, low, high).

    Of some offsets it takes the one where it covers least: another name or the frame at no price but the highest, then a
    point, then a bar, where the page draws an edge around it."""
    from matplotlib.transforms import Bbox

    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    frame, scale = axes.get_window_extent(renderer), figure.dpi / 72
    spots = [axes.transData.transform([(x, y), (x, low), (x, high)]) for _, x, y, low, high in points]
    dots = [Bbox.from_bounds(spot[0][0] - 5, spot[0][1] - 5, 10, 10) for spot in spots]
    bars = [Bbox.from_extents(spot[1][0] - 4, spot[1][1], spot[1][0] + 4, spot[2][1]) for spot in spots]
    taken: list[Bbox] = []
    steps = [(0, "left"), (0, "right")]
    steps += [(sign * (8 + 11 * n), side) for n in range(9) for sign in (1, -1) for side in ("left", "right")]
    for (name, x, y, _, _), spot in zip(points, spots, strict=True):
        measured = axes.text(0, 0, name, fontsize=9)
        size = measured.get_window_extent(renderer)
        measured.remove()
        boxes = {}
        for dy, side in steps:
            left = spot[0][0] + 8 * scale if side == "left" else spot[0][0] - 8 * scale - size.width
            place = Bbox.from_bounds(left, spot[0][1] + dy * scale - size.height / 2, size.width, size.height)
            inside = frame.x0 <= place.x0 and place.x1 <= frame.x1 + 8 and frame.y0 <= place.y0 and place.y1 <= frame.y1
            covered = place.count_overlaps(taken) + (not inside), place.count_overlaps(dots), place.count_overlaps(bars)
            boxes[dy, side] = place, (*covered, abs(dy))
        dy, side = min(steps, key=lambda step: boxes[step][1])
        taken.append(boxes[dy, side][0])
        leader = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.6, "shrinkB": 4} if dy else None
        offset = (8 if side == "left" else -8, dy)
        axes.annotate(name, (x, y), offset, textcoords="offset points", ha=side, va="center", fontsize=9, arrowprops=leader)
