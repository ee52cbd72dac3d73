"""ONNX to a TensorFlow SavedModel through onnx2tf."""

import functools
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.samples import Samples
from edgekit.errors import ConversionError
from edgekit.spec import rows_at_once
from edgekit.stages.export import graph, incoming
from edgekit.stages.export.incoming import AS_IT_IS, Ends, Fixes
from edgekit.stages.export.onnx import run_onnx, stacked
from edgekit.tasks import table as tasks
from edgekit.tasks.parity import Parity, compare_all, require
from edgekit.tflite.batches import groups
from edgekit.tflite.interpreter import filled

# onnx2tf looks for this file in the working directory and downloads it where it is missing.
_CALIBRATION_IMAGES = "calibration_image_sample_data_20x128x128x3_float32.npy"
_ROWS = 4
_SCOPE = re.compile(r"[A-Za-z0-9.][\w.:/>-]*", re.ASCII)


@dataclass(frozen=True)
class SavedModelExport:
    """`ends` are those of the SavedModel, which was compared with its ONNX file."""

    parity: Parity | None
    ends: Ends


def export_saved_model(
    onnx_file: Path,
    samples_folder: Path | None,
    target: Path,
    *,
    foreign: bool,
    max_length: int,
    fixes: Fixes = AS_IT_IS,
) -> SavedModelExport:
    """Write the ONNX file as a SavedModel with one signature, `serving_default`; images become NHWC.

    Compares both on the saved samples of our own export, whose inputs keep their names. For a `foreign` file see
    `incoming.prepare`, which raises what this does, beside `ParityError`. Needs TensorFlow; changes the working directory."""
    work = target.parent / f"{target.name}.onnx2tf"
    work.mkdir()
    model, ends = incoming.prepare(onnx_file, target.parent, foreign=foreign, max_length=max_length, fixes=fixes)
    graph.refuse_unknown_ops(onnx_file, model)
    graph.store_constants(model)
    renamed = graph.rename_ends(model, _SCOPE)
    inputs, outputs = graph.input_names(model), graph.output_names(model)
    if not ends.channels_last and not incoming.slides(model):
        _keep_layout()
    keras = _to_keras(onnx_file, model, work, ends)
    del model
    names = renamed | {ours: renamed.get(theirs, theirs) for ours, theirs in _write(keras, inputs, outputs, target).items()}
    del keras
    shutil.rmtree(work, ignore_errors=True)
    parity = _parity(target, onnx_file, samples_folder, names) if samples_folder is not None else None
    return SavedModelExport(parity, replace(ends, names=names))


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


def _to_keras(path: Path, model: Any, work: Path, ends: Ends) -> Any:
    os.chdir(work)
    np.save(work / _CALIBRATION_IMAGES, np.random.default_rng(0).random((20, 128, 128, 3), np.float32))
    import onnx2tf

    # onnx2tf sets the recursion limit to the largest int, and a fault in it then overflows the C stack.
    sys.setrecursionlimit(10_000)
    with incoming.converted(path, ends, graph.op_types(model)):
        return onnx2tf.convert(
            onnx_graph=model,
            output_folder_path=str(work),
            not_use_onnxsim=True,
            not_use_opname_auto_generate=True,
            disable_model_save=True,
            non_verbose=True,
            verbosity="error",
            disable_strict_mode=not ends.channels_last,
            keep_shape_absolutely_input_names=[name for name in graph.input_names(model) if name not in ends.channels_last],
            # Approximations by ops that TFLite has; the comparison that follows tells whether they are close enough.
            replace_to_pseudo_operators=["asin", "acos", "atan", "erf"],
        )


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
    samples = Samples.load(samples_folder).first(_ROWS)
    batch = rows_at_once({name: tuple(spec.shape) for name, spec in specs.items()})
    rows = [
        serve(**{name: tf.constant(filled(row[name], batch), spec.dtype) for name, spec in specs.items()})
        for row in groups(samples.inputs, batch)
    ]
    outputs = {
        names.get(key, key): stacked([row[key].numpy() for row in rows], f"{saved}: output {key}", batch)[: len(samples)]
        for key in serve.structured_outputs
    }
    task = tasks.find(samples.task)
    parity = compare_all(task.without_padding(outputs, samples), task.without_padding(run_onnx(onnx_file, samples), samples))
    require(parity, "ONNX to SavedModel")
    return parity
