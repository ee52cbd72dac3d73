"""What a report holds, and how it is written to and read from JSON."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from edgekit.errors import InputError
from edgekit.measure.measurement import Measurement
from edgekit.report.pruned import Pruned
from edgekit.system import serial

FILE_NAME = "report.json"
_LONGEST_LABEL = 40


class Format(enum.StrEnum):
    """What a report can be written as."""

    MARKDOWN = "markdown"
    JSON = "json"
    HTML = "html"

    @property
    def suffix(self) -> str:
        return ".md" if self is Format.MARKDOWN else f".{self}"


@dataclass(frozen=True)
class LearningCurve:
    """One training `stage`: points (step, mean training loss since the point before), and the end of each epoch.

    Of an epoch it holds the step, and the loss and the `metric` on rows that it was not trained on, a share of 1 if `percent`."""

    stage: str
    training: tuple[tuple[int, float], ...]
    epochs: tuple[tuple[int, float, float], ...]
    metric: str = "accuracy"
    percent: bool = True

    def told(self, value: float) -> str:
        """A value of the metric for people."""
        return f"{100 * value:.1f} %" if self.percent else f"{value:.3g}"


@dataclass(frozen=True)
class Report:
    """The files of one run with their figures and the circumstances they were taken in.

    `reference` is the path of the row that ratios are computed from, as in `Measurement.path`, or empty. `settings` holds what the
    benchmark was told, `training` what training measured, by names to show, and `curves` how it went. `notes` are sentences; one
    that begins with a file's name or scheme and a colon is shown only where it holds a figure, since what each scheme is, the
    table says. `versions` names rows that are versions of one model: the table then shows what tells versions apart. `pruned` are
    those of them that have a pruning plan."""

    title: str
    model: str
    data: str
    machine: str
    settings: Mapping[str, Any]
    rows: tuple[Measurement, ...]
    reference: str = ""
    notes: tuple[str, ...] = field(default=())
    training: Mapping[str, Any] | None = None
    curves: tuple[LearningCurve, ...] = ()
    versions: tuple[str, ...] = ()
    pruned: tuple[Pruned, ...] = ()

    def __post_init__(self) -> None:
        if self.versions and len(self.versions) != len(self.rows):
            raise ValueError(f"{len(self.versions)} versions for {len(self.rows)} rows")

    @property
    def reference_row(self) -> Measurement | None:
        return next((row for row in self.rows if self.reference and row.path == self.reference), None)

    @property
    def circumstances(self) -> tuple[tuple[str, str], ...]:
        """What was measured, on what and where, as far as that is known, each with its name."""
        listed = (("Model", self.model), ("Data", self.data), ("Machine", self.machine))
        return tuple((name, value) for name, value in listed if value)

    def json(self) -> str:
        return serial.to_json(self)

    def _repr_html_(self) -> str:
        from edgekit.report.html import table

        return table(self)

    @staticmethod
    def from_json(text: str, origin: str = "report") -> "Report":
        """Read what `json` wrote; `origin` names it in errors. Raises `InputError` if it is anything else."""
        try:
            return serial.read(Report, serial.parse_json(text))
        except ValueError as error:
            raise InputError(f"{origin}: not an edgekit report ({error}); give the {FILE_NAME} or the folder of a run") from None


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
    """A short name for each row: the version's, or the file's stem with as many of its folders as it takes to tell rows apart."""
    if report.versions:
        return report.versions
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
    if report.versions:
        return report.versions
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


def measurement(figures: Any) -> Measurement:
    """A measurement from its fields as JSON holds them.

    Raises `InputError` if one is unknown, missing or not of its type."""
    try:
        return serial.read(Measurement, figures)
    except ValueError as error:
        named = figures.get("path") if isinstance(figures, Mapping) else None
        raise InputError(f"{named or 'measurement'}: its figures cannot be read ({error}); measure the file again") from None
