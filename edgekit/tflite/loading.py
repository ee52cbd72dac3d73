"""Any .tflite as something that runs: by its one signature, or by the one of several lengths or batch sizes that fits."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from edgekit.tflite import flatbuffer
from edgekit.tflite.batches import BatchesModel, by_batch
from edgekit.tflite.flatbuffer import ModelFile
from edgekit.tflite.interpreter import Model
from edgekit.tflite.lengths import LengthsModel, by_length

AnyModel = Model | LengthsModel | BatchesModel


def load(path: Path, *, threads: int = 2, delegate: bool = True) -> AnyModel:
    """The file at `path`; of several lengths or batch sizes it chooses one for each run. Raises as `Model` does."""
    model = Model(path, threads=threads, delegate=delegate)
    return _several(model.file, path, lambda: model) or model


def load_lazily(path: Path, *, threads: int = 2) -> AnyModel:
    """As `load`, for a file that may be needed for one row alone: it is mapped, and of several signatures one is prepared first."""
    file = flatbuffer.read(path)
    whole = partial(Model, path, threads=threads, mapped=True, file=file)
    one = partial(Model, path, threads=threads, alone=True, file=file)
    return _several(file, path, whole, one) or whole()


def _several(
    file: ModelFile, path: Path, whole: Callable[[], Model], one: Callable[..., Model] | None = None
) -> LengthsModel | BatchesModel | None:
    """See `SeveralModel`; None for a file of one size."""
    if entries := by_length(file):
        return LengthsModel(file, path, entries, max(entries), whole, one)
    if entries := by_batch(file):
        return BatchesModel(file, path, entries, min(entries), whole, one)
    return None
