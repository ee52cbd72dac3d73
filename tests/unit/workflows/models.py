"""Tiny models of each kind that `inspect` reads; each function runs in a worker's child."""

import os
import signal
from pathlib import Path
from typing import Any

from tests.integration.sources import write_keras


def write_keras_kinds(folder: Path) -> None:
    """By tf_keras `model.h5` and a SavedModel `saved`; by Keras 3 `model.keras`, `free.keras` and `unbuilt.keras`."""
    write_keras(folder)
    import keras

    layers = keras.layers
    first, second = keras.Input((4,), name="first"), keras.Input((None, 4), name="second", dtype="float16")
    joined = layers.Add()([first, layers.GlobalAveragePooling1D()(second)])
    keras.Model({"first": first, "second": second}, {"sum": joined}).save(folder / "free.keras")
    image = keras.Input((8, 6, 3), name="image")
    flat = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(image))
    keras.Model(image, layers.Softmax()(layers.Dense(5, name="scores")(flat))).save(folder / "model.keras")
    keras.Sequential([layers.Dense(3)]).save(folder / "unbuilt.keras")


def write_program(path: Path) -> None:
    """A torch.export program with a free batch and two outputs, and beside it a TorchScript module with the suffix of one."""
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.line = torch.nn.Conv2d(3, 8, 3), torch.nn.Linear(8, 5)
            self.register_buffer("steps", torch.arange(4))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.line(self.conv(x).relu().mean((2, 3))), self.steps + 1

    batch = torch.export.Dim("batch", min=2, max=8)
    program = torch.export.export(Net().eval(), (torch.zeros(2, 3, 9, 7),), dynamic_shapes={"x": {0: batch}})
    torch.export.save(program, path)
    torch.jit.trace(torch.nn.ReLU(), torch.zeros(1)).save(str(path.with_name("script.pt2")))


def crash(path: Path) -> Any:
    """What HDF5's library does on some damaged files."""
    os.kill(os.getpid(), signal.SIGSEGV)
