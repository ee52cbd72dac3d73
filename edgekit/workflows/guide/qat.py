"""The quantization-aware column of the guide's Table 1: a Keras model to an int8 file through tfmot."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.data.samples import Samples
from edgekit.errors import DatasetError


@dataclass(frozen=True)
class Training:
    """A folder of saved samples with labels to train on, and for how long."""

    rows: Path
    epochs: int
    seed: int
    learning_rate: float = 1e-5


def write_aware(source: Path, calibration: Path, target: Path, training: Training | None) -> None:
    """Write Keras-2 `source` (.h5) as an int8 .tflite with the ranges of quantization-aware layers; in a worker child.

    `calibration` is a folder of saved samples that settle the ranges; without `training` that is all that is done.
    Raises `ConversionError` naming a layer that tfmot's 8-bit scheme does not know, and `DatasetError`.
    """
    from edgekit.stages.keras.aware import train_to_int8
    from edgekit.stages.keras.config import TrainConfig
    from edgekit.stages.keras.train import split

    rows = np.asarray(next(iter(Samples.load(calibration).inputs.values())))
    if training is None:
        train_to_int8(source, rows, target)
        return
    samples = Samples.load(training.rows)
    if samples.labels is None:
        raise DatasetError("the rows for quantization-aware training have no labels; give labelled ones with --qat-data")
    config = TrainConfig(epochs=training.epochs, seed=training.seed, learning_rate=training.learning_rate)
    parts = split(next(iter(samples.inputs.values())), samples.labels, config)
    train_to_int8(source, rows, target, split=parts, config=config)
