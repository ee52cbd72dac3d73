"""Weights rounded together: what products read, and smaller errors than rounding one by one on inputs that were not seen."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgekit.data.samples import Samples
from edgekit.stages.quantize import quantizer
from edgekit.stages.quantize.forms import Form
from edgekit.stages.quantize.moments import gather, matrix, unmatrix
from edgekit.stages.quantize.rounding import LEVELS, Rounding, steps_of
from edgekit.tflite import tree
from tests.unit.stages.quantize.models import DEAD, calibrated, conv_net, conv_samples, outputs, sqnr_db
from tests.unit.tflite.conftest import Builder


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    return calibrated(conv_net(), conv_samples(32), tmp_path_factory.mktemp("rounding"))


def correlated(draw: np.random.Generator, groups: int, count: int, size: int, rank: int) -> np.ndarray:
    mixing = draw.standard_normal((groups, rank, size))
    return draw.standard_normal((groups, count, rank)) @ mixing + 0.05 * draw.standard_normal((groups, count, size))


def covariance(vectors: np.ndarray) -> np.ndarray:
    return vectors.transpose(0, 2, 1) @ vectors / vectors.shape[1]


@pytest.mark.parametrize(("groups", "outputs_", "size", "rank"), [(1, 24, 80, 12), (16, 2, 9, 3)])
def test_the_error_on_new_inputs_is_less_than_a_quarter_of_plain_rounding_s(groups, outputs_, size, rank):
    draw = np.random.default_rng(0)
    vectors = correlated(draw, groups, 4000, size, rank)
    seen, new = vectors[:, :3000], vectors[:, 3000:]
    weights = draw.standard_normal((groups, outputs_, size)).astype(np.float32)
    steps = steps_of(weights)
    plain = np.rint(weights / steps[..., None])
    together = Rounding(covariance(seen)).levels(weights, steps)
    error = [((levels * steps[..., None] - weights) @ new.transpose(0, 2, 1)) for levels in (together, plain)]
    assert (error[0] ** 2).mean() < (error[1] ** 2).mean() / 4
    assert np.abs(together).max() <= LEVELS
    # No weight wanders off: the largest of each channel stays the largest step.
    assert np.abs(together - plain).max() <= 8


def test_inputs_that_are_not_correlated_are_rounded_one_by_one():
    weights = np.random.default_rng(1).standard_normal((1, 6, 20)).astype(np.float32)
    steps = steps_of(weights)
    levels = Rounding(np.eye(20)[np.newaxis]).levels(weights, steps)
    np.testing.assert_array_equal(levels, np.rint(weights / steps[..., None]))


def test_steps_are_fitted_to_channels_of_few_weights():
    draw = np.random.default_rng(3)
    seen = covariance(correlated(draw, 32, 400, 9, 3))
    weights = draw.standard_normal((32, 2, 9)).astype(np.float32)
    usual, rounding = steps_of(weights), Rounding(seen)

    def cost(steps: np.ndarray, levels: np.ndarray) -> np.ndarray:
        error = levels * steps[..., None].astype(np.float64) - weights
        return np.einsum("goi,gij,goj->go", error, seen, error)

    steps, levels = rounding.fitted(weights, usual)
    before, after = cost(usual, rounding.levels(weights, usual)), cost(steps, levels)
    assert (after <= before + 1e-12).all()
    assert after.sum() < before.sum() / 2
    assert ((steps >= usual) & (steps <= 1.25 * usual)).all()
    many = draw.standard_normal((1, 3, 200)).astype(np.float32)
    np.testing.assert_array_equal(Rounding(np.eye(200)[None]).fitted(many, steps_of(many))[0], steps_of(many))


def test_channels_and_inputs_without_any_value_are_no_trouble():
    weights = np.random.default_rng(2).standard_normal((2, 3, 5)).astype(np.float32)
    weights[0, 1] = 0
    steps = steps_of(weights)
    levels = Rounding(np.zeros((2, 5, 5))).levels(weights, steps)
    assert not levels[0, 1].any()
    np.testing.assert_array_equal(levels[1], np.rint(weights[1] / steps[1][:, None]))


@pytest.mark.parametrize(
    ("name", "shape", "groups"),
    [("FULLY_CONNECTED", (4, 6), 1), ("CONV_2D", (4, 3, 2, 5), 1), ("DEPTHWISE_CONV_2D", (1, 3, 2, 8), 4)],
)
def test_weights_come_back_from_their_matrix(name, shape, groups):
    weights = np.arange(np.prod(shape)).reshape(shape)
    np.testing.assert_array_equal(unmatrix(name, matrix(name, weights, groups), shape), weights)


def conv(kind: str, size: int, stride: int, dilation: int, padding: int) -> Builder:
    """x (1, 6, 7, 3) through one convolution with a bias of zeros."""
    draw, build = np.random.default_rng(3), Builder()
    x = build.tensor("x", [1, 6, 7, 3])
    shape = [4, size, size, 3] if kind == "CONV_2D" else [1, size, size, 6]
    options = (schema.Conv2DOptionsT if kind == "CONV_2D" else schema.DepthwiseConv2DOptionsT)()
    options.padding, options.strideH, options.strideW = padding, stride, stride
    options.dilationHFactor = options.dilationWFactor = dilation
    if kind != "CONV_2D":
        options.depthMultiplier = 2
    reach = (size - 1) * dilation
    sides = [-(-(side if padding == schema.Padding.SAME else side - reach) // stride) for side in (6, 7)]
    channels = 4 if kind == "CONV_2D" else 6
    out, bias = build.tensor("out", [1, *sides, channels]), build.tensor("b", [channels], data=np.zeros(channels, np.float32))
    weights = build.tensor("w", shape, data=draw.standard_normal(shape).astype(np.float32))
    build.op(kind, [x, weights, bias], [out], options)
    build.ends({"x": x}, {"out": out}, "serving_default")
    return build


# The runtime has no kernel for stride and dilation together.
GEOMETRIES = [
    (kind, size, stride, dilation, padding)
    for kind in ("CONV_2D", "DEPTHWISE_CONV_2D")
    for size, stride, dilation in ((1, 1, 1), (1, 2, 1), (3, 1, 1), (3, 2, 1), (3, 1, 2))
    for padding in (schema.Padding.SAME, schema.Padding.VALID)
]


@pytest.mark.parametrize(("kind", "size", "stride", "dilation", "padding"), GEOMETRIES)
def test_moments_foretell_what_a_convolution_gives(tmp_path, kind, size, stride, dilation, padding):
    """Mean and variance of its outputs follow from those of what it reads: every window is where the kernel has it."""
    model = conv(kind, size, stride, dilation, padding).pack()
    (tmp_path / "m.tflite").write_bytes(model)
    samples = Samples({"x": np.random.default_rng(4).random((20, 6, 7, 3), np.float32)}, None)
    (moments,) = gather(model, samples).values()
    assert moments.covariance is not None
    name, weights = quantizer.product_weights(model)["out"]
    real = matrix(name, weights, len(moments.mean)).astype(np.float64)
    found = outputs(tmp_path / "m.tflite", samples).reshape(-1, real.shape[0] * real.shape[1])
    np.testing.assert_allclose(np.einsum("goi,gi->go", real, moments.mean).ravel(), found.mean(axis=0), atol=1e-4)
    variances = np.einsum("goi,gij,goj->go", real, moments.covariance, real).ravel()
    np.testing.assert_allclose(variances, found.var(axis=0), rtol=1e-2, atol=1e-4)


def test_padding_tokens_do_not_count():
    build = Builder()
    x, mask = build.tensor("x", [1, 4, 2]), build.tensor("attention_mask", [1, 4], "int32")
    out = build.tensor("out", [1, 4, 2])
    weights = build.tensor("w", [2, 2], data=np.eye(2, dtype=np.float32))
    build.op("FULLY_CONNECTED", [x, weights, -1], [out], schema.FullyConnectedOptionsT(keepNumDims=True))
    build.ends({"x": x, "attention_mask": mask}, {"out": out}, "serving_default")
    values = np.ones((12, 4, 2), np.float32)
    values[:, 2:] = 100
    samples = Samples({"x": values, "attention_mask": np.tile(np.array([1, 1, 0, 0], np.int32), (12, 1))}, None)
    (moments,) = gather(build.pack(), samples).values()
    assert moments.covariance is not None
    np.testing.assert_allclose(moments.mean, [[1, 1]])
    np.testing.assert_allclose(moments.covariance, [[[1, 1], [1, 1]]], err_msg="without a bias it is taken around zero")


@pytest.mark.parametrize("bits", [8, 16])
def test_a_file_holds_the_levels_and_only_where_its_steps_are_the_same(room, tmp_path, bits):
    _, products = pickle.loads((room / "calibration").read_bytes())
    target = tmp_path / "m.tflite"
    quantizer.write_integer(room / "float32.tflite", room / "calibration", target, Form("every op", bits))
    root = tree.load(target.read_bytes())
    assert root is not None
    tensors = {tensor.name.decode(): tensor for tensor in root.subgraphs[0].tensors}

    def stored(name: str) -> np.ndarray:
        return np.asarray(root.buffers[tensors[name].buffer].data).view(np.int8).reshape(tensors[name].shape)

    np.testing.assert_array_equal(matrix("DEPTHWISE_CONV_2D", stored("w2"), 16), products["second"].levels)
    given, weights, bias = (np.asarray(tensors[name].quantization.scale) for name in ("first", "w2", "b2"))
    np.testing.assert_array_equal(weights, products["second"].steps.reshape(-1))
    np.testing.assert_allclose(bias, given * weights, rtol=1e-6)
    first = matrix("CONV_2D", stored("w1"), 1)
    np.testing.assert_array_equal(np.delete(first, DEAD, 1), np.delete(products["first"].levels, DEAD, 1))
    assert not first[0, DEAD].any()


def test_inputs_that_hardly_vary_are_no_trouble(tmp_path):
    """Their squares around zero are all but equal to the square of their mean."""
    room = calibrated(conv_net(), Samples({"x": np.full((24, 8, 8, 3), 1000.0, np.float32)}, None), tmp_path)
    _, products = pickle.loads((room / "calibration").read_bytes())
    assert set(products) == {"first", "second", "logits"}
    assert all(np.isfinite(product.mean).all() for product in products.values())


def test_rows_are_taken_from_all_of_a_sorted_set():
    values = np.repeat(np.arange(300, dtype=np.float32), 2).reshape(300, 1, 2)
    build = Builder()
    x, out = build.tensor("x", [1, 1, 2]), build.tensor("out", [1, 1, 2])
    weights = build.tensor("w", [2, 2], data=np.eye(2, dtype=np.float32))
    build.op("FULLY_CONNECTED", [x, weights, -1], [out], schema.FullyConnectedOptionsT(keepNumDims=True))
    build.ends({"x": x}, {"out": out}, "serving_default")
    (moments,) = gather(build.pack(), Samples({"x": values}, None)).values()
    np.testing.assert_allclose(moments.mean, 149.5, rtol=0.01)


def smooth(count: int, seed: int) -> Samples:
    """Images as cameras see them: neighbouring pixels are alike."""
    coarse = np.random.default_rng(seed).random((count, 3, 3, 3), np.float32)
    return Samples({"x": coarse.repeat(3, axis=1).repeat(3, axis=2)[:, :8, :8]}, None)


def test_int16_files_come_closer_to_float32(tmp_path):
    """With int16 activations what is left is the weights' error."""
    room = calibrated(conv_net(), smooth(64, 10), tmp_path)
    ranges, products = pickle.loads((room / "calibration").read_bytes())
    plain = {output: replace(product, levels=None) for output, product in products.items()}
    (room / "plain").write_bytes(pickle.dumps((ranges, plain)))
    new, found = smooth(64, 11), {}
    for name in ("calibration", "plain"):
        path = room / f"{name}.tflite"
        quantizer.write_integer(room / "float32.tflite", room / name, path, Form("every op", 16))
        found[name] = sqnr_db(outputs(path, new), outputs(room / "float32.tflite", new))
    assert found["calibration"] > found["plain"] + 1
