"""Which scheme to take: a model's files, made now or measured before, through the guide's decision tree."""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.data import sources
from edgekit.data.encode import encode
from edgekit.data.samples import described
from edgekit.data.sources import Columns, Rows
from edgekit.errors import ConfigError, ConversionError, DatasetError, EdgekitError, InputError
from edgekit.measure.judge import BenchmarkConfig, benchmark
from edgekit.measure.machine import machine
from edgekit.measure.measurement import Measurement
from edgekit.report.content import FILE_NAME, Report, load, measurement
from edgekit.spec import path_of, shown
from edgekit.stages.quantize.plan import TRAINED
from edgekit.stages.quantize.schemes import SCHEMES
from edgekit.system import artifacts
from edgekit.system.worker import Progress
from edgekit.tflite import flatbuffer
from edgekit.workflows.assess import Data as Source
from edgekit.workflows.assess import encoding_of, manifest_of
from edgekit.workflows.convert import bridge
from edgekit.workflows.convert.bridge import Kind
from edgekit.workflows.convert.config import ConvertConfig
from edgekit.workflows.convert.conversion import Converted, convert, read_rows
from edgekit.workflows.guide.advice import Advice
from edgekit.workflows.guide.decision_tree import SIMPLEST_FIRST, Candidate, Data, Need, Question
from edgekit.workflows.guide.steps import Origin, steps
from edgekit.workflows.guide.targets import TARGETS, Fit, Hardware, Target, fit
from edgekit.workflows.guide.walk import recommend

_REJECTED = ".tflite.rejected"
# In a folder of its own, since it is called as the int8 file that leaves some ops in float is.
_INTEGER_ONLY = "integer_only"
# What convert, or optimize, was told where it judged by rows of the user's and not by random ones.
_ROWS = ("representative_data", "evaluation_data", "dataset")


@dataclass(frozen=True)
class Asked:
    """What the user said; None where nothing was, and a default is assumed and told."""

    hardware: Hardware | None = None
    need: Need | None = None
    max_drop: float | None = None
    flash_bytes: int | None = None
    ram_bytes: int | None = None


@dataclass(frozen=True)
class _Found:
    """A model's candidates with what they were measured on, and how they were made: `model` and `settings` of convert."""

    name: str
    model: str
    kind: Kind | None
    candidates: tuple[Candidate, ...]
    data: Data
    described: str
    machine: str
    settings: Mapping[str, Any]
    kept: bool
    ends: tuple[str, str]
    notes: tuple[str, ...] = ()


def advise(
    model: str,
    asked: Asked,
    config: ConvertConfig,
    *,
    columns: Columns | None = None,
    out: Path | None = None,
    overwrite: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> Advice:
    """Recommend a scheme for `model`, with the figures that decide.

    A folder of files that edgekit published is taken as it was measured. Anything else is converted as `config` says, in every
    scheme that its data allows and for integer accelerators in integers alone too, into `out` or a temporary folder.
    Raises what `convert` raises, `DatasetError` for a folder without manifests, `RefusedError` if no file runs.
    """
    hardware, need, max_drop, assumed = _answers(asked)
    target = TARGETS[hardware]
    config = replace(config, max_drop=max_drop)
    folder = path_of(model)
    if is_published(folder):
        found = _of_folder(folder, config, columns or Columns(), target)
    else:
        with _room(out) as room:
            given = columns or Columns()
            found = _converted(
                model, room, config, given, target, kept=out is not None, overwrite=overwrite, on_progress=on_progress
            )
    if found.data is Data.NONE:
        assumed.append("data: none to calibrate on, since none was given (--data D)")
    question = Question(hardware, need, found.data, max_drop, asked.flash_bytes, asked.ram_bytes, found.described)
    answer = recommend(question, found.candidates)
    return Advice(
        found.name,
        question,
        tuple(assumed),
        answer,
        found.candidates,
        target.needs,
        target.source,
        target.read,
        steps(_origin(found), question, answer),
        _report(found),
    )


def is_published(folder: Path) -> bool:
    """Whether `folder` holds .tflite files (or rejected ones) and is no model itself."""
    if not folder.is_dir() or (folder / "saved_model.pb").is_file() or (folder / "config.json").is_file():
        return False
    return any(folder.glob("*.tflite")) or any(folder.glob(f"*{_REJECTED}.json"))


def _answers(asked: Asked) -> tuple[Hardware, Need, float, list[str]]:
    assumed = []
    hardware, need, max_drop = asked.hardware, asked.need, asked.max_drop
    if hardware is None:
        hardware = Hardware.EDGETPU if need is Need.ACCELERATOR else Hardware.CPU
        why = ", the accelerator that takes the least" if need is Need.ACCELERATOR else ""
        assumed.append(f"target: {hardware}{why} (--target)")
    if need is Need.ACCELERATOR and hardware is Hardware.CPU:
        raise ConfigError("--need accelerator with --target cpu: give the accelerator as --target, or another need")
    if need is None:
        need = Need.LATENCY if hardware in (Hardware.CPU, Hardware.GPU) else Need.ACCELERATOR
        assumed.append(f"need: {need} (--need)")
    if max_drop is None:
        max_drop = 0.01
        assumed.append("may lose: 1 point of accuracy (--max-drop 0.01)")
    if hardware is not Hardware.MICROCONTROLLER and (asked.flash_bytes or asked.ram_bytes):
        raise ConfigError("--flash and --ram are a microcontroller's; give --target microcontroller with them")
    return hardware, need, max_drop, assumed


@contextmanager
def _room(out: Path | None) -> Iterator[Path]:
    if out is not None:
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="edgekit-advise-") as room:
        yield Path(room)


# A model that is converted now.


def _converted(
    model: str,
    room: Path,
    config: ConvertConfig,
    columns: Columns,
    target: Target,
    *,
    kept: bool,
    overwrite: bool,
    on_progress: Callable[[Progress], None] | None,
) -> _Found:
    source = bridge.classify(model)
    config = replace(config, brings=bridge.brings(model))
    wanted = tuple(
        scheme.name
        for scheme in SCHEMES.values()
        if config.representative_data is not None or not scheme.needs_data or scheme.name in config.brings
    )
    made = convert(model, room, replace(config, schemes=wanted), columns=columns, overwrite=overwrite, on_progress=on_progress)
    results = [(result, False) for result in made.results]
    ends = _ends(next((result.path for result in made.results if result.scheme == "float32"), None), source.kind)
    # A file that the model brings has float inputs and outputs, and no other can be made of its ranges.
    if target.integer_only and config.representative_data is not None and "int8" not in config.brings:
        strict = replace(config, schemes=("int8",), integer_only=True, inputs=ends[0], outputs=ends[1])
        try:
            again = convert(model, room / _INTEGER_ONLY, strict, columns=columns, overwrite=overwrite, on_progress=on_progress)
            results += [(result, True) for result in again.results]
        except (ConversionError, ConfigError) as error:
            results.append((Converted("int8", None, refused=error.message), True))
    rows = read_rows(config, columns).judged
    measured, data = _measure([result.path for result, _ in results if result.path], rows, config, on_progress)
    candidates = []
    for result, integer_only in results:
        figures = measured.get(result.path) if result.path else result.measurement
        # What was rejected lies beside its place until the temporary folder goes.
        file = result.path or Path(result.measurement.path if result.measurement else "")
        refused = result.refused
        if refused is not None and not kept:
            refused = refused.removesuffix(f"; kept as {file}")
        brought, fitted = result.scheme in config.brings, _fit(target, file)
        if figures is not None and not (kept and file.is_file()):
            figures = _named(figures, room)
        candidates.append(Candidate(result.scheme, integer_only, figures, refused, fitted, brought))
    return _Found(
        source.name,
        model,
        source.kind,
        tuple(candidates),
        _level(rows) if config.representative_data is not None else Data.NONE,
        data or made.data,
        machine(),
        {**config.__dict__, **columns.__dict__},
        kept=kept,
        ends=ends,
        notes=made.notes,
    )


def _named(figures: Measurement, room: Path) -> Measurement:
    """With what its file was called in `room` in place of a path that leads nowhere once the temporary folder is gone."""
    path = Path(figures.path)
    name = str(path.relative_to(room) if path.is_relative_to(room) else path.name)
    return replace(figures, path=name, failure=figures.failure and figures.failure.replace(figures.path, name))


def _ends(float32: Path | None, kind: Kind | None) -> tuple[str, str]:
    """What the inputs and outputs of an integer-only file become: int8 where they are float, since token ids stay as they are."""
    try:
        content = flatbuffer.read(float32) if float32 is not None else None
    except EdgekitError:
        content = None
    if content is None:
        return "float32" if kind is Kind.CHECKPOINT else "int8", "int8"
    found = content.signature(content.entry())
    inputs, outputs = (
        "int8" if any(spec.dtype == "float32" for spec in ends) else "float32" for ends in (found.inputs, found.outputs)
    )
    return inputs, outputs


def _measure(
    files: Sequence[Path], rows: Rows | None, config: ConvertConfig, on_progress: Callable[[Progress], None] | None
) -> tuple[dict[Path, Measurement], str]:
    """All files in turns, so that their ratios hold; convert's own figures are of one round each. And what rows they ran on.

    Those are the rows that convert judged by, none of which it calibrated on.
    """
    if not files:
        return {}, ""
    schemes = {file: str(manifest_of(file).get("config", {}).get("scheme", "")) for file in files}
    reference = next((file for file, scheme in schemes.items() if scheme == "float32"), None)
    settings = BenchmarkConfig(
        threads=config.threads, runs=60, rounds=3, max_seconds=6.0, max_accuracy_seconds=30.0, gzip=False, seed=config.seed
    )
    with tempfile.TemporaryDirectory(prefix="edgekit-advise-rows-") as place:
        samples = None
        if rows is not None:
            content = flatbuffer.read(files[0])
            given = Source(rows.origin, mean=config.mean, std=config.std)
            inputs = content.signature(content.entry()).inputs
            samples = encode(rows, inputs, encoding_of(files[0], given, Path(place)), Path(place))
        found = benchmark(files, samples, settings, reference=reference, schemes=schemes, on_progress=on_progress)
    known = described(samples, rows.origin) if samples is not None and rows is not None else ""
    return dict(zip(files, found, strict=True)), known


def _fit(target: Target, file: Path) -> Fit | None:
    try:
        return fit(target, flatbuffer.read(file)) if file.is_file() else None
    except EdgekitError:
        return None


def _level(rows: Rows | None) -> Data:
    if rows is None:
        return Data.NONE
    return Data.LABELLED if rows.labels is not None else Data.REPRESENTATIVE


# A folder of files that were measured before.


def _of_folder(folder: Path, config: ConvertConfig, columns: Columns, target: Target) -> _Found:
    manifests, rejected, strangers = _manifests(folder)
    if not manifests and not rejected:
        what = f"{strangers[0].name} and others" if len(strangers) > 1 else strangers[0].name if strangers else "nothing"
        raise DatasetError(
            f"{folder}: holds {what}, but no manifest that edgekit wrote beside its file; give the folder of edgekit convert "
            f"or edgekit run, or the model itself"
        )
    everything = {**manifests, **rejected}
    names = {_model_name(file, manifest) for file, manifest in everything.items()}
    if len(names) > 1:
        raise InputError(f"{folder}: holds the files of {len(names)} models ({', '.join(sorted(names))}); give a folder of one")
    newer = _newer(folder)
    candidates: dict[str, Candidate] = {}
    for file, manifest in everything.items():
        figures = newer.get(_key(folder, file)) if file in manifests else None
        stored = manifest["measured"]["measurement"]
        figures = replace(figures or measurement(stored), path=str(file))
        settings = manifest["config"]
        if _key(folder, file) not in newer and not any(settings.get(name) for name in _ROWS):
            # Of random rows, which tell nothing of what a file loses.
            figures = replace(figures, agreement=None, drop=None)
        refused = manifest["measured"].get("refused")
        strict, brought = bool(settings.get("integer_only")), _brought(manifest)
        found = Candidate(settings["scheme"], strict, figures, refused, _fit(target, file), brought)
        # A file that was published goes before one that was rejected in another run.
        if found.name not in candidates or candidates[found.name].refused:
            candidates[found.name] = found
    report = load(folder) if newer else None
    first = next(iter(everything.values()))
    data, described = _known_data(everything, candidates, report, config, columns)
    settings = dict(first["config"])
    if config.representative_data is not None:
        settings["representative_data"] = config.representative_data
    model = next(iter(first["parents"]), str(folder))
    kind = _kind(Path(model))
    return _Found(
        names.pop(),
        model,
        kind,
        tuple(candidates.values()),
        data,
        described,
        report.machine if report else machine(),
        settings,
        kept=True,
        ends=_ends(next((file for file, found in manifests.items() if found["config"]["scheme"] == "float32"), None), kind),
        notes=(
            *(f"{file.name}: left out, no manifest of edgekit's that fits it lies beside it" for file in strangers),
            *_timed_apart(folder, everything, newer),
        ),
    )


def _brought(manifest: Mapping[str, Any]) -> bool:
    """Whether a file's ranges came with its model."""
    plan = manifest["measured"].get("plan")
    return isinstance(plan, Mapping) and plan.get("made_by") == TRAINED


def _manifests(folder: Path) -> tuple[dict[Path, dict[str, Any]], dict[Path, dict[str, Any]], list[Path]]:
    """Of the folder and the folders in it: files with their manifests, rejected ones likewise, and files that have none."""
    published, rejected, strangers = {}, {}, []
    for file in sorted([*folder.glob("*.tflite"), *folder.glob("*/*.tflite")]):
        if manifest := manifest_of(file):
            published[file] = manifest
        else:
            strangers.append(file)
    for beside in sorted([*folder.glob(f"*{_REJECTED}.json"), *folder.glob(f"*/*{_REJECTED}.json")]):
        file = beside.with_suffix("")
        try:
            manifest = json.loads(beside.read_text(encoding="utf-8"))
            whole = {"scheme"} <= manifest["config"].keys() and {"measurement", "refused"} <= manifest["measured"].keys()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            whole = False
        if whole and file.is_file():
            rejected[file] = manifest
    return published, rejected, strangers


def _newer(folder: Path) -> dict[tuple[str, str, int], Measurement]:
    """What `edgekit run` or `edgekit benchmark --out` found after the files were published: all in turns, on more rows."""
    if not (folder / FILE_NAME).is_file():
        return {}
    below = {place.name for place in folder.iterdir() if place.is_dir()}
    found = {}
    for row in load(folder).rows:
        path = Path(row.path)
        found[path.parent.name if path.parent.name in below else "", path.name, row.size_bytes] = row
    return found


def _key(folder: Path, file: Path) -> tuple[str, str, int]:
    return "" if file.parent == folder else file.parent.name, file.name, file.stat().st_size


def _timed_apart(
    folder: Path, manifests: Mapping[Path, Mapping[str, Any]], newer: Mapping[tuple[str, str, int], Measurement]
) -> tuple[str, ...]:
    """What was timed in another run than float32, on a machine that may have been busier then."""
    runs = {}
    for file, manifest in manifests.items():
        # Of one run, everything but the scheme is the same.
        config = {key: value for key, value in manifest["config"].items() if key != "scheme"}
        timed = _key(folder, file) in newer
        runs[file] = "" if timed else json.dumps([str(file.parent), config], sort_keys=True)
    base = next((runs[file] for file, manifest in manifests.items() if manifest["config"]["scheme"] == "float32"), None)
    if base is None or not (apart := [file for file, run in runs.items() if run != base]):
        return ()
    files = ", ".join(str(file.relative_to(folder)) for file in apart)
    return (
        f"Timed in another run than float32, so that p50 compares loosely: {files}; edgekit benchmark with all of them and "
        f"--out {folder / FILE_NAME}{' --overwrite' if newer else ''} times them in turns.",
    )


def _known_data(
    manifests: Mapping[Path, Mapping[str, Any]],
    candidates: Mapping[str, Candidate],
    report: Report | None,
    config: ConvertConfig,
    columns: Columns,
) -> tuple[Data, str]:
    told = report.data if report else ", ".join(sorted({str(found["measured"].get("data", "")) for found in manifests.values()}))
    if any(item.measurement is not None and item.measurement.accuracy is not None for item in candidates.values()):
        return Data.LABELLED, told
    if any(found["config"].get("representative_data") for found in manifests.values()):
        return Data.REPRESENTATIVE, told
    if config.representative_data is not None:
        given = sources.read(config.representative_data, text_columns=columns.text_columns, label_column=columns.label_column)
        return _level(given), f"{len(given)} rows of {shown(given.origin)}, which nothing here was measured on"
    return Data.NONE, told


def _model_name(file: Path, manifest: Mapping[str, Any]) -> str:
    return file.name.removesuffix(".rejected").removesuffix(".tflite").removesuffix(f"_{manifest['config']['scheme']}")


def _kind(model: Path) -> Kind | None:
    if model.is_dir():
        return Kind.SAVED_MODEL if (model / "saved_model.pb").is_file() else Kind.CHECKPOINT
    return {".onnx": Kind.ONNX, ".h5": Kind.KERAS, ".tflite": Kind.TFLITE}.get(model.suffix.lower())


# What is told.


def _origin(found: _Found) -> Origin:
    paths = {item.name: item.measurement.path for item in found.candidates if item.measurement is not None}
    brings = tuple(item.scheme for item in found.candidates if item.brought)
    defaults = dict(ConvertConfig().__dict__)
    return Origin(found.name, found.model, str(found.kind or ""), found.settings, defaults, paths, found.kept, found.ends, brings)


def _report(found: _Found) -> Report:
    rows = tuple(
        replace(item.measurement, scheme=item.name)
        for item in sorted(found.candidates, key=lambda item: SIMPLEST_FIRST.index(item.name))
        if item.measurement is not None and (item.ran or item.measurement.failure)
    )
    return Report(
        title=f"edgekit advise: {found.name}",
        model=found.name,
        data=found.described,
        machine=found.machine,
        settings={"threads": next((row.threads for row in rows), 0), "batch": 1},
        rows=rows,
        reference=next((row.path for row in rows if row.scheme == "float32"), ""),
        notes=found.notes,
    )


def write_page(advice: Advice, out: Path) -> None:
    """Publish the answer as a page. Raises `OutputError`."""
    from edgekit.workflows.guide.advice import page

    artifacts.write_text(out, page(advice))
