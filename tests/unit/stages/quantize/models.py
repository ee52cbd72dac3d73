"""Tiny float32 .tflite files to quantize, made by hand in milliseconds."""

from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekit.data.samples import Samples
from edgekit.stages.quantize.calibrate import calibrate
from edgekit.system.worker import Outcome
from edgekit.tasks.judgement import decibels
from edgekit.tflite.interpreter import Model
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


def pointwise_net() -> Builder:
    """x (1, 4, 4, 8): two 1x1 convolutions, `thin` to 16 channels and `broad` to 256."""
    draw = np.random.default_rng(0)
    build = Builder()
    read = build.tensor("x", [1, 4, 4, 8])
    ends = {"x": read}
    for name, inputs, outputs in (("thin", 8, 16), ("broad", 16, 256)):
        weights = build.tensor(
            f"{name}_weights", [outputs, 1, 1, inputs], data=draw.standard_normal((outputs, 1, 1, inputs), np.float32)
        )
        bias = build.tensor(f"{name}_bias", [outputs], data=np.zeros(outputs, np.float32))
        given = build.tensor(name, [1, 4, 4, outputs])
        options = schema.Conv2DOptionsT(padding=schema.Padding.SAME, strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1)
        build.op("CONV_2D", [read, weights, bias], [given], options)
        read = given
    build.ends(ends, {"broad": read}, "serving_default")
    return build


def conv_samples(count: int, seed: int = 1) -> Samples:
    """Images for `conv_net`, each of another brightness; the last one is by far the brightest."""
    draw = np.random.default_rng(seed)
    images = draw.random((count, 8, 8, 3), np.float32) * np.linspace(0.2, 1, count, dtype=np.float32)[:, None, None, None]
    images[-1] *= 4
    return Samples({"x": images}, task="tabular-classification")


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


OUTLIER, TOKENS, WIDTH = 5, 6, 16


def encoder_net(*, reshapes: bool = False, embedded: bool = False, shared: bool = False, activation: str = "NONE") -> Builder:
    """One encoder block: `dense` of x, ADD `residual` with x, normalization, attention of one head, `logits` (1, 10).

    Output channel `OUTLIER` of `dense` is 40 times as large as the others. With `reshapes` there are RESHAPEs around the
    matrix product, as litert-torch writes them, and none without, as onnx2tf does. x is (1, 6, 16) float32, or comes from
    an EMBEDDING_LOOKUP of ids (6). With `shared` the weights of `dense` are those of another product too. `activation` is
    fused into `dense`.
    """
    draw = np.random.default_rng(0)
    build = Builder()
    kinds = schema.ActivationFunctionType

    def normal(*shape: int, scale: float) -> np.ndarray:
        return (scale * draw.standard_normal(shape)).astype(np.float32)

    def op(name: str, inputs: list[int], output: str, shape: list[int], options: Any = None) -> int:
        made = build.tensor(output, shape)
        build.op(name, inputs, [made], options)
        return made

    def constant(name: str, data: np.ndarray) -> int:
        return build.tensor(name, list(data.shape), str(data.dtype), data=data)

    def reshape(source: int, name: str, shape: list[int]) -> int:
        return op("RESHAPE", [source, constant(f"{name}_shape", np.array(shape, np.int32))], name, shape)

    whole, flat = [1, TOKENS, WIDTH], [TOKENS, WIDTH]
    start = build.tensor("ids", [TOKENS], "int32") if embedded else build.tensor("x", whole)
    x = start
    if embedded:
        x = reshape(op("EMBEDDING_LOOKUP", [start, constant("table", normal(50, WIDTH, scale=1.0))], "rows", flat), "x", whole)
    # Small beside 6, so that its largest channel is an outlier behind a ReLU6 too.
    weights, bias = normal(WIDTH, WIDTH, scale=0.05 if activation == "RELU6" else 0.3), normal(WIDTH, scale=0.1)
    weights[OUTLIER] *= 40
    w1, b1 = constant("w1", weights), constant("b1", bias)
    fused = schema.FullyConnectedOptionsT(keepNumDims=not reshapes, fusedActivationFunction=getattr(kinds, activation))
    entered = reshape(x, "entered", flat) if reshapes else x
    dense = op("FULLY_CONNECTED", [entered, w1, b1], "dense", flat if reshapes else whole, fused)
    if reshapes:
        dense = reshape(dense, "left", whole)
    residual = op("ADD", [dense, x], "residual", whole, schema.AddOptionsT())
    axis, narrow = constant("axis", np.array([2], np.int32)), [1, TOKENS, 1]
    mean = op("MEAN", [residual, axis], "mean", narrow, schema.ReducerOptionsT(keepDims=True))
    squares = op("SQUARED_DIFFERENCE", [residual, mean], "squares", whole, schema.SquaredDifferenceOptionsT())
    variance = op("MEAN", [squares, axis], "variance", narrow, schema.ReducerOptionsT(keepDims=True))
    padded = op("ADD", [variance, constant("epsilon", np.array([1e-5], np.float32))], "padded", narrow, schema.AddOptionsT())
    root = op("RSQRT", [padded], "root", narrow)
    centred = op("SUB", [residual, mean], "centred", whole, schema.SubOptionsT())
    scaled = op("MUL", [centred, root], "scaled", whole, schema.MulOptionsT())
    gamma, beta = (constant(name, 1 + normal(WIDTH, scale=0.1)) for name in ("gamma", "beta"))
    stretched = op("MUL", [scaled, gamma], "stretched", whole, schema.MulOptionsT())
    normed = op("ADD", [stretched, beta], "normed", whole, schema.AddOptionsT())
    query = op("FULLY_CONNECTED", [normed, constant("w2", normal(WIDTH, WIDTH, scale=0.3)), -1], "query", whole, keeping())
    grid = [1, TOKENS, TOKENS]
    products = op("BATCH_MATMUL", [query, normed], "products", grid, schema.BatchMatMulOptionsT(adjY=True))
    half = constant("half", np.array([0.25], np.float32))
    scores = op("MUL", [products, half], "scores", grid, schema.MulOptionsT())
    mask = constant("mask", np.where(np.arange(TOKENS) < TOKENS - 1, 0, -100).astype(np.float32)[None, None])
    masked = op("ADD", [scores, mask], "masked", grid, schema.AddOptionsT())
    shares = op("SOFTMAX", [masked], "shares", grid, schema.SoftmaxOptionsT(beta=1.0))
    mixed = op("BATCH_MATMUL", [shares, normed], "mixed", whole, schema.BatchMatMulOptionsT())
    if shared:
        mixed = op("FULLY_CONNECTED", [mixed, w1, -1], "again", whole, keeping())
    row = reshape(mixed, "row", [1, TOKENS * WIDTH])
    head, zeros = constant("w3", normal(CLASSES, TOKENS * WIDTH, scale=0.2)), constant("b3", normal(CLASSES, scale=0.1))
    logits = op("FULLY_CONNECTED", [row, head, zeros], "logits", [1, CLASSES], schema.FullyConnectedOptionsT())
    build.ends({"ids" if embedded else "x": start}, {"logits": logits}, "serving_default")
    return build


NORMALIZATION = {"residual", "mean", "squares", "variance", "padded", "root", "centred", "scaled", "stretched", "normed"}


def keeping() -> Any:
    return schema.FullyConnectedOptionsT(keepNumDims=True)


def encoder_samples(count: int, *, embedded: bool = False) -> Samples:
    draw = np.random.default_rng(3)
    if embedded:
        return Samples({"ids": draw.integers(0, 50, (count, TOKENS), dtype=np.int32)})
    rows = draw.standard_normal((count, TOKENS, WIDTH)).astype(np.float32)
    return Samples({"x": rows}, task="tabular-classification")


def loud_net(*, bias_shape: tuple[int, ...] = (CLASSES,), scores: bool = False) -> Builder:
    """x (1, 4, 4, 16): DEPTHWISE_CONV_2D `loud`, CONV_2D `quiet`, MEAN, FULLY_CONNECTED `logits` (1, 10).

    `loud_samples` have a first channel a thousand times as large as the others, which `loud` makes as small as they are:
    in int8 its input keeps nothing of the others, and it alone loses what the model tells apart.
    With `scores` there is a first output of that name, which the large channel alone decides: int8 is enough for it.
    """
    draw = np.random.default_rng(0)
    build = Builder()

    def normal(*shape: int, scale: float) -> np.ndarray:
        return (scale * draw.standard_normal(shape)).astype(np.float32)

    kernel = np.ones((1, 1, 1, 16), np.float32)
    kernel[..., 0] = 1e-3
    whole = [1, 4, 4, 16]
    x, loud, quiet = build.tensor("x", whole), build.tensor("loud", whole), build.tensor("quiet", whole)
    depthwise = schema.DepthwiseConv2DOptionsT(strideH=1, strideW=1, depthMultiplier=1, dilationHFactor=1, dilationWFactor=1)
    places = [build.tensor("w1", [1, 1, 1, 16], data=kernel), build.tensor("b1", [16], data=np.zeros(16, np.float32))]
    build.op("DEPTHWISE_CONV_2D", [x, *places], [loud], depthwise)
    filters = [
        build.tensor("w2", [16, 1, 1, 16], data=normal(16, 1, 1, 16, scale=0.3)),
        build.tensor("b2", [16], data=normal(16, scale=0.1)),
    ]
    build.op(
        "CONV_2D", [loud, *filters], [quiet], schema.Conv2DOptionsT(strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1)
    )
    mean, logits = build.tensor("mean", [1, 16]), build.tensor("logits", [1, CLASSES])
    build.op("MEAN", [quiet, build.tensor("axes", [2], "int32", data=np.array([1, 2], np.int32))], [mean], schema.ReducerOptionsT())
    dense = build.tensor("w3", [CLASSES, 16], data=normal(CLASSES, 16, scale=0.8))
    bias = build.tensor("b3", list(bias_shape), data=normal(CLASSES, scale=0.1).reshape(bias_shape))
    build.op("FULLY_CONNECTED", [mean, dense, bias], [logits], schema.FullyConnectedOptionsT())
    ends = {"logits": logits}
    if scores:
        means, first = build.tensor("means", [1, 16]), build.tensor("scores", [1, CLASSES])
        build.op(
            "MEAN", [x, build.tensor("places", [2], "int32", data=np.array([1, 2], np.int32))], [means], schema.ReducerOptionsT()
        )
        each = normal(CLASSES, 16, scale=0.8)
        each[:, 0] = np.linspace(-1, 1, CLASSES)
        weights = build.tensor("w4", [CLASSES, 16], data=each)
        build.op("FULLY_CONNECTED", [means, weights, -1], [first], schema.FullyConnectedOptionsT())
        ends = {"scores": first, **ends}
    build.ends({"x": x}, ends, "serving_default")
    return build


def loud_samples(count: int, seed: int = 4) -> Samples:
    """Rows for `loud_net`, each of a colour of its own; without extremes, so that int8 is enough for all of its ops but one."""
    draw = np.random.default_rng(seed)
    rows = draw.uniform(-1, 1, (count, 1, 1, 16)) + draw.uniform(-0.1, 0.1, (count, 4, 4, 16))
    rows[..., 0] *= 1000
    return Samples({"x": rows.astype(np.float32)}, task="tabular-classification")


def stubborn_net() -> Builder:
    """x (1, 16): FULLY_CONNECTED, EXP, its third power, FULLY_CONNECTED; neither EXP nor POW has an integer form."""
    draw = np.random.default_rng(0)
    build = Builder()
    x, *steps = (build.tensor(name, [1, 16]) for name in ("x", "dense", "exponential", "power", "logits"))
    weights = [build.tensor(f"w{n}", [16, 16], data=(0.1 * draw.standard_normal((16, 16))).astype(np.float32)) for n in (1, 2)]
    build.op("FULLY_CONNECTED", [x, weights[0], -1], [steps[0]], schema.FullyConnectedOptionsT())
    build.op("EXP", [steps[0]], [steps[1]], schema.ExpOptionsT())
    build.op("POW", [steps[1], build.tensor("three", [1], data=np.full(1, 3, np.float32))], [steps[2]], schema.PowOptionsT())
    build.op("FULLY_CONNECTED", [steps[2], weights[1], -1], [steps[3]], schema.FullyConnectedOptionsT())
    build.ends({"x": x}, {"logits": steps[3]}, "serving_default")
    return build


def save(build: Builder, path: Path) -> Path:
    path.write_bytes(build.pack())
    return path


def calibrated(build: Builder, samples: Samples, room: Path) -> Path:
    """`room` with float32.tflite, the folder `rows` of samples, and `calibration` made of them."""
    save(build, room / "float32.tflite")
    samples.save(room / "rows")
    calibrate(room / "float32.tflite", room / "rows", room / "calibration")
    return room


def outputs(path: Path, samples: Samples) -> np.ndarray:
    model = Model(path)
    return np.concatenate([next(iter(model.run(row).values())) for row in samples])


def sqnr_db(found: np.ndarray, reference: np.ndarray) -> float:
    """Signal over noise in dB."""
    return decibels(float(np.square(reference).sum()), float(np.square(found - reference).sum()))


class Inline:
    """In place of a `Worker`: the function runs in the test's own process, where it can be watched and replaced."""

    def run(self, function: Any, *args: Any, **kwargs: Any) -> Outcome[Any]:
        return Outcome(function(*args, **kwargs), 0.0, 0)


def in_turn(tasks: Any) -> list[Any]:
    """In place of `together`."""
    return [task() for task in tasks]
