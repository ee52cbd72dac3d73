"""Weights made compressible with tfmot: sparse, or of a few distinct values. Needs TensorFlow.

Sources: M. Zhu and S. Gupta, "To prune, or not to prune" (arXiv 1710.01878) for the schedule of sparsity; S. Han et al., "Deep
Compression" (arXiv 1510.00149) for shared weights."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.samples import Array
from edgekit.errors import ConversionError, one_line
from edgekit.stages.keras.config import History, OptimizeConfig, Weights
from edgekit.stages.keras.train import Split, fit, gives_logits

_MASK_UPDATES = 40
# tfmot's pattern: of four neighbours among the input channels at most two are not zero.
TWO_OF_FOUR = (2, 4)
_KERNELS = ("Conv1D", "Conv2D", "Conv2DTranspose", "Dense")


def chosen_layers(model: Any) -> tuple[str, ...]:
    """Names of the layers whose kernels become sparse or clustered: convolutions and dense layers but the first.

    The first has few weights and sees the input, so it costs much and gains little; depthwise kernels have a handful of weights
    for each channel, and lose accuracy soon."""
    names = [layer.name for layer in model.layers if type(layer).__name__ in _KERNELS]
    return tuple(names[1:] if len(names) > 1 else names)


def sparsify(model: Any, data: Split, config: OptimizeConfig, pattern: str, source: Path, *, stage: str) -> tuple[Any, History]:
    """`model` with the smallest weights of its chosen kernels set to zero, step by step while it trains.

    `stage` is what the training is called. `pattern` is `magnitude`, where the share of zeros grows along a cubic curve to
    `config.sparsity` at half of the training, or `2:4`, where it is a half throughout. Raises `ConversionError`."""
    import tensorflow_model_optimization as tfmot

    sparsity = tfmot.sparsity.keras
    batches = -(-len(data.training) // config.training.batch_size)
    total = batches * config.training.epochs
    frequency = max(1, total // (2 * _MASK_UPDATES))
    end = frequency * max(1, total // 2 // frequency)
    schedule = sparsity.PolynomialDecay(0.0, config.sparsity, 0, end, frequency=frequency)
    settings: dict[str, Any] = {"pruning_schedule": schedule}
    if pattern == "2:4":
        schedule = sparsity.ConstantSparsity(0.5, 0, end_step=end, frequency=frequency)
        settings = {"pruning_schedule": schedule, "sparsity_m_by_n": TWO_OF_FOUR}
    logits, update = gives_logits(model, data.rows), sparsity.UpdatePruningStep()
    wrapped = _wrapped(model, lambda layer: sparsity.prune_low_magnitude(layer, **settings), source)
    # Before the schedule has ended, the model has too few zeros to be chosen.
    first = min(end // batches + 1, config.training.epochs)
    history = fit(wrapped, data, config.training, stage=stage, logits=logits, callback=update, first_choice=first)
    return sparsity.strip_pruning(wrapped), history


def cluster(model: Any, data: Split, config: OptimizeConfig, source: Path, *, keep_zeros: bool, stage: str) -> tuple[Any, History]:
    """`model` with at most `config.clusters` distinct values in each chosen kernel; the values train on.

    With `keep_zeros` a sparse model's zeros stay, and are one of the values. Raises `ConversionError`."""
    import tensorflow_model_optimization as tfmot
    from tensorflow_model_optimization.python.core.clustering.keras.experimental import cluster as experimental

    start = {"kmeans++": "KMEANS_PLUS_PLUS", "density": "DENSITY_BASED"}[config.centroids]
    settings = {
        "number_of_clusters": config.clusters,
        "cluster_centroids_init": getattr(tfmot.clustering.keras.CentroidInitialization, start),
        "preserve_sparsity": keep_zeros,
        "cluster_per_channel": False,
    }
    logits = gives_logits(model, data.rows)
    wrapped = _wrapped(model, lambda layer: experimental.cluster_weights(layer, **settings), source)
    history = fit(wrapped, data, config.training, stage=stage, logits=logits)
    return tfmot.clustering.keras.strip_clustering(wrapped), history


def weights_of(model: Any, names: Sequence[str]) -> tuple[Weights, ...]:
    """What the kernels of the named layers hold; a quantization-aware model's layers are found under their inner names."""
    kernels = []
    for layer in model.layers:
        inner = getattr(layer, "layer", layer)
        if inner.name in names:
            kernel = next(weight for weight in layer.weights if weight.name.split(":")[0].endswith("kernel")).numpy()
            zeros = float((kernel == 0).mean())
            kernels.append(Weights(inner.name, kernel.size, zeros, len(np.unique(kernel)), most_in_four(kernel)))
    return tuple(kernels)


def most_in_four(kernel: Array) -> int:
    """The most weights among four neighbours along the input channels of a kernel (..., inputs, outputs) that are not zero."""
    kept = np.moveaxis(kernel != 0, -2, -1).reshape(-1, kernel.shape[-2])
    kept = np.pad(kept, ((0, 0), (0, -kept.shape[1] % 4)))
    return int(kept.reshape(-1, 4).sum(axis=1).max())


def _wrapped(model: Any, wrap: Callable[[Any], Any], source: Path) -> Any:
    import tf_keras

    names = chosen_layers(model)
    if not names:
        raise ConversionError(f"{source}: has no convolution or dense layer whose weights could be thinned; try --technique qat")
    try:
        return tf_keras.models.clone_model(model, clone_function=lambda layer: wrap(layer) if layer.name in names else layer)
    except Exception as error:  # tfmot and keras raise what they like
        raise ConversionError(f"{source}: tfmot cannot wrap its layers ({one_line(error)}); try --technique qat") from error
