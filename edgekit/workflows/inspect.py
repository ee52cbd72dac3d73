"""What a model of any kind is made of, and how it is converted, read from its files alone."""

import shlex
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import ModelFormatError, WorkerCrashed
from edgekit.spec import TensorSpec, path_of
from edgekit.system.wording import count, short

if TYPE_CHECKING:
    from edgekit.models.checkpoint import Checkpoint
    from edgekit.models.source import Kind
    from edgekit.models.structure.base import OpCount, SourceTensor, Structure, Weights
    from edgekit.tflite.inspect import Summary

_SECONDS = 60.0
# Beside some times the file: JSON takes ten times its text.
_BYTES = 2 * 2**30
_WIDTH = 80
_MOST_LINES = 40
_TFLITE = ".tflite"


@dataclass(frozen=True)
class SourceInput:
    """An input as the source has it, see `SourceTensor`, and as `convert`'s files take it.

    `converted` has -1 where a size has to be given first; it is None where the source says no shape. `channels_last` says that axis
    1 becomes the last one, `token_axis` which axis is as long as `--max-length` says."""

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None
    converted: TensorSpec | None
    channels_last: bool = False
    token_axis: int | None = None


@dataclass(frozen=True)
class SourceSummary:
    """What `inspect` found in a source of `convert` that is no .tflite.

    `form`, `producer`, `parts`, `ops`, `weights`, `obstacles` and `remarks` are those of `Structure`. `size_bytes` counts all
    `files`, which are named with their bytes. `task` is what `convert` takes it for without data, `labelled_task` what with rows
    that have a class or a value as label. `rows` says what representative data may be. `command` converts it, "?" where a size has
    to be filled in; None where there are obstacles."""

    path: str
    kind: "Kind"
    form: str
    producer: str
    size_bytes: int
    files: Mapping[str, int]
    inputs: tuple[SourceInput, ...]
    outputs: "tuple[SourceTensor, ...]"
    parts: str
    ops: "tuple[OpCount, ...]"
    weights: "tuple[Weights, ...]"
    task: str
    labelled_task: str | None
    rows: str
    command: str | None
    obstacles: tuple[str, ...]
    remarks: tuple[str, ...]


def inspect(path: str | Path, *, probe: bool = True) -> "Summary | SourceSummary":
    """Say what a model is made of: a .tflite file, or anything that `convert` takes, by the same reference.

    Nothing of it is run, and neither torch nor TensorFlow is needed; HDF5 files and archives are read in a child. `probe` loads a
    .tflite in a child to count delegate partitions. Raises `ModelFormatError` for a file that is damaged or of another kind, and
    `CheckpointError`."""
    file = path_of(str(path))
    if file.suffix.lower() == _TFLITE and not file.is_dir():
        return _tflite(file, probe=probe)
    from edgekit.models.source import SUFFIXES, classify

    if (kind := SUFFIXES.get(file.suffix.lower())) is not None and not file.is_dir():
        if not file.exists():
            raise ModelFormatError(f"{path}: no such file; check the path")
        if not file.is_file():
            raise ModelFormatError(f"{path}: not a regular file; give a model's file")
        return _of_file(str(path), kind, file)
    if file.exists() and not file.is_dir():
        return _tflite(file, probe=probe)
    source = classify(str(path))
    if source.checkpoint is not None:
        return _of_checkpoint(str(path), source.checkpoint)
    return _of_file(str(path), source.kind, source.path)


def _tflite(file: Path, *, probe: bool) -> "Summary":
    from edgekit.tflite.inspect import inspect as inspect_tflite

    return inspect_tflite(file, probe=probe)


def _of_checkpoint(reference: str, source: "Checkpoint") -> SourceSummary:
    from edgekit.models.source import Kind
    from edgekit.models.structure import checkpoint
    from edgekit.workflows.convert.config import MAX_LENGTH

    length = min(MAX_LENGTH, source.longest or MAX_LENGTH)
    specs = source.inputs(length, pairs=False)
    structure = checkpoint.read(source, specs)
    pairs = zip(structure.inputs, specs, strict=True)
    inputs = tuple(SourceInput(tensor.name, tensor.dtype, tensor.shape, spec, token_axis=1) for tensor, spec in pairs)
    rows = "texts as .tsv .csv .jsonl .parquet or hub:NAME"
    options = [f"--max-length {length}"] if length < MAX_LENGTH else []
    return _summary(reference, Kind.CHECKPOINT, structure, inputs, source.task.name, None, rows, options)


def _of_file(reference: str, kind: "Kind", file: Path) -> SourceSummary:
    from edgekit.data.encode import is_image, is_text
    from edgekit.data.sources import ArrayRows, ImageRows, TextRows
    from edgekit.models.source import Kind
    from edgekit.tasks.generic import GENERIC
    from edgekit.tasks.recognition import by_labels, recognise
    from edgekit.workflows.convert.config import MAX_LENGTH

    structure = _structure(kind, file)
    inputs = _inputs(structure, kind, MAX_LENGTH, {})
    fed = [item.converted for item in inputs if item.converted is not None]
    outputs = [
        TensorSpec(tensor.name, tuple(size if isinstance(size, int) else -1 for size in tensor.shape), tensor.dtype)
        for tensor in structure.outputs
        if tensor.shape is not None
    ]
    text, image = is_text(fed), is_image(fed)
    # Of a first output without shape nothing is known.
    first = outputs if structure.outputs and structure.outputs[0].shape is not None else []
    likely = by_labels(first, TextRows if text else ImageRows if image else ArrayRows, "i")
    arrays = ", ".join(f"{spec.name} {spec.dtype} {_rows(spec)}" for spec in fed)
    rows = f".npz with {arrays}" if arrays else ".npz"
    rows += "; or an image folder" * image + "; or texts, with tokenizer.json beside the file" * text
    options = []
    if kind in (Kind.ONNX, Kind.PROGRAM):
        options = [f"--input-shape {shlex.quote(item.name)}={size}" for item in inputs if (size := _open_shape(item))]
    elif stuck := [item for item in inputs if item.shape is None or _open_shape(item)]:
        shape = "no shape" if stuck[0].shape is None else f"the free shape {_shape(stuck[0].shape)}"
        obstacle = f"input {stuck[0].name} has {shape}; save the model with a fixed one"
        structure = replace(structure, obstacles=(*structure.obstacles, obstacle))
    task = recognise({}, outputs, None)[0].name
    labelled = None if likely is GENERIC else likely.name
    return _summary(reference, kind, structure, inputs, task, labelled, rows, options, file)


def _structure(kind: "Kind", file: Path) -> "Structure":
    from edgekit.models.source import Kind

    if kind is Kind.ONNX:
        from edgekit.models.structure import onnx

        return onnx.read(file)
    if kind is Kind.SAVED_MODEL:
        from edgekit.models.structure import saved_model

        return saved_model.read(file)
    from edgekit.models.structure import keras, program

    return _in_child(program.read if kind is Kind.PROGRAM else keras.read, file)


def _in_child(read: "Callable[[Path], Structure]", file: Path) -> "Structure":
    from edgekit.system.worker import Worker

    try:
        return Worker(timeout_s=_SECONDS, memory_bytes=_BYTES + 8 * file.stat().st_size).run(read, file).value
    except WorkerCrashed as error:
        raise ModelFormatError(f"{file}: damaged: what reads it crashed; save the model again", error.detail) from error


def inputs_of(kind: "Kind", file: Path, max_length: int, shapes: Mapping[str, Sequence[int]]) -> tuple[SourceInput, ...]:
    """Inputs of a source that is a file or a SavedModel, whose free axes are as long as `max_length` and `shapes` say.

    Raises `ModelFormatError`."""
    return _inputs(_structure(kind, file), kind, max_length, shapes)


def _inputs(structure: "Structure", kind: "Kind", max_length: int, shapes: Mapping[str, Sequence[int]]) -> tuple[SourceInput, ...]:
    """Inputs as `convert` makes them of the source's."""
    from edgekit.models import channels
    from edgekit.models.source import Kind
    from edgekit.models.structure.base import FreeSize

    sizes: dict[str, list[int]] = {}
    tokens: dict[str, int] = {}
    for tensor in structure.inputs:
        axes, integers = tensor.shape or (), "int" in tensor.dtype
        usual = partial(channels.usual_size, rank=len(axes), max_length=max_length, integers=integers)
        free = {axis: structure.sizes.get(str(size), FreeSize(1, None, None)) for axis, size in enumerate(axes)}
        known = [size if isinstance(size, int) else free[axis].taken(usual(axis)) for axis, size in enumerate(axes)]
        sizes[tensor.name] = [*shapes.get(tensor.name, known)]
        if integers and len(axes) == 2 and isinstance(axes[1], str):
            tokens[tensor.name] = 1
    moved: Sequence[str] = ()
    if kind in (Kind.ONNX, Kind.PROGRAM):
        # Free sizes are told apart: what is not known to be equal is taken for different.
        distinct = {name: [size if size > 0 else -axis for axis, size in enumerate(shape)] for name, shape in sizes.items()}
        moved = channels.channels_first(distinct, structure.slid if kind is Kind.ONNX else ())
    inputs = []
    for tensor in structure.inputs:
        shape = channels.channels_last(sizes[tensor.name]) if tensor.name in moved else tuple(sizes[tensor.name])
        # What TFLite computes in.
        dtype = "float32" if kind is Kind.ONNX and tensor.dtype in ("float16", "bfloat16", "float64") else tensor.dtype
        spec = TensorSpec(tensor.name, shape, dtype) if tensor.shape is not None else None
        inputs.append(SourceInput(tensor.name, tensor.dtype, tensor.shape, spec, tensor.name in moved, tokens.get(tensor.name)))
    return tuple(inputs)


def _open_shape(item: SourceInput) -> str:
    """The shape to give an input, in the source's order of axes, "?" where nobody knows a size; nothing where it is known."""
    if item.converted is None or item.shape is None or -1 not in item.converted.shape:
        return ""
    return ",".join(str(size) if isinstance(size, int) else "?" if axis else "1" for axis, size in enumerate(item.shape))


def _summary(
    reference: str,
    kind: "Kind",
    structure: "Structure",
    inputs: tuple[SourceInput, ...],
    task: str,
    labelled_task: str | None,
    rows: str,
    options: Sequence[str],
    file: Path | None = None,
) -> SourceSummary:
    files = dict(structure.files)
    if file is not None:
        main = file / "saved_model.pb" if file.is_dir() else file
        files = {main.name: main.stat().st_size, **files}
    command = " ".join(["edgekit convert", shlex.quote(reference), "--scheme dynamic", *options])
    return SourceSummary(
        path=reference,
        kind=kind,
        form=structure.form,
        producer=structure.producer,
        size_bytes=sum(files.values()),
        files=files,
        inputs=inputs,
        outputs=structure.outputs,
        parts=structure.parts,
        ops=structure.ops,
        weights=structure.weights,
        task=task,
        labelled_task=labelled_task,
        rows=rows,
        command=None if structure.obstacles else command,
        obstacles=structure.obstacles,
        remarks=structure.remarks,
    )


def describe(summary: "Summary | SourceSummary") -> str:
    """A summary as text for a person, one fact a line."""
    if not isinstance(summary, SourceSummary):
        from edgekit.tflite.inspect import describe as describe_tflite

        return describe_tflite(summary)
    lines = [f"{summary.path}: {summary.size_bytes:,} bytes, {summary.form}"]
    lines += [f"written by {summary.producer}"] if summary.producer else []
    for item in summary.inputs:
        lines += [f"  input  {short(item.name)}: {item.dtype} {_shape(item.shape)}".rstrip(), *_as_converted(item)]
    lines += [f"  output {short(item.name)}: {item.dtype} {_shape(item.shape)}".rstrip() for item in summary.outputs]
    if summary.ops:
        lines.append(count(sum(op.count for op in summary.ops), summary.parts))
        lines += _limited([f"  {op}" for op in summary.ops])
    if summary.weights:
        values, size = (sum(getattr(item, what) for item in summary.weights) for what in ("values", "data_bytes"))
        lines.append(f"{count(values, 'weight')}, {size:,} bytes")
        lines += [
            f"  {item.dtype}: {item.values:,} in {count(item.tensors, 'tensor')}, {item.data_bytes:,} bytes"
            for item in summary.weights
        ]
    if len(summary.files) > 1:
        lines += ["files", *_limited([f"  {size:>14,}  {short(name)}" for name, size in summary.files.items()])]
    lines += [line for remark in summary.remarks for line in _wrapped(remark)]
    task = f"task: {summary.task}"
    lines += _wrapped(f"{task}; with labelled rows {summary.labelled_task}" if summary.labelled_task else task)
    lines += [line for obstacle in summary.obstacles for line in _wrapped(f"not convertible: {obstacle}")]
    if summary.command is not None:
        lines += [summary.command, *_wrapped(f"--representative-data, which int8 needs: {summary.rows}")]
    return "\n".join(lines)


def _as_converted(item: SourceInput) -> list[str]:
    """What differs in `convert`'s files."""
    spec = item.converted
    if spec is None or ((spec.dtype, spec.shape) == (item.dtype, item.shape) and item.token_axis is None):
        return []
    facts = ["channels last"] if item.channels_last else []
    facts += [f"{spec.shape[item.token_axis]} by --max-length"] if item.token_axis is not None else []
    return [", ".join([f"         converted: {spec.dtype} {_shape(_named(spec.shape))}", *facts])]


def _named(shape: Sequence[int]) -> tuple[int | str, ...]:
    return tuple("?" if size < 0 else size for size in shape)


def _rows(spec: TensorSpec) -> str:
    from edgekit.data.samples import row_shape

    return f"({', '.join(map(str, ('rows', *_named(row_shape(spec)))))})"


def _shape(shape: Sequence[int | str] | None) -> str:
    return "" if shape is None else f"[{', '.join(map(str, shape))}]"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _limited(lines: list[str]) -> list[str]:
    rest = len(lines) - _MOST_LINES
    return lines if rest <= 1 else [*lines[:_MOST_LINES], f"  … and {rest:,} more"]
