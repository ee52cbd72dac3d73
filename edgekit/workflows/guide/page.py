"""A run of the guide as one self-contained HTML page: published and measured side by side, and what keeps them apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edgekit.measure.measurement import Measurement
from edgekit.report.content import megabytes, milliseconds
from edgekit.report.html import render
from edgekit.report.table import MISSING, entries
from edgekit.workflows.guide import pareto, picture
from edgekit.workflows.guide.published import COLUMNS, SOURCE
from edgekit.workflows.guide.results import GuideModel, GuideRun, columns, differences, to_float32
from edgekit.workflows.guide.table import weights

_NOT_PUBLISHED = "The guide gives no figure here."
_NOT_MEASURED = "Not measured in this run."
_FASTER = "Left of 1 is faster than the model's own float32 file on the same device."
_OF_OTHERS = "Not asked for with this model."


@dataclass(frozen=True)
class Figure:
    """One cell on its `side`: a figure with `notes` below it, or none and the number of the `reason` that stands under the table.

    `mark` says what the figure must not be read without, such as random weights."""

    side: str
    main: str = MISSING
    notes: tuple[str, ...] = ()
    mark: str = ""
    reason: int | None = None


@dataclass(frozen=True)
class Table:
    """Rows of models (title, note, whether it failed, cells) by groups of columns, one for each scheme: published and measured,
    or measured alone."""

    id: str
    title: str
    caption: str
    groups: tuple[tuple[str, tuple[str, ...]], ...]
    rows: tuple[tuple[str, str, bool, list[Figure]], ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class _Line:
    """One model's row: figures by scheme, each with the notes below it; `beside` are notes where there is no figure."""

    model: GuideModel
    published: Mapping[str, tuple[str, ...]]
    measured: Mapping[str, tuple[str, ...]]
    beside: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    note: str = ""


def page(run: GuideRun) -> str:
    """The run and the decision tree as an HTML document, every name and sentence in it escaped."""
    from markupsafe import Markup

    # matplotlib escapes the names that it writes into the SVG.
    fronts = [
        (model.title, _front_caption(model, front), Markup(pareto.draw_pareto(model, front)))
        for model in run.models
        if (front := pareto.pareto(model)) is not None
    ]
    sizes, ratios = pareto.sizes(run), pareto.ratios(run)
    beside = any(pair.published is not None for pair in sizes)
    narrow = ": measured wide and pale, published narrow inside it; the figures in the same order" if beside else " as measured"
    hollow = " Full: measured, hollow: published." if any(pair.published is not None for pair in ratios) else ""
    drawn = [
        ("Size", f"MB of the file{narrow}.", Markup(pareto.draw_sizes(sizes))),
        ("Latency relative to float32", f"{_FASTER}{hollow}", Markup(pareto.draw_ratios(ratios))),
    ]
    circumstances = (("Machine", run.machine), ("Data", run.data), ("Date", run.date[:10]))
    return render(
        "workflows/guide/page.html.j2",
        title=f"The TensorFlow Lite guide's Table {run.table}, published and measured",
        source=SOURCE,
        circumstances=[(name, value) for name, value in circumstances if value],
        failures=[f"{model.title}: {model.failure}" for model in run.models if model.failure],
        tables=[_quality(run), _latency(run), _size(run)],
        fronts=fronts,
        plots=[plot for plot in drawn if plot[-1]],
        differences=differences(run),
        models=weights(run),
        settings=entries({str(name).replace("_", " ").capitalize(): value for name, value in run.settings.items()}),
        tree=Markup(picture.svg()),
    )


def _front_caption(model: GuideModel, front: pareto.Pareto) -> str:
    """What the picture shows, and the marks of the files in it."""
    better = "Down and to the left is better" if front.quality == pareto.SIZE else "Up and to the left is better"
    shown = {
        pareto.ACCURACY: "Bars are 95 % intervals.",
        pareto.AGREEMENT: "The share of decisions that are float32's own, since no accuracy was measured.",
        pareto.SIZE: "Size, since neither accuracy nor agreement is known.",
    }[front.quality]
    marked: dict[str, list[str]] = {}
    for point in front.points:
        if mark := model.marks.get(point.scheme):
            marked.setdefault(mark, []).append(pareto.scheme_name(point.scheme))
    # Where files differ in what marks them, each mark names its own.
    files = {mark: f" ({'; '.join(names)})" if len(marked) > 1 else "" for mark, names in marked.items()}
    marks = [f"{mark[:1].upper()}{mark[1:]}{names}." for mark, names in files.items()]
    return " ".join((*marks, f"{better}; filled points are the Pareto front.", shown))


def _quality(run: GuideRun) -> Table:
    lines = []
    for model in run.models:
        for metric in model.published.metrics:
            percent = 1 if metric.unit == "%" else 100
            published = {scheme: (_percent(value * percent),) for scheme, value in metric.values.items()}
            shares = {row.scheme or "": row for row in model.rows if row.metric and metric.name == "top-1"}
            measured = {scheme: (*_share(row, model), *_agrees(row)) for scheme, row in shares.items()}
            name = f"{metric.name}, %" if metric.higher_is_better else f"{metric.name}, % (less is better)"
            lines.append(_Line(model, published, measured, {row.scheme or "": _agrees(row) for row in model.rows}, name))
    caption = (
        "In the guide's own metric for each model. Below a measured figure: its 95 % interval, its rows, and in how many of "
        "its decisions the file agrees with float32."
    )
    return _table(run, "accuracy", "Accuracy", caption, lines)


def _share(row: Measurement, model: GuideModel) -> tuple[str, ...]:
    if (score := row.metric) is None:
        return ()
    whole = f" of {model.judged_rows}" if score.total < (model.judged_rows or 0) else ""
    return _percent(score.value * 100), f"{score.low * 100:.1f}–{score.high * 100:.1f}", f"{score.total}{whole} rows"


def _latency(run: GuideRun) -> Table:
    lines = []
    for model in run.models:
        figures, ours = model.published.latency_ms, model.latency_ms
        few = {row.scheme: f"{row.latency.runs} runs" for row in model.rows if row.latency and row.latency.runs < 10}
        published = {scheme: (f"{ms:g}", *_times(figures, scheme)) for scheme, ms in figures.items()}
        measured = {
            scheme: (milliseconds(ms), *_times(ours, scheme), *([few[scheme]] if scheme in few else []))
            for scheme, ms in ours.items()
        }
        lines.append(_Line(model, published, measured))
    none = "" if any(line.published for line in lines) else "The guide's table gives no latencies. "
    caption = "p50 of one inference at batch 1. Below each figure: its ratio to float32 on the same device, which can be compared."
    return _table(run, "latency", "Latency, ms", none + caption, lines)


def _size(run: GuideRun) -> Table:
    lines = []
    for model in run.models:
        figures, measured = model.published.size_mb, {}
        for scheme, mb in model.size_mb.items():
            differs = [f"{(mb / figures[scheme] - 1) * 100:+.1f} %"] if scheme in figures else []
            measured[scheme] = (megabytes(round(mb * 1e6)), *differs, *_times(model.size_mb, scheme))
        lines.append(_Line(model, {scheme: (f"{mb:.1f}",) for scheme, mb in figures.items()}, measured))
    none = "" if any(line.published for line in lines) else "The guide's table gives no sizes. "
    caption = "Below each measured figure: its difference from the published one, and its ratio to the float32 file."
    return _table(run, "size", "Size, MB", none + caption, lines)


def _times(figures: Mapping[str, float], scheme: str) -> list[str]:
    ratios = to_float32(figures)
    return [f"{ratios[scheme]:.2f}×"] if scheme in ratios else []


def _table(run: GuideRun, id: str, title: str, caption: str, lines: Sequence[_Line]) -> Table:
    reasons: dict[str, int] = {}

    def empty(side: str, reason: str, mark: str = "", notes: tuple[str, ...] = ()) -> Figure:
        """A cell without a figure; equal reasons share a number."""
        return Figure(side, notes=notes, mark=mark, reason=reasons.setdefault(reason, len(reasons) + 1))

    two = {scheme for line in lines for scheme in line.published}
    rows = []
    for line in lines:
        cells = []
        for scheme in columns(run):
            side = "measured group"
            if scheme in two:
                side = "measured"
                main, *notes = line.published.get(scheme, ("",))
                cells.append(Figure("published group", main, tuple(notes)) if main else empty("published group", _NOT_PUBLISHED))
            # A figure that random weights touch says so in its own cell; an empty cell has none to touch.
            mark = line.model.marks.get(scheme, "") if line.model.row(scheme) is not None else ""
            if scheme in line.measured:
                main, *notes = line.measured[scheme]
                cells.append(Figure(side, main, tuple(notes), mark))
                continue
            reason = line.model.reason(scheme, id) or (_NOT_MEASURED if scheme in COLUMNS[run.table] else _OF_OTHERS)
            beside = line.beside.get(scheme, ())
            cells.append(empty(side, reason, mark if beside else "", beside))
        rows.append((line.model.title, line.note, line.model.failure is not None, cells))
    groups = tuple(
        (pareto.scheme_name(scheme), ("published", "measured") if scheme in two else ("measured",)) for scheme in columns(run)
    )
    return Table(id, title, caption, groups, tuple(rows), tuple(reasons))


def _agrees(row: Measurement) -> tuple[str, ...]:
    if row.agreement is None or row.scheme == "float32":
        return ()
    share = f"agrees in {_percent(row.agreement.value * 100)} %"
    return (share,) if row.metric and row.metric.total == row.agreement.total else (share, f"of {row.agreement.total}")


def _percent(value: float) -> str:
    """With one decimal, or two where the second is not zero."""
    return text[:-1] if (text := f"{value:.2f}").endswith("0") else text
