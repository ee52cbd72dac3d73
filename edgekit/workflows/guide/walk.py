"""A walk through the decision tree: facts and figures in, a path and a recommendation out."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from edgekit.errors import RefusedError
from edgekit.measure.measurement import refusal
from edgekit.report.content import megabytes, milliseconds
from edgekit.stages.quantize.schemes import SCHEMES
from edgekit.workflows.guide import decision_tree as tree
from edgekit.workflows.guide.decision_tree import Candidate, Data, Need, Question, Recommendation
from edgekit.workflows.guide.targets import TARGETS, Hardware

# Within these shares two figures are the same for all that one run can tell; then the simpler scheme is taken.
SAME_P50, SAME_SIZE = 0.10, 0.05
# Above this share of ops that a target hands back, it is not that target that runs the model.
_MOST_HANDED_BACK = 0.5
_SHOWN = 4  # kinds of ops in one sentence


class _Figure(NamedTuple):
    """A figure to rank by, the less the better; within `same` of the least it is the same. `verdict` is said of the others."""

    verdict: str
    of: Callable[[Candidate], float]
    same: float


_P50 = _Figure("slower", lambda item: item.p50_ms, SAME_P50)
_SIZE = _Figure("larger", lambda item: float(item.size_bytes), SAME_SIZE)


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
        self.all = sorted(candidates, key=lambda item: tree.SIMPLEST_FIRST.index(item.name))
        self.ran = [item for item in self.all if item.ran]
        self.usable = [item for item in self.ran if item.usable]
        self.reference = next((item for item in self.ran if item.name == "float32"), None)
        self.target = TARGETS[question.hardware]
        self.chosen: Candidate | None = None
        self.lost: dict[str, tuple[str, str]] = {}
        self.steps: list[tree.Step] = []

    def from_root(self) -> Recommendation:
        place = tree.ROOT
        while place in tree.TREE:
            answer, decided_by = getattr(self, f"_{place.replace(' ', '_')}")()
            self.steps.append(tree.Step(place, tree.TREE[place].question.format(metric=self.question.metric), answer, decided_by))
            place = tree.TREE[place].answers[answer]
        passed = {item.name: self._verdict(item) for item in self.all if item is not self.chosen}
        passed |= {name: self._missing(name) for name in SCHEMES if not any(item.scheme == name for item in self.all)}
        others = tuple(tree.Passed(name, *verdict) for name, verdict in passed.items())
        return Recommendation(place, tree.LEAVES[place], self.chosen, self._reason(place), tuple(self.steps), others)

    @property
    def _rows(self) -> str:
        return self.question.data_described or f"{self.question.data} data"

    # The questions, in the order of the tree.

    def _hardware(self) -> tuple[str, str]:
        kinds = {Hardware.CPU: "CPU", Hardware.GPU: "GPU"}
        return kinds.get(self.question.hardware, "Edge TPU, Hexagon or microcontroller"), f"asked for: {self.target.title}"

    def _data(self) -> tuple[str, str]:
        if self.question.data is Data.NONE:
            judged = any(item.judged for item in self.ran)
            return "none", "0 rows to calibrate on" + (f", judged on {self.question.data_described}" if judged else "")
        return "rows to calibrate on", self._rows

    def _free(self) -> tuple[str, str]:
        pool = [item for item in self.usable if not item.needs_data and not item.integer_only and self._keeps(item)]
        if not pool:
            reasons = "; ".join(self._why_not(item) for item in self.ran if not item.needs_data)
            return "none", f"{reasons or '0 such files ran'}; {self._allowed()}"
        if self.question.need is Need.ACCURACY:
            for item in (unknown := [item for item in pool if item.scheme == "dynamic" and not item.judged]):
                why = f"without rows nobody can tell what 8-bit weights lose; {self._figures(item)}"
                self.lost[item.name] = "loss unknown", why
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
        reasons = "; ".join(self._why_not(item) for item in relevant) or "0 quantized files ran"
        return "no", f"{reasons}; {self._allowed()}"

    def _measured(self) -> tuple[str, str]:
        pool = [item for item in self.usable if self._keeps(item)]
        if any(item.name == "int8" for item in pool):
            for item in (strict := [item for item in pool if item.integer_only]):
                why = f"integers at both ends: its p50 of {milliseconds(item.p50_ms)} ms leaves out what its caller must convert"
                self.lost[item.name] = "for accelerators", why
            pool = [item for item in pool if item not in strict]
        return self._best(self._certain(pool) if self.question.need is Need.ACCURACY else pool)

    def _certain(self, pool: list[Candidate]) -> list[Candidate]:
        """Those of `pool` that keep the metric by all that their rows rule out; all of it if there is none."""
        for item in (unsure := [item for item in pool if self._highest(item) > self.question.max_drop]):
            why = f"{self._loss_words(item)}: more than {_points(self.question.max_drop)} cannot be ruled out"
            self.lost[item.name] = "loss not ruled out", why
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
        self.chosen = min(self.usable, key=self._loss)
        return "neither was measured", f"{self.chosen.name} {self._loss_words(self.chosen)}"

    def _half(self) -> tuple[str, str]:
        half = next((item for item in self.ran if item.scheme == "float16"), None)
        if half is not None and self._keeps(half):
            self.chosen = half
            return self._kept([half]), f"float16 {self._loss_words(half)}"
        if self.reference is None or not self.reference.usable:
            kept = f"in a float16 that keeps the {self.question.metric}"
            return "neither was measured", f"0 of {len(self.all)} files are in float32, or {kept}"
        self.chosen = self.reference
        return "no", f"float16 {self._loss_words(half)}; {self._allowed()}" if half else "0 float16 files ran"

    def _integer_data(self) -> tuple[str, str]:
        if self.question.data is Data.NONE:
            if any(item.brought for item in self.all):
                return "yes", "0 rows given, and none needed: the model brings the ranges that it was trained with"
            return "no", "0 rows given; integers need the range of every activation"
        return "yes", self._rows

    def _integers(self) -> tuple[str, str]:
        tried = [item for item in self.all if item.scheme == "int8"]
        if whole := [(item, item.fit) for item in tried if item.ran and item.fit is not None and item.fit.float_ops == 0]:
            # An interface of integers as well saves the conversions at both ends.
            ranked = sorted(whole, key=lambda pair: (not pair[0].usable, len(pair[1].interface), not pair[0].integer_only))
            self.chosen, fit = ranked[0]
            return "yes", f"{self.chosen.name}: {fit.ops} ops, 0 of them in float"
        reasons = [f"{item.name}: {item.refused}" for item in tried if item.refused]
        reasons += [f"{item.name}: {item.fit.float_ops} of {item.fit.ops} ops in float" for item in tried if item.ran and item.fit]
        return "no", "; ".join(reasons) or "0 int8 files ran"

    def _ops(self) -> tuple[str, str]:
        fit = self.chosen.fit if self.chosen else None
        if fit is None:
            return "yes", "not known"
        ops = f"{fit.ops - fit.in_the_way} of {fit.ops} ops"
        if fit.obstacles:
            more = f" and {len(fit.obstacles) - _SHOWN} kinds more" if len(fit.obstacles) > _SHOWN else ""
            ops += f"; in the way: {', '.join(map(str, fit.obstacles[:_SHOWN]))}{more}, which {self.target.elsewhere}"
        stops = fit.in_the_way > 0 if fit.hardware is Hardware.MICROCONTROLLER else fit.in_the_way > _MOST_HANDED_BACK * fit.ops
        return ("no" if stops else "yes"), ops

    def _integers_keep(self) -> tuple[str, str]:
        if self.chosen is None:
            return "no", "0 files ran"
        kept = self._kept([self.chosen]) if self._keeps(self.chosen) else "no"
        return kept, f"{self._loss_words(self.chosen)}; {self._allowed()}"

    def _integer_labels(self) -> tuple[str, str]:
        return "yes" if self.question.data is Data.LABELLED else "no", f"{self.question.data} data; {self.steps[-1].decided_by}"

    def _room(self) -> tuple[str, str]:
        arena = self.chosen.fit.arena_bytes if self.chosen and self.chosen.fit else None
        needs = [("file", self.chosen.size_bytes if self.chosen else 0, self.question.flash_bytes, "flash")]
        needs += [("arena at least", arena, self.question.ram_bytes, "RAM")] if arena is not None else []
        sizes = [
            f"{what} {size:,} bytes" + (f" of {room:,} bytes {place}" if room is not None else "")
            for what, size, room, place in needs
        ]
        short = any(room is not None and size > room for _, size, room, _ in needs)
        return "no" if short else "yes", ", ".join(sizes)

    # What the figures say.

    def _best(self, pool: list[Candidate]) -> tuple[str, str]:
        """Narrow `pool` to what is within the noise of its best, figure by figure; the simplest of those that are left is taken."""
        first = (_SIZE, _P50) if self.question.need is Need.SIZE else (_P50, _SIZE)
        best, dropped = list(pool), list[tuple[Candidate, str]]()
        for figure in (*first, _Figure("needs data", lambda item: float(item.needs_data), 0.0)):
            least = min(figure.of(item) for item in best)
            out = [item for item in best if figure.of(item) > least * (1 + figure.same)]
            dropped += [(item, figure.verdict) for item in out]
            best = [item for item in best if item not in out]
        self.chosen = best[0]
        dropped += [(item, "no better") for item in best[1:]]
        for item, verdict in dropped:
            self.lost[item.name] = verdict, self._against_chosen(item, verdict)
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

    def _verdict(self, item: Candidate) -> tuple[str, str]:
        """Of what was not taken: why, in a word or two and with the figures."""
        taken = self.chosen
        if not item.ran:
            return "refused", item.refused or (item.measurement and item.measurement.failure) or "did not run"
        if item.refused and self._loses(item) is None:
            return "refused", f"{item.refused}; {self._figures(item)}"
        if not self._keeps(item):
            return "loses", f"{self._loss_words(item)}; {self._allowed()}"
        if item.name in self.lost:
            return self.lost[item.name]
        if self.target.integer_only and item.fit is not None and item.fit.float_ops:
            share = f"{item.fit.float_ops} of its {item.fit.ops} ops are in float"
            if self.question.hardware is Hardware.MICROCONTROLLER:
                return "in float", f"{share}: {self.target.title} seldom has the room and the time for them"
            return "does not run there", f"{share}, and {self.target.title} runs integers only"
        if self.target.eight_bit and SCHEMES[item.scheme].activations == "int16":
            ops = f"{item.fit.in_the_way} of its {item.fit.ops} ops" if item.fit else megabytes(item.size_bytes) + " MB"
            return "does not run there", f"int16 activations, {ops} in the way: {self.target.title} takes 8 bits"
        if self.question.hardware is Hardware.GPU and taken is not None:
            size = f"{megabytes(item.size_bytes)} MB against {megabytes(taken.size_bytes)}"
            if item.scheme == "int16x8":
                return "does not run there", f"the GPU delegate takes no int16 activations; {size}"
            if SCHEMES[item.scheme].weights == "int8":
                return "no faster there", f"a GPU computes in float, so integers are emulated there and save storage alone ({size})"
            return "larger", f"{size}, and computes in the same float there"
        if taken is None:
            return "not what is asked", self._figures(item)
        if item.scheme == "int8":
            return "no better", f"{self._figures(item)}; {taken.name} has integers at both ends as well"
        verdict = "larger" if item.size_bytes > taken.size_bytes else "slower"
        return verdict, self._against_chosen(item, verdict)

    def _missing(self, name: str) -> tuple[str, str]:
        if SCHEMES[name].needs_data and self.question.data is Data.NONE:
            return "needs data", "needs rows to calibrate on, and 0 were given"
        return "not measured", f"there is no {name} file among the {len(self.all)} that were measured"

    def _reason(self, leaf: str) -> str:
        taken = self.chosen
        if leaf in tree.SIMPLEST_FIRST and taken is not None:
            return f"{self._figures(taken)}{self._doubt(taken)}"
        if leaf == "quantization-aware training":
            worst = next(step.decided_by for step in reversed(self.steps) if step.node in ("quantized", "integers keep"))
            until = f"; until then {taken.name}: {self._figures(taken)}" if taken and not self.target.integer_only else ""
            return f"after training {worst}{until}"
        return self.steps[-1].decided_by

    def _figures(self, item: Candidate) -> str:
        here = "" if self.question.hardware is Hardware.CPU else " on the CPU here"
        parts = [f"p50 {milliseconds(item.p50_ms)} ms{here}", f"{megabytes(item.size_bytes)} MB"]
        if (base := self.reference) is not None and item is not base:
            parts[0] += f" ({item.p50_ms / base.p50_ms:.2f}× float32)"
            parts[1] += f" ({base.size_bytes / max(item.size_bytes, 1):.1f}× smaller)"
        if item.judged and item is not base:
            parts.append(self._loss_words(item))
        if (figures := item.measurement) is not None and figures.partitions is not None:
            pieces = "1 partition" if figures.partitions == 1 else f"{figures.partitions} partitions"
            parts.append(f"{pieces} with {figures.delegated_ops} of {figures.ops} ops")
        return ", ".join(parts)

    def _loss(self, item: Candidate) -> tuple[float, float]:
        """To rank by: what is lost of the metric or the share of other decisions, then dB below what the worst output may have."""
        if (row := item.judged) is None:
            return 0.0, 0.0
        lost = row.drop.value if row.drop else 1 - row.agreement.value if row.agreement else 0.0
        return lost, -(row.error_db or 0.0)

    def _loses(self, item: Candidate) -> str | None:
        """Why what it loses is too much, or None."""
        return refusal(item.judged, self.question.max_drop, self.question.min_db, "") if item.judged else None

    def _keeps(self, item: Candidate) -> bool:
        return item.refused is None and self._loses(item) is None

    def _kept(self, keeping: Sequence[Candidate]) -> str:
        """What is said of files that nothing speaks against: what was not judged keeps nothing for certain."""
        return "yes" if any(item.judged for item in keeping) else "not judged"

    def _highest(self, item: Candidate) -> float:
        """The greatest loss that the rows do not rule out."""
        if (row := item.judged) is None:
            return 0.0
        return row.drop.high if row.drop else 1 - row.agreement.low if row.agreement else 0.0

    def _gains(self, item: Candidate) -> bool:
        """Whether it is better than float32 in what is needed, by more than noise."""
        figure = _SIZE if self.question.need is Need.SIZE else _P50
        return self.reference is None or figure.of(item) * (1 + figure.same) < figure.of(self.reference)

    def _loss_words(self, item: Candidate) -> str:
        if (figures := item.judged) is None:
            return f"was not judged, p50 {milliseconds(item.p50_ms)} ms"
        if (drop := figures.drop) is not None:
            interval = f"{_points(drop.low)} to {_points(drop.high)} with 95 % confidence"
            return f"loses {_points(drop.value)} points of {self.question.metric} ({interval}, {drop.total} rows)"
        if (same := figures.agreement) is not None:
            other, most = 100 * (1 - same.value), 100 * (1 - same.low)
            return f"decides otherwise on {other:.1f} % of {same.total} decisions (at most {most:.1f} %)"
        worst = min(figures.outputs, key=lambda output: output.error_db)
        return f"output {worst.name} is {worst.error_db:.1f} dB from float32's (cosine {worst.cosine:.4f})"

    def _why_not(self, item: Candidate) -> str:
        return f"{item.name} {self._loss_words(item)}{', and was refused' if item.refused else ''}"

    def _allowed(self) -> str:
        return (
            f"{tree.allowance(self.question)} may be lost" if self.question.metric != tree.VALUES else tree.allowance(self.question)
        )

    def _doubt(self, item: Candidate) -> str:
        if not item.judged:
            why = "no rows were given" if self.question.data is Data.NONE else "it was run on none of the rows"
            return "" if item.scheme == "float32" else f"; what it loses was not judged: {why}"
        high = self._highest(item)
        unsure = f"; a loss of up to {_points(high)} points cannot be ruled out on so few rows"
        return unsure if high > self.question.max_drop else ""


def _points(share: float) -> str:
    text = f"{100 * share:.1f}"
    return (text.lstrip("-") if float(text) == 0 else text).replace("-", "−")
