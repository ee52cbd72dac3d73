"""The figures of one file, and whether they are good enough to publish it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from edgekit.tasks.judgement import Judgement, OutputError
from edgekit.tasks.metrics import COSINE, WORST_COSINE, Difference, Proportion, Score

# What sums of floats may be off by.
_ROUNDING = 1e-9
# A file may agree less than by half beyond chance where a twentieth of its decisions may differ, and so on.
_WORTH = 0.1


@dataclass(frozen=True)
class Latency:
    """Milliseconds a row over `runs` runs after `warmup` uncounted ones: those of one inference by the `batch` of rows it takes.

    p90 and p99 are None where a phone's tool does not tell them."""

    runs: int
    warmup: int
    mean_ms: float
    p50_ms: float
    p90_ms: float | None
    p99_ms: float | None
    min_ms: float
    batch: int = 1

    def a_row(self, batch: int) -> "Latency":
        """The same of an inference that takes `batch` rows."""
        times = {name: value / batch for name, value in self.__dict__.items() if name.endswith("_ms") and value is not None}
        return replace(self, **times, batch=batch)


@dataclass(frozen=True)
class Measurement:
    """The figures of running `path`; `failure` says why the figures that are None are missing.

    `load_ms` covers reading the file and allocating tensors with the delegate applied, `first_ms` the first inference.
    `peak_bytes` is the measuring process's peak resident memory above what it held before it loaded the file.
    `partitions` counts the delegate's partitions; `delegated_ops` of `ops` run inside one. It was judged on `rows` rows. `metric`
    is what the `task` gates by, where there are labels, and `scores` are its other metrics; `drop` is what is lost of `metric`
    against the reference file. `agreement` is the share of decisions that are the reference's, `beyond_chance` Cohen's kappa of
    them. `error_db` is the worst of `outputs`, see `tasks.judgement.OutputError`.

    The size of a checkpoint folder is that of its weight files alone. `runtime` is what ran it, `parameters` the count of
    its stored weight values, both as in `runtimes.Description`. `samples_per_s` is what one process does, one inference
    after the other: 1000 / mean latency in ms a row; the accuracy pass is no measure of it, since files share the cores there."""

    path: str
    size_bytes: int
    gzip_bytes: int | None
    scheme: str | None = None
    threads: int = 0
    load_ms: float | None = None
    first_ms: float | None = None
    latency: Latency | None = None
    peak_bytes: int | None = None
    ops: int | None = None
    delegated_ops: int | None = None
    partitions: int | None = None
    task: str | None = None
    rows: int | None = None
    metric: Score | None = None
    scores: tuple[Score, ...] = ()
    drop: Difference | None = None
    agreement: Proportion | None = None
    beyond_chance: float | None = None
    error_db: float | None = None
    outputs: tuple[OutputError, ...] = ()
    failure: str | None = None
    runtime: str | None = None
    parameters: int | None = None
    samples_per_s: float | None = None

    def judged(self, judgement: Judgement, task: str) -> "Measurement":
        """The same with the judgement of its outputs."""
        return replace(
            self,
            task=task,
            rows=judgement.rows,
            metric=next(iter(judgement.scores), None),
            scores=judgement.scores[1:],
            drop=judgement.drop,
            agreement=judgement.agreement,
            beyond_chance=judgement.beyond_chance,
            error_db=judgement.error_db,
            outputs=judgement.outputs,
        )

    @property
    def extra(self) -> OutputError | None:
        """The worst of the outputs that no decision is read from."""
        return min((output for output in self.outputs if not output.decisive), key=lambda output: output.error_db, default=None)


def batch_of(rows: Iterable[Measurement]) -> int | list[int]:
    """How many rows an inference of the measured files takes; all numbers where they differ."""
    batches = sorted({row.latency.batch for row in rows if row.latency}) or [1]
    return batches if len(batches) > 1 else batches[0]


def refusal(
    row: Measurement, max_drop: float | None, min_db: float | None, remedy: str, min_cosine: float | None = 0.99
) -> str | None:
    """Why a file may not be published, with what to try, or None.

    By the drop of its task's metric; without labels by its decisions, `max_drop` of which may be others; by the mean cosine of
    vectors with float32's, where it gives vectors; and by the error of every output that no decision is read from, `min_db` dB
    at least. A limit that is None judges nothing."""
    if row.failure is not None:
        # The file was measured in a temporary folder.
        return row.failure.removeprefix(f"{row.path}: ")
    if max_drop is not None and (reason := _lost(row, max_drop)):
        return f"{reason}; {remedy}"
    scores = {score.metric: score for score in (row.metric, *row.scores) if score is not None}
    cosine = scores.get(COSINE.name)
    if cosine is not None and min_cosine is not None and cosine.value < min_cosine:
        least = f", the worst {scores[WORST_COSINE.name].value:.4f}" if WORST_COSINE.name in scores else ""
        return (
            f"its vectors have a mean cosine of {cosine.value:.4f} with float32's ({cosine.total} texts{least}), "
            f"--min-cosine asks for {min_cosine:g}; {remedy}"
        )
    worst = row.extra
    if worst is not None and min_db is not None and worst.error_db < min_db:
        return (
            f"output {worst.name} is {worst.error_db:.1f} dB from float32's, --min-db asks for {min_db:g} "
            f"(cosine {worst.cosine:.4f}, largest difference {worst.max_abs:.3g}); {remedy}"
        )
    return None


def _lost(row: Measurement, max_drop: float) -> str:
    drop, same, metric = row.drop, row.agreement, row.metric
    if drop is not None and metric is not None:
        # Counts have no binary fractions: 1 of 20 is 5 %.
        over = drop.lost - drop.gained - max_drop * drop.total if drop.lost is not None and drop.gained is not None else 0.0
        if over <= _ROUNDING and (drop.lost is not None or drop.value <= max_drop + _ROUNDING):
            return ""
        return (
            f"loses {shown_points(drop.value, metric)} of {metric.metric} against float32 "
            f"({shown_points(drop.low, metric, bare=True)} to {shown_points(drop.high, metric, bare=True)} with 95 % confidence, "
            f"{drop.total} rows), --max-drop allows {shown_points(max_drop, metric, bare=True)}"
        )
    if same is None:
        return ""
    other = same.total - same.count
    if other > max_drop * same.total + _ROUNDING:
        return (
            f"decides otherwise than float32 on {100 * other / same.total:.1f} % of {same.total} decisions, "
            f"--max-drop allows {100 * max_drop:.1f} %"
        )
    if other > 1 and row.beyond_chance is not None and row.beyond_chance < 1 - max_drop / _WORTH:
        return (
            f"agrees with float32 on {same.count} of {same.total} decisions, hardly more than by naming the commonest one always "
            f"(kappa {row.beyond_chance:.2f}); give --evaluation-data whose rows differ more"
        )
    return ""


def shown_points(value: float, metric: Score, *, bare: bool = False) -> str:
    """A difference of a metric for people: points of a share, else in the labels' unit."""
    if metric.percent:
        return f"{100 * value:.1f}" + ("" if bare else " points")
    return f"{value:.3g}"
