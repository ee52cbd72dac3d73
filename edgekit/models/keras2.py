"""Keras 2 models as files: loading them, taking quantization-aware wrappers off, and TensorFlow Lite files of either.

All but `is_quantization_aware`, `check_format` and `keras_3` need TensorFlow with tf_keras, so they belong in a worker child."""

import mmap
import re
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from edgekit.errors import ConversionError, ModelFormatError, UnsupportedOpError
from edgekit.models import keras_config
from edgekit.system.serial import parse_json
from edgekit.tflite import signatures, tree

_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK\x03\x04"
_WRAPPER = b'"QuantizeWrapper'
# Of layers that were wrapped for quantization-aware training.
_PREFIX = "quant_"
# How Keras writes what JSON has no form for.
_NOTATION = ("TensorShape", "TypeSpec", "__bytes__", "__ellipsis__", "__tuple__", "function")
_MODULES = ("builtins", "keras", "tf_keras", "tensorflow_model_optimization")
# Layers that call a function of TensorFlow by its name, and the functions that compute and do nothing else.
_SYMBOLS = ("TFOpLambda", "SlicingOpLambda")
_SAFE_SYMBOL = re.compile(
    r"(compat\.v1\.)?(__operators__|bitwise|image|keras\.activations|linalg|math|nn|quantization|random|signal|sparse)(\.\w+)+"
    r"|(compat\.v1\.)?(abs|acosh?|add|add_n|argmax|argmin|argsort|asinh?|atan[2h]?|batch_to_space|bitcast|boolean_mask|broadcast_to|cast"
    r"|clip_by_(global_norm|norm|value)|concat|constant|convert_to_tensor|cosh?|cumsum|depth_to_space|divide|dynamic_partition"
    r"|dynamic_stitch|einsum|ensure_shape|equal|exp|expand_dims|eye|fill|floor|gather|gather_nd|greater|greater_equal|identity"
    r"|less|less_equal|linspace|logical_(and|not|or)|matmul|maximum|meshgrid|minimum|mirror_pad|multiply|negative|norm|not_equal"
    r"|one_hot|ones|ones_like|pad|pow|range|rank|realdiv|reduce_\w+|repeat|reshape|reverse|reverse_sequence|roll|round|scan|scatter_nd"
    r"|searchsorted|sequence_mask|shape|sigmoid|sign|sinh?|size|slice|sort|space_to_batch(_nd)?|space_to_depth|split|sqrt|square"
    r"|squeeze|stack|stop_gradient|strided_slice|subtract|tanh?|tensordot|tensor_scatter_nd_\w+|tile|transpose|truediv|truncatediv"
    r"|truncatemod|unique|unstack|where|zeros|zeros_like)"
)


def is_quantization_aware(source: Path) -> bool:
    """Whether an .h5 file holds layers that tfmot wrapped for quantization-aware training; reads no more than its bytes.

    Raises `ModelFormatError` unless it is an HDF5 file."""
    check_format(source)
    with source.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        # The architecture lies in the file as JSON text, uncompressed.
        return content.find(_WRAPPER) >= 0


def check_format(source: Path) -> None:
    """Raise `ModelFormatError` unless `source` begins as an HDF5 file."""
    with source.open("rb") as stream:
        start = stream.read(len(_HDF5))
    if start.startswith(_ZIP):
        raise keras_3(source)
    if start != _HDF5:
        raise ModelFormatError(f"{source}: not an HDF5 file; save the model again as Keras 2 .h5 or as a SavedModel")


def keras_3(source: Path | str) -> ModelFormatError:
    """The refusal of what Keras 3 saved, with the ways to a file that can be read."""
    return ModelFormatError(
        f"{source}: is a Keras 3 file, which edgekit convert takes as .keras, or .h5; for what needs Keras 2 build the model with "
        "tf_keras, set its weights and save it as .h5"
    )


def load(source: Path) -> Any:
    """The Keras model in an .h5 file as it was saved, with its quantization-aware wrappers if it has any, not compiled.

    Raises `ModelFormatError` if tf_keras cannot load it, if it holds Python code, or if its inputs are not known."""
    aware = is_quantization_aware(source)
    import tf_keras

    try:
        scope: AbstractContextManager[Any] = nullcontext()
        if aware:
            import tensorflow_model_optimization as tfmot

            scope = tfmot.quantization.keras.quantize_scope()
        with scope:
            refuse_code(source, {name for part in getattr(scope, "custom_objects", ()) for name in part})
            keras_config.refuse_outside(source, source)
            model = tf_keras.models.load_model(str(source), compile=False)
    except ModelFormatError:
        raise
    except Exception as error:  # what the loaders raise on damaged files and foreign classes shares no base class
        text = " ".join(str(error).split())[:200]
        if str(keras_config.attribute(source, "keras_version")).startswith("3"):
            raise keras_3(source) from error
        cause = f"TensorFlow cannot load it ({text}); save it again as Keras 2 .h5 or as a SavedModel"
        if "No model config found" in text:
            cause = "holds weights alone; load them into the model and save it whole with model.save()"
        raise ModelFormatError(f"{source}: {cause}") from error
    if not model.inputs:
        raise ModelFormatError(f"{source}: the Keras model was saved before its inputs were known; build it and save it again")
    return model


def refuse_code(source: Path, known: Collection[str] = ()) -> None:
    """Raise `ModelFormatError` for a file with more than classes of Keras or `known`, and functions that compute."""
    allowed = {*_classes(), *known, *_NOTATION}

    def fault(part: Mapping[str, Any]) -> str | None:
        kind, config, module = str(part["class_name"]), part.get("config"), str(part.get("module") or "keras")
        symbol = config.get("function") if kind in _SYMBOLS and isinstance(config, Mapping) else None
        if symbol is not None and not _SAFE_SYMBOL.fullmatch(str(symbol)):
            return f"calls tf.{symbol}, which is not known to compute and do nothing else"
        if what := keras_config.forbidden(kind):
            return what
        if kind not in allowed and kind not in _SYMBOLS:
            return "is of a class that Keras does not have"
        if module.split(".")[0] not in _MODULES or (kind == "function" and module != "builtins"):
            return f"asks for the module {module}"
        return None

    try:
        config = parse_json(keras_config.attribute(source, "model_config") or "null")
    except ValueError:
        return  # the loader tells what is wrong with it
    keras_config.refuse_code(source, config, fault)


def _classes() -> set[str]:
    """Names of what Keras builds from a configuration."""
    import tf_keras

    places = (tf_keras.layers, tf_keras.initializers, tf_keras.regularizers, tf_keras.constraints, tf_keras.mixed_precision)
    return {"Functional", "Model", "Sequential", *(name for place in places for name in dir(place))}


def without_wrappers(model: Any, source: Path) -> Any:
    """The float model inside a quantization-aware one: the inner layers with their trained weights.

    Raises `ModelFormatError` for a wrapper that cannot be taken off."""
    import tf_keras

    wrapped: dict[str, Any] = {}

    def inner(layer: Any) -> Any:
        kind = type(layer).__name__
        if kind == "QuantizeLayer":
            return tf_keras.layers.Activation("linear", name=layer.name)
        if not kind.startswith("QuantizeWrapper"):
            return layer.__class__.from_config(layer.get_config())
        bare = _float_layer(layer.layer)
        wrapped[bare.name] = layer
        return bare

    try:
        unwrapped = tf_keras.models.clone_model(model, clone_function=inner)
        for layer in unwrapped.layers:
            if layer.name in wrapped:
                copy_weights(wrapped[layer.name], layer)
            elif layer.weights:
                layer.set_weights(model.get_layer(layer.name).get_weights())
    except Exception as error:  # keras raises whatever its layers do
        text = " ".join(str(error).split())[:200]
        raise ModelFormatError(
            f"{source}: its quantization-aware wrappers cannot be taken off ({text}); give a model from tfmot's quantize_model"
        ) from error
    return unwrapped


def copy_weights(source: Any, target: Any) -> None:
    """Give a layer the values of another that has them under the same last names, such as the one that wraps it."""
    held = {_name(weight, source): weight for weight in source.weights}
    target.set_weights([held[_name(weight, target)].numpy() for weight in target.weights])


def serving(model: Any) -> Any:
    """The concrete function of `model` with its inputs and outputs by name, as TFLiteConverter takes it; a free batch is 1.

    Recurrent layers cannot be converted otherwise: the lists that they keep their steps in have elements of the batch's size."""
    import tensorflow as tf

    sizes = {tensor.name: [tensor.shape[0] or 1, *tensor.shape[1:]] for tensor in model.inputs}
    inputs = {tensor.name: tf.TensorSpec(sizes[tensor.name], tensor.dtype, name=tensor.name) for tensor in model.inputs}
    return _served(model, inputs, {})


def write_integer(model: Any, target: Path, source: Path) -> None:
    """A quantization-aware model with its trained ranges as an int8 .tflite of batch 1 with float32 inputs and outputs.

    Inputs and outputs have the float model's names. Raises `ConversionError`."""
    import tensorflow as tf

    specs = {tensor.name: tf.TensorSpec([1, *tensor.shape[1:]], tensor.dtype, name=tensor.name) for tensor in model.inputs}
    names = {name: name.removeprefix(_PREFIX) for name in model.output_names}
    function = _served(model, specs, names)
    outputs = tuple(function.structured_outputs)

    def convert() -> bytes:
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function], model)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        return bytes(converter.convert())

    content = signatures.add_signature(converted(convert, source), origin=str(source))
    content = signatures.order(content, tuple(specs), outputs, origin=str(source))
    # TFLiteConverter writes a zero point of 8 bytes for each channel, again and again.
    written = tree.load(content)
    target.write_bytes(content if written is None else tree.pack(written))


def converted(convert: Callable[[], bytes], origin: Path) -> bytes:
    """What `convert` returns. Raises `UnsupportedOpError` naming the ops that TFLite lacks, else `ConversionError`."""
    try:
        return convert()
    except Exception as error:  # TFLiteConverter's own error class is private
        text = str(error)
        lines = re.findall(r"(?:TF Select ops|Custom ops|Flex ops): (.*)", text)
        ops = {name for line in lines for name in re.findall(r"(?:tf|Custom|Flex)\.(\w+)", line)}
        ops |= {name for line in re.findall(r"(?:TF Select ops|Custom ops): ([\w, ]+)", text) for name in re.findall(r"\w+", line)}
        if ops:
            raise UnsupportedOpError(
                f"{origin}: no TFLite built-in for op {', '.join(sorted(ops))}; export the model without it", text
            ) from error
        raise ConversionError(f"{origin}: TFLiteConverter failed ({' '.join(text.split())[:200]})", text) from error


def _served(model: Any, specs: Mapping[str, Any], names: Mapping[str, str]) -> Any:
    import tensorflow as tf

    @tf.function
    def serve(**tensors: Any) -> dict[str, Any]:
        results = model([tensors[tensor.name] for tensor in model.inputs], training=False)
        results = results if isinstance(results, list) else [results]
        return {names.get(name, name): value for name, value in zip(model.output_names, results, strict=True)}

    return serve.get_concrete_function(**specs)


def _float_layer(layer: Any) -> Any:
    """A new layer like `layer` with the activation that it had before it was wrapped."""
    activation = getattr(layer, "activation", None)
    # During a call the wrapper puts its own activation in the layer's place.
    config = layer.get_config()
    if activation is not None and type(activation).__name__ == "QuantizeAwareActivation":
        activation = activation.activation
    if "activation" in config:
        import tf_keras

        inner = None if type(activation).__name__ == "NoOpActivation" else activation
        config["activation"] = tf_keras.activations.serialize(tf_keras.activations.get(inner))
    return type(layer).from_config(config)


def _name(weight: Any, layer: Any) -> str:
    """The last part of a weight's name; tfmot puts its input layer's own name in front, which is numbered."""
    last = str(weight.name.split(":")[0].split("/")[-1])
    return last.removeprefix(layer.name) if type(layer).__name__ == "QuantizeLayer" else last
