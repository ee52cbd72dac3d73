"""The figures of one file."""

from dataclasses import dataclass

from edgekit.tasks.metrics import Difference, Proportion


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one inference at batch 1 over `runs` runs after `warmup` uncounted ones.

    p90 and p99 are None where a phone's tool does not tell them.
    """

    runs: int
    warmup: int
    mean_ms: float
    p50_ms: float
    p90_ms: float | None
    p99_ms: float | None
    min_ms: float


@dataclass(frozen=True)
class Measurement:
    """What was found when `path` was run; `failure` says why the figures that are None are missing.

    `load_ms` covers reading the file and allocating tensors with the delegate applied, `first_ms` the first inference.
    `peak_bytes` is the measuring process's peak resident memory above what it held before it loaded the file.
    `partitions` counts the delegate's partitions; `delegated_ops` of `ops` run inside one. `agreement` is the share of
    rows whose highest output is the same as the reference file's, `drop` the accuracy lost against it; `mean_abs_error`
    is over all outputs and rows.

    The size of a checkpoint folder is that of its weight files alone. `runtime` is what ran it, `parameters` the count of
    its stored weight values, both as in `runtimes.Description`. `loss` is the mean cross-entropy in nats over the labelled
    rows, None where the outputs are probabilities already. `samples_per_s` is what one process does at batch 1, one row
    after the other: 1000 / mean latency in ms; the accuracy pass is no measure of it, since files share the cores there.
    """

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
    accuracy: Proportion | None = None
    drop: Difference | None = None
    agreement: Proportion | None = None
    mean_abs_error: float | None = None
    failure: str | None = None
    runtime: str | None = None
    parameters: int | None = None
    loss: float | None = None
    samples_per_s: float | None = None
