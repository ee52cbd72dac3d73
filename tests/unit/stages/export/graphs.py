"""Small ONNX graphs of the kinds that convert has to get right, and the road of each to a .tflite."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekit.data.samples import random_samples
from edgekit.models.source import Kind, Source
from edgekit.stages.export.saved_model import export_saved_model
from edgekit.stages.quantize.converter import convert_float
from edgekit.tflite import flatbuffer
from edgekit.workflows.convert import bridge
from edgekit.workflows.convert.bridge import FloatModel
from edgekit.workflows.convert.config import Bridge

_RANDOM = np.random.default_rng(0)


def model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int | str, ...]],
    outputs: Mapping[str, tuple[int | str, ...] | None],
    weights: dict[str, np.ndarray] | None = None,
    *,
    opset: int = 17,
    input_type: int = TensorProto.FLOAT,
    output_type: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, input_type, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, output_type, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _weights(*shape: int) -> np.ndarray:
    return _RANDOM.standard_normal(shape).astype(np.float32)


def convolution() -> onnx.ModelProto:
    """Two images at once, grouped channels, and a name that TensorFlow does not allow."""
    node = helper.make_node("Conv", ["0", "w"], ["y"], group=2, kernel_shape=[3, 3])
    return model([node], {"0": (2, 4, 6, 5)}, {"y": (2, 6, 4, 3)}, {"w": _weights(6, 2, 3, 3)})


def sequence() -> onnx.ModelProto:
    """A 1-D convolution: (1, channels, length) becomes (1, length, channels)."""
    node = helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3])
    return model([node], {"x": (1, 4, 6)}, {"y": (1, 4, 4)}, {"w": _weights(4, 4, 3)})


def equal_sizes() -> onnx.ModelProto:
    """A 1-D convolution whose shapes do not tell where channels are: they stay where the source has them."""
    node = helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3], pads=[1, 1])
    return model([node], {"x": (1, 4, 4)}, {"y": (1, 4, 4)}, {"w": _weights(4, 4, 3)})


def volume() -> onnx.ModelProto:
    node = helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[2, 2, 2])
    return model([node], {"x": (1, 3, 4, 4, 4)}, {"y": (1, 2, 3, 3, 3)}, {"w": _weights(2, 3, 2, 2, 2)})


def two_outputs() -> onnx.ModelProto:
    """Outputs whose alphabetic order is not the graph's, one of them integer."""
    nodes = [helper.make_node("Softmax", ["x"], ["scores"]), helper.make_node("ArgMax", ["x"], ["label"], axis=1, keepdims=0)]
    made = model(nodes, {"x": ("batch", 7)}, {"scores": ("batch", 7), "label": ("batch",)})
    made.graph.output[1].type.tensor_type.elem_type = TensorProto.INT64
    return made


def cube() -> onnx.ModelProto:
    """Attention-like products of a tensor whose axes are all of one size, which shapes alone cannot tell apart."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        helper.make_node("Add", ["t", "b"], ["a"]),
        helper.make_node("Reshape", ["a", "s"], ["y"]),
    ]
    return model(nodes, {"x": (4, 4, 4)}, {"y": (1, 4, 4, 4)}, {"b": _weights(4, 4), "s": np.array([1, 4, 4, 4])})


def colons() -> onnx.ModelProto:
    node = helper.make_node("Sub", ["x::1", "/layer/x"], ["out:0"])
    return model([node], {"x::1": (3, 5), "/layer/x": (3, 5)}, {"out:0": (3, 5)})


def scalar() -> onnx.ModelProto:
    node = helper.make_node("ReduceMean", ["x"], ["y"], keepdims=0)
    return model([node], {"x": (1, 6)}, {"y": ()})


def comparison() -> onnx.ModelProto:
    return model(
        [helper.make_node("Greater", ["x", "z"], ["y"])],
        {"x": (1, 6)},
        {"y": (1, 6)},
        {"z": np.zeros(6, np.float32)},
        output_type=TensorProto.BOOL,
    )


def old_broadcast() -> onnx.ModelProto:
    node = helper.make_node("Add", ["x", "b"], ["y"], broadcast=1)
    return model([node], {"x": (1, 6)}, {"y": (1, 6)}, {"b": _weights(6)}, opset=6)


def bidirectional() -> onnx.ModelProto:
    """An LSTM that leaves its initial state out."""
    node = helper.make_node("LSTM", ["x", "w", "r", "b"], ["y"], hidden_size=3, direction="bidirectional")
    return model(
        [node], {"x": (5, 1, 4)}, {"y": (5, 2, 1, 3)}, {"w": _weights(2, 12, 4), "r": _weights(2, 12, 3), "b": _weights(2, 24)}
    )


def quantized() -> onnx.ModelProto:
    """A QDQ product that saturates, with weights quantized for each channel."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "xs", "xz"], ["dx"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["dw"], axis=1),
        helper.make_node("MatMul", ["dx", "dw"], ["y"]),
    ]
    weights: dict[str, np.ndarray] = {
        "xs": np.array(0.01, np.float32),
        "xz": np.array(3, np.int8),
        "w": _RANDOM.integers(-128, 128, (6, 4)).astype(np.int8),
        "ws": np.array([0.1, 0.2, 0.3, 0.4], np.float32),
        "wz": np.zeros(4, np.int8),
    }
    return model(nodes, {"x": (1, 6)}, {"y": (1, 4)}, weights)


def one_value_twice() -> onnx.ModelProto:
    """A value under three names, one of them before it and one read by another output."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["logits"]),
        helper.make_node("Identity", ["logits"], ["again"]),
        helper.make_node("Reshape", ["again", "shape"], ["once_more"]),
        helper.make_node("Softmax", ["again"], ["scores"]),
    ]
    outputs = {"once_more": (1, 4), "scores": (1, 4), "logits": (1, 4), "again": (1, 4)}
    return model(nodes, {"x": (1, 6)}, outputs, {"w": _weights(6, 4), "shape": np.array([1, 4])})


def choice() -> onnx.ModelProto:
    """Of scores and minus infinity, over which a softmax is taken."""
    nodes = [
        helper.make_node("Greater", ["x", "zero"], ["positive"]),
        helper.make_node("Where", ["positive", "x", "minus"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["y"]),
    ]
    return model(
        nodes, {"x": (3, 6)}, {"y": (3, 6)}, {"zero": np.full(6, -9, np.float32), "minus": np.full(6, -np.inf, np.float32)}
    )


def slopes() -> onnx.ModelProto:
    return model([helper.make_node("PRelu", ["x", "s"], ["y"])], {"x": (1, 5, 6)}, {"y": (1, 5, 6)}, {"s": _weights(5, 1)})


def groups() -> onnx.ModelProto:
    """A GroupNormalization behind a convolution."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3]),
        helper.make_node("GroupNormalization", ["c", "s", "b"], ["n"], num_groups=2),
        helper.make_node("Relu", ["n"], ["y"]),
    ]
    weights = {"w": _weights(6, 4, 3, 3), "s": _weights(6), "b": _weights(6)}
    return model(nodes, {"x": (1, 4, 7, 5)}, {"y": (1, 6, 5, 3)}, weights, opset=21)


# Those in which channels move, and those in which every tensor stays as it is: onnx2tf is set up differently for them.
MOVED = (convolution, sequence, volume, groups)
KEPT = (
    equal_sizes,
    two_outputs,
    cube,
    colons,
    scalar,
    comparison,
    old_broadcast,
    bidirectional,
    quantized,
    one_value_twice,
    choice,
    slopes,
)


def save_all(folder: Path, names: list[str]) -> list[Path]:
    """Each graph as `<name>.onnx` in `folder`."""
    for name in names:
        onnx.save(globals()[name](), folder / f"{name}.onnx")
    return [folder / f"{name}.onnx" for name in names]


def convert_all(folder: Path, names: list[str]) -> dict[str, FloatModel | str]:
    """Each graph as `<name>.onnx` and, by its SavedModel, as `<name>.tflite` in `folder`, compared; or what was raised."""
    found: dict[str, FloatModel | str] = {}
    for name, file in zip(names, save_all(folder, names), strict=True):
        tflite = folder / f"{name}.tflite"
        try:
            ends = export_saved_model(file, None, folder / name, foreign=True, max_length=8).ends
            convert_float(folder / name, tflite, 8, names=ends.names, outputs=ends.outputs, origin=file)
            found[name] = compared(FloatModel(tflite, onnx=ends, road=Bridge.TF), file)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def compared(made: FloatModel, file: Path) -> FloatModel:
    """With the outputs of ONNX Runtime on random rows."""
    content, rows = flatbuffer.read(made.path), made.path.with_suffix(".rows")
    random_samples(content.signature(content.entry()).inputs, 8).save(rows)
    if (parity := bridge.compare_outputs(Source(Kind.ONNX, file, file.stem), made, rows)) is not None:
        made.parity[parity.output] = parity
    return made
