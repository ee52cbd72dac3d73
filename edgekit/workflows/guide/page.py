"""A run of the guide as one self-contained HTML page: published and measured side by side, and what keeps them apart."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edgekit.measure.measurement import Measurement
from edgekit.report.content import megabytes, milliseconds
from edgekit.report.html import render
from edgekit.report.table import MISSING, entries
from edgekit.workflows.guide import pareto, picture
from edgekit.workflows.guide.published import COLUMNS, SOURCE, Metric
from edgekit.workflows.guide.results import GuideModel, GuideRun, columns, differences

_TOP_1 = "top-1"
_NOT_PUBLISHED = "The guide gives no figure here."
_NOT_MEASURED = "Not measured in this run."


@dataclass(frozen=True)
class Figure:
    """One cell: a figure with `notes` below it, or none and the number of the `reason` that stands under the table.

    `mark` says what the figure must not be read without, such as random weights.
    """

    main: str = MISSING
    notes: tuple[str, ...] = ()
    mark: str = ""
    reason: int | None = None


@dataclass
class Table:
    """Rows of models by groups of columns, one group for each scheme: published and measured, or measured alone."""

    id: str
    title: str
    caption: str
    groups: tuple[tuple[str, tuple[str, ...]], ...]
    rows: list[tuple[str, str, bool, list[Figure]]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    @property
    def heads(self) -> list[tuple[str, tuple[str, ...]]]:
        """The groups, each under its scheme's name."""
        return [(pareto.scheme_name(scheme), sides) for scheme, sides in self.groups]

    @property
    def sides(self) -> list[tuple[str, bool]]:
        """Of each column which side it shows, and whether it is its group's first."""
        return [(side, number == 0) for _, sides in self.groups for number, side in enumerate(sides)]

    def empty(self, reason: str, mark: str = "", notes: tuple[str, ...] = ()) -> Figure:
        """A cell without a figure; equal reasons share a number."""
        if reason not in self.reasons:
            self.reasons.append(reason)
        return Figure(reason=self.reasons.index(reason) + 1, mark=mark, notes=notes)


def page(run: GuideRun) -> str:
    """The run and the decision tree as an HTML document, every name and sentence in it escaped."""
    from markupsafe import Markup

    # matplotlib escapes the names that it writes into the SVG.
    fronts = [
        (model.title, _front_caption(model, found), Markup(pareto.draw_pareto(model, found)))
        for model in run.models
        if (found := pareto.pareto(model)) is not None
    ]
    sizes, ratios = pareto.sizes(run), pareto.ratios(run)
    beside = any(pair.published is not None for pair in sizes)
    narrow = ": measured wide and pale, published narrow inside it; the figures in the same order" if beside else " as measured"
    hollow = " Full: measured, hollow: published." if any(pair.published is not None for pair in ratios) else ""
    drawn = [
        ("Size", f"MB of the file{narrow}.", Markup(pareto.draw_sizes(sizes))),
        (
            "Latency relative to float32",
            f"Left of 1 is faster than the model's own float32 file on the same device.{hollow}",
            Markup(pareto.draw_ratios(ratios)),
        ),
    ]
    return render(
        "guide/page.html.j2",
        title=f"The TensorFlow Lite guide's Table {run.table}, published and measured",
        source=SOURCE,
        circumstances=[
            (name, value) for name, value in (("Machine", run.machine), ("Data", run.data), ("Date", run.date[:10])) if value
        ],
        failures=[f"{model.title}: {model.failure}" for model in run.models if model.failure],
        tables=[_quality(run), _latency(run), _size(run)],
        fronts=fronts,
        plots=[plot for plot in drawn if plot[-1]],
        differences=differences(run),
        models=[_described(model) for model in run.models],
        settings=entries({str(name).replace("_", " ").capitalize(): value for name, value in run.settings.items()}),
        tree=Markup(picture.svg()),
    )


def _front_caption(model: GuideModel, found: pareto.Pareto) -> str:
    """What the picture shows, and the marks of the files in it."""
    better = "Down and to the left is better" if found.quality == pareto.SIZE else "Up and to the left is better"
    told = {
        pareto.ACCURACY: "Bars are 95 % intervals.",
        pareto.AGREEMENT: "The share of decisions that are float32's own, since no accuracy was measured.",
        pareto.SIZE: "Size, since neither accuracy nor agreement is known.",
    }[found.quality]
    marked: dict[str, list[str]] = {}
    for point in found.points:
        if mark := model.marks.get(point.scheme):
            marked.setdefault(mark, []).append(pareto.scheme_name(point.scheme))
    # Where files differ in what marks them, each mark names its own.
    marks = [f"{mark[:1].upper()}{mark[1:]}{_among(names) if len(marked) > 1 else ''}." for mark, names in marked.items()]
    return " ".join((*marks, f"{better}; filled points are the Pareto front.", told))


def _among(names: Sequence[str]) -> str:
    return f" ({'; '.join(names)})"


def _quality(run: GuideRun) -> Table:
    table = _table(
        run,
        "accuracy",
        "Accuracy",
        "In the guide's own metric for each model. Below a measured figure: its 95 % interval, its rows, and in how many of "
        "its decisions the file agrees with float32.",
        any_published=lambda model, scheme: any(scheme in metric.values for metric in model.published.metrics),
    )
    for model in run.models:
        for metric in model.published.metrics:

            def published(scheme: str, metric: Metric = metric) -> str | None:
                value = metric.values.get(scheme)
                return None if value is None else _percent(value if metric.unit == "%" else value * 100)

            def measured(row: Measurement, model: GuideModel = model, metric: Metric = metric) -> tuple[str, ...] | None:
                share = row.accuracy if metric.name == _TOP_1 else None
                if share is None:
                    return None
                interval = f"{share.low * 100:.1f}–{share.high * 100:.1f}"
                whole = f" of {model.judged_rows}" if share.total < (model.judged_rows or 0) else ""
                return _percent(share.value * 100), interval, f"{share.total}{whole} rows", *_agrees(row)

            name = f"{metric.name}, %" if metric.higher_is_better else f"{metric.name}, % (less is better)"
            _add(table, run, model, name, "accuracy", published, measured, otherwise=_agrees)
    return table


def _latency(run: GuideRun) -> Table:
    none = not any(model.published.latency_ms for model in run.models)
    table = _table(
        run,
        "latency",
        "Latency, ms",
        ("The guide's table gives no latencies. " if none else "")
        + "p50 of one inference at batch 1. Below each figure: its ratio to float32 on the same device, which can be compared.",
        any_published=lambda model, scheme: scheme in model.published.latency_ms,
    )
    for model in run.models:
        base = model.published.latency_ms.get("float32")

        def published(scheme: str, model: GuideModel = model, base: float | None = base) -> tuple[str, ...] | None:
            value = model.published.latency_ms.get(scheme)
            if value is None:
                return None
            return f"{value:g}", *([f"{value / base:.2f}×"] if base and scheme != "float32" else [])

        def measured(row: Measurement, model: GuideModel = model) -> tuple[str, ...] | None:
            if row.latency is None:
                return None
            ratio = pareto.latency_ratio(model, row.scheme or "") if row.scheme != "float32" else None
            few = [f"{row.latency.runs} runs"] if row.latency.runs < 10 else []
            return milliseconds(row.latency.p50_ms), *([f"{ratio:.2f}×"] if ratio else []), *few

        _add(table, run, model, "", "latency", published, measured)
    return table


def _size(run: GuideRun) -> Table:
    none = not any(model.published.size_mb for model in run.models)
    table = _table(
        run,
        "size",
        "Size, MB",
        ("The guide's table gives no sizes. " if none else "")
        + "Below each measured figure: its difference from the published one, and its ratio to the float32 file.",
        any_published=lambda model, scheme: scheme in model.published.size_mb,
    )
    for model in run.models:
        base = model.row("float32")

        def published(scheme: str, model: GuideModel = model) -> str | None:
            value = model.published.size_mb.get(scheme)
            return None if value is None else f"{value:.1f}"

        def measured(row: Measurement, model: GuideModel = model, base: Measurement | None = base) -> tuple[str, ...] | None:
            beside = model.published.size_mb.get(row.scheme or "")
            differs = [f"{(row.size_bytes / 1e6 / beside - 1) * 100:+.1f} %"] if beside else []
            ratio = [f"{row.size_bytes / base.size_bytes:.2f}×"] if base and base.size_bytes and base is not row else []
            return megabytes(row.size_bytes), *differs, *ratio

        _add(table, run, model, "", "size", published, measured)
    return table


def _table(run: GuideRun, id: str, title: str, caption: str, any_published: Callable[[GuideModel, str], bool]) -> Table:
    groups = [
        (scheme, ("published", "measured") if any(any_published(model, scheme) for model in run.models) else ("measured",))
        for scheme in columns(run)
    ]
    return Table(id, title, caption, tuple(groups))


def _add(
    table: Table,
    run: GuideRun,
    model: GuideModel,
    note: str,
    figure: str,
    published: Callable[[str], str | tuple[str, ...] | None],
    measured: Callable[[Measurement], tuple[str, ...] | None],
    otherwise: Callable[[Measurement], Sequence[str]] = lambda row: (),
) -> None:
    """One model's row; `published` and `measured` give a figure and its notes, `otherwise` notes where there is no figure."""
    cells = []
    for scheme, sides in table.groups:
        if "published" in sides:
            given = published(scheme)
            parts = (given,) if isinstance(given, str) else given
            cells.append(Figure(parts[0], tuple(parts[1:])) if parts else table.empty(_NOT_PUBLISHED))
        row = model.row(scheme)
        found = measured(row) if row is not None else None
        # A figure that random weights touch says so in its own cell; an empty cell has none to touch.
        mark = model.marks.get(scheme, "") if row is not None else ""
        if found:
            cells.append(Figure(found[0], tuple(found[1:]), mark))
        else:
            reason = model.reason(scheme, figure) or (row.failure if row is not None else None) or _unplanned(run, scheme)
            notes = tuple(otherwise(row)) if row is not None else ()
            cells.append(table.empty(reason, mark if notes else "", notes))
    table.rows.append((model.title, note, model.failure is not None, cells))


def _unplanned(run: GuideRun, scheme: str) -> str:
    return _NOT_MEASURED if scheme in COLUMNS[run.table] else "Not asked for with this model."


def _agrees(row: Measurement) -> tuple[str, ...]:
    if row.agreement is None or row.scheme == "float32":
        return ()
    told = f"agrees in {_percent(row.agreement.value * 100)} %"
    return (told,) if row.accuracy and row.accuracy.total == row.agreement.total else (told, f"of {row.agreement.total}")


def _described(model: GuideModel) -> tuple[str, str]:
    cost = [f"{model.seconds:.0f} s"] if model.seconds is not None else []
    cost += [f"{model.peak_bytes / 1e9:.1f} GB at most to convert"] if model.peak_bytes is not None else []
    return model.title, f"{model.weights} ({', '.join(cost)})" if cost else model.weights


def _percent(value: float) -> str:
    """With one decimal, or two where the second is not zero."""
    return text[:-1] if (text := f"{value:.2f}").endswith("0") else text
