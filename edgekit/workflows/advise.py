"""Which scheme to take: a model's files, made now or measured before, through the guide's decision tree."""

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from edgekit.data import sources
from edgekit.data.samples import described
from edgekit.data.sources import Rows
from edgekit.errors import ConfigError, ConversionError, DatasetError, EdgekitError, InputError
from edgekit.measure.judge import BenchmarkConfig, benchmark
from edgekit.measure.machine import machine
from edgekit.measure.measurement import Measurement
from edgekit.models.source import SUFFIXES, Kind, brings, classify
from edgekit.report.content import FILE_NAME, Report, load, measurement
from edgekit.spec import DataSpec, path_of, shown
from edgekit.stages.quantize.plan import TRAINED
from edgekit.stages.quantize.schemes import SCHEMES
from edgekit.system import rooms, settings
from edgekit.system.serial import read_json
from edgekit.system.settings import Checked, at_least, setting, share
from edgekit.system.worker import OnProgress
from edgekit.tasks.judgement import Judgement
from edgekit.tflite import flatbuffer
from edgekit.tflite.flatbuffer import ModelFile
from edgekit.workflows.convert.config import MAX_LENGTH, ConvertConfig
from edgekit.workflows.convert.conversion import Converted, columns_of, convert, draw_rows
from edgekit.workflows.convert.publish import REJECTED
from edgekit.workflows.guide.advice import Advice
from edgekit.workflows.guide.decision_tree import DECISIONS, SIMPLEST_FIRST, VALUES, Candidate, Data, Need, Question, allowance
from edgekit.workflows.guide.steps import Origin, steps
from edgekit.workflows.guide.targets import TARGETS, Fit, Hardware, Target, fit
from edgekit.workflows.guide.walk import recommend
from edgekit.workflows.inputs import encode_for, manifest_of, model_name

_REJECTED = f".tflite{REJECTED}"
# In a folder of its own, since it is called as the int8 file that leaves some ops in float is.
_INTEGER_ONLY = "integer_only"
_MAX_DROP = 0.01
# In place of what was found on random rows, which tell nothing of what a file loses.
_NOTHING = Judgement(0)
# Settings of convert, or of optimize, that name rows of the user's: without any it judged by random ones.
_ROWS = ("data", "evaluation_data")


@dataclass(frozen=True)
class AdviseConfig(Checked):
    """What the file is for, and how the model is converted to find out.

    Where `need`, `hardware` or `max_drop` is None, a default is assumed, and the answer says so. Raises `ConfigError`."""

    need: Need | None = setting(None, "What matters most; default: latency, on an accelerator that it runs.")
    hardware: Hardware | None = setting(None, "What will run it; default: cpu.", option="--target")
    task: str | None = settings.task()
    data: DataSpec | None = setting(None, "Rows to calibrate on, and with labels to judge on: {data}.")
    evaluation_data: DataSpec | None = setting(None, "Rows to judge on; left out, others of --data.")
    evaluation_samples: int = setting(1000, "How many of them, drawn with the seed.", at_least(1))
    max_drop: float | None = setting(None, "What of the metric may be lost; default: 0.01.", share())
    flash_bytes: int | None = setting(
        None, "A microcontroller's room for the file.", at_least(1), option="--flash", metavar="BYTES"
    )
    ram_bytes: int | None = setting(None, "A microcontroller's room for the arena.", at_least(1), option="--ram", metavar="BYTES")
    max_length: int = setting(MAX_LENGTH, "Tokens of an input.", at_least(1))
    input_shapes: Mapping[str, tuple[int, ...]] = settings.input_shapes()
    input_values: Mapping[str, tuple[float, ...]] = settings.input_values()
    mean: tuple[float, ...] | None = settings.mean()
    std: tuple[float, ...] | None = settings.std()
    threads: int = settings.threads()
    seed: int = settings.seed()

    @property
    def conversion(self) -> ConvertConfig:
        """How `convert` is called, but for the schemes."""
        shared = {item.name for item in fields(ConvertConfig)} - {"max_drop"}
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name in shared}
        return ConvertConfig(("float32",), max_drop=_MAX_DROP if self.max_drop is None else self.max_drop, **values)


@dataclass(frozen=True)
class _Files:
    """A model's candidates, in `origin`, with what they were measured on."""

    origin: Origin
    metric: str
    data: Data
    described: str
    machine: str
    notes: tuple[str, ...] = ()


def advise(
    model: str,
    config: AdviseConfig = AdviseConfig(),
    *,
    out: Path | None = None,
    overwrite: bool = False,
    on_progress: OnProgress = None,
) -> Advice:
    """Recommend a scheme for `model`, with the figures that decide.

    A folder of files that edgekit published is taken as it was measured. Anything else is converted as `config` says, in every
    scheme that its data allows and for integer accelerators in integers alone too, into `out` or a temporary folder.
    Raises what `convert` raises, `DatasetError` for a folder without manifests, `RefusedError` if no file runs."""
    hardware, need, assumed = _assumptions(config)
    target, conversion, folder = TARGETS[hardware], config.conversion, path_of(model)
    max_drop = conversion.max_drop or 0.0
    if is_published(folder):
        files = _of_folder(folder, config.data, target)
    else:
        with contextlib.nullcontext(out) if out else rooms.temporary("advise") as room:
            place = Path(room)
            files = _converted(model, place, conversion, target, kept=place == out, overwrite=overwrite, on_progress=on_progress)
    origin, room_for = files.origin, (config.flash_bytes, config.ram_bytes)
    question = Question(hardware, need, files.data, max_drop, conversion.min_db, files.metric, *room_for, files.described)
    if config.max_drop is None and files.metric != VALUES:
        assumed.append(f"may lose: {allowance(question)} (--max-drop {max_drop:g})")
    if files.data is Data.NONE:
        assumed.append("data: none to calibrate on, since none was given (--data D)")
    answer = recommend(question, origin.candidates)
    about, lines = (target.needs, target.source, target.read), steps(origin, question, answer)
    return Advice(origin.name, question, tuple(assumed), answer, origin.candidates, *about, lines, _report(files))


def is_published(folder: Path) -> bool:
    """Whether `folder` holds .tflite files (or rejected ones) and is no model itself."""
    if not folder.is_dir() or (folder / "saved_model.pb").is_file() or (folder / "config.json").is_file():
        return False
    return any(folder.glob("*.tflite")) or any(folder.glob(f"*{_REJECTED}.json"))


def _assumptions(config: AdviseConfig) -> tuple[Hardware, Need, list[str]]:
    """The target and the need, and what was assumed of them. Raises `ConfigError` for what does not fit together."""
    assumed = []
    hardware, need = config.hardware, config.need
    if hardware is None:
        hardware = Hardware.EDGETPU if need is Need.ACCELERATOR else Hardware.CPU
        why = ", the accelerator that takes the least" if need is Need.ACCELERATOR else ""
        assumed.append(f"target: {hardware}{why} (--target)")
    if need is Need.ACCELERATOR and hardware is Hardware.CPU:
        raise ConfigError("--need accelerator with --target cpu: give the accelerator as --target, or another need")
    if need is None:
        need = Need.LATENCY if hardware in (Hardware.CPU, Hardware.GPU) else Need.ACCELERATOR
        assumed.append(f"need: {need} (--need)")
    if hardware is not Hardware.MICROCONTROLLER and (config.flash_bytes or config.ram_bytes):
        raise ConfigError("--flash and --ram are a microcontroller's; give --target microcontroller with them")
    return hardware, need, assumed


def _metric(candidates: Iterable[Measurement | None]) -> str:
    """What is kept or lost, see `Question.metric`."""
    rows = [row for row in candidates if row is not None]
    named = next((row.metric.metric for row in rows if row.metric is not None and row.drop is not None), None)
    decides = any(row.agreement is not None for row in rows) or not any(row.outputs for row in rows)
    return named or (DECISIONS if decides else VALUES)


# A model that is converted now.


def _converted(
    model: str, room: Path, config: ConvertConfig, target: Target, *, kept: bool, overwrite: bool, on_progress: OnProgress
) -> _Files:
    source = classify(model, config.task)
    own = brings(model)
    schemes = tuple(name for name, scheme in SCHEMES.items() if config.data is not None or not scheme.needs_data or name in own)
    conversion = convert(model, room, replace(config, schemes=schemes), overwrite=overwrite, on_progress=on_progress)
    results = [(result, False) for result in conversion.results]
    ends = _ends(next((result.path for result, _ in results if result.scheme == "float32"), None), source.kind)
    # A file that the model brings has float inputs and outputs, and no other can be made of its ranges.
    if target.integer_only and config.data is not None and "int8" not in own:
        strict = replace(config, schemes=("int8",), integer_only=True, inputs=ends[0], outputs=ends[1])
        try:
            again = convert(model, room / _INTEGER_ONLY, strict, overwrite=overwrite, on_progress=on_progress)
            results += [(result, True) for result in again.results]
        except (ConversionError, ConfigError) as error:
            results.append((Converted("int8", None, refused=error.message), True))
    rows = draw_rows(config, columns_of(source, config)).judged
    measured, data = _measure([result.path for result, _ in results if result.path], rows, config, on_progress)
    candidates = []
    for result, integer_only in results:
        figures = measured.get(result.path) if result.path else result.measurement
        # What was rejected lies beside its place until the temporary folder goes.
        file = result.path or Path(result.measurement.path if result.measurement else "")
        refused = result.refused if kept or result.refused is None else result.refused.removesuffix(f"; kept as {file}")
        if figures is not None and rows is None:
            figures = figures.judged(_NOTHING, figures.task or "")
        if figures is not None and not (kept and file.is_file()):
            # In place of a path that leads nowhere once the temporary folder is gone.
            name = str(file.relative_to(room) if file.is_relative_to(room) else file.name)
            figures = replace(figures, path=name, failure=figures.failure and figures.failure.replace(figures.path, name))
        candidates.append(Candidate(result.scheme, integer_only, figures, refused, _fit(target, file), result.scheme in own))
    origin = Origin(source.name, model, source.kind, config.__dict__, tuple(candidates), kept, ends)
    metric = _metric([conversion.reference, *(candidate.measurement for candidate in candidates)])
    level = Data.NONE if config.data is None else _level(candidates)
    return _Files(origin, metric, level, data or conversion.data, machine(), conversion.notes)


def _ends(float32: Path | None, kind: Kind | None) -> tuple[str, str]:
    """What the inputs and outputs of an integer-only file become: int8 where they are float, since token ids stay as they are."""
    if (content := _content(float32)) is None:
        return "float32" if kind is Kind.CHECKPOINT else "int8", "int8"
    signature = content.signature(content.entry())
    inputs, outputs = ({spec.dtype for spec in specs} for specs in (signature.inputs, signature.outputs))
    return "int8" if "float32" in inputs else "float32", "int8" if "float32" in outputs else "float32"


def _measure(
    files: Sequence[Path], rows: Rows | None, config: ConvertConfig, on_progress: OnProgress
) -> tuple[dict[Path, Measurement], str]:
    """All files in turns, so that their ratios hold (convert's own figures are of one round each), and what rows they ran on:
    those that convert judged by, none of which it calibrated on."""
    if not files:
        return {}, ""
    schemes = {file: str(manifest_of(file).get("config", {}).get("scheme", "")) for file in files}
    reference = next((file for file, scheme in schemes.items() if scheme == "float32"), None)
    timing = BenchmarkConfig(
        threads=config.threads, runs=60, rounds=3, max_seconds=6.0, max_accuracy_seconds=30.0, gzip=False, seed=config.seed
    )
    with rooms.temporary("advise-rows") as place:
        spec = DataSpec(rows, mean=config.mean, std=config.std)
        samples = encode_for(files[0], spec, Path(place), config.task) if rows is not None else None
        figures = benchmark(files, samples, timing, reference=reference, schemes=schemes, on_progress=on_progress)
    data = described(samples, rows.origin) if samples is not None and rows is not None else ""
    return dict(zip(files, figures, strict=True)), data


def _content(file: Path | None) -> ModelFile | None:
    with contextlib.suppress(EdgekitError):
        return flatbuffer.read(file) if file is not None and file.is_file() else None
    return None


def _fit(target: Target, file: Path) -> Fit | None:
    return fit(target, content) if (content := _content(file)) else None


def _level(candidates: Iterable[Candidate]) -> Data:
    """What the rows were, where there were any."""
    labelled = any(item.measurement is not None and item.measurement.metric is not None for item in candidates)
    return Data.LABELLED if labelled else Data.REPRESENTATIVE


# A folder of files that were measured before.


def _of_folder(folder: Path, data_set: DataSpec | None, target: Target) -> _Files:
    manifests, rejected, strangers = _manifests(folder)
    if not manifests and not rejected:
        what = f"{strangers[0].name} and others" if len(strangers) > 1 else strangers[0].name if strangers else "nothing"
        raise DatasetError(
            f"{folder}: holds {what}, but no manifest that edgekit wrote beside its file; give the folder of edgekit convert "
            f"or edgekit run, or the model itself"
        )
    everything = {**manifests, **rejected}
    names = {
        model_name(Path(file.name.removesuffix(".rejected")), manifest["config"]["scheme"]) for file, manifest in everything.items()
    }
    if len(names) > 1:
        raise InputError(f"{folder}: holds the files of {len(names)} models ({', '.join(sorted(names))}); give a folder of one")
    newer, measured = _newer(folder), []
    candidates: dict[str, Candidate] = {}
    for file, manifest in everything.items():
        settings, stored = manifest["config"], manifest["measured"]
        figures = newer.get(_key(folder, file)) if file in manifests else None
        figures = replace(figures or measurement(stored["measurement"]), path=str(file))
        measured.append(figures)
        if _key(folder, file) not in newer and not any(settings.get(name) for name in _ROWS):
            figures = figures.judged(_NOTHING, figures.task or "")
        plan = stored.get("plan")
        brought = isinstance(plan, Mapping) and plan.get("made_by") == TRAINED
        strict = bool(settings.get("integer_only"))
        candidate = Candidate(settings["scheme"], strict, figures, stored.get("refused"), _fit(target, file), brought)
        # A file that was published goes before one that was rejected in another run.
        if candidate.name not in candidates or candidates[candidate.name].refused:
            candidates[candidate.name] = candidate
    report, first = load(folder) if newer else None, next(iter(everything.values()))
    level, rows = _level_of(list(everything.values()), candidates.values(), report, data_set)
    settings = dict(first["config"]) | ({"data": data_set} if data_set is not None else {})
    model = next(iter(first["parents"]), str(folder))
    kind = _kind(Path(model))
    float32 = next((file for file, manifest in manifests.items() if manifest["config"]["scheme"] == "float32"), None)
    origin = Origin(names.pop(), model, kind, settings, tuple(candidates.values()), True, _ends(float32, kind))
    notes = [f"{file.name}: left out, no manifest of edgekit's that fits it lies beside it" for file in strangers]
    notes += _timed_apart(folder, everything, newer)
    return _Files(origin, _metric(measured), level, rows, report.machine if report else machine(), tuple(notes))


def _manifests(folder: Path) -> tuple[dict[Path, dict[str, Any]], dict[Path, dict[str, Any]], list[Path]]:
    """Of the folder and the folders in it: files with their manifests, rejected ones likewise, and files that have none."""
    files = {file: manifest_of(file) for file in sorted([*folder.glob("*.tflite"), *folder.glob("*/*.tflite")])}
    rejected = {}
    for beside in sorted([*folder.glob(f"*{_REJECTED}.json"), *folder.glob(f"*/*{_REJECTED}.json")]):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            manifest = read_json(beside)
            whole = {"scheme"} <= manifest["config"].keys() and {"measurement", "refused"} <= manifest["measured"].keys()
            if whole and beside.with_suffix("").is_file():
                rejected[beside.with_suffix("")] = manifest
    published = {file: manifest for file, manifest in files.items() if manifest}
    return published, rejected, [file for file in files if file not in published]


def _newer(folder: Path) -> dict[tuple[str, str, int], Measurement]:
    """What `edgekit run` or `edgekit benchmark --out` found after the files were published: all in turns, on more rows."""
    if not (folder / FILE_NAME).is_file():
        return {}
    below = {place.name for place in folder.iterdir() if place.is_dir()}
    rows = [(Path(row.path), row) for row in load(folder).rows]
    return {(path.parent.name if path.parent.name in below else "", path.name, row.size_bytes): row for path, row in rows}


def _key(folder: Path, file: Path) -> tuple[str, str, int]:
    return "" if file.parent == folder else file.parent.name, file.name, file.stat().st_size


def _timed_apart(
    folder: Path, manifests: Mapping[Path, Mapping[str, Any]], newer: Mapping[tuple[str, str, int], Measurement]
) -> list[str]:
    """What was timed in another run than float32, on a machine that may have been busier then."""
    runs = {}
    for file, manifest in manifests.items():
        # Of one run, everything but the scheme is the same.
        run = json.dumps([str(file.parent), {**manifest["config"], "scheme": ""}], sort_keys=True)
        runs[file] = "" if _key(folder, file) in newer else run
    base = next((runs[file] for file, manifest in manifests.items() if manifest["config"]["scheme"] == "float32"), None)
    if base is None or not (apart := [file for file, run in runs.items() if run != base]):
        return []
    files = ", ".join(str(file.relative_to(folder)) for file in apart)
    out = f"--out {folder / FILE_NAME}{' --overwrite' if newer else ''}"
    again = f"edgekit benchmark with all of them and {out} times them in turns."
    return [f"Timed in another run than float32, so that p50 compares loosely: {files}; {again}"]


def _level_of(
    manifests: Sequence[Mapping[str, Any]], candidates: Iterable[Candidate], report: Report | None, data_set: DataSpec | None
) -> tuple[Data, str]:
    """What data there was, and what was measured on it."""
    rows = report.data if report else ", ".join(sorted({str(manifest["measured"].get("data", "")) for manifest in manifests}))
    level = _level(candidates)
    if level is Data.LABELLED or any(manifest["config"].get("data") for manifest in manifests):
        return level, rows
    if data_set is None:
        return Data.NONE, rows
    unseen = sources.read(data_set)
    level = Data.REPRESENTATIVE if unseen.labels is None else Data.LABELLED
    return level, f"{len(unseen)} rows of {shown(unseen.origin)}, which nothing here was measured on"


def _kind(model: Path) -> Kind | None:
    """What a manifest's model is, which may not be there any more."""
    if model.is_dir():
        return Kind.SAVED_MODEL if (model / "saved_model.pb").is_file() else Kind.CHECKPOINT
    return SUFFIXES.get(model.suffix.lower())


def _report(files: _Files) -> Report:
    rows = tuple(
        replace(item.measurement, scheme=item.name)
        for item in sorted(files.origin.candidates, key=lambda item: SIMPLEST_FIRST.index(item.name))
        if item.measurement is not None and (item.ran or item.measurement.failure)
    )
    name, reference = files.origin.name, next((row.path for row in rows if row.scheme == "float32"), "")
    settings = {"threads": next((row.threads for row in rows), 0), "batch": 1}
    return Report(f"edgekit advise: {name}", name, files.described, files.machine, settings, rows, reference, files.notes)
