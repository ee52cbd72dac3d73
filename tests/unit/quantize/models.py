"""Tiny float32 .tflite files to quantize, made by hand in milliseconds."""

from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekit.data.samples import Samples
from tests.unit.tflite.conftest import Builder

DEAD, DEAD_BIAS = 3, 2.5
CLASSES = 10


def conv_net() -> Builder:
    """x (1, 8, 8, 3): CONV_2D, DEPTHWISE_CONV_2D, MEAN, FULLY_CONNECTED, SOFTMAX to (1, 10).

    Channel `DEAD` of the first convolution has next to no weight and the bias `DEAD_BIAS`, as batch norm folding leaves it.
    """
    draw = np.random.default_rng(0)
    build = Builder()

    def normal(*shape: int, scale: float) -> np.ndarray:
        return (scale * draw.standard_normal(shape)).astype(np.float32)

    x = build.tensor("x", [1, 8, 8, 3])
    filters, bias = normal(16, 3, 3, 3, scale=0.3), normal(16, scale=0.3)
    filters[DEAD], bias[DEAD] = 1e-12, DEAD_BIAS
    first = build.tensor("first", [1, 8, 8, 16])
    options = schema.Conv2DOptionsT(padding=schema.Padding.SAME, strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1)
    options.fusedActivationFunction = schema.ActivationFunctionType.RELU6
    build.op("CONV_2D", [x, build.tensor("w1", [16, 3, 3, 3], data=filters), build.tensor("b1", [16], data=bias)], [first], options)
    second = build.tensor("second", [1, 8, 8, 16])
    depthwise = schema.DepthwiseConv2DOptionsT(
        padding=schema.Padding.SAME, strideH=1, strideW=1, depthMultiplier=1, dilationHFactor=1, dilationWFactor=1
    )
    # One large weight a channel makes the steps of the other eight coarse.
    kernel = normal(1, 3, 3, 16, scale=0.02)
    kernel[0, 0, 0] = 2.0
    places = [first, build.tensor("w2", [1, 3, 3, 16], data=kernel), build.tensor("b2", [16], data=normal(16, scale=0.3))]
    build.op("DEPTHWISE_CONV_2D", places, [second], depthwise)
    mean = build.tensor("mean", [1, 16])
    build.op(
        "MEAN", [second, build.tensor("axes", [2], "int32", data=np.array([1, 2], np.int32))], [mean], schema.ReducerOptionsT()
    )
    logits, probabilities = build.tensor("logits", [1, CLASSES]), build.tensor("probabilities", [1, CLASSES])
    dense = build.tensor("w3", [CLASSES, 16], data=normal(CLASSES, 16, scale=0.8))
    build.op("FULLY_CONNECTED", [mean, dense, build.tensor("b3", [CLASSES], data=normal(CLASSES, scale=0.1))], [logits])
    build.current.operators[-1].builtinOptions = schema.FullyConnectedOptionsT()
    build.current.operators[-1].builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    build.op("SOFTMAX", [logits], [probabilities], schema.SoftmaxOptionsT(beta=1.0))
    build.ends({"x": x}, {"probabilities": probabilities}, "serving_default")
    return build


def conv_samples(count: int, seed: int = 1) -> Samples:
    """Images for `conv_net`, each of another brightness; the last one is by far the brightest."""
    draw = np.random.default_rng(seed)
    images = draw.random((count, 8, 8, 3), np.float32) * np.linspace(0.2, 1, count, dtype=np.float32)[:, None, None, None]
    images[-1] *= 4
    return Samples({"x": images})


def token_net(mask_value: float = -np.inf) -> Builder:
    """ids (1, 4): GATHER from a (50, 16) table, ADD a constant with `mask_value` in its last column, SOFTMAX."""
    draw = np.random.default_rng(0)
    build = Builder()
    ids = build.tensor("input_ids", [1, 4], "int32")
    table = build.tensor("table", [50, 16], data=draw.standard_normal((50, 16)).astype(np.float32))
    mask = np.zeros((1, 4, 16), np.float32)
    mask[..., -1] = np.maximum(mask_value, np.finfo(np.float32).min)
    rows, masked, result = (build.tensor(name, [1, 4, 16]) for name in ("rows", "masked", "result"))
    build.op("GATHER", [table, ids], [rows], schema.GatherOptionsT())
    build.op("ADD", [rows, build.tensor("mask", [1, 4, 16], data=mask)], [masked], schema.AddOptionsT())
    build.op("SOFTMAX", [masked], [result], schema.SoftmaxOptionsT(beta=1.0))
    build.ends({"input_ids": ids}, {"result": result}, "serving_default")
    return build


def token_samples(count: int) -> Samples:
    return Samples({"input_ids": np.random.default_rng(2).integers(0, 50, (count, 4), dtype=np.int32)})


def save(build: Builder, path: Path) -> Path:
    path.write_bytes(build.pack())
    return path
