"""Keras 3 models as files: `.keras`, and the `.h5` that Keras 3 still writes.

All but `is_keras_3` need TensorFlow with Keras 3, so they belong in a worker child, which has its temporary folder to itself."""

import shutil
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit.errors import DISK_FULL, ModelFormatError, one_line
from edgekit.models import keras_config
from edgekit.system import archives
from edgekit.system.serial import parse_json

SUFFIX = ".keras"
_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_MEMBERS = {_CONFIG, _WEIGHTS, "metadata.json"}
_MOST_CONFIG_BYTES = 2**26
# How Keras writes what JSON has no form for, but for types of TensorFlow, which it looks up by their module, and bytecode.
_NOTATION = {"__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__", "__tuple__"}
# Where the functions are that Keras knows by their names alone.
_BUILT_IN = (None, "builtins", "keras.activations")


def is_keras_3(source: Path) -> bool:
    """Whether a `.keras` or `.h5` file is to be read by Keras 3."""
    return source.suffix.lower() == SUFFIX or str(keras_config.attribute(source, "keras_version")).startswith("3")


def load(source: Path) -> Any:
    """The Keras 3 model in a file, not compiled.

    Raises `ModelFormatError` if Keras cannot load it, if it holds Python code or asks for other files, or if its inputs are not
    known."""
    with tempfile.TemporaryDirectory() as folder:
        readable = source
        if source.suffix.lower() == SUFFIX:
            readable = Path(folder) / "model"
            _unpack(source, readable)
            refuse_code(source, _parsed(source, (readable / _CONFIG).read_bytes()))
            keras_config.refuse_outside(source, readable / _WEIGHTS)
        else:
            refuse_code(source, _parsed(source, keras_config.attribute(source, "model_config") or b"null"))
            keras_config.refuse_outside(source, source)
        import keras

        try:
            model = keras.saving.load_model(str(readable), compile=False, safe_mode=True)
        except Exception as error:  # what the loader raises on damaged files and foreign classes shares no base class
            cause = f"Keras cannot load it ({one_line(error)}); save it again with model.save() or export it as a SavedModel"
            if "No model config found" in str(error):
                cause = "holds weights alone; load them into the model and save it whole with model.save()"
            raise ModelFormatError(f"{source}: {cause}") from error
    if not getattr(model, "_functional", model) or not _inputs(model):
        raise ModelFormatError(f"{source}: the Keras model was saved before its inputs were known; build it and save it again")
    return model


def _inputs(model: Any) -> list[Any]:
    try:
        return list(model.inputs or ())
    except (AttributeError, ValueError):  # of a Sequential that was never built
        return []


def _unpack(source: Path, folder: Path) -> None:
    """Write the parts of a `.keras` archive that Keras reads to `folder`, so that nothing else of it is seen."""
    room = archives.room(source)
    try:
        with zipfile.ZipFile(source) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            if foreign := [name for name in names if name not in _MEMBERS]:
                raise ModelFormatError(
                    f"{source}: holds {foreign[0]}, which is no part of a Keras model of layers alone; export it as a SavedModel"
                )
            if missing := sorted({_CONFIG, _WEIGHTS} - {*names}):
                raise ModelFormatError(f"{source}: holds no {missing[0]}; save the model whole with Keras 3's model.save()")
            if len({*names}) < len(names):
                raise ModelFormatError(f"{source}: holds a part twice; save it again with model.save()")
            for member in members:
                if member.file_size > (_MOST_CONFIG_BYTES if member.filename != _WEIGHTS else room):
                    raise ModelFormatError(
                        f"{source}: {member.filename} unpacks to {member.file_size / 1e9:.1f} GB, which no model's does; "
                        "save it again with model.save()"
                    )
            folder.mkdir()
            for member in members:
                with archive.open(member) as stream, (folder / member.filename).open("wb") as target:
                    shutil.copyfileobj(stream, target, 2**20)
    except ModelFormatError:
        raise
    except archives.DAMAGED as error:
        if getattr(error, "errno", None) in DISK_FULL:
            raise
        cause = "is empty" if source.stat().st_size == 0 else f"not a whole .keras file ({one_line(error)})"
        raise ModelFormatError(f"{source}: {cause}; save it again with Keras 3's model.save()") from None


def _parsed(source: Path, config: bytes | str) -> Any:
    try:
        parsed = parse_json(config)
    except ValueError as error:
        raise ModelFormatError(f"{source}: its configuration is no JSON ({error}); save it again with model.save()") from None
    if isinstance(parsed, dict):
        # How it was trained is not loaded.
        parsed.pop("compile_config", None)
    return parsed


def refuse_code(source: Path, config: Any) -> None:
    """Raise `ModelFormatError` for a configuration with more than classes of Keras 3 and functions that it knows by name."""
    import keras

    computing = (keras.Operation, keras.Initializer, keras.Regularizer, keras.constraints.Constraint, keras.DTypePolicy)
    # Of models inside others.
    training = (keras.Loss, keras.Metric, keras.Optimizer, keras.optimizers.schedules.LearningRateSchedule)

    def fault(part: Mapping[str, Any]) -> str | None:
        kind, module = str(part["class_name"]), part.get("module")
        if what := keras_config.forbidden(kind):
            return what
        if kind in _NOTATION:
            return None
        if kind == "function":
            is_activation = module in _BUILT_IN and hasattr(keras.activations, str(part.get("config")))
            return None if is_activation else "is none that Keras knows by its name"
        if kind == "__lambda__":
            return "holds Python code"
        # Files of older form leave the module out.
        places = [module] if module else ["keras.layers", "keras.models", "keras"]
        if module and str(module).split(".")[0] != "keras":
            return f"asks for the module {module}"
        held = [getattr(_module(str(place)), kind, None) for place in places]
        if not any(isinstance(one, type) and issubclass(one, (*computing, *training)) for one in held):
            return "is of a class that Keras does not have"
        return None

    keras_config.refuse_code(source, config, fault)


def _module(name: str) -> Any:
    """A module of Keras that `import keras` has loaded: none is imported because a file asks for it."""
    import keras

    if name in sys.modules:
        return sys.modules[name]
    first, *rest = name.split(".")
    place: Any = keras if first == "keras" else None
    for part in rest:
        place = vars(place).get(part) if isinstance(place, type(sys)) else None
    return place if isinstance(place, type(sys)) else None


def serving(model: Any, source: Path) -> tuple[Any, Any]:
    """What holds the variables of `model`, and its concrete function with inputs and outputs by name; a free batch is 1.

    Raises `ModelFormatError` if it does not run."""
    import tensorflow as tf

    inputs, names = _inputs(model), _output_names(model)
    sizes = {tensor.name: [tensor.shape[0] or 1, *tensor.shape[1:]] for tensor in inputs}
    specs = {tensor.name: tf.TensorSpec(sizes[tensor.name], tensor.dtype, name=tensor.name) for tensor in inputs}

    @tf.function
    def serve(**tensors: Any) -> dict[str, Any]:
        ordered = [tensors[tensor.name] for tensor in inputs]
        results = model(ordered if len(ordered) > 1 else ordered[0], training=False)
        if isinstance(results, dict) and not any(isinstance(result, dict | list | tuple) for result in results.values()):
            return results
        return dict(zip(names, tf.nest.flatten(results), strict=True))

    try:
        function = serve.get_concrete_function(**specs)
    except Exception as error:  # a layer raises whatever it stumbles on, wrapped in where that was
        text = " ".join(str(error).replace("in user code:", "").split())[-200:]
        raise ModelFormatError(f"{source}: Keras cannot run it (… {text}); mend the model and save it again") from error
    # Keras 3's own variables are not those that TensorFlow saves with a model, which would have the file read them at run time.
    held = tf.Module()
    held.held = list(function.variables)
    return held, function


def _output_names(model: Any) -> list[str]:
    """The layers that give the outputs, with a number where one gives several."""
    names: list[str] = []
    for name in getattr(model, "output_names", None) or [model.layers[-1].name]:
        names.append(f"{name}_{len(names)}" if name in names else name)
    return names
