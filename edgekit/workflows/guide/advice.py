"""An answer of the decision tree for people: on the terminal, and as one self-contained page."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.report import plots
from edgekit.report.content import Report
from edgekit.report.html import render
from edgekit.report.table import columns, failures, remarks
from edgekit.report.table import terminal as table
from edgekit.workflows.guide.decision_tree import VALUES, Candidate, Question, Recommendation, allowance
from edgekit.workflows.guide.picture import svg
from edgekit.workflows.guide.targets import TARGETS, Hardware

if TYPE_CHECKING:
    from rich.console import Group


@dataclass(frozen=True)
class Advice:
    """The answer of `edgekit advise`. `assumed` lists the defaults of what was not said, `next` is what to do, in order.

    `needs` are what the target asks, `source` and `read` where its list of ops comes from; `report` holds the figures."""

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
        answer, target = self.recommendation, TARGETS[self.question.hardware]
        return f"{self.model} on {target.title}: {f'take {answer.leaf}' if answer.taken else answer.title}"

    @property
    def usable(self) -> bool:
        """Whether there is a file for the target, be it only until a better one is made."""
        answer = self.recommendation
        return answer.taken or (answer.candidate is not None and not TARGETS[self.question.hardware].integer_only)

    @property
    def in_the_way(self) -> tuple[str, ...]:
        """Which ops, and what of its inputs and outputs, keep the file from the target; that there are none is said as well."""
        target, candidate = TARGETS[self.question.hardware], self.recommendation.candidate
        fit = candidate.fit if candidate is not None else None
        # Of a CPU there is no list.
        if fit is None or target.ops is None:
            return ()
        lines = [*map(str, fit.obstacles), *fit.interface]
        if self.question.hardware is Hardware.MICROCONTROLLER:
            lines.append(f"arena: at least {fit.arena_bytes:,} bytes for the tensors that are alive at one time")
        if not fit.obstacles:
            return (f"none: all {fit.ops} ops are on the target's list", *lines)
        return (f"{fit.in_the_way} of {fit.ops} ops, which {target.elsewhere}", *lines)


def terminal(advice: Advice) -> "Group":
    """The answer as a rich renderable."""
    from rich.console import Group, RenderableType
    from rich.padding import Padding
    from rich.text import Text

    answer = advice.recommendation
    parts: list[RenderableType] = [Text(advice.headline, style="bold"), Padding(Text(answer.reason), (0, 0, 0, 2))]

    def section(title: str, lines: list[Text]) -> None:
        if lines:
            parts.extend([Text(f"\n{title}", style="bold"), *(Padding(line, (0, 0, 0, 2)) for line in lines)])

    section("The way there", [Text(f"{s.question} {s.answer}").append(f"\n  {s.decided_by}", style="dim") for s in answer.path])
    section("Not taken", [Text(f"{item.name} ({item.verdict}): {item.why}") for item in answer.passed])
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

    report, question = advice.report, advice.question
    circumstances = {
        "Model": advice.model,
        "Target": TARGETS[question.hardware].title,
        "Need": str(question.need),
        "Allowed" if question.metric == VALUES else "May lose": allowance(question),
        "Data": report.data,
        "Machine": report.machine,
        "Assumed": "; ".join(advice.assumed),
    }
    # What a scheme is in the guide's words stands in the tree; a phone has no room for it here as well.
    first, *others = columns(report)
    return render(
        "workflows/guide/advice.html.j2",
        advice=advice,
        answer=advice.recommendation,
        report=report,
        circumstances=[(name, value) for name, value in circumstances.items() if value],
        tree=Markup(svg(advice.recommendation.path, advice.model, question.metric)),
        scatter=Markup(plots.scatter(report)),
        columns=[first, *(column for column in others if column.numeric)],
        failed=[row.failure is not None for row in report.rows],
        notes=(*remarks(report), *failures(report)),
    )
