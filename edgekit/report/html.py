"""One self-contained HTML page: no script, no font and no image from anywhere else."""

from importlib.resources import files
from typing import Any

from edgekit import __version__
from edgekit.report import plots
from edgekit.report.content import Report
from edgekit.report.findings import findings
from edgekit.report.table import TIMINGS, columns, entries, failures, remarks, settings, timings

_LEARNING = "The mean training loss since the point before; at the end of each epoch, loss and {metric} on rows not trained on."


def page(report: Report) -> str:
    """The report as an HTML document; every name and sentence in it is escaped."""
    from markupsafe import Markup

    judged = plots.judged_by(report)[0].partition(", ")[0].partition(" with the ")[0].partition(" against the ")[0]
    level = "; dashed, the reference" if report.reference_row else ""
    packed = ", and inside it what gzip makes of it" if any(row.gzip_bytes is not None for row in report.rows) else ""
    # matplotlib escapes the names that it writes into the SVG.
    scatter, latency, sizes = (Markup(draw(report)) for draw in (plots.scatter, plots.latency, plots.sizes))
    spread = any(row.latency and row.latency.p99_ms is not None for row in report.rows)
    span = "From the median to the 99th percentile." if spread else "The median."
    drawn = (("Latency", span, latency), ("Size", f"The file as it is{packed}.", sizes))
    lessons = [
        (f"{curve.stage}: learning curve", _LEARNING.format(metric=curve.metric), Markup(plots.learning(curve)))
        for curve in report.curves
    ]
    kept = [
        (
            f"What {plan.version} kept",
            f"Full squares are heads that stayed, small ones those that went; the stronger the colour, the higher "
            f"the rank by {plan.method} importance. Beside them, the FFN units that stayed, in front of all there were.",
            Markup(plots.pruned(plan)),
        )
        for plan in report.pruned
    ]
    return render(
        "report/page.html.j2",
        report=report,
        circumstances=report.circumstances,
        columns=columns(report),
        timings_title=TIMINGS,
        timings=timings(report),
        settings=settings(report),
        training=entries(report.training or {}),
        findings=findings(report),
        remarks=remarks(report),
        failures=failures(report),
        failed=[row.failure is not None for row in report.rows],
        scatter=(f"{judged} against latency", f"Up and to the left is better. Bars are 95 % intervals{level}.", scatter),
        plots=[*(plot for plot in drawn if plot[-1]), *kept],
        curves=[plot for plot in lessons if plot[-1]],
    )


def table(report: Report) -> str:
    """The trade-off table alone, as a notebook shows it."""
    from markupsafe import Markup

    columned = columns(report)
    row = Markup("<tr>{}</tr>").format
    heads = row(Markup("").join(Markup("<th>{}</th>").format(column.title) for column in columned))
    cells = zip(*(column.cells for column in columned), strict=True)
    body = Markup("").join(
        row(Markup("").join(map(Markup("<td>{0.main}<br><small>{0.note}</small></td>").format, line))) for line in cells
    )
    return str(Markup("<table><caption>{}</caption>{}{}</table>").format(report.title, heads, body))


def render(template: str, **values: Any) -> str:
    """A template by its path inside the package, with every value escaped that is no markup; a missing one is an error."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    def source(name: str) -> str:
        return files("edgekit").joinpath(name).read_text(encoding="utf-8")

    environment = Environment(
        loader=FunctionLoader(source), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(version=__version__, **values)
