"""Checkpoint, or any torch module, to a float .tflite through litert-torch (extra `litert`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit.data.samples import Samples
from edgekit.errors import ModelFormatError, UnsupportedOpError, one_line
from edgekit.models.checkpoint import Checkpoint
from edgekit.stages.export import module as exported
from edgekit.tflite.interpreter import Model

# From here on litert-torch is quicker where it leaves the constants alone and folds those of the finished file: measured, it
# costs half a second at 90 MB and saves two at 440 MB.
_LARGE_BYTES = 200 * 2**20


def export_litert(checkpoint: Checkpoint, samples_folder: Path, target: Path, reference: Path, batch: int = 1) -> None:
    """Write `checkpoint` as a float .tflite for `batch` rows with the samples' input names and its task's outputs.

    Writes the first samples' outputs, computed by PyTorch, to the folder `reference`.
    Raises `CheckpointError`, and `UnsupportedOpError` if the model cannot be converted. Needs torch."""
    import torch

    few = Samples.load(samples_folder).first(exported.PARITY_ROWS)
    module, names = exported.load(checkpoint, tuple(few.inputs)), checkpoint.task.outputs
    Samples(exported.reference(module, few, checkpoint)).save(reference)
    tensors = dict(zip(few.inputs, exported.example(few, batch), strict=True))
    known = _known_ranges(module, tensors)

    class Named(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(
            self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
        ) -> dict[str, torch.Tensor]:
            with known:
                return dict(zip(names, self.module(input_ids, attention_mask, token_type_ids), strict=True))

    write_litert(Named().eval(), target, checkpoint.path, sample_kwargs=tensors)


def write_litert(module: Any, target: Path, origin: Path, **samples: Any) -> None:
    """Write a torch module as a float .tflite: `samples` are its `sample_args` or `sample_kwargs`.

    Raises `UnsupportedOpError` about `origin` if it cannot be converted, or has an op without a kernel."""
    import litert_torch

    try:
        large = sum(weight.nbytes for weight in module.parameters()) > _LARGE_BYTES
        litert_torch.convert(module, lightweight_conversion=large, **samples).export(str(target))
    except Exception as error:  # torch, JAX and MLIR raise whatever they like
        # Behind that it prints the node, and where it was traced.
        cause = one_line(error).split(" While executing")[0]
        raise UnsupportedOpError(f"{origin}: litert-torch cannot convert it ({cause})") from error
    require_kernels(target, origin)


def _known_ranges(module: Any, tensors: Mapping[str, Any]) -> Any:
    """A context in which `torch.arange` gives the tensors that it gave when the module ran on `tensors`.

    So a tracer takes them for constants. litert-torch rewrites each arange of a graph in Python, and for that traces the whole
    graph once more: a sixth of the time that it takes."""
    import torch
    from torch.overrides import TorchFunctionMode

    class Known(TorchFunctionMode):
        def __init__(self) -> None:
            super().__init__()
            self.found: dict[str, torch.Tensor] = {}
            self.watching = True

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is not torch.arange:
                return function(*args, **(kwargs or {}))
            called = f"{args} {kwargs}"
            if called in self.found:
                return self.found[called]
            result = function(*args, **(kwargs or {}))
            if self.watching:
                self.found[called] = result
            return result

    known = Known()
    with torch.no_grad(), known:
        module(*tensors.values())
    known.watching = False
    return known


def require_kernels(file: Path, origin: Path) -> None:
    """Raise `UnsupportedOpError` if the interpreter does not load `file`: litert-torch writes ops that have no kernel, too."""
    try:
        Model(file, mapped=True, delegate=False)
    except ModelFormatError as error:
        cause = error.message.removeprefix(f"{file}: ")[:200]
        raise UnsupportedOpError(f"{origin}: litert-torch makes a file that does not load ({cause})") from error
