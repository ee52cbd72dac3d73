"""Sentences computed from the figures: which file to take, and why one is slower or less accurate than expected."""

from edgekit.measure.measurement import Measurement
from edgekit.quantize.schemes import SCHEMES
from edgekit.report.content import Report, labels, milliseconds

CLOSE = 0.005  # the share of accuracy (or of agreement) that a file may lose and still count as close to the reference
_SLOWER = 1.1  # below this ratio two p50 are the same for all that a benchmark on a shared machine can tell


def findings(report: Report) -> tuple[str, ...]:
    """Plain sentences a reader can act on, most useful first; empty where there is nothing to compare."""
    reference = report.reference_row
    if reference is None:
        return _without_reference(report)
    label = dict(zip((row.path for row in report.rows), labels(report), strict=True))
    base = label[reference.path]
    others = [row for row in report.rows if row.path != reference.path]
    close = [row for row in others if _is_close(row)]
    sentences: list[str] = []
    if smallest := min(
        (row for row in close if row.size_bytes < reference.size_bytes), key=lambda row: row.size_bytes, default=None
    ):
        shrink = reference.size_bytes / smallest.size_bytes
        sentences.append(f"Smallest file {_close_words(smallest, base)}: {label[smallest.path]}, {shrink:.1f}× smaller.")
    if fastest := min((row for row in close if _ratio(row, reference) < 1), key=lambda row: _ratio(row, reference), default=None):
        gain = 1 / _ratio(fastest, reference)
        sentences.append(f"Fastest file {_close_words(fastest, base)}: {label[fastest.path]}, {gain:.1f}× faster at the median.")
    if others and not close and any(row.drop or row.agreement for row in others):
        judged = next(row for row in others if row.drop or row.agreement)
        sentences.append(
            f"There is no other file {_close_words(judged, base)}. Give representative data closer to what the model will see, "
            "or keep the ops that lose it in float32."
        )
    for row in others:
        sentences += [
            sentence
            for sentence in (_accuracy(row, label[row.path], base), _speed(row, reference, label[row.path], base))
            if sentence
        ]
    return tuple(sentences)


def _without_reference(report: Report) -> tuple[str, ...]:
    timed = [row for row in report.rows if row.latency is not None]
    if len(timed) < 2:
        return ()
    label = dict(zip((row.path for row in report.rows), labels(report), strict=True))
    fastest = min(timed, key=_p50)
    smallest = min(timed, key=lambda row: row.size_bytes)
    return (f"Fastest: {label[fastest.path]} at {milliseconds(_p50(fastest))} ms. Smallest: {label[smallest.path]}.",)


def _accuracy(row: Measurement, name: str, base: str) -> str:
    drop = row.drop
    if drop is None or drop.value <= CLOSE:
        return ""
    points = f"{name} loses {drop.value * 100:.1f} points of accuracy against {base}"
    if drop.low <= 0:
        return f"{points}, but on {drop.total} rows that cannot be told from chance; measure on more rows before judging it."
    if _integer(row):
        return (
            f"{points}: give more representative data from where the model will be used, or keep the ops that lose it in float32."
        )
    return f"{points}: its weights do not stand this precision; take a scheme with wider weights."


def _speed(row: Measurement, reference: Measurement, name: str, base: str) -> str:
    ratio = _ratio(row, reference)
    if ratio < _SLOWER or ratio == float("inf"):
        return ""
    slower = f"{name} is {ratio:.1f}× slower than {base} here"
    if row.scheme == "int16x8":
        return (
            f"{slower}: int16 activations run on reference kernels on a CPU. "
            "Take it for accuracy on hardware with int16 kernels, not for speed."
        )
    if row.partitions is not None and row.ops is not None and row.delegated_ops is not None:
        if row.partitions == 0:
            return f"{slower}: the CPU delegate takes none of its {row.ops} ops, so all run on plain kernels."
        if reference.partitions is not None and row.partitions > reference.partitions:
            advice = " Keep those ops in float32." if _integer(row) else ""
            return (
                f"{slower}: the CPU delegate runs it in {row.partitions} pieces against {reference.partitions}, and every op "
                f"between two pieces runs on plain kernels.{advice}"
            )
        if row.delegated_ops < row.ops:
            left = row.ops - row.delegated_ops
            return f"{slower}: {left} of its {row.ops} ops are not taken by the CPU delegate and run on plain kernels."
    # Without a cause to name, the table's ratio says it all.
    return ""


def _integer(row: Measurement) -> bool:
    scheme = SCHEMES.get(row.scheme or "")
    return scheme is not None and scheme.activations is not None


def _is_close(row: Measurement) -> bool:
    if row.failure is not None:
        return False
    if row.drop is not None:
        return row.drop.value <= CLOSE
    return row.agreement is not None and 1 - row.agreement.value <= CLOSE


def _close_words(row: Measurement, base: str) -> str:
    if row.drop is not None:
        return f"within {CLOSE * 100:g} points of the accuracy of {base}"
    return f"that decides as {base} does on {(1 - CLOSE) * 100:g} % of the rows"


def _ratio(row: Measurement, reference: Measurement) -> float:
    """p50 over the reference's; inf where either was not timed."""
    if row.latency is None or reference.latency is None or reference.latency.p50_ms <= 0:
        return float("inf")
    return row.latency.p50_ms / reference.latency.p50_ms


def _p50(row: Measurement) -> float:
    return row.latency.p50_ms if row.latency is not None else float("inf")
