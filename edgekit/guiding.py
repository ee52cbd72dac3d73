"""`edgekit guide run`: each model of one of the guide's tables, in every scheme, measured beside what the guide publishes."""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import __version__, artifacts
from edgekit.data import sources
from edgekit.data.representative import draw
from edgekit.data.sources import Rows
from edgekit.errors import CheckpointError, DatasetError, EdgekitError, InputError, OutputError
from edgekit.guide.models import (
    ARCHITECTURES,
    Architecture,
    find_weights,
)
from edgekit.guide.page import page
from edgekit.guide.published import TABLES
from edgekit.guide.results import FILE_NAME, GuideModel, GuideRun, read_model
from edgekit.guide.table import markdown
from edgekit.guided import GuideConfig, Job, SharedRows, measured
from edgekit.measure.machine import machine
from edgekit.worker import Progress

WRITTEN = (FILE_NAME, "guide.md", "guide.html")
_SETTINGS, _MODEL = "settings.json", "model.json"


def run(
    out: Path,
    config: GuideConfig,
    *,
    overwrite: bool = False,
    architectures: Mapping[str, Architecture] = ARCHITECTURES,
    on_progress: Callable[[Progress], None] | None = None,
) -> GuideRun:
    """Measure the models and publish `OUT/guide.json`, and `OUT/MODEL/` with each one's files.

    A model that fails is told in the result and does not keep the others from being measured; where all fail, the first
    one's error is raised and nothing is written. Models that an earlier run with the same settings finished are kept.
    Raises `ConfigError`, `InputError`, `OutputError`.
    """
    jobs = _jobs(config, architectures)
    data = _read(config, jobs)
    settings = _settings(config)
    with artifacts.claimed(out):
        _begin(out, settings, [job.published.name for job in jobs], overwrite=overwrite)
        models: list[GuideModel] = []
        first: EdgekitError | None = None
        try:
            for number, job in enumerate(jobs):
                if on_progress is not None:
                    on_progress(Progress("guide", number, len(jobs), job.published.title))
                try:
                    models.append(_made_or_kept(job, config, data, out, on_progress))
                except EdgekitError as error:
                    # Without a network or a place to write, the others need not be tried.
                    if isinstance(error, OutputError) or (isinstance(error, CheckpointError) and not models):
                        raise
                    first = first or error
                    models.append(_failed(job, error.message))
            if first is not None and not any(model.rows for model in models):
                raise first
        except BaseException:
            _undo(out)
            raise
        finished = GuideRun(
            config.table,
            machine(),
            data.told,
            {**settings, "seconds": round(sum(model.seconds or 0 for model in models))},
            tuple(models),
            datetime.now(UTC).isoformat(timespec="seconds"),
        )
        _publish(out, finished)
        return finished


def _made_or_kept(
    job: Job, config: GuideConfig, data: SharedRows, out: Path, on_progress: Callable[[Progress], None] | None
) -> GuideModel:
    folder = out / job.published.name
    if (found := _kept(folder)) is not None:
        return found
    found = measured(job, config, data, folder, on_progress)
    artifacts.write_text(folder / _MODEL, artifacts.to_json(found))
    return found


def _publish(out: Path, run: GuideRun) -> None:
    """The run as JSON, Markdown and a page; those that are there already are of an earlier part of it."""
    for name, text in zip(WRITTEN, (run.json(), markdown(run), page(run)), strict=True):
        artifacts.write_text(out / name, text)


def failures(run: GuideRun) -> tuple[str, ...]:
    """What failed in a run, a line each: a model, or a scheme that was refused."""
    whole = [f"{model.title}: {model.failure}" for model in run.models if model.failure]
    parts = [f"{model.title}: {scheme}: {model.reason(scheme, 'latency')}" for model in run.models for scheme in model.refused]
    return (*whole, *parts)


def _jobs(config: GuideConfig, architectures: Mapping[str, Architecture]) -> list[Job]:
    wanted = [item for item in TABLES[config.table] if not config.models or item.name in config.models]
    jobs, lacking = [], []
    for published in wanted:
        if published.name not in architectures:
            from edgekit.guide.families import family

            jobs.append(Job(published, family=family(published.name)))
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
    if config.data is None:
        judged = None
    else:
        judged = sources.read(config.data)
        if judged.labels is None:
            raise DatasetError(f"{judged.origin}: has no labels; add the column label to its labels.tsv, or leave --data out")
    calibration = sources.read(config.representative_data) if config.representative_data is not None else None
    if judged is not None and (calibration is None or config.representative_data == config.data):
        chosen = draw(judged, config.representative_samples, config.seed)
        rest = np.setdiff1d(np.arange(len(judged)), chosen)
        if not len(rest):
            raise DatasetError(
                f"{judged.origin}: {len(judged)} rows are too few to calibrate on {config.representative_samples} and judge on "
                "others; give more, or fewer --representative-samples, or --representative-data"
            )
        calibration, judged = sources.take(judged, chosen), sources.take(judged, rest)
    training = sources.read(config.qat_data, labelled=True) if config.qat_data is not None else None
    for job in jobs:
        for rows in (judged, training):
            if job.architecture is not None and job.weights is not None and not job.weights.whole and rows is not None:
                _check_labels(rows, job.architecture)
    return SharedRows(calibration, judged, training)


def _check_labels(rows: Rows, architecture: Architecture) -> None:
    from edgekit.data.images import head_labels
    from edgekit.data.sources import ImageRows

    if isinstance(rows, ImageRows):
        head_labels(rows, architecture.classes)


def _settings(config: GuideConfig) -> dict[str, Any]:
    """What tells one run's figures from another's, models aside: each is kept for itself."""
    timing = asdict(config.timing)
    named = {name: timing[name] for name in ("threads", "runs", "warmup", "rounds")}
    given = {item.name: find_weights(config.weights, item.name) for item in TABLES[config.table]}
    files = {name: artifacts.sha256(found.path) for name, found in given.items() if found is not None and found.path is not None}
    others = {name: getattr(config, name) for name in ("table", "weights", "data", "representative_data", "representative_samples")}
    others |= {
        "qat_data": config.qat_data,
        "qat_epochs": config.qat_epochs,
        "max_drop": config.max_drop,
        "seed": config.seed,
        "weights_sha256": files,
    }
    return json.loads(artifacts.to_json({**others, **named, "weights_sha256": files, "edgekit": __version__}))


def _begin(out: Path, settings: Mapping[str, Any], names: Sequence[str], *, overwrite: bool) -> None:
    """Go on from a run with the same settings, or refuse to touch what another one left."""
    same = False
    with contextlib.suppress(OSError, ValueError):
        same = json.loads((out / _SETTINGS).read_text(encoding="utf-8")) == settings
    if same and not overwrite:
        return
    for place in (out / FILE_NAME, out / _SETTINGS, *(out / name for name in names)):
        artifacts.refuse_existing(place, overwrite=overwrite)
    for finished in out.glob(f"*/{_MODEL}"):
        finished.unlink()
    artifacts.write_text(out / _SETTINGS, artifacts.to_json(settings))


def _undo(out: Path) -> None:
    if not (out / FILE_NAME).exists() and not any(out.glob(f"*/{_MODEL}")):
        (out / _SETTINGS).unlink(missing_ok=True)


def _kept(folder: Path) -> GuideModel | None:
    """What an earlier run finished, where its files still lie there."""
    with contextlib.suppress(OSError, ValueError, InputError):
        found = read_model((folder / _MODEL).read_text(encoding="utf-8"))
        if all(Path(row.path).is_file() for row in found.rows if not row.failure):
            return found
    return None


def _failed(job: Job, reason: str) -> GuideModel:
    return GuideModel(job.published.name, job.published.title, job.published, job.told, failure=reason)
