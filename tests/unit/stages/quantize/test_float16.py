"""float16 weights: what is halved, what must stay, and that the file still says the same."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgekit.errors import RefusedError, UnsupportedOpError
from edgekit.stages.quantize.float16 import to_float16
from edgekit.tflite import flatbuffer
from edgekit.tflite.interpreter import Model
from tests.unit.stages.quantize.models import conv_net, conv_samples, save
from tests.unit.tflite.conftest import Builder

WIDE = np.linspace(-1, 1, 256, dtype=np.float32)


def add_constant(values: np.ndarray, build: Builder | None = None) -> Builder:
    """y = x + values, all of shape (256,)."""
    build = build or Builder()
    x, y = build.tensor("x", [256]), build.tensor("y", [256])
    constant = build.tensor("constant", [256], data=values)
    build.op("ADD", [x, constant], [y], schema.AddOptionsT())
    build.ends({"x": x}, {"y": y}, "serving_default")
    return build


def dtypes(model: bytes, graph: int = 0) -> dict[str, str]:
    return {tensor.name: tensor.dtype for tensor in flatbuffer.parse(model, "m").subgraphs[graph].tensors}


def test_a_network_keeps_its_answers_at_half_the_size_of_its_weights(tmp_path):
    source = save(conv_net(), tmp_path / "float32.tflite")
    half = tmp_path / "float16.tflite"
    half.write_bytes(to_float16(source.read_bytes()))
    found = dtypes(half.read_bytes())
    # 16 biases save nothing, 432 weights do.
    assert (found["w1"], found["w2"], found["w3"]) == ("float16", "float16", "float16")
    assert (found["b1"], found["b3"]) == ("float32", "float32")
    ours, reference = Model(half), Model(source)
    for row in conv_samples(4):
        np.testing.assert_allclose(ours.run(row)["probabilities"], reference.run(row)["probabilities"], atol=2e-3)
    assert ours.signature == reference.signature


def test_a_file_without_signature_runs(tmp_path):
    build = add_constant(WIDE)
    build.model.signatureDefs = []
    path = tmp_path / "m.tflite"
    path.write_bytes(to_float16(build.pack()))
    np.testing.assert_allclose(Model(path).run({"x": np.zeros(256, np.float32)})["y"], WIDE, atol=1e-3)


@pytest.mark.parametrize("value", [1e6, np.nan, np.inf])
def test_a_constant_that_float16_cannot_hold_is_left(value):
    values = WIDE.copy()
    values[7] = value
    with pytest.raises(RefusedError, match="no float32 constant of 128 values or more"):
        to_float16(add_constant(values).pack())


def test_a_constant_that_is_an_output_keeps_its_dtype(tmp_path):
    build = add_constant(WIDE)
    kept = build.tensor("kept", [256], data=WIDE)
    build.current.outputs.append(kept)
    build.model.signatureDefs[0].outputs.append(schema.TensorMapT("kept", kept))
    path = tmp_path / "m.tflite"
    path.write_bytes(to_float16(build.pack()))
    found = Model(path).run({"x": np.zeros(256, np.float32)})
    assert found["kept"].dtype == np.float32
    np.testing.assert_array_equal(found["kept"], WIDE)
    assert dtypes(path.read_bytes())["constant"] == "float16"


def test_two_tensors_of_one_buffer_are_halved_together(tmp_path):
    build = Builder()
    x, middle, y = (build.tensor(name, [256]) for name in ("x", "middle", "y"))
    one = build.tensor("one", [256], data=WIDE)
    other = build.tensor("other", [256], buffer=build.current.tensors[one].buffer)
    build.op("ADD", [x, one], [middle], schema.AddOptionsT())
    build.op("ADD", [middle, other], [y], schema.AddOptionsT())
    build.ends({"x": x}, {"y": y}, "serving_default")
    path = tmp_path / "m.tflite"
    path.write_bytes(to_float16(build.pack()))
    assert {dtypes(path.read_bytes())[name] for name in ("one", "other")} == {"float16"}
    np.testing.assert_allclose(Model(path).run({"x": np.zeros(256, np.float32)})["y"], 2 * WIDE, atol=1e-3)


def test_a_buffer_that_an_integer_tensor_reads_too_is_left():
    build = add_constant(WIDE)
    build.tensor("bits", [256], "int32", buffer=build.current.tensors[2].buffer)
    with pytest.raises(RefusedError):
        to_float16(build.pack())


@pytest.mark.parametrize("mark", ["sparse", "variable"])
def test_sparse_and_variable_constants_are_left(mark):
    build = add_constant(WIDE)
    tensor = build.current.tensors[2]
    if mark == "sparse":
        tensor.sparsity = schema.SparsityParametersT(traversalOrder=[0])
    else:
        tensor.isVariable = True
    with pytest.raises(RefusedError):
        to_float16(build.pack())


def test_what_only_a_called_graph_uses_is_left():
    build = add_constant(WIDE)
    build.graph()
    x, y = build.tensor("x2", [256]), build.tensor("y2", [256])
    build.op("ADD", [x, build.tensor("inner", [256], data=WIDE)], [y], schema.AddOptionsT())
    build.ends({"x2": x}, {"y2": y})
    model = to_float16(build.pack())
    assert dtypes(model)["constant"] == "float16"
    assert dtypes(model, 1)["inner"] == "float32"


def test_an_older_dequantize_of_the_file_is_raised_to_the_version_that_takes_float16():
    build = add_constant(WIDE)
    stored, real = build.tensor("stored", [256], "int8", scale=[0.1]), build.tensor("real", [256])
    build.op("DEQUANTIZE", [stored], [real])
    # As files before schema 3a have it.
    build.model.operatorCodes[-1].builtinCode = 0
    model = schema.ModelT.InitFromPackedBuf(to_float16(build.pack()), 0)
    assert [code.version for code in model.operatorCodes if code.deprecatedBuiltinCode == schema.BuiltinOperator.DEQUANTIZE] == [3]


def test_constants_in_other_files_are_refused():
    build = add_constant(WIDE)
    build.model.externalBufferGroups = [schema.ExternalBufferGroupT(name="weights.bin")]
    build.model.externalBuffers = [schema.ExternalBufferT(id=1, group=0, offset=0, length=1024)]
    build.current.tensors[2].externalBuffer = 1
    with pytest.raises(UnsupportedOpError, match="constants in other files; choose dynamic"):
        to_float16(build.pack())
