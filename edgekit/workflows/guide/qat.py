"""The quantization-aware column of the guide's Table 1: a Keras model to an int8 file through tfmot."""

from pathlib import Path

import numpy as np

from edgekit.data.samples import Samples
from edgekit.errors import DatasetError
from edgekit.models import keras2
from edgekit.stages.keras.aware import calibrate, quantize_aware
from edgekit.stages.keras.config import TrainConfig
from edgekit.stages.keras.train import fit, gives_logits, split


def write_aware(source: Path, calibration: Path, target: Path, training: Path | None, config: TrainConfig) -> None:
    """Write Keras-2 `source` (.h5) as an int8 .tflite with the ranges of quantization-aware layers; in a worker child.

    `calibration` is a folder of saved samples that settle the ranges, `training` one with labels to train on as `config` says.
    Raises `ConversionError` naming a layer that tfmot's 8-bit scheme does not know, `ModelFormatError` and `DatasetError`."""
    rows = np.asarray(next(iter(Samples.load(calibration).inputs.values())))
    model = keras2.load(source)
    aware = quantize_aware(model, source)
    calibrate(aware, rows)
    if training is not None:
        samples = Samples.load(training)
        if samples.labels is None:
            raise DatasetError("the rows for quantization-aware training have no labels; give labelled ones with --qat-data")
        parts = split(next(iter(samples.inputs.values())), samples.labels, config)
        fit(aware, parts, config, stage="qat", logits=gives_logits(model, rows))
    keras2.write_integer(aware, target, source)
