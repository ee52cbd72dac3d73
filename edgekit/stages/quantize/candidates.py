"""Ways to use integers, run on representative rows and timed against each other."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.data.samples import Samples
from edgekit.errors import RefusedError
from edgekit.stages.quantize.forms import Form
from edgekit.tflite.interpreter import Model

# Rows a candidate is tried on: enough for a per cent or two of agreement, few enough for reference kernels.
ROWS = 64
_SECONDS = 6.0
# However slow a model is.
LEAST_ROWS = 4
# Rows that tell what is lost of the accuracy, where there are so many: a row or two is no per cent of them.
LABELLED_ROWS = 256
# Interpreters that run side by side.
LANES = 2
# Candidates are equally true to float32 within this share of rows of the best one's agreement and with at most twice its noise;
# above 30 dB nothing is left to gain.
_TOLERANCE = 0.03
_TWICE_DB = 3.0
_ENOUGH_DB = 30.0
# Two medians closer than this are the same on a machine that does other things too.
_SAME_SPEED = 1.1
# Runs of each file in one turn, warm after the first; turns until the time is over.
_BURST = 5
_TURNS = 12
_TIMING_SECONDS = 2.0


@dataclass(frozen=True)
class Candidate:
    """One way to use integers, tried on `rows` representative rows: agreement and SQNR (dB) with float32, p50, partitions."""

    name: str
    rows: int = 0
    agreement: float = 0.0
    sqnr_db: float = 0.0
    p50_ms: float = 0.0
    partitions: int = 0
    failure: str | None = None

    @property
    def told(self) -> str:
        """Its figures in words."""
        return (
            f"integers in {self.name}: {self.agreement:.1%} agreement with float32, SQNR {self.sqnr_db:.1f} dB "
            f"on {self.rows} representative rows, {self.p50_ms:.2f} ms, {self.partitions} partitions"
        )


def choose(tried: Sequence[Candidate], *, trained: str | None = None) -> tuple[Candidate, str]:
    """The fastest candidate among those as true to float32 as the best, and why; of equally fast ones the first in `tried`.

    The one named `trained` is what the weights were trained for; its decisions count, its distance from float32 does not.
    Raises `RefusedError` with each one's failure if none runs.
    """
    running = [candidate for candidate in tried if candidate.failure is None]
    if not running:
        causes = "; ".join(dict.fromkeys(candidate.failure or "" for candidate in tried))
        raise RefusedError(f"no integer form of the model runs ({causes}); choose dynamic or float16")
    agreement = max(candidate.agreement for candidate in running)
    sqnr = min(max(candidate.sqnr_db for candidate in running), _ENOUGH_DB)
    true = [
        candidate
        for candidate in running
        # One row more or less is chance, however few there are.
        if candidate.agreement >= agreement - max(_TOLERANCE, 1 / candidate.rows)
        and (candidate.sqnr_db >= sqnr - _TWICE_DB or candidate.name == trained)
    ] or [max(running, key=lambda candidate: (candidate.agreement, candidate.sqnr_db))]
    fastest = min(candidate.p50_ms for candidate in true)
    chosen = next(candidate for candidate in true if candidate.p50_ms <= fastest * _SAME_SPEED)
    told = [
        f"integers in {candidate.name} do not run ({candidate.failure})" if candidate.failure else candidate.told
        for candidate in tried
        if candidate is not chosen
    ]
    return chosen, "; ".join([chosen.told, *told])


@dataclass(frozen=True)
class Reference:
    """A folder of saved rows to try files on, and the file of what float32 gives on the first of them, from `expect`."""

    rows: Path
    outputs: Path


def expect(model: Path, reference: Reference) -> None:
    """Write what `first_outputs` gives for `model` on the first rows, fewer where it is slow. In a worker child."""
    np.save(reference.outputs, _outputs(model, Samples.load(reference.rows), ROWS, _SECONDS))


def _outputs(file: Path, samples: Samples, count: int, seconds: float) -> np.ndarray:
    """`first_outputs` of the first `count` rows, of fewer once `seconds` have passed."""
    models = [Model(file, threads=1) for _ in range(LANES)]
    rows = [*itertools.islice(samples, count)]
    started = time.perf_counter()
    found: list[np.ndarray] = []
    for start in range(0, len(rows), LANES):
        found.append(first_outputs(models, rows[start : start + LANES]))
        if start + LANES >= LEAST_ROWS and time.perf_counter() - started > seconds:
            break
    return np.concatenate(found)


def first_outputs(models: Sequence[Model], rows: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
    """First output of each row (rows, batch, ...), the models side by side with a share of the rows each."""

    def share(number: int) -> list[np.ndarray]:
        return [_first(models[number].run(row)) for row in rows[number :: len(models)]]

    with ThreadPoolExecutor(len(models)) as pool:
        shares = list(pool.map(share, range(len(models))))
    return np.stack([shares[place % len(models)][place // len(models)] for place in range(len(rows))])


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
    """Run a file on the rows that float32 ran on; stops early where it is slow."""
    from edgekit.tasks.parity import compare, sqnr_db

    expected = np.load(reference.outputs)
    # One thread: candidates are tried side by side, and timed later.
    model = Model(file, threads=1)
    started = time.perf_counter()
    found: list[np.ndarray] = []
    for row in itertools.islice(Samples.load(reference.rows), len(expected)):
        found.append(_first(model.run(row)))
        if time.perf_counter() - started > _SECONDS:
            break
    outputs = np.stack(found)
    return Candidate(
        name="",
        rows=len(found),
        agreement=compare(outputs, expected[: len(found)]).same_argmax,
        sqnr_db=sqnr_db(outputs, expected[: len(found)]),
        partitions=model.partitions,
    )


def lost(outputs: np.ndarray, expected: np.ndarray, labels: np.ndarray | None) -> float:
    """Accuracy that `outputs` (N, ..., classes) lose against `expected`.

    Without a label for each decision it is the share of other decisions.
    """
    found, wanted = (values.argmax(axis=-1).reshape(len(values), -1) for values in (outputs, expected))
    if labels is None or found.shape[1] != 1:
        return float((found != wanted).mean())
    known = labels[: len(found), np.newaxis]
    return float((wanted == known).mean() - (found == known).mean())


def loss(model: Path, file: Path, rows: Path) -> float:
    """What `file` loses against float32 `model` on the saved rows, see `lost`; on fewer where they are slow. In a worker child."""
    samples = Samples.load(rows)
    expected = _outputs(model, samples, LABELLED_ROWS, _SECONDS / 2)
    found = _outputs(file, samples, len(expected), _SECONDS / 2)
    return lost(found, expected[: len(found)], samples.labels)


def time_in_turns(files: Sequence[Path], samples_folder: Path) -> dict[Path, float]:
    """Median milliseconds of each file's inference, in short turns so that a drift of the machine hits all. In a worker child."""
    row = next(iter(Samples.load(samples_folder)))
    models = {file: Model(file) for file in files}
    times: dict[Path, list[float]] = {file: [] for file in files}
    for model in models.values():
        model.set_inputs(row)
        model.invoke()
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


def _first(outputs: dict[str, np.ndarray]) -> np.ndarray:
    return next(iter(outputs.values()))
