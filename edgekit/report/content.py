"""What a report holds, and how it is written to and read from JSON."""

import dataclasses
import json as json_format
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from edgekit.artifacts import to_json
from edgekit.errors import InputError
from edgekit.measure.measurement import Difference, Latency, Measurement, Proportion

FILE_NAME = "report.json"
_LONGEST_LABEL = 40
_PARTS = {"latency": Latency, "accuracy": Proportion, "agreement": Proportion, "drop": Difference}


@dataclass(frozen=True)
class Report:
    """The files of one run with their figures and the circumstances they were taken in.

    `reference` is the path of the row that ratios are computed from, as in `Measurement.path`, or empty. `settings` holds
    what the benchmark was told, `training` the figures of fine-tuning where there was one, `notes` sentences to show.
    """

    title: str
    model: str
    data: str
    machine: str
    settings: Mapping[str, Any]
    rows: tuple[Measurement, ...]
    reference: str = ""
    notes: tuple[str, ...] = field(default=())
    training: Mapping[str, Any] | None = None

    @property
    def reference_row(self) -> Measurement | None:
        return next((row for row in self.rows if self.reference and row.path == self.reference), None)

    def json(self) -> str:
        return to_json(self)

    @staticmethod
    def from_json(text: str, origin: str = "report") -> "Report":
        """Read what `json` wrote; `origin` names it in errors. Raises `InputError` if it is anything else."""
        try:
            content = json_format.loads(text)
            rows = tuple(measurement(row) for row in content.pop("rows"))
            report = Report(**{**content, "rows": rows, "notes": tuple(content.get("notes", ()))})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{origin}: not an edgekit report ({error}); give the {FILE_NAME} or the folder of a run") from None
        return report


def load(path: Path) -> Report:
    """Read a report's JSON file, or `report.json` in a folder. Raises `InputError` if there is none."""
    file = path / FILE_NAME if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise InputError(f"{file}: cannot be read ({reason}); give the {FILE_NAME} or the folder of a run") from None
    return Report.from_json(text, str(file))


def names(report: Report) -> tuple[str, ...]:
    """A short name for each row: the file's stem, with as many of its folders as it takes to tell the rows apart."""
    paths = [PurePath(row.path) for row in report.rows]
    short = [path.stem for path in paths]
    for depth in range(2, max((len(path.parts) for path in paths), default=0) + 1):
        if len(set(short)) == len(short):
            break
        twice = {name for name in short if short.count(name) > 1}
        short = [
            "/".join((*path.parts[-depth:-1], path.stem)) if name in twice else name
            for name, path in zip(short, paths, strict=True)
        ]
    return tuple(short)


def labels(report: Report) -> tuple[str, ...]:
    """The scheme of each row where that tells the rows apart, else `names`, cut where they are long."""
    schemes = tuple(row.scheme or "" for row in report.rows)
    if all(schemes) and len(set(schemes)) == len(schemes):
        return schemes
    whole = names(report)
    short = tuple(shortened(name, _LONGEST_LABEL) for name in whole)
    return short if len(set(short)) == len(set(whole)) else whole


def shortened(name: str, length: int) -> str:
    """`name` cut in the middle to `length` characters, since both of its ends tell files apart."""
    half = length // 2
    return name if len(name) <= length else f"{name[: length - half - 1]}…{name[-half:]}"


def megabytes(count: int) -> str:
    """Millions of bytes, to as many digits as tell small files apart."""
    size = count / 1e6
    return f"{size:.1f}" if size >= 10 else f"{size:.2f}" if size >= 0.1 else f"{size:.2g}"


def milliseconds(value: float) -> str:
    """Milliseconds to about three figures."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def measurement(fields: Mapping[str, Any]) -> Measurement:
    known = {item.name for item in dataclasses.fields(Measurement)}
    if unknown := sorted(set(fields) - known):
        raise ValueError(f"unknown figure {unknown[0]}")
    parts = {name: kind(**fields[name]) for name, kind in _PARTS.items() if fields.get(name) is not None}
    return Measurement(**{**fields, **parts})
