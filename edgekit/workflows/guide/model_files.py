"""One model of the guide: made, converted in every scheme, and all of its files measured side by side."""

import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from edgekit.data import sources
from edgekit.data.representative import COUNT, MINIMUM, draw
from edgekit.data.samples import Samples
from edgekit.data.sources import Rows
from edgekit.errors import ConfigError, EdgekitError, RefusedError
from edgekit.measure.judge import BenchmarkConfig, benchmark
from edgekit.measure.measurement import Measurement, refusal
from edgekit.spec import DatasetReference, DataSpec, shown
from edgekit.stages.keras.config import TrainConfig
from edgekit.stages.quantize.plan import trained_plan
from edgekit.system import artifacts, rooms, settings
from edgekit.system.settings import at_least, check, setting
from edgekit.system.worker import OnProgress, Worker
from edgekit.tasks.classification import IMAGE_CLASSIFICATION
from edgekit.tasks.judgement import Judgement
from edgekit.tflite import flatbuffer
from edgekit.workflows.convert.config import ConvertConfig
from edgekit.workflows.convert.conversion import convert
from edgekit.workflows.guide import networks
from edgekit.workflows.guide.families import Family
from edgekit.workflows.guide.networks import Architecture, Weights
from edgekit.workflows.guide.published import COLUMNS, TABLES, Published
from edgekit.workflows.guide.qat import write_aware
from edgekit.workflows.guide.results import GuideModel, cell
from edgekit.workflows.inputs import encode_for

# A float32; the zero points of all channels are 0 and stored once.
_SCALE_BYTES = 4
QAT = "qat"
# Options that may name rows that are judged, as `SharedRows.left_out` and messages write them.
REPRESENTATIVE_DATA, QAT_DATA = "--representative-data", "--qat-data"
_SCHEMES = {1: ("float32", "float16", "dynamic", "int8", "int16x8"), 2: ("float32", "int8", "int16x8")}
# Rows where nothing but shapes counts: to calibrate on, and to run the files on. On reference kernels each takes seconds.
_RANDOM_ROWS, _RUN_ROWS = 16, 4
_RUN_SECONDS = 4.0
# Rows that settle the ranges of a quantization-aware model, and rows that `convert` judges by before all are run.
_SETTLING_ROWS, GATE_ROWS = 64, 100
_QAT_RATE = 1e-5
_REMEDY = "train on more rows (--qat-data), or for more epochs"
TIMING = BenchmarkConfig(runs=60, warmup=5, rounds=3, max_seconds=6.0)


@dataclass(frozen=True)
class GuideConfig:
    """Options of `edgekit guide run`. Raises `ConfigError` where they contradict each other, or could have no effect."""

    table: int = setting(1, "Which of the guide's tables.")
    models: tuple[str, ...] = setting((), "Rows of it, such as mobilenet_v2; left out, all.", metavar="NAME,…", joined=True)
    weights: str = setting(
        networks.IMAGENET,
        "imagenet (downloaded by Keras), random, or a folder with NAME.h5, NAME.onnx, NAME.tflite or a SavedModel NAME.",
    )
    data: DatasetReference | None = setting(
        None, "Labelled rows for accuracy, and others of them to calibrate on: {data}.", metavar="D"
    )
    representative_data: DatasetReference | None = setting(None, "Rows to calibrate on in place of those.", metavar="D")
    representative_samples: int = setting(COUNT, "How many of them, drawn with the seed.", at_least(MINIMUM))
    qat_data: DatasetReference | None = setting(
        None, "Labelled rows to train quantization-aware; left out, ranges are calibrated only.", metavar="D"
    )
    qat_epochs: int = setting(1, "Of that training.", at_least(1))
    max_drop: float | None = settings.max_drop()
    timing: BenchmarkConfig = setting(TIMING, inline=True)
    seed: int = settings.seed()

    def __post_init__(self) -> None:
        if self.table not in TABLES:
            raise ConfigError(f"table is {self.table}; the guide has {' and '.join(map(str, TABLES))}")
        names = [published.name for published in TABLES[self.table]]
        if unknown := [name for name in self.models if name not in names]:
            raise ConfigError(f"models: {unknown[0]} is not in table {self.table}; choose from {', '.join(names)}")
        check(self)
        for option, why in (
            ("qat_data", "training needs weights to begin with"),
            ("data", "the accuracy of random weights would say nothing"),
            ("representative_data", "random weights are calibrated on random rows"),
        ):
            if self.weights == networks.RANDOM and getattr(self, option) is not None:
                raise ConfigError(f"{option}: {why}; leave --{option.replace('_', '-')} out or give --weights DIR")
        if self.qat_data is not None and QAT not in COLUMNS[self.table]:
            raise ConfigError(f"qat_data: table {self.table} has no quantization-aware figures; leave --qat-data out")
        if self.qat_data is not None and self.data is not None and same_data(self.qat_data, self.data):
            raise ConfigError(f"qat_data: {self.qat_data} is judged on as well; train on other rows than those of --data")
        if not any(name in networks.ARCHITECTURES for name in self.models or names):
            weights = self.weights if self.weights not in (networks.IMAGENET, networks.RANDOM) else None
            options = {"data": self.data, "representative_data": self.representative_data, "weights": weights}
            if idle := [name for name, value in options.items() if value is not None]:
                models, option = ", ".join(self.models), f"--{idle[0].replace('_', '-')}"
                raise ConfigError(f"{idle[0]}: {models} can only be built at random weights; leave {option} out")


def same_data(one: str, other: str) -> bool:
    """Whether two references are of the same file or folder, or of the same set on the hub."""
    return one == other or Path(one).resolve() == Path(other).resolve()


@dataclass(frozen=True)
class SharedRows:
    """Rows that all models share: to calibrate on, to judge on (never the same), to train on; None where there are none.

    `judged` has labels where `--data` gave them; else it is what calibration leaves of its own rows, for agreement alone.
    `left_out` counts by option the rows to calibrate or to train on that are judged, so that they were left out."""

    calibration: Rows | None = None
    judged: Rows | None = None
    training: Rows | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def labelled(self) -> bool:
        return self.judged is not None and self.judged.labels is not None

    def described(self, skipped: Iterable[str] = ()) -> str:
        """What was judged on, without the images called `skipped`, which could not be read."""
        if self.judged is None:
            return "no data"
        if not self.labelled:
            return f"no labelled data, calibrated on rows of {shown(self.judged.origin)}"
        names = sorted(set(skipped))
        parts = [f"{len(self.judged) - len(names)} labelled rows of {shown(self.judged.origin)}, none of them calibrated on"]
        left_out = ", ".join(f"{count} of {option}" for option, count in self.left_out.items())
        parts += [f"left out because they are among them: {left_out}"] * bool(left_out)
        parts += [f"not readable: {', '.join(names)}"] * bool(names)
        return "; ".join(parts)


@dataclass(frozen=True)
class Job:
    """One model to measure: its row of the guide, and how it comes to be a file: with weights, or as a random family.

    `unused` is a user's file for a family, which is not taken."""

    published: Published
    architecture: Architecture | None = None
    weights: Weights | None = None
    family: Family | None = None
    unused: Path | None = None

    @property
    def random(self) -> bool:
        return self.weights is None or self.weights.random

    @property
    def described(self) -> str:
        parts = [self.weights.described if self.weights else "random weights"]
        parts += [self.family.differs] if self.family else []
        parts += [f"{self.unused.name} is not taken, this family is only built"] if self.unused else []
        return "; ".join(parts)


def measure(job: Job, config: GuideConfig, data: SharedRows, folder: Path, on_progress: OnProgress) -> GuideModel:
    """Make the model's files, publish in `folder` those that pass, and return what was measured.

    A scheme that fails or is refused is in the result with its reason. Raises `EdgekitError` where there is no float32 file."""
    started = time.perf_counter()
    with rooms.temporary("guide") as room:
        model = _Model(job, config, data, folder, room, Worker(on_progress=on_progress))
        result = model.measured()
    return replace(result, seconds=round(time.perf_counter() - started, 1), peak_bytes=model.peak or None)


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
        calibration, judged = self._rows()
        files = self._converted(source, calibration, judged)
        float32 = next(iter(files))
        samples = self._encoded(judged, float32)
        if QAT in COLUMNS[self.config.table] and (aware := self._aware(source, calibration, float32)) is not None:
            files[aware] = QAT
        rows = self._benchmark(source, files, samples)
        random = "random weights: their accuracy would say nothing"
        reason = random if self.job.random else "no labelled rows were given (--data)"
        empty = [row for row in rows if row.metric is None and row.scheme]
        self.missing |= {cell(row.scheme or "", "accuracy"): row.failure or reason for row in empty}
        marks = {row.scheme: mark for row in rows if row.scheme and (mark := self._mark(row.scheme))}
        return GuideModel(
            published.name,
            published.title,
            published,
            self.job.described,
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

    def _run(self, function: Callable[..., object], *arguments: object) -> None:
        outcome = self.worker.run(function, *arguments)
        self.peak = max(self.peak, outcome.peak_bytes)

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
            networks.check_size(job.architecture, networks.parameters(job.weights.path), job.weights.path)
            return job.weights.path
        target = self.work / f"{job.published.name}.h5"
        self._run(networks.write_model, job.architecture, job.weights, seed, target)
        return target

    def _rows(self) -> tuple[Rows, Rows]:
        """Rows to calibrate on, and rows to judge on."""
        config, job, data = self.config, self.job, self.data
        if not job.random and data.calibration is not None and data.judged is not None:
            return data.calibration, data.judged
        size = job.architecture.size if job.architecture else 0
        name = job.family.rows_name if job.family else "random.npz"
        write = job.family.write_rows if job.family else partial(networks.random_images, size=size)
        counts = _RANDOM_ROWS if job.random else config.representative_samples, _RUN_ROWS
        files = [self.work / f"{number}_{name}" for number in range(2)]
        for number, (file, count) in enumerate(zip(files, counts, strict=True)):
            write(file, count, config.seed + number)
        calibration, judged = (sources.read(DataSpec(file)) for file in files)
        return calibration, judged

    @property
    def _task(self) -> str | None:
        """What the files are judged as."""
        return IMAGE_CLASSIFICATION.name if self.job.family is None else None

    def _converted(self, source: Path, calibration: Rows, judged: Rows) -> dict[Path, str]:
        """The published files with their schemes, float32 first."""
        config, usual = self.config, ConvertConfig()
        settings = ConvertConfig(
            schemes=_SCHEMES[config.table],
            task=self._task,
            data=DataSpec(calibration),
            representative_samples=_RANDOM_ROWS if self.job.random else config.representative_samples,
            evaluation_data=DataSpec(judged),
            evaluation_samples=GATE_ROWS if self._trusted else _RUN_ROWS,
            max_drop=config.max_drop if self._trusted else None,
            min_db=usual.min_db if self._trusted else None,
            search_seconds=0.0 if self.job.random else usual.search_seconds,
            every_op=self.job.random,
            max_length=(self.job.family.max_length if self.job.family else None) or usual.max_length,
            threads=config.timing.threads,
            seed=config.seed,
        )
        # The folder is this run's own: what lies in it is of a run that was interrupted, or may be replaced.
        conversion = convert(str(source), self.folder, settings, overwrite=True, on_progress=self.worker.on_progress)
        self.peak = max([self.peak, *(step.peak_bytes for step in conversion.float_model.steps)])
        for result in conversion.results:
            if result.refused:
                self._refuse(result.scheme, result.refused)
        if not any(result.path and result.scheme == "float32" for result in conversion.results):
            raise RefusedError("; ".join(conversion.refusals))
        return {result.path: result.scheme for result in conversion.results if result.path}

    def _encoded(self, rows: Rows, float32: Path) -> Samples:
        return encode_for(float32, DataSpec(rows), self.work, self._task)

    def _aware(self, source: Path, calibration: Rows, float32: Path) -> Path | None:
        """The quantization-aware file, not judged yet; None with its reason in `missing`."""
        if QAT not in self.job.published.latency_ms:
            self.missing[QAT] = "the guide has no such row, and tfmot's 8-bit scheme no form of this model's layers"
        elif source.suffix != ".h5":
            self.missing[QAT] = f"quantization-aware training takes Keras models; the weights are {source.name}"
        if QAT in self.missing:
            return None
        # Of the calibration rows, which are never judged.
        few = sources.take(calibration, draw(calibration, _SETTLING_ROWS, self.config.seed))
        settling = self.work / "settling"
        self._encoded(few, float32).save(settling)
        training = None if self.data.training is None else self.work / "training"
        if self.data.training is not None and training is not None:
            self._encoded(self.data.training, float32).save(training)
        how = TrainConfig(epochs=self.config.qat_epochs, seed=self.config.seed, learning_rate=_QAT_RATE)
        target = self.work / self._aware_file.name
        try:
            self._run(write_aware, source, settling, target, training, how)
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
        measured = benchmark(
            list(files), samples, timing, reference=next(iter(files)), schemes=files, on_progress=self.worker.on_progress
        )
        rows = []
        for file, row in zip(files, measured, strict=True):
            if not self._trusted:
                # Decisions of random weights or on random rows are noise.
                row = row.judged(Judgement(0), row.task or "")
            # The others passed when they were converted.
            aware, allowed = row.scheme == QAT, self.config.max_drop if samples.labels is not None else None
            reason = refusal(row, allowed, None, _REMEDY) if aware else row.failure
            if row.scheme and reason:
                self._refuse(row.scheme, reason.replace(str(file), file.name))
            if not aware:
                rows.append(row)
            elif not reason:
                rows.append(self._publish(file, source, row))
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
        final = self._aware_file
        row = replace(row, path=str(final))
        with artifacts.published(
            final,
            "tflite",
            parents={str(source): artifacts.sha256(source)},
            # What `report` knows as a scheme.
            config={**self.config.__dict__, "scheme": "int8", "technique": QAT},
            tools=("tensorflow", "tf_keras", "tensorflow-model-optimization", "ai-edge-litert"),
            measured={"measurement": row, "data": self.data.described(), "plan": trained_plan(file)},
            overwrite=True,
        ) as draft:
            shutil.copyfile(file, draft.path)
        return row

    def _mark(self, scheme: str) -> str:
        """What has to stand with every figure of a scheme."""
        drawn = self.data.calibration is None and not self.job.random and scheme not in ("float32", "float16")
        marks = {
            "random weights": self.job.random,
            "ranges calibrated without training": scheme == QAT and self.data.training is None,
            "calibrated on random images": drawn,
        }
        return ", ".join(mark for mark, holds in marks.items() if holds)


def _scale_bytes(file: Path) -> int:
    """What scales take of a file."""
    return _SCALE_BYTES * sum(tensor.scales for graph in flatbuffer.read(file).subgraphs for tensor in graph.tensors)
