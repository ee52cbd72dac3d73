"""A walk through the decision tree: facts and figures in, a path and a recommendation out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgekit.errors import RefusedError
from edgekit.report.content import megabytes, milliseconds
from edgekit.stages.quantize.schemes import SCHEMES
from edgekit.workflows.guide.decision_tree import (
    LEAVES,
    ROOT,
    SIMPLEST_FIRST,
    TREE,
    Candidate,
    Data,
    Need,
    Passed,
    Question,
    Recommendation,
    Step,
    points,
)
from edgekit.workflows.guide.targets import TARGETS, Hardware

# Within these shares two figures are the same for all that one run can tell; then the simpler scheme is taken.
SAME_P50 = 0.10
SAME_SIZE = 0.05
# Above this share of ops that a target hands back, it is not that target that runs the model.
_MOST_HANDED_BACK = 0.5
_SHOWN = 4  # kinds of ops in one sentence


def recommend(question: Question, candidates: Sequence[Candidate]) -> Recommendation:
    """Walk the tree. Raises `RefusedError` if every candidate was refused or did not run."""
    if not any(candidate.usable for candidate in candidates):
        reasons = [f"{item.name}: {item.refused or (item.measurement and item.measurement.failure)}" for item in candidates]
        raise RefusedError(
            f"no scheme gave a file that may be used ({'; '.join(reasons) or 'nothing was converted'}); convert float32 alone and "
            f"compare it with its source, or give another --bridge"
        )
    return _Walk(question, candidates).from_root()


class _Walk:
    """One walk through the tree; each node is answered by the method `_` + its name."""

    def __init__(self, question: Question, candidates: Sequence[Candidate]) -> None:
        self.question = question
        self.all = sorted(candidates, key=lambda item: SIMPLEST_FIRST.index(item.name))
        self.ran = [item for item in self.all if item.ran]
        self.usable = [item for item in self.ran if item.usable]
        self.reference = next((item for item in self.ran if item.name == "float32"), None)
        self.target = TARGETS[question.hardware]
        self.chosen: Candidate | None = None
        self.lost: dict[str, Passed] = {}
        self.steps: list[Step] = []

    def from_root(self) -> Recommendation:
        place = ROOT
        while place in TREE:
            answer, decided_by = getattr(self, f"_{place.replace(' ', '_')}")()
            self.steps.append(Step(place, TREE[place].question, answer, decided_by))
            place = TREE[place].answers[answer]
        leaf = LEAVES[place]
        if leaf.scheme is not None or self.chosen is not None:
            passed = [self._passed(item) for item in self.all if item is not self.chosen]
        else:
            passed = [self._passed(item) for item in self.all]
        missing = [name for name in SCHEMES if not any(item.scheme == name for item in self.all)]
        passed += [self._missing(name) for name in missing]
        return Recommendation(place, leaf.title, self.chosen, self._reason(place), tuple(self.steps), tuple(passed))

    # The questions, in the order of the tree.

    def _hardware(self) -> tuple[str, str]:
        kinds = {Hardware.CPU: "CPU", Hardware.GPU: "GPU"}
        return kinds.get(self.question.hardware, "Edge TPU, Hexagon or microcontroller"), f"asked for: {self.target.title}"

    def _data(self) -> tuple[str, str]:
        if self.question.data is Data.NONE:
            judged = any(self._loss(item) is not None for item in self.ran)
            return "none", "0 rows to calibrate on" + (f", judged on {self.question.data_described}" if judged else "")
        return "rows to calibrate on", self.question.data_described or f"{self.question.data} data"

    def _free(self) -> tuple[str, str]:
        pool = [item for item in self.usable if not item.needs_data and not item.integer_only and self._keeps(item)]
        if not pool:
            told = "; ".join(self._why_not(item) for item in self.ran if not item.needs_data)
            return "none", f"{told or '0 such files ran'}; {self._allowed()}"
        if self.question.need is Need.ACCURACY:
            for item in (unknown := [item for item in pool if item.scheme == "dynamic" and self._loss(item) is None]):
                why = f"without rows nobody can tell what 8-bit weights lose; {self._figures(item)}"
                self.lost[item.name] = Passed(item.name, "loss unknown", why)
            pool = self._certain([item for item in pool if item not in unknown] or pool)
        return self._best(pool)

    def _quantized(self) -> tuple[str, str]:
        eight = [item for item in self.ran if SCHEMES[item.scheme].weights == "int8"]
        # Training mends a loss, not slowness: where none gains anything, what they lose is not the question. Nor is it without
        # labels to train on: then any that keeps the accuracy will do.
        gaining = [item for item in eight if self._gains(item)] if self.question.data is Data.LABELLED else []
        relevant = gaining or eight
        if keeping := [item for item in relevant if self._keeps(item)]:
            return self._kept(keeping), "; ".join(f"{item.name} {self._loss_words(item)}" for item in keeping)
        told = "; ".join(self._why_not(item) for item in relevant) or "0 quantized files ran"
        return "no", f"{told}; {self._allowed()}"

    def _measured(self) -> tuple[str, str]:
        pool = [item for item in self.usable if self._keeps(item)]
        if any(item.name == "int8" for item in pool):
            for item in pool:
                if item.integer_only:
                    why = (
                        f"integers at both ends: its p50 of {milliseconds(item.p50_ms)} ms leaves out what its caller must convert"
                    )
                    self.lost[item.name] = Passed(item.name, "for accelerators", why)
            pool = [item for item in pool if not item.integer_only]
        return self._best(self._certain(pool) if self.question.need is Need.ACCURACY else pool)

    def _certain(self, pool: list[Candidate]) -> list[Candidate]:
        """Those of `pool` that keep the accuracy by all that their rows rule out; all of it if there is none."""
        for item in (unsure := [item for item in pool if self._highest(item) > self.question.max_drop]):
            why = f"{self._loss_words(item)}: more than {_points(self.question.max_drop)} cannot be ruled out"
            self.lost[item.name] = Passed(item.name, "loss not ruled out", why)
        return [item for item in pool if item not in unsure] or pool

    def _labels(self) -> tuple[str, str]:
        if self.question.data is not Data.LABELLED:
            return "no", self.question.data_described or "0 labels"
        if keeping := [item for item in self.usable if self._keeps(item) and not item.integer_only]:
            self._best(keeping)
        return "yes", self.question.data_described or "labelled rows"

    def _floats(self) -> tuple[str, str]:
        if floats := [item for item in self.usable if SCHEMES[item.scheme].weights != "int8" and self._keeps(item)]:
            return self._best(floats)
        self.chosen = min(self.usable, key=lambda item: self._loss(item) or 0.0)
        return "neither was measured", f"{self.chosen.name} {self._loss_words(self.chosen)}"

    def _half(self) -> tuple[str, str]:
        half = next((item for item in self.ran if item.scheme == "float16"), None)
        if half is not None and self._keeps(half):
            self.chosen = half
            return self._kept([half]), f"float16 {self._loss_words(half)}"
        if self.reference is None or not self.reference.usable:
            return "neither was measured", f"0 of {len(self.all)} files are in float32, or in a float16 that keeps the accuracy"
        self.chosen = self.reference
        return "no", f"float16 {self._loss_words(half)}; {self._allowed()}" if half else "0 float16 files ran"

    def _integer_data(self) -> tuple[str, str]:
        if self.question.data is Data.NONE:
            if any(item.brought for item in self.all):
                return "yes", "0 rows given, and none needed: the model brings the ranges that it was trained with"
            return "no", "0 rows given; integers need the range of every activation"
        return "yes", self.question.data_described or f"{self.question.data} data"

    def _integers(self) -> tuple[str, str]:
        tried = [item for item in self.all if item.scheme == "int8"]
        whole = [item for item in tried if item.ran and item.fit is not None and item.fit.float_ops == 0]
        if whole:
            # An interface of integers as well saves the conversions at both ends.
            self.chosen = min(
                whole, key=lambda item: (not item.usable, len(item.fit.interface) if item.fit else 0, not item.integer_only)
            )
            fit = self.chosen.fit
            return "yes", f"{self.chosen.name}: {fit.ops if fit else 0} ops, 0 of them in float"
        told = [f"{item.name}: {item.refused}" for item in tried if item.refused]
        told += [f"{item.name}: {item.fit.float_ops} of {item.fit.ops} ops in float" for item in tried if item.ran and item.fit]
        return "no", "; ".join(told) or "0 int8 files ran"

    def _ops(self) -> tuple[str, str]:
        fit = self.chosen.fit if self.chosen else None
        if fit is None:
            return "yes", "not known"
        told = f"{fit.ops - fit.in_the_way} of {fit.ops} ops"
        if fit.obstacles:
            more = f" and {len(fit.obstacles) - _SHOWN} kinds more" if len(fit.obstacles) > _SHOWN else ""
            told += f"; in the way: {', '.join(map(str, fit.obstacles[:_SHOWN]))}{more}, which {self.target.elsewhere}"
        stops = fit.in_the_way > 0 if fit.hardware is Hardware.MICROCONTROLLER else fit.in_the_way > _MOST_HANDED_BACK * fit.ops
        return ("no" if stops else "yes"), told

    def _integers_keep(self) -> tuple[str, str]:
        if self.chosen is None:
            return "no", "0 files ran"
        kept = self._kept([self.chosen]) if self._keeps(self.chosen) else "no"
        return kept, f"{self._loss_words(self.chosen)}; {self._allowed()}"

    def _integer_labels(self) -> tuple[str, str]:
        told = f"{self.question.data} data; {self.steps[-1].decided_by}"
        return "yes" if self.question.data is Data.LABELLED else "no", told

    def _room(self) -> tuple[str, str]:
        found, asked = [], self.question
        arena = self.chosen.fit.arena_bytes if self.chosen and self.chosen.fit else None
        size = self.chosen.size_bytes if self.chosen else 0
        for what, taken, room, name in (("file", size, asked.flash_bytes, "flash"), ("arena", arena, asked.ram_bytes, "RAM")):
            least = "at least " if what == "arena" else ""
            if taken is not None:
                found.append(f"{what} {least}{taken:,} bytes" + (f" of {room:,} bytes {name}" if room is not None else ""))
        short = asked.flash_bytes is not None and size > asked.flash_bytes
        short = short or (asked.ram_bytes is not None and arena is not None and arena > asked.ram_bytes)
        return "no" if short else "yes", ", ".join(found)

    # What the figures say.

    def _best(self, pool: list[Candidate]) -> tuple[str, str]:
        """Narrow `pool` to what is within the noise of its best, figure by figure; the simplest of those that are left is taken."""
        p50 = _Figure("slower", lambda item: item.p50_ms, SAME_P50)
        size = _Figure("larger", lambda item: float(item.size_bytes), SAME_SIZE)
        first = (size, p50) if self.question.need is Need.SIZE else (p50, size)
        left, dropped = list(pool), list[tuple[Candidate, str]]()
        for figure in (*first, _Figure("needs data", lambda item: float(item.needs_data), 0.0)):
            least = min(figure.of(item) for item in left)
            out = [item for item in left if figure.of(item) > least * (1 + figure.same)]
            dropped += [(item, figure.verdict) for item in out]
            left = [item for item in left if item not in out]
        self.chosen = left[0]
        dropped += [(item, "no better") for item in left[1:]]
        for item, verdict in dropped:
            self.lost[item.name] = Passed(item.name, verdict, self._against_chosen(item, verdict))
        close = [f"{item.name} is as good within the noise" for item, verdict in dropped if verdict in ("needs data", "no better")]
        return self.chosen.name, "; ".join([f"{self.question.need}: {self._figures(self.chosen)}", *close])

    def _against_chosen(self, item: Candidate, verdict: str) -> str:
        taken = self.chosen or item
        p50 = f"p50 {milliseconds(item.p50_ms)} ms against {milliseconds(taken.p50_ms)}"
        size = f"{megabytes(item.size_bytes)} MB against {megabytes(taken.size_bytes)}"
        if verdict == "slower":
            return f"{p50}: {item.p50_ms / taken.p50_ms:.2f}× that of {taken.name}"
        if verdict == "larger":
            return f"{size}: {item.size_bytes / max(taken.size_bytes, 1):.2f}× that of {taken.name}"
        same = f"within {SAME_P50:.0%} in p50 and {SAME_SIZE:.0%} in size of {taken.name}, which is noise ({p50} ms; {size})"
        return f"{same}, and needs data to calibrate on" if verdict == "needs data" else f"{same}, and does more to the model"

    def _passed(self, item: Candidate) -> Passed:
        taken = self.chosen
        if not item.ran:
            return Passed(item.name, "refused", item.refused or (item.measurement and item.measurement.failure) or "did not run")
        if item.refused and (self._loss(item) or 0.0) <= self.question.max_drop:
            return Passed(item.name, "refused", f"{item.refused}; {self._figures(item)}")
        if not self._keeps(item):
            return Passed(item.name, "loses", f"{self._loss_words(item)}; {self._allowed()}")
        if item.name in self.lost:
            return self.lost[item.name]
        if self.target.integer_only and item.fit is not None and item.fit.float_ops:
            share = f"{item.fit.float_ops} of its {item.fit.ops} ops are in float"
            if self.question.hardware is Hardware.MICROCONTROLLER:
                return Passed(item.name, "in float", f"{share}: {self.target.title} seldom has the room and the time for them")
            return Passed(item.name, "does not run there", f"{share}, and {self.target.title} runs integers only")
        if self.target.eight_bit and SCHEMES[item.scheme].activations == "int16":
            ops = f"{item.fit.in_the_way} of its {item.fit.ops} ops" if item.fit else megabytes(item.size_bytes) + " MB"
            return Passed(item.name, "does not run there", f"int16 activations, {ops} in the way: {self.target.title} takes 8 bits")
        if self.question.hardware is Hardware.GPU and taken is not None:
            size = f"{megabytes(item.size_bytes)} MB against {megabytes(taken.size_bytes)}"
            if item.scheme == "int16x8":
                return Passed(item.name, "does not run there", f"the GPU delegate takes no int16 activations; {size}")
            if SCHEMES[item.scheme].weights == "int8":
                why = f"a GPU computes in float, so integers are emulated there and save storage alone ({size})"
                return Passed(item.name, "no faster there", why)
            return Passed(item.name, "larger", f"{size}, and computes in the same float there")
        if taken is None:
            return Passed(item.name, "not what is asked", self._figures(item))
        if item.scheme == "int8":
            return Passed(item.name, "no better", f"{self._figures(item)}; {taken.name} has integers at both ends as well")
        verdict = "larger" if item.size_bytes > taken.size_bytes else "slower"
        return Passed(item.name, verdict, self._against_chosen(item, verdict))

    def _missing(self, name: str) -> Passed:
        if SCHEMES[name].needs_data and self.question.data is Data.NONE:
            return Passed(name, "needs data", "needs rows to calibrate on, and 0 were given")
        return Passed(name, "not measured", f"there is no {name} file among the {len(self.all)} that were measured")

    def _reason(self, leaf: str) -> str:
        decided = self.steps[-1].decided_by
        taken = self.chosen
        if LEAVES[leaf].scheme is not None and taken is not None:
            return f"{self._figures(taken)}{self._doubt(taken)}"
        if leaf == "quantization-aware training":
            worst = next(step.decided_by for step in reversed(self.steps) if step.node in ("quantized", "integers keep"))
            until = f"; until then {taken.name}: {self._figures(taken)}" if taken and not self.target.integer_only else ""
            return f"after training {worst}{until}"
        return decided

    def _figures(self, item: Candidate) -> str:
        here = "" if self.question.hardware is Hardware.CPU else " on the CPU here"
        parts = [f"p50 {milliseconds(item.p50_ms)} ms{here}", f"{megabytes(item.size_bytes)} MB"]
        if (base := self.reference) is not None and item is not base:
            parts[0] += f" ({item.p50_ms / base.p50_ms:.2f}× float32)"
            parts[1] += f" ({base.size_bytes / max(item.size_bytes, 1):.1f}× smaller)"
        if self._loss(item) is not None and item is not base:
            parts.append(self._loss_words(item))
        found = item.measurement
        if found is not None and found.partitions is not None:
            pieces = "1 partition" if found.partitions == 1 else f"{found.partitions} partitions"
            parts.append(f"{pieces} with {found.delegated_ops} of {found.ops} ops")
        return ", ".join(parts)

    def _loss(self, item: Candidate) -> float | None:
        """Accuracy lost, or the share of other decisions; None where no rows of the user's tell."""
        found = item.measurement
        if found is None or item.scheme == "float32":
            return None
        if found.drop is not None:
            return found.drop.value
        return 1 - found.agreement.value if found.agreement is not None else None

    def _keeps(self, item: Candidate) -> bool:
        return item.refused is None and (self._loss(item) or 0.0) <= self.question.max_drop

    def _kept(self, keeping: Sequence[Candidate]) -> str:
        """What is said of files that nothing speaks against: what was not judged keeps nothing for certain."""
        return "yes" if any(self._loss(item) is not None for item in keeping) else "not judged"

    def _highest(self, item: Candidate) -> float:
        """The greatest loss that the rows do not rule out."""
        found = item.measurement
        if found is None or self._loss(item) is None:
            return 0.0
        return found.drop.high if found.drop is not None else 1 - found.agreement.low if found.agreement is not None else 0.0

    def _gains(self, item: Candidate) -> bool:
        """Whether it is better than float32 in what is needed, by more than noise."""
        base = self.reference
        if base is None:
            return True
        if self.question.need is Need.SIZE:
            return item.size_bytes * (1 + SAME_SIZE) < base.size_bytes
        return item.p50_ms * (1 + SAME_P50) < base.p50_ms

    def _loss_words(self, item: Candidate) -> str:
        found = item.measurement
        if found is None or self._loss(item) is None:
            return f"was not judged, p50 {milliseconds(item.p50_ms)} ms"
        if (drop := found.drop) is not None:
            interval = f"{_points(drop.low)} to {_points(drop.high)} with 95 % confidence"
            return f"loses {_points(drop.value)} points ({interval}, {drop.total} rows)"
        if (same := found.agreement) is not None:
            return (
                f"decides otherwise on {100 * (1 - same.value):.1f} % of {same.total} rows (at most {100 * (1 - same.low):.1f} %)"
            )
        return "was not judged"

    def _unjudged(self) -> str:
        return "no rows were given" if self.question.data is Data.NONE else "one value a row chooses no class"

    def _why_not(self, item: Candidate) -> str:
        return f"{item.name} {self._loss_words(item)}{', and was refused' if item.refused else ''}"

    def _allowed(self) -> str:
        return f"{points(self.question.max_drop)} may be lost"

    def _doubt(self, item: Candidate) -> str:
        if self._loss(item) is None:
            return "" if item.scheme == "float32" else f"; what it loses was not judged: {self._unjudged()}"
        high = self._highest(item)
        return (
            f"; a loss of up to {_points(high)} points cannot be ruled out on so few rows" if high > self.question.max_drop else ""
        )


@dataclass(frozen=True)
class _Figure:
    """A figure to rank by, the less the better; within `same` of the least it is the same. `verdict` is said of the others."""

    verdict: str
    of: Callable[[Candidate], float]
    same: float


def _points(share: float) -> str:
    text = f"{100 * share:.1f}"
    return (text.lstrip("-") if float(text) == 0 else text).replace("-", "−")
