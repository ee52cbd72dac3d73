"""Checkpoint to ONNX through torch's dynamo exporter."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import masks
from edgekit.data.samples import Samples
from edgekit.errors import ModelFormatError, UnsupportedOpError
from edgekit.export import classifier
from edgekit.parity import Parity, compare, require

# The first opset with a Gelu node: decomposed into Erf it would become a Flex op on the way to TFLite.
OPSET = 20
# A protobuf message ends at 2 GiB; beyond this the weights go to a file beside the graph.
_EXTERNAL_BYTES = 1_800_000_000


@dataclass(frozen=True)
class OnnxExport:
    """`mask` is the finite value that stands for minus infinity in the graph, None where the model has no mask."""

    parity: Parity
    mask: float | None


def export_onnx(checkpoint: Path, samples_folder: Path, target: Path, reference: Path) -> OnnxExport:
    """Write `checkpoint` as ONNX: opset 20, inputs named as in the saved samples, batch 1, length fixed.

    Writes the logits of all saved rows, computed by PyTorch, to `reference` (.npy, float32 (N, C)). Raises
    `CheckpointError`, `UnsupportedOpError` if the model cannot be traced, `ParityError` if ONNX disagrees. Needs torch.
    """
    import torch

    samples = Samples.load(samples_folder)
    module = classifier.load(checkpoint, tuple(samples.inputs))
    logits = classifier.logits(module, samples)
    np.save(reference, logits)
    size = sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
    try:
        program = torch.onnx.export(
            module,
            classifier.example(samples),
            dynamo=True,
            opset_version=OPSET,
            optimize=True,
            input_names=list(samples.inputs),
            output_names=["logits"],
            verbose=False,
        )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        raise UnsupportedOpError(
            f"{checkpoint}: torch cannot export it to ONNX ({_first_line(error)}); try --bridge litert"
        ) from error
    if program is None:
        raise UnsupportedOpError(f"{checkpoint}: torch exported nothing to ONNX; try --bridge litert")
    program.save(target, external_data=size > _EXTERNAL_BYTES)
    few = samples.take(range(min(classifier.PARITY_ROWS, len(samples))))
    mask = soften_masks(target, few)
    parity = compare(run_onnx(target, few), logits[: len(few)])
    require(parity, "PyTorch to ONNX")
    return OnnxExport(parity, mask)


def soften_masks(path: Path, samples: Samples) -> float | None:
    """Replace minus infinity in the attention masks of an ONNX file by the smallest value that gives the same outputs.

    Returns the value, or None where there is no mask or no value does.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    constants = [
        (tensor, array)
        for tensor in _constants(model)
        if tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
        and masks.is_mask(array := numpy_helper.to_array(tensor))
    ]
    if not constants:
        return None
    reference = run_onnx(path, samples)
    trial = path.with_name(f"{path.stem}.mask.onnx")

    def run(value: float) -> np.ndarray:
        for tensor, array in constants:
            tensor.CopyFrom(numpy_helper.from_array(masks.soften(array, value), tensor.name))
        onnx.save(model, trial)
        return run_onnx(trial, samples)

    chosen = masks.choose(run, reference)
    if chosen is not None:
        trial.replace(path)
    trial.unlink(missing_ok=True)
    return chosen


def _constants(model: Any) -> list[Any]:
    nodes = [
        attribute.t
        for node in model.graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.HasField("t")
    ]
    return [*model.graph.initializer, *nodes]


def run_onnx(path: Path, samples: Samples) -> np.ndarray:
    """First output of every row, (N, ...), by ONNX Runtime; layouts are matched by `fit_layout`.

    Raises `UnsupportedOpError` if ONNX Runtime cannot load the file and `ModelFormatError` if it cannot run it.
    """
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no public base class
        raise UnsupportedOpError(
            f"{path}: ONNX Runtime cannot load it ({_first_line(error)}); export it again with standard ops"
        ) from error
    wanted = {item.name: (item.shape, item.type) for item in session.get_inputs()}
    rows = []
    for row in samples:
        feed = {name: fit_layout(row, name, shape, kind) for name, (shape, kind) in wanted.items()}
        try:
            rows.append(np.asarray(session.run([session.get_outputs()[0].name], feed)[0]))
        except Exception as error:
            raise ModelFormatError(f"{path}: ONNX Runtime stops during inference ({_first_line(error)})") from error
    return np.stack([row[0] if row.ndim and row.shape[0] == 1 else row for row in rows])


_NUMPY = {"float16": "float16", "float": "float32", "double": "float64", "bool": "bool"}


def fit_layout(row: Mapping[str, np.ndarray], name: str, shape: list[Any], kind: str) -> np.ndarray:
    """One input as the ONNX graph takes it: channels last becomes channels first where only that fits the shape.

    Raises `ModelFormatError` if `row` lacks it.
    """
    if name not in row:
        raise ModelFormatError(f"input {name} is not in the data, which has {', '.join(row)}")
    inner = kind.removeprefix("tensor(").removesuffix(")")
    value = row[name].astype(_NUMPY.get(inner, inner), copy=False)
    if value.ndim != len(shape) or _fits(value.shape, shape) or value.ndim < 3:
        return value
    moved = np.moveaxis(value, -1, 1)
    return np.ascontiguousarray(moved) if _fits(moved.shape, shape) else value


def _fits(found: tuple[int, ...], shape: list[Any]) -> bool:
    return all(not isinstance(wanted, int) or wanted == size for size, wanted in zip(found, shape, strict=True))


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]
