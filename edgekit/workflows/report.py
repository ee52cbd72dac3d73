"""The report of a run or a conversion, from what it left, and how reports are written."""

from collections.abc import Callable, Iterable
from pathlib import Path

from edgekit.errors import DatasetError
from edgekit.measure.machine import machine
from edgekit.measure.measurement import batch_of
from edgekit.report import table
from edgekit.report.content import FILE_NAME, Report, load, measurement
from edgekit.stages.quantize.schemes import SCHEMES
from edgekit.system import artifacts
from edgekit.workflows.inputs import manifest_of, model_name


def report(place: Path) -> Report:
    """That of a run's folder or report.json, else of the files that `convert` published in the folder, from their manifests.

    Raises `InputError` for a damaged report, `DatasetError` if there is nothing to tell."""
    if place.is_file() or (place / FILE_NAME).is_file():
        return load(place)
    files = sorted(place.glob("*.tflite"))
    manifests = {file: manifest for file in files if (manifest := manifest_of(file))}
    order = list(SCHEMES)
    listed = sorted(manifests.items(), key=lambda item: order.index(item[1]["config"]["scheme"]))
    if not listed:
        raise DatasetError(
            f"{place}: holds neither report.json nor .tflite files with manifests; run edgekit convert or edgekit run first"
        )
    rows = tuple(measurement({**manifest["measured"]["measurement"], "path": str(file)}) for file, manifest in listed)
    # A file that was trained for its scheme was measured under a name of its own.
    schemes = [row.scheme or manifest["config"]["scheme"] for row, (_, manifest) in zip(rows, listed, strict=True)]
    models = sorted({model_name(file, name) for name, (file, _) in zip(schemes, listed, strict=True)})
    reasons = [
        f"{name if len(models) == 1 else file.stem}: {reason}"
        for name, (file, manifest) in zip(schemes, listed, strict=True)
        if (reason := (manifest["measured"]["plan"] or {}).get("reason"))
    ]
    strangers = [file for file in files if file not in manifests]
    return Report(
        title=f"edgekit convert: {place.resolve().name}",
        model=", ".join(models),
        data=", ".join(sorted({manifest["measured"].get("data", "") for _, manifest in listed})),
        machine=machine(),
        settings={"threads": rows[0].threads, "batch": batch_of(rows)},
        rows=rows,
        # One model's float32 file says nothing of another's.
        reference=next((row.path for row in rows if row.scheme == "float32"), "") if len(models) == 1 else "",
        notes=(*reasons, *(f"Left out {file.name}: no manifest of edgekit's that fits it lies beside it." for file in strangers)),
    )


def write_report(report: Report, places: Iterable[Path]) -> None:
    """Publish `report` as the names of `places` say: .html, .md or .json. Raises `OutputError`."""
    from edgekit.report.html import page

    render: dict[str, Callable[[Report], str]] = {".md": table.markdown, ".json": Report.json, ".html": page}
    for target in places:
        artifacts.write_text(target, render[target.suffix.lower()](report))
