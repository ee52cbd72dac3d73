"""Linear .tflite files with any number of outputs, and what they are judged with."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekit.data.samples import Samples
from tests.unit.tflite.conftest import Builder


def heads(path: Path, outputs: Mapping[str, Sequence[Sequence[float]]]) -> Path:
    """Write a float32 file whose outputs are its input `features` (1, columns) times each of the weights (rows, columns)."""
    build = Builder()
    columns = len(next(iter(outputs.values()))[0])
    features = build.tensor("features", [1, columns])
    ends = {}
    for name, weights in outputs.items():
        values = np.array(weights, np.float32)
        stored = build.tensor(f"{name}_weights", list(values.shape), data=values)
        ends[name] = build.tensor(name, [1, len(values)])
        build.op("FULLY_CONNECTED", [features, stored, -1], [ends[name]], schema.FullyConnectedOptionsT())
    build.ends({"features": features}, ends, "serving_default")
    path.write_bytes(build.pack())
    return path


def rows(count: int, columns: int, seed: int = 0) -> np.ndarray:
    """Random features (count, columns), the last one 1 throughout, so that a weight of it is a bias."""
    features = np.random.default_rng(seed).standard_normal((count, columns)).astype(np.float32)
    features[:, -1] = 1
    return features


def samples(features: np.ndarray, labels: Any = None, task: str = "generic", settings: Mapping[str, Any] | None = None) -> Samples:
    return Samples({"features": features}, None if labels is None else np.asarray(labels), task=task, settings=settings or {})


def memory_cell(path: Path) -> Path:
    """Write an LSTM of one unit that keeps its state in variables from one inference to the next."""
    build = Builder()
    weights = [build.tensor(f"w{place}", [1, 1], data=np.array([[0.5]], np.float32)) for place in range(8)]
    biases = [build.tensor(f"b{place}", [1], data=np.array([0.1], np.float32)) for place in range(4)]
    states = [build.tensor(name, [1, 1]) for name in ("output_state", "cell_state")]
    for state in states:
        build.current.tensors[state].isVariable = True
    given, out = build.tensor("features", [1, 1, 1]), build.tensor("cells", [1, 1, 1])
    options = schema.UnidirectionalSequenceLSTMOptionsT(fusedActivationFunction=schema.ActivationFunctionType.TANH)
    inputs = [given, *weights, -1, -1, -1, *biases, -1, -1, *states, -1, -1, -1, -1]
    build.op("UNIDIRECTIONAL_SEQUENCE_LSTM", inputs, [out], options)
    build.ends({"features": given}, {"cells": out}, "serving_default")
    path.write_bytes(build.pack())
    return path
