"""The decision tree as one SVG: every question and answer, the path that was taken set off from the rest."""

import itertools
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from edgekit.workflows.guide.decision_tree import LEAVES, ROOT, TREE, Step

# Pixels. As wide as a phone shows, so that text keeps its size there; a page may not draw it wider.
WIDTH = 400
_INDENT, _LINE, _GAP, _PADDING = 14, 17, 7, 5
_CHARACTER = 7.2  # of 12.5 px bold text, on average; a little more than it takes, since fonts differ
_INK, _MUTED, _RULE = "var(--ink, #1b1e23)", "var(--muted, #5f6671)", "var(--line, #c9ced6)"
_ACCENT, _BAND = "var(--accent, #2f6db3)", "var(--band, #f5f6f8)"


@dataclass(frozen=True)
class _Row:
    """One answer with what it leads to: a question, or a leaf. `lines` are of the text, `taken` marks the path."""

    depth: int
    answer: str
    lines: tuple[str, ...]
    leaf: bool
    taken: bool
    parent: int


def svg(path: Sequence[Step] = (), name: str = "", metric: str = "accuracy") -> str:
    """The tree as an `<svg>` element, `path` set off; `name` is of the model, for who cannot see it."""
    rows = list(_rows({step.node: step.answer for step in path}, metric))
    tops = list(itertools.accumulate((_height(row) + _GAP for row in rows), initial=2.0))
    height = round(tops[-1] - _GAP + 2)
    # What is taken lies over what is not.
    order = sorted(range(len(rows)), key=lambda number: rows[number].taken)
    drawn = [_edge(rows, tops, number) for number in order if rows[number].depth] + [_box(rows[n], tops[n]) for n in order]
    words = f"Decision tree{f' for {name}' if name else ''}: " + "; ".join(f"{step.question} {step.answer}" for step in path)
    return (
        f'<svg role="img" aria-label="{escape(words)}" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="system-ui, sans-serif" font-size="12.5">{"".join(drawn)}</svg>'
    )


def _rows(taken: dict[str, str], metric: str) -> Iterator[_Row]:
    """Depth first, so that what follows from an answer stands below it."""
    stack = [(0, "", ROOT, ROOT in taken, -1)]
    number = 0
    while stack:
        depth, answer, place, on_path, parent = stack.pop()
        leaf = place in LEAVES
        text = LEAVES[place] if leaf else TREE[place].question.format(metric=metric)
        room = WIDTH - 2 - depth * _INDENT - 2 * _PADDING - 4
        words = f"{answer} → {text}" if answer and answer != place else text
        yield _Row(depth, answer, tuple(textwrap.wrap(words, int(room / _CHARACTER))), leaf, on_path, parent)
        if not leaf:
            options: dict[str, list[str]] = {}
            for option, to in TREE[place].answers.items():
                options.setdefault(to, []).append(option)
            for to, leading in reversed(options.items()):
                stack.append((depth + 1, " or ".join(leading), to, on_path and taken.get(place) in leading, number))
        number += 1


def _height(row: _Row) -> float:
    return len(row.lines) * _LINE + 2 * _PADDING


def _box(row: _Row, top: float) -> str:
    left = 1 + row.depth * _INDENT
    width = WIDTH - 1 - left
    end = row.taken and row.leaf
    fill = _ACCENT if end else _BAND if row.taken else "none"
    stroke = _ACCENT if row.taken else _RULE
    ink = "var(--page, #ffffff)" if end else _INK if row.taken else _MUTED
    weight = ' font-weight="600"' if row.taken else ""
    frame = (
        f'<rect x="{left}" y="{top}" width="{width}" height="{_height(row)}" rx="{9 if row.leaf else 2}" '
        f'fill="{fill}" stroke="{stroke}" stroke-width="{1.6 if row.taken else 0.8}"/>'
    )
    lines = "".join(
        # A page may draw an edge around text in its own colour, which would hide text on the accent.
        f'<text x="{left + _PADDING + 2}" y="{top + _PADDING + 12.5 + place * _LINE}" fill="{ink}"{weight} style="stroke:none">'
        f"{escape(line)}</text>"
        for place, line in enumerate(row.lines)
    )
    return frame + lines


def _edge(rows: Sequence[_Row], tops: Sequence[float], number: int) -> str:
    row, parent = rows[number], rows[number].parent
    x = 1 + rows[parent].depth * _INDENT + _INDENT / 2
    y = tops[number] + _height(row) / 2
    return (
        f'<path d="M{x} {tops[parent] + _height(rows[parent])}V{y}H{1 + row.depth * _INDENT}" fill="none" '
        f'stroke="{_ACCENT if row.taken else _RULE}" stroke-width="{2.2 if row.taken else 0.8}"/>'
    )
