"""Tiny .tflite files made by hand with the schema's object API: no TensorFlow, a few milliseconds each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

_DTYPES = {
    "bool": schema.TensorType.BOOL,
    "float32": schema.TensorType.FLOAT32,
    "float16": schema.TensorType.FLOAT16,
    "int8": schema.TensorType.INT8,
    "uint8": schema.TensorType.UINT8,
    "int16": schema.TensorType.INT16,
    "int32": schema.TensorType.INT32,
    "int64": schema.TensorType.INT64,
    "string": schema.TensorType.STRING,
}


class Builder:
    """Collects one model; `graph()` starts a further subgraph."""

    def __init__(self, description: str = "tiny") -> None:
        self.model = schema.ModelT(
            version=3,
            description=description,
            buffers=[schema.BufferT()],
            operatorCodes=[],
            subgraphs=[],
            signatureDefs=[],
            metadata=[],
        )
        self.graph()

    def graph(self) -> None:
        self.current = schema.SubGraphT(tensors=[], operators=[], inputs=[], outputs=[], name="main")
        self.model.subgraphs.append(self.current)

    def buffer(self, data: np.ndarray) -> int:
        self.model.buffers.append(schema.BufferT(data=np.frombuffer(data.tobytes(), np.uint8)))
        return len(self.model.buffers) - 1

    def tensor(
        self,
        name: str,
        shape: list[int],
        dtype: str = "float32",
        *,
        data: np.ndarray | None = None,
        buffer: int = 0,
        scale: list[float] | None = None,
        zero_point: int = 0,
    ) -> int:
        tensor = schema.TensorT(name=name, shape=[abs(size) for size in shape], type=_DTYPES[dtype], hasRank=True)
        tensor.buffer = self.buffer(data) if data is not None else buffer
        if -1 in shape:
            tensor.shapeSignature = shape
        if scale is not None:
            tensor.quantization = schema.QuantizationParametersT(scale=scale, zeroPoint=[zero_point] * len(scale))
        self.current.tensors.append(tensor)
        return len(self.current.tensors) - 1

    def op(self, name: str, inputs: list[int], outputs: list[int], options: Any = None) -> None:
        builtin = getattr(schema.BuiltinOperator, name, schema.BuiltinOperator.CUSTOM)
        code = schema.OperatorCodeT(deprecatedBuiltinCode=min(builtin, 127), builtinCode=builtin, version=1)
        if builtin == schema.BuiltinOperator.CUSTOM:
            code.customCode = name
        self.model.operatorCodes.append(code)
        operator = schema.OperatorT(opcodeIndex=len(self.model.operatorCodes) - 1, inputs=inputs, outputs=outputs)
        if options is not None:
            operator.builtinOptions = options
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self.current.operators.append(operator)

    def ends(self, inputs: dict[str, int], outputs: dict[str, int], key: str = "") -> None:
        """Inputs and outputs of the current subgraph, with a signature where there is a key."""
        self.current.inputs, self.current.outputs = list(inputs.values()), list(outputs.values())
        if key:
            self.model.signatureDefs.append(
                schema.SignatureDefT(
                    inputs=[schema.TensorMapT(name, index) for name, index in inputs.items()],
                    outputs=[schema.TensorMapT(name, index) for name, index in outputs.items()],
                    signatureKey=key,
                    subgraphIndex=len(self.model.subgraphs) - 1,
                )
            )

    def metadata(self, name: str, content: bytes) -> None:
        self.model.metadata.append(schema.MetadataT(name=name, buffer=self.buffer(np.frombuffer(content, np.uint8))))

    def pack(self) -> bytes:
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())


@pytest.fixture
def builder() -> Builder:
    return Builder()


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    def save(content: bytes, name: str = "model.tflite") -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return save


@pytest.fixture
def add_float() -> bytes:
    """a + b, both float32 (1, 4), without a signature."""
    build = Builder()
    a, b, total = (
        build.tensor(name, [1, 4]) for name in ("serving_default_a:0", "serving_default_b:0", "StatefulPartitionedCall:0")
    )
    build.op("ADD", [a, b], [total], schema.AddOptionsT())
    build.ends({"a": a, "b": b}, {"sum": total})
    return build.pack()


@pytest.fixture
def add_int8() -> bytes:
    """a + b in int8: scale 0.5 and zero point 3 in, scale 1 and zero point -2 out; signature `serving_default`."""
    build = Builder()
    a = build.tensor("tensor_a", [1, 4], "int8", scale=[0.5], zero_point=3)
    b = build.tensor("tensor_b", [1, 4], "int8", scale=[0.5], zero_point=3)
    total = build.tensor("tensor_sum", [1, 4], "int8", scale=[1.0], zero_point=-2)
    build.op("ADD", [a, b], [total], schema.AddOptionsT())
    build.ends({"a": a, "b": b}, {"sum": total}, "serving_default")
    return build.pack()


WEIGHTS = np.arange(12, dtype=np.float32).reshape(3, 4) - 5
BIAS = np.array([0.5, -1.0, 2.0], np.float32)


@pytest.fixture
def dense() -> bytes:
    """x @ WEIGHTS.T + BIAS with a free first axis; signature `run`, names args_0 and output_0."""
    build = Builder()
    x = build.tensor("x", [-1, 4])
    weights, bias = build.tensor("weights", [3, 4], data=WEIGHTS), build.tensor("bias", [3], data=BIAS)
    y = build.tensor("y", [-1, 3])
    build.op("FULLY_CONNECTED", [x, weights, bias], [y], schema.FullyConnectedOptionsT())
    build.ends({"args_0": x}, {"output_0": y}, "run")
    return build.pack()


@pytest.fixture
def lookup() -> bytes:
    """Rows of a (10, 2) table by int32 ids (1, 3); row i is (i, -i)."""
    build = Builder()
    ids = build.tensor("ids", [1, 3], "int32")
    table = build.tensor("table", [10, 2], data=np.stack([np.arange(10), -np.arange(10)], 1).astype(np.float32))
    rows = build.tensor("rows", [1, 3, 2])
    build.op("GATHER", [table, ids], [rows], schema.GatherOptionsT())
    build.ends({"input_ids": ids}, {"rows": rows}, "serving_default")
    return build.pack()


@pytest.fixture
def two_graphs() -> bytes:
    """Signature `plus` is x + x in the first subgraph, `times` is x * x in the second."""
    build = Builder()
    for key, op, options in (("plus", "ADD", schema.AddOptionsT()), ("times", "MUL", schema.MulOptionsT())):
        if key == "times":
            build.graph()
        x, y = build.tensor("x", [-1]), build.tensor("y", [-1])
        build.op(op, [x, x], [y], options)
        build.ends({"x": x}, {"y": y}, key)
    return build.pack()


def _one_op(name: str, dtype: str = "float32") -> bytes:
    build = Builder()
    x, y = build.tensor("x", [1, 4], dtype), build.tensor("y", [1, 4])
    build.op(name, [x], [y])
    build.ends({"x": x}, {"y": y}, "serving_default")
    return build.pack()


@pytest.fixture
def flex_op() -> bytes:
    return _one_op("FlexErf")


@pytest.fixture
def custom_op() -> bytes:
    return _one_op("MyOwnOp", "string")


@pytest.fixture
def outside(dense: bytes) -> bytes:
    """`dense` with its weights behind the flatbuffer, as in a file above 2 GB."""
    model = schema.ModelT.InitFromPackedBuf(bytearray(dense), 0)
    buffer = next(item for item in model.buffers if item.data is not None and len(item.data) == WEIGHTS.nbytes)
    mark = 0x1122334455667788
    buffer.data, buffer.offset, buffer.size = None, mark, WEIGHTS.nbytes
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    body = bytes(builder.Output())
    place = -(-len(body) // 64) * 64
    assert body.count(mark.to_bytes(8, "little")) == 1
    body = body.replace(mark.to_bytes(8, "little"), place.to_bytes(8, "little"))
    return body.ljust(place, b"\0") + WEIGHTS.tobytes()
