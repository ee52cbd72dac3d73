"""Sentences computed from the figures: which file to take, and why one is slower or less accurate than expected."""

from edgekit.measure.measurement import Measurement
from edgekit.report.content import Report, labels, megabytes, milliseconds
from edgekit.stages.quantize.schemes import SCHEMES

CLOSE = 0.005  # the share of accuracy (or of agreement) that a file may lose and still count as close to the reference
# Below this ratio two p50 are the same for all that a benchmark on a shared machine can tell, and a count is no cause.
_SAME = 1.1


def findings(report: Report) -> tuple[str, ...]:
    """Plain sentences a reader can act on, most useful first; empty where there is nothing to compare."""
    reference = report.reference_row
    if reference is None:
        return _without_reference(report)
    others = [row for row in report.rows if row.path != reference.path and row.failure is None]
    label = dict(zip((row.path for row in report.rows), labels(report), strict=True))
    close = [row for row in others if _is_close(row)]
    noun = "version" if report.versions else "file"
    sentences = _best(close, reference, label, noun)
    if not close and (judged := [row for row in others if row.drop or row.agreement]):
        sentences.append(f"There is no other {noun} {_close_words(judged[0], label[reference.path])}.")
    for row in others:
        sentences += [_accuracy(row, reference, close, label), _speed(row, reference, close, label)]
    return tuple(sentence for sentence in sentences if sentence)


def _without_reference(report: Report) -> tuple[str, ...]:
    timed = [row for row in report.rows if row.latency is not None and row.failure is None]
    if len(timed) < 2:
        return ()
    label = dict(zip((row.path for row in report.rows), labels(report), strict=True))
    fastest = min(timed, key=_p50)
    smallest = min(timed, key=lambda row: row.size_bytes)
    return (f"Fastest: {label[fastest.path]} at {milliseconds(_p50(fastest))} ms. Smallest: {label[smallest.path]}.",)


def _best(close: list[Measurement], reference: Measurement, label: dict[str, str], noun: str) -> list[str]:
    """The smallest and the fastest of the close ones, and how sure it is that they are close."""
    base = label[reference.path]
    smallest = min((row for row in close if _shrink(row, reference) >= _SAME), key=lambda row: row.size_bytes, default=None)
    fastest = _fastest(close, reference)
    if smallest is not None and smallest is fastest:
        gains = f"{_shrink(smallest, reference):.1f}× smaller, {1 / _ratio(smallest, reference):.1f}× faster at the median"
        name = label[smallest.path]
        return [f"Smallest and fastest {noun} {_close_words(smallest, base)}: {name}, {gains}{_doubt(smallest)}."]
    sentences = []
    if smallest is not None:
        gain = f"{_shrink(smallest, reference):.1f}× smaller"
        sentences.append(f"Smallest {noun} {_close_words(smallest, base)}: {label[smallest.path]}, {gain}{_doubt(smallest)}.")
    if fastest is not None:
        gain = f"{1 / _ratio(fastest, reference):.1f}× faster at the median"
        sentences.append(f"Fastest {noun} {_close_words(fastest, base)}: {label[fastest.path]}, {gain}{_doubt(fastest)}.")
    return sentences


def _fastest(close: list[Measurement], reference: Measurement) -> Measurement | None:
    """The one with the least p50; None where none is faster than the reference."""
    return min((row for row in close if _ratio(row, reference) <= 1 / _SAME), key=_p50, default=None)


def _doubt(row: Measurement) -> str:
    """What too few rows leave open of "close"."""
    if row.drop is not None:
        open_loss = f"a loss of up to {row.drop.high * 100:.1f} points cannot be ruled out"
        return f"; on {row.drop.total} rows {open_loss}" if row.drop.high > CLOSE else ""
    if row.agreement is not None and 1 - row.agreement.low > CLOSE:
        return f"; on {row.agreement.total} decisions, up to {(1 - row.agreement.low) * 100:.1f} % others cannot be ruled out"
    return ""


def _accuracy(row: Measurement, reference: Measurement, close: list[Measurement], label: dict[str, str]) -> str:
    drop = row.drop
    if drop is None or drop.value <= CLOSE:
        return ""
    points = f"{label[row.path]} loses {drop.value * 100:.1f} points of accuracy against {label[reference.path]}"
    if drop.low <= 0:
        # The interval narrows with the square root of the rows.
        needed = drop.total * max(2.0, ((drop.high - drop.low) / 2 / drop.value) ** 2)
        return f"{points}, which may be chance: {drop.total} rows cannot tell, about {float(f'{needed:.1g}'):.0f} could."
    scheme = SCHEMES.get(row.scheme or "")
    if scheme is None or scheme.weights == "float32":
        return f"{points}."
    if scheme.activations is None:
        return f"{points}: its weights do not stand this precision; take a scheme with wider weights."
    instead = next((label[other.path] for other in close if _keeps_activations(other)), "a scheme with float32 activations")
    return f"{points}: calibrate it on more data from where it will be used, or take {instead}."


def _speed(row: Measurement, reference: Measurement, close: list[Measurement], label: dict[str, str]) -> str:
    ratio, name, base = _ratio(row, reference), label[row.path], label[reference.path]
    if row.scheme == "float16" and 1 / _SAME < ratio < _SAME and _shrink(row, reference) >= _SAME:
        memory = _memory(row, reference)
        return f"{name} saves storage only: it is as fast as {base}, since loading unpacks its weights to float32{memory}."
    if ratio < _SAME or ratio == float("inf"):
        return ""
    fastest = _fastest(close, reference)
    instead = f" For speed take {label[fastest.path]}." if fastest is not None else ""
    return f"{name} is {ratio:.1f}× slower than {base} here{_cause(row, reference)}.{instead}"


def _cause(row: Measurement, reference: Measurement) -> str:
    """Why `row` is slower than `reference`, as far as ops and partitions tell."""
    if row.runtime != reference.runtime and row.runtime and reference.runtime:
        return f", in {row.runtime} against {reference.runtime}"
    if row.runtime not in (None, "LiteRT"):
        return ""
    taken, ops, pieces = row.delegated_ops, row.ops, row.partitions
    if taken is None or ops is None or pieces is None:
        return "; how many of its ops the CPU delegate takes is not known"
    if row.scheme == "int16x8":
        return f": the CPU delegate takes {taken} of its {ops} ops, and int16 activations run on reference kernels"
    if taken == 0:
        return f": the CPU delegate takes none of its {ops} ops"
    if reference.partitions is not None and pieces > reference.partitions:
        against = f"{pieces} pieces against {reference.partitions}"
        return f": the CPU delegate runs it in {against}, and leaves {ops - taken} ops between them"
    if reference.ops is not None and reference.delegated_ops is not None:
        if ops - taken >= (reference.ops - reference.delegated_ops) * _SAME and ops > taken:
            return f": the CPU delegate leaves out {ops - taken} of its {ops} ops"
        if ops >= reference.ops * _SAME:
            return f": it runs {ops} ops against {reference.ops}"
    return "; its ops and partitions do not say why: time it again on an idle machine, or ask edgekit diagnose"


def _memory(row: Measurement, reference: Measurement) -> str:
    if row.peak_bytes is None or reference.peak_bytes is None or row.peak_bytes < reference.peak_bytes:
        return ""
    return f" (peak {megabytes(row.peak_bytes)} MB against {megabytes(reference.peak_bytes)})"


def _keeps_activations(row: Measurement) -> bool:
    scheme = SCHEMES.get(row.scheme or "")
    return scheme is not None and scheme.activations is None


def _is_close(row: Measurement) -> bool:
    if row.drop is not None:
        return row.drop.value <= CLOSE
    return row.agreement is not None and 1 - row.agreement.value <= CLOSE


def _close_words(row: Measurement, base: str) -> str:
    if row.drop is not None:
        return f"within {CLOSE * 100:g} points of the accuracy of {base}"
    return f"that decides as {base} does on {(1 - CLOSE) * 100:g} % of the rows"


def _shrink(row: Measurement, reference: Measurement) -> float:
    """How many times smaller the file is than the reference's."""
    return reference.size_bytes / row.size_bytes if row.size_bytes else 0.0


def _ratio(row: Measurement, reference: Measurement) -> float:
    """p50 over the reference's; inf where either was not timed."""
    if row.latency is None or reference.latency is None or reference.latency.p50_ms <= 0:
        return float("inf")
    return row.latency.p50_ms / reference.latency.p50_ms


def _p50(row: Measurement) -> float:
    return row.latency.p50_ms if row.latency is not None else float("inf")
