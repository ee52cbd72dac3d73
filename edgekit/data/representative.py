"""The data that calibration sees: drawn with a seed, and validated before anything costly starts."""

from collections.abc import Sequence, Sized
from dataclasses import replace

import numpy as np

from edgekit.data.arrays import shape_fits, shape_text
from edgekit.data.samples import Array, Samples, chunk_rows, real_dtype, row_shape
from edgekit.errors import CalibrationError
from edgekit.spec import TensorSpec

COUNT = 200
MINIMUM = 10


def representative(samples: Samples, inputs: Sequence[TensorSpec], *, minimum: int = MINIMUM) -> Samples:
    """`samples`, if they fit `inputs` in name, shape and dtype and are finite and not constant; integers in the input's width.

    Constant is judged by dtype. A float input must change from sample to sample and, unless it is one number, not be of one
    value within every sample: its range would say nothing. An integer or bool input may be the same throughout, as masks
    and segments are, as long as some input of the set changes. Raises `CalibrationError` naming the input and, where
    there is one, the sample's index."""
    if len(samples) == 0:
        raise CalibrationError("representative data is empty; give some hundred samples of what the model will see")
    if len(samples) < minimum:
        raise CalibrationError(
            f"representative data has {len(samples)} samples, too few to calibrate with; give at least {minimum}"
        )
    names = {spec.name for spec in inputs}
    if missing := [spec.name for spec in inputs if spec.name not in samples.inputs]:
        raise CalibrationError(f"representative data lacks the input {missing[0]!r}; it has {', '.join(samples.inputs)}")
    if surplus := [name for name in samples.inputs if name not in names]:
        raise CalibrationError(
            f"representative data has {surplus[0]!r}, which is none of the model's inputs: {', '.join(sorted(names))}"
        )
    arrays = {spec.name: _checked(samples.inputs[spec.name], spec) for spec in inputs}
    if len(samples) > 1 and not any(map(_varies_between, arrays.values())):
        raise CalibrationError(f"representative data is constant: all {len(samples)} samples are the same; give different ones")
    for name, array in arrays.items():
        if array.dtype.kind == "f":
            _refuse_constant(name, array)
    return replace(samples, inputs=arrays)


def draw(rows: Sized | int, count: int = COUNT, seed: int = 0) -> Array:
    """Sorted, unique indices of `count` rows (all of them if there are fewer); the same seed draws the same rows."""
    total = rows if isinstance(rows, int) else len(rows)
    if count >= total:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed).choice(total, count, replace=False))


def _checked(array: Array, spec: TensorSpec) -> Array:
    if not shape_fits(array.shape, spec):
        raise CalibrationError(
            f"representative data: input {spec.name!r} needs the shape {shape_text(row_shape(spec))} "
            f"per sample but has {array.shape[1:]}; give rows of that shape"
        )
    target = real_dtype(spec)
    same_kind = array.dtype.kind == target.kind or {array.dtype.kind, target.kind} == {"i", "u"}
    if not same_kind or target.kind not in "biuf":
        raise CalibrationError(
            f"representative data: input {spec.name!r} needs {target.name} but has {array.dtype}; "
            + ("normalize it to real values" if target.kind == "f" else f"convert it to {target.name}")
        )
    if target.kind == "f":
        for start, rows in chunk_rows(array):
            finite = np.isfinite(rows).reshape(len(rows), -1).all(axis=1)
            if not finite.all():
                index = start + int(np.argmin(finite))
                raise CalibrationError(
                    f"representative data: sample {index} (from 0) has NaN or infinity in input {spec.name!r}; remove it"
                )
        return array
    if array.dtype == target:
        return array
    converted = array.astype(target)
    if (differs := (converted.astype(array.dtype) != array).reshape(len(array), -1).any(axis=1)).any():
        index = int(np.argmax(differs))
        raise CalibrationError(
            f"representative data: sample {index} (from 0) has a value "
            f"in input {spec.name!r} that {target.name} does not hold; mend it"
        )
    return converted


def _varies_between(array: Array) -> bool:
    return any(bool((rows != array[:1]).any()) for _, rows in chunk_rows(array))


def _refuse_constant(name: str, array: Array) -> None:
    if len(array) > 1 and not _varies_between(array):
        raise CalibrationError(
            f"representative data: input {name!r} is constant, the same in all {len(array)} samples; give different ones"
        )
    flat = (rows.reshape(len(rows), -1) for _, rows in chunk_rows(array))
    if array[0].size > 1 and not any((rows != rows[:, :1]).any() for rows in flat):
        raise CalibrationError(
            f"representative data: input {name!r} is constant, one value throughout each of its {len(array)} samples; "
            "give real ones"
        )
