"""Plain arrays, fitted to the inputs of a model."""

from collections.abc import Collection, Sequence

import numpy as np

from edgekit.data.samples import Array, Samples, real_dtype, row_shape
from edgekit.data.sources import ArrayRows, feeding
from edgekit.errors import ConfigError, DatasetError
from edgekit.spec import TensorSpec


def fit_arrays(rows: ArrayRows, inputs: Sequence[TensorSpec], channels_first: Collection[str] = ()) -> Samples:
    """Match arrays to `inputs` by name, or a single array to a single input, and bring them to the inputs' shape and dtype.

    A trailing axis of 1 may be missing. Arrays of the inputs in `channels_first`, whose channels the model's source has on axis 1,
    may have them there, too. A dtype may change where every value keeps its meaning: floats among themselves, integers
    to wider ones or to narrower ones that hold all their values, integers to floats that hold them exactly. For a quantized input
    the result is real float32: an array in the input's own integer dtype holds stored values and becomes (stored - zero_point) *
    scale, floats are taken as real. Raises `DatasetError` naming the input, what it expects and what was found."""
    rows = feeding(rows, inputs)
    arrays = dict(rows.arrays)
    if len(arrays) == 1 and len(inputs) == 1:
        arrays = {inputs[0].name: next(iter(rows.arrays.values()))}
    if missing := [spec.name for spec in inputs if spec.name not in arrays]:
        raise DatasetError(
            f"{rows.origin}: no array for the model's input {missing[0]!r} among {', '.join(rows.arrays)}; "
            f"name one array after each of {', '.join(spec.name for spec in inputs)}"
        )
    fitted = {spec.name: _fit(arrays[spec.name], spec, rows.origin, spec.name in channels_first) for spec in inputs}
    return Samples(fitted, rows.labels)


def normalize(samples: Samples, mean: Sequence[float], std: Sequence[float]) -> Samples:
    """(value - mean) / std in float32, along the last axis, for every float input.

    Raises `ConfigError` for statistics that are neither one value nor one per channel."""
    if not all(value > 0 for value in std):
        raise ConfigError("std must be above 0 in every channel; the usual values are 127.5 or 255")
    inputs = dict(samples.inputs)
    for name in [name for name, array in inputs.items() if array.dtype.kind == "f"]:
        last = inputs[name].shape[-1]
        if {len(mean), len(std)} - {1, last}:
            raise ConfigError(
                f"input {name}: {len(mean)} means and {len(std)} stds for {last} channels; give one of each, or one per channel"
            )
        inputs[name] = (inputs[name].astype(np.float32) - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return Samples(inputs, samples.labels)


def _fit(array: Array, spec: TensorSpec, origin: str, channels_first: bool) -> Array:
    shape = row_shape(spec)
    expected = f"{spec.dtype} {shape_text(shape)} per sample"
    if channels_first:
        expected += f", channels last, or {shape_text((*shape[-1:], *shape[:-1]))}, channels first,"
    refusal = f"{origin}: input {spec.name!r} expects {expected} but found {array.dtype} {array.shape[1:]}"
    if array.ndim == len(shape) and shape and shape[-1] in (1, -1) and shape_fits((*array.shape, 1), spec):
        array = array[..., np.newaxis]
    if not shape_fits(array.shape, spec) and channels_first and array.ndim > 1:
        moved = np.moveaxis(array, 1, -1)
        array = moved if shape_fits(moved.shape, spec) else array
    if not shape_fits(array.shape, spec):
        reordered = sorted(array.shape[1:]) == sorted(shape)
        remedy = "its axes are in another order, transpose it" if reordered else "give rows of that shape"
        raise DatasetError(f"{refusal}; {remedy}")
    if array.dtype.kind not in "biuf":
        raise DatasetError(f"{refusal}; save numbers")
    target = real_dtype(spec)
    if spec.scale and array.dtype.kind != "f":
        if array.dtype != np.dtype(spec.dtype):
            raise DatasetError(f"{refusal}; give real float32 values or stored {spec.dtype} ones")
        return (array.astype(np.float32) - np.float32(spec.zero_point or 0)) * np.float32(spec.scale)
    if array.dtype == target:
        return array
    if array.dtype.kind == "f" and target.kind != "f":
        raise DatasetError(f"{refusal}; convert it to {spec.dtype}")
    converted = array.astype(target)
    if array.dtype.kind != "f" and not np.array_equal(converted.astype(array.dtype), array):
        raise DatasetError(f"{refusal}, with values that {spec.dtype} does not hold; convert it")
    return converted


def shape_fits(shape: Sequence[int], spec: TensorSpec) -> bool:
    """Whether an array (N, ...) has the axes of the input's samples after the first, free ones aside."""
    wanted = row_shape(spec)
    return len(shape) - 1 == len(wanted) and all(size in (-1, found) for size, found in zip(wanted, shape[1:], strict=True))


def shape_text(shape: Sequence[int]) -> str:
    """The shape of one sample, free axes as `?`."""
    sizes = ["?" if size < 0 else str(size) for size in shape]
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"
