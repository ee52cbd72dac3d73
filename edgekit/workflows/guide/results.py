"""What a run of the guide's models measured, beside what the guide publishes; written to and read from JSON."""

import json as json_format
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from edgekit.errors import InputError
from edgekit.measure.measurement import Measurement
from edgekit.report.content import built, listed, measurement
from edgekit.system.artifacts import to_json
from edgekit.workflows.guide.published import COLUMNS, DEVICE, SOURCE, TABLES, YEARS, Metric, Published

FILE_NAME = "guide.json"
FIGURES = ("accuracy", "latency", "size")


@dataclass(frozen=True)
class GuideModel:
    """One model of the guide: what was published, and one measured row for each scheme (`Measurement.scheme`, also "qat").

    `weights` says in a sentence which weights the files hold. `marks` is what every cell of a scheme's row has to carry
    with it, such as "random weights, not trained". `missing` gives the reason of each empty cell, by `cell` or, where a
    whole row is missing, by its scheme. `refused` are the schemes whose
    files failed or were not good enough. `scale_bytes` is what scales take of
    each scheme's file. `judged_rows` counts the labelled rows that files are judged on, and `skipped` names those that
    could not be read. `failure` is why the model has no rows at all.
    """

    name: str
    title: str
    published: Published
    weights: str
    rows: tuple[Measurement, ...] = ()
    failure: str | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    marks: Mapping[str, str] = field(default_factory=dict)
    refused: tuple[str, ...] = ()
    scale_bytes: Mapping[str, int] = field(default_factory=dict)
    judged_rows: int | None = None
    skipped: tuple[str, ...] = ()
    seconds: float | None = None
    peak_bytes: int | None = None

    def row(self, scheme: str) -> Measurement | None:
        return next((row for row in self.rows if row.scheme == scheme), None)

    def reason(self, scheme: str, figure: str) -> str | None:
        """Why the cell is empty, or None where nothing says so."""
        return self.missing.get(cell(scheme, figure)) or self.missing.get(scheme) or self.failure


@dataclass(frozen=True)
class GuideRun:
    """The finished models of one run of a table of the guide.

    `data` says what accuracy was measured on, `settings` what the run was told, `date` when it ended (ISO 8601).
    """

    table: int
    machine: str
    data: str
    settings: Mapping[str, Any]
    models: tuple[GuideModel, ...]
    date: str = ""

    def json(self) -> str:
        return to_json(self)

    @staticmethod
    def from_json(text: str, origin: str = "guide run") -> "GuideRun":
        """Read what `json` wrote; `origin` names it in errors. Raises `InputError` if it is anything else."""
        try:
            return _run(json_format.loads(text))
        except (ValueError, InputError) as error:
            raise InputError(f"{origin}: not a run of the guide ({error}); give the {FILE_NAME} of edgekit guide run") from None


def read_model(text: str) -> GuideModel:
    """One model from its JSON. Raises `ValueError` and `InputError` if it is anything else."""
    return _model(json_format.loads(text))


def cell(scheme: str, figure: str) -> str:
    """The name of a cell in `GuideModel.missing`; `figure` is one of `FIGURES`."""
    return f"{scheme} {figure}"


def columns(run: GuideRun) -> tuple[str, ...]:
    """The schemes that the guide's own table has, then the other ones that were measured."""
    own = COLUMNS[run.table]
    others = ("float16", "dynamic", "int16x8", "qat")
    measured = {row.scheme for model in run.models for row in model.rows}
    return (*own, *(scheme for scheme in others if scheme not in own and scheme in measured))


def differences(run: GuideRun) -> tuple[str, ...]:
    """What keeps measured figures from being those of the guide: sentences to stand under its table."""
    threads = run.settings.get("threads")
    scales = [
        f"{model.title} {model.scale_bytes['int8'] / 1e6:.2f} of {row.size_bytes / 1e6:.2f} MB"
        for model in run.models
        if (row := model.row("int8")) and "int8" in model.scale_bytes
    ]
    told = f" Scales in int8: {'; '.join(scales)}." if scales else ""
    return (
        f"Published: {SOURCE}; {DEVICE}, {YEARS}. "
        f"Measured: {run.machine}{f', threads: {threads}' if threads else ''}{f', {run.date[:10]}' if run.date else ''}.",
        "Other processors and other kernels: milliseconds cannot be compared across the two, so ratios to float32 stand beside "
        "each other. Today's XNNPACK kernels make float32 faster too, so that the same int8 kernel gains less or more over it.",
        "Quantized files are larger than the published ones by a scale for each channel, and by names and notes; "
        f"published weights had one scale for a tensor.{told}",
        "1 MB is 1,000,000 bytes.",
    )


def _run(content: object) -> GuideRun:
    run: GuideRun = built(GuideRun, content, {"models": lambda models: tuple(_model(model) for model in listed(models))})
    if run.table not in TABLES:
        raise ValueError(f"table is {run.table!r}")
    return run


def _model(content: object) -> GuideModel:
    model: GuideModel = built(
        GuideModel,
        content,
        {
            "published": _published,
            "rows": lambda rows: tuple(measurement(row) for row in listed(rows)),
            "missing": _texts,
            "marks": _texts,
            "refused": listed,
            "skipped": listed,
            "scale_bytes": _numbers,
        },
    )
    return model


def _published(content: object) -> Published:
    metric = partial(built, Metric, parts={"values": _numbers})
    published: Published = built(
        Published,
        content,
        {"metrics": lambda metrics: tuple(metric(item) for item in listed(metrics)), "latency_ms": _numbers, "size_mb": _numbers},
    )
    return published


def _numbers(content: object) -> Mapping[str, float]:
    if not isinstance(content, dict) or not all(isinstance(value, int | float) for value in content.values()):
        raise ValueError(f"{content!r} is no mapping of numbers")
    return content


def _texts(content: object) -> Mapping[str, str]:
    if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
        raise ValueError(f"{content!r} is no mapping of texts")
    return content
