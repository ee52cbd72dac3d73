"""Judge .tflite files that are there already: data in the form that they take, then figures."""

import contextlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.data import sources
from edgekit.data.encode import Encoding, encode, refuse_statistics
from edgekit.data.representative import draw
from edgekit.data.samples import Samples, described
from edgekit.data.sources import Columns, Rows
from edgekit.errors import ConfigError, DatasetError, ModelFormatError
from edgekit.measure import adb
from edgekit.measure.judge import BenchmarkConfig, benchmark
from edgekit.measure.machine import machine
from edgekit.measure.measurement import Measurement
from edgekit.measure.runtimes import Runtime, runtime_of
from edgekit.models import checkpoint
from edgekit.report.content import LearningCurve, Report
from edgekit.stages.quantize.schemes import SCHEMES
from edgekit.system.worker import Progress
from edgekit.tflite import flatbuffer, metadata, package


@dataclass(frozen=True)
class Data:
    """A data set and how to read it; `limit` rows are drawn with the seed, 0 takes all.

    `tokenizer` is a folder, by default the file's own; `mean` and `std` normalize images and arrays, by default as the
    file's metadata says, else to [-1, 1] for images.
    """

    dataset: str
    columns: Columns = Columns()  # noqa: RUF009 - frozen
    limit: int = 0
    tokenizer: Path | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def manifest_of(file: Path) -> dict[str, Any]:
    """What edgekit wrote beside `file`, or nothing if it is not ours or the file has changed since."""
    beside = file.with_suffix(".json")
    try:
        found = json.loads(beside.read_text(encoding="utf-8"))
        ours = found["kind"] == "tflite" and found["path"] == file.name and found["size_bytes"] == file.stat().st_size
        return (
            found if ours and {"scheme"} <= found["config"].keys() and {"measurement", "plan"} <= found["measured"].keys() else {}
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def encode_for(file: Path, data: Data, seed: int, folder: Path) -> Samples:
    """The data set as samples for `file`; large arrays lie under `folder`. Raises `DatasetError` and `ModelFormatError`."""
    content = flatbuffer.read(file)
    signature = content.signature(content.entry())
    return encode(rows_of(data, seed), signature.inputs, encoding_of(file, data, folder), folder)


def chooses(file: Path) -> bool:
    """Whether `file` chooses among classes: its first output has more than one value."""
    content = flatbuffer.read(file)
    outputs = content.signature(content.entry()).outputs
    return not outputs or outputs[0].shape[-1:] != (1,)


def rows_of(data: Data, seed: int) -> Rows:
    """The rows that are judged on, `limit` of them drawn with `seed`. Raises `DatasetError` and `ConfigError`."""
    rows = sources.read(data.dataset, text_columns=data.columns.text_columns, label_column=data.columns.label_column)
    refuse_statistics(rows, data.mean, data.std)
    return sources.take(rows, draw(rows, data.limit, seed)) if data.limit else rows


def encoding_of(file: Path, data: Data, folder: Path) -> Encoding:
    """What the rows of a .tflite file are encoded with: as told in `data`, else as the file and its manifest say.

    A tokenizer that travels in the file is unpacked under `folder`; it goes before one that lies beside the file.
    """
    content = flatbuffer.read(file)
    signature = content.signature(content.entry())
    manifest = manifest_of(file)
    tokenizer = data.tokenizer
    if tokenizer is None:
        tokenizer = package.tokenizer_of(file, folder / "tokenizer")
    elif not tokenizer.is_file():
        tokenizer = checkpoint.tokenizer_folder(tokenizer)
    settings = package.settings(file)
    named = settings.get("labels", ()) if tokenizer is not None else ()
    labels = manifest.get("measured", {}).get("labels") or {label: number for number, label in enumerate(named)}
    shape = signature.outputs[0].shape if signature.outputs else ()
    mean, std = data.mean, data.std
    if mean is None and std is None:
        told = manifest.get("config", {})
        mean, std = (tuple(told[name]) if told.get(name) else None for name in ("mean", "std"))
    if mean is None and std is None:
        mean, std = metadata.normalization(content.model_metadata)
    classes = shape[-1] if shape and shape[-1] > 0 else None
    return Encoding(tokenizer, labels, classes, mean=mean, std=std, pairs=settings.get("pairs"))


def assess(
    files: Sequence[Path],
    data: Data | None,
    config: BenchmarkConfig,
    *,
    reference: Path | None = None,
    title: str = "edgekit benchmark",
    training: Mapping[str, Any] | None = None,
    curves: Sequence[LearningCurve] = (),
    notes: Sequence[str] = (),
    on_progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Measure `files` side by side and return the report; without `reference`, the float32 one among them serves.

    Raises `ModelFormatError` for a path that is no file, `ConfigError` if the files take different inputs, `DatasetError`.
    """
    schemes = {file: scheme for file in files if (scheme := manifest_of(file).get("config", {}).get("scheme"))}
    if reference is None:
        reference = next((file for file in files if schemes.get(file) == "float32"), None)
    _check_parsed(files, reference)
    with tempfile.TemporaryDirectory(prefix="edgekit-assess-") as room:
        samples = None
        if data is not None and (others := [file for file in files if runtime_of(file) is not Runtime.LITERT]):
            raise ConfigError(f"{others[0]}: is no .tflite file; compare it on a data set with edgekit compare")
        if data is not None and (readable := _same_inputs([*files, *([reference] if reference is not None else [])])):
            samples = encode_for(readable[0], data, config.seed, Path(room))
        rows = benchmark(files, samples, config, reference=reference, schemes=schemes, on_progress=on_progress)
    known = described(samples, data.dataset) if samples is not None and data is not None else "random values (no data set given)"
    return Report(
        title=title,
        model=", ".join(sorted({_model_name(file, schemes.get(file)) for file in files})),
        data=known,
        machine=machine(),
        settings={"threads": config.threads, "runs": config.runs, "warm-up": config.warmup, "rounds": config.rounds, "batch": 1},
        rows=tuple(rows),
        reference=str(reference) if reference is not None else "",
        notes=tuple(notes),
        training=training,
        curves=tuple(curves),
    )


def on_device(
    files: Sequence[Path], serial: str | None, config: adb.DeviceConfig, *, on_progress: Callable[[Progress], None] | None = None
) -> Report:
    """Time `files` on a phone with benchmark_model. Raises `InputError` without adb, a phone, or a binary that it can run."""
    for file in files:
        flatbuffer.read(file)
    device = adb.find(serial)
    rows = [
        replace(row, scheme=manifest_of(file).get("config", {}).get("scheme"))
        for row, file in zip(
            adb.benchmark(files, device, config, on_progress),
            (file for file in files for _ in range(len(config.threads) + config.gpu)),
            strict=True,
        )
    ]
    notes = () if adb.has_median(rows) else ("This benchmark_model prints no median, so p50 holds the mean.",)
    return Report(
        title="edgekit benchmark on a phone",
        model=", ".join(sorted({_model_name(file, manifest_of(file).get("config", {}).get("scheme")) for file in files})),
        data="random values that benchmark_model makes",
        machine=f"{device.name}, {', '.join(device.abis)}, benchmark_model over adb",
        settings={"threads": list(config.threads), "gpu": config.gpu, "runs": config.runs, "warm-up": config.warmup, "batch": 1},
        rows=tuple(rows),
        notes=notes if any(row.latency for row in rows) else (),
        versions=adb.names(files, config),
    )


def from_manifests(folder: Path) -> Report:
    """The report of the files that `convert` published in `folder`, from the figures beside them.

    Raises `DatasetError` if there are none.
    """
    from edgekit.report.content import measurement

    files = sorted(folder.glob("*.tflite"))
    manifests = {file: manifest for file in files if (manifest := manifest_of(file))}
    found = list(manifests.items())
    order = list(SCHEMES)
    found.sort(key=lambda item: order.index(item[1]["config"]["scheme"]))
    if not found:
        raise DatasetError(
            f"{folder}: holds neither report.json nor .tflite files with manifests; run edgekit convert or edgekit run first"
        )
    rows = tuple(measurement({**manifest["measured"]["measurement"], "path": str(file)}) for file, manifest in found)
    # A file that was trained for its scheme was measured under a name of its own.
    called = [row.scheme or manifest["config"]["scheme"] for row, (_, manifest) in zip(rows, found, strict=True)]
    models = sorted({_model_name(file, name) for name, (file, _) in zip(called, found, strict=True)})
    return Report(
        title=f"edgekit convert: {folder.resolve().name}",
        model=", ".join(models),
        data=", ".join(sorted({manifest["measured"]["data"] for _, manifest in found})),
        machine=machine(),
        settings={"threads": rows[0].threads, "batch": 1},
        rows=rows,
        # One model's float32 file says nothing of another's.
        reference=next((row.path for row in rows if row.scheme == "float32"), "") if len(models) == 1 else "",
        notes=(
            *(
                f"{name if len(models) == 1 else file.stem}: {reason}"
                for name, (file, manifest) in zip(called, found, strict=True)
                if (reason := (manifest["measured"]["plan"] or {}).get("reason"))
            ),
            *(
                f"Left out {file.name}: no manifest of edgekit's that fits it lies beside it."
                for file in files
                if file not in manifests
            ),
        ),
    )


def of_conversion(results: Sequence[Measurement], reference: Measurement, model: str, data: str, notes: Sequence[str]) -> Report:
    """The report of one conversion; the float32 model is its reference, whether it was asked for or not."""
    rows = tuple(results)
    if not any(row.path == reference.path for row in rows):
        base = next((row.path for row in rows if row.scheme == "float32"), None)
        rows = rows if base else (reference, *rows)
    return Report(
        title=f"edgekit convert: {model}",
        model=model,
        data=data,
        machine=machine(),
        settings={"threads": reference.threads, "batch": 1},
        rows=rows,
        reference=next((row.path for row in rows if row.scheme == "float32"), ""),
        notes=tuple(notes),
    )


def _check_parsed(files: Sequence[Path], reference: Path | None) -> None:
    """Raise `ModelFormatError` if `reference` or every one of `files` is broken; one among others fails when it is run."""
    broken: dict[Path, ModelFormatError] = {}
    for file in (*files, *([reference] if reference is not None else [])):
        try:
            if runtime_of(file) is Runtime.LITERT:
                flatbuffer.read(file)
        except ModelFormatError as error:
            broken[file] = error
    if reference in broken:
        raise broken[reference]
    if broken and broken.keys() >= set(files):
        raise broken[files[0]]


def _same_inputs(files: Sequence[Path]) -> list[Path]:
    """Those of `files` that can be parsed; the others fail when they are run. Raises `ConfigError` if their inputs differ."""
    found: dict[Path, set[tuple[str, tuple[int, ...]]]] = {}
    for file in files:
        flatbuffer.check_exists(file)
        with contextlib.suppress(ModelFormatError):
            content = flatbuffer.read(file)
            found[file] = {(spec.name, spec.shape) for spec in content.signature(content.entry()).inputs}
    readable = list(found)
    for file in readable[1:]:
        if found[file] != found[readable[0]]:
            other = readable[0]
            raise ConfigError(f"{file}: takes other inputs than {other}; benchmark them in separate runs or without --dataset")
    return readable


def _model_name(file: Path, scheme: str | None) -> str:
    return file.stem.removesuffix(f"_{scheme}") if scheme else file.stem
