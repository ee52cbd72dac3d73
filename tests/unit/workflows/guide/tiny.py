"""Classifiers of the guide's kind, small enough to train nothing and convert in a second."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.samples import Samples
from edgekit.errors import EdgekitError
from edgekit.stages.keras.config import TrainConfig
from edgekit.tflite.interpreter import Model
from edgekit.workflows.guide.networks import IMAGENET, RANDOM, Architecture, Weights, saved_variables, write_model
from edgekit.workflows.guide.qat import write_aware

SIZE, CLASSES = 32, 5


def mobilenet(alpha: float, weights: str | None) -> Any:
    """A few of MobileNet's blocks: convolution, depthwise convolution, batch norm, ReLU6; `imagenet` cannot be had."""
    import tf_keras

    if weights is not None:
        raise Exception(f"URL fetch failure on {weights}: Temporary failure in name resolution")  # as Keras raises it
    layers = tf_keras.layers
    image = tf_keras.Input((SIZE, SIZE, 3), name="image")
    x = image
    for filters in (8, 16):
        x = layers.Conv2D(int(alpha * filters), 1, use_bias=False)(x)
        x = layers.BatchNormalization()(x)
        x = layers.ReLU(6.0)(x)
        x = layers.DepthwiseConv2D(3, strides=2, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization()(x)
        x = layers.ReLU(6.0)(x)
    x = layers.GlobalAveragePooling2D()(x)
    return tf_keras.Model(image, layers.Dense(CLASSES, activation="softmax", name="predictions")(x))


def architecture(name: str, title: str, alpha: float = 1.0) -> Architecture:
    return Architecture(name, title, SIZE, CLASSES, 501, partial(mobilenet, alpha))


@dataclass(frozen=True)
class Built:
    """What one TensorFlow child made: smallest and largest activation of the last layers, errors, int8 decisions, and the number
    of weights, as Keras counts them and in a SavedModel with its optimizer."""

    spread: tuple[float, float]
    same_weights: bool
    another: str
    no_network: str
    agreement: float
    counted: int
    saved: int


def build_all(folder: Path) -> Built:
    """Build, draw, save and load models, and make the quantization-aware file `folder/qat.tflite`; in a worker child."""
    import tf_keras

    small, large = architecture("mobilenet_v1", "MobileNet-v1"), architecture("mobilenet_v1", "MobileNet-v1", 2.0)
    write_model(small, Weights(RANDOM), 0, folder / "small.h5")
    model = tf_keras.models.load_model(folder / "small.h5", compile=False)
    draw = np.random.default_rng(0)
    images = draw.uniform(-1, 1, (12, SIZE, SIZE, 3)).astype(np.float32)
    inner = tf_keras.Model(model.inputs, model.layers[-2].output)
    features = np.asarray(inner(images))
    model.save_weights(folder / "w.h5")
    given = Weights("file", folder / "w.h5")
    write_model(small, given, 1, folder / "again.h5")
    again = tf_keras.models.load_model(folder / "again.h5", compile=False)
    same = all(np.array_equal(one, other) for one, other in zip(model.get_weights(), again.get_weights(), strict=True))
    errors = []
    for built, weights in ((large, given), (small, Weights(IMAGENET))):
        try:
            write_model(built, weights, 0, folder / "none.h5")
        except EdgekitError as error:
            errors.append(f"{type(error).__name__}: {error.message}")
    another, no_network = errors
    Samples({"image": images}).save(folder / "rows")
    write_aware(folder / "small.h5", folder / "rows", folder / "qat.tflite", None, TrainConfig())
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(images, np.zeros(len(images)), verbose=0)
    model.save(folder / "saved", save_format="tf")
    aware = Model(folder / "qat.tflite")
    decisions = np.asarray(again(images)).argmax(axis=1)
    ours = [int(next(iter(aware.run({"image": image[None]}).values())).argmax()) for image in images]
    return Built(
        (float(features.std(axis=0).min()), float(features.max())),
        same,
        another,
        no_network,
        float(np.mean(decisions == ours)),
        model.count_params(),
        saved_variables(folder / "saved"),
    )
