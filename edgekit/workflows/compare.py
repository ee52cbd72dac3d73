"""Versions of one model side by side, whatever they are stored as: each with its own tokenizer, all on the same rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from edgekit.data.encode import Encoding
from edgekit.data.samples import Samples, described
from edgekit.data.sources import Rows, TextRows
from edgekit.errors import CheckpointError, ConfigError, DatasetError, ModelFormatError
from edgekit.measure import runtimes
from edgekit.measure.judge import BenchmarkConfig, benchmark
from edgekit.measure.machine import machine
from edgekit.measure.measurement import batch_of
from edgekit.measure.runtimes import Description, Runtime
from edgekit.models import checkpoint
from edgekit.models.checkpoint import Checkpoint
from edgekit.report.content import Report
from edgekit.report.pruned import read_plan
from edgekit.spec import DataSpec, TensorSpec, path_of
from edgekit.system import rooms, settings
from edgekit.system.serial import read_json
from edgekit.system.settings import Checked, at_least, setting
from edgekit.system.worker import OnProgress
from edgekit.tasks.base import Task
from edgekit.tflite import flatbuffer
from edgekit.workflows.inputs import classes_of, encoding_of, rows_for, settings_of, tokenizer_in

_DEFAULT_LENGTH = 64
_PACKAGES = {Runtime.ONNX: "onnxruntime", Runtime.TORCHSCRIPT: "torch", Runtime.PYTORCH: "torch"}
_FILES = (".tflite", ".onnx", ".ort", ".pt")


@dataclass(frozen=True)
class CompareConfig(Checked):
    """How versions are compared.

    `reference` is the name or path of the version that ratios and drops are taken from. Tokens are padded to `max_length`; a file
    of fixed length takes its own, which is the default of the others too. `task` is for versions none of which tells its own."""

    names: tuple[str, ...] = setting((), "What to call a version; once for each, in their order.", option="--name")
    reference: str | None = setting(None, "The version, by name or path, that ratios and drops are taken from; default: the first.")
    max_length: int | None = setting(None, "Tokens of an input; default: what a file fixes, else 64.", at_least(1))
    task: str | None = settings.task()
    timing: BenchmarkConfig = setting(BenchmarkConfig(), inline=True)


@dataclass(frozen=True)
class _Version:
    """`length` is the number of tokens that a file takes, None where it takes any (or no tokens).

    `settings` say what it is for, as far as it or `checkpoint`, which it is or was exported from, tells."""

    name: str
    path: Path
    known: Description
    encoding: Encoding
    length: int | None
    settings: Mapping[str, Any]
    checkpoint: Checkpoint | None

    @property
    def takes_tokens(self) -> bool:
        return any(len(spec.shape) == 2 and "int" in spec.dtype for spec in self.known.signature.inputs)

    def inputs(self, length: int, *, pairs: bool) -> tuple[TensorSpec, ...]:
        """What rows are encoded to: its own inputs with no free axis, of a checkpoint as its .tflite has them."""
        if self.checkpoint is not None and self.known.runtime is Runtime.PYTORCH:
            return self.checkpoint.inputs(length, pairs=pairs)
        specs = []
        for spec in self.known.signature.of_one_row().inputs:
            free = (1, *[length] * len(spec.shape))
            shape = tuple(size if size >= 0 else free[place] for place, size in enumerate(spec.shape))
            specs.append(replace(spec, shape=shape))
        return tuple(specs)


def compare(
    references: Sequence[str], data: DataSpec, config: CompareConfig = CompareConfig(), *, on_progress: OnProgress = None
) -> Report:
    """Measure `references` (.tflite, .onnx, .ort and .pt files, checkpoints) on the same rows and return the report.

    All are judged by the task of the first that tells one. Each version's rows are encoded by the tokenizer in its folder;
    `data.tokenizer` is for those that have none. Raises `ConfigError`, `CheckpointError`, `ModelFormatError` and `DatasetError`;
    a version that fails when it is run has a `failure` in its row instead."""
    paths = [_located(text) for text in references]
    places = [path.resolve() for path in paths]
    for number, text in enumerate(references):
        if places[number] in places[:number]:
            raise ConfigError(f"{text}: given twice; give each version once")
    names = _names(references, paths, config.names)
    base = _chosen(config.reference, references, names)
    plans = [read_plan(path, name) for path, name in zip(paths, names, strict=True)]
    timing = config.timing
    with rooms.temporary("compare") as place:
        room = Path(place)
        parts = (room / f"version_{number}" for number in range(len(paths)))
        versions = [_version(name, path, data, own) for name, path, own in zip(names, paths, parts, strict=True)]
        lengths = _lengths(versions, config.max_length)
        first = next((version for version in versions if "task" in version.settings), versions[0])
        rows, task, settings = rows_for(data, first.settings, first.known.signature, config.task)
        samples = _encoded(versions, rows, lengths, task, settings, room)
        described_as = {version.path: version.known for version in versions}
        measured = benchmark(paths, samples, timing, reference=paths[base], described=described_as, on_progress=on_progress)
    # The machine's line has LiteRT's version.
    packages = dict.fromkeys(_PACKAGES[version.known.runtime] for version in versions if version.known.runtime in _PACKAGES)
    return Report(
        title="edgekit compare",
        model="",
        data=described(samples[paths[0]], data.origin),
        machine=", ".join([machine(), *(f"{name} {metadata.version(name)}" for name in packages)]),
        settings={
            "threads": timing.threads,
            "runs": timing.runs,
            "warm-up": timing.warmup,
            "rounds": timing.rounds,
            "batch": batch_of(measured),
        },
        rows=tuple(measured),
        reference=str(paths[base]),
        notes=_notes(versions, lengths, batch_of(measured)),
        versions=tuple(names),
        pruned=tuple(plan for plan in plans if plan is not None),
    )


def _located(reference: str) -> Path:
    path = path_of(reference)
    if path.exists():
        return path
    if path.suffix.lower() in _FILES:
        raise ModelFormatError(f"{reference}: no such file; check the path")
    return checkpoint.resolve(reference)


def _names(references: Sequence[str], paths: Sequence[Path], names: Sequence[str]) -> list[str]:
    if names and len(names) != len(paths):
        raise ConfigError(f"{len(names)} names for {len(paths)} versions; give --name once for each, in their order")
    called = list(names) or [Path(reference).name or str(path) for reference, path in zip(references, paths, strict=True)]
    if not names and len(set(called)) < len(called):
        called = [f"{path.resolve().parent.name}/{name}" for path, name in zip(paths, called, strict=True)]
    if len(set(called)) < len(called) or not all(name.strip() for name in called):
        raise ConfigError(f"the names {', '.join(called)} do not tell the versions apart; give each another with --name")
    return called


def _chosen(reference: str | None, references: Sequence[str], called: Sequence[str]) -> int:
    if reference is None:
        return 0
    for texts in (called, references):
        if reference in texts:
            return list(texts).index(reference)
    raise ConfigError(f"--reference {reference}: is none of the versions; give one of {', '.join(called)}")


def _version(name: str, path: Path, data: DataSpec, room: Path) -> _Version:
    known = runtimes.describe(path)
    length, source = None, None
    settings: Mapping[str, Any] = {}
    if known.runtime is Runtime.LITERT:
        content = flatbuffer.read(path)
        settings = settings_of(content)
        encoding = encoding_of(content, settings, replace(data, tokenizer=None), room)
    else:
        folder: Path | None = path
        if path.is_file():
            folder, length = _exported(path)
        source = Checkpoint.read(folder) if folder is not None else None
        tokenizer = _tokenizer(path.parent if path.is_file() else path, folder)
        vocabulary = source.vocabulary if source is not None and path.is_dir() else None
        encoding = Encoding(tokenizer, classes_of(known.signature.outputs), vocabulary, data.mean, data.std)
        if source is not None:
            settings = {"task": source.task.name, **source.settings}
    if encoding.tokenizer is None and data.tokenizer is not None:
        encoding = replace(encoding, tokenizer=tokenizer_in(data.tokenizer))
    fixed = {spec.shape[1] for spec in known.signature.inputs if len(spec.shape) == 2 and spec.shape[1] > 0}
    return _Version(name, path, known, encoding, fixed.pop() if len(fixed) == 1 else length, settings, source)


def _exported(file: Path) -> tuple[Path | None, int | None]:
    """The checkpoint that `edgekit export` made `file` from, if it is still there, and the length it was exported at."""
    try:
        manifest: dict[str, Any] = read_json(file.with_name(f"{file.name}.json"))
        if manifest["path"] != file.name:
            return None, None
        sources = [Path(parent) for parent in manifest["parents"] if (Path(parent) / "config.json").is_file()]
        return next(iter(sources), None), int(manifest["config"]["max_length"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None, None


def _tokenizer(*folders: Path | None) -> Path | None:
    for folder in folders:
        try:
            return checkpoint.tokenizer_folder(folder) if folder is not None else None
        except CheckpointError:
            continue
    return None


def _lengths(versions: Sequence[_Version], max_length: int | None) -> list[int]:
    """Tokens that each version's rows are padded to."""
    fixed = [version.length for version in versions if version.length is not None]
    common = max_length if max_length is not None else max(fixed, default=_DEFAULT_LENGTH)
    for version in versions:
        if version.checkpoint is not None and version.path.is_dir():
            version.checkpoint.check_length(common)
    return [version.length or common for version in versions]


def _encoded(
    versions: Sequence[_Version], rows: Rows, lengths: Sequence[int], task: Task, settings: Mapping[str, Any], room: Path
) -> dict[Path, Samples]:
    """Each version's samples by its path: the same rows in the same order, with the same labels.

    A version that says nothing of its outputs is read as `settings` have it."""
    pairs = task.joins(rows)
    samples: dict[Path, Samples] = {}
    for number, (version, length) in enumerate(zip(versions, lengths, strict=True)):
        if isinstance(rows, TextRows) and version.encoding.tokenizer is None:
            raise DatasetError(
                f"{version.path}: has no tokenizer beside it; put its tokenizer.json there, or give its folder with --tokenizer"
            )
        own = {**settings, **(version.settings if version.settings.get("task") == task.name else {})}
        place = room / f"arrays_{number}"
        samples[version.path] = task.encode(rows, version.inputs(length, pairs=pairs), version.encoding, own, place)
        first, labels = samples[versions[0].path].labels, samples[version.path].labels
        if first is not None and labels is not None and first.shape == labels.shape and (first != labels).any():
            raise DatasetError(
                f"{version.path}: numbers its classes differently than {versions[0].path}; give versions with the same id2label"
            )
    return samples


def _notes(versions: Sequence[_Version], lengths: Sequence[int], batch: int | list[int]) -> tuple[str, ...]:
    notes, one = [], ", one at a time" if batch == 1 else ""
    texts = [(version.name, length) for version, length in zip(versions, lengths, strict=True) if version.takes_tokens]
    if len({length for _, length in texts}) == 1:
        notes.append(f"Every version was fed the same rows, each padded to {texts[0][1]} tokens{one}.")
    elif texts:
        told = ", ".join(f"{name} {length}" for name, length in texts)
        notes.append(f"Versions of fixed length take rows of their own length, so latency is not like for like: {told} tokens.")
    if len({version.known.runtime for version in versions}) > 1:
        notes.append("Versions run in different runtimes, so p50 and samples/s compare the runtimes too.")
    if any(version.path.is_dir() for version in versions):
        notes.append("The size of a checkpoint is that of its weight files.")
    size = " at batch 1, row after row" if batch == 1 else ", one inference after the other"
    notes.append(f"Samples/s is what one process does{size}: 1000 by the mean latency in ms.")
    return tuple(notes)
