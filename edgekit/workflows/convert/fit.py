"""Whether arrays fit the inputs of a source, told before anything is converted."""

import contextlib
from collections.abc import Sequence

import numpy as np

from edgekit.data import sources
from edgekit.data.arrays import fit_arrays
from edgekit.data.sources import ArrayRows, Rows
from edgekit.errors import DatasetError, ModelFormatError
from edgekit.models.source import Kind, Source
from edgekit.workflows.convert.config import ConvertConfig
from edgekit.workflows.inspect import SourceInput, inputs_of


def check_rows(source: Source, config: ConvertConfig, rows: Rows | None) -> None:
    """Raise what encoding arrays for the source's inputs would, before anything is converted."""
    if not isinstance(rows, ArrayRows) or source.kind in (Kind.CHECKPOINT, Kind.TFLITE):
        return
    # What is wrong with the model itself the conversion tells.
    with contextlib.suppress(ModelFormatError):
        every = inputs_of(source.kind, source.path, config.max_length, config.input_shapes)
        inputs = [item for item in every if item.name not in config.input_values]
        if specs := [item.converted for item in inputs if item.converted is not None]:
            one = sources.take(rows, np.arange(min(1, len(rows))))
            check_length(one, [item.name for item in inputs if _has_free_length(item, config)], config.max_length)
            fit_arrays(one, specs, [item.name for item in inputs if item.channels_last])


def _has_free_length(item: SourceInput, config: ConvertConfig) -> bool:
    """Whether --max-length says how many tokens a row has."""
    shape = item.shape or ()
    return len(shape) == 2 and not isinstance(shape[1], int) and "int" in item.dtype and item.name not in config.input_shapes


def check_length(rows: ArrayRows, names: Sequence[str], length: int) -> None:
    """Raise `DatasetError` if arrays of the inputs `names`, whose length was free, have rows of another one."""
    for name in names:
        if (array := rows.arrays.get(name)) is not None and array.ndim == 2 and array.shape[1] != length:
            found = array.shape[1]
            raise DatasetError(
                f"{rows.origin}: input {name!r} has {found} tokens a row, and the model's free length was fixed to {length}; "
                f"give --max-length {found}"
            )
