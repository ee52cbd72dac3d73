"""Sentences computed from the figures: which file to take, and why one is slower or worse than expected."""

from edgekit.measure.measurement import Measurement, shown_points
from edgekit.report.content import Report, labels, megabytes, milliseconds
from edgekit.stages.quantize.schemes import SCHEMES

CLOSE = 0.005  # the share of a metric (or of decisions) that a file may lose and still count as close to the reference
CLOSE_DB = 20.0  # and the error that outputs may have which no decision is read from
# Below this ratio two p50 are the same for all that a benchmark on a shared machine can tell, and a count is no cause.
_SAME = 1.1


def findings(report: Report) -> tuple[str, ...]:
    """Plain sentences a reader can act on, most useful first; empty where there is nothing to compare."""
    reference = report.reference_row
    label = dict(zip((row.path for row in report.rows), labels(report), strict=True))
    if reference is None:
        timed = [row for row in report.rows if row.latency is not None and row.failure is None]
        if len(timed) < 2:
            return ()
        fastest, smallest = min(timed, key=_p50), min(timed, key=lambda row: row.size_bytes)
        return (f"Fastest: {label[fastest.path]} at {milliseconds(_p50(fastest))} ms. Smallest: {label[smallest.path]}.",)
    others = [row for row in report.rows if row.path != reference.path and row.failure is None]
    close = [row for row in others if _is_close(row)]
    noun = "version" if report.versions else "file"
    sentences = _best(close, reference, label, noun)
    if not close and (judged := [row for row in others if row.drop or row.agreement or row.extra]):
        sentences.append(f"There is no other {noun} {_close_words(judged[0], label[reference.path])}.")
    for row in others:
        sentences += [finding(row, reference, close, label) for finding in (_loss, _noise, _speed)]
    return tuple(sentence for sentence in sentences if sentence)


def _best(close: list[Measurement], reference: Measurement, label: dict[str, str], noun: str) -> list[str]:
    """The smallest and the fastest of the close ones, and how sure it is that they are close."""
    smaller = [row for row in close if _shrink(row, reference) >= _SAME]
    smallest, fastest = min(smaller, key=lambda row: row.size_bytes, default=None), _fastest(close, reference)
    best: dict[str, tuple[Measurement, str]] = {}
    if smallest is not None:
        best["Smallest"] = smallest, f"{_shrink(smallest, reference):.1f}× smaller"
    if fastest is not None:
        best["Fastest"] = fastest, f"{1 / _ratio(fastest, reference):.1f}× faster at the median"
    if fastest is not None and fastest is smallest:
        best = {"Smallest and fastest": (fastest, f"{best['Smallest'][1]}, {best['Fastest'][1]}")}
    base = label[reference.path]
    return [
        f"{word} {noun} {_close_words(row, base)}: {label[row.path]}, {gain}{_doubt(row)}." for word, (row, gain) in best.items()
    ]


def _fastest(close: list[Measurement], reference: Measurement) -> Measurement | None:
    """The one with the least p50; None where none is faster than the reference."""
    return min((row for row in close if _ratio(row, reference) <= 1 / _SAME), key=_p50, default=None)


def _doubt(row: Measurement) -> str:
    """What too few rows leave open of "close"."""
    if row.drop is not None and row.metric is not None:
        open_loss = f"a loss of up to {shown_points(row.drop.high, row.metric)} cannot be ruled out"
        return f"; on {row.drop.total} rows {open_loss}" if row.drop.high > CLOSE else ""
    if row.agreement is not None and 1 - row.agreement.low > CLOSE:
        return f"; on {row.agreement.total} decisions, up to {(1 - row.agreement.low) * 100:.1f} % others cannot be ruled out"
    return ""


def _loss(row: Measurement, reference: Measurement, close: list[Measurement], label: dict[str, str]) -> str:
    drop, metric = row.drop, row.metric
    if drop is None or metric is None or drop.value <= CLOSE:
        return ""
    points = f"{label[row.path]} loses {shown_points(drop.value, metric)} of {metric.metric} against {label[reference.path]}"
    if drop.low <= 0:
        # The interval narrows with the square root of the rows.
        needed = drop.total * max(2.0, ((drop.high - drop.low) / 2 / drop.value) ** 2)
        return f"{points}, which may be chance: {drop.total} rows cannot tell, about {float(f'{needed:.1g}'):.0f} could."
    return f"{points}{_instead(row, close, label)}."


def _noise(row: Measurement, reference: Measurement, close: list[Measurement], label: dict[str, str]) -> str:
    worst = row.extra
    if worst is None or worst.error_db >= CLOSE_DB:
        return ""
    error = f"{worst.error_db:.1f} dB from that of {label[reference.path]} (cosine {worst.cosine:.4f})"
    return f"Output {worst.name} of {label[row.path]} is {error}{_instead(row, close, label)}."


def _instead(row: Measurement, close: list[Measurement], label: dict[str, str]) -> str:
    scheme = SCHEMES.get(row.scheme or "")
    if scheme is None or scheme.weights == "float32":
        return ""
    if scheme.activations is None:
        return ": its weights do not stand this precision; take a scheme with wider weights"
    floats = [other for other in close if (plain := SCHEMES.get(other.scheme or "")) and plain.activations is None]
    instead = label[floats[0].path] if floats else "a scheme with float32 activations"
    return f": calibrate it on more data from where it will be used, or take {instead}"


def _speed(row: Measurement, reference: Measurement, close: list[Measurement], label: dict[str, str]) -> str:
    ratio, name, base = _ratio(row, reference), label[row.path], label[reference.path]
    if row.scheme == "float16" and 1 / _SAME < ratio < _SAME and _shrink(row, reference) >= _SAME:
        memory = ""
        if row.peak_bytes is not None and reference.peak_bytes is not None and row.peak_bytes >= reference.peak_bytes:
            memory = f" (peak {megabytes(row.peak_bytes)} MB against {megabytes(reference.peak_bytes)})"
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


def _is_close(row: Measurement) -> bool:
    worst = row.extra
    if worst is not None and worst.error_db < CLOSE_DB:
        return False
    if row.drop is not None:
        return row.drop.value <= CLOSE
    return 1 - row.agreement.value <= CLOSE if row.agreement is not None else worst is not None


def _close_words(row: Measurement, base: str) -> str:
    if row.drop is not None and row.metric is not None:
        return f"within {shown_points(CLOSE, row.metric)} of the {row.metric.metric} of {base}"
    if row.agreement is not None:
        decisions = "rows" if row.agreement.total == row.rows else "decisions"
        return f"that decides as {base} does on {(1 - CLOSE) * 100:g} % of the {decisions}"
    return f"whose outputs are {CLOSE_DB:g} dB or better from those of {base}"


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
