"""The guide's pictures: quality against latency for each model, and published against measured sizes and ratios."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from edgekit.measure.measurement import Measurement
from edgekit.report.content import megabytes, milliseconds
from edgekit.report.drawing import ACCENT, INK, MUTED, PALE, PAPER, label_points, latency_axis, rows_height, svg
from edgekit.tasks.metrics import Proportion
from edgekit.workflows.guide.results import GuideModel, GuideRun, columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACCURACY, AGREEMENT, SIZE = "Accuracy", "Agreement with float32", "Size"
_NAMES = {"qat": "int8, QAT"}
_MOST_PERCENT = 102.0  # 100 with room for its point
_CLOSE = 0.06  # from one end of a ratio axis to the other, how much room markers keep from the frame


class Point(NamedTuple):
    """A scheme's place in a model's picture: p50 in ms, and per cent, or MB where neither accuracy nor agreement is known."""

    scheme: str
    ms: float
    value: float
    low: float
    high: float


class Pareto(NamedTuple):
    """One model's schemes by what is known of them, and those of them that no other beats in both figures."""

    quality: str
    points: tuple[Point, ...]
    front: tuple[Point, ...]


class Pair(NamedTuple):
    """A published and a measured figure of one scheme of one model; None where there is none."""

    model: str
    scheme: str
    published: float | None
    measured: float | None
    mark: str


def scheme_name(scheme: str) -> str:
    """A scheme as headings and labels write it."""
    return _NAMES.get(scheme, scheme)


def pareto(model: GuideModel) -> Pareto | None:
    """Accuracy against latency, else agreement, else size; None where fewer than two schemes were timed."""
    timed = [row for row in model.rows if row.latency]
    for quality, figure in ((ACCURACY, _accuracy), (AGREEMENT, _agreement), (SIZE, None)):
        if figure is None:
            points = [Point(row.scheme or "", _p50(row), *[row.size_bytes / 1e6] * 3) for row in timed]
        else:
            shares = [(row, share) for row in timed if (share := figure(row))]
            points = [
                Point(row.scheme or "", _p50(row), share.value * 100, share.low * 100, share.high * 100) for row, share in shares
            ]
        if len(points) > 1:
            return Pareto(quality, tuple(points), front(points, smaller=quality == SIZE))
    return None


def front(points: Sequence[Point], *, smaller: bool) -> tuple[Point, ...]:
    """The points that no other one equals or beats in both figures and beats in one, fastest first; `smaller` sizes are better."""
    sign = -1 if smaller else 1

    def beaten(point: Point) -> bool:
        return any(
            other.ms <= point.ms and sign * other.value >= sign * point.value and (other.ms, other.value) != (point.ms, point.value)
            for other in points
        )

    return tuple(sorted((point for point in points if not beaten(point)), key=lambda point: point.ms))


def sizes(run: GuideRun) -> tuple[Pair, ...]:
    """MB of every file that was written or published, model after model in the order of the table's columns."""
    pairs = [
        Pair(
            model.title,
            scheme,
            model.published.size_mb.get(scheme),
            row.size_bytes / 1e6 if (row := model.row(scheme)) else None,
            model.marks.get(scheme, ""),
        )
        for model in run.models
        for scheme in columns(run)
    ]
    return tuple(pair for pair in pairs if pair.published is not None or pair.measured is not None)


def ratios(run: GuideRun) -> tuple[Pair, ...]:
    """p50 of each quantized file divided by that of the model's float32 file, published and measured."""
    pairs = [
        Pair(
            model.title,
            scheme,
            _ratio(model.published.latency_ms.get(scheme), model.published.latency_ms.get("float32")),
            latency_ratio(model, scheme),
            model.marks.get(scheme, ""),
        )
        for model in run.models
        for scheme in columns(run)
        if scheme != "float32"
    ]
    return tuple(pair for pair in pairs if pair.published is not None or pair.measured is not None)


def latency_ratio(model: GuideModel, scheme: str) -> float | None:
    """Measured p50 of the scheme divided by float32's, None where one of them is missing."""
    row, base = model.row(scheme), model.row("float32")
    return _ratio(_p50(row) if row and row.latency else None, _p50(base) if base and base.latency else None)


def draw_pareto(model: GuideModel, found: Pareto) -> str:
    """Every scheme by latency and quality with its 95 % bar; the Pareto front is filled and joined by steps."""
    unit = "MB" if found.quality == SIZE else "%"

    def draw(figure: "Figure", axes: "Axes") -> None:
        for point in found.points:
            axes.vlines([point.ms], point.low, point.high, color=PALE, linewidth=3)
        best = found.front
        axes.step([p.ms for p in best], [p.value for p in best], where="post", color=ACCENT, linewidth=1, linestyle=(0, (4, 3)))
        for group, fill in ((best, ACCENT), ([p for p in found.points if p not in best], PAPER)):
            dots = axes.plot([p.ms for p in group], [p.value for p in group], "o", color=fill, markersize=7)
            dots[0].set(markeredgecolor=ACCENT if fill == ACCENT else MUTED, markeredgewidth=1.4)
        latency_axis(axes, [p.ms for p in found.points], from_zero=False)
        axes.margins(y=0.16)
        if found.quality == SIZE:
            axes.set_ylim(0, max(p.value for p in found.points) * 1.16)
        else:
            axes.set_ylim(top=min(axes.get_ylim()[1], _MOST_PERCENT))
        axes.set_xlabel("p50 latency, ms")
        axes.set_ylabel(f"{found.quality}, {unit}")
        axes.grid(True, axis="both")
        label_points(figure, axes, [(scheme_name(p.scheme), p.ms, p.value, p.low, p.high) for p in found.points])

    told = [f"{p.scheme} {p.value:.2f} {unit} at {milliseconds(p.ms)} ms" for p in found.points]
    best = ", ".join(p.scheme for p in found.front)
    return svg(
        f"pareto-{model.name}", f"{model.title}, {found.quality} against p50: {'; '.join(told)}; Pareto front: {best}", 3.3, draw
    )


def draw_sizes(pairs: Sequence[Pair]) -> str:
    """Measured sizes as bars, published ones as narrow bars inside them; empty without pairs."""
    if not pairs:
        return ""
    widest = max(max(pair.published or 0, pair.measured or 0) for pair in pairs)

    def draw(_: "Figure", axes: "Axes") -> None:
        places = _rows(axes, pairs)
        for values, height, colour, label in (
            ([pair.measured for pair in pairs], 0.62, PALE, "measured"),
            ([pair.published for pair in pairs], 0.22, ACCENT, "published"),
        ):
            if any(value is not None for value in values):
                axes.barh(places, [value or 0 for value in values], height=height, color=colour, label=label)
        for place, pair in zip(places, pairs, strict=True):
            told = " / ".join(_megabytes(value) for value in (pair.measured, pair.published) if value is not None)
            far = max(pair.published or 0, pair.measured or 0)
            axes.annotate(told, (far, place), (4, 0), textcoords="offset points", va="center", fontsize=9)
        axes.set_xlim(0, widest * 1.3 or 1)
        axes.set_xlabel("size, MB")
        _legend(axes)

    return svg("guide-sizes", f"Sizes, MB: {_told(pairs, _megabytes)}", _height(pairs), draw)


def draw_ratios(pairs: Sequence[Pair]) -> str:
    """Latency relative to float32 by powers, published hollow, measured full; empty without pairs."""
    if not pairs:
        return ""
    values = [value for pair in pairs for value in (pair.published, pair.measured) if value]

    def draw(_: "Figure", axes: "Axes") -> None:
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        places = _rows(axes, pairs)
        axes.set_xscale("log")
        low, high = min(*values, 0.5), max(*values, 2.0)
        room = (high / low) ** _CLOSE
        axes.set_xlim(low / room, high * room**3)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 100 else (1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.axvline(1, color=MUTED, linewidth=0.9)
        for place, pair in zip(places, pairs, strict=True):
            if pair.published and pair.measured:
                axes.hlines([place], *sorted((pair.published, pair.measured)), color=PALE, linewidth=3)
        for label, fill, chosen in (
            ("measured", ACCENT, [pair.measured for pair in pairs]),
            ("published", PAPER, [pair.published for pair in pairs]),
        ):
            shown = [(value, place) for value, place in zip(chosen, places, strict=True) if value]
            if shown:
                dots = axes.plot([v for v, _ in shown], [place for _, place in shown], "o", color=fill, markersize=6.5, label=label)
                dots[0].set(markeredgecolor=ACCENT, markeredgewidth=1.4, linestyle="none")
        for place, pair in zip(places, pairs, strict=True):
            far = max(value for value in (pair.published, pair.measured) if value)
            words = f"{pair.measured:.2f}" if pair.measured else f"{pair.published:.2f} published"
            axes.annotate(words, (far, place), (8, 0), textcoords="offset points", va="center", fontsize=9)
        axes.set_xlabel("latency ÷ latency in float32")
        _legend(axes)

    told = _told(pairs, lambda value: f"{value:.2f}")
    return svg("guide-ratios", f"Latency relative to float32: {told}", _height(pairs), draw)


def _rows(axes: "Axes", pairs: Sequence[Pair]) -> list[float]:
    """Places from top to bottom, with each model's name above its schemes."""
    places, ticks, at = [], [], 0.0
    for number, pair in enumerate(pairs):
        if number == 0 or pairs[number - 1].model != pair.model:
            at += 0.35 if number else 0.0
            mark = next((other.mark for other in pairs if other.model == pair.model and other.mark), "")
            axes.annotate(
                f"{pair.model} ({mark})" if mark else pair.model,
                (0, at),
                (2, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                va="center",
                fontsize=9,
                fontweight="bold",
            )
            at += 0.9
        places.append(at)
        ticks.append(scheme_name(pair.scheme))
        at += 0.9
    axes.set_yticks(places, ticks, color=INK)
    axes.set_ylim(at - 0.35, -0.5)
    axes.grid(True, axis="x")
    return places


def _height(pairs: Sequence[Pair]) -> float:
    groups = len({pair.model for pair in pairs})
    return rows_height(0) + 0.25 + 0.3 * (len(pairs) + 1.3 * groups)


def _legend(axes: "Axes") -> None:
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncol=2, frameon=False, fontsize=9, handlelength=1.2)


def _told(pairs: Sequence[Pair], words: Callable[[float], str]) -> str:
    def one(pair: Pair) -> str:
        figures = [("measured", pair.measured), ("published", pair.published)]
        return f"{pair.model} {pair.scheme} " + ", ".join(f"{words(value)} {name}" for name, value in figures if value is not None)

    return "; ".join(one(pair) for pair in pairs)


def _megabytes(value: float) -> str:
    return megabytes(round(value * 1e6))


def _p50(row: Measurement) -> float:
    return row.latency.p50_ms if row.latency else float("nan")


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


def _accuracy(row: Measurement) -> Proportion | None:
    return row.accuracy


def _agreement(row: Measurement) -> Proportion | None:
    return row.agreement
