"""How far each layer of a quantized file is from the float file's, over saved rows; statistics are kept, tensors never."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.samples import Samples
from edgekit.measure.execution import without_batch
from edgekit.measure.layers import match, names
from edgekit.models.attention_masks import THRESHOLD
from edgekit.system.worker import progress
from edgekit.tasks.judgement import decibels
from edgekit.tflite import flatbuffer
from edgekit.tflite.flatbuffer import Tensor
from edgekit.tflite.interpreter import Model

Array = np.ndarray[Any, np.dtype[Any]]

_LEAST_CHANNELS = 8
_SLACK = 1.01  # steps beyond the last level that do not count as clipped


@dataclass(frozen=True)
class Layer:
    """One op's output in the examined file, against the same tensor of the float file over all rows.

    `sqnr_db`, `cosine` and `max_abs_error` are of the file as it runs, with all errors before the op in them.
    `storage_sqnr_db` is what is left when the float file's own values are stored at this tensor's scale and nothing else
    is wrong; None for a tensor that is not quantized. `float_min` to `float_max` is the float file's range, `stored_min` to
    `stored_max` what the scale can represent, `clipped` the share of the float file's values outside it.
    `channel_ratio` is the range of the widest channel (last axis) over the median channel's. Masked scores count nowhere."""

    op: str
    name: str
    tensor: str
    place: int
    dtype: str
    sqnr_db: float
    cosine: float
    max_abs_error: float
    float_min: float
    float_max: float
    storage_sqnr_db: float | None
    stored_min: float | None
    stored_max: float | None
    clipped: float | None
    channel_ratio: float | None


@dataclass(frozen=True)
class Errors:
    """Layers in order of execution, how many ops of the file have no counterpart, and the outputs of both by name, (N, …)."""

    layers: tuple[Layer, ...]
    unmatched: int
    outputs: dict[str, Array]
    reference: dict[str, Array]


def layer_errors(file: Path, against: Path, samples_folder: Path, threads: int) -> Errors:
    """Run both files on the saved rows and compare what their ops compute. In a worker child: the file may crash it."""
    graphs = []
    for path in (file, against):
        content = flatbuffer.read(path)
        graphs.append(content.subgraphs[content.entry().subgraph])
    graph, other = graphs
    pairs = match(graph, other)
    called = {**names(graph), **{pair.op: name for pair in pairs if (name := names(other).get(pair.other_op))}}
    gathered = [_Statistics(graph.tensors[pair.tensor]) for pair in pairs]
    ours, reference = (Model(path, threads=threads, keep_tensors=True) for path in (file, against))
    samples = Samples.load(samples_folder)
    outputs: list[dict[str, Array]] = []
    expected: list[dict[str, Array]] = []
    for number, row in enumerate(samples):
        progress("diagnose: layers", number, len(samples))
        outputs.append(without_batch(ours.run(row)))
        expected.append(without_batch(reference.run(row)))
        for pair, statistics in zip(pairs, gathered, strict=True):
            statistics.add(ours.tensor(pair.tensor), reference.tensor(pair.other_tensor))
    layers = tuple(
        statistics.layer(graph.operators[pair.op].name, called[pair.op], pair.op)
        for pair, statistics in zip(pairs, gathered, strict=True)
        if statistics.count
    )
    compared = {pair.op for pair in pairs}
    unmatched = sum(
        place not in compared and bool(graph.tensors[operator.outputs[0]].scales)
        for place, operator in enumerate(graph.operators)
        if operator.outputs and operator.name not in ("QUANTIZE", "DEQUANTIZE")
    )
    return Errors(layers, unmatched, _stacked(outputs), _stacked(expected))


def representable(tensor: Tensor) -> tuple[float, float] | None:
    """Least and largest real value that an integer tensor's scale can represent; None for one without a scale of its own."""
    if tensor.scales != 1 or tensor.scale is None or tensor.dtype not in ("int8", "uint8", "int16"):
        return None
    limits, zero = np.iinfo(tensor.dtype), tensor.zero_point or 0
    return (limits.min - zero) * tensor.scale, (limits.max - zero) * tensor.scale


def _stacked(rows: Sequence[dict[str, Array]]) -> dict[str, Array]:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


@dataclass
class _Statistics:
    tensor: Tensor
    count: int = 0
    clipped: int = 0
    signal: float = 0.0
    noise: float = 0.0
    ours: float = 0.0
    product: float = 0.0
    storage: float = 0.0
    largest: float = 0.0
    low: float = np.inf
    high: float = -np.inf
    channels: list[Array] = field(default_factory=list)

    def add(self, stored: Array, reference: Array) -> None:
        scale, zero = self.tensor.scale, self.tensor.zero_point or 0
        bounds = representable(self.tensor)
        if reference.size == 0 or stored.size != reference.size:
            return
        expected = reference.astype(np.float64)
        values = stored.astype(np.float64).reshape(expected.shape)
        if bounds is not None:
            values = (values - zero) * float(scale or 0)
        # Masked scores are no values of the model: a mask of another size in one of the files is not an error.
        # They are looked for only where there are any, or something that is no number.
        if not (expected.min() > THRESHOLD and values.min() > THRESHOLD):
            kept = (expected > THRESHOLD) & (values > THRESHOLD)
            expected, values = expected[kept], values[kept]
            if expected.size == 0:
                return
        else:
            self._channels(expected)
        expected, values = expected.ravel(), values.ravel()
        error = values - expected
        low, high = float(expected.min()), float(expected.max())
        self.count += expected.size
        self.signal += float(expected @ expected)
        self.noise += float(error @ error)
        self.ours += float(values @ values)
        self.product += float(values @ expected)
        self.largest = max(self.largest, float(np.abs(error).max()))
        self.low, self.high = min(self.low, low), max(self.high, high)
        if bounds is not None and scale:
            limits = np.iinfo(self.tensor.dtype)
            # The fixed scales of SOFTMAX and TANH end one step below 1 on purpose.
            least, most = bounds[0] - _SLACK * scale, bounds[1] + _SLACK * scale
            if low < least or high > most:
                self.clipped += int(((expected < least) | (expected > most)).sum())
            levels = np.clip(np.rint(expected / scale), limits.min - zero, limits.max - zero)
            lost = levels * scale - expected
            self.storage += float(lost @ lost)

    def _channels(self, expected: Array) -> None:
        if expected.ndim < 2 or expected.shape[-1] < _LEAST_CHANNELS:
            return
        flat = expected.reshape(-1, expected.shape[-1])
        ranges = [flat.min(axis=0), flat.max(axis=0)]
        self.channels = (
            [np.minimum(self.channels[0], ranges[0]), np.maximum(self.channels[1], ranges[1])] if self.channels else ranges
        )

    def layer(self, op: str, name: str, place: int) -> Layer:
        bounds = representable(self.tensor)
        ratio = None
        if self.channels:
            widths = self.channels[1] - self.channels[0]
            median = float(np.median(widths))
            ratio = float(widths.max()) / median if median > 0 else None
        length = np.sqrt(self.signal * self.ours)
        same = self.noise == 0
        return Layer(
            op=op,
            name=name,
            tensor=self.tensor.name,
            place=place,
            dtype=self.tensor.dtype,
            sqnr_db=decibels(self.signal, self.noise),
            cosine=1.0 if same else float(np.clip(self.product / length, -1, 1)) if length > 0 else 0.0,
            max_abs_error=self.largest,
            float_min=self.low,
            float_max=self.high,
            storage_sqnr_db=None if bounds is None else decibels(self.signal, self.storage),
            stored_min=None if bounds is None else bounds[0],
            stored_max=None if bounds is None else bounds[1],
            clipped=None if bounds is None else self.clipped / self.count,
            channel_ratio=ratio,
        )


def worst_first(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    return tuple(sorted(layers, key=lambda layer: (layer.sqnr_db, layer.place)))
