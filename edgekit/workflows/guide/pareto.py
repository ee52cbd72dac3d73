"""The guide's pictures: quality against latency for each model, and published against measured sizes and ratios."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from edgekit.measure.measurement import Measurement
from edgekit.report.content import megabytes, milliseconds
from edgekit.report.drawing import ACCENT, INK, MUTED, PALE, PAPER, label_points, latency_axis, rows_height, svg
from edgekit.workflows.guide.results import GuideModel, GuideRun, columns, to_float32

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACCURACY, AGREEMENT, SIZE = "Accuracy", "Agreement with float32", "Size"
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

    @property
    def figures(self) -> dict[str, float]:
        """What there is of the two."""
        both = {"measured": self.measured, "published": self.published}
        return {side: value for side, value in both.items() if value is not None}


def scheme_name(scheme: str) -> str:
    """A scheme as headings and labels write it."""
    return "int8, QAT" if scheme == "qat" else scheme


def pareto(model: GuideModel) -> Pareto | None:
    """Accuracy against latency, else agreement, else size; None where fewer than two schemes were timed."""
    for quality in (ACCURACY, AGREEMENT, SIZE):
        figures = {row.scheme or "": _figure(row, quality) for row in model.rows}
        points = [Point(scheme, ms, *figure) for scheme, ms in model.latency_ms.items() if (figure := figures[scheme])]
        if len(points) > 1:
            return Pareto(quality, tuple(points), front(points, smaller=quality == SIZE))
    return None


def _figure(row: Measurement, quality: str) -> tuple[float, float, float] | None:
    """The figure with its interval, in per cent or MB."""
    if quality == SIZE:
        return (row.size_bytes / 1e6,) * 3
    share = row.metric if quality == ACCURACY else row.agreement
    return (100 * share.value, 100 * share.low, 100 * share.high) if share else None


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
    return _pairs(run, lambda model: (model.published.size_mb, model.size_mb))


def ratios(run: GuideRun) -> tuple[Pair, ...]:
    """p50 of each quantized file divided by that of the model's float32 file, published and measured."""
    return _pairs(run, lambda model: (to_float32(model.published.latency_ms), to_float32(model.latency_ms)))


def _pairs(run: GuideRun, both: Callable[[GuideModel], tuple[Mapping[str, float], Mapping[str, float]]]) -> tuple[Pair, ...]:
    """What was published and measured of every scheme of every model, where there is either."""
    return tuple(
        Pair(model.title, scheme, published.get(scheme), measured.get(scheme), model.marks.get(scheme, ""))
        for model in run.models
        for published, measured in [both(model)]
        for scheme in columns(run)
        if scheme in published or scheme in measured
    )


def draw_pareto(model: GuideModel, picture: Pareto) -> str:
    """Every scheme by latency and quality with its 95 % bar; the Pareto front is filled and joined by steps."""
    unit = "MB" if picture.quality == SIZE else "%"

    def draw(figure: "Figure", axes: "Axes") -> None:
        for point in picture.points:
            axes.vlines([point.ms], point.low, point.high, color=PALE, linewidth=3)
        best = picture.front
        axes.step([p.ms for p in best], [p.value for p in best], where="post", color=ACCENT, linewidth=1, linestyle=(0, (4, 3)))
        for group, fill in ((best, ACCENT), ([p for p in picture.points if p not in best], PAPER)):
            dots = axes.plot([p.ms for p in group], [p.value for p in group], "o", color=fill, markersize=7)
            dots[0].set(markeredgecolor=ACCENT if fill == ACCENT else MUTED, markeredgewidth=1.4)
        latency_axis(axes, [p.ms for p in picture.points], from_zero=False)
        axes.margins(y=0.16)
        if picture.quality == SIZE:
            axes.set_ylim(0, max(p.value for p in picture.points) * 1.16)
        else:
            axes.set_ylim(top=min(axes.get_ylim()[1], _MOST_PERCENT))
        axes.set_xlabel("p50 latency, ms")
        axes.set_ylabel(f"{picture.quality}, {unit}")
        axes.grid(True, axis="both")
        label_points(figure, axes, [(scheme_name(p.scheme), p.ms, p.value, p.low, p.high) for p in picture.points])

    words = "; ".join(f"{p.scheme} {p.value:.2f} {unit} at {milliseconds(p.ms)} ms" for p in picture.points)
    best = ", ".join(p.scheme for p in picture.front)
    spoken = f"{model.title}, {picture.quality} against p50: {words}; Pareto front: {best}"
    return svg(f"pareto-{model.name}", spoken, 3.3, draw)


def draw_sizes(pairs: Sequence[Pair]) -> str:
    """Measured sizes as bars, published ones as narrow bars inside them; empty without pairs."""
    if not pairs:
        return ""

    def draw(_: "Figure", axes: "Axes") -> None:
        places = _rows(axes, pairs)
        for side, height, colour in (("measured", 0.62, PALE), ("published", 0.22, ACCENT)):
            if any(side in pair.figures for pair in pairs):
                axes.barh(places, [pair.figures.get(side, 0) for pair in pairs], height=height, color=colour, label=side)
        for place, pair in zip(places, pairs, strict=True):
            words, far = " / ".join(map(_megabytes, pair.figures.values())), max(pair.figures.values())
            axes.annotate(words, (far, place), (4, 0), textcoords="offset points", va="center", fontsize=9)
        axes.set_xlim(0, max(value for pair in pairs for value in pair.figures.values()) * 1.3 or 1)
        axes.set_xlabel("size, MB")
        _legend(axes)

    return svg("guide-sizes", f"Sizes, MB: {_words(pairs, _megabytes)}", _height(pairs), draw)


def draw_ratios(pairs: Sequence[Pair]) -> str:
    """Latency relative to float32 by powers, published hollow, measured full; empty without pairs."""
    if not pairs:
        return ""
    values = [value for pair in pairs for value in pair.figures.values()]

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
            near, far = min(pair.figures.values()), max(pair.figures.values())
            if near < far:
                axes.hlines([place], near, far, color=PALE, linewidth=3)
            words = f"{pair.measured:.2f}" if pair.measured else f"{pair.published:.2f} published"
            axes.annotate(words, (far, place), (8, 0), textcoords="offset points", va="center", fontsize=9)
        for side, fill in (("measured", ACCENT), ("published", PAPER)):
            if shown := [(pair.figures[side], place) for place, pair in zip(places, pairs, strict=True) if side in pair.figures]:
                dots = axes.plot(*zip(*shown, strict=True), "o", color=fill, markersize=6.5, label=side)
                dots[0].set(markeredgecolor=ACCENT, markeredgewidth=1.4, linestyle="none")
        axes.set_xlabel("latency ÷ latency in float32")
        _legend(axes)

    words = _words(pairs, lambda value: f"{value:.2f}")
    return svg("guide-ratios", f"Latency relative to float32: {words}", _height(pairs), draw)


def _rows(axes: "Axes", pairs: Sequence[Pair]) -> list[float]:
    """Places from top to bottom, with each model's name above its schemes."""
    places, ticks, at = [], [], 0.0
    for number, pair in enumerate(pairs):
        if number == 0 or pairs[number - 1].model != pair.model:
            at += 0.35 if number else 0.0
            mark = next((other.mark for other in pairs if other.model == pair.model and other.mark), "")
            title = f"{pair.model} ({mark})" if mark else pair.model
            axes.text(0.005, at, title, transform=axes.get_yaxis_transform(), va="center", fontsize=9, fontweight="bold")
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


def _words(pairs: Sequence[Pair], words: Callable[[float], str]) -> str:
    return "; ".join(
        f"{pair.model} {pair.scheme} " + ", ".join(f"{words(value)} {side}" for side, value in pair.figures.items())
        for pair in pairs
    )


def _megabytes(value: float) -> str:
    return megabytes(round(value * 1e6))
