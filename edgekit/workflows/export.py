"""One checkpoint to another format: exported, compared with PyTorch, and published with its tokenizer."""

import enum
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.data import sources
from edgekit.data.encode import Encoding
from edgekit.data.representative import draw
from edgekit.data.samples import Samples
from edgekit.data.text import check_ids, check_room, random_texts
from edgekit.errors import ConfigError, RefusedError, about
from edgekit.measure.measurement import Measurement, refusal
from edgekit.models import linear8
from edgekit.models.checkpoint import Checkpoint, publish_tokenizer, refuse_other_tokenizer, resolve, standalone_tokenizer
from edgekit.spec import DataSpec
from edgekit.stages.export.compact import CompactExport, export_float16, export_int8
from edgekit.stages.export.module import PARITY_ROWS
from edgekit.stages.export.onnx import export_onnx
from edgekit.stages.export.ort import export_ort
from edgekit.stages.export.saved_model import export_saved_model
from edgekit.stages.export.torchscript import export_torchscript
from edgekit.system import artifacts, rooms, settings
from edgekit.system.artifacts import Artifact
from edgekit.system.settings import at_least, check, setting
from edgekit.system.worker import OnProgress, Worker, stage
from edgekit.tasks.parity import Parity, require

# int8 is judged by its task, which needs more rows than values do.
_JUDGED_ROWS = 1000
# float16 keeps 11 bits of each weight: 5e-4 at most, and what many weights lose averages out.
_FLOAT16_TOLERANCE = 1e-2
# Of int8 without real rows, on which decisions would mean something: beyond half of the largest logit it is another model.
_INT8_TOLERANCE = 0.5


class Format(enum.StrEnum):
    """What `export` writes: an .onnx, .ort or .pt file, or a folder."""

    ONNX = "onnx"
    ORT = "ort"
    TORCHSCRIPT = "torchscript"
    SAVED_MODEL = "saved-model"
    FLOAT16 = "float16"
    INT8 = "int8"


_CHECKPOINTS = (Format.FLOAT16, Format.INT8)
_FOLDERS = (Format.SAVED_MODEL, *_CHECKPOINTS)


@dataclass(frozen=True)
class ExportConfig:
    """What `edgekit export` is told.

    `max_length` counts tokens. `data` are rows to compare on, random ids without it. int8, made by `backend`, may lose `max_drop`
    of its task's metric, or without labels have that share of other decisions; where nothing is decided its outputs stay
    within `min_db` dB."""

    format: Format = setting(Format.ONNX, "float16 and int8 are checkpoint folders.", required=True)
    data: DataSpec | None = setting(None, "Rows to compare with PyTorch on: {data}.", option="--dataset")
    max_length: int = setting(64, "Tokens of an input.", at_least(1))
    backend: str = setting(linear8.TORCHAO, "Who makes int8 linear layers.", choices=linear8.BACKENDS)
    max_drop: float = settings.max_drop()
    min_db: float = settings.min_db()
    min_cosine: float = settings.min_cosine()
    task: str | None = settings.task()
    seed: int = settings.seed()

    def __post_init__(self) -> None:
        check(self)
        if self.format is Format.INT8:
            linear8.check_backend(self.backend)
        elif self.backend != linear8.TORCHAO:
            raise ConfigError(f"--backend {self.backend}: is for --format int8; leave it out")


@dataclass(frozen=True)
class _Exported:
    """What the manifest tells: each hop's comparison, the value that stands for minus infinity in masks, who did the work."""

    parity: Mapping[str, Parity]
    tools: tuple[str, ...]
    mask: float | None = None
    judged: Mapping[str, Any] = field(default_factory=dict)


def export(
    model: str | Path,
    out: str | Path,
    config: ExportConfig = ExportConfig(),
    *,
    overwrite: bool = False,
    on_progress: OnProgress = None,
) -> Artifact:
    """Publish the checkpoint `model` as `out`, with its tokenizer and a manifest.

    A file has inputs int32 (1, max_length) and its task's float32 outputs; its manifest `<name>.json` and the tokenizer lie
    beside it. float16 and int8 are checkpoint folders, which hold both. Compared with PyTorch on 16 rows, int8 on up to 1000.
    Raises `InputError`, `ConversionError`, `WorkerError` and `OutputError`."""
    kind, out = config.format, Path(out)
    # With the file's whole name, since one checkpoint's formats lie side by side under one stem.
    manifest = out / artifacts.MANIFEST if kind in _CHECKPOINTS else out.with_name(f"{out.name}.json")
    for path in (out, manifest):
        artifacts.refuse_existing(path, overwrite=overwrite)
    checkpoint = Checkpoint.read(resolve(str(model)).resolve(), config.task)
    artifacts.refuse_source(out, checkpoint.path)
    linear8.refuse_quantized(checkpoint.path, checkpoint.config, "exported")
    checkpoint.check_length(config.max_length)
    # Without texts a tokenizer of Python code is not asked.
    if config.data is not None or (checkpoint.tokenizer / "tokenizer.json").is_file():
        check_room(checkpoint.tokenizer, config.max_length)
    if kind not in _FOLDERS:
        refuse_other_tokenizer(checkpoint.path, out.parent, overwrite=overwrite)
    worker = Worker(on_progress=on_progress)
    with artifacts.claimed(out.parent), rooms.temporary("export") as work, about(checkpoint.path):
        rows = work / "rows"
        _samples(checkpoint, config, work).save(rows)
        made = work / f"model{out.suffix if kind not in _FOLDERS else ''}"
        with stage(on_progress, f"export: {kind}"):
            exported = (_compact if kind in _CHECKPOINTS else _graph)(checkpoint, config, rows, made, worker)
        with artifacts.published(
            out,
            "checkpoint" if kind in _CHECKPOINTS else kind,
            parents={str(checkpoint.path): artifacts.sha256(checkpoint.path)},
            config=config,
            tools=exported.tools,
            measured={
                "parity": exported.parity,
                "mask": exported.mask,
                "task": checkpoint.task.name,
                "data": config.data.origin if config.data else "random ids",
                **exported.judged,
            },
            manifest=None if kind in _CHECKPOINTS else manifest,
            overwrite=overwrite,
        ) as draft:
            shutil.move(made, draft.path)
            if kind is Format.SAVED_MODEL:
                for name, content in standalone_tokenizer(checkpoint.path).items():
                    (draft.path / name).write_bytes(content)
        if kind not in _FOLDERS:
            publish_tokenizer(checkpoint.path, out.parent)
    return draft.artifact


def _samples(checkpoint: Checkpoint, config: ExportConfig, work: Path) -> Samples:
    task = checkpoint.task
    if config.data is None:
        inputs = checkpoint.inputs(config.max_length, pairs=False)
        samples = random_texts(checkpoint.tokenizer, inputs, PARITY_ROWS, config.seed)
        return samples.labelled(None, task.name, checkpoint.settings)
    rows = sources.read(config.data, task.columns)
    rows = sources.take(rows, draw(rows, _JUDGED_ROWS if config.format is Format.INT8 else PARITY_ROWS, config.seed))
    inputs = checkpoint.inputs(config.max_length, pairs=task.joins(rows))
    encoding = Encoding(checkpoint.tokenizer, vocabulary=checkpoint.vocabulary)
    check_ids(checkpoint.tokenizer, rows)
    return task.encode(rows, inputs, encoding, checkpoint.settings, work / "images")


def _compact(checkpoint: Checkpoint, config: ExportConfig, rows: Path, target: Path, worker: Worker) -> _Exported:
    if config.format is Format.FLOAT16:
        parity = worker.run(export_float16, checkpoint, rows, target).value.parity
        require(parity, "PyTorch to float16", _FLOAT16_TOLERANCE)
        return _Exported({"PyTorch to float16": parity}, ("torch", "transformers", "safetensors"))
    result = worker.run(export_int8, checkpoint, rows, target, config.backend).value
    tools = ("torch", "transformers", "safetensors", config.backend)
    return _Exported({"PyTorch to int8": result.parity}, tools, judged=_judge(result, checkpoint, config))


def _judge(result: CompactExport, checkpoint: Checkpoint, config: ExportConfig) -> dict[str, Any]:
    """What int8 does to the task's outputs; raises `RefusedError` if that is more than allowed."""
    if config.data is None:
        require(result.parity, "PyTorch to int8", _INT8_TOLERANCE)
        return {}
    judged = Measurement("", 0, None).judged(result.judgement, checkpoint.task.name)
    if reason := refusal(judged, config.max_drop, config.min_db, "choose --format float16 or allow more", config.min_cosine):
        raise RefusedError(f"int8: {reason}")
    return {"metric": judged.metric, "drop": judged.drop, "agreement": judged.agreement, "outputs": judged.outputs}


def _graph(checkpoint: Checkpoint, config: ExportConfig, rows: Path, target: Path, worker: Worker) -> _Exported:
    kind = config.format
    if kind is Format.TORCHSCRIPT:
        parity = worker.run(export_torchscript, checkpoint, rows, target).value
        return _Exported({"PyTorch to TorchScript": parity}, ("torch", "transformers"))
    # A folder of its own: a graph that is too large for one file leaves its weights beside it.
    onnx_file = target.with_name("onnx") / "model.onnx"
    onnx_file.parent.mkdir()
    exported = worker.run(export_onnx, checkpoint, rows, onnx_file, target.with_name("reference")).value
    hops = {"PyTorch to ONNX": exported.parity}
    if kind is not Format.SAVED_MODEL and (beside := [file for file in onnx_file.parent.iterdir() if file != onnx_file]):
        gigabytes = f"{beside[0].stat().st_size / 1e9:.1f} GB"
        raise ConfigError(f"{checkpoint.path}: too large for one .{kind} file ({gigabytes}); use --format saved-model")
    if kind is Format.ONNX:
        onnx_file.rename(target)
        return _Exported(hops, ("torch", "transformers", "onnx"), exported.mask)
    if kind is Format.ORT:
        hops["ONNX to ORT"] = worker.run(export_ort, onnx_file, rows, target).value
        return _Exported(hops, ("torch", "transformers", "onnx", "onnxruntime"), exported.mask)
    saved = worker.run(export_saved_model, onnx_file, rows, target, foreign=False, max_length=config.max_length).value
    if saved.parity is not None:
        hops["ONNX to SavedModel"] = saved.parity
    return _Exported(hops, ("torch", "transformers", "onnx2tf", "tensorflow"), exported.mask)
