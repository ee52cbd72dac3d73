"""Each technique from the float model to its file: what an optimizing child runs. Needs TensorFlow."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.samples import Samples
from edgekit.errors import ConversionError, DatasetError, ModelFormatError
from edgekit.models import keras2
from edgekit.spec import TensorSpec
from edgekit.stages.keras.aware import calibrate, quantize_aware
from edgekit.stages.keras.config import TECHNIQUES, History, OptimizeConfig, Optimized, Technique, Weights
from edgekit.stages.keras.thin import TWO_OF_FOUR, chosen_layers, cluster, sparsify, weights_of
from edgekit.stages.keras.train import Split, fit, gives_logits, split

_CALIBRATION_ROWS = 512


def describe(source: Path) -> tuple[TensorSpec, int]:
    """The one input (batch 1) and the number of classes of a Keras classifier.

    Raises `ModelFormatError` for a model that is not Keras 2, has wrappers already, or is no classifier of one input."""
    if keras2.is_quantization_aware(source):
        raise ModelFormatError(f"{source}: was trained quantization-aware already; give the float model, or use edgekit convert")
    model = keras2.load(source)
    shape = model.outputs[0].shape
    if len(model.inputs) != 1 or len(model.outputs) != 1 or len(shape) != 2 or (shape[-1] or 0) < 2:
        raise ModelFormatError(f"{source}: is no classifier of one input and one row of scores; give a Keras 2 image classifier")
    tensor = model.inputs[0]
    if None in tensor.shape[1:]:
        raise ModelFormatError(f"{source}: input {tensor.name} has the free shape {tensor.shape}; save the model with a fixed one")
    return TensorSpec(tensor.name, (1, *tensor.shape[1:]), tensor.dtype.name), int(shape[-1])


def apply(source: Path, samples: Path, technique: str, config: OptimizeConfig, room: Path) -> Optimized:
    """Write `room/<technique>.h5`, and for a quantization-aware one `room/<technique>.tflite` in int8 and its float `.float.h5`.

    A stage that another technique made in `room` is taken from there: sparsity-qat starts from the model of sparsity.
    Raises `ConversionError`, `ModelFormatError` and `DatasetError`."""
    warnings.filterwarnings("ignore", message="You are saving your model as an HDF5 file")
    rows = Samples.load(samples)
    if rows.labels is None:
        raise DatasetError(f"{source}: the training rows have no labels; name them with --label-column")
    data = split(next(iter(rows.inputs.values())), rows.labels, config.training)
    chosen = TECHNIQUES[technique]
    model, histories = keras2.load(source), []
    names = chosen_layers(model)
    for stage in _stages(chosen):
        file = room / f"{stage}.h5"
        if file.exists():
            model = keras2.load(file)
            continue
        trained, history = _run(stage, model, data, config, source)
        # What tfmot strips shares its layers with what it stripped; loaded again it stands for itself.
        trained.save(str(file))
        model = keras2.load(file)
        histories.append(history)
    if chosen.aware:
        keras2.write_integer(model, room / f"{technique}.tflite", source)
        keras2.without_wrappers(model, source).save(str(room / f"{technique}.float.h5"))
    weights = weights_of(model, names)
    _check(weights, chosen, config, source)
    return Optimized(technique, tuple(histories), weights)


def _check(weights: Sequence[Weights], technique: Technique, config: OptimizeConfig, source: Path) -> None:
    """Raise `ConversionError` where a kernel has fewer zeros, zeros elsewhere or more distinct values than were asked for."""
    longer = "train for more epochs or in smaller batches"
    for kernel in weights:
        problem, share = "", f"{100 * kernel.sparsity:.1f} % zeros instead of {100 * config.sparsity:.1f} %"
        # The number of zeros is rounded.
        if technique.sparse == "magnitude" and kernel.sparsity < config.sparsity - 1 / kernel.count:
            problem = f"reached {share}; {longer}"
        elif technique.sparse == "2:4" and kernel.most_in_four > TWO_OF_FOUR[0]:
            problem = f"keeps {kernel.most_in_four} of four neighbouring weights instead of {TWO_OF_FOUR[0]}; {longer}"
        # tfmot's cluster-preserving training may give each output channel values of its own, which int8 has scales of its own for.
        elif technique.clustered and not technique.aware and kernel.distinct > config.clusters:
            problem = f"has {kernel.distinct} distinct values instead of {config.clusters}; give another number of clusters"
        if problem:
            raise ConversionError(f"{source}: {kernel.layer} {problem}")


def _stages(technique: Technique) -> list[str]:
    """The techniques, and for the last one the model between, that lead to `technique`."""
    thin = {"magnitude": ["sparsity"], "2:4": ["sparsity-2-4"], "": []}[technique.sparse]
    clustered = ["sparsity-clustering" if technique.sparse else "clustering"] * technique.clustered
    return [*thin, *clustered, *[technique.name] * technique.aware]


def _run(stage: str, model: Any, data: Split, config: OptimizeConfig, source: Path) -> tuple[Any, History]:
    if stage in ("sparsity", "sparsity-2-4"):
        return sparsify(model, data, config, TECHNIQUES[stage].sparse, source, stage=stage)
    if stage in ("clustering", "sparsity-clustering"):
        return cluster(model, data, config, source, keep_zeros=stage == "sparsity-clustering", stage=stage)
    return _aware(TECHNIQUES[stage], model, data, config, source)


def _aware(technique: Technique, model: Any, data: Split, config: OptimizeConfig, source: Path) -> tuple[Any, History]:
    trained = quantize_aware(model, source, _scheme(technique))
    draw = np.random.default_rng(config.training.seed)
    chosen = np.sort(draw.permutation(data.training)[:_CALIBRATION_ROWS])
    calibrate(trained, np.asarray(data.rows[chosen]))
    history = fit(trained, data, config.training, stage=technique.name, logits=gives_logits(model, data.rows))
    if not technique.clustered:
        return trained, history
    # What clusters add to the wrappers is for training alone, and such a file could not be loaded again.
    plain = quantize_aware(model, source)
    for mine, theirs in zip(plain.layers, trained.layers, strict=True):
        keras2.copy_weights(theirs, mine)
    return plain, history


def _scheme(technique: Technique) -> Any:
    """tfmot's scheme that keeps what the model has: zeros, shared values, or both; None for its usual one."""
    from tensorflow_model_optimization.python.core.quantization.keras.collab_opts.cluster_preserve import (
        cluster_preserve_quantize_registry as registries,
    )
    from tensorflow_model_optimization.python.core.quantization.keras.collab_opts.cluster_preserve import (
        default_8bit_cluster_preserve_quantize_scheme as clusters,
    )
    from tensorflow_model_optimization.python.core.quantization.keras.collab_opts.prune_preserve import (
        default_8bit_prune_preserve_quantize_scheme as zeros,
    )

    if not technique.clustered:
        return zeros.Default8BitPrunePreserveQuantizeScheme() if technique.sparse else None
    keep = bool(technique.sparse)

    class Registry(registries.Default8bitClusterPreserveQuantizeRegistry):
        """tfmot's, with quantizers of its own for each layer: a shared one drops all zeros after one layer that has none."""

        def get_quantize_config(self, layer: Any) -> Any:
            return registries.Default8bitClusterPreserveQuantizeRegistry(keep).get_quantize_config(layer)

    class Scheme(clusters.Default8BitClusterPreserveQuantizeScheme):
        def get_quantize_registry(self) -> Any:
            return Registry(keep)

    return Scheme(keep)
