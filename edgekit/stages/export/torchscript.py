"""Checkpoint to TorchScript, for PyTorch's own runtimes."""

from pathlib import Path

import numpy as np

from edgekit.data.samples import Samples
from edgekit.stages.export import module as classifier
from edgekit.tasks.parity import Parity, compare, require


def export_torchscript(checkpoint: Path, samples_folder: Path, target: Path) -> Parity:
    """Trace `checkpoint` on the first saved row, freeze it and write it; inputs by position in the samples' order.

    Raises `CheckpointError`, and `ParityError` if the saved file disagrees with PyTorch. Needs torch.
    """
    import torch

    samples = Samples.load(samples_folder)
    few = classifier.first(samples, classifier.PARITY_ROWS)
    module = classifier.load(checkpoint, tuple(samples.inputs))
    reference = classifier.logits(module, few)
    with torch.inference_mode():
        traced = torch.jit.freeze(torch.jit.trace(module, classifier.example(few), strict=False, check_trace=False))
    traced.save(str(target))
    loaded = torch.jit.load(str(target))
    parity = compare(np.asarray(classifier.logits(loaded, few, batch=1)), reference)
    require(parity, "PyTorch to TorchScript")
    return parity
