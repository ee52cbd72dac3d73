"""A program of `torch.export` to a float .tflite through litert-torch, or to ONNX, and what it computes in torch."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgekit.data.samples import Samples, as_fed
from edgekit.errors import ModelFormatError, one_line
from edgekit.models import program
from edgekit.stages.export.litert import write_litert
from edgekit.stages.export.onnx import stacked, write_onnx
from edgekit.tflite import signatures

Shapes = Mapping[str, Sequence[int]]


def program_to_litert(source: Path, target: Path, max_length: int, shapes: Shapes) -> None:
    """Write a .pt2 file as a float .tflite with its inputs and outputs by name, in its own layout. For `shapes` see `program.load`.

    Raises what that does, and `UnsupportedOpError` if the program cannot be converted. Needs torch."""
    loaded = program.load(source, max_length, shapes)
    write_litert(loaded.module, target, source, sample_args=loaded.example())
    names = {f"args_{place}": item.name for place, item in enumerate(loaded.inputs)}
    names |= {f"output_{place}": name for place, name in enumerate(loaded.outputs)}
    content = signatures.rename(target.read_bytes(), names, origin=str(source))
    inputs = [item.name for item in loaded.inputs]
    target.write_bytes(signatures.order(content, inputs, loaded.outputs, origin=str(source)))


def program_to_onnx(source: Path, target: Path, max_length: int, shapes: Shapes) -> None:
    """Write a .pt2 file as ONNX. Raises what `program.load` does, and `UnsupportedOpError` if it has no ONNX form. Needs torch."""
    loaded = program.load(source, max_length, shapes)
    names = [item.name for item in loaded.inputs], loaded.outputs
    write_onnx(loaded.module, loaded.example(), *names, target, source)


def program_outputs(source: Path, samples_folder: Path, target: Path, limit: int, shapes: Shapes) -> None:
    """Outputs of a .pt2 file with inputs of `shapes` for the first `limit` saved rows, by torch: a folder of (N, ...) by name."""
    import torch

    loaded = program.load(source, 1, shapes)
    rows = []
    for row in itertools.islice(Samples.load(samples_folder), limit):
        fed = [torch.from_numpy(np.array(as_fed(row[item.name], len(item.shape)), item.dtype)) for item in loaded.inputs]
        try:
            with torch.inference_mode():
                rows.append([result.numpy() for result in loaded.module(*fed)])
        except Exception as error:  # an op raises whatever it stumbles on
            raise ModelFormatError(f"{source}: torch stops during inference ({one_line(error)})") from error
    columns = zip(loaded.outputs, zip(*rows, strict=True), strict=True)
    Samples({name: stacked(values, f"{source}: output {name}") for name, values in columns}).save(target)
