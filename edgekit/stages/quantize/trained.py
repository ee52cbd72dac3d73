"""Ranges that quantization-aware training found, put in the place of calibrated ones; in a worker child."""

import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.models.ranges import LayerRanges, TrainedRanges, digest
from edgekit.stages.quantize.prepare import prepare
from edgekit.stages.quantize.quantizer import operators
from edgekit.tflite import flatbuffer, schema

_WEIGHTS, _BIAS = 1, 2
# What a fused activation leaves of a range; the float kernel has no others.
_LIMITS = {"NONE": (-np.inf, np.inf), "RELU": (0.0, np.inf), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0)}
_Ends = tuple[float, float]


@dataclass(frozen=True)
class Taken:
    """What became of the trained ranges of a checkpoint's linear layers.

    `ops` of the `considered` fully connected ops took them, known by the names of their outputs. `left` are those that have
    calibrated ranges, in the input, in the output or in both, and `unmatched` the layers that no op took ranges of."""

    ops: int
    considered: int
    left: tuple[str, ...]
    unmatched: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether every fully connected op computes as it was trained."""
        return self.ops > 0 and not self.left

    @property
    def told(self) -> str:
        """What the user is told."""
        told = f"ranges trained: {self.ops} of {self.considered} fully connected ops take them"
        if self.left:
            told += f"; {len(self.left)} keep calibrated ones"
        if self.unmatched:
            told += (
                f"; no op has the weights of {len(self.unmatched)} layers, such as {self.unmatched[0]}"
                " (--bridge litert multiplies a normalization's scale into them, onnx does not)"
            )
        return told


def take_ranges(model: Path, calibration: Path, ranges: TrainedRanges, target: Path) -> Taken:
    """Write `calibration` to `target` with the trained ranges over the calibrated ones of `model`'s fully connected ops.

    Ops are known by their constants: weights and bias together, or weights alone where the graph adds the bias elsewhere, and
    then the output's range is not the layer's. Where tensors with different ranges became one, it has the wider range.
    Weights are not rounded together nor biases corrected where a layer was trained: it has learned with each weight rounded to
    the nearest. int16 keeps the calibrated range, whose steps are fine enough."""
    statistics, products = pickle.loads(calibration.read_bytes())
    data = prepare(model.read_bytes())
    activations = dict(_fused(data))
    layers = _by_constants(ranges)
    trained: dict[str, _Ends] = {}
    used: set[str] = set()
    calibrated, whole, untrained = [], 0, dict(products)
    for graph, operator, constant in operators(data):
        if operator.name != "FULLY_CONNECTED" or (weights := constant(operator.inputs[_WEIGHTS])) is None:
            continue
        source, output = (graph.tensors[index].name for index in (operator.inputs[0], operator.outputs[0]))
        bias = constant(operator.inputs[_BIAS]) if len(operator.inputs) > _BIAS else None
        names, layer, biased = _match(layers, weights, bias)
        if layer is None:
            calibrated.append(output)
            continue
        used |= names
        untrained.pop(output, None)
        trained[source] = _wider(trained.get(source, layer.input), layer.input)
        if biased:
            low, high = map(float, np.clip(layer.output, *_LIMITS[activations[output]]))
            trained[output] = _wider(trained.get(output, (low, high)), (low, high))
            whole += 1
        else:
            calibrated.append(output)
    taken = {name: _over(statistics[name], ends) for name, ends in trained.items() if name in statistics}
    target.write_bytes(pickle.dumps(({**statistics, **taken}, untrained)))
    unmatched = tuple(name for name in ranges.layers if name not in used)
    return Taken(whole, whole + len(calibrated), tuple(calibrated), unmatched)


_Known = Mapping[tuple[str, str] | str, tuple[frozenset[str], LayerRanges]]


def _by_constants(ranges: TrainedRanges) -> _Known:
    """Names and ranges of the layers by weights and bias, and by weights; of layers that are alike the widest range."""
    found: dict[tuple[str, str] | str, tuple[frozenset[str], LayerRanges]] = {}
    for name, layer in ranges.layers.items():
        for key in ((layer.weight_sha256, layer.bias_sha256), layer.weight_sha256):
            names, other = found.get(key, (frozenset[str](), layer))
            both = replace(layer, input=_wider(layer.input, other.input), output=_wider(layer.output, other.output))
            found[key] = names | {name}, both
    return found


def _match(known: _Known, weights: np.ndarray, bias: np.ndarray | None) -> tuple[frozenset[str], LayerRanges | None, bool]:
    """Names and ranges of the layer with these constants, and whether the bias is that layer's too."""
    added = digest(None if bias is None else bias.reshape(-1))
    for values in (weights, weights.T):
        stored = digest(values)
        for key in ((stored, added), stored):
            if stored and key in known:
                return *known[key], key != stored
    return frozenset(), None, False


def _wider(one: _Ends, other: _Ends) -> _Ends:
    return min(one[0], other[0]), max(one[1], other[1])


def _over(limits: Mapping[str, Any], ends: _Ends) -> dict[str, Any]:
    """Calibrated statistics of a tensor with the trained range over them."""
    least, greatest = limits.get("least", limits["min"]), limits.get("greatest", limits["max"])
    low, high = (np.full_like(limits[name], end) for name, end in zip(("min", "max"), ends, strict=True))
    return {**limits, "min": low, "max": high, "least": least, "greatest": greatest}


def _fused(model: bytes) -> Iterator[tuple[str, str]]:
    """Each fully connected op by the name of its output, with the activation that it ends with."""
    tree = schema.Model.GetRootAs(model, 0)
    for number, graph in enumerate(flatbuffer.parse(model, "model").subgraphs):
        for place, operator in enumerate(graph.operators):
            if operator.name != "FULLY_CONNECTED":
                continue
            options = tree.Subgraphs(number).Operators(place).BuiltinOptions()
            kind = schema.ActivationFunctionType.NONE
            if options is not None:
                stored = schema.FullyConnectedOptions()
                stored.Init(options.Bytes, options.Pos)
                kind = stored.FusedActivationFunction()
            yield graph.tensors[operator.outputs[0]].name, schema.names("ActivationFunctionType")[kind]
