"""One .tflite file judged on a data set by its task's metrics."""

from dataclasses import dataclass, replace
from pathlib import Path

from edgekit.errors import RefusedError
from edgekit.measure import judge
from edgekit.measure.judge import BenchmarkConfig
from edgekit.measure.measurement import Measurement
from edgekit.spec import DataSpec
from edgekit.system import rooms, settings
from edgekit.system.settings import Checked, setting
from edgekit.system.worker import OnProgress
from edgekit.tflite import flatbuffer
from edgekit.workflows.inputs import encode_for, scheme_of


@dataclass(frozen=True)
class EvaluateConfig(Checked):
    """`against` is a file to compare with, such as the float32 one; `task` is for a file that does not tell its own."""

    against: Path | None = setting(None, "A .tflite to compare with, such as the float32 one.")
    task: str | None = settings.task()
    threads: int = settings.threads()


def evaluate(
    model: str | Path, data: DataSpec, config: EvaluateConfig = EvaluateConfig(), *, on_progress: OnProgress = None
) -> Measurement:
    """The figures of a .tflite file on all rows of `data`, without times; `failure` says why there are none.

    Raises `ModelFormatError`, `DatasetError`, `ConfigError` for a task that is not known, and `RefusedError` if `against` fails."""
    model = Path(model)
    files = [model, *([config.against] if config.against else [])]
    for file in files:
        flatbuffer.read(file)
    # One inference is timed on the way, which says nothing; a benchmark does.
    timing = BenchmarkConfig(config.threads, runs=1, warmup=0, rounds=1, max_accuracy_seconds=None, gzip=False, seed=data.seed)
    with rooms.temporary("evaluate") as room:
        samples = encode_for(model, data, Path(room), config.task)
        row, *others = judge.benchmark(files, samples, timing, reference=config.against, on_progress=on_progress)
    if failures := [other.failure for other in others if other.failure]:
        raise RefusedError("; ".join(failures))
    return replace(row, scheme=scheme_of(model), latency=None, samples_per_s=None, first_ms=None, load_ms=None)
