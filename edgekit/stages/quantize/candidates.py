"""Ways to use integers, run on representative rows and timed against each other."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.data.samples import Array, Samples
from edgekit.errors import RefusedError
from edgekit.stages.quantize.forms import Form
from edgekit.tasks.judgement import judge
from edgekit.tflite.interpreter import Model

# Rows a candidate is tried on: enough for a per cent or two of agreement, few enough for reference kernels.
ROWS = 64
_SECONDS = 6.0
# However slow a model is.
LEAST_ROWS = 4
# Rows that tell what is lost of the metric, where there are so many: a row or two is no per cent of them.
LABELLED_ROWS = 256
# Interpreters that run side by side.
LANES = 2
# Candidates are equally true to float32 within this share of rows of the best one's agreement and with at most twice its noise;
# above 30 dB nothing is left to gain.
_TOLERANCE = 0.03
_TWICE_DB = 3.0
_ENOUGH_DB = 30.0
# A share that floats do not hold exactly.
ROUNDING = 1e-9
# Two medians closer than this are the same on a machine that does other things too.
_SAME_SPEED = 1.1
# Runs of each file in one turn, warm after the first; turns until the time is over.
_BURST = 5
_TURNS = 12
_TIMING_SECONDS = 2.0


@dataclass(frozen=True)
class Candidate:
    """One way to use integers, tried on `rows` representative rows against float32.

    `agreement` is the share of equal decisions, None where the task decides nothing; `error_db` is that of the worst output."""

    name: str
    rows: int = 0
    agreement: float | None = None
    error_db: float = 0.0
    p50_ms: float = 0.0
    partitions: int = 0
    failure: str | None = None

    @property
    def told(self) -> str:
        """Its figures in words."""
        same = "" if self.agreement is None else f"{self.agreement:.1%} agreement with float32, "
        return (
            f"integers in {self.name}: {same}worst output at {self.error_db:.1f} dB "
            f"on {self.rows} representative rows, {self.p50_ms:.2f} ms, {self.partitions} partitions"
        )


def choose(tried: Sequence[Candidate], *, trained: str | None = None, losing: Collection[str] = ()) -> tuple[Candidate, str]:
    """The fastest candidate among those as true to float32 as the best, and why; of equally fast ones the first in `tried`.

    The one named `trained` is what the weights were trained for; its decisions count, its distance from float32 does not. Those
    `losing` lose more than is allowed, and are left for others where there are some.
    Raises `RefusedError` with each one's failure if none runs."""
    running = [candidate for candidate in tried if candidate.failure is None]
    if not running:
        causes = "; ".join(dict.fromkeys(candidate.failure or "" for candidate in tried))
        raise RefusedError(f"no integer form of the model runs ({causes}); choose dynamic or float16")
    running = [candidate for candidate in running if candidate.name not in losing] or running
    agreement = max(alike(candidate.agreement) for candidate in running)
    error_db = min(max(candidate.error_db for candidate in running), _ENOUGH_DB)
    true = [
        candidate
        for candidate in running
        # One row more or less is chance, however few there are.
        if alike(candidate.agreement) >= agreement - max(_TOLERANCE, 1 / candidate.rows)
        and (candidate.error_db >= error_db - _TWICE_DB or candidate.name == trained)
    ] or [max(running, key=lambda candidate: (alike(candidate.agreement), candidate.error_db))]
    fastest = min(candidate.p50_ms for candidate in true)
    chosen = next(candidate for candidate in true if candidate.p50_ms <= fastest * _SAME_SPEED)
    others = [candidate for candidate in tried if candidate is not chosen]
    failures = {one.name: f"integers in {one.name} do not run ({one.failure})" for one in others if one.failure}
    return chosen, "; ".join([chosen.told, *(failures.get(other.name, other.told) for other in others)])


def alike(agreement: float | None) -> float:
    """Share of equal decisions, 1 where there are none to differ."""
    return 1.0 if agreement is None else agreement


@dataclass(frozen=True)
class Reference:
    """A folder of saved rows to try files on, and the one of float32's outputs on the first of them, from `expect`."""

    rows: Path
    outputs: Path


def expect(model: Path, reference: Reference) -> None:
    """Write all outputs of `model` on the first rows, of fewer where it is slow. In a worker child."""
    Samples(run_rows(lanes(model), Samples.load(reference.rows), ROWS, _SECONDS)).save(reference.outputs)


def lanes(file: Path) -> list[Model]:
    """The file as many times as rows run side by side."""
    return [Model(file, threads=1) for _ in range(LANES)]


def run_rows(
    models: Sequence[Model], samples: Samples, count: int, seconds: float = np.inf, more: Mapping[str, Array] | None = None
) -> dict[str, Array]:
    """Every output (N, ...) by name, a batch axis of 1 left out, of the first samples, run side by side by `models`.

    N is `count` or what makes the last row whole, and less once `seconds` have passed. `more` is fed beside each sample. Models
    that take several samples at once, all as many, are given them."""
    count, batch = samples.row_end(min(count, len(samples)), len(samples)), models[0].batch
    started = time.perf_counter()
    places, late = iter(range(0, count, batch)), [count]
    results: dict[int, dict[str, Array]] = {}

    def share(model: Model) -> None:
        for place in places:
            starts = place == samples.row_end(place, count) if place else True
            if starts and place >= LEAST_ROWS and time.perf_counter() - started > seconds:
                late.append(place)
                return
            fed = {name: array[place : min(place + batch, count)] for name, array in samples.inputs.items()}
            results[place] = model.run({**fed, **(more or {})})

    with ThreadPoolExecutor(len(models)) as pool:
        list(pool.map(share, models))
    finished = [results[place] for place in range(0, min(late), batch)]
    if batch > 1:
        return {name: np.concatenate([outputs[name] for outputs in finished]) for name in results[0]}
    outputs = {name: np.stack([outputs[name] for outputs in finished]) for name in results[0]}
    return {name: array[:, 0] if array.ndim > 1 and array.shape[1] == 1 else array for name, array in outputs.items()}


def make(
    write: Callable[..., None],
    model: Path,
    calibration: Path,
    file: Path,
    form: Form,
    inputs: str,
    outputs: str,
    reference: Reference | None,
) -> Candidate:
    """Write the file of a form, and try it on the rows of `reference` where that is given. In a worker child."""
    write(model, calibration, file, form, inputs, outputs)
    return attempt(file, reference) if reference is not None else Candidate("")


def attempt(file: Path, reference: Reference) -> Candidate:
    """Run a file on the rows that float32 ran on; stops early where it is slow. Raises what `judge` raises."""
    samples, expected = Samples.load(reference.rows), Samples.load(reference.outputs)
    # One thread: candidates are tried side by side, and timed later.
    model = Model(file, threads=1)
    judgement = judge(run_rows([model], samples, len(expected), _SECONDS), samples, expected.inputs)
    agreement = judgement.agreement.value if judgement.agreement is not None else None
    return Candidate("", judgement.rows, agreement, judgement.error_db or 0.0, partitions=model.partitions)


def loss(model: Path, file: Path, rows: Path) -> float:
    """What `file` loses against float32 `model` on the saved rows, fewer where they are slow: see `Judgement.lost`. In a child."""
    samples = Samples.load(rows)
    expected = run_rows(lanes(model), samples, LABELLED_ROWS, _SECONDS / 2)
    count = len(next(iter(expected.values())))
    return judge(run_rows(lanes(file), samples, count, _SECONDS / 2), samples, expected).lost


def time_in_turns(files: Sequence[Path], samples_folder: Path) -> dict[Path, float]:
    """Median milliseconds of each file's inference, in short turns so that a drift of the machine hits all. In a worker child."""
    row = next(iter(Samples.load(samples_folder)))
    models = {file: Model(file) for file in files}
    times: dict[Path, list[float]] = {file: [] for file in files}
    for model in models.values():
        model.run(row)
    started = time.perf_counter()
    for turn in range(_TURNS):
        for file in files if turn % 2 else reversed(files):
            # The other file's weights are in the cache now; the first run brings back this one's.
            models[file].invoke()
            for _ in range(_BURST):
                before = time.perf_counter()
                models[file].invoke()
                times[file].append(time.perf_counter() - before)
        if time.perf_counter() - started > _TIMING_SECONDS:
            break
    return {file: float(np.median(values)) * 1e3 for file, values in times.items()}
