"""Tiny .tflite files, written with the schema's own object classes."""

from collections.abc import Sequence
from pathlib import Path

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
