"""ONNX to a TensorFlow SavedModel through onnx2tf."""

import functools
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.samples import Samples
from edgekit.errors import ConversionError, UnsupportedOpError, one_line
from edgekit.stages.export import dequantize, gather, graph
from edgekit.stages.export.module import first
from edgekit.stages.export.onnx import run_onnx, stacked
from edgekit.tasks.parity import Parity, compare_all, require

# onnx2tf looks for this file in the working directory and downloads it where it is missing.
_CALIBRATION_IMAGES = "calibration_image_sample_data_20x128x128x3_float32.npy"
_ROWS = 4
# Ops that slide over space, whose TensorFlow form wants channels last.
_SPATIAL = ("Conv", "Pool", "Resize", "Upsample", "DepthToSpace", "SpaceToDepth", "LRN", "BatchNormalization", "InstanceNorm")


@dataclass(frozen=True)
class SavedModelExport:
    """`names` maps the SavedModel's input and output names to the ONNX file's where they differ.

    `inputs` and `outputs` are the ONNX file's in its order, `channels_last` those inputs whose channels moved from axis 1 to the
    last, `fixed` the ONNX file with its free axes fixed, which the SavedModel was compared with."""

    parity: Parity | None
    names: Mapping[str, str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    channels_last: tuple[str, ...]
    fixed: Path


def export_saved_model(
    onnx_file: Path,
    samples_folder: Path | None,
    target: Path,
    *,
    foreign: bool,
    max_length: int,
    shapes: Mapping[str, Sequence[int]],
) -> SavedModelExport:
    """Write the ONNX file as a SavedModel with one signature, `serving_default`; images become NHWC.

    Compares both on the saved samples of our own export, whose inputs keep their names. A `foreign` file is checked, its constants
    folded and its quantized ops rewritten first, which our own exports do not need. Free axes are fixed: batch to 1, the
    length of token inputs to `max_length`, others by `shapes` (input name to sizes). Raises `ModelFormatError`,
    `UnsupportedOpError` naming the ops, `InputError` naming an input whose shape is free, and `ParityError`. Needs
    TensorFlow; changes the working directory."""
    import onnx

    work = target.parent / f"{target.name}.onnx2tf"
    work.mkdir()
    fixed = onnx_file
    if foreign:
        model = graph.read(onnx_file)
        graph.fix_shapes(onnx_file, model, max_length, shapes)
        fixed = target.parent / f"{target.name}.fixed.onnx"
        onnx.save(model, fixed)
        dequantize.to_float(model)
    else:
        model = onnx.load(onnx_file)
    if foreign or graph.has_constant_branch(model):
        model = graph.simplified(model)
    graph.add_initial_states(model)
    gather.flatten(model)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    moved = _channels_first(model)
    inputs, outputs = graph.input_names(model), graph.output_names(model)
    graph.name_outputs(model)
    if not moved:
        _keep_layout()
    keras = _to_keras(onnx_file, model, work, moved)
    del model
    names = _write(keras, inputs, outputs, target)
    del keras
    shutil.rmtree(work, ignore_errors=True)
    parity = _parity(target, onnx_file, samples_folder, names) if samples_folder is not None else None
    return SavedModelExport(parity, names, tuple(inputs), tuple(outputs), moved, fixed)


def _channels_first(model: Any) -> tuple[str, ...]:
    """Inputs whose channels onnx2tf shall move last: those of rank 3 to 5 if the graph slides over space, and images."""
    spatial = any(part in node.op_type for node in model.graph.node for part in _SPATIAL)
    sizes = graph.sizes(model)
    inputs = {item.name: sizes[item.name] for item in model.graph.input}
    images = {name for name, shape in inputs.items() if len(shape) == 4 and shape[1] in (1, 3)}
    return tuple(name for name, shape in inputs.items() if 3 <= len(shape) <= 5 and (spatial or name in images))


def _keep_layout() -> None:
    """Make onnx2tf take every tensor as it is, for graphs in which no channels move.

    It guesses from shapes alone whether it has moved a tensor's axes, wrongly so where these are of one size, and checks
    its guesses by running the whole graph with every tensor kept: 3 GB for BERT-base."""
    import onnx2tf
    from onnx2tf.utils import common_functions

    def as_it_is(make_node: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(make_node)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            result = make_node(*args, **kwargs)
            for output in kwargs["graph_node"].outputs:
                kwargs["tf_layers_dict"][output.name]["before_op_output_shape_trans"] = False
            return result

        return wrapper

    def no_inference(**_: Any) -> Any:
        raise ConversionError("no layout to choose")  # onnx2tf goes on without the tensors

    common_functions.inverted_operation_enable_disable = as_it_is
    sys.modules[onnx2tf.convert.__module__].dummy_onnx_inference = no_inference  # type: ignore[attr-defined]


def _to_keras(path: Path, model: Any, work: Path, moved: tuple[str, ...]) -> Any:
    os.chdir(work)
    np.save(work / _CALIBRATION_IMAGES, np.random.default_rng(0).random((20, 128, 128, 3), np.float32))
    import onnx2tf

    # onnx2tf sets the recursion limit to the largest int, and a fault in it then overflows the C stack.
    sys.setrecursionlimit(10_000)
    ops = {node.name: node.op_type for node in model.graph.node}
    try:
        return onnx2tf.convert(
            onnx_graph=model,
            output_folder_path=str(work),
            not_use_onnxsim=True,
            not_use_opname_auto_generate=True,
            disable_model_save=True,
            non_verbose=True,
            verbosity="error",
            disable_strict_mode=not moved,
            keep_shape_absolutely_input_names=[name for name in graph.input_names(model) if name not in moved],
            # Approximations by ops that TFLite has; the comparison that follows tells whether they are close enough.
            replace_to_pseudo_operators=["asin", "acos", "atan", "erf"],
        )
    except SystemExit as error:
        raise ConversionError(
            f"{path}: onnx2tf gave up (exit code {error.code}); run with --debug, or export the model in another way"
        ) from None
    except Exception as error:  # whatever its op handlers raise
        name = getattr(error, "onnx_op_name", None)
        where = f"op {ops[name]} ({name})" if name in ops else "the graph"
        raise UnsupportedOpError(
            f"{path}: onnx2tf cannot convert {where}: {one_line(error)}; export the model in another way"
        ) from error


def _write(keras: Any, inputs: list[str], outputs: list[str], target: Path) -> dict[str, str]:
    """Save with `serving_default` and return the names that differ from the ONNX file's."""
    import tensorflow as tf

    # onnx2tf may reorder the inputs, and names them as Keras allows.
    theirs = {name.replace(":", "__"): name for name in inputs}
    fed = [theirs.get(tensor.name, tensor.name) for tensor in keras.inputs]
    arguments, keys = _identifiers(fed, "input"), _identifiers(outputs, "output")
    specs = [tf.TensorSpec(tensor.shape, tensor.dtype, name=name) for name, tensor in zip(arguments, keras.inputs, strict=True)]

    @tf.function(input_signature=specs)
    def serve(*tensors: Any) -> dict[str, Any]:
        results = keras(list(tensors))
        return dict(zip(keys, results if isinstance(results, list | tuple) else [results], strict=True))

    module = tf.Module()
    module.serve = serve
    # Attaching the Keras model itself would trace every layer once more: 70 s and 3 GB for MiniLM instead of 2 s. Some
    # of its variables are known to the traced function alone.
    module.held = list(serve.get_concrete_function().variables)
    tf.saved_model.save(module, str(target), signatures={"serving_default": serve})
    pairs = zip((*arguments, *keys), (*fed, *outputs), strict=True)
    return {ours: theirs for ours, theirs in pairs if ours != theirs}


def _identifiers(names: Sequence[str], what: str) -> list[str]:
    """Names that TensorFlow takes for arguments, each different."""
    identifiers: list[str] = []
    for number, name in enumerate(names):
        cleaned = re.sub(r"\W", "_", name, flags=re.ASCII).strip("_")
        if not cleaned or cleaned[0].isdigit():
            cleaned = f"{what}_{cleaned or number}"
        identifiers.append(f"{cleaned}_{number}" if cleaned in identifiers else cleaned)
    return identifiers


def _parity(saved: Path, onnx_file: Path, samples_folder: Path, names: Mapping[str, str]) -> Parity:
    import tensorflow as tf

    serve = tf.saved_model.load(str(saved)).signatures["serving_default"]
    specs = serve.structured_input_signature[1]
    samples = first(Samples.load(samples_folder), _ROWS)
    rows = [serve(**{name: tf.constant(row[name], spec.dtype) for name, spec in specs.items()}) for row in samples]
    outputs = {
        names.get(key, key): stacked([row[key].numpy() for row in rows], f"{saved}: output {key}")
        for key in serve.structured_outputs
    }
    parity = compare_all(outputs, run_onnx(onnx_file, samples))
    require(parity, "ONNX to SavedModel")
    return parity
