"""One checkpoint to ONNX, TorchScript or a SavedModel: exported, compared with PyTorch, and published."""

import enum
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgekit import artifacts, bridge, checkpoint
from edgekit.artifacts import Artifact
from edgekit.data import sources
from edgekit.data.encode import Encoding, encode
from edgekit.data.representative import draw
from edgekit.data.samples import Samples, random_samples
from edgekit.data.sources import Columns, TextRows
from edgekit.data.text import check_room
from edgekit.errors import ConfigError
from edgekit.export.onnx import export_onnx
from edgekit.export.saved_model import export_saved_model
from edgekit.export.torchscript import export_torchscript
from edgekit.parity import Parity
from edgekit.worker import Progress, Worker

_ROWS = 16


class Format(enum.StrEnum):
    """What `export_checkpoint` writes: an .onnx file, a .pt file, or a folder."""

    ONNX = "onnx"
    TORCHSCRIPT = "torchscript"
    SAVED_MODEL = "saved-model"


@dataclass(frozen=True)
class _Settings:
    format: Format
    dataset: str | None
    max_length: int
    seed: int


def export_checkpoint(
    reference: str,
    kind: Format,
    out: Path,
    *,
    max_length: int = 64,
    dataset: str | None = None,
    columns: Columns | None = None,
    seed: int = 0,
    overwrite: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> Artifact:
    """Publish the checkpoint as `out` (inputs int32 (1, max_length), output float32 logits (1, C)) and `<out>.json` beside it.

    Compared with PyTorch on 16 rows of `dataset`, or on random ids without it; with pairs of texts the segments are an
    input too. Raises `InputError`, `ConversionError`, `WorkerError` and `OutputError`.
    """
    if max_length < 1:
        raise ConfigError(f"max_length is {max_length}; give at least 1")
    manifest = out.with_name(f"{out.name}.json") if out.suffix == "" else out.with_suffix(".json")
    for path in (out, manifest):
        artifacts.refuse_existing(path, overwrite=overwrite)
    folder = checkpoint.resolve(reference).resolve()
    checkpoint.check_length(folder, max_length)
    check_room(checkpoint.tokenizer_folder(folder), max_length)
    worker = Worker(on_progress=on_progress)
    with artifacts.claimed(out.parent), tempfile.TemporaryDirectory(prefix="edgekit-export-") as room:
        work = Path(room)
        rows = work / "rows"
        _samples(folder, dataset, columns or Columns(), max_length, seed, work).save(rows)
        if on_progress is not None:
            on_progress(Progress("export", 0, 1, str(kind)))
        parity, mask, tools = _export(folder, kind, rows, work / "exported", max_length, worker)
        with artifacts.staged(out, overwrite=overwrite) as partial:
            shutil.move(work / "exported", partial)
            described = artifacts.describe(
                partial,
                kind,
                name=out.name,
                parents={str(folder): artifacts.sha256(folder)},
                config=_Settings(kind, dataset, max_length, seed),
                tools=tools,
                measured={"parity": parity, "mask": mask, "data": dataset or "random ids"},
            )
        artifacts.write_text(manifest, artifacts.to_json(described))
    return described


def _samples(folder: Path, dataset: str | None, columns: Columns, max_length: int, seed: int, work: Path) -> Samples:
    if dataset is None:
        return random_samples(bridge.token_specs(max_length, pairs=False), _ROWS, seed)
    rows = sources.read(dataset, text_columns=columns.text_columns, label_column=columns.label_column)
    rows = sources.take(rows, draw(rows, _ROWS, seed))
    inputs = bridge.token_specs(max_length, pairs=isinstance(rows, TextRows) and rows.pairs is not None)
    return encode(rows, inputs, Encoding(checkpoint.tokenizer_folder(folder), checkpoint.label_ids(folder)), work / "images")


def _export(
    folder: Path, kind: Format, rows: Path, target: Path, max_length: int, worker: Worker
) -> tuple[dict[str, Parity], float | None, tuple[str, ...]]:
    """Each hop's comparison, the value that stands for minus infinity in masks, and the packages that did the work."""
    if kind is Format.TORCHSCRIPT:
        parity = worker.run(export_torchscript, folder, rows, target).value
        return {"PyTorch to TorchScript": parity}, None, ("torch", "transformers")
    onnx_file = target if kind is Format.ONNX else target.with_name("model.onnx")
    exported = worker.run(export_onnx, folder, rows, onnx_file, target.with_name("reference.npy")).value
    hops = {"PyTorch to ONNX": exported.parity}
    if kind is Format.ONNX:
        if beside := [file for file in target.parent.glob(f"{target.name}*") if file != target]:
            raise ConfigError(
                f"{folder}: too large for one .onnx file ({beside[0].stat().st_size / 1e9:.1f} GB); use --format saved-model"
            )
        return hops, exported.mask, ("torch", "transformers", "onnx")
    saved = worker.run(export_saved_model, onnx_file, rows, target, foreign=False, max_length=max_length, shapes={}).value
    if saved.parity is not None:
        hops["ONNX to SavedModel"] = saved.parity
    return hops, exported.mask, ("torch", "transformers", "onnx2tf", "tensorflow")
