import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.errors import ModelFormatError
from edgekit.models.structure.base import OpCount, SourceTensor, Weights
from edgekit.models.structure.onnx import read
from tests.unit.stages.export import graphs


def saved(folder: Path, model: onnx.ModelProto) -> Path:
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def constant(name: str, *shape: int, dtype: type = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ones(shape, dtype), name)


def whole() -> onnx.ModelProto:
    """A local function, an `If` with a constant in a branch, a `Constant`, an op of another domain, weights of three dtypes."""
    branch = helper.make_graph(
        [helper.make_node("Add", ["c", "inside"], ["d"])],
        "then",
        [],
        [helper.make_tensor_value_info("d", TensorProto.FLOAT, None)],
        [constant("inside", 5)],
    )
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"]),
        helper.make_node("Constant", [], ["flag"], value=constant("", dtype=np.bool_)),
        helper.make_node("If", ["flag"], ["d"], then_branch=branch, else_branch=branch),
        helper.make_node("Twice", ["d"], ["e"], domain="local"),
        helper.make_node("Odd", ["e"], ["y"], domain="com.example"),
    ]
    ends = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT16, ["batch", 3, "height", 8]),
        helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3, 1, 1]),
        helper.make_tensor_value_info("texts", TensorProto.STRING, [1]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [5])]
    made = helper.make_graph(nodes, "g", ends, outputs, [constant("w", 4, 3, 1, 1), constant("ids", 7, dtype=np.int64)])
    opsets = [helper.make_opsetid(domain, version) for domain, version in (("", 17), ("local", 1), ("com.example", 2))]
    twice = helper.make_function("local", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], opsets[:1])
    return helper.make_model(
        made, functions=[twice], opset_imports=opsets, ir_version=9, producer_name="hand", producer_version="1.5"
    )


def test_all_that_a_file_says(tmp_path: Path) -> None:
    structure = read(saved(tmp_path, whole()))
    assert structure.form == "ONNX, opset 17, com.example 2, local 1, IR 9"
    assert structure.producer == "hand 1.5"
    # An initializer that an old file lists among its inputs is none.
    image = SourceTensor("image", "float16", ("batch", 3, "height", 8))
    assert structure.inputs == (image, SourceTensor("texts", "string", (1,)))
    assert structure.outputs == (SourceTensor("y", "float32", (5,)),)
    # Those of both branches and of the function, which are in the file once each.
    assert structure.ops[0] == OpCount("Add", "", 3)
    assert set(map(str, structure.ops)) == {"Add: 3", "Conv: 1", "Constant: 1", "If: 1", "local.Twice: 1", "com.example.Odd: 1"}
    assert structure.weights == (Weights("float32", 3, 22, 88), Weights("int64", 1, 7, 56), Weights("bool", 1, 1, 1))
    assert structure.slid == {"image"}
    assert [cause.split(";")[0] for cause in structure.obstacles] == [
        "input texts is no tensor of numbers, which TFLite needs",
        "no TFLite form of op com.example.Odd",
    ]


def test_weights_in_another_file_are_counted_and_missed(tmp_path: Path) -> None:
    made = graphs.model([helper.make_node("Add", ["x", "w"], ["y"])], {"x": (1, 600)}, {"y": (1, 600)})
    made.graph.initializer.append(constant("w", 1, 600))
    file = tmp_path / "model.onnx"
    onnx.save(made, file, save_as_external_data=True, location="model.bin", size_threshold=0)
    structure = read(file)
    assert structure.files == {"model.bin": 2400}
    assert structure.weights == (Weights("float32", 1, 600, 2400),)
    assert not structure.obstacles
    (tmp_path / "model.bin").write_bytes(bytes(100))
    assert read(file).obstacles[0].startswith("model.bin has 100 bytes, its weights reach to 2,400")
    (tmp_path / "model.bin").unlink()
    assert read(file).obstacles[0].startswith("its weights lie in model.bin, which is not there")


@pytest.mark.parametrize("place", ["../secret", "/etc/passwd", "a\nb"])
def test_nothing_outside_of_the_folder_is_looked_at(tmp_path: Path, place: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(2400))
    (tmp_path / "model").mkdir()
    made = graphs.model([helper.make_node("Add", ["x", "w"], ["y"])], {"x": (1, 600)}, {"y": (1, 600)})
    made.graph.initializer.append(constant("w", 1, 600))
    made.graph.initializer[0].ClearField("raw_data")
    made.graph.initializer[0].data_location = TensorProto.EXTERNAL
    made.graph.initializer[0].external_data.add(key="location", value=place)
    (tmp_path / "model/model.onnx").write_bytes(made.SerializeToString())
    structure = read(tmp_path / "model/model.onnx")
    assert not structure.files
    assert "which is not there" in structure.obstacles[0]


def test_bytes_that_do_not_fit_the_shape_are_damage(tmp_path: Path) -> None:
    made = whole()
    made.graph.initializer[0].dims[0] = 2**40
    file = tmp_path / "model.onnx"
    file.write_bytes(made.SerializeToString())
    with pytest.raises(ModelFormatError, match="tensor w has 48 bytes"):
        read(file)


def test_graphs_inside_graphs_have_an_end(tmp_path: Path) -> None:
    def field(number: int, content: bytes) -> bytes:
        size, length = len(content), b""
        while size > 127:
            size, length = size >> 7, length + bytes([size & 127 | 128])
        return bytes([number << 3 | 2]) + length + bytes([size]) + content

    # onnx's own writer stops at a depth of 20.
    made = b""
    for _ in range(40):
        made = field(1, field(4, b"If") + field(5, field(1, b"then_branch") + field(6, made))) + field(12, field(1, b"y"))
    (tmp_path / "model.onnx").write_bytes(field(7, made))
    with pytest.raises(ModelFormatError, match="graphs inside graphs"):
        read(tmp_path / "model.onnx")


def test_damage_of_every_kind_ends_in_one_error(tmp_path: Path) -> None:
    content, draw = whole().SerializeToString(), random.Random(0)
    file = tmp_path / "model.onnx"
    refused = 0
    for place in range(1, len(content)):
        damaged = bytearray(content[:place] if draw.random() < 0.3 else content)
        damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        file.write_bytes(damaged)
        try:
            read(file)
        except ModelFormatError as error:
            refused += 1
            assert error.message.startswith(f"{file}: ")
    assert refused > len(content) / 4
