"""Any kind of rows to samples that fit a model's inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.data.arrays import fit_arrays, normalize
from edgekit.data.images import Preprocessing, encode_images
from edgekit.data.samples import Samples
from edgekit.data.sources import ArrayRows, Rows, TextRows
from edgekit.data.text import encode_text
from edgekit.errors import DatasetError
from edgekit.spec import TensorSpec


@dataclass(frozen=True)
class Encoding:
    """What rows are encoded with.

    `tokenizer` is a folder, `label_ids` maps class names to numbers, `classes` is the head's size where known.
    `mean` and `std` are those of real = (stored - mean) / std; None is MobileNet's for images and nothing for arrays.
    """

    tokenizer: Path | None = None
    label_ids: Mapping[str, int] = field(default_factory=dict)
    classes: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def encode(rows: Rows, inputs: Sequence[TensorSpec], encoding: Encoding, folder: Path) -> Samples:
    """Samples for `inputs`; large arrays are written under `folder`.

    Raises `DatasetError` if rows of this kind cannot fill these inputs, and what the encoders raise.
    """
    if isinstance(rows, TextRows):
        if encoding.tokenizer is None:
            raise DatasetError(f"{rows.origin}: texts need the model's tokenizer; give its folder with --tokenizer")
        lengths = {spec.shape[1] for spec in inputs if len(spec.shape) == 2}
        if len(lengths) != 1 or len(inputs) != sum(len(spec.shape) == 2 for spec in inputs):
            raise DatasetError(f"{rows.origin}: the model takes {_listed(inputs)}, which texts cannot fill; give an .npz file")
        names = [spec.name for spec in inputs]
        return encode_text(rows, encoding.tokenizer, lengths.pop(), names, encoding.label_ids)
    if isinstance(rows, ArrayRows):
        samples = fit_arrays(rows, inputs)
        if encoding.mean is None and encoding.std is None:
            return samples
        return normalize(samples, encoding.mean or (0.0,), encoding.std or (1.0,))
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].shape[3] not in (1, 3):
        raise DatasetError(f"{rows.origin}: the model takes {_listed(inputs)}, which images cannot fill; give an .npz file")
    _, height, width, channels = inputs[0].shape
    usual = Preprocessing()
    preprocessing = Preprocessing(encoding.mean or usual.mean, encoding.std or usual.std, usual.crop)
    return encode_images(rows, height, width, preprocessing, folder, inputs[0].name, encoding.classes, channels)


def _listed(inputs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {spec.shape}" for spec in inputs) or "no inputs"
