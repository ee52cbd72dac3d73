"""One self-contained HTML page: no script, no font and no image from anywhere else."""

from importlib.resources import files

from edgekit import __version__
from edgekit.report import plots
from edgekit.report.content import Report
from edgekit.report.findings import findings
from edgekit.report.table import columns, failures, pairs, remarks


def page(report: Report) -> str:
    """The report as an HTML document; every name and sentence in it is escaped."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("edgekit.report").joinpath("page.html.j2").read_text(encoding="utf-8"))
    judged = "Accuracy" if any(row.accuracy for row in report.rows) else "Agreement"
    drawn = (
        (f"{judged} against latency", "Up and to the left is better. Bars are 95 % intervals.", plots.scatter(report)),
        ("Latency", "From the median to the 99th percentile.", plots.latency(report)),
        ("Size", "The file as it is, and inside it what gzip makes of it.", plots.sizes(report)),
    )
    circumstances = [("Model", report.model), ("Data", report.data), ("Machine", report.machine)]
    return template.render(
        report=report,
        version=__version__,
        circumstances=[(name, value) for name, value in circumstances if value],
        columns=columns(report),
        settings=pairs(report.settings),
        training=pairs(report.training or {}),
        findings=findings(report),
        remarks=remarks(report),
        failures=failures(report),
        failed=[row.failure is not None for row in report.rows],
        # matplotlib escapes the names that it writes into the SVG.
        plots=[(title, caption, Markup(svg)) for title, caption, svg in drawn if svg],
    )
