"""Tiny .tflite and ONNX files, the former written with the schema's own object classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def fully_connected(path: Path, weights: Sequence[Sequence[float]], name: str = "features") -> Path:
    """Write a float32 file that multiplies its input (1, columns) with `weights` (rows, columns)."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    values = np.array(weights, dtype=np.float32)
    rows, columns = values.shape

    def tensor(label: str, shape: tuple[int, ...], buffer: int):
        return schema.TensorT(name=label.encode(), shape=list(shape), type=schema.TensorType.FLOAT32, buffer=buffer)

    options = schema.FullyConnectedOptionsT()
    operator = schema.OperatorT(
        opcodeIndex=0,
        inputs=[0, 1, -1],
        outputs=[2],
        builtinOptionsType=schema.BuiltinOptions.FullyConnectedOptions,
        builtinOptions=options,
    )
    graph = schema.SubGraphT(
        tensors=[tensor(name, (1, columns), 0), tensor("weights", (rows, columns), 1), tensor("scores", (1, rows), 0)],
        inputs=[0],
        outputs=[2],
        operators=[operator],
    )
    code = schema.BuiltinOperator.FULLY_CONNECTED
    model = schema.ModelT(
        version=3,
        operatorCodes=[schema.OperatorCodeT(builtinCode=code, deprecatedBuiltinCode=code, version=1)],
        subgraphs=[graph],
        buffers=[schema.BufferT(), schema.BufferT(data=np.frombuffer(values.tobytes(), np.uint8))],
    )
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def linear_onnx(path: Path, weights: Sequence[Sequence[float]], *, external: bool = False) -> Path:
    """Write an ONNX file that multiplies its input `features` (1, columns) with `weights` (rows, columns)."""
    from onnx import TensorProto, helper, numpy_helper

    values = np.array(weights, dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["features", "weights"], ["scores"], transB=1)],
        "linear",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", values.shape[1]])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", values.shape[0]])],
        [numpy_helper.from_array(values, "weights")],
    )
    return save_onnx(path, graph, external=external)


def bag_onnx(path: Path, table: np.ndarray) -> Path:
    """Write an ONNX file that sums the rows of `table` (vocabulary, classes) of the tokens that the mask keeps."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["kept"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["kept", "last"], ["column"]),
        helper.make_node("Mul", ["rows", "column"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "middle"], ["logits"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "bag",
        [helper.make_tensor_value_info(name, TensorProto.INT64, [1, "length"]) for name in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, table.shape[1]])],
        [
            numpy_helper.from_array(table.astype(np.float32), "table"),
            numpy_helper.from_array(np.array([2], np.int64), "last"),
            numpy_helper.from_array(np.array([1], np.int64), "middle"),
        ],
    )
    return save_onnx(path, graph)


def save_onnx(path: Path, graph: Any, *, external: bool = False) -> Path:
    import onnx
    from onnx import helper

    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if external:
        onnx.save(model, path, save_as_external_data=True, location=f"{path.stem}.data", size_threshold=0)
    else:
        onnx.save(model, path)
    return path


def ort_of(path: Path) -> Path:
    """The ONNX file in ONNX Runtime's own format, beside it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path.with_suffix(".ort"))
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return path.with_suffix(".ort")
