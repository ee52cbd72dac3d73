"""Any kind of rows to samples that fit a model's inputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.data.arrays import fit_arrays, normalize
from edgekit.data.images import Preprocessing, encode_images, for_input
from edgekit.data.samples import Samples
from edgekit.data.sources import ArrayRows, Rows, TextRows
from edgekit.data.text import FIELDS, encode_text
from edgekit.errors import ConfigError, DatasetError
from edgekit.spec import TensorSpec


@dataclass(frozen=True)
class Encoding:
    """What rows are encoded with.

    `tokenizer` is a folder, `classes` is the size of the first output's last axis where known. `vocabulary` is how many token ids
    the model knows, where it takes any. `pairs` says whether it judges pairs of texts, where that is known. `mean` and `std` are
    those of real = (stored - mean) / std; None is MobileNet's for images and nothing for arrays, and so is it where they are those
    `of_images` alone, as in TFLite Metadata. Arrays for the inputs in `channels_first` may have their channels on axis 1, where the
    model's source has them."""

    tokenizer: Path | None = None
    classes: int | None = None
    vocabulary: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    pairs: bool | None = None
    channels_first: tuple[str, ...] = ()
    of_images: bool = False


def feed(rows: Rows, inputs: Sequence[TensorSpec], encoding: Encoding, folder: Path) -> Samples:
    """Samples for `inputs` without labels; large arrays are written under `folder`.

    Raises `DatasetError` if rows of this kind cannot fill these inputs, and what the encoders raise."""
    refuse_statistics(rows, encoding.mean, encoding.std)
    if isinstance(rows, TextRows):
        length = token_length(rows, inputs, encoding)
        return encode_text(rows, encoding.tokenizer or Path(), length, [spec.name for spec in inputs])
    if isinstance(rows, ArrayRows):
        samples = fit_arrays(rows, inputs, encoding.channels_first)
        _check_values(rows, samples, encoding.vocabulary)
        scales = not encoding.of_images and (encoding.mean is not None or encoding.std is not None)
        return normalize(samples, encoding.mean or (0.0,), encoding.std or (1.0,)) if scales else samples
    if not is_image(inputs):
        raise DatasetError(f"{rows.origin}: the model takes {_listed(inputs)}, which images cannot fill; give an .npz file")
    usual = Preprocessing()
    preprocessing = for_input(inputs[0], Preprocessing(encoding.mean or usual.mean, encoding.std or usual.std))
    return encode_images(rows, inputs[0], preprocessing, folder)


def is_text(inputs: Sequence[TensorSpec]) -> bool:
    """Whether a tokenizer fills all `inputs`."""
    names = {spec.name for spec in inputs if len(spec.shape) == 2}
    return "input_ids" in names and names <= FIELDS.keys() and len(names) == len(inputs)


def is_image(inputs: Sequence[TensorSpec]) -> bool:
    """Whether an image, grey or RGB with its channels last, is the one input."""
    return len(inputs) == 1 and len(inputs[0].shape) == 4 and inputs[0].shape[3] in (1, 3)


def token_length(rows: TextRows, inputs: Sequence[TensorSpec], encoding: Encoding) -> int:
    """How many tokens the inputs hold. Raises `DatasetError` where texts cannot fill them, or there is no tokenizer."""
    lengths = {spec.shape[1] for spec in inputs if len(spec.shape) == 2}
    if len(lengths) != 1 or len(inputs) != sum(len(spec.shape) == 2 for spec in inputs):
        raise DatasetError(f"{rows.origin}: the model takes {_listed(inputs)}, which texts cannot fill; give an .npz file")
    if encoding.tokenizer is None:
        raise DatasetError(f"{rows.origin}: texts need the model's tokenizer; put its tokenizer.json beside the model file")
    if encoding.pairs is not None and encoding.pairs != (rows.pairs is not None):
        kinds = "pairs of texts, these are single ones" if encoding.pairs else "single texts, these are pairs"
        raise DatasetError(f"{rows.origin}: the model takes {kinds}; name its columns with --text-column")
    if unknown := [spec.name for spec in inputs if spec.name not in FIELDS]:
        raise DatasetError(
            f"{rows.origin}: text cannot fill the model's input {unknown[0]!r}, only {', '.join(FIELDS)}; give an .npz file"
        )
    return lengths.pop()


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
            raise DatasetError(
                f"{rows.origin}: sample {rows.number(index)} (from 0) has {what} in input {name!r}; mend or remove it"
            )


def _listed(inputs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {spec.shape}" for spec in inputs) or "no inputs"
