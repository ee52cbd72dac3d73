"""Files that a stranger might hand in, made on the spot; what loads a framework runs in a child."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tests.unit.tflite.conftest import Builder


def write_keras(path: Path, symbol: str, arguments: Mapping[str, Any]) -> None:
    """A Keras-2 .h5 whose one layer calls `tf.symbol` with these arguments beside its input."""
    layers = [
        {"class_name": "InputLayer", "config": {"batch_input_shape": [1, 4], "dtype": "float32", "name": "x"}, "name": "x"},
        {"class_name": "TFOpLambda", "config": {"name": "op", "function": symbol, "trainable": True}, "name": "op"},
    ]
    nodes: list[list[Any]] = [[], [["x", 0, 0, dict(arguments)]]]
    described = [{**layer, "inbound_nodes": inbound} for layer, inbound in zip(layers, nodes, strict=True)]
    config = {"name": "model", "layers": described, "input_layers": [["x", 0, 0]], "output_layers": [["op", 0, 0]]}
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"], file.attrs["backend"] = "2.15.0", "tensorflow"
        file.attrs["model_config"] = json.dumps({"class_name": "Functional", "config": config})
        file.create_group("model_weights").attrs["layer_names"] = np.array([b"x", b"op"])


def write_saved_model(folder: Path, left: Path) -> None:
    """A SavedModel that writes the file `left` when it is loaded; in a child."""
    import tensorflow as tf

    class Spoils(tf.saved_model.experimental.TrackableResource):
        def _create_resource(self) -> Any:
            return tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[], shared_name="spoils")

        def _initialize(self) -> None:
            tf.io.write_file(str(left), "x")

    module = tf.Module()
    module.spoils = Spoils()
    adds = tf.function(lambda x: {"y": x + 1}, input_signature=[tf.TensorSpec([1, 4], tf.float32, name="x")])
    tf.saved_model.save(module, str(folder), signatures={"serving_default": adds})
    left.unlink(missing_ok=True)


def write_torchscript(path: Path, victim: Path) -> None:
    """A TorchScript module that overwrites `victim` when it runs; in a child."""
    import torch

    class Overwrites(torch.nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return torch.from_file(self.name, shared=True, size=2).zero_()

    torch.jit.script(Overwrites(str(victim))).save(str(path))


def endless(*shape: int) -> bytes:
    """Input x of this shape; a WHILE whose condition is always true."""
    build = Builder()
    x, y = build.tensor("x", [*shape]), build.tensor("y", [*shape])
    build.op("WHILE", [x], [y], schema.WhileOptionsT(condSubgraphIndex=1, bodySubgraphIndex=2))
    build.ends({"x": x}, {"y": y}, "serving_default")
    build.graph()
    held, true = build.tensor("held", [*shape]), build.tensor("true", [1], data=np.array([True]))
    build.current.tensors[true].type = schema.TensorType.BOOL
    build.ends({"held": held}, {"true": true})
    build.graph()
    before, after = build.tensor("before", [*shape]), build.tensor("after", [*shape])
    build.op("NEG", [before], [after], schema.NegOptionsT())
    build.ends({"before": before}, {"after": after})
    return build.pack()


def greedy() -> bytes:
    """Input x (1, 4); fills 2^30 floats and sums them up."""
    build = Builder()
    x, y = build.tensor("x", [1, 4]), build.tensor("y", [1, 4])
    shape = build.tensor("shape", [2], "int32", data=np.array([2**15, 2**15], np.int32))
    axes = build.tensor("axes", [2], "int32", data=np.array([0, 1], np.int32))
    one = build.tensor("one", [], data=np.array(1, np.float32))
    filled, total = build.tensor("filled", [-1, -1]), build.tensor("total", [])
    build.op("FILL", [shape, one], [filled], schema.FillOptionsT())
    build.op("SUM", [filled, axes], [total], schema.ReducerOptionsT(keepDims=False))
    build.op("ADD", [x, total], [y], schema.AddOptionsT())
    build.ends({"x": x}, {"y": y}, "serving_default")
    return build.pack()


def write_bomb(path: Path) -> None:
    """An .npz of some 100 kB that unpacks to 300 MB."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (300 * 2**8, 1024)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w", force_zip64=True) as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        zeros = bytes(2**24)
        for _ in range(300 * 2**20 // len(zeros) + 1):
            stream.write(zeros)


def changed(file: Path, entries: Mapping[str, Any]) -> None:
    """Put other values into a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def deep(levels: int = 100_000) -> str:
    """JSON nested deeper than Python's stack."""
    return "[" * levels + "]" * levels
