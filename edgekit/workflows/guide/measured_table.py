"""`edgekit guide run`: each model of one of the guide's tables, in every scheme, measured beside what the guide publishes."""

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import __version__
from edgekit.data import sources
from edgekit.data.encode import Encoding
from edgekit.data.overlap import apart
from edgekit.data.representative import MINIMUM, draw
from edgekit.data.sources import Rows, TextRows
from edgekit.errors import CheckpointError, ConfigError, DatasetError, EdgekitError, InputError, ModelFormatError, OutputError
from edgekit.measure import runtimes
from edgekit.measure.machine import machine
from edgekit.spec import DataSpec
from edgekit.system import artifacts, serial
from edgekit.system.serial import read_json
from edgekit.system.worker import OnProgress, stage
from edgekit.tasks.classification import IMAGE_CLASSIFICATION
from edgekit.workflows.guide.families import family
from edgekit.workflows.guide.model_files import (
    GATE_ROWS,
    QAT_DATA,
    REPRESENTATIVE_DATA,
    GuideConfig,
    Job,
    SharedRows,
    measure,
    same_data,
)
from edgekit.workflows.guide.networks import ARCHITECTURES, Architecture, find_weights
from edgekit.workflows.guide.page import page
from edgekit.workflows.guide.published import TABLES
from edgekit.workflows.guide.results import FILE_NAME, GuideModel, GuideRun
from edgekit.workflows.guide.table import markdown

WRITTEN = (FILE_NAME, "guide.md", "guide.html")
_SETTINGS, _MODEL = "settings.json", "model.json"


def run(
    out: Path,
    config: GuideConfig,
    *,
    overwrite: bool = False,
    architectures: Mapping[str, Architecture] = ARCHITECTURES,
    on_progress: OnProgress = None,
) -> GuideRun:
    """Measure the models and publish `OUT/guide.json`, and `OUT/MODEL/` with each one's files.

    A model that fails is in the result with its reason and does not keep the others from being measured; where all fail, the first
    one's error is raised and nothing is written. Models that an earlier run with the same settings finished are kept.
    Raises `ConfigError`, `InputError`, `OutputError`."""
    jobs = _jobs(config, architectures)
    data = _read(config, jobs)
    settings = _settings(config, architectures)
    with artifacts.claimed(out):
        folders = [out / job.published.name for job in jobs]
        new = [folder for folder in folders if not folder.exists()]
        _begin(out, settings, folders, overwrite=overwrite)
        models: list[GuideModel] = []
        first: EdgekitError | None = None
        try:
            for number, job in enumerate(jobs, 1):
                try:
                    with stage(on_progress, f"guide: {job.published.title}, {number} of {len(jobs)}"):
                        models.append(_model(job, config, data, out, on_progress))
                except EdgekitError as error:
                    # Without a network or a place to write, the others need not be tried.
                    if isinstance(error, OutputError) or (isinstance(error, CheckpointError) and not models):
                        raise
                    first = first or error
                    model = job.published
                    models.append(GuideModel(model.name, model.title, model, job.described, failure=error.message))
            if first is not None and not any(model.rows for model in models):
                raise first
        except BaseException as error:
            # What an interrupted run made so far serves the same command again.
            _undo(out, folders, new if isinstance(error, EdgekitError) else ())
            raise
        settings["seconds"] = round(sum(model.seconds or 0 for model in models))
        judged_on, date = data.described(name for model in models for name in model.skipped), datetime.now(UTC)
        finished = GuideRun(config.table, machine(), judged_on, settings, tuple(models), date.isoformat(timespec="seconds"))
        # Those that are there already are of an earlier part of it.
        for name, text in zip(WRITTEN, (finished.json(), markdown(finished), page(finished)), strict=True):
            artifacts.write_text(out / name, text)
        return finished


def _model(job: Job, config: GuideConfig, data: SharedRows, out: Path, on_progress: OnProgress) -> GuideModel:
    file = out / job.published.name / _MODEL
    # What an earlier run finished, where its files still lie there.
    with contextlib.suppress(OSError, ValueError):
        model = serial.read(GuideModel, read_json(file))
        if all(Path(row.path).is_file() for row in model.rows if not row.failure):
            return model
    model = measure(job, config, data, file.parent, on_progress)
    artifacts.write_text(file, serial.to_json(model))
    return model


def failures(run: GuideRun) -> tuple[str, ...]:
    """What failed in a run, a line each: a model, or a scheme that was refused."""
    whole = [f"{model.title}: {model.failure}" for model in run.models if model.failure]
    parts = [f"{model.title}: {scheme}: {model.reason(scheme, 'latency')}" for model in run.models for scheme in model.refused]
    return (*whole, *parts)


def _jobs(config: GuideConfig, architectures: Mapping[str, Architecture]) -> list[Job]:
    rows = [item for item in TABLES[config.table] if not config.models or item.name in config.models]
    jobs, lacking = [], []
    for published in rows:
        if published.name not in architectures:
            unused = None
            with contextlib.suppress(ModelFormatError, ConfigError):  # what is wrong with it does not matter either
                unused = find_weights(config.weights, published.name)
            jobs.append(Job(published, family=family(published.name), unused=unused.path if unused else None))
        elif (weights := find_weights(config.weights, published.name)) is not None:
            jobs.append(Job(published, architectures[published.name], weights))
        else:
            lacking.append(published.name)
    if lacking and (config.models or not jobs):
        raise InputError(
            f"{config.weights}: holds no weights of {', '.join(lacking)}; add {lacking[0]}.h5 (or .onnx, .tflite, a SavedModel), "
            "or leave the model out with --models"
        )
    return jobs


def _read(config: GuideConfig, jobs: Sequence[Job]) -> SharedRows:
    """Everything that is wrong with the rows is found here, before anything is built."""
    judged, calibration, training = _rows(config.data), None, _rows(config.qat_data, labelled=True)
    if judged is not None and judged.labels is None:
        raise DatasetError(f"{judged.origin}: has no labels; add the column label to its labels.tsv, or leave --data out")
    if config.representative_data is None or config.data is None or not same_data(config.representative_data, config.data):
        calibration = _rows(config.representative_data)
    left_out: dict[str, int] = {}
    if judged is not None and calibration is None:
        calibration, judged = _divided(judged, config)
        if not len(judged):
            raise DatasetError(
                f"{judged.origin}: {len(calibration)} rows are too few to calibrate on {config.representative_samples} and judge "
                "on others; give more, or fewer --representative-samples, or --representative-data"
            )
    elif judged is not None and calibration is not None:
        # `convert` draws those to calibrate on, and finds an int8 plan on others.
        calibration = _apart(calibration, judged, REPRESENTATIVE_DATA, left_out)
    elif calibration is not None:
        calibration, rest = _divided(calibration, config)
        # With nothing left the calibration rows are better than none, as `convert` has it.
        unseen = rest if len(rest) else calibration
        judged = replace(sources.take(unseen, draw(unseen, GATE_ROWS, config.seed)), labels=None)
    if calibration is not None and len(calibration) < MINIMUM:
        raise DatasetError(f"{calibration.origin}: leaves {len(calibration)} rows to calibrate on; give at least {MINIMUM}")
    if training is not None and judged is not None and judged.labels is not None:
        training = _apart(training, judged, QAT_DATA, left_out)
    for classes in {size for job in jobs if (size := _classes(job)) is not None}:
        for rows in (judged, training):
            if rows is not None:
                IMAGE_CLASSIFICATION.labels(rows, Encoding(classes=classes), {})
    return SharedRows(calibration, judged, training, left_out)


def _rows(reference: str | None, *, labelled: bool = False) -> Rows | None:
    if reference is None:
        return None
    rows = sources.read(DataSpec(reference), labelled=labelled)
    if isinstance(rows, TextRows):
        raise DatasetError(f"{rows.origin}: holds texts; the guide's classifiers take an image folder with labels.tsv, or an .npz")
    return rows


def _divided(rows: Rows, config: GuideConfig) -> tuple[Rows, Rows]:
    """Rows to calibrate on, as `convert` draws them, and all others."""
    chosen = draw(rows, config.representative_samples, config.seed)
    return sources.take(rows, chosen), sources.take(rows, np.setdiff1d(np.arange(len(rows)), chosen))


def _apart(rows: Rows, judged: Rows, option: str, left_out: dict[str, int]) -> Rows:
    kept = apart(rows, judged)
    if not len(kept):
        raise DatasetError(f"{rows.origin}: all of its rows are judged on as well; give others with {option}")
    if len(kept) < len(rows):
        left_out[option] = len(rows) - len(kept)
    return kept


def _classes(job: Job) -> int | None:
    """The size of the model's head, None where it cannot be told without loading the model."""
    if job.weights is None or not job.weights.whole:
        return job.architecture.classes if job.architecture else None
    if job.weights.path is not None and job.weights.path.suffix in (".onnx", ".tflite"):
        # What is wrong with the file is told where the model is made.
        with contextlib.suppress(EdgekitError):
            outputs = runtimes.describe(job.weights.path).signature.outputs
            return outputs[0].shape[-1] if outputs and outputs[0].shape and outputs[0].shape[-1] > 1 else None
    return None


def _settings(config: GuideConfig, architectures: Mapping[str, Architecture]) -> dict[str, Any]:
    """What tells one run's figures from another's, models aside: each is kept for itself."""
    data = ("data", "representative_data", "qat_data")
    others = ("table", "weights", *data, "representative_samples", "qat_epochs", "max_drop", "seed")
    named = {name: getattr(config, name) for name in others}
    named |= {name: getattr(config.timing, name) for name in ("threads", "runs", "warmup", "rounds")}
    weights = {item.name: find_weights(config.weights, item.name) for item in TABLES[config.table] if item.name in architectures}
    files = {name: artifacts.sha256(item.path) for name, item in weights.items() if item is not None and item.path is not None}
    sets = {name: Path(named[name]) for name in data if named[name]}
    digests = {name: artifacts.sha256(path) for name, path in sets.items() if path.exists()}  # what is on the hub does not
    return dict(serial.plain({**named, "weights_sha256": files, "data_sha256": digests, "edgekit": __version__}))


def _begin(out: Path, settings: Mapping[str, Any], folders: Sequence[Path], *, overwrite: bool) -> None:
    """Go on from a run with the same settings, or refuse to touch what another one left."""
    same = False
    with contextlib.suppress(OSError, ValueError):
        same = read_json(out / _SETTINGS) == settings
    if same and not overwrite:
        return
    for place in (*(out / name for name in (*WRITTEN, _SETTINGS)), *folders, *_finished(out)):
        artifacts.refuse_existing(place, overwrite=overwrite, whole=False)
    for place in _finished(out):
        place.unlink(missing_ok=True)
    artifacts.write_text(out / _SETTINGS, serial.to_json(settings))


def _finished(out: Path) -> list[Path]:
    """Where a run of either table says that it is done with a model."""
    return [out / name / _MODEL for name in {item.name for table in TABLES.values() for item in table}]


def _undo(out: Path, folders: Sequence[Path], failed: Sequence[Path]) -> None:
    """Take back the `failed` folders of models that were not finished, and the settings where nothing is left to go on from."""
    for folder in failed:
        if not (folder / _MODEL).exists():
            shutil.rmtree(folder, ignore_errors=True)
    if not any(place.exists() for place in (out / FILE_NAME, *folders, *_finished(out))):
        (out / _SETTINGS).unlink(missing_ok=True)
