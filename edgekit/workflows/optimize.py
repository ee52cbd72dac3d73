"""Smaller and faster models from a Keras classifier by training: each converted, measured on unseen rows, published or refused."""

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data import sources
from edgekit.data.encode import Encoding
from edgekit.data.overlap import array_digests
from edgekit.data.representative import MINIMUM, draw
from edgekit.data.samples import Array, Samples, described
from edgekit.data.sources import ImageRows, Rows, TextRows
from edgekit.errors import ConversionError, DatasetError, ModelFormatError, RefusedError, WorkerError, about
from edgekit.measure.judge import BenchmarkConfig, benchmark
from edgekit.measure.machine import machine
from edgekit.measure.measurement import Measurement, refusal
from edgekit.models import keras2
from edgekit.models.source import Kind, Source, classify
from edgekit.report.content import FILE_NAME, LearningCurve, Report
from edgekit.spec import DataSpec, TensorSpec, shown
from edgekit.stages.keras.config import TECHNIQUES, History, OptimizeConfig, Optimized, Technique, select
from edgekit.stages.keras.techniques import apply, describe
from edgekit.stages.quantize.plan import QuantizationPlan
from edgekit.system import artifacts, rooms, settings
from edgekit.system.settings import check, inside, setting
from edgekit.system.worker import OnProgress, Worker
from edgekit.tasks.classification import IMAGE_CLASSIFICATION, TABULAR_CLASSIFICATION
from edgekit.workflows.convert.config import ConvertConfig
from edgekit.workflows.convert.conversion import convert

ORIGINAL = "original"
SCHEMES = ("float32", "int8")
REPORTS = (FILE_NAME, "report.html")
_REMEDY = "train for more epochs, or ask for less sparsity or more clusters"
_REPRESENTATIVE = 400
_ROUNDS, _RUNS = 3, 90
_TOOLS = ("tensorflow", "tf_keras", "tensorflow-model-optimization", "ai-edge-quantizer", "ai-edge-litert")
_COMPRESSION = (
    "Sparse and clustered files are as large and as fast as before: they are smaller only where they are compressed (gzip)."
)


@dataclass(frozen=True)
class OptimizingConfig:
    """Options of `edgekit optimize`.

    `max_drop` is the accuracy (a proportion) that a file may lose against the original float32 model on the evaluation rows.
    Arrays are taken as they are, images to [-1, 1], unless `data` has a mean and a standard deviation."""

    techniques: tuple[str, ...] = setting(words="Repeats.", option="--technique", choices=(*TECHNIQUES, "all"))
    data: DataSpec = setting(words="Labelled training rows: {data}.", option="--dataset")
    evaluation_data: DataSpec | None = setting(
        None, "Labelled rows to judge on, never trained on; left out, a share of the data set."
    )
    optimize: OptimizeConfig = setting(default_factory=OptimizeConfig, inline=True)
    max_drop: float | None = settings.max_drop()
    evaluation_share: float = setting(0.2, "Share kept without --evaluation-data.", inside(0, 1, 0.2, what="a proportion"))
    threads: int = settings.threads()

    def __post_init__(self) -> None:
        select(self.techniques)
        check(self)


@dataclass(frozen=True)
class Optimization:
    """The report of one run, the files that it published, and why others were refused, by technique and scheme."""

    report: Report
    published: tuple[Path, ...]
    refusals: tuple[str, ...]


@dataclass(frozen=True)
class _File:
    """One file before it is measured; `optimized` and `model` (its .h5) are None for the original model."""

    technique: str
    scheme: str
    path: Path
    plan: QuantizationPlan | None
    optimized: Optimized | None = None
    model: Path | None = None

    @property
    def name(self) -> str:
        return f"{self.technique} {self.scheme}"


def optimize(
    model: str, out: Path, config: OptimizingConfig, *, overwrite: bool = False, on_progress: OnProgress = None
) -> Optimization:
    """Publish OUT/<model>_<technique>.h5 and its `_float32.tflite` and `_int8.tflite`, each with a manifest, and the report.

    Raises `InputError`, `ConfigError`, `WorkerError` and `OutputError`; a technique that cannot be applied, or a file that
    is refused, does not keep the others from being published, and is in the result with the reason."""
    techniques = select(config.techniques)
    source = classify(model)
    if source.kind is Kind.KERAS_3:
        raise keras2.keras_3(model)
    if source.kind is not Kind.KERAS:
        raise ModelFormatError(f"{model}: is no Keras model; give a Keras 2 .h5, or for a checkpoint use edgekit prune")
    finals = [_final(out, source, technique, scheme) for technique in techniques for scheme in ("", *SCHEMES)]
    for final in (*finals, *(final.with_suffix(".json") for final in finals), *(out / name for name in REPORTS)):
        artifacts.refuse_existing(final, overwrite=overwrite)
    rows = _read(config.data)
    judged = _read(config.evaluation_data) if config.evaluation_data is not None else None
    worker = Worker(on_progress=on_progress)
    with artifacts.claimed(out), rooms.temporary("optimize") as room, about(source.path):
        spec, classes = worker.run(describe, source.path).value
        training, evaluation, notes = _samples(rows, judged, config, spec, classes, room)
        training.save(room / "training")
        representative = _representative(training, room, config.optimize.training.seed)
        files, unmade = _converted(source.path, ORIGINAL, representative, room, config, None)
        refusals: list[str] = []
        if not files or files[0].scheme != "float32":
            raise RefusedError(f"{source.path}: the original model cannot be converted, so there is nothing to compare with")
        for technique in techniques:
            smaller = room / f"{technique.name}.h5"
            try:
                optimized = worker.run(apply, source.path, room / "training", technique.name, config.optimize, room).value
                converted, reasons = _converted(smaller, technique.name, representative, room, config, optimized)
                files += converted
                refusals += reasons
            except (ConversionError, ModelFormatError, WorkerError) as error:
                refusals.append(f"{technique.name}: {error.message}")
        schemes = {file.path: file.scheme for file in files}
        timing = BenchmarkConfig(threads=config.threads, runs=_RUNS, rounds=_ROUNDS, seed=config.optimize.training.seed)
        measured = benchmark(list(schemes), evaluation, timing, reference=files[0].path, schemes=schemes, on_progress=on_progress)
        where = described(evaluation, (config.evaluation_data or config.data).origin)
        publisher = _Publisher(out, source, config, where, overwrite)
        figures = [publisher.publish(file, row, refusals) for file, row in zip(files, measured, strict=True)]
        report = _report(source, files, figures, timing, where, [*notes, *unmade, *_words(files, len(training))])
        return Optimization(report, tuple(publisher.published), tuple(refusals))


def _final(out: Path, source: Source, technique: Technique, scheme: str = "") -> Path:
    return out / (f"{source.name}_{technique.name}_{scheme}.tflite" if scheme else f"{source.name}_{technique.name}.h5")


def _read(spec: DataSpec) -> Rows:
    rows = sources.read(spec, labelled=True)
    if isinstance(rows, TextRows):
        raise DatasetError(f"{rows.origin}: holds texts; give an .npz file or an image folder with labels.tsv")
    return rows


def _samples(
    rows: Rows, judged: Rows | None, config: OptimizingConfig, spec: TensorSpec, classes: int, room: Path
) -> tuple[Samples, Samples, list[str]]:
    """Rows to train on and rows to judge on as the model takes them, no row in both; and what was left out for that."""
    encoding = Encoding(classes=classes, mean=config.data.mean, std=config.data.std)

    def encode(some: Rows) -> Samples:
        task = IMAGE_CLASSIFICATION if isinstance(some, ImageRows) else TABULAR_CLASSIFICATION
        return task.encode(some, [spec], encoding, task.settings({}, [str(number) for number in range(classes)]), room / "images")

    training = encode(rows)
    if judged is not None:
        evaluation = encode(judged)
    else:
        order = np.random.default_rng(config.optimize.training.seed).permutation(len(training))
        count = round(len(training) * config.evaluation_share)
        training, evaluation = training.take(np.sort(order[count:])), training.take(np.sort(order[:count]))
    seen = set(array_digests(evaluation.inputs))
    apart = [number for number, digest in enumerate(array_digests(training.inputs)) if digest not in seen]
    if not apart or not len(evaluation):
        raise DatasetError(f"{rows.origin}: no row is left to train on that is not judged on; give other --evaluation-data")
    notes = []
    if left_out := len(training) - len(apart):
        notes.append(f"{left_out} rows of {shown(rows.origin)} are among the evaluation rows and were left out of training.")
        training = training.take(apart)
    if judged is not None and training.skipped:
        notes.append(f"Trained on {described(training, rows.origin)}.")
    if len(labels := np.unique(np.asarray(training.labels))) < 2:
        raise DatasetError(f"{rows.origin}: all rows to train on have the label {labels[0]}; give rows of at least two classes")
    return training, evaluation, notes


def _representative(training: Samples, room: Path, seed: int) -> Path:
    """Some training rows as a file that `convert` calibrates on, and on others of which it judges."""
    few = training.take(draw(len(training), _REPRESENTATIVE, seed))
    if len(few) < 2 * MINIMUM:
        raise DatasetError(f"{len(training)} training rows are too few; give at least {2 * MINIMUM}")
    path = room / "representative.npz"
    arrays: dict[str, Array] = {**few.inputs, "labels": np.asarray(few.labels)}
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def _converted(
    model: Path, technique: str, representative: Path, room: Path, config: OptimizingConfig, optimized: Optimized | None
) -> tuple[list[_File], list[str]]:
    """The model's files in both schemes, and why one is missing."""
    convert_config = ConvertConfig(
        SCHEMES,
        data=DataSpec(str(representative)),
        representative_samples=_REPRESENTATIVE // 2,
        # What is lost is judged later, against the original model.
        max_drop=None,
        threads=config.threads,
        seed=config.optimize.training.seed,
    )
    results = convert(str(model), room / "tflite" / technique, convert_config).results
    h5 = model if optimized is not None else None
    files = [_File(technique, item.scheme, item.path, item.plan, optimized, h5) for item in results if item.path]
    return files, [f"{technique} {item.scheme}: {item.refused}" for item in results if item.refused]


@dataclass
class _Publisher:
    """Puts files under their names with what was measured, or says why not."""

    out: Path
    source: Source
    config: OptimizingConfig
    data: str
    overwrite: bool
    published: list[Path] = field(default_factory=list)

    def publish(self, file: _File, figures: Measurement, refusals: list[str]) -> Measurement:
        """The measurement under the file's final name, with its `failure` where it was refused."""
        if file.model is None:
            return replace(figures, path=f"{self.source.path} in {file.scheme}")
        technique = TECHNIQUES[file.technique]
        final = _final(self.out, self.source, technique, file.scheme)
        named = replace(figures, path=str(final))
        if reason := refusal(figures, self.config.max_drop, None, _REMEDY):
            refusals.append(f"{file.name}: {reason}")
            return replace(named, failure=f"{final.name}: refused: {reason}")
        contents = [(file.path, final, "tflite")]
        if file.scheme == "float32":
            contents.insert(0, (file.model, _final(self.out, self.source, technique), "keras"))
        about: dict[str, Any] = {
            "parents": {str(self.source.path): artifacts.sha256(self.source.path)},
            "config": {"technique": file.technique, "scheme": file.scheme, **self.config.__dict__},
            "measured": {"measurement": named, "plan": file.plan, "data": self.data, "optimized": file.optimized},
        }
        for path, target, kind in contents:
            with artifacts.published(target, kind, tools=_TOOLS, overwrite=self.overwrite, **about) as draft:
                shutil.copyfile(path, draft.path)
            self.published.append(target)
        return named


def _report(
    source: Source, files: list[_File], rows: list[Measurement], timing: BenchmarkConfig, data: str, notes: list[str]
) -> Report:
    optimized = [file.optimized for file in files if file.optimized is not None]
    histories = {history.stage: history for item in optimized for history in item.histories}
    return Report(
        title=f"edgekit optimize: {source.name}",
        model=source.name,
        data=data,
        machine=machine(),
        settings={"threads": timing.threads, "runs": timing.runs, "rounds": timing.rounds, "batch": 1, "seed": timing.seed},
        rows=tuple(rows),
        reference=rows[0].path,
        notes=(_COMPRESSION, *notes),
        training={stage: _summary(history) for stage, history in histories.items()},
        curves=tuple(_curve(history) for history in histories.values()),
        versions=tuple(file.name for file in files),
    )


def _summary(history: History) -> dict[str, Any]:
    best = next((epoch for epoch in history.epochs if epoch.number == history.best), history.epochs[-1])
    return {
        "Epoch kept": f"{history.best} of {history.epochs[-1].number}",
        "Held-out accuracy": best.accuracy,
        "Held-out loss": best.loss,
        "Training rows": history.training_rows,
        "Held-out rows": history.held_out_rows,
        "Seconds": round(history.seconds, 1),
    }


def _curve(history: History) -> LearningCurve:
    each = history.steps // max(1, history.epochs[-1].number)
    training = tuple((each * epoch.number, epoch.training_loss) for epoch in history.epochs if epoch.training_loss is not None)
    return LearningCurve(history.stage, training, tuple((each * item.number, item.loss, item.accuracy) for item in history.epochs))


def _words(files: list[_File], rows: int) -> list[str]:
    """What each thinned model's weights became; every technique trained on the same rows."""
    words = [f"Every technique was trained on {rows} rows, a part of which chose its epoch; none of them is judged on."]
    for item in files:
        technique = TECHNIQUES.get(item.technique)
        if technique and item.optimized and item.scheme == "float32" and (technique.sparse or technique.clustered):
            kernels = item.optimized.weights
            total = sum(kernel.count for kernel in kernels)
            zeros = sum(kernel.sparsity * kernel.count for kernel in kernels) / total
            share = f"{100 * zeros:.1f} % of the {total} weights of {len(kernels)} kernels are zero"
            most = max(kernel.distinct for kernel in kernels)
            distinct = f", at most {most} distinct values in each" if technique.clustered else ""
            words.append(f"{item.technique}: {share}{distinct}.")
    return words
