"""Tiny models in the formats that `convert` reads, and children that fail; each function runs in a worker's child."""

import os
from pathlib import Path
from typing import Any


def write_keras(folder: Path) -> None:
    """`model.h5` and a SavedModel `saved`, both the same small convolutional network with input `image` (8, 8, 3)."""
    import tf_keras

    # TensorFlow's own seed leaves the weights to chance, and with them how near two classes come.
    tf_keras.utils.set_random_seed(1)
    layers = tf_keras.layers
    model = tf_keras.Sequential(
        [
            layers.Input((8, 8, 3), name="image"),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.DepthwiseConv2D(3, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10),
        ]
    )
    model.save(folder / "model.h5")
    model.export(folder / "saved")


def write_recurrent(path: Path) -> None:
    """A Keras model of an LSTM and a GRU whose batch is free, as .h5 or, without a suffix, as a SavedModel."""
    import tf_keras as keras

    layers = [keras.layers.LSTM(8, return_sequences=True), keras.layers.GRU(8), keras.layers.Dense(3)]
    model = keras.Sequential([keras.layers.Input((6, 4)), *layers])
    model.save(path) if path.suffix else model.export(path)


def write_keras_3(folder: Path) -> None:
    """`image.keras`, a small convolutional network with input `image` (8, 8, 3), and `steps.keras`, an LSTM and a GRU."""
    import keras

    keras.utils.set_random_seed(1)
    layers = keras.layers
    convolutions = [layers.Conv2D(16, 3, padding="same", activation="relu"), layers.DepthwiseConv2D(3, padding="same")]
    head = [layers.BatchNormalization(), layers.GlobalAveragePooling2D(), layers.Dense(10, name="scores")]
    keras.Sequential([keras.Input((8, 8, 3), name="image"), *convolutions, *head]).save(folder / "image.keras")
    recurrent = [layers.LSTM(8, return_sequences=True), layers.GRU(8), layers.Dense(3, name="last")]
    keras.Sequential([keras.Input((6, 4), name="steps"), *recurrent]).save(folder / "steps.keras")


def write_programs(folder: Path) -> None:
    """`image.pt2`, a convolutional network with input `image` (free, 3, 8, 8) and output `scores`, and `steps.pt2`, an LSTM."""
    import torch
    from torch import nn

    torch.manual_seed(1)

    class Image(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            first = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, groups=16)
            self.layers = nn.Sequential(*first, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))

        def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"scores": self.layers(image)}

    free = {"image": {0: torch.export.Dim("batch")}}
    image = torch.export.export(Image().eval(), (torch.randn(2, 3, 8, 8),), dynamic_shapes=free)
    torch.export.save(image, folder / "image.pt2")
    torch.export.save(torch.export.export(nn.LSTM(4, 8, batch_first=True), (torch.randn(1, 6, 4),)), folder / "steps.pt2")


def write_lambda(path: Path, left: Path) -> None:
    """A Keras-2 .h5 with a Lambda layer inside another; running it would write the file `left`."""
    import tf_keras

    def spoil(values: Any, place: str = str(left)) -> Any:
        __import__("pathlib").Path(place).touch()
        return values

    layers = tf_keras.layers
    inner = layers.Lambda(spoil, name="doubled")
    model = tf_keras.Sequential([layers.Input((4, 8), name="x"), layers.TimeDistributed(inner), layers.Flatten(), layers.Dense(3)])
    model.save(path)
    left.unlink(missing_ok=True)


def write_signatures(folder: Path) -> None:
    """A SavedModel with the signatures `first` and `second`."""
    import tensorflow as tf

    module = tf.Module()
    spec = tf.TensorSpec([1, 4], tf.float32, name="x")
    functions = {name: tf.function(lambda x: {"y": x + 1}, input_signature=[spec]) for name in ("first", "second")}
    tf.saved_model.save(module, str(folder), signatures=functions)


def write_onnx(path: Path) -> None:
    """CONV, RELU, global pooling and a dense layer; input `image` (1, 3, 8, 8), output `class scores`."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    draw = np.random.default_rng(0)

    def constant(name: str, *shape: int) -> Any:
        return numpy_helper.from_array((0.4 * draw.standard_normal(shape)).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["first"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["first"], ["second"]),
        helper.make_node("GlobalAveragePool", ["second"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w2", "b2"], ["class scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("class scores", TensorProto.FLOAT, [1, 10])],
        [constant("w1", 16, 3, 3, 3), constant("b1", 16), constant("w2", 16, 10), constant("b2", 10)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def write_batched_onnx(path: Path) -> None:
    """Two dense layers with ReLU between; input `x` (3, 16), whose first axis is fixed."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    draw = np.random.default_rng(0)

    def constant(name: str, *shape: int) -> Any:
        return numpy_helper.from_array((0.4 * draw.standard_normal(shape)).astype(np.float32), name)

    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["first"]),
        helper.make_node("Relu", ["first"], ["second"]),
        helper.make_node("Gemm", ["second", "w2", "b2"], ["scores"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [3, 16]), ("scores", [3, 10]))]
    weights = [constant("w1", 16, 16), constant("b1", 16), constant("w2", 16, 10), constant("b2", 10)]
    graph = helper.make_graph(nodes, "batched", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def lie(model: Path, target: Path) -> None:
    """A sound file with the signs of the last layer's weights turned, where float16 should be."""
    import numpy as np

    from edgekit.tflite import tree

    root = tree.load(model.read_bytes())
    assert root is not None
    place = next(tensor.buffer for tensor in root.subgraphs[0].tensors if tensor.name == b"w3")
    root.buffers[place].data = (-np.asarray(root.buffers[place].data).view(np.float32)).view(np.uint8)
    target.write_bytes(tree.pack(root))


def ruin(model: Path, target: Path) -> None:
    """A file whose last two of its largest layers have their weights shuffled, where float16 should be."""
    import numpy as np

    from edgekit.tflite import tree

    root = tree.load(model.read_bytes())
    assert root is not None
    graph = root.subgraphs[0]
    fully_connected = {place for place, code in enumerate(root.operatorCodes) if code.builtinCode == 9}
    buffers = [graph.tensors[op.inputs[1]].buffer for op in graph.operators if op.opcodeIndex in fully_connected]
    sizes = [0 if root.buffers[place].data is None else len(root.buffers[place].data) for place in buffers]
    for place in [place for place, size in zip(buffers, sizes, strict=True) if size == max(sizes)][-2:]:
        values = np.asarray(root.buffers[place].data).view(np.float32)
        root.buffers[place].data = np.random.default_rng(0).permutation(values).view(np.uint8)
    target.write_bytes(tree.pack(root))


def write_detector(path: Path) -> None:
    """Input `image` (1, 3, 8, 8); `boxes` (1, 20, 4) and `scores` (1, 20) from dense layers over a convolution."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    draw = np.random.default_rng(0)
    shapes = {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (1024, 80), "b2": (80,), "w3": (1024, 20), "b3": (20,)}
    weights = [
        numpy_helper.from_array((0.1 * draw.standard_normal(shape)).astype(np.float32), name) for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["first"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["first"], ["second"]),
        helper.make_node("Flatten", ["second"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w2", "b2"], ["corners"]),
        helper.make_node("Reshape", ["corners", "shape"], ["boxes"]),
        helper.make_node("Gemm", ["flat", "w3", "b3"], ["raw"]),
        helper.make_node("Sigmoid", ["raw"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, 20, 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 20]),
        ],
        [*weights, numpy_helper.from_array(np.array([1, 20, 4]), "shape")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def write_prices(path: Path, rows: Path) -> None:
    """Input `x` (1, 16), output `price` (1, 1) around 2,000, and 128 rows with what it says of them as their labels."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

    draw = np.random.default_rng(0)
    shapes = {"w1": (16, 32), "b1": (32,), "w2": (32, 1)}
    weights = [numpy_helper.from_array(draw.standard_normal(shape).astype(np.float32), name) for name, shape in shapes.items()]
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["first"]),
        helper.make_node("Relu", ["first"], ["second"]),
        helper.make_node("Gemm", ["second", "w2", "b2"], ["price"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [1, 16]), ("price", [1, 1]))]
    weights.append(numpy_helper.from_array(np.array([2000], np.float32), "b2"))
    model = helper.make_model(
        helper.make_graph(nodes, "prices", ends[:1], ends[1:], weights), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.save(model, path)
    features = draw.standard_normal((128, 16)).astype(np.float32)
    run = ReferenceEvaluator(model).run
    labels = np.array([run(None, {"x": row[np.newaxis]})[0][0, 0] for row in features])
    np.savez(rows, x=features, labels=labels)


def crash(*_: object) -> None:
    os.abort()


def take_memory(*_: object) -> None:
    raise MemoryError


def leave(*_: object) -> None:
    """What libraries do that call `sys.exit` where they should raise."""
    os._exit(0)
