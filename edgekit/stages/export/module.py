"""A checkpoint as a torch module with named tensors in and its task's outputs out: what every exporter is given."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgekit.data.samples import Samples
from edgekit.models.checkpoint import Checkpoint
from edgekit.models.weights import load_model

# How many samples each hop, and the .tflite with its source, is compared on; enough to see padding and every sentence length.
PARITY_ROWS = 16


def load(checkpoint: Checkpoint, input_names: Sequence[str]) -> Any:
    """A `torch.nn.Module` in eval mode: int32 tensors (1, L) by position, a tuple of the task's outputs out, in their order.

    `input_names` are the first two or all three of input_ids, attention_mask, token_type_ids, in this order."""
    import torch

    model = load_model(checkpoint)
    # The fused attention kernels have no ONNX form of their own, and their decompositions differ from version to version.
    model.set_attn_implementation("eager")
    names = checkpoint.task.outputs

    class Exported(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> Any:
            named = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
            outputs = self.model(**{name: named[name] for name in input_names})
            return tuple(outputs[name] for name in names)

    return Exported().eval()


def example(samples: Samples) -> tuple[Any, ...]:
    """The first row of `samples` as tensors, in the order of its inputs."""
    import torch

    return tuple(torch.from_numpy(np.array(array[:1])) for array in samples.inputs.values())


def run(module: Any, samples: Samples, names: Sequence[str], batch: int = 32) -> dict[str, np.ndarray]:
    """Each output (N, …) of every row by name, `batch` at a time: on a busy machine a row at a time took ten times as long."""
    import torch

    parts: list[tuple[np.ndarray, ...]] = []
    with torch.inference_mode():
        for start in range(0, len(samples), batch):
            rows = (torch.from_numpy(np.array(array[start : start + batch])) for array in samples.inputs.values())
            parts.append(tuple(output.float().numpy() for output in module(*rows)))
    return {name: np.concatenate(arrays) for name, arrays in zip(names, zip(*parts, strict=True), strict=True)}


def first(samples: Samples, count: int = PARITY_ROWS) -> Samples:
    """The first `count` samples, or all there are."""
    return samples.take(range(min(count, len(samples))))
