"""What goes into a model's matrix products on representative data: its mean and its covariance.

Rounding weights well and correcting biases need no more than these two, and neither grows with the number of rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.data.samples import Samples
from edgekit.stages.quantize.tensors import Tensors, real_tokens, token_mask
from edgekit.tflite import flatbuffer, schema
from edgekit.tflite.batches import groups
from edgekit.tflite.tree import listed, load, opcodes, text

PRODUCTS = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D")
ACTIVATIONS, WEIGHTS, BIAS = 0, 1, 2
# Rows and places of each that are looked at: several times as many vectors as most products have inputs.
_ROWS, _PLACES = 96, 64
# Multiplications that rounding all weights may take; the products that take least come first, and the rest round as usual.
_WORK = 2e11
_AT_ONCE = 512


@dataclass
class Moments:
    """Mean (groups, size) and covariance (groups, size, size) of what each output channel of a product is a sum over.

    A depthwise convolution has a group for each channel that it reads, all others have one. The covariance is None where
    using it would take too long, and is taken around zero where the op has no bias that could take up the mean. Products
    that read the same share one object."""

    mean: np.ndarray
    covariance: np.ndarray | None


def matrix(name: str, weights: np.ndarray, groups: int) -> np.ndarray:
    """A product's weights as (groups, outputs, size), a view of `weights` in the file's own order of axes."""
    if name != "DEPTHWISE_CONV_2D":
        return weights.reshape(1, weights.shape[0], -1)
    return weights.reshape(-1, groups, weights.shape[-1] // groups).transpose(1, 2, 0)


def unmatrix(name: str, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """What `matrix` made of weights of `shape`, undone."""
    return (values if name != "DEPTHWISE_CONV_2D" else values.transpose(2, 0, 1)).reshape(shape)


def _some(count: int, draw: np.random.Generator) -> np.ndarray:
    """Places among `count`, drawn where there are more than are looked at."""
    return np.arange(count) if count <= _PLACES else draw.choice(count, _PLACES, replace=False)


@dataclass(frozen=True)
class _Window:
    """What a product reads of a tensor: all of its last axis, or a window of places, channel by channel if `depthwise`."""

    tensor: int
    size: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    same: bool = False
    depthwise: bool = False
    features: int = 0

    def vectors(self, values: np.ndarray, mask: np.ndarray | None, draw: np.random.Generator) -> np.ndarray:
        """Of one inference (groups, places, size)."""
        if self.features:
            rows = real_tokens(values.reshape(-1, self.features), mask)
            return rows[_some(len(rows), draw)][np.newaxis]
        return np.concatenate([self._of_image(image, draw) for image in values], axis=1)

    def _of_image(self, image: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        if self.same:
            image = np.pad(image, (*(self._padding(image.shape[axis], axis) for axis in (0, 1)), (0, 0)))
        view = np.lib.stride_tricks.sliding_window_view(image, (self._extent(0), self._extent(1)), axis=(0, 1))
        view = view[:: self.stride[0], :: self.stride[1], :, :: self.dilation[0], :: self.dilation[1]]
        high, wide, channels = view.shape[:3]
        places = _some(high * wide, draw)
        found = view[places // wide, places % wide]
        if self.depthwise:
            return found.reshape(len(places), channels, -1).transpose(1, 0, 2)
        return found.transpose(0, 2, 3, 1).reshape(1, len(places), -1)

    def _extent(self, axis: int) -> int:
        return (self.size[axis] - 1) * self.dilation[axis] + 1

    def _padding(self, size: int, axis: int) -> tuple[int, int]:
        missing = max((-(-size // self.stride[axis]) - 1) * self.stride[axis] + self._extent(axis) - size, 0)
        return missing // 2, missing - missing // 2


class _Sums:
    """Over all vectors of a window so far; their squares only if a covariance is `wanted`.

    Squares are taken around the first vectors' mean: where inputs vary little around a large value, those around zero would
    leave nothing but rounding of their difference."""

    def __init__(self, wanted: bool) -> None:
        self.wanted, self.count = wanted, 0
        self._total: Any = 0.0
        self._squares: Any = 0.0
        self._middle: Any = None
        self._waiting: list[np.ndarray] = []

    def add(self, vectors: np.ndarray) -> None:
        self.count += vectors.shape[1]
        self._total += vectors.sum(axis=1, dtype=np.float64)
        if self.wanted and vectors.shape[1]:
            if self._middle is None:
                self._middle = vectors.mean(axis=1)
            self._waiting.append(vectors - self._middle[:, np.newaxis])
            if sum(part.shape[1] for part in self._waiting) >= _AT_ONCE:
                self._multiply()

    def _multiply(self) -> None:
        # One product of many vectors is several times as fast as many of a few.
        if self._waiting:
            vectors = np.concatenate(self._waiting, axis=1)
            self._squares += vectors.transpose(0, 2, 1) @ vectors
            self._waiting.clear()

    def moments(self, *, centred: bool) -> Moments:
        """With the covariance around the mean, or around zero."""
        mean = self._total / self.count
        if not self.wanted:
            return Moments(mean, None)
        self._multiply()
        away = mean - self._middle
        covariance = self._squares / self.count - _outer(away)
        return Moments(mean, covariance if centred else covariance + _outer(mean))


def _outer(vectors: np.ndarray) -> np.ndarray:
    return vectors[:, :, np.newaxis] * vectors[:, np.newaxis]


def gather(model: bytes, samples: Samples) -> dict[str, Moments]:
    """The moments of each product with constant weights, by the name of its output; padding tokens are left out.

    Nothing where the entry is not the main graph, or for a file that cannot be written again."""
    entry, tree = flatbuffer.parse(model, "model").entry(), load(model)
    if entry.subgraph or tree is None:
        return {}
    if not (windows := _windows(tree)):
        return {}
    chosen = _affordable(tree, windows)
    sums = {window: _Sums(window in chosen) for window in windows.values()}
    tensors = Tensors(model, entry, sorted({window.tensor for window in sums}))
    draw = np.random.default_rng(0)
    # Spread over all of them, which may be sorted by class.
    few = samples.take(np.unique(np.linspace(0, len(samples) - 1, _ROWS).astype(np.int64)))
    for row in groups(few.inputs, tensors.batch, full=True):
        value_of, mask = tensors.run(row), token_mask(row)
        values = {index: value_of(index) for index in tensors.indices}
        for window, sum_ in sums.items():
            sum_.add(window.vectors(values[window.tensor], mask, draw))
    graph = tree.subgraphs[0]
    keys = {place: (window, has_bias(graph.operators[place])) for place, window in windows.items() if sums[window].count}
    moments = {key: sums[key[0]].moments(centred=key[1]) for key in set(keys.values())}
    return {text(graph.tensors[graph.operators[place].outputs[0]].name): moments[key] for place, key in keys.items()}


def names(tree: Any) -> Mapping[int, str]:
    """The products among a tree's op codes, by their index there."""
    return {index: name for name in PRODUCTS for index in opcodes(tree, name)}


def has_bias(operator: Any) -> bool:
    """Whether a product of a tree has one."""
    return len(operator.inputs) > BIAS and int(operator.inputs[BIAS]) >= 0


def _windows(tree: Any) -> dict[int, _Window]:
    """What each product of the main graph reads, by its place there."""
    graph, products = tree.subgraphs[0], names(tree)
    windows = {}
    for place, operator in enumerate(listed(graph.operators)):
        if (name := products.get(operator.opcodeIndex)) is None:
            continue
        tensor, weights = (int(operator.inputs[which]) for which in (ACTIVATIONS, WEIGHTS))
        shape, options = graph.tensors[weights].shape, operator.builtinOptions
        if tree.buffers[graph.tensors[weights].buffer].data is None or graph.tensors[tensor].type != schema.TensorType.FLOAT32:
            continue
        if name == "FULLY_CONNECTED":
            windows[place] = _Window(tensor, features=int(shape[-1]))
        elif options is not None and len(shape) == 4:
            # A grouped convolution has fewer input channels in its weights than its input has.
            if name == "CONV_2D" and int(shape[-1]) != int(graph.tensors[tensor].shape[-1]):
                continue
            windows[place] = _Window(
                tensor,
                (int(shape[1]), int(shape[2])),
                (options.strideH, options.strideW),
                (options.dilationHFactor, options.dilationWFactor),
                options.padding == schema.Padding.SAME,
                name == "DEPTHWISE_CONV_2D",
            )
    return windows


def _affordable(tree: Any, windows: Mapping[int, _Window]) -> set[_Window]:
    """Windows whose products can be rounded within the work that may be spent, the cheapest first."""
    graph = tree.subgraphs[0]
    work: dict[_Window, float] = {}
    for place, window in windows.items():
        shape = [int(size) for size in graph.tensors[graph.operators[place].inputs[WEIGHTS]].shape]
        groups, outputs = (shape[-1], 1) if window.depthwise else (1, shape[0])
        size = int(np.prod(shape)) // groups // outputs
        # One inverse for all that read the same, and a pass over each one's weights.
        work[window] = work.get(window, groups * size**3) + groups * outputs * size**2
    order = sorted(work, key=lambda window: work[window])
    total = np.cumsum([work[window] for window in order])
    return {window for window, spent in zip(order, total, strict=True) if spent <= _WORK}
