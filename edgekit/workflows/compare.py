"""Versions of one model side by side, whatever they are stored as: each with its own tokenizer, all on the same rows."""

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.encode import Encoding, encode
from edgekit.data.samples import Samples
from edgekit.data.sources import Rows, TextRows
from edgekit.errors import CheckpointError, ConfigError, DatasetError, ModelFormatError
from edgekit.measure import runtimes
from edgekit.measure.judge import BenchmarkConfig, benchmark
from edgekit.measure.machine import machine
from edgekit.measure.runtimes import Description, Runtime
from edgekit.models import checkpoint
from edgekit.report.content import Report
from edgekit.report.pruned import read_plan
from edgekit.spec import TensorSpec, path_of, shown
from edgekit.system.worker import Progress
from edgekit.workflows.assess import Data, encoding_of, rows_of

_DEFAULT_LENGTH = 64
_FILES = (".tflite", ".onnx", ".ort", ".pt")


@dataclass(frozen=True)
class _Version:
    """`length` is the number of tokens that a file takes, None where it takes any (or no tokens)."""

    name: str
    path: Path
    known: Description
    encoding: Encoding
    length: int | None

    @property
    def takes_tokens(self) -> bool:
        return any(len(spec.shape) == 2 for spec in self.known.signature.inputs)

    def inputs(self, length: int, *, pairs: bool) -> tuple[TensorSpec, ...]:
        """What rows are encoded to: its own inputs with no free axis; a checkpoint takes segments where there are pairs."""
        specs = [
            replace(spec, shape=tuple(_size(size, place, length) for place, size in enumerate(spec.shape)))
            for spec in self.known.signature.inputs
        ]
        if pairs and self.known.runtime is Runtime.PYTORCH:
            specs.append(replace(specs[-1], name="token_type_ids"))
        return tuple(specs)


def compare(
    references: Sequence[str],
    data: Data,
    config: BenchmarkConfig,
    *,
    names: Sequence[str] = (),
    reference: str | None = None,
    max_length: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Measure `references` (.tflite, .onnx, .ort and .pt files, checkpoints) on the same rows and return the report.

    `names` call the versions, one for each; `reference` is the name or path of the one that ratios and drops are taken from,
    by default the first. Each version's rows are encoded by the tokenizer in its folder; `data.tokenizer` is for those that
    have none. Tokens are padded to `max_length`; a file of fixed length takes its own, which is also the default of the
    others. Raises `ConfigError`, `CheckpointError`, `ModelFormatError` and `DatasetError`; a version that fails when it is
    run has a `failure` in its row instead.
    """
    paths = [_found(text) for text in references]
    places = [path.resolve() for path in paths]
    if twice := [text for number, text in enumerate(references) if places[number] in places[:number]]:
        raise ConfigError(f"{twice[0]}: given twice; give each version once")
    called = _names(references, paths, names)
    base = _chosen(reference, references, called)
    plans = [read_plan(path, name) for path, name in zip(paths, called, strict=True)]
    with tempfile.TemporaryDirectory(prefix="edgekit-compare-") as place:
        room = Path(place)
        versions = [
            _version(name, path, data, room / f"version_{number}")
            for number, (name, path) in enumerate(zip(called, paths, strict=True))
        ]
        lengths = _lengths(versions, max_length)
        samples = _encoded(versions, rows_of(data, config.seed), lengths, data, room)
        count = len(next(iter(samples.values())))
        measured = benchmark(
            paths,
            samples,
            config,
            reference=paths[base],
            described={version.path: version.known for version in versions},
            on_progress=on_progress,
        )
    return Report(
        title="edgekit compare",
        model="",
        data=f"{count} rows of {shown(data.dataset)}",
        machine=", ".join([machine(), *_packages(versions)]),
        settings={"threads": config.threads, "runs": config.runs, "warm-up": config.warmup, "rounds": config.rounds, "batch": 1},
        rows=tuple(measured),
        reference=str(paths[base]),
        notes=_notes(versions, lengths),
        versions=tuple(called),
        pruned=tuple(plan for plan in plans if plan is not None),
    )


def _found(reference: str) -> Path:
    path = path_of(reference)
    if path.exists():
        return path
    if path.suffix.lower() in _FILES:
        raise ModelFormatError(f"{reference}: no such file; check the path")
    return checkpoint.resolve(reference)


def _names(references: Sequence[str], paths: Sequence[Path], given: Sequence[str]) -> list[str]:
    if given and len(given) != len(paths):
        raise ConfigError(f"{len(given)} names for {len(paths)} versions; give --name once for each, in their order")
    called = list(given) or [Path(reference).name or str(path) for reference, path in zip(references, paths, strict=True)]
    if not given and len(set(called)) < len(called):
        called = [f"{path.resolve().parent.name}/{name}" for path, name in zip(paths, called, strict=True)]
    if len(set(called)) < len(called) or not all(name.strip() for name in called):
        raise ConfigError(f"the names {', '.join(called)} do not tell the versions apart; give each another with --name")
    return called


def _chosen(reference: str | None, references: Sequence[str], called: Sequence[str]) -> int:
    if reference is None:
        return 0
    for known in (called, references):
        if reference in known:
            return list(known).index(reference)
    raise ConfigError(f"--reference {reference}: is none of the versions; give one of {', '.join(called)}")


def _version(name: str, path: Path, data: Data, room: Path) -> _Version:
    known = runtimes.describe(path)
    folder, length = path, None
    if known.runtime is Runtime.LITERT:
        encoding = encoding_of(path, replace(data, tokenizer=None), room)
    else:
        source: Path | None = path
        if path.is_file():
            source, length = _exported(path)
            folder = path.parent
        outputs = known.signature.outputs[0].shape if known.signature.outputs else ()
        classes = outputs[-1] if outputs and outputs[-1] > 0 else None
        encoding = Encoding(_tokenizer(folder, source), _labels(source), classes)
        if path.is_dir():
            encoding = replace(encoding, vocabulary=checkpoint.vocabulary_size(path))
    if encoding.tokenizer is None and data.tokenizer is not None:
        given = data.tokenizer
        encoding = replace(encoding, tokenizer=given if given.is_file() else checkpoint.tokenizer_folder(given))
    fixed = {spec.shape[1] for spec in known.signature.inputs if len(spec.shape) == 2 and spec.shape[1] > 0}
    return _Version(name, path, known, encoding, fixed.pop() if len(fixed) == 1 else length)


def _exported(file: Path) -> tuple[Path | None, int | None]:
    """The checkpoint that `edgekit export` made `file` from, if it is still there, and the length it was exported at."""
    # Files of earlier exports have it under their stem.
    for beside in (file.with_name(f"{file.name}.json"), file.with_suffix(".json")):
        try:
            manifest: dict[str, Any] = json.loads(beside.read_text(encoding="utf-8"))
            if manifest["path"] != file.name:
                continue
            sources = [Path(parent) for parent in manifest["parents"] if (Path(parent) / "config.json").is_file()]
            return next(iter(sources), None), int(manifest["config"]["max_length"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return None, None


def _tokenizer(*folders: Path | None) -> Path | None:
    for folder in folders:
        try:
            return checkpoint.tokenizer_folder(folder) if folder is not None else None
        except CheckpointError:
            continue
    return None


def _labels(source: Path | None) -> dict[str, int]:
    return checkpoint.label_ids(source) if source is not None else {}


def _lengths(versions: Sequence[_Version], max_length: int | None) -> list[int]:
    """Tokens that each version's rows are padded to."""
    fixed = [version.length for version in versions if version.length is not None]
    common = max_length if max_length is not None else max(fixed, default=_DEFAULT_LENGTH)
    for version in versions:
        if version.path.is_dir():
            checkpoint.check_length(version.path, common)
    return [version.length or common for version in versions]


def _encoded(versions: Sequence[_Version], rows: Rows, lengths: Sequence[int], data: Data, room: Path) -> dict[Path, Samples]:
    """Each version's samples by its path: the same rows in the same order, with the same labels."""
    pairs = isinstance(rows, TextRows) and rows.pairs is not None
    # A file whose classes have no names is judged by those of the first version that names them.
    named = next((version.encoding.label_ids for version in versions if version.encoding.label_ids), {})
    found: dict[Path, Samples] = {}
    labels: np.ndarray | None = None
    for number, (version, length) in enumerate(zip(versions, lengths, strict=True)):
        encoding = version.encoding if version.encoding.label_ids else replace(version.encoding, label_ids=named)
        if isinstance(rows, TextRows) and encoding.tokenizer is None:
            raise DatasetError(
                f"{version.path}: has no tokenizer beside it; put its tokenizer.json there, or give its folder with --tokenizer"
            )
        samples = encode(rows, version.inputs(length, pairs=pairs), encoding, room / f"arrays_{number}")
        classes = encoding.classes
        if samples.labels is not None and classes is not None and len(samples.labels) and samples.labels.max() >= classes > 1:
            raise DatasetError(
                f"{data.dataset}: labels outside the head: class {samples.labels.max()}, "
                f"{version.path} has {classes} classes; mend the labels or set --label-column"
            )
        if number == 0:
            labels = samples.labels
        elif labels is not None and samples.labels is not None and (labels != samples.labels).any():
            raise DatasetError(
                f"{version.path}: numbers its classes differently than {versions[0].path}; give versions with the same id2label"
            )
        found[version.path] = samples
    return found


def _notes(versions: Sequence[_Version], lengths: Sequence[int]) -> tuple[str, ...]:
    notes = []
    texts = [(version.name, length) for version, length in zip(versions, lengths, strict=True) if version.takes_tokens]
    if len({length for _, length in texts}) == 1:
        notes.append(f"Every version was fed the same rows, each padded to {texts[0][1]} tokens, one at a time.")
    elif texts:
        told = ", ".join(f"{name} {length}" for name, length in texts)
        notes.append(f"Versions of fixed length take rows of their own length, so latency is not like for like: {told} tokens.")
    if len({version.known.runtime for version in versions}) > 1:
        notes.append("Versions run in different runtimes, so p50 and samples/s compare the runtimes too.")
    if any(version.path.is_dir() for version in versions):
        notes.append("The size of a checkpoint is that of its weight files.")
    notes.append("Samples/s is what one process does at batch 1, row after row: 1000 by the mean latency in ms.")
    return tuple(notes)


def _packages(versions: Sequence[_Version]) -> list[str]:
    """The runtimes beside LiteRT, whose version the machine's line has."""
    names = {Runtime.ONNX: "onnxruntime", Runtime.TORCHSCRIPT: "torch", Runtime.PYTORCH: "torch"}
    used = dict.fromkeys(names[version.known.runtime] for version in versions if version.known.runtime in names)
    return [f"{name} {metadata.version(name)}" for name in used]


def _size(size: int, place: int, length: int) -> int:
    if size >= 0:
        return size
    return 1 if place == 0 else length
