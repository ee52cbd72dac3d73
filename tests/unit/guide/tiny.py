"""Classifiers of the guide's kind, small enough to train nothing and convert in a second."""

from functools import partial
from typing import Any

from edgekit.guide.models import Architecture

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


def broken(weights: str | None) -> Any:
    raise MemoryError("no room")


def architecture(name: str, title: str, alpha: float = 1.0) -> Architecture:
    return Architecture(name, title, SIZE, CLASSES, 501, partial(mobilenet, alpha))
