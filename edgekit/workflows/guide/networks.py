"""The guide's image classifiers as tf_keras builds them, with the weights that a user gives, Keras downloads or a seed draws."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import CheckpointError, ConfigError, EdgekitError, ModelFormatError, one_line
from edgekit.measure import runtimes
from edgekit.models import keras2
from edgekit.spec import path_of
from edgekit.system import rooms
from edgekit.system.worker import Worker

IMAGENET, RANDOM = "imagenet", "random"
_WEIGHTS_ONLY, _KERAS = ".weights.h5", ".h5"
# Rows that a random model's batch norm statistics are taken on.
_STATISTICS_ROWS = 4
_PATCHES, _NOISE = 14, 0.1
# How far a file's number of weights may lie from the architecture's: folded batch norm, and a background class.
_SAME_SIZE = 0.03
# In names of a SavedModel's variables that are no weights.
_NO_WEIGHTS = ("/.OPTIMIZER_SLOT/", "/optimizer/", "/keras_api/metrics/")


@dataclass(frozen=True)
class Architecture:
    """A classifier of `size` × `size` RGB pixels in [-1, 1]; `name` is that of its rows in `published`.

    `build(weights)` returns the Keras model, with "imagenet" or None for its own initial values; it needs TensorFlow."""

    name: str
    title: str
    size: int
    classes: int
    parameters: int
    build: Callable[[str | None], Any]


def _application(name: str, weights: str | None) -> Any:
    import tf_keras

    return getattr(tf_keras.applications, name)(weights=weights)


@dataclass(frozen=True)
class Weights:
    """Where weights come from: a file or SavedModel folder, "imagenet" or "random"; `whole` if the file is a whole model."""

    kind: str
    path: Path | None = None
    whole: bool = False

    @property
    def described(self) -> str:
        if self.path is not None:
            return f"weights of {self.path.name}"
        return "random weights" if self.kind == RANDOM else "ImageNet weights from Keras"

    @property
    def random(self) -> bool:
        return self.kind == RANDOM


ARCHITECTURES: Mapping[str, Architecture] = {
    name: Architecture(name, title, size, 1000, parameters, partial(_application, application))
    for name, title, size, parameters, application in (
        ("mobilenet_v1", "MobileNet-v1-1-224", 224, 4_231_976, "MobileNet"),
        ("mobilenet_v2", "MobileNet-v2-1-224", 224, 3_504_872, "MobileNetV2"),
        ("inception_v3", "Inception_v3", 299, 23_834_568, "InceptionV3"),
        ("resnet_v2_101", "ResNet_v2_101", 224, 44_577_896, "ResNet101V2"),
    )
}


def find_weights(reference: str, name: str) -> Weights | None:
    """The weights of the model `name` where `reference` is imagenet, random or a folder; None if the folder has none for it.

    A folder holds `NAME.weights.h5` or `NAME.h5` with weights, or a whole model as `NAME.h5`, `NAME.onnx`, `NAME.tflite` or a
    SavedModel folder `NAME`. Raises `ConfigError` if there is no such folder or two files fit, and `ModelFormatError`, also
    where there is nothing but a Keras 3 file."""
    if reference in (IMAGENET, RANDOM):
        return Weights(reference)
    folder = path_of(reference)
    if not folder.is_dir():
        raise ConfigError(f"--weights {reference}: no such folder; give one with files such as {name}.h5, or imagenet, or random")
    files = [path for suffix in (_WEIGHTS_ONLY, _KERAS, ".onnx", ".tflite") if (path := folder / f"{name}{suffix}").is_file()]
    files += [folder / name] * (folder / name / "saved_model.pb").is_file()
    if not files and (keras := folder / f"{name}.keras").is_file():
        keras2.check_format(keras)
        files.append(keras)
    if len(files) > 1:
        raise ConfigError(f"{folder}: holds {files[0].name} and {files[1].name}; leave one of them there")
    return Weights("file", files[0].resolve(), _is_whole(files[0])) if files else None


def _is_whole(path: Path) -> bool:
    if path.suffix != _KERAS:
        return True
    import h5py

    try:
        with h5py.File(path) as file:
            return "model_config" in file.attrs
    except OSError as error:
        raise ModelFormatError(f"{path}: not a readable HDF5 file ({error}); save the weights again") from None


def write_model(architecture: Architecture, weights: Weights, seed: int, target: Path) -> int:
    """Write the model as a Keras-2 .h5 and return its number of weights; in a worker child.

    Raises `CheckpointError` if weights cannot be downloaded, `ModelFormatError` if a file's are of another architecture."""
    import tf_keras

    tf_keras.utils.set_random_seed(seed)
    try:
        model = architecture.build(IMAGENET if weights.kind == IMAGENET else None)
    except Exception as error:  # Keras raises a bare Exception where a download fails
        if weights.kind != IMAGENET:
            raise
        raise CheckpointError(
            f"{architecture.title}: its ImageNet weights cannot be downloaded ({one_line(error)}); "
            "go online once, or give --weights DIR with them, or --weights random"
        ) from error
    if weights.random:
        _draw(model, seed)
    elif weights.path is not None:
        _load(model, architecture, weights.path)
    model.save(target, save_format="h5", include_optimizer=False)
    return int(model.count_params())


def parameters(path: Path) -> int | None:
    """How many weights a whole model's file or SavedModel folder holds, None where that cannot be told without loading it.

    What an optimizer keeps beside them is left out. Raises `ModelFormatError`."""
    if path.suffix == _KERAS:
        import h5py

        counts: list[int] = []
        with h5py.File(path) as file:
            held = file.get("model_weights", file)
            held.visititems(lambda _, item: counts.append(int(item.size)) if isinstance(item, h5py.Dataset) else None)
        return sum(counts)
    try:
        if path.is_dir():
            return Worker().run(saved_variables, path).value or None
        return runtimes.describe(path).parameters
    except EdgekitError as error:
        raise ModelFormatError(f"{path}: cannot be read ({error.message}); give another file") from None


def saved_variables(path: Path) -> int:
    """Values of the variables that a SavedModel folder holds, its optimizer's and metrics' aside; in a worker child."""
    index = path / "variables" / "variables.index"
    if not index.is_file():  # its weights may be constants of the graph
        return 0
    import tensorflow as tf

    held = [(f"/{name}", shape) for name, shape in tf.train.list_variables(str(index.with_suffix("")))]
    return sum(int(np.prod(shape)) for name, shape in held if shape and not any(part in name for part in _NO_WEIGHTS))


def check_size(architecture: Architecture, parameters: int | None, path: Path) -> None:
    """Raise `ModelFormatError` if a whole model's number of weights cannot be that of the architecture."""
    if parameters is not None and abs(parameters / architecture.parameters - 1) > _SAME_SIZE:
        raise ModelFormatError(
            f"{path}: has {parameters / 1e6:.2f} million weights, {architecture.title} {architecture.parameters / 1e6:.2f}: "
            "it is another architecture; give the model that the file's name says"
        )


def random_images(target: Path, count: int, seed: int, size: int) -> None:
    """`count` images of coloured patches with some noise, in [-1, 1], as an .npz with one array `image`."""
    draw = np.random.default_rng(seed)
    each = -(-size // _PATCHES)
    patches = draw.uniform(-1, 1, (count, _PATCHES, _PATCHES, 3)).astype(np.float32)
    images = patches.repeat(each, axis=1).repeat(each, axis=2)[:, :size, :size]
    images += _NOISE * draw.standard_normal(images.shape, dtype=np.float32)
    np.savez(target, image=np.clip(images, -1, 1))


def _load(model: Any, architecture: Architecture, path: Path) -> None:
    import h5py

    with rooms.temporary("weights") as room:
        readable = path
        with h5py.File(path) as file:
            older = path.name.endswith(_WEIGHTS_ONLY) and "layer_names" in file.attrs
        if older:
            # Keras takes the older of its two formats under another suffix only.
            readable = Path(shutil.copyfile(path, Path(room) / "older.h5"))
        try:
            model.load_weights(str(readable))
        except Exception as error:  # Keras raises ValueError, KeyError and others
            raise ModelFormatError(
                f"{path}: its weights are of another architecture than {architecture.title} ({one_line(error)}); "
                "give those of tf_keras.applications, with its head"
            ) from error


def _draw(model: Any, seed: int) -> None:
    """Random weights under which activations keep their size from layer to layer, as they do in a trained network.

    Kernels are normal with variance 2 / fan-in (K. He et al., "Delving deep into rectifiers", ICCV 2015); batch norm takes
    its statistics from random images. Keras' own initial values let activations die out in depthwise layers, and
    ranges that no trained network has break int16x8 files."""
    import tf_keras

    draw = np.random.default_rng(seed)
    for weight in model.weights:
        kind = weight.name.rpartition("/")[2]
        if "kernel" in kind:
            shape = weight.shape.as_list()
            fan_in = int(np.prod(shape[:2] if "depthwise" in kind else shape[:-1]))
            weight.assign(draw.standard_normal(shape, dtype=np.float32) * np.float32(np.sqrt(2 / fan_in)))
    norms = {layer: layer.momentum for layer in model.layers if isinstance(layer, tf_keras.layers.BatchNormalization)}
    for layer in norms:
        layer.momentum = 0.0  # the statistics become those of the next batch
    model(draw.uniform(-1, 1, (_STATISTICS_ROWS, *model.input_shape[1:])).astype(np.float32), training=True)
    for layer, momentum in norms.items():
        layer.momentum = momentum
