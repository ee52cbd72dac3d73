"""In a worker: whatever `edgekit export` writes, run by the runtime that it was written for."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import artifacts, checkpoint
from edgekit.data.samples import Samples

THREADS, RUNS, WARMUP = 2, 50, 5
Model = Callable[[dict[str, np.ndarray]], np.ndarray]


def load(path: Path, names: tuple[str, ...]) -> Model:
    """What runs the file or folder, from arrays (N, L) by name to logits (N, C)."""
    if path.suffix in (".onnx", ".ort"):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda row: np.asarray(session.run(None, row)[0])
    if (path / "saved_model.pb").is_file():
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(THREADS)
        serve = tf.saved_model.load(str(path)).signatures["serving_default"]
        return lambda row: next(iter(serve(**{name: tf.constant(row[name]) for name in names}).values())).numpy()
    import torch

    torch.set_num_threads(THREADS)
    if path.suffix == ".pt":
        module = torch.jit.load(str(path))
        call: Callable[..., Any] = module
    else:
        module = checkpoint.load_classifier(path)
        call = lambda *given: module(**dict(zip(names, given, strict=True))).logits  # noqa: E731

    def run(row: dict[str, np.ndarray]) -> np.ndarray:
        with torch.inference_mode():
            return np.asarray(call(*(torch.from_numpy(np.array(row[name])) for name in names)))

    return run


def clock(path: Path, rows: Path) -> list[float]:
    """Milliseconds of one row at a time."""
    samples = Samples.load(rows)
    model, fed = load(path, tuple(samples.inputs)), list(samples.take(range(8)))
    times = []
    for number in range(WARMUP + RUNS):
        started = time.perf_counter()
        model(fed[number % len(fed)])
        times.append((time.perf_counter() - started) * 1e3)
    return times[WARMUP:]


def outputs(path: Path, rows: Path, target: Path) -> None:
    """The logits of all rows, one at a time, to `target` (.npy)."""
    samples = Samples.load(rows)
    model = load(path, tuple(samples.inputs))
    with artifacts.staged(target) as partial:
        np.save(partial, np.concatenate([model(row) for row in samples]))
