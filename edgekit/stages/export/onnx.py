"""Checkpoint, or any torch module, to ONNX through torch's dynamo exporter."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from edgekit.data.samples import Samples, as_fed
from edgekit.errors import ModelFormatError, UnsupportedOpError, one_line
from edgekit.models import attention_masks
from edgekit.models.checkpoint import Checkpoint
from edgekit.spec import rows_at_once
from edgekit.stages.export import graph
from edgekit.stages.export import module as exported
from edgekit.tasks import table as tasks
from edgekit.tasks.base import Outputs
from edgekit.tasks.parity import Parity, compare_all, require
from edgekit.tflite.batches import groups
from edgekit.tflite.interpreter import filled

# The first opset with a Gelu node: decomposed into Erf it would become a Flex op on the way to TFLite.
OPSET = 20
# A protobuf message ends at 2 GiB; beyond this the weights go to a file beside the graph.
_EXTERNAL_BYTES = 1_800_000_000


@dataclass(frozen=True)
class OnnxExport:
    """`mask` is the finite value that stands for minus infinity in the graph, None where the model has no mask."""

    parity: Parity
    mask: float | None


def export_onnx(
    checkpoint: Checkpoint, samples_folder: Path, target: Path, reference: Path, *, soften: bool = True, batch: int = 1
) -> OnnxExport:
    """Write `checkpoint` as ONNX: opset 20, inputs named as in the saved samples, batch and length fixed, its task's outputs.

    Attention masks get values that integers can represent, unless `soften` leaves that to a later hop.
    Writes the outputs of the first saved samples, computed by PyTorch, to the folder `reference`, each float32 (N, …) by name.
    Raises `CheckpointError`, `UnsupportedOpError` if the model cannot be traced, `ParityError` if ONNX disagrees. Needs torch."""

    few = Samples.load(samples_folder).first(exported.PARITY_ROWS)
    module, names = exported.load(checkpoint, tuple(few.inputs)), checkpoint.task.outputs
    outputs = exported.reference(module, few, checkpoint)
    Samples(outputs).save(reference)
    write_onnx(module, exported.example(few, batch), list(few.inputs), names, target, checkpoint.path)
    mask, written = soften_masks(target, few) if soften else (None, run_onnx(target, few))
    parity = compare_all(checkpoint.task.without_padding(written, few), outputs)
    require(parity, "PyTorch to ONNX")
    return OnnxExport(parity, mask)


def write_onnx(
    module: Any, example: tuple[Any, ...], inputs: Sequence[str], outputs: Sequence[str], target: Path, origin: Path
) -> None:
    """Write a torch module that takes `example` by position as ONNX of opset 20. Raises `UnsupportedOpError` about `origin`."""
    import torch

    size = sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
    try:
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            opset_version=OPSET,
            optimize=True,
            input_names=list(inputs),
            output_names=list(outputs),
            verbose=False,
        )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        cause = one_line(error)
        raise UnsupportedOpError(f"{origin}: torch cannot export it to ONNX ({cause})") from error
    if program is None:
        raise UnsupportedOpError(f"{origin}: torch exports nothing to ONNX")
    program.save(target, external_data=size > _EXTERNAL_BYTES)


def soften_masks(path: Path, samples: Samples) -> tuple[float | None, dict[str, np.ndarray]]:
    """Replace minus infinity in the attention masks of an ONNX file by the smallest value that gives the same outputs.

    Returns the value, or None where there is no mask or no value does, and the outputs of what is there now, (N, ...) by name."""
    import onnx
    from onnx import numpy_helper

    # Weights beside the file stay there: masks are small, and lie in the graph itself.
    model = onnx.load(path, load_external_data=False)
    constants = [
        (tensor, array)
        for tensor in _constants(model)
        if tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
        and tensor.data_location != onnx.TensorProto.EXTERNAL
        and attention_masks.is_mask(array := numpy_helper.to_array(tensor))
    ]
    own, task = run_onnx(path, samples), tasks.find(samples.task)
    if not constants:
        return None, own
    trial, outputs = path.with_name(f"{path.stem}.mask.onnx"), own

    def run(value: float) -> Outputs:
        nonlocal outputs
        for tensor, array in constants:
            tensor.CopyFrom(numpy_helper.from_array(attention_masks.soften(array, value), tensor.name))
        onnx.save(model, trial)
        outputs = run_onnx(trial, samples)
        return task.without_padding(outputs, samples)

    chosen = attention_masks.choose(run, task.without_padding(own, samples))
    if chosen is not None:
        trial.replace(path)
    trial.unlink(missing_ok=True)
    return chosen, own if chosen is None else outputs


def _constants(model: Any) -> list[Any]:
    attributes = [attribute for node in model.graph.node if node.op_type == "Constant" for attribute in node.attribute]
    return [*model.graph.initializer, *(attribute.t for attribute in attributes if attribute.HasField("t"))]


def run_onnx(
    path: Path,
    samples: Samples,
    *,
    channels_last: Sequence[str] = (),
    values: Mapping[str, Sequence[float]] = MappingProxyType({}),
    origin: Path | None = None,
) -> dict[str, np.ndarray]:
    """Every output of every row by name, each (N, ...), by ONNX Runtime.

    The samples of inputs named in `channels_last` have their channels on the last axis, the graph has them on axis 1. Inputs that
    the samples lack have theirs in `values`. `origin` is what errors call the file. Raises `UnsupportedOpError` if ONNX Runtime
    cannot load the file and `ModelFormatError` if it cannot run it."""
    called = origin or path
    try:
        session = graph.open_session(path)
    except Exception as error:  # its exceptions share no public base class
        cause = one_line(error)
        raise UnsupportedOpError(f"{called}: ONNX Runtime cannot load it ({cause}); export it again with standard ops") from error
    shapes = {item.name: [size if isinstance(size, int) else 1 for size in item.shape] for item in session.get_inputs()}
    every = {item.name: (shapes[item.name], graph.dtype_of(item)) for item in session.get_inputs()}
    constants = {name: graph.filled(values[name], *ends) for name, ends in every.items() if name in values}
    inputs = {name: (len(shape), dtype) for name, (shape, dtype) in every.items() if name not in constants}
    if missing := sorted(set(inputs) - set(samples.inputs)):
        raise ModelFormatError(f"{called}: input {missing[0]} is not in the data, which has {', '.join(samples.inputs)}")
    batch = rows_at_once({name: shapes[name] for name in inputs})
    rows: list[list[np.ndarray]] = []
    for row in groups(samples.inputs, batch):
        feed = dict(constants)
        for name, (rank, dtype) in inputs.items():
            value = np.asarray(as_fed(row[name], rank)) if batch == 1 else filled(row[name], batch)
            value = np.ascontiguousarray(np.moveaxis(value, -1, 1)) if name in channels_last else value
            feed[name] = value.astype(dtype, copy=False)
        try:
            rows.append([np.asarray(value) for value in session.run(None, feed)])
        except Exception as error:
            raise ModelFormatError(f"{called}: ONNX Runtime stops during inference ({one_line(error)})") from error
    names = [item.name for item in session.get_outputs()]
    columns = zip(names, zip(*rows, strict=True), strict=True)
    return {name: stacked(values, f"{called}: output {name}", batch)[: len(samples)] for name, values in columns}


def stacked(rows: Sequence[np.ndarray], what: str, batch: int = 1) -> np.ndarray:
    """The outputs of rows, or of `batch` rows each, as one array (N, ...), without a batch axis of 1.

    Raises `ModelFormatError` if shapes differ."""
    if batch > 1:
        return np.concatenate(rows)
    if len({row.shape for row in rows}) > 1:
        shapes = ", ".join(sorted({str(row.shape) for row in rows}))
        raise ModelFormatError(f"{what} changes its shape from row to row ({shapes}); give a model with outputs of one shape")
    return np.stack([row[0] if row.ndim and row.shape[0] == 1 else row for row in rows])


def comparable(outputs: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as they can be compared: the reference with channels where `outputs` has them, and the same infinities as zeros.

    TensorFlow puts channels last; what has the reference's shape is taken to have its layout, too."""
    # Channels behind the rows, or behind rows and batch.
    moved = [np.moveaxis(reference, axis, -1) for axis in (1, 2) if reference.ndim > axis + 1]
    fitting = [array for array in moved if array.shape == outputs.shape]
    if outputs.shape == reference.shape or not fitting:
        closest = reference
    else:
        closest = min(fitting, key=lambda array: distance(outputs, array))
    if outputs.shape != closest.shape:
        return outputs, closest
    same = ~np.isfinite(outputs) & ((outputs == closest) | (np.isnan(outputs) & np.isnan(closest)))
    return np.where(same, 0, outputs), np.where(same, 0, closest)


def distance(outputs: np.ndarray, reference: np.ndarray) -> float:
    """The sum of the differences of finite values."""
    finite = np.isfinite(outputs) & np.isfinite(reference)
    return float(np.abs(outputs[finite].astype(np.float64) - reference[finite].astype(np.float64)).sum())
