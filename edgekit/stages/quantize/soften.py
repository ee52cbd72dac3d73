"""Give the attention masks of a float32 .tflite a value that integers can represent."""

from pathlib import Path

import numpy as np

from edgekit.data.samples import Samples
from edgekit.models import attention_masks
from edgekit.stages.quantize.candidates import run_rows
from edgekit.tasks import table as tasks
from edgekit.tasks.base import Outputs
from edgekit.tflite import flatbuffer, schema
from edgekit.tflite.interpreter import Model

# As many as the file is compared on after.
_ROWS = 16


def soften_masks(path: Path, samples_folder: Path) -> float | None:
    """Give the masks of `path`, in place, the smallest value with the same outputs; None if there is none. In a worker child."""
    data = flatbuffer.mapped(path)
    root, start = schema.Model.GetRootAs(data, 0), np.frombuffer(data, np.uint8).ctypes.data
    # Copied, since the file is changed below the mapping.
    masks = {
        values.ctypes.data - start: values.copy()
        for graph in flatbuffer.parse(data, str(path)).subgraphs
        for tensor in graph.tensors
        if tensor.dtype == "float32"
        and tensor.data_bytes
        # Without data in its buffer the constant lies behind the flatbuffer, where only a large weight is put.
        and not isinstance(stored := root.Buffers(tensor.buffer).DataAsNumpy(), int)
        and attention_masks.is_mask(values := stored.view(np.float32))
    }
    if not masks:
        return None
    samples = Samples.load(samples_folder).first(_ROWS)

    def outputs() -> Outputs:
        rows = run_rows([Model(path, threads=1, mapped=True) for _ in range(2)], samples, _ROWS)
        return tasks.find(samples.task).without_padding(rows, samples)

    reference = outputs()

    def run(value: float) -> Outputs:
        _put(path, {place: attention_masks.soften(values, value) for place, values in masks.items()})
        return outputs()

    chosen = attention_masks.choose(run, reference)
    if chosen is None:
        _put(path, masks)
    return chosen


def _put(path: Path, arrays: dict[int, np.ndarray]) -> None:
    """Write each array over what is at its place in the file; nothing else moves."""
    with path.open("r+b") as stream:
        for place, values in arrays.items():
            stream.seek(place)
            stream.write(values.tobytes())
