"""One training loop for Keras classifiers: shuffled batches of labelled rows, the best epoch by rows that it never trains on."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.data.samples import Array
from edgekit.errors import DatasetError
from edgekit.stages.keras.config import Epoch, History, TrainConfig
from edgekit.system.worker import progress

_EVALUATION_BATCH, _LOOKED_AT = 128, 8
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Split:
    """Rows (N, ...) and their classes (N,) to train on, and the numbers of those rows that training never sees."""

    rows: Array
    labels: Array
    training: Array
    held_out: Array


def split(rows: Array, labels: Array, config: TrainConfig) -> Split:
    """Draw the held-out rows with the seed. Raises `DatasetError` if there are too few rows for both parts."""
    count = round(len(rows) * config.held_out)
    if count < 1 or len(rows) - count < 1:
        raise DatasetError(f"{len(rows)} training rows: too few to hold out a share of {config.held_out:g}; give more rows")
    order = np.random.default_rng(config.seed).permutation(len(rows))
    return Split(rows, labels, np.sort(order[count:]), np.sort(order[:count]))


def fit(
    model: Any, data: Split, config: TrainConfig, *, stage: str, logits: bool, callback: Any = None, first_choice: int = 0
) -> History:
    """Train `model` in place and leave it with the weights of the epoch with the least loss on the held-out rows.

    `logits` says whether its outputs are logits or probabilities, see `gives_logits`. Epoch 0 is the model as it came; only
    epochs from `first_choice` on may be chosen, for techniques that reach their goal late. `callback` is a tfmot callback that
    is told of batches and epochs."""
    import tf_keras

    started = time.perf_counter()
    tf_keras.utils.set_random_seed(config.seed)
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=logits)
    model.compile(optimizer=tf_keras.optimizers.legacy.Adam(config.learning_rate), loss=loss)
    callback = callback or tf_keras.callbacks.Callback()
    callback.set_model(model)
    callback.on_train_begin()
    draw = np.random.default_rng(config.seed)
    batches = -(-len(data.training) // config.batch_size)
    total = batches * config.epochs
    epochs = [_judged(model, data, 0, None, logits=logits)] if first_choice == 0 else []
    best, kept = (epochs[0], model.get_weights()) if epochs else (None, [])
    for number in range(1, config.epochs + 1):
        losses = []
        order = draw.permutation(data.training)
        for batch in range(batches):
            chosen = np.sort(order[batch * config.batch_size : (batch + 1) * config.batch_size])
            callback.on_train_batch_begin(batch)
            losses.append(float(model.train_on_batch(np.asarray(data.rows[chosen]), data.labels[chosen])))
            done = (number - 1) * batches + batch + 1
            if done % 10 == 0 or done == total:
                progress(stage, done, total, f"epoch {number}, loss {np.mean(losses[-50:]):.4f}")
        callback.on_epoch_end(number - 1)
        epochs.append(_judged(model, data, number, float(np.mean(losses)), logits=logits))
        if number >= first_choice and (best is None or epochs[-1].loss < best.loss):
            best, kept = epochs[-1], model.get_weights()
    if best is not None:
        model.set_weights(kept)
    chosen_epoch, seconds = best.number if best else first_choice, time.perf_counter() - started
    return History(stage, tuple(epochs), chosen_epoch, len(data.training), len(data.held_out), total, seconds)


def gives_logits(model: Any, rows: Array) -> bool:
    """Whether a float model's outputs for `rows` are no probabilities: some lie outside [0, 1] or do not sum to 1."""
    outputs = np.asarray(model(np.asarray(rows[:_LOOKED_AT]), training=False))
    return bool((outputs < 0).any() or (outputs > 1).any() or (np.abs(outputs.sum(axis=-1) - 1) > _SUM_TOLERANCE).any())


def predict(model: Any, rows: Array) -> Array:
    """Outputs (N, classes) in inference mode."""
    blocks = range(0, len(rows), _EVALUATION_BATCH)
    return np.concatenate([np.asarray(model.predict_on_batch(np.asarray(rows[s : s + _EVALUATION_BATCH]))) for s in blocks])


def _judged(model: Any, data: Split, number: int, training_loss: float | None, *, logits: bool) -> Epoch:
    from scipy.special import log_softmax

    outputs, labels = predict(model, data.rows[data.held_out]).astype(np.float64), data.labels[data.held_out]
    scores = log_softmax(outputs, axis=1) if logits else np.log(np.clip(outputs, 1e-7, 1))
    loss = -float(scores[np.arange(len(labels)), labels].mean())
    return Epoch(number, loss, float((outputs.argmax(axis=1) == labels).mean()), training_loss)
