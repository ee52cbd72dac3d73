"""Give the attention masks of a float32 .tflite a value that integers can represent."""

from pathlib import Path

import numpy as np

from edgekit.data.samples import Samples
from edgekit.models import attention_masks
from edgekit.tflite import flatbuffer
from edgekit.tflite.interpreter import Model

_ROWS = 4


def soften_masks(path: Path, samples_folder: Path) -> float | None:
    """Replace minus infinity in the masks of `path`, in place, by the smallest value that gives the same outputs.

    Returns that value, or None where there is no mask or no value does. In a worker child.
    """
    from ai_edge_litert import schema_py_generated as schema

    data = flatbuffer.mapped(path)
    root, start = schema.Model.GetRootAs(data, 0), np.frombuffer(data, np.uint8).ctypes.data
    # Copied, since the file is changed below the mapping.
    found = {
        values.ctypes.data - start: values.copy()
        for graph in flatbuffer.parse(data, str(path)).subgraphs
        for tensor in graph.tensors
        if tensor.dtype == "float32"
        and tensor.data_bytes
        # Without data in its buffer the constant lies behind the flatbuffer, where only a large weight is put.
        and not isinstance(stored := root.Buffers(tensor.buffer).DataAsNumpy(), int)
        and attention_masks.is_mask(values := stored.view(np.float32))
    }
    if not found:
        return None
    samples = Samples.load(samples_folder)
    rows = [dict(row) for _, row in zip(range(_ROWS), samples, strict=False)]
    reference = _outputs(path, rows)

    def run(value: float) -> np.ndarray:
        _put(path, {place: attention_masks.soften(values, value) for place, values in found.items()})
        return _outputs(path, rows)

    chosen = attention_masks.choose(run, reference)
    if chosen is None:
        _put(path, found)
    return chosen


def _put(path: Path, arrays: dict[int, np.ndarray]) -> None:
    """Write each array over what is at its place in the file; nothing else moves."""
    with path.open("r+b") as stream:
        for place, values in arrays.items():
            stream.seek(place)
            stream.write(values.tobytes())


def _outputs(path: Path, rows: list[dict[str, np.ndarray]]) -> np.ndarray:
    model = Model(path, mapped=True)
    return np.concatenate([next(iter(model.run(row).values())) for row in rows])
