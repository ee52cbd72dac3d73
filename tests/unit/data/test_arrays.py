import numpy as np
import pytest

from edgekit.data.arrays import fit_arrays, normalize
from edgekit.data.samples import Array, Samples
from edgekit.data.sources import ArrayRows
from edgekit.errors import ConfigError, DatasetError
from edgekit.spec import TensorSpec


def array_rows(**arrays: Array) -> ArrayRows:
    return ArrayRows(arrays, None, "data.npz")


def test_by_name_whatever_the_order_and_the_surplus() -> None:
    rows = array_rows(b=np.ones((2, 1), np.float32), a=np.zeros((2, 3), np.int32), extra=np.zeros(2))
    samples = fit_arrays(rows, [TensorSpec("a", (1, 3), "int32"), TensorSpec("b", (-1, 1), "float32")])
    assert {name: array.shape for name, array in samples.inputs.items()} == {"a": (2, 3), "b": (2, 1)}


def test_single_array_goes_to_the_single_input_with_its_labels() -> None:
    rows = ArrayRows({"x": np.zeros((2, 3), np.float32)}, np.array([1, 0]), "data.npz")
    samples = fit_arrays(rows, [TensorSpec("serving_default_input:0", (1, 3), "float32")])
    assert list(samples.inputs) == ["serving_default_input:0"]
    assert samples.labels is not None
    assert samples.labels.tolist() == [1, 0]


def test_trailing_axis_of_one_may_be_missing() -> None:
    samples = fit_arrays(array_rows(x=np.zeros((5, 8, 8), np.float32)), [TensorSpec("x", (1, 8, 8, 1), "float32")])
    assert samples.inputs["x"].shape == (5, 8, 8, 1)


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (np.array([[200]], np.uint8), "float32"),
        (np.array([[0.1]], np.float64), "float32"),
        (np.array([[30521]], np.int64), "int32"),
        (np.array([[7]], np.int32), "int64"),
        (np.array([[1]], np.int64), "bool"),
    ],
)
def test_dtype_changes_where_every_value_keeps_its_meaning(array: Array, dtype: str) -> None:
    fitted = fit_arrays(array_rows(x=array), [TensorSpec("x", (1, 1), dtype)]).inputs["x"]
    assert fitted.dtype.name == dtype
    assert fitted[0, 0] == pytest.approx(array[0, 0])


@pytest.mark.parametrize(
    ("array", "spec", "message"),
    [
        (
            np.zeros((2, 4), np.float32),
            TensorSpec("x", (1, 3), "float32"),
            r"'x' expects float32 \(3,\) per sample but found float32 \(4,\)",
        ),
        (np.zeros((2, 3), np.float32), TensorSpec("x", (1, 3, 2), "float32"), r"\(3, 2\).*\(3,\)"),
        (np.zeros((2, 3), np.float32), TensorSpec("x", (1, 3), "int32"), "expects int32 .* found float32"),
        (np.array([[300]]), TensorSpec("x", (1, 1), "int8"), "values that int8 does not hold"),
        (np.array([[2**24 + 1]]), TensorSpec("x", (1, 1), "float32"), "values that float32 does not hold"),
        (np.array([["text"]]), TensorSpec("x", (1, 1), "float32"), "save numbers"),
        (np.zeros((1, 1), np.uint8), TensorSpec("x", (1, 1), "int8", 0.5, 0), "real float32 values or stored int8"),
    ],
)
def test_what_does_not_fit(array: Array, spec: TensorSpec, message: str) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        fit_arrays(array_rows(x=array), [spec])
    assert str(caught.value).startswith("data.npz: input 'x'")


def test_channels_first_are_moved_for_the_inputs_that_the_source_has_them_in() -> None:
    spec = TensorSpec("x", (1, 4, 5, 3), "float32")
    values = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    last = np.moveaxis(values, 1, -1)
    for array in (values, last):
        assert np.array_equal(fit_arrays(array_rows(x=array), [spec], ["x"]).inputs["x"], last)
    with pytest.raises(DatasetError, match=r"channels last, or \(3, 4, 5\), channels first, .* transpose it"):
        fit_arrays(array_rows(x=values.swapaxes(2, 3)), [spec], ["x"])
    with pytest.raises(DatasetError, match=r"expects float32 \(4, 5, 3\) per sample but .* transpose it"):
        fit_arrays(array_rows(x=values), [spec])
    with pytest.raises(DatasetError, match="give rows of that shape"):
        fit_arrays(array_rows(x=values[:, :, :2]), [spec], ["x"])


def test_missing_input_lists_the_arrays() -> None:
    with pytest.raises(DatasetError, match=r"input 'b' among a, c; name one array after each of a, b"):
        fit_arrays(
            array_rows(a=np.zeros((1, 1)), c=np.zeros((1, 1))),
            [TensorSpec("a", (1, 1), "float64"), TensorSpec("b", (1, 1), "float64")],
        )


def test_quantized_input_takes_stored_or_real_values() -> None:
    spec = TensorSpec("x", (1, 2), "int8", 0.5, 3)
    stored = fit_arrays(array_rows(x=np.array([[3, 5]], np.int8)), [spec]).inputs["x"]
    real = fit_arrays(array_rows(x=np.array([[0.0, 1.0]])), [spec]).inputs["x"]
    assert stored.dtype == real.dtype == np.float32
    assert stored.tolist() == real.tolist() == [[0.0, 1.0]]


def test_normalize_the_float_inputs() -> None:
    samples = Samples({"image": np.full((2, 4, 3), 255.0, np.float32), "ids": np.ones((2, 4), np.int32)}, np.array([0, 1]))
    scaled = normalize(samples, (127.5,), (127.5,))
    assert (scaled.inputs["image"] == 1).all()
    assert scaled.inputs["ids"].dtype == np.int32
    assert scaled.labels is samples.labels
    per_channel = normalize(samples, (255.0, 254.0, 0.0), (1.0, 2.0, 255.0))
    assert per_channel.inputs["image"][0, 0].tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(("mean", "std", "message"), [((0.0, 1.0), (1.0,), "2 means"), ((0.0,), (0.0,), "above 0")])
def test_normalize_refuses_what_does_not_fit(mean: tuple[float, ...], std: tuple[float, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        normalize(Samples({"x": np.zeros((2, 3), np.float32)}), mean, std)
