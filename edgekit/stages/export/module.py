"""A checkpoint as a torch module with named tensors in and logits out: what every exporter is given."""

from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.samples import Samples
from edgekit.models.checkpoint import load_classifier

# How many rows each hop, and the .tflite with its source, is compared on; enough to see padding and every sentence length.
PARITY_ROWS = 16


def load(checkpoint: Path, input_names: tuple[str, ...]) -> Any:
    """A `torch.nn.Module` in eval mode: int32 tensors (1, L) by position, logits (1, C) out.

    `input_names` are the first two or all three of input_ids, attention_mask, token_type_ids, in this order."""
    import torch

    model = load_classifier(checkpoint)
    # The fused attention kernels have no ONNX form of their own, and their decompositions differ from version to version.
    model.set_attn_implementation("eager")

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> Any:
            named = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
            return self.model(**{name: named[name] for name in input_names}).logits

    return Classifier().eval()


def example(samples: Samples) -> tuple[Any, ...]:
    """The first row of `samples` as tensors, in the order of its inputs."""
    import torch

    return tuple(torch.from_numpy(np.array(array[:1])) for array in samples.inputs.values())


def logits(module: Any, samples: Samples, batch: int = 32) -> np.ndarray:
    """float32 (N, C) of every row, `batch` at a time: on a busy machine a row at a time took ten times as long."""
    import torch

    found = []
    with torch.inference_mode():
        for start in range(0, len(samples), batch):
            rows = (torch.from_numpy(np.array(array[start : start + batch])) for array in samples.inputs.values())
            found.append(module(*rows).numpy())
    return np.concatenate(found)


def first(samples: Samples, count: int) -> Samples:
    """The first `count` rows, or all there are."""
    return samples.take(range(min(count, len(samples))))
