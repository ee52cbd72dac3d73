"""Causes of a quantized file's error and slowness, most decisive first, each with what mends it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.measure.layer_errors import Layer, representable
from edgekit.measure.layers import MOVES, names, reaches_softmax, roles
from edgekit.measure.op_times import Outside
from edgekit.models.attention_masks import THRESHOLD
from edgekit.stages.quantize import forms
from edgekit.tflite.flatbuffer import Subgraph

# A mask this many times wider than the scores it is added to leaves them two or three of int8's 256 levels.
_MASK_RATIO = 100.0
_LEAST_MASK = 500.0
_ABSURD_SCALE = 1e6
_NORMALIZING = ("MEAN", "SQUARED_DIFFERENCE", "RSQRT")
# A median channel that has a twentieth of the widest one's range is left with 13 of int8's 256 levels.
_OUTLIER_RATIO = 20.0
_CLIPPED = 1e-3
# Above this nothing that follows from rounding is worth mending.
_GOOD_DB = 30.0
_SPLIT = 4
_SHOWN = 3


@dataclass(frozen=True)
class Finding:
    """What is wrong (`kind` in one word for programs), where, and what to do about it."""

    kind: str
    cause: str
    mend: str
    layers: tuple[str, ...] = ()


def of_scales(graph: Subgraph, called: dict[int, str] | None = None) -> list[Finding]:
    """What the file's own scales give away, without running it: a mask that decides them."""
    called = called or names(graph)
    hit: list[int] = []
    lowest = 0.0
    for place, operator in enumerate(graph.operators):
        bounds = representable(graph.tensors[operator.outputs[0]]) if operator.outputs else None
        if bounds is None:
            continue
        absurd = bounds[0] <= THRESHOLD or (graph.tensors[operator.outputs[0]].scale or 0) >= _ABSURD_SCALE
        operands = [limits for index in operator.inputs if index >= 0 and (limits := representable(graph.tensors[index]))]
        narrow = min((high - low for low, high in operands), default=0.0)
        buried = (
            operator.name in ("ADD", "SUB", "SELECT_V2", "SELECT")
            and narrow > 0
            and bounds[0] <= -_LEAST_MASK
            and (bounds[1] - bounds[0]) >= _MASK_RATIO * narrow
        )
        if absurd or (buried and reaches_softmax(graph, place)):
            hit.append(place)
            lowest = min(lowest, bounds[0])
    # Which of them lead into a softmax tells a mask from another constant; the sums of scores and mask are named first.
    masked = [place for place in hit if reaches_softmax(graph, place)]
    if not masked:
        return []
    parts = roles(graph)
    masked.sort(key=lambda place: (graph.operators[place].name not in ("ADD", "SUB"), place not in parts, place))
    where = [called.get(place, graph.operators[place].name) for place in masked]
    value = f"{lowest:.2g}".replace("e+", "e")
    scale = graph.tensors[graph.operators[masked[0]].outputs[0]].scale or 0.0
    return [
        Finding(
            "attention mask",
            f"the attention mask's value {value} decides the scale of {_listed(where)}: one integer step there is {scale:.2g}, "
            "so every real attention score rounds to the same value",
            "export with a small finite mask: edgekit convert does this from the checkpoint or the float32 .tflite (it replaces "
            "the mask by the smallest value that gives the same outputs); in your own export, add -20 or so instead of finfo.min",
            tuple(where),
        )
    ]


def of_layers(graph: Subgraph, layers: Sequence[Layer], output_db: float) -> list[Finding]:
    """What the layers' statistics give away; only clipping is told where the outputs are good already."""
    found = [] if output_db >= _GOOD_DB else [_normalization(layers), _outliers(layers), _residual(graph, layers)]
    return [finding for finding in (*found[:2], _clipping(layers), *found[2:]) if finding is not None]


def of_speed(graph: Subgraph, speed: Outside, p50_ms: float, reference_ms: float) -> list[Finding]:
    """Why the file is slow, where it takes half of the float file's time or more."""
    if p50_ms < reference_ms / 2:
        return []
    return [*_split(speed), *_on_the_fly(graph)]


def of_rewrites(before: Mapping[str, int], after: Mapping[str, int], ratio: float) -> list[Finding]:
    """What the float file leaves to others to simplify: its ops by count `before` and `after`, times `after` to `before`."""
    gone, come = Counter(before) - Counter(after), Counter(after) - Counter(before)
    if not gone:
        return []
    instead = f" become {_counted(come)}" if come else " are not needed"
    return [
        Finding(
            "unsimplified graph",
            f"{_counted(gone)} of the float file{instead}: the same in {sum(after.values())} ops, not {sum(before.values())}, "
            f"and {ratio:.2f}× its time; those are what quantizers look for",
            "convert the float file with edgekit convert, which rewrites it, and quantizes what comes of it",
        )
    ]


def _counted(ops: Counter[str]) -> str:
    return _listed([f"{count} {name}" for name, count in ops.most_common()])


def _on_the_fly(graph: Subgraph) -> list[Finding]:
    thin = forms.thin_convolutions(graph)
    called = names(graph)
    slow = [
        called.get(place, operator.name)
        for place, operator in enumerate(graph.operators)
        if forms.output(graph, operator) in thin
        and graph.tensors[operator.inputs[0]].dtype == "float32"
        and graph.tensors[operator.inputs[1]].dtype == "int8"
    ]
    if not slow:
        return []
    return [
        Finding(
            "thin convolutions",
            f"{len(slow)} 1x1 convolutions with few channels have int8 weights and float activations, and quantize what they read "
            f"on the fly, which takes up to ten times as long as computing them in float32: {_listed(slow)}",
            "leave them in float32, their weights are a few kB: edgekit convert --scheme dynamic and int8 do",
            tuple(slow),
        )
    ]


def _split(speed: Outside) -> list[Finding]:
    if speed.partitions < _SPLIT or not speed.outside:
        return []
    most = [f"{one.count} {one.op} in {one.dtype} ({one.share:.0%})" for one in speed.outside[:_SHOWN]]
    estimated = sum(one.share for one in speed.outside)
    return [
        Finding(
            "split delegate",
            f"XNNPACK runs the file in {speed.partitions} partitions and leaves {speed.ops - speed.delegated_ops} of its "
            f"{speed.ops} ops to the interpreter, which take about {min(estimated, 1):.0%} of the time: {', '.join(most)}",
            "keep those ops in float32, which XNNPACK has kernels for: edgekit convert --scheme int8 tries integers in matrix "
            "products only and takes that form where it is as true and faster; --scheme dynamic needs no calibration",
        )
    ]


def _integers(layers: Sequence[Layer]) -> list[Layer]:
    return [layer for layer in layers if layer.storage_sqnr_db is not None]


def _normalization(layers: Sequence[Layer]) -> Finding | None:
    # MEAN alone is pooling; with one of the other two it is a normalization.
    steps = [layer for layer in _integers(layers) if layer.op in _NORMALIZING and layer.dtype != "int16"]
    counts = Counter(layer.op for layer in steps)
    if not counts["RSQRT"] and not counts["SQUARED_DIFFERENCE"]:
        return None
    worst = sorted(steps, key=lambda layer: layer.sqnr_db)
    listed = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    return Finding(
        "layer normalization",
        f"LayerNorm has no integer kernel and runs as single steps in {worst[0].dtype} ({listed}), each rounded; the worst is "
        f"{worst[0].name} with an SQNR of {worst[0].sqnr_db:.1f} dB",
        "leave LayerNorm in float32: edgekit convert --scheme int8 keeps integers to the matrix products where that is truer; "
        "with --integer-only these ops get int16",
        tuple(layer.name for layer in worst),
    )


def _outliers(layers: Sequence[Layer]) -> Finding | None:
    wide = [
        layer
        for layer in _integers(layers)
        if layer.dtype != "int16"
        and (layer.channel_ratio or 0) >= _OUTLIER_RATIO
        # The last axis of probabilities holds positions or classes, and their scale is 1/256 whatever they are.
        and layer.op not in (*_NORMALIZING, *MOVES, "SOFTMAX")
    ]
    if not wide:
        return None
    wide.sort(key=lambda layer: -(layer.channel_ratio or 0))
    ratio = wide[0].channel_ratio or 1.0
    return Finding(
        "outlier channels",
        f"one channel of {wide[0].name} is {ratio:.0f} times as wide as the median channel, which is left with about "
        f"{max(1, round(256 / ratio))} of 256 levels" + _more(wide[1:]),
        "leave these ops in float32: edgekit convert --scheme int8 searches for the fewest; "
        "--integer-only scales such channels down and up again in int16",
        tuple(layer.name for layer in wide),
    )


def _clipping(layers: Sequence[Layer]) -> Finding | None:
    cut = [layer for layer in _integers(layers) if (layer.clipped or 0) >= _CLIPPED]
    if not cut:
        return None
    cut.sort(key=lambda layer: -(layer.clipped or 0))
    first = cut[0]
    return Finding(
        "clipping",
        f"{first.clipped or 0:.1%} of the values of {first.name} lie outside what its scale represents ({first.stored_min:.3g} to "
        f"{first.stored_max:.3g}; the float file has {first.float_min:.3g} to {first.float_max:.3g})" + _more(cut[1:]),
        "calibrate on more rows, or on rows like those the model will see: edgekit convert --representative-samples",
        tuple(layer.name for layer in cut),
    )


def _residual(graph: Subgraph, layers: Sequence[Layer]) -> Finding | None:
    parts = roles(graph)
    sums = [layer for layer in _integers(layers) if parts.get(layer.place) == "residual" and layer.dtype != "int16"]
    if not sums:
        return None
    worst = min(sums, key=lambda layer: layer.sqnr_db)
    return Finding(
        "residual sums",
        f"{len(sums)} residual ADDs are stored in {worst.dtype}, so the rounding of each layer stays in all that follow; SQNR "
        f"{np.median([layer.sqnr_db for layer in sums]):.1f} dB at the median, {worst.sqnr_db:.1f} dB in {worst.name}",
        "leave the residual sums in float32 (edgekit convert --scheme int8) or int16 (with --integer-only)",
        tuple(layer.name for layer in sorted(sums, key=lambda layer: layer.sqnr_db)),
    )


def _more(layers: Sequence[Layer]) -> str:
    return f"; so it is in {_listed([layer.name for layer in layers])}" if layers else ""


def _listed(where: Sequence[str]) -> str:
    rest = len(where) - _SHOWN
    return ", ".join(where[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
