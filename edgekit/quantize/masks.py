"""Give the attention masks of a float32 .tflite a value that integers can represent."""

from pathlib import Path

import numpy as np

from edgekit import masks
from edgekit.data.samples import Samples
from edgekit.tflite import flatbuffer
from edgekit.tflite.interpreter import Model

_ROWS = 8


def soften_masks(path: Path, samples_folder: Path) -> float | None:
    """Replace minus infinity in the masks of `path`, in place, by the smallest value that gives the same outputs.

    Returns that value, or None where there is no mask or no value does. In a worker child.
    """
    from ai_edge_litert import schema_py_generated as schema

    data = bytearray(path.read_bytes())
    root = schema.Model.GetRootAs(data, 0)
    # Views into `data`: the new value takes the old one's place, and nothing else moves.
    views = [
        values
        for graph in flatbuffer.parse(bytes(data), str(path)).subgraphs
        for tensor in graph.tensors
        if tensor.dtype == "float32"
        and tensor.data_bytes
        # Without data in its buffer the constant lies behind the flatbuffer, where only a large weight is put.
        and not isinstance(stored := root.Buffers(tensor.buffer).DataAsNumpy(), int)
        and masks.is_mask(values := stored.view(np.float32))
    ]
    if not views:
        return None
    samples = Samples.load(samples_folder)
    rows = [dict(row) for _, row in zip(range(_ROWS), samples, strict=False)]
    reference = _outputs(path, rows)
    originals = [view.copy() for view in views]
    trial = path.with_suffix(".mask.tflite")

    def run(value: float) -> np.ndarray:
        for view, original in zip(views, originals, strict=True):
            view[...] = masks.soften(original, value)
        trial.write_bytes(data)
        return _outputs(trial, rows)

    chosen = masks.choose(run, reference)
    if chosen is not None:
        trial.replace(path)
    trial.unlink(missing_ok=True)
    return chosen


def _outputs(path: Path, rows: list[dict[str, np.ndarray]]) -> np.ndarray:
    model = Model(path)
    return np.concatenate([next(iter(model.run(row).values())) for row in rows])
