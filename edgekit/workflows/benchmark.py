"""Files that are there already, measured side by side: on this machine, or timed on a phone."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.data.samples import described
from edgekit.errors import ConfigError, ModelFormatError
from edgekit.measure import adb, judge
from edgekit.measure.judge import BenchmarkConfig
from edgekit.measure.machine import machine
from edgekit.measure.measurement import Measurement, batch_of
from edgekit.measure.runtimes import Runtime, runtime_of
from edgekit.report.content import LearningCurve, Report
from edgekit.spec import DataSpec
from edgekit.system import rooms
from edgekit.system.worker import OnProgress
from edgekit.tflite import flatbuffer
from edgekit.workflows.inputs import encode_for, model_name, scheme_of


def benchmark(
    models: Sequence[str | Path],
    data: DataSpec | None = None,
    config: BenchmarkConfig = BenchmarkConfig(),  # noqa: B008 - frozen
    *,
    reference: Path | None = None,
    task: str | None = None,
    title: str = "edgekit benchmark",
    training: Mapping[str, Any] | None = None,
    curves: Sequence[LearningCurve] = (),
    notes: Sequence[str] = (),
    on_progress: OnProgress = None,
) -> Report:
    """Measure `models`, files, side by side and return the report; without `reference`, the float32 one among them serves.

    With `data` they are judged too, by the task that the files tell or `task`. Raises `ModelFormatError` for a path that is no
    file, `ConfigError` if the files take different inputs, `DatasetError`."""
    files = [Path(model) for model in models]
    schemes = {file: scheme for file in files if (scheme := scheme_of(file))}
    if reference is None:
        reference = next((file for file in files if schemes.get(file) == "float32"), None)
    everything = [*files, *([reference] if reference is not None else [])]
    _check_parsed(files, everything, reference)
    shown = "random values (no data set given)"
    with rooms.temporary("benchmark") as room:
        samples = None
        if data is not None and (others := [file for file in files if runtime_of(file) is not Runtime.LITERT]):
            raise ConfigError(f"{others[0]}: is no .tflite file; compare it on a data set with edgekit compare")
        if data is not None and (readable := _same_inputs(everything)):
            samples = encode_for(readable[0], data, Path(room), task)
            shown = described(samples, data.origin)
        rows = judge.benchmark(files, samples, config, reference=reference, schemes=schemes, on_progress=on_progress)
    return Report(
        title=title,
        model=", ".join(sorted({model_name(file, schemes.get(file)) for file in files})),
        data=shown,
        machine=machine(),
        settings={
            "threads": config.threads,
            "runs": config.runs,
            "warm-up": config.warmup,
            "rounds": config.rounds,
            "batch": batch_of(rows),
        },
        rows=tuple(rows),
        reference=str(reference) if reference is not None else "",
        notes=tuple(notes),
        training=training,
        curves=tuple(curves),
    )


def on_device(files: Sequence[Path], serial: str | None, config: adb.DeviceConfig, *, on_progress: OnProgress = None) -> Report:
    """Time `files` on a phone with benchmark_model. Raises `InputError` without adb, a phone, or a binary that it can run."""
    for file in files:
        flatbuffer.read(file)
    device = adb.find(serial)
    of = [file for file in files for _ in range(len(config.threads) + config.gpu)]
    measured = adb.benchmark(files, device, config, on_progress)
    rows = [_on_device(row, file) for row, file in zip(measured, of, strict=True)]
    notes = () if adb.has_median(rows) else ("This benchmark_model prints no median, so p50 holds the mean.",)
    return Report(
        title="edgekit benchmark on a phone",
        model=", ".join(sorted({model_name(file, scheme_of(file)) for file in files})),
        data="random values that benchmark_model makes",
        machine=f"{device.name}, {', '.join(device.abis)}, benchmark_model over adb",
        settings={
            "threads": list(config.threads),
            "gpu": config.gpu,
            "runs": config.runs,
            "warm-up": config.warmup,
            "batch": batch_of(rows),
        },
        rows=tuple(rows),
        notes=notes if any(row.latency for row in rows) else (),
        versions=adb.names(files, config),
    )


def _on_device(row: Measurement, file: Path) -> Measurement:
    """With the scheme of `file`, and times of one row: benchmark_model runs the first subgraph on all that it takes."""
    content = flatbuffer.read(file)
    batch = content.signature(content.entry()).batch
    latency = row.latency.a_row(batch) if row.latency else None
    rate = row.samples_per_s * batch if row.samples_per_s else None
    return replace(row, scheme=scheme_of(file), latency=latency, samples_per_s=rate)


def _check_parsed(files: Sequence[Path], everything: Sequence[Path], reference: Path | None) -> None:
    """Raise `ModelFormatError` if `reference` or every one of `files` is broken; one among others fails when it is run."""
    broken: dict[Path, ModelFormatError] = {}
    for file in everything:
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
    inputs: dict[Path, set[tuple[str, tuple[int, ...]]]] = {}
    for file in files:
        flatbuffer.check_exists(file)
        with contextlib.suppress(ModelFormatError):
            content = flatbuffer.read(file)
            inputs[file] = {(spec.name, spec.shape) for spec in content.signature(content.entry()).of_one_row().inputs}
    readable = list(inputs)
    if other := next((file for file in readable if inputs[file] != inputs[readable[0]]), None):
        raise ConfigError(f"{other}: takes other inputs than {readable[0]}; benchmark them in separate runs or without --dataset")
    return readable
