"""Smaller and faster models from a Keras classifier by training: each converted, measured on unseen rows, published or refused."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data import sources
from edgekit.data.encode import Encoding, encode
from edgekit.data.overlap import array_digests
from edgekit.data.representative import MINIMUM, draw
from edgekit.data.samples import Array, Samples, described
from edgekit.data.sources import Columns, Rows, TextRows
from edgekit.errors import ConfigError, ConversionError, DatasetError, ModelFormatError, RefusedError, WorkerError
from edgekit.measure.judge import BenchmarkConfig, benchmark, check_threads
from edgekit.measure.machine import machine
from edgekit.measure.measurement import Measurement
from edgekit.report.content import FILE_NAME, LearningCurve, Report
from edgekit.spec import TensorSpec, shown
from edgekit.stages.keras.config import TECHNIQUES, History, OptimizeConfig, Optimized, Technique, select
from edgekit.stages.keras.techniques import describe, optimize
from edgekit.stages.quantize.plan import QuantizationPlan
from edgekit.system import artifacts
from edgekit.system.worker import Progress, Worker
from edgekit.workflows.convert import bridge
from edgekit.workflows.convert.bridge import Kind, Source
from edgekit.workflows.convert.config import ConvertConfig
from edgekit.workflows.convert.conversion import convert
from edgekit.workflows.convert.publish import judge

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
    """What `edgekit optimize` is told.

    `max_drop` is the accuracy (a proportion) that a file may lose against the original float32 model on the evaluation rows;
    None judges nothing. Without evaluation data the share `evaluation_share` of the data set is kept for it. `mean` and `std`
    are those of real = (stored - mean) / std; arrays are taken as they are, images to [-1, 1], unless told.
    """

    techniques: tuple[str, ...]
    optimize: OptimizeConfig = field(default_factory=OptimizeConfig)
    max_drop: float | None = 0.05
    evaluation_share: float = 0.2
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    threads: int = 2

    def __post_init__(self) -> None:
        select(self.techniques)
        check_threads(self.threads)
        if self.max_drop is not None and not 0 <= self.max_drop <= 1:
            raise ConfigError(f"max_drop is {self.max_drop:g}; give a proportion between 0 and 1, such as 0.01")
        if not 0 < self.evaluation_share < 1:
            raise ConfigError(f"evaluation_share is {self.evaluation_share:g}; give a proportion between 0 and 1, such as 0.2")


@dataclass(frozen=True)
class Optimization:
    """The report of one run, the files that it published, and why others were refused, by technique and scheme."""

    report: Report
    published: tuple[Path, ...]
    refusals: tuple[str, ...]


@dataclass(frozen=True)
class _Made:
    """One file before it is measured; `optimized` and `model` (its .h5) are None for the original model."""

    technique: str
    scheme: str
    file: Path
    plan: QuantizationPlan | None
    optimized: Optimized | None = None
    model: Path | None = None

    @property
    def name(self) -> str:
        return f"{self.technique} {self.scheme}"


def run(
    model: str,
    dataset: str,
    out: Path,
    config: OptimizingConfig,
    *,
    evaluation_data: str | None = None,
    columns: Columns = Columns(),  # noqa: B008 - frozen
    overwrite: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> Optimization:
    """Publish OUT/<model>_<technique>.h5 and its `_float32.tflite` and `_int8.tflite`, each with a manifest, and the report.

    Raises `InputError`, `ConfigError`, `WorkerError` and `OutputError`; a technique that cannot be applied, or a file that
    is refused, does not keep the others from being published, and is told in the result.
    """
    chosen = select(config.techniques)
    source = _source(model)
    finals = [_final(out, source, technique, scheme) for technique in chosen for scheme in ("", *SCHEMES)]
    for final in (*finals, *(final.with_suffix(".json") for final in finals), *(out / name for name in REPORTS)):
        artifacts.refuse_existing(final, overwrite=overwrite)
    given = _read(dataset, columns)
    judged = _read(evaluation_data, columns) if evaluation_data is not None else None
    worker = Worker(on_progress=on_progress)
    with artifacts.claimed(out), artifacts.work_folder("edgekit-optimize-") as room:
        spec, classes = worker.run(describe, source.path).value
        training, evaluation, notes = _rows(given, judged, config, spec, classes, room)
        training.save(room / "training")
        representative = _representative(training, room, config.optimize.training.seed)
        made, unmade = _converted(source.path, ORIGINAL, representative, room, config, None)
        refusals: list[str] = []
        if not made or made[0].scheme != "float32":
            raise RefusedError(f"{source.path}: the original model cannot be converted, so there is nothing to compare with")
        for technique in chosen:
            try:
                found = worker.run(optimize, source.path, room / "training", technique.name, config.optimize, room).value
                files, told = _converted(room / f"{technique.name}.h5", technique.name, representative, room, config, found)
                made += files
                refusals += told
            except (ConversionError, ModelFormatError, WorkerError) as error:
                refusals.append(f"{technique.name}: {error.message}")
        names = {item.file: item.scheme for item in made}
        timing = BenchmarkConfig(threads=config.threads, runs=_RUNS, rounds=_ROUNDS, seed=config.optimize.training.seed)
        measured = benchmark(list(names), evaluation, timing, reference=made[0].file, schemes=names, on_progress=on_progress)
        where = described(evaluation, evaluation_data or dataset)
        publisher = _Publisher(out, source, config, {"dataset": dataset, "evaluation_data": evaluation_data}, where, overwrite)
        rows = [publisher.publish(item, found, refusals) for item, found in zip(made, measured, strict=True)]
        report = _report(source, made, rows, config, timing, where, [*notes, *unmade, *_words(made, len(training))])
        return Optimization(report, tuple(publisher.published), tuple(refusals))


def _source(model: str) -> Source:
    source = bridge.classify(model)
    if source.kind is not Kind.KERAS:
        raise ModelFormatError(f"{model}: is no Keras model; give a Keras 2 .h5, or for a checkpoint use edgekit prune")
    return source


def _final(out: Path, source: Source, technique: Technique, scheme: str = "") -> Path:
    return out / (f"{source.name}_{technique.name}_{scheme}.tflite" if scheme else f"{source.name}_{technique.name}.h5")


def _read(reference: str, columns: Columns) -> Rows:
    rows = sources.read(reference, text_columns=columns.text_columns, label_column=columns.label_column, labelled=True)
    if isinstance(rows, TextRows):
        raise DatasetError(f"{rows.origin}: holds texts; give an .npz file or an image folder with labels.tsv")
    return rows


def _rows(
    given: Rows, judged: Rows | None, config: OptimizingConfig, spec: TensorSpec, classes: int, room: Path
) -> tuple[Samples, Samples, list[str]]:
    """Rows to train on and rows to judge on as the model takes them, no row in both; and what was left out for that."""
    encoding = Encoding(classes=classes, mean=config.mean, std=config.std)
    training = encode(given, [spec], encoding, room / "images")
    if judged is not None:
        evaluation = encode(judged, [spec], encoding, room / "images")
    else:
        order = np.random.default_rng(config.optimize.training.seed).permutation(len(training))
        count = round(len(training) * config.evaluation_share)
        training, evaluation = training.take(np.sort(order[count:])), training.take(np.sort(order[:count]))
    seen = set(array_digests(evaluation.inputs))
    apart = [number for number, digest in enumerate(array_digests(training.inputs)) if digest not in seen]
    if not apart or not len(evaluation):
        raise DatasetError(f"{given.origin}: no row is left to train on that is not judged on; give other --evaluation-data")
    told = []
    if left_out := len(training) - len(apart):
        told.append(f"{left_out} rows of {shown(given.origin)} are among the evaluation rows and were left out of training.")
        training = training.take(apart)
    if judged is not None and training.skipped:
        told.append(f"Trained on {described(training, given.origin)}.")
    if len(found := np.unique(np.asarray(training.labels))) < 2:
        raise DatasetError(f"{given.origin}: all rows to train on have the label {found[0]}; give rows of at least two classes")
    return training, evaluation, told


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
) -> tuple[list[_Made], list[str]]:
    """The model's files in both schemes, and why one is missing."""
    settings = ConvertConfig(
        SCHEMES,
        representative_data=str(representative),
        representative_samples=_REPRESENTATIVE // 2,
        # What is lost is judged later, against the original model.
        max_drop=None,
        threads=config.threads,
        seed=config.optimize.training.seed,
        brings=bridge.brings(str(model)),
    )
    found = convert(str(model), room / "tflite" / technique, settings)
    h5 = model if optimized is not None else None
    made = [_Made(technique, item.scheme, item.path, item.plan, optimized, h5) for item in found.results if item.path]
    return made, [f"{technique} {item.scheme}: {item.refused}" for item in found.results if item.refused]


@dataclass
class _Publisher:
    """Puts files under their names with what was found, or tells why not."""

    out: Path
    source: Source
    config: OptimizingConfig
    rows: Mapping[str, str | None]
    data: str
    overwrite: bool
    published: list[Path] = field(default_factory=list)

    def publish(self, made: _Made, found: Measurement, refusals: list[str]) -> Measurement:
        """The measurement under the file's final name, with its `failure` where it was refused."""
        if made.model is None:
            return replace(found, path=f"{self.source.path} in {made.scheme}")
        technique = TECHNIQUES[made.technique]
        final = _final(self.out, self.source, technique, made.scheme)
        named = replace(found, path=str(final))
        if reason := judge(found, self.config.max_drop, _REMEDY):
            refusals.append(f"{made.name}: {reason}")
            return replace(named, failure=f"{final.name}: refused: {reason}")
        measured: dict[str, Any] = {
            "measurement": named,
            "plan": made.plan,
            "data": self.data,
            "optimized": made.optimized,
            "labels": {},
        }
        if made.scheme == "float32":
            self._write(made.model, _final(self.out, self.source, technique), "keras", made, measured)
        self._write(made.file, final, "tflite", made, measured)
        return named

    def _write(self, file: Path, final: Path, kind: str, made: _Made, measured: Mapping[str, Any]) -> None:
        told = {"technique": made.technique, "scheme": made.scheme, **self.rows, **self.config.__dict__}
        parents = {str(self.source.path): artifacts.sha256(self.source.path)}
        with artifacts.staged(final, overwrite=self.overwrite) as partial:
            shutil.copyfile(file, partial)
            manifest = artifacts.describe(
                partial, kind, name=final.name, parents=parents, config=told, tools=_TOOLS, measured=measured
            )
        artifacts.write_text(final.with_suffix(".json"), artifacts.to_json(manifest))
        self.published.append(final)


def _report(
    source: Source,
    made: list[_Made],
    rows: list[Measurement],
    config: OptimizingConfig,
    timing: BenchmarkConfig,
    data: str,
    notes: list[str],
) -> Report:
    optimized = {item.technique: item.optimized for item in made if item.optimized is not None}
    histories = {history.stage: history for found in optimized.values() for history in found.histories}
    train = config.optimize.training
    return Report(
        title=f"edgekit optimize: {source.name}",
        model=source.name,
        data=data,
        machine=machine(),
        settings={"threads": timing.threads, "runs": timing.runs, "rounds": timing.rounds, "batch": 1, "seed": train.seed},
        rows=tuple(rows),
        reference=rows[0].path,
        notes=(_COMPRESSION, *notes),
        training={stage: _told(history) for stage, history in histories.items()},
        curves=tuple(_curve(history) for history in histories.values()),
        versions=tuple(item.name for item in made),
    )


def _told(history: History) -> dict[str, Any]:
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


def _words(made: list[_Made], rows: int) -> list[str]:
    """What each thinned model's weights became; every technique trained on the same rows."""
    words = [f"Every technique was trained on {rows} rows, a part of which chose its epoch; none of them is judged on."]
    for item in made:
        technique = TECHNIQUES.get(item.technique)
        if technique is None or item.optimized is None or item.scheme != "float32" or not (technique.sparse or technique.clustered):
            continue
        kernels = item.optimized.weights
        total = sum(kernel.count for kernel in kernels)
        zeros = sum(kernel.sparsity * kernel.count for kernel in kernels) / total
        values = f", at most {max(kernel.distinct for kernel in kernels)} distinct values in each" if technique.clustered else ""
        words.append(f"{item.technique}: {100 * zeros:.1f} % of the {total} weights of {len(kernels)} kernels are zero{values}.")
    return words
