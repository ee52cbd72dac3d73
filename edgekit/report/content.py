"""What a report holds, and how it is written to and read from JSON."""

import json as json_format
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import partial
from pathlib import Path, PurePath
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from edgekit.errors import InputError
from edgekit.measure.measurement import Latency, Measurement
from edgekit.report.pruned import Pruned, from_record
from edgekit.system.artifacts import to_json
from edgekit.tasks.metrics import Difference, Proportion

FILE_NAME = "report.json"
_LONGEST_LABEL = 40
_PARTS = {"latency": Latency, "accuracy": Proportion, "agreement": Proportion, "drop": Difference}


@dataclass(frozen=True)
class LearningCurve:
    """One training `stage`: points (step, mean training loss since the point before), and the end of each epoch.

    Of an epoch it holds the step, and loss (mean cross-entropy) and accuracy (0 to 1) on rows that it was not trained on.
    """

    stage: str
    training: tuple[tuple[int, float], ...]
    epochs: tuple[tuple[int, float, float], ...]


@dataclass(frozen=True)
class Report:
    """The files of one run with their figures and the circumstances they were taken in.

    `reference` is the path of the row that ratios are computed from, as in `Measurement.path`, or empty. `settings` holds
    what the benchmark was told. `training` is what training found, its names shown as they are given, and `curves` how
    it went. `notes` are
    sentences to show; one that begins with a file's name or scheme and a colon is shown only where it holds a figure,
    since what each scheme is, the table says. `versions` names the rows where they are versions of one model that were
    compared: the table then shows what tells versions apart. `pruned` are those of them whose pruning plan is known.
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
    curves: tuple[LearningCurve, ...] = ()
    versions: tuple[str, ...] = ()
    pruned: tuple[Pruned, ...] = ()

    @property
    def reference_row(self) -> Measurement | None:
        return next((row for row in self.rows if self.reference and row.path == self.reference), None)

    def json(self) -> str:
        return to_json(self)

    @staticmethod
    def from_json(text: str, origin: str = "report") -> "Report":
        """Read what `json` wrote; `origin` names it in errors. Raises `InputError` if it is anything else."""
        try:
            return _report(json_format.loads(text))
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


def measurement(figures: object) -> Measurement:
    """A measurement from its fields as JSON holds them.

    Raises `InputError` if one is unknown, missing or not of its type.
    """
    try:
        return _measurement(figures)
    except ValueError as error:
        named = figures.get("path") if isinstance(figures, Mapping) else None
        raise InputError(f"{named or 'measurement'}: its figures cannot be read ({error}); measure the file again") from None


def _report(content: object) -> Report:
    parts: dict[str, Callable[[Any], Any]] = {
        "rows": lambda rows: tuple(_measurement(row) for row in listed(rows)),
        "notes": listed,
        "versions": listed,
        "pruned": lambda plans: tuple(from_record(plan) for plan in listed(plans)),
        "curves": lambda curves: tuple(_curve(curve) for curve in listed(curves)),
    }
    report: Report = built(Report, content, parts)
    if not all(isinstance(text, str) for text in (*report.notes, *report.versions)):
        raise ValueError("notes or versions are not all text")
    if report.versions and len(report.versions) != len(report.rows):
        raise ValueError(f"{len(report.versions)} versions for {len(report.rows)} rows")
    return report


def _measurement(figures: object) -> Measurement:
    found: Measurement = built(Measurement, figures, {name: partial(built, kind) for name, kind in _PARTS.items()})
    return found


def _curve(content: object) -> LearningCurve:
    curve: LearningCurve = built(LearningCurve, content, {"training": partial(_points, size=2), "epochs": partial(_points, size=3)})
    return curve


def _points(value: object, size: int) -> tuple[tuple[float, ...], ...]:
    points = tuple(listed(point) for point in listed(value))
    if not all(len(point) == size and all(_is_a(number, float) for number in point) for point in points):
        raise ValueError(f"a curve's points are not {size} numbers each")
    return points


def built(kind: type[Any], values: object, parts: Mapping[str, Callable[[Any], Any]] | None = None) -> Any:
    """A dataclass from a JSON object, each value of the field's type; raises `ValueError`."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{kind.__name__.lower()} is no JSON object")
    hints = get_type_hints(kind)
    if unknown := sorted(set(values) - set(hints)):
        raise ValueError(f"unknown figure {unknown[0]}")
    required = {item.name for item in fields(kind) if item.default is MISSING and item.default_factory is MISSING}
    if missing := sorted(required - set(values)):
        raise ValueError(f"{missing[0]} is missing")
    made = {}
    for name, value in values.items():
        made[name] = parts[name](value) if parts and name in parts and value is not None else value
        if not _is_a(made[name], hints[name]):
            raise ValueError(f"{name} is {value!r}")
    return kind(**made)


def listed(value: object) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{value!r} is no list")
    return tuple(value)


def _is_a(value: object, hint: Any) -> bool:
    """Whether `value` is of an annotated type, generics by their outer type alone; a whole number is a float too."""
    kinds = tuple(get_origin(kind) or kind for kind in (get_args(hint) if isinstance(hint, UnionType) else (hint,)))
    return isinstance(value, (*kinds, int) if float in kinds else kinds)
