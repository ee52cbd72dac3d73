"""SavedModel or Keras model to a float32 .tflite with built-in ops, through TFLiteConverter."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.samples import Samples, as_fed
from edgekit.errors import ModelFormatError
from edgekit.models import keras2, keras3, saved_models
from edgekit.models.channels import usual_size
from edgekit.models.effects import refuse_effects
from edgekit.tflite import flatbuffer, signatures


def convert_float(
    source: Path,
    target: Path,
    max_length: int,
    *,
    names: Mapping[str, str] | None = None,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    origin: Path | None = None,
) -> None:
    """Write a SavedModel folder or a Keras file as a float32 .tflite; a free batch is fixed to 1.

    A SavedModel that edgekit wrote comes with `inputs` and `outputs`, their names in order, and with `names`, which renames
    them; its shapes are fixed, and it is not loaded here a first time. `origin` is what errors call the model.
    Raises `ModelFormatError`, `UnsupportedOpError` naming the ops that TFLite lacks, and `ConversionError`. Needs TensorFlow."""
    if source.is_file() and not keras3.is_keras_3(source):
        keras2.check_format(source)
    import tensorflow as tf

    called = origin or source
    if outputs:
        model = _converted(tf.lite.TFLiteConverter.from_saved_model, str(source), origin=called)
    else:
        held, function = _load(source, target.parent / f"{target.name}.batch_of_one")
        outputs = tuple(function.structured_outputs)
        if not (named := function.structured_input_signature[1]):
            raise ModelFormatError(f"{source}: its signature takes no named inputs; save the model with a serving signature")
        specs = [_fixed(source, name, spec, max_length) for name, spec in named.items()]
        # A name in the graph's own signature that TensorFlow sanitised on saving is kept as the SavedModel has it.
        concrete = tf.function(lambda *tensors: function(**dict(zip(named, tensors, strict=True))), input_signature=specs)
        functions = [concrete.get_concrete_function()]
        model = _converted(tf.lite.TFLiteConverter.from_concrete_functions, functions, held, origin=called)
    model = signatures.add_signature(model, origin=str(called))
    if names:
        model = signatures.rename(model, names, origin=str(called))
    target.write_bytes(signatures.order(model, inputs, outputs, origin=str(called)))


def _converted(open_source: Callable[..., Any], *arguments: Any, origin: Path) -> bytes:
    import tensorflow as tf

    def convert() -> bytes:
        converter = open_source(*arguments)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        return bytes(converter.convert())

    return keras2.converted(convert, origin)


def write_trained(source: Path, target: Path) -> None:
    """Write a Keras model that was trained quantization-aware as an int8 .tflite with its trained ranges. Needs TensorFlow."""
    keras2.write_integer(keras2.load(source), target, source)


def reference_outputs(source: Path, samples_folder: Path, target: Path, limit: int) -> None:
    """Outputs of a SavedModel or Keras file for the first `limit` saved rows, by TensorFlow: a folder of (N, ...) by name."""
    import tensorflow as tf

    held, function = _load(source)
    specs = function.structured_input_signature[1].items()
    rows: dict[str, list[np.ndarray]] = {name: [] for name in function.structured_outputs}
    for row in itertools.islice(Samples.load(samples_folder), limit):
        results = function(**{name: tf.constant(as_fed(row[name], spec.shape.rank), spec.dtype) for name, spec in specs})
        for name, value in results.items():
            output = value.numpy()
            rows[name].append(output[0] if output.ndim and output.shape[0] == 1 else output)
    Samples({name: np.stack(values) for name, values in rows.items()}).save(target)
    del held


def _load(source: Path, room: Path | None = None) -> tuple[Any, Any]:
    """What keeps the variables alive, and the function to convert; with a `room` to write in, one that a batch of 1 makes fixed."""
    import tensorflow as tf

    if source.is_file() and keras3.is_keras_3(source):
        return keras3.serving(keras3.load(source), source)
    if source.is_file():
        keras = keras2.load(source)
        if keras2.is_quantization_aware(source):
            keras = keras2.without_wrappers(keras, source)
        return keras, keras2.serving(keras)
    refuse_effects(source)
    folder = source if room is None else saved_models.with_batch_of_one(source, room)
    try:
        loaded = tf.saved_model.load(str(folder))
    except Exception as error:  # what the loader raises on damaged files shares no base class
        text = " ".join(str(error).split())[:200]
        raise ModelFormatError(f"{source}: TensorFlow cannot load it ({text}); save it again as a SavedModel") from error
    if not loaded.signatures:
        raise ModelFormatError(f"{source}: the SavedModel has no signature; save it with one")
    keys, default = sorted(loaded.signatures), flatbuffer.DEFAULT_KEY
    if default not in keys and len(keys) > 1:
        raise ModelFormatError(
            f"{source}: has the signatures {', '.join(keys)} and no {default}; save it with the one to convert alone"
        )
    return loaded, loaded.signatures[default if default in keys else keys[0]]


def _fixed(source: Path, name: str, spec: Any, max_length: int) -> Any:
    import tensorflow as tf

    if spec.shape.rank is None:
        raise ModelFormatError(f"{source}: input {name} has no shape; save the model with a fixed one")
    sizes = spec.shape.as_list()
    usual = partial(usual_size, rank=len(sizes), max_length=max_length, integers=spec.dtype.is_integer)
    sizes = [usual(axis) if size is None else size for axis, size in enumerate(sizes)]
    if None in sizes:
        raise ModelFormatError(f"{source}: input {name} has the free shape {sizes}; save the model with a fixed one")
    return tf.TensorSpec(sizes, spec.dtype, name=name)
