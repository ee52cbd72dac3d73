"""A tiny Keras classifier and what the techniques make of it; its functions run in one TensorFlow child."""

from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.samples import Samples
from edgekit.errors import EdgekitError
from edgekit.models import keras2
from edgekit.stages.keras.aware import calibrate, quantize_aware
from edgekit.stages.keras.config import OptimizeConfig, Optimized
from edgekit.stages.keras.techniques import apply, describe
from edgekit.stages.keras.train import predict

SIDE = 8


def rows(count: int, seed: int = 0) -> Samples:
    """Images whose class is the sign of their mean."""
    draw = np.random.default_rng(seed)
    classes = draw.integers(0, 2, count)
    images = draw.normal(size=(count, SIDE, SIDE, 3)) + (2 * classes - 1)[:, None, None, None] * 0.3
    # Far outside [-6, 6], where uncalibrated ranges begin.
    return Samples({"image": (20 * images).astype(np.float32)}, classes)


def save(path: Path) -> None:
    """Convolution, depthwise convolution, convolution with BatchNormalization each, and a dense softmax over two classes."""
    import tf_keras

    layers = tf_keras.layers
    tf_keras.utils.set_random_seed(0)
    image = tf_keras.Input((SIDE, SIDE, 3), name="image")
    tensor = image
    for layer in (layers.Conv2D(8, 3, padding="same"), layers.DepthwiseConv2D(3, padding="same"), layers.Conv2D(16, 3)):
        tensor = layers.ReLU()(layers.BatchNormalization(momentum=0.5)(layer(tensor)))
    scores = layers.Dense(2, activation="softmax", name="scores")(layers.GlobalAveragePooling2D()(tensor))
    tf_keras.Model(image, scores).save(str(path))


def save_foreign(folder: Path) -> None:
    """`preact.h5`, whose BatchNormalization follows no convolution, and `keras3.h5`, which says that Keras 3 saved it."""
    import h5py
    import tf_keras

    layers = tf_keras.layers
    image = tf_keras.Input((SIDE, SIDE, 3))
    tensor = layers.BatchNormalization(name="first")(layers.MaxPooling2D()(image))
    tf_keras.Model(image, layers.Dense(2)(layers.Flatten()(tensor))).save(str(folder / "preact.h5"))
    with h5py.File(folder / "keras3.h5", "w") as file:
        file.attrs["keras_version"] = "3.8.0"


def refusal(function: Any, *arguments: Any) -> str:
    try:
        function(*arguments)
    except EdgekitError as error:
        return f"{type(error).__name__}: {error.message}"
    return ""


def all_of_it(room: Path, techniques: tuple[str, ...], config: OptimizeConfig) -> tuple[dict[str, Optimized], dict[str, Any]]:
    """What each technique found, and what else the tests ask of TensorFlow."""
    save(room / "tiny.h5")
    save_foreign(room)
    rows(300).save(room / "rows")
    found = {name: apply(room / "tiny.h5", room / "rows", name, config, room) for name in techniques}
    few = np.asarray(rows(64, seed=5).inputs["image"])
    plain = keras2.load(room / "tiny.h5")
    aware = quantize_aware(plain, room / "tiny.h5")
    before = np.abs(predict(aware, few) - predict(plain, few)).max()
    calibrate(aware, few)
    after = np.abs(predict(aware, few) - predict(plain, few)).max()
    stripped = keras2.without_wrappers(aware, room / "tiny.h5")
    return found, {
        "spec": describe(room / "tiny.h5"),
        "before": float(before),
        "after": float(after),
        "stripped": float(np.abs(predict(stripped, few) - predict(plain, few)).max()),
        "preact": refusal(lambda: quantize_aware(keras2.load(room / "preact.h5"), Path("preact.h5"))),
        "keras3": refusal(keras2.load, room / "keras3.h5"),
        "twice": refusal(describe, room / "sparsity-qat.h5"),
    }
