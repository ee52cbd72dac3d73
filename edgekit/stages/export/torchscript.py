"""Checkpoint to TorchScript, for PyTorch's own runtimes."""

from pathlib import Path

from edgekit.data.samples import Samples
from edgekit.models.checkpoint import Checkpoint
from edgekit.stages.export import module as exported
from edgekit.tasks.parity import Parity, compare_all, require


def export_torchscript(checkpoint: Checkpoint, samples_folder: Path, target: Path) -> Parity:
    """Trace `checkpoint` on the first saved row, freeze it and write it; inputs by position in the samples' order.

    It returns a tuple of the task's outputs. Raises `CheckpointError`, and `ParityError` if the saved file disagrees with
    PyTorch. Needs torch."""
    import torch

    few = Samples.load(samples_folder).first(exported.PARITY_ROWS)
    module = exported.load(checkpoint, tuple(few.inputs))
    reference = exported.reference(module, few, checkpoint)
    with torch.inference_mode():
        traced = torch.jit.freeze(torch.jit.trace(module, exported.example(few), strict=False, check_trace=False))
    traced.save(str(target))
    outputs = exported.run(torch.jit.load(str(target)), few, checkpoint.task.outputs, batch=1)
    parity = compare_all(checkpoint.task.without_padding(outputs, few), reference)
    require(parity, "PyTorch to TorchScript")
    return parity
