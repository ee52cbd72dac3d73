"""What a run of the guide's models measured, beside what the guide publishes; written to and read from JSON."""

import json as json_format
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgekit.errors import InputError
from edgekit.measure.measurement import Measurement
from edgekit.system import serial
from edgekit.workflows.guide.published import COLUMNS, DEVICE, SOURCE, TABLES, YEARS, Published

FILE_NAME = "guide.json"


@dataclass(frozen=True)
class GuideModel:
    """One model of the guide: what was published, and one measured row for each scheme (`Measurement.scheme`, also "qat").

    `weights` says in a sentence which weights the files hold. `marks` is what every cell of a scheme's row has to carry
    with it, such as "random weights, not trained". `missing` gives the reason of each empty cell, by `cell` or, where a
    whole row is missing, by its scheme. `refused` are the schemes whose files failed or were not good enough. `scale_bytes` is
    what scales take of each scheme's file. `judged_rows` counts the labelled rows that files are judged on, and `skipped` names
    those that could not be read. `failure` is why the model has no rows at all."""

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

    @property
    def latency_ms(self) -> dict[str, float]:
        """p50 by scheme, of what was timed."""
        return {row.scheme or "": row.latency.p50_ms for row in self.rows if row.latency}

    @property
    def size_mb(self) -> dict[str, float]:
        return {row.scheme or "": row.size_bytes / 1e6 for row in self.rows}

    def reason(self, scheme: str, figure: str) -> str | None:
        """Why the cell is empty, or None where nothing says so."""
        row = self.row(scheme)
        return self.missing.get(cell(scheme, figure)) or self.missing.get(scheme) or self.failure or (row.failure if row else None)


@dataclass(frozen=True)
class GuideRun:
    """The finished models of one run of a table of the guide.

    `data` says what accuracy was measured on, `settings` what the run was told, `date` when it ended (ISO 8601)."""

    table: int
    machine: str
    data: str
    settings: Mapping[str, Any]
    models: tuple[GuideModel, ...]
    date: str = ""

    def __post_init__(self) -> None:
        if self.table not in TABLES:
            raise ValueError(f"table is {self.table!r}")

    def json(self) -> str:
        return serial.to_json(self)

    @staticmethod
    def from_json(text: str, origin: str = "guide run") -> "GuideRun":
        """Read what `json` wrote; `origin` names it in errors. Raises `InputError` if it is anything else."""
        try:
            return serial.read(GuideRun, json_format.loads(text))
        except ValueError as error:
            raise InputError(f"{origin}: not a run of the guide ({error}); give the {FILE_NAME} of edgekit guide run") from None


def cell(scheme: str, figure: str) -> str:
    """The name of a cell in `GuideModel.missing`; `figure` is accuracy, latency or size."""
    return f"{scheme} {figure}"


def to_float32(figures: Mapping[str, float]) -> dict[str, float]:
    """Figures by scheme, each divided by float32's; empty without one of float32."""
    base = figures.get("float32")
    return {scheme: figure / base for scheme, figure in figures.items() if scheme != "float32"} if base else {}


def columns(run: GuideRun) -> tuple[str, ...]:
    """The schemes that the guide's own table has, then the other ones that were measured."""
    measured = {row.scheme for model in run.models for row in model.rows}
    others = [scheme for scheme in ("float16", "dynamic", "int16x8", "qat") if scheme in measured]
    return tuple(dict.fromkeys((*COLUMNS[run.table], *others)))


def differences(run: GuideRun) -> tuple[str, ...]:
    """What keeps measured figures from being those of the guide: sentences to stand under its table."""
    threads = f", threads: {run.settings['threads']}" if run.settings.get("threads") else ""
    scales = "; ".join(
        f"{model.title} {model.scale_bytes['int8'] / 1e6:.2f} of {row.size_bytes / 1e6:.2f} MB"
        for model in run.models
        if (row := model.row("int8")) and "int8" in model.scale_bytes
    )
    return (
        f"Published: {SOURCE}; {DEVICE}, {YEARS}. Measured: {run.machine}{threads}{f', {run.date[:10]}' if run.date else ''}.",
        "Other processors and other kernels: milliseconds cannot be compared across the two, so ratios to float32 stand beside "
        "each other. Today's XNNPACK kernels make float32 faster too, so that the same int8 kernel gains less or more over it.",
        "Quantized files are larger than the published ones by a scale for each channel, and by names and notes; "
        f"published weights had one scale for a tensor.{f' Scales in int8: {scales}.' if scales else ''}",
        "1 MB is 1,000,000 bytes.",
    )
