"""One checkpoint to another format: exported, compared with PyTorch, and published with its tokenizer."""

import enum
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.data import sources
from edgekit.data.encode import Encoding, encode
from edgekit.data.representative import draw
from edgekit.data.samples import Samples, random_samples
from edgekit.data.sources import Columns, TextRows
from edgekit.data.text import check_room
from edgekit.errors import ConfigError, RefusedError
from edgekit.models import checkpoint, linear8
from edgekit.stages.export.compact import CompactExport, export_float16, export_int8
from edgekit.stages.export.module import PARITY_ROWS
from edgekit.stages.export.onnx import export_onnx
from edgekit.stages.export.ort import export_ort
from edgekit.stages.export.saved_model import export_saved_model
from edgekit.stages.export.torchscript import export_torchscript
from edgekit.system import artifacts
from edgekit.system.artifacts import Artifact
from edgekit.system.worker import Progress, Worker
from edgekit.tasks.metrics import Difference, Proportion, accuracy, agreement, drop
from edgekit.tasks.parity import Parity, require
from edgekit.workflows.convert import bridge

# int8 is judged on decisions, which needs more rows than values do.
_JUDGED_ROWS = 1000
# float16 keeps 11 bits of each weight: 5e-4 at most, and what many weights lose averages out.
_FLOAT16_TOLERANCE = 1e-2
# Of int8 without real rows, on which decisions would mean something: beyond half of the largest logit it is another model.
_INT8_TOLERANCE = 0.5


class Format(enum.StrEnum):
    """What `export_checkpoint` writes: an .onnx, .ort or .pt file, or a folder."""

    ONNX = "onnx"
    ORT = "ort"
    TORCHSCRIPT = "torchscript"
    SAVED_MODEL = "saved-model"
    FLOAT16 = "float16"
    INT8 = "int8"


_CHECKPOINTS = (Format.FLOAT16, Format.INT8)
_FOLDERS = (Format.SAVED_MODEL, *_CHECKPOINTS)


@dataclass(frozen=True)
class _Settings:
    format: Format
    dataset: str | None
    max_length: int
    seed: int
    backend: str | None
    max_drop: float | None


@dataclass(frozen=True)
class _Exported:
    """What the manifest tells: each hop's comparison, the value that stands for minus infinity in masks, who did the work."""

    parity: Mapping[str, Parity]
    tools: tuple[str, ...]
    mask: float | None = None
    judged: Mapping[str, Any] = field(default_factory=dict)


def export_checkpoint(
    reference: str,
    kind: Format,
    out: Path,
    *,
    max_length: int = 64,
    dataset: str | None = None,
    columns: Columns | None = None,
    backend: str = linear8.TORCHAO,
    max_drop: float = 0.05,
    seed: int = 0,
    overwrite: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> Artifact:
    """Publish the checkpoint as `out`, with its tokenizer and a manifest.

    A file has inputs int32 (1, max_length) and float32 logits (1, C); its manifest `<name>.json` and the tokenizer lie
    beside it. float16 and int8 are checkpoint folders, which hold both. Compared with PyTorch on 16 rows of `dataset`, or on
    random ids without it; int8 on up to 1000, of which it may lose `max_drop` (a proportion) in accuracy, or without labels in
    decisions. Raises `InputError`, `ConversionError`, `WorkerError` and `OutputError`.
    """
    _check(kind, max_length, backend, max_drop)
    manifest = _manifest(kind, out)
    for path in (out, manifest):
        artifacts.refuse_existing(path, overwrite=overwrite)
    folder = checkpoint.resolve(reference).resolve()
    linear8.refuse_quantized(folder, checkpoint.read_config(folder), "exported")
    checkpoint.check_length(folder, max_length)
    check_room(checkpoint.tokenizer_folder(folder), max_length)
    if kind not in _FOLDERS:
        checkpoint.refuse_other_tokenizer(folder, out.parent, overwrite=overwrite)
    worker = Worker(on_progress=on_progress)
    settings = _Settings(kind, dataset, max_length, seed, *((backend, max_drop) if kind is Format.INT8 else (None, None)))
    with artifacts.claimed(out.parent), artifacts.work_folder("edgekit-export-") as work:
        rows = work / "rows"
        _samples(folder, settings, columns or Columns(), work).save(rows)
        if on_progress is not None:
            on_progress(Progress("export", 0, 1, str(kind)))
        made = work / f"model{out.suffix if kind not in _FOLDERS else ''}"
        exported = (
            _compact(folder, settings, rows, made, worker) if kind in _CHECKPOINTS else _graph(folder, settings, rows, made, worker)
        )
        with artifacts.staged(out, overwrite=overwrite) as partial:
            shutil.move(made, partial)
            if kind is Format.SAVED_MODEL:
                checkpoint.copy_tokenizer(folder, partial)
            described = artifacts.describe(
                partial,
                "checkpoint" if kind in _CHECKPOINTS else kind,
                name=out.name,
                parents={str(folder): artifacts.sha256(folder)},
                config=settings,
                tools=exported.tools,
                measured={"parity": exported.parity, "mask": exported.mask, "data": dataset or "random ids", **exported.judged},
            )
            if kind in _CHECKPOINTS:
                artifacts.write_manifest(partial, described)
        if kind not in _CHECKPOINTS:
            artifacts.write_text(manifest, artifacts.to_json(described))
        if kind not in _FOLDERS:
            checkpoint.publish_tokenizer(folder, out.parent)
    return described


def _check(kind: Format, max_length: int, backend: str, max_drop: float) -> None:
    if max_length < 1:
        raise ConfigError(f"max_length is {max_length}; give at least 1")
    if not 0 <= max_drop <= 1:
        raise ConfigError(f"max_drop is {max_drop:g}; give a proportion between 0 and 1, such as 0.01")
    if kind is Format.INT8:
        linear8.check_backend(backend)
    elif backend != linear8.TORCHAO:
        raise ConfigError(f"--backend {backend}: is for --format int8; leave it out")


def _manifest(kind: Format, out: Path) -> Path:
    """With the file's whole name, since one checkpoint's formats lie side by side under one stem."""
    return out / artifacts.MANIFEST if kind in _CHECKPOINTS else out.with_name(f"{out.name}.json")


def _samples(folder: Path, settings: _Settings, columns: Columns, work: Path) -> Samples:
    if settings.dataset is None:
        return random_samples(bridge.token_specs(settings.max_length, pairs=False), PARITY_ROWS, settings.seed)
    rows = sources.read(settings.dataset, text_columns=columns.text_columns, label_column=columns.label_column)
    rows = sources.take(rows, draw(rows, _JUDGED_ROWS if settings.format is Format.INT8 else PARITY_ROWS, settings.seed))
    inputs = bridge.token_specs(settings.max_length, pairs=isinstance(rows, TextRows) and rows.pairs is not None)
    return encode(rows, inputs, Encoding(checkpoint.tokenizer_folder(folder), checkpoint.label_ids(folder)), work / "images")


def _compact(folder: Path, settings: _Settings, rows: Path, target: Path, worker: Worker) -> _Exported:
    if settings.format is Format.FLOAT16:
        found = worker.run(export_float16, folder, rows, target).value
        require(found.parity, "PyTorch to float16", _FLOAT16_TOLERANCE)
        return _Exported({"PyTorch to float16": found.parity}, ("torch", "transformers", "safetensors"))
    backend = settings.backend or linear8.TORCHAO
    found = worker.run(export_int8, folder, rows, target, backend).value
    judged = _judge(found, Samples.load(rows).labels, settings)
    return _Exported({"PyTorch to int8": found.parity}, ("torch", "transformers", "safetensors", backend), judged=judged)


def _judge(found: CompactExport, labels: Any, settings: _Settings) -> dict[str, Proportion | Difference]:
    """What int8 does to decisions; raises `RefusedError` if that is more than allowed."""
    allowed = settings.max_drop or 0.0
    if settings.dataset is None or found.outputs.shape[-1] < 2:
        require(found.parity, "PyTorch to int8", _INT8_TOLERANCE)
        return {}
    same = agreement(found.outputs, found.reference)
    if labels is None:
        if 1 - same.value > allowed:
            raise RefusedError(
                f"int8: decides otherwise than float32 on {1 - same.value:.1%} of {same.total} rows, "
                f"--max-drop allows {allowed:.1%}; choose --format float16 or allow more"
            )
        return {"agreement": same}
    lost = drop(found.outputs, found.reference, labels)
    if lost.value > allowed:
        raise RefusedError(
            f"int8: loses {100 * lost.value:.1f} points of accuracy against float32 "
            f"({100 * lost.low:.1f} to {100 * lost.high:.1f} with 95 % confidence, {lost.total} rows), "
            f"--max-drop allows {100 * allowed:.1f}; choose --format float16 or allow more"
        )
    return {"agreement": same, "accuracy": accuracy(found.outputs, labels), "drop": lost}


def _graph(folder: Path, settings: _Settings, rows: Path, target: Path, worker: Worker) -> _Exported:
    kind = settings.format
    if kind is Format.TORCHSCRIPT:
        parity = worker.run(export_torchscript, folder, rows, target).value
        return _Exported({"PyTorch to TorchScript": parity}, ("torch", "transformers"))
    # A folder of its own: a graph that is too large for one file leaves its weights beside it.
    onnx_file = target.with_name("onnx") / "model.onnx"
    onnx_file.parent.mkdir()
    exported = worker.run(export_onnx, folder, rows, onnx_file, target.with_name("reference.npy")).value
    hops = {"PyTorch to ONNX": exported.parity}
    if kind is not Format.SAVED_MODEL and (beside := [file for file in onnx_file.parent.iterdir() if file != onnx_file]):
        raise ConfigError(
            f"{folder}: too large for one .{kind} file ({beside[0].stat().st_size / 1e9:.1f} GB); use --format saved-model"
        )
    if kind is Format.ONNX:
        onnx_file.rename(target)
        return _Exported(hops, ("torch", "transformers", "onnx"), exported.mask)
    if kind is Format.ORT:
        hops["ONNX to ORT"] = worker.run(export_ort, onnx_file, rows, target).value
        return _Exported(hops, ("torch", "transformers", "onnx", "onnxruntime"), exported.mask)
    saved = worker.run(export_saved_model, onnx_file, rows, target, foreign=False, max_length=settings.max_length, shapes={}).value
    if saved.parity is not None:
        hops["ONNX to SavedModel"] = saved.parity
    return _Exported(hops, ("torch", "transformers", "onnx2tf", "tensorflow"), exported.mask)
