"""One model of the guide: made, converted in every scheme, and all of its files measured side by side."""

import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np

from edgekit.data import sources
from edgekit.data.encode import encode
from edgekit.data.representative import COUNT, MINIMUM, draw
from edgekit.data.samples import Samples
from edgekit.data.sources import ArrayRows, ImageRows, Rows
from edgekit.errors import ConfigError, EdgekitError, RefusedError
from edgekit.measure.judge import BenchmarkConfig, benchmark
from edgekit.measure.measurement import Measurement
from edgekit.spec import DatasetReference, shown
from edgekit.stages.quantize.plan import trained_plan
from edgekit.system import artifacts
from edgekit.system.worker import Progress, Worker
from edgekit.tflite import flatbuffer
from edgekit.workflows import assess
from edgekit.workflows.convert.config import ConvertConfig
from edgekit.workflows.convert.conversion import convert
from edgekit.workflows.convert.publish import judge
from edgekit.workflows.guide.networks import (
    ARCHITECTURES,
    IMAGENET,
    RANDOM,
    Architecture,
    Weights,
    check_size,
    parameters,
    random_images,
    write_model,
)
from edgekit.workflows.guide.published import COLUMNS, TABLES, Published
from edgekit.workflows.guide.qat import Training, write_aware
from edgekit.workflows.guide.results import GuideModel, cell

# A float32; the zero points of all channels are 0 and stored once.
_SCALE_BYTES = 4
P = ParamSpec("P")
T = TypeVar("T")

QAT = "qat"
# Options that may name rows that are judged, as `SharedRows.left_out` and messages write them.
REPRESENTATIVE_DATA, QAT_DATA = "--representative-data", "--qat-data"
_SCHEMES: Mapping[int, tuple[str, ...]] = {
    1: ("float32", "float16", "dynamic", "int8", "int16x8"),
    2: ("float32", "int8", "int16x8"),
}
# Rows where nothing but shapes counts: to calibrate on, and to run the files on. On reference kernels each takes seconds.
_RANDOM_ROWS, _RUN_ROWS = 16, 4
_RUN_SECONDS = 4.0
# Rows that settle the ranges of a quantization-aware model, and rows that `convert` judges by before all are run.
_SETTLING_ROWS = 64
GATE_ROWS = 100
TIMING = BenchmarkConfig(runs=60, warmup=5, rounds=3, max_seconds=6.0)


@dataclass(frozen=True)
class GuideConfig:
    """What `edgekit guide run` is told.

    `models` are names of the table's rows, empty for all. `weights` is imagenet, random or a folder (`models.find_weights`).
    `data` are labelled rows: accuracy is measured on those that calibration did not draw. `qat_data` are labelled rows to
    train on. `max_drop` is the accuracy that a file may lose before it is refused. Raises `ConfigError` where options
    contradict each other, or could have no effect.
    """

    table: int = 1
    models: tuple[str, ...] = ()
    weights: str = IMAGENET
    data: DatasetReference | None = None
    representative_data: DatasetReference | None = None
    representative_samples: int = COUNT
    qat_data: DatasetReference | None = None
    qat_epochs: int = 1
    max_drop: float | None = 0.05
    timing: BenchmarkConfig = TIMING
    seed: int = 0

    def __post_init__(self) -> None:
        if self.table not in TABLES:
            raise ConfigError(f"table is {self.table}; the guide has {' and '.join(map(str, TABLES))}")
        known = [published.name for published in TABLES[self.table]]
        if unknown := [name for name in self.models if name not in known]:
            raise ConfigError(f"models: {unknown[0]} is not in table {self.table}; choose from {', '.join(known)}")
        if self.representative_samples < MINIMUM:
            raise ConfigError(f"representative_samples is {self.representative_samples}; give at least {MINIMUM}")
        if self.weights == RANDOM and self.qat_data is not None:
            raise ConfigError("qat_data: training needs weights to begin with; leave --qat-data out or give --weights DIR")
        if self.weights == RANDOM and self.data is not None:
            raise ConfigError("data: the accuracy of random weights would say nothing; leave --data out or give --weights DIR")
        if self.weights == RANDOM and self.representative_data is not None:
            raise ConfigError(
                "representative_data: random weights are calibrated on random rows; leave --representative-data out or give "
                "--weights DIR"
            )
        if self.qat_data is not None and QAT not in COLUMNS[self.table]:
            raise ConfigError(f"qat_data: table {self.table} has no quantization-aware figures; leave --qat-data out")
        if self.qat_data is not None and self.data is not None and same_data(self.qat_data, self.data):
            raise ConfigError(f"qat_data: {self.qat_data} is judged on as well; train on other rows than those of --data")
        if not any(name in ARCHITECTURES for name in self.models or known):
            given = {"data": self.data, "representative_data": self.representative_data}
            given["weights"] = self.weights if self.weights not in (IMAGENET, RANDOM) else None
            if idle := [name for name, value in given.items() if value is not None]:
                raise ConfigError(
                    f"{idle[0]}: {', '.join(self.models)} can only be built at random weights; "
                    f"leave --{idle[0].replace('_', '-')} out"
                )
        if self.qat_epochs < 1:
            raise ConfigError(f"qat_epochs is {self.qat_epochs}; give at least 1")


def same_data(one: str, other: str) -> bool:
    """Whether two references are of the same file or folder, or of the same set on the hub."""
    return one == other or Path(one).resolve() == Path(other).resolve()


@dataclass(frozen=True)
class SharedRows:
    """Rows that all models share: to calibrate on, to judge on (never the same), to train on; None where there are none.

    `judged` has labels where `--data` gave them; else it is what calibration leaves of its own rows, for agreement alone.
    `left_out` counts by option the rows to calibrate or to train on that are judged, so that they were left out.
    """

    calibration: Rows | None = None
    judged: Rows | None = None
    training: Rows | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def labelled(self) -> bool:
        return self.judged is not None and self.judged.labels is not None

    def told(self, skipped: Iterable[str] = ()) -> str:
        """What was judged on, without the images called `skipped`, which could not be read."""
        if self.judged is None:
            return "no data"
        if not self.labelled:
            return f"no labelled data, calibrated on rows of {shown(self.judged.origin)}"
        names = sorted(set(skipped))
        parts = [f"{len(self.judged) - len(names)} labelled rows of {shown(self.judged.origin)}, none of them calibrated on"]
        told = ", ".join(f"{count} of {option}" for option, count in self.left_out.items())
        parts += [f"left out because they are among them: {told}"] * bool(told)
        parts += [f"not readable: {', '.join(names)}"] * bool(names)
        return "; ".join(parts)


@dataclass(frozen=True)
class Job:
    """One model to measure: its row of the guide, and how it comes to be a file: with weights, or as a random family.

    `unused` is a user's file for a family, which is not taken.
    """

    published: Published
    architecture: Architecture | None = None
    weights: Weights | None = None
    family: Any = None
    unused: Path | None = None

    @property
    def random(self) -> bool:
        return self.weights is None or self.weights.random

    @property
    def told(self) -> str:
        parts = [self.weights.told if self.weights else "random weights"]
        parts += [self.family.differs] if self.family else []
        parts += [f"{self.unused.name} is not taken, this family is only built"] if self.unused else []
        return "; ".join(parts)


def measured(
    job: Job, config: GuideConfig, data: SharedRows, folder: Path, on_progress: Callable[[Progress], None] | None
) -> GuideModel:
    """Make the model's files, publish in `folder` those that pass, and return what was measured.

    A scheme that fails or is refused is told in the result. Raises `EdgekitError` where there is no float32 file.
    """
    started = time.perf_counter()
    with artifacts.work_folder("edgekit-guide-") as room:
        model = _Model(job, config, data, folder, room, Worker(on_progress=on_progress))
        found = model.measured()
    return replace(found, seconds=round(time.perf_counter() - started, 1), peak_bytes=model.peak or None)


class _Chosen(NamedTuple):
    """Rows for one model, and their references for `convert`; `judged_at` is None where it is to take others of the former."""

    calibration: Rows
    calibrated_at: str
    judged: Rows
    judged_at: str | None


@dataclass
class _Model:
    """The making and measuring of one model's files in `work`; what passes is published in `folder`."""

    job: Job
    config: GuideConfig
    data: SharedRows
    folder: Path
    work: Path
    worker: Worker
    missing: dict[str, str] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    peak: int = 0

    def measured(self) -> GuideModel:
        published = self.job.published
        source = self._source()
        chosen = self._chosen()
        files = self._converted(source, chosen)
        float32 = next(iter(files))
        samples = self._encoded(chosen.judged, float32)
        if QAT in COLUMNS[self.config.table] and (aware := self._aware(source, chosen.calibration, float32)) is not None:
            files[aware] = QAT
        rows = self._benchmark(source, files, samples)
        self._explain(rows)
        marks = {row.scheme: mark for row in rows if row.scheme and (mark := self._mark(row.scheme))}
        return GuideModel(
            published.name,
            published.title,
            published,
            self.job.told,
            rows,
            missing=dict(self.missing),
            marks=marks,
            refused=tuple(self.refused),
            judged_rows=len(samples) if samples.labels is not None else None,
            skipped=samples.skipped if samples.labels is not None else (),
            scale_bytes={row.scheme: _scale_bytes(Path(row.path)) for row in rows if row.scheme and not row.failure},
        )

    @property
    def _trusted(self) -> bool:
        """Whether outputs mean something: neither weights nor rows are random."""
        return not self.job.random and self.data.judged is not None

    def _run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        outcome = self.worker.run(function, *args, **kwargs)
        self.peak = max(self.peak, outcome.peak_bytes)
        return outcome.value

    def _source(self) -> Path:
        """What is to be converted: the user's own model, or one that is built here."""
        job, seed = self.job, self.config.seed
        if job.family is not None:
            target = self.work / job.family.file_name
            self._run(job.family.build, target, seed)
            return target
        if job.architecture is None or job.weights is None:
            raise ConfigError(f"{job.published.name}: nothing here builds it; leave it out with --models")
        if job.weights.path is not None and job.weights.whole:
            check_size(job.architecture, parameters(job.weights.path), job.weights.path)
            return job.weights.path
        target = self.work / f"{job.published.name}.h5"
        self._run(write_model, job.architecture, job.weights, seed, target)
        return target

    def _chosen(self) -> _Chosen:
        config, job, data = self.config, self.job, self.data
        if not job.random and data.calibration is not None and data.judged is not None:
            given = config.representative_data
            if given is None or config.data is None or same_data(given, config.data):
                # `convert` draws the same rows with the same seed, and judges on others.
                return _Chosen(data.calibration, given or config.data or "", data.judged, None)
            if REPRESENTATIVE_DATA in data.left_out:
                given = _written(data.calibration, self.work / "calibration")
            return _Chosen(data.calibration, given, data.judged, config.data)
        files = []
        for number, count in enumerate((_RANDOM_ROWS if job.random else config.representative_samples, _RUN_ROWS)):
            if job.family is not None:
                target = self.work / f"{number}_{job.family.rows_name}"
                job.family.write_rows(target, count, config.seed + number)
            else:
                target = self.work / f"{number}.npz"
                random_images(target, job.architecture.size if job.architecture else 0, count, config.seed + number)
            files.append(str(target))
        return _Chosen(sources.read(files[0]), files[0], sources.read(files[1]), files[1])

    def _converted(self, source: Path, chosen: _Chosen) -> dict[Path, str]:
        """The published files with their schemes, float32 first."""
        config = self.config
        given = ConvertConfig()
        told = ConvertConfig(
            schemes=_SCHEMES[config.table],
            representative_data=chosen.calibrated_at,
            representative_samples=_RANDOM_ROWS if self.job.random else config.representative_samples,
            evaluation_data=chosen.judged_at,
            evaluation_samples=GATE_ROWS if self._trusted else _RUN_ROWS,
            max_drop=config.max_drop if self._trusted else None,
            search_seconds=0.0 if self.job.random else given.search_seconds,
            every_op=self.job.random,
            max_length=(self.job.family.max_length if self.job.family else None) or given.max_length,
            threads=config.timing.threads,
            seed=config.seed,
        )
        # The folder is this run's own: what lies in it is of a run that was interrupted, or may be replaced.
        found = convert(str(source), self.folder, told, overwrite=True, on_progress=self.worker.on_progress)
        self.peak = max([self.peak, *(step.peak_bytes for step in found.steps)])
        for result in found.results:
            if result.refused:
                self._refuse(result.scheme, result.refused)
        if not any(result.path and result.scheme == "float32" for result in found.results):
            raise RefusedError("; ".join(found.refusals))
        return {result.path: result.scheme for result in found.results if result.path}

    def _encoded(self, rows: Rows, float32: Path) -> Samples:
        content = flatbuffer.read(float32)
        encoding = assess.encoding_of(float32, assess.Data(rows.origin), self.work)
        return encode(rows, content.signature(content.entry()).inputs, encoding, self.work / "images")

    def _aware(self, source: Path, calibration: Rows, float32: Path) -> Path | None:
        """The quantization-aware file, not judged yet; None with its reason in `missing`."""
        published = self.job.published
        if QAT not in published.latency_ms:
            self.missing[QAT] = "the guide has no such row, and tfmot's 8-bit scheme no form of this model's layers"
            return None
        if source.suffix != ".h5":
            self.missing[QAT] = f"quantization-aware training takes Keras models; the weights are {source.name}"
            return None
        # Of the calibration rows, which are never judged.
        few = sources.take(calibration, draw(calibration, _SETTLING_ROWS, self.config.seed))
        settling = self.work / "settling"
        self._encoded(few, float32).save(settling)
        training = None
        if self.data.training is not None:
            taught = self.work / "training"
            self._encoded(self.data.training, float32).save(taught)
            training = Training(taught, self.config.qat_epochs, self.config.seed)
        target = self.work / f"{published.name}_{QAT}.tflite"
        try:
            self._run(write_aware, source, settling, target, training)
        except EdgekitError as error:
            self._refuse(QAT, error.message)
            return None
        return target

    def _refuse(self, scheme: str, reason: str) -> None:
        self.missing[scheme] = reason
        self.refused.append(scheme)

    def _benchmark(self, source: Path, files: Mapping[Path, str], samples: Samples) -> tuple[Measurement, ...]:
        timing = replace(self.config.timing, seed=self.config.seed)
        if samples.labels is None:
            timing = replace(timing, max_accuracy_seconds=_RUN_SECONDS)
        found = benchmark(
            list(files), samples, timing, reference=next(iter(files)), schemes=files, on_progress=self.worker.on_progress
        )
        rows = []
        for file, row in zip(files, found, strict=True):
            if not self._trusted:
                # Decisions of random weights or on random rows are noise.
                row = replace(row, agreement=None, mean_abs_error=None)
            # The others passed when they were converted.
            allowed = self.config.max_drop if samples.labels is not None else None
            reason = judge(row, allowed) if row.scheme == QAT else row.failure
            if row.scheme and reason:
                self._refuse(row.scheme, reason.replace(str(file), file.name))
                if row.scheme == QAT:
                    continue
            if row.scheme == QAT:
                row = self._publish(file, source, row)
            rows.append(row)
        if not any(row.scheme == QAT for row in rows):
            # One of an earlier run is none of this one's files.
            for stale in (final := self._aware_file, final.with_suffix(".json")):
                stale.unlink(missing_ok=True)
        return tuple(rows)

    @property
    def _aware_file(self) -> Path:
        return self.folder / f"{self.job.published.name}_{QAT}.tflite"

    def _publish(self, file: Path, source: Path, row: Measurement) -> Measurement:
        """Put the quantization-aware file under its name with its manifest; returns the measurement under that name."""
        final, config = self._aware_file, self.config
        row = replace(row, path=str(final))
        with artifacts.staged(final, overwrite=True) as partial:
            shutil.copyfile(file, partial)
            manifest = artifacts.describe(
                partial,
                "tflite",
                name=final.name,
                parents={str(source): artifacts.sha256(source)},
                # What `report` knows as a scheme.
                config={**config.__dict__, "scheme": "int8", "technique": QAT},
                tools=("tensorflow", "tf_keras", "tensorflow-model-optimization", "ai-edge-litert"),
                measured={"measurement": row, "data": self.data.told(), "plan": trained_plan(file), "labels": {}},
            )
        artifacts.write_text(final.with_suffix(".json"), artifacts.to_json(manifest))
        return row

    def _explain(self, rows: Sequence[Measurement]) -> None:
        """Why cells of accuracy are empty."""
        without = "random weights: their accuracy would say nothing"
        reason = without if self.job.random else "no labelled rows were given (--data)"
        for row in rows:
            if row.accuracy is None and row.scheme:
                self.missing[cell(row.scheme, "accuracy")] = row.failure or reason

    def _mark(self, scheme: str) -> str:
        """What has to stand with every figure of a scheme."""
        drawn = self.data.calibration is None and not self.job.random and scheme not in ("float32", "float16")
        parts = (
            (self.job.random, "random weights"),
            (scheme == QAT and self.data.training is None, "ranges calibrated without training"),
            (drawn, "calibrated on random images"),
        )
        return ", ".join(text for holds, text in parts if holds)


def _written(rows: Rows, place: Path) -> str:
    """The reference of a data set that holds `rows` alone, written at `place`: an .npz, or a folder that lists image files."""
    if isinstance(rows, ArrayRows):
        target = place.with_suffix(".npz")
        np.savez(target, **rows.arrays)  # type: ignore[arg-type]
        return str(target)
    place.mkdir()
    lines = [str(file.resolve()) for file in rows.files] if isinstance(rows, ImageRows) else []
    (place / "labels.tsv").write_text("\n".join(["file", *lines]) + "\n", encoding="utf-8")
    return str(place)


def _scale_bytes(file: Path) -> int:
    """What scales take of a file."""
    return _SCALE_BYTES * sum(tensor.scales for graph in flatbuffer.read(file).subgraphs for tensor in graph.tensors)
