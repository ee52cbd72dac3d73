"""A checkpoint as a torch module with named tensors in and its task's outputs out: what every exporter is given."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgekit.data.samples import Samples
from edgekit.errors import RefusedError
from edgekit.models.checkpoint import Checkpoint
from edgekit.models.weights import load_model
from edgekit.spec import MASK
from edgekit.tasks.parity import FLOAT32_TOLERANCE, compare_all

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


def example(samples: Samples, batch: int = 1) -> tuple[Any, ...]:
    """`batch` times the first row of `samples` as tensors, in the order of its inputs."""
    import torch

    return tuple(torch.from_numpy(np.repeat(array[:1], batch, axis=0)) for array in samples.inputs.values())


def run(module: Any, samples: Samples, names: Sequence[str], batch: int = 32) -> dict[str, np.ndarray]:
    """Each output (N, …) of every row by name, `batch` at a time: on a busy machine a row at a time took ten times as long."""
    import torch

    parts: list[tuple[np.ndarray, ...]] = []
    with torch.inference_mode():
        for start in range(0, len(samples), batch):
            rows = (torch.from_numpy(np.array(array[start : start + batch])) for array in samples.inputs.values())
            parts.append(tuple(output.float().numpy() for output in module(*rows)))
    return {name: np.concatenate(arrays) for name, arrays in zip(names, zip(*parts, strict=True), strict=True)}


def reference(module: Any, samples: Samples, checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """What a user of the checkpoint gets: each output (N, …) of every row by name, where a text stands alone, without padding.

    Raises `RefusedError` where padding changes an answer."""
    names = checkpoint.task.outputs
    padded = checkpoint.task.without_padding(run(module, samples, names), samples)
    alone = {name: np.array(array) for name, array in padded.items()}
    mask = samples.inputs[MASK] > 0
    length = mask.shape[1]
    spans = np.stack([mask.argmax(axis=1), length - mask[:, ::-1].argmax(axis=1)], axis=1)
    for start, end in np.unique(spans[~mask.all(axis=1)], axis=0):
        numbers = np.flatnonzero((spans == (start, end)).all(axis=1))
        texts = Samples({name: array[numbers, start:end] for name, array in samples.inputs.items()})
        try:
            outputs = run(module, texts, names)
        except RuntimeError:
            # A model that takes texts of certain lengths alone is padded by its users, too.
            continue
        for name, output in outputs.items():
            rows = alone[name][:, start:end] if checkpoint.task.per_token else alone[name]
            rows[numbers] = output
    parity = compare_all(padded, alone)
    if parity.max_rel > FLOAT32_TOLERANCE:
        advice = (
            "save its tokenizer with padding_side right"
            if spans[:, 0].any()
            else "give an encoder that masks padding, such as BERT"
        )
        raise RefusedError(
            f"{checkpoint.path}: its answer to a text changes with the padding that a fixed length needs, by {parity.max_rel:.2g} "
            f"relative on {parity.rows} rows, {FLOAT32_TOLERANCE:g} is allowed; {advice}"
        )
    return alone
