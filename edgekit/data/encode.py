"""Any kind of rows to samples that fit a model's inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from edgekit.data.arrays import fit_arrays, normalize
from edgekit.data.images import Preprocessing, encode_images, for_input, head_labels
from edgekit.data.samples import Samples
from edgekit.data.sources import ArrayRows, ImageRows, Rows, TextRows
from edgekit.data.text import encode_text
from edgekit.errors import ConfigError, DatasetError
from edgekit.spec import TensorSpec


@dataclass(frozen=True)
class Encoding:
    """What rows are encoded with.

    `tokenizer` is a folder, `label_ids` maps class names to numbers, `classes` is the head's size where known.
    `vocabulary` is how many token ids the model knows, where it takes any. `pairs` says whether it judges pairs of texts,
    where that is known.
    `mean` and `std` are those of real = (stored - mean) / std; None is MobileNet's for images and nothing for arrays.
    """

    tokenizer: Path | None = None
    label_ids: Mapping[str, int] = field(default_factory=dict)
    classes: int | None = None
    vocabulary: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    pairs: bool | None = None


def encode(rows: Rows, inputs: Sequence[TensorSpec], encoding: Encoding, folder: Path) -> Samples:
    """Samples for `inputs`; large arrays are written under `folder`.

    A head of one value (a regression, a sigmoid) chooses no class, so labels are left out for it.
    Raises `DatasetError` if rows of this kind cannot fill these inputs, and what the encoders raise.
    """
    if (encoding.classes or len(encoding.label_ids)) == 1:
        rows = replace(rows, labels=None)
    if isinstance(rows, TextRows):
        lengths = {spec.shape[1] for spec in inputs if len(spec.shape) == 2}
        if len(lengths) != 1 or len(inputs) != sum(len(spec.shape) == 2 for spec in inputs):
            raise DatasetError(f"{rows.origin}: the model takes {_listed(inputs)}, which texts cannot fill; give an .npz file")
        if encoding.tokenizer is None:
            raise DatasetError(f"{rows.origin}: texts need the model's tokenizer; put its tokenizer.json beside the model file")
        if encoding.pairs is not None and encoding.pairs != (rows.pairs is not None):
            wanted, found = ("pairs of texts", "single ones") if encoding.pairs else ("single texts", "pairs")
            raise DatasetError(f"{rows.origin}: the model takes {wanted}, these are {found}; name its columns with --text-column")
        names = [spec.name for spec in inputs]
        return encode_text(rows, encoding.tokenizer, lengths.pop(), names, encoding.label_ids)
    if isinstance(rows, ArrayRows):
        samples = fit_arrays(rows, inputs)
        _check_values(rows, samples, encoding.vocabulary)
        check_labels(rows, encoding.classes or len(encoding.label_ids))
        if encoding.mean is None and encoding.std is None:
            return samples
        return normalize(samples, encoding.mean or (0.0,), encoding.std or (1.0,))
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].shape[3] not in (1, 3):
        raise DatasetError(f"{rows.origin}: the model takes {_listed(inputs)}, which images cannot fill; give an .npz file")
    _, height, width, channels = inputs[0].shape
    usual = Preprocessing()
    told = Preprocessing(encoding.mean or usual.mean, encoding.std or usual.std, usual.crop)
    preprocessing = for_input(inputs[0], told)
    return encode_images(rows, height, width, preprocessing, folder, inputs[0].name, encoding.classes, channels)


def refuse_statistics(rows: Rows | None, mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> None:
    """Raise `ConfigError` if texts were given with what normalizes images and arrays."""
    if isinstance(rows, TextRows) and (mean is not None or std is not None):
        raise ConfigError(f"{rows.origin}: holds texts, which --mean and --std do not normalize; leave them out")


def _check_values(rows: ArrayRows, samples: Samples, vocabulary: int | None) -> None:
    for name, array in samples.inputs.items():
        if array.dtype.kind == "f":
            wrong, what = ~np.isfinite(array), "NaN or infinity"
        elif name == "input_ids" and vocabulary is not None:
            wrong, what = (array < 0) | (array >= vocabulary), f"an id outside the model's {vocabulary}"
        else:
            continue
        if wrong.any():
            index = int(np.argwhere(wrong)[0][0])
            number = rows.numbers[index] if rows.numbers else index
            raise DatasetError(f"{rows.origin}: sample {number} (from 0) has {what} in input {name!r}; mend or remove it")


def check_labels(rows: Rows, classes: int) -> None:
    """Raise `DatasetError` for an image's or array's label outside the head.

    A head of a single value takes any label, one of unknown classes (0) any but a fraction.
    """
    if isinstance(rows, ImageRows):
        head_labels(rows, classes or None)
        return
    if isinstance(rows, TextRows) or rows.labels is None or classes == 1:
        return
    wrong = rows.labels % 1 != 0
    if classes:
        wrong |= (rows.labels < 0) | (rows.labels >= classes)
    outside = np.flatnonzero(wrong)
    if outside.size:
        index = int(outside[0])
        number = rows.numbers[index] if rows.numbers else index
        raise DatasetError(
            f"{rows.origin}: labels outside the head: sample {number} (from 0) has {rows.labels[index]}, "
            f"the head has {classes or 'no known number of'} classes; mend the labels or set --label-column"
        )


def _listed(inputs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {spec.shape}" for spec in inputs) or "no inputs"
