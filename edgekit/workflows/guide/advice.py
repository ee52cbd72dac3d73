"""An answer of the decision tree for people: on the terminal, and as one self-contained page."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.report import plots
from edgekit.report.content import Report
from edgekit.report.html import render
from edgekit.report.table import columns, failures, remarks
from edgekit.report.table import terminal as table
from edgekit.workflows.guide.decision_tree import Candidate, Question, Recommendation, points
from edgekit.workflows.guide.picture import svg
from edgekit.workflows.guide.targets import TARGETS, Fit, Hardware

if TYPE_CHECKING:
    from rich.console import Group


@dataclass(frozen=True)
class Advice:
    """What `edgekit advise` found. `assumed` tells the defaults of what was not said, `next` is what to do, in order.

    `needs` are what the target asks, `source` and `read` where its list of ops comes from; `report` holds the figures.
    """

    model: str
    question: Question
    assumed: tuple[str, ...]
    recommendation: Recommendation
    candidates: tuple[Candidate, ...]
    needs: tuple[str, ...]
    source: str
    read: str
    next: tuple[str, ...]
    report: Report

    @property
    def headline(self) -> str:
        found = self.recommendation
        taken = f"take {found.leaf}" if found.taken else found.title
        return f"{self.model} on {TARGETS[self.question.hardware].title}: {taken}"

    @property
    def usable(self) -> bool:
        """Whether there is a file for the target, be it only until a better one is made."""
        found = self.recommendation
        return found.taken or (found.candidate is not None and not TARGETS[self.question.hardware].integer_only)

    @property
    def fit(self) -> Fit | None:
        """Of the file that the tree ended at; of a CPU there is no list."""
        candidate = self.recommendation.candidate
        return candidate.fit if candidate is not None and TARGETS[self.question.hardware].ops is not None else None

    @property
    def in_the_way(self) -> tuple[str, ...]:
        """Which ops, and what of its inputs and outputs, keep the file from the target; that there are none is said as well."""
        if self.fit is None:
            return ()
        target = TARGETS[self.question.hardware]
        told = [str(obstacle) for obstacle in self.fit.obstacles] + list(self.fit.interface)
        if self.question.hardware is Hardware.MICROCONTROLLER:
            told.append(f"arena: at least {self.fit.arena_bytes:,} bytes for the tensors that are alive at one time")
        if not self.fit.obstacles:
            return (f"none: all {self.fit.ops} ops are on the target's list", *told)
        return (f"{self.fit.in_the_way} of {self.fit.ops} ops, which {target.elsewhere}", *told)


def terminal(advice: Advice) -> "Group":
    """The answer as a rich renderable."""
    from rich.console import Group, RenderableType
    from rich.padding import Padding
    from rich.text import Text

    found = advice.recommendation
    parts: list[RenderableType] = [Text(advice.headline, style="bold"), Padding(Text(found.reason), (0, 0, 0, 2))]

    def section(title: str, lines: list[Text]) -> None:
        if lines:
            parts.extend([Text(f"\n{title}", style="bold"), *(Padding(line, (0, 0, 0, 2)) for line in lines)])

    section("The way there", [Text(f"{s.question} {s.answer}").append(f"\n  {s.decided_by}", style="dim") for s in found.path])
    section("Not taken", [Text(f"{item.name} ({item.verdict}): {item.why}") for item in found.passed])
    section(f"What the {advice.question.hardware} needs", [Text(line) for line in advice.needs])
    section("In the way there", [Text(line) for line in advice.in_the_way])
    # The report's own findings rank by other limits than were asked for here, so only its table is shown.
    parts += [Text(""), table(advice.report).renderables[0]]
    section("Notes", [Text(line, style="dim") for line in (*remarks(advice.report), *failures(advice.report))])
    section("Assumed, since it was not said", [Text(line) for line in advice.assumed])
    section("Next", [Text(line) for line in advice.next])
    return Group(*parts)


def page(advice: Advice) -> str:
    """The answer as an HTML document without script, font or image from elsewhere; every name and sentence is escaped."""
    from markupsafe import Markup

    report = advice.report
    # What a scheme is in the guide's words stands in the tree; a phone has no room for it here as well.
    first, *others = columns(report)
    return render(
        "guide/advice.html.j2",
        advice=advice,
        found=advice.recommendation,
        report=report,
        circumstances=[(name, value) for name, value in _circumstances(advice) if value],
        tree=Markup(svg(advice.recommendation.path, advice.model)),
        scatter=Markup(plots.scatter(report)),
        columns=[first, *(column for column in others if column.numeric)],
        failed=[row.failure is not None for row in report.rows],
        notes=(*remarks(report), *failures(report)),
    )


def _circumstances(advice: Advice) -> list[tuple[str, str]]:
    question = advice.question
    return [
        ("Model", advice.model),
        ("Target", TARGETS[question.hardware].title),
        ("Need", str(question.need)),
        ("May lose", points(question.max_drop)),
        ("Data", advice.report.data),
        ("Machine", advice.report.machine),
        ("Assumed", "; ".join(advice.assumed)),
    ]
