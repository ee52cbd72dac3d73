"""SavedModel or Keras-2 model to a float32 .tflite with built-in ops, through TFLiteConverter."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.samples import Samples
from edgekit.errors import ConversionError, ModelFormatError, UnsupportedOpError
from edgekit.tflite import signatures


def convert_float(source: Path, target: Path, names: Mapping[str, str], max_length: int) -> None:
    """Write a SavedModel folder or a Keras-2 .h5 file as a float32 .tflite; batch is fixed to 1.

    `names` renames inputs and outputs of its signature. Raises `ModelFormatError`, `UnsupportedOpError` naming the ops
    that TFLite lacks, and `ConversionError`. Needs TensorFlow.
    """
    import tensorflow as tf

    held, function = _load(source)
    specs = [_fixed(source, name, spec, max_length) for name, spec in function.structured_input_signature[1].items()]
    # A name in the graph's own signature that TensorFlow sanitised on saving is kept as the SavedModel has it.
    concrete = tf.function(
        lambda *tensors: function(**dict(zip((s.name for s in specs), tensors, strict=True))), input_signature=specs
    )
    try:
        converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete.get_concrete_function()], held)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        model = converter.convert()
    except Exception as error:  # its own error class is private
        raise _failure(source, error) from error
    model = signatures.add_signature(model, origin=str(source))
    target.write_bytes(signatures.rename(model, names, origin=str(source)) if names else model)


def reference_outputs(source: Path, samples_folder: Path, target: Path) -> None:
    """First output of a SavedModel or .h5 for every saved row, by TensorFlow; written to `target` (.npy, (N, ...))."""
    import tensorflow as tf

    held, function = _load(source)
    dtypes = {name: spec.dtype for name, spec in function.structured_input_signature[1].items()}
    rows = []
    for row in Samples.load(samples_folder):
        results = function(**{name: tf.constant(row[name], dtype) for name, dtype in dtypes.items()})
        rows.append(next(iter(results.values())).numpy())
    np.save(target, np.concatenate(rows))
    del held


def _load(source: Path) -> tuple[Any, Any]:
    """What keeps the variables alive, and the function to convert."""
    import tensorflow as tf

    try:
        if source.is_dir():
            loaded = tf.saved_model.load(str(source))
            if not loaded.signatures:
                raise ModelFormatError(f"{source}: the SavedModel has no signature; save it with one")
            key = "serving_default" if "serving_default" in loaded.signatures else next(iter(loaded.signatures))
            return loaded, loaded.signatures[key]
        import tf_keras

        keras = tf_keras.models.load_model(str(source), compile=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, tf.errors.OpError) as error:
        text = " ".join(str(error).split())[:200]
        raise ModelFormatError(
            f"{source}: TensorFlow cannot load it ({text}); save it again as Keras 2 .h5 or as a SavedModel"
        ) from error
    inputs = {tensor.name: tf.TensorSpec(tensor.shape, tensor.dtype, name=tensor.name) for tensor in keras.inputs}

    @tf.function
    def serve(**tensors: Any) -> dict[str, Any]:
        results = keras([tensors[tensor.name] for tensor in keras.inputs])
        return dict(zip(keras.output_names, results if isinstance(results, list) else [results], strict=True))

    return keras, serve.get_concrete_function(**inputs)


def _fixed(source: Path, name: str, spec: Any, max_length: int) -> Any:
    import tensorflow as tf

    if spec.shape.rank is None:
        raise ModelFormatError(f"{source}: input {name} has no shape; save the model with a fixed one")
    sizes = spec.shape.as_list()
    if sizes and sizes[0] is None:
        sizes[0] = 1
    if len(sizes) == 2 and sizes[1] is None and spec.dtype.is_integer:
        sizes[1] = max_length
    if None in sizes:
        raise ModelFormatError(f"{source}: input {name} has the free shape {sizes}; save the model with a fixed one")
    return tf.TensorSpec(sizes, spec.dtype, name=name)


def _failure(source: Path, error: Exception) -> ConversionError:
    text = str(error)
    ops = set(re.findall(r"(?:tf|Custom|Flex)\.(\w+)", " ".join(re.findall(r"(?:TF Select ops|Custom ops|Flex ops): (.*)", text))))
    ops |= {
        name for line in re.findall(r"(?:TF Select ops|Custom ops): ([\w, ]+)", text) for name in re.split(r"[ ,]+", line) if name
    }
    if ops:
        return UnsupportedOpError(
            f"{source}: no TFLite built-in for op {', '.join(sorted(ops))}; export the model without it", text
        )
    return ConversionError(f"{source}: TFLiteConverter failed ({' '.join(text.split())[:200]})", text)
