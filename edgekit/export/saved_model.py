"""ONNX to a TensorFlow SavedModel through onnx2tf."""

import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.samples import Samples, random_samples
from edgekit.errors import ConversionError, InputError, ModelFormatError, UnsupportedOpError
from edgekit.export.onnx import run_onnx
from edgekit.parity import Parity, compare, require
from edgekit.spec import TensorSpec

# onnx2tf looks for this file in the working directory and downloads it where it is missing.
_CALIBRATION_IMAGES = "calibration_image_sample_data_20x128x128x3_float32.npy"
_RANDOM_ROWS = 4


@dataclass(frozen=True)
class SavedModelExport:
    """`names` maps the SavedModel's input and output names to the ONNX file's where TensorFlow does not allow those."""

    parity: Parity
    names: Mapping[str, str]


def export_saved_model(
    onnx_file: Path,
    samples_folder: Path | None,
    target: Path,
    *,
    simplify: bool,
    max_length: int,
    shapes: Mapping[str, Sequence[int]],
) -> SavedModelExport:
    """Write the ONNX file as a SavedModel with one signature, `serving_default`; images become NHWC, batch is 1.

    Compares both on the saved samples, or on random ones where there are none. `simplify` folds constants first, which
    our own exports have behind them. Free axes are fixed: batch to 1, the length of token inputs to `max_length`,
    others by `shapes` (input name to sizes). Raises `ModelFormatError`, `UnsupportedOpError` naming the ops,
    `InputError` naming an input whose shape is free, and `ParityError`. Needs TensorFlow; changes the working directory.
    """
    import onnx

    work = target.parent / f"{target.name}.onnx2tf"
    work.mkdir()
    try:
        model = onnx.load(onnx_file)
        onnx.checker.check_model(model) if model.ByteSize() < 2**31 - 1 else None
    except Exception as error:  # protobuf, checker and OS errors share no base class
        raise ModelFormatError(f"{onnx_file}: not a sound ONNX model ({_first_line(error)}); export it again") from error
    _refuse_unknown_ops(onnx_file, model)
    _fix_shapes(onnx_file, model, max_length, shapes)
    if simplify:
        model = _simplified(model)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    keras = _to_keras(onnx_file, model, work)
    names = _write(keras, model, target)
    shutil.rmtree(work, ignore_errors=True)
    return SavedModelExport(_parity(onnx_file, model, target, samples_folder, names), names)


def _refuse_unknown_ops(path: Path, model: Any) -> None:
    missing = sorted(
        {
            node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
            for node in model.graph.node
            if node.domain not in ("", "ai.onnx") or importlib.util.find_spec(f"onnx2tf.ops.{node.op_type}") is None
        }
        - {function.name for function in model.functions}
    )
    if missing:
        raise UnsupportedOpError(f"{path}: no TensorFlow form of op {', '.join(missing)}; export the model without it")


def _fix_shapes(path: Path, model: Any, max_length: int, shapes: Mapping[str, Sequence[int]]) -> None:
    import onnx

    constants = {tensor.name for tensor in model.graph.initializer}
    names = [item.name for item in model.graph.input if item.name not in constants]
    if unknown := sorted(set(shapes) - set(names)):
        raise InputError(f"{path}: there is no input {', '.join(unknown)}; it has {', '.join(names) or 'none'}")
    if not names:
        raise UnsupportedOpError(f"{path}: the graph has no inputs; give a model that computes something from its input")
    for item in model.graph.input:
        if item.name in constants:
            continue
        kind = item.type.tensor_type
        if not item.type.HasField("tensor_type") or kind.elem_type == onnx.TensorProto.STRING:
            raise UnsupportedOpError(
                f"{path}: input {item.name} is no tensor of numbers, which TFLite needs; cut the graph after it"
            )
        if not kind.HasField("shape"):
            if item.name not in shapes:
                raise InputError(f"{path}: input {item.name} has no shape; give it with --input-shape {item.name}=1,...")
            for size in shapes[item.name]:
                kind.shape.dim.add().dim_value = size
            continue
        sizes = shapes.get(item.name)
        if sizes is not None and len(sizes) != len(kind.shape.dim):
            raise InputError(f"{path}: input {item.name} has {len(kind.shape.dim)} axes, --input-shape gives {len(sizes)}")
        integers = kind.elem_type in (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
        for axis, dimension in enumerate(kind.shape.dim):
            if sizes is not None:
                dimension.dim_value = sizes[axis]
            elif dimension.dim_value > 0:
                continue
            elif axis == 0:
                dimension.dim_value = 1
            elif axis == 1 and integers and len(kind.shape.dim) == 2:
                dimension.dim_value = max_length
            else:
                shape = ",".join(str(d.dim_value or d.dim_param or "?") for d in kind.shape.dim)
                raise InputError(
                    f"{path}: axis {axis} of input {item.name} ({shape}) is free; fix it with --input-shape {item.name}=1,..."
                )


def _simplified(model: Any) -> Any:
    import onnxsim

    try:
        return onnxsim.simplify(model)[0]
    except Exception:  # a graph that onnxsim cannot fold may still convert as it is
        return model


def _to_keras(path: Path, model: Any, work: Path) -> Any:
    os.chdir(work)
    images = np.random.default_rng(0).random((20, 128, 128, 3), np.float32)
    np.save(work / _CALIBRATION_IMAGES, images)
    import onnx2tf

    # onnx2tf sets the recursion limit to the largest int, and a fault in it then overflows the C stack.
    sys.setrecursionlimit(10_000)
    try:
        return onnx2tf.convert(
            onnx_graph=model,
            output_folder_path=str(work),
            not_use_onnxsim=True,
            not_use_opname_auto_generate=True,
            disable_model_save=True,
            non_verbose=True,
            verbosity="error",
        )
    except SystemExit as error:
        raise ConversionError(
            f"{path}: onnx2tf gave up (exit code {error.code}); run with --debug, or export the model in another way"
        ) from None
    except Exception as error:  # whatever its op handlers raise
        name = getattr(error, "onnx_op_name", None)
        op = next((node.op_type for node in model.graph.node if node.name == name), None)
        where = f"op {op} ({name})" if op else "the graph"
        raise UnsupportedOpError(f"{path}: onnx2tf cannot convert {where}: {_first_line(error)}") from error


def _write(keras: Any, model: Any, target: Path) -> dict[str, str]:
    """Save with `serving_default` and return the names that differ from the ONNX file's."""
    import tensorflow as tf

    constants = {tensor.name for tensor in model.graph.initializer}
    originals = [item.name for item in model.graph.input if item.name not in constants]
    allowed = {_allowed(name): name for name in originals}
    inputs = [_allowed(tensor.name) for tensor in keras.inputs]
    outputs = [item.name for item in model.graph.output]
    keys = [_allowed(name) for name in outputs]
    specs = [tf.TensorSpec(tensor.shape, tensor.dtype, name=name) for name, tensor in zip(inputs, keras.inputs, strict=True)]

    @tf.function(input_signature=specs)
    def serve(*tensors: Any) -> dict[str, Any]:
        results = keras(list(tensors))
        return dict(zip(keys, results if isinstance(results, list | tuple) else [results], strict=True))

    module = tf.Module()
    module.serve = serve
    # Attaching the Keras model itself would trace every layer once more: 70 s and 3 GB for MiniLM instead of 2 s.
    module.held = keras.variables
    tf.saved_model.save(module, str(target), signatures={"serving_default": serve})
    pairs = [(name, allowed.get(name, name)) for name in inputs] + list(zip(keys, outputs, strict=True))
    return {ours: theirs for ours, theirs in pairs if ours != theirs}


def _allowed(name: str) -> str:
    cleaned = re.sub(r"\W", "_", name, flags=re.ASCII).lstrip("_")
    return cleaned or "tensor"


def _parity(onnx_file: Path, model: Any, saved: Path, samples_folder: Path | None, names: Mapping[str, str]) -> Parity:
    import onnx
    import tensorflow as tf

    loaded = tf.saved_model.load(str(saved))
    serve = loaded.signatures["serving_default"]
    specs = dict(serve.structured_input_signature[1])
    if samples_folder is not None:
        samples = Samples.load(samples_folder)
        samples = samples.take(range(min(_RANDOM_ROWS, len(samples))))
    else:
        fitted = [TensorSpec(name, tuple(spec.shape.as_list()), spec.dtype.as_numpy_dtype.__name__) for name, spec in specs.items()]
        samples = random_samples(fitted, _RANDOM_ROWS)
    fixed = onnx_file
    if samples_folder is None:
        fixed = saved.parent / f"{saved.name}.fixed.onnx"
        onnx.save(model, fixed)
    reference = run_onnx(fixed, Samples({names.get(name, name): array for name, array in samples.inputs.items()}))
    first = names_of_outputs(model)[0]
    ours = next((key for key, value in names.items() if value == first), first)
    rows = [serve(**{name: tf.constant(value, specs[name].dtype) for name, value in row.items()})[ours].numpy() for row in samples]
    outputs = np.stack([row[0] if row.ndim and row.shape[0] == 1 else row for row in rows])
    parity = compare(outputs, like(reference, outputs.shape))
    require(parity, "ONNX to SavedModel")
    return parity


def names_of_outputs(model: Any) -> list[str]:
    return [item.name for item in model.graph.output]


def like(reference: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`reference` with channels moved last where that, and not its own layout, gives `shape`."""
    if reference.shape == shape or reference.ndim < 3:
        return reference
    moved = np.moveaxis(reference, 1, -1)
    return moved if moved.shape == shape else reference


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]
