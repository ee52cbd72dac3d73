"""Run a float32 .tflite with every tensor readable, as calibration needs it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from edgekit.data.samples import as_fed
from edgekit.spec import MASK
from edgekit.tflite import flatbuffer
from edgekit.tflite.interpreter import filled


class Tensors:
    """Runs a model, which takes `batch` rows, and gives the values of the tensors at `indices` of the entry's subgraph."""

    def __init__(self, model: bytes, entry: flatbuffer.Entry, indices: Sequence[int]) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.indices = indices
        self._entry = entry
        self._interpreter = Interpreter(model_content=model, experimental_preserve_all_tensors=True, num_threads=1)
        self._runtime: Any = self._interpreter._interpreter
        self._shapes: dict[str, tuple[int, ...]] = {}
        file = flatbuffer.parse(model, "model")
        signature = file.signature(entry)
        self.batch, self._ranks = signature.batch, {spec.name: len(spec.shape) for spec in signature.inputs}

    def run(self, row: Mapping[str, np.ndarray]) -> Callable[[int], np.ndarray]:
        """Run one row, or copies of it where the model takes several.

        What comes back gives a tensor's values by its index, until the next run."""
        subgraph = self._entry.subgraph
        fed = {name: as_fed(np.asarray(row[name]), self._ranks[name]) for name in self._entry.inputs}
        if self.batch > 1:
            fed = {name: filled(values, self.batch) for name, values in fed.items()}
        shapes = {name: values.shape for name, values in fed.items()}
        if shapes != self._shapes:
            for name, index in self._entry.inputs.items():
                self._runtime.ResizeInputTensor(index, np.array(fed[name].shape, np.int32), False, subgraph)
            self._runtime.AllocateTensors(subgraph)
            self._shapes = shapes
        # What recurrent ops keep of an earlier row is gone.
        self._runtime.ResetVariableTensors()
        for name, index in self._entry.inputs.items():
            self._runtime.SetTensor(index, fed[name], subgraph)
        self._runtime.Invoke(subgraph)
        return lambda index: self._runtime.GetTensor(index, subgraph)


def token_mask(row: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Which positions of a row are tokens, None where it says nothing of padding."""
    return row[MASK].reshape(-1) > 0 if MASK in row else None


def real_tokens(values: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """`values` (N, features) without padding, where each of the N is a position of `mask`."""
    return values if mask is None or len(values) != len(mask) else values[mask]
