import random
import struct
import time
from pathlib import Path

import pytest

from edgekit.errors import EdgekitError, ModelFormatError
from edgekit.tflite import flatbuffer
from edgekit.tflite.inspect import Summary, inspect


def test_reads_graph_and_signature(dense, write):
    file = flatbuffer.read(write(dense))
    (graph,) = file.subgraphs
    assert [operator.name for operator in graph.operators] == ["FULLY_CONNECTED"]
    assert graph.tensors[0].shape == (-1, 4)
    assert [tensor.data_bytes for tensor in graph.tensors] == [0, 48, 12, 0]
    assert file.entry().key == "run"
    assert file.signature(file.entry()).input_names == ("args_0",)


def test_names_tensors_where_there_is_no_signature(add_float, write):
    file = flatbuffer.read(write(add_float))
    assert file.entries == ()
    assert tuple(file.entry().inputs) == ("serving_default_a:0", "serving_default_b:0")


def test_prefers_serving_default_and_names_unknown_keys(two_graphs, write):
    path = write(two_graphs)
    assert flatbuffer.read(path).entry().key == "plus"
    with pytest.raises(ModelFormatError, match=r"no signature 'minus'; it has: plus, times"):
        flatbuffer.read(path).entry("minus")


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "empty"),
        (b"TFL3", "too short"),
        (b"\x10\0\0\0TFL2" + bytes(64), "not a .tflite file"),
        (b"\xff\xff\xff\xffTFL3" + bytes(64), "damaged"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"PK\x03\x04" + bytes(64), "zip archive"),
    ],
)
def test_other_content_is_named(write, content, cause):
    with pytest.raises(ModelFormatError, match=cause) as caught:
        flatbuffer.read(write(content))
    assert "\n" not in str(caught.value)
    assert "model.tflite" in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path):
    with pytest.raises(ModelFormatError, match="no such file"):
        flatbuffer.read(tmp_path / "none.tflite")
    with pytest.raises(ModelFormatError, match="not a regular file"):
        flatbuffer.read(tmp_path)


@pytest.mark.parametrize(
    ("inputs", "outputs", "cause"),
    [([0, 99], [1], "op ADD refers to tensor 99 of 2"), ([-7, 0], [1], "op ADD refers to tensor -7 of 2")],
)
def test_tensor_index_out_of_range(builder, write, inputs, outputs, cause):
    builder.tensor("x", [1])
    builder.tensor("y", [1])
    builder.op("ADD", inputs, outputs)
    builder.ends({"x": 0}, {"y": 1})
    with pytest.raises(ModelFormatError, match=cause):
        flatbuffer.read(write(builder.pack()))


def test_signature_of_a_subgraph_that_is_not_there(builder, write):
    builder.tensor("x", [1])
    builder.ends({"x": 0}, {"x": 0}, "run")
    builder.model.signatureDefs[0].subgraphIndex = 5
    with pytest.raises(ModelFormatError, match="signature run refers to subgraph 5 of 1"):
        flatbuffer.read(write(builder.pack()))


def test_data_behind_the_flatbuffer(outside, write):
    assert max(tensor.data_bytes for tensor in flatbuffer.read(write(outside)).subgraphs[0].tensors) == 48
    with pytest.raises(ModelFormatError, match=f"constant data ends at byte {len(outside)} of {len(outside) - 8}"):
        flatbuffer.read(write(outside[:-8]))


def test_tables_that_overlap_end_early():
    # A vector of subgraphs that are all the same table, whose vector of tensors is as long: 25 million tensors in 40 kB.
    count = 5_000

    def vector_to(target: int, place: int) -> bytes:
        return struct.pack(f"<{count + 1}I", count, *(target - (place + 4 + 4 * index) for index in range(count)))

    vtable = struct.pack("<HHHHH2x", 10, 8, 0, 0, 4)
    graphs = 8 + 12 + 8
    graph = graphs + 4 + 4 * count + 8
    tensors = graph + 8
    tensor = tensors + 4 + 4 * count + 4
    content = struct.pack("<I4s", 20, b"TFL3") + vtable + struct.pack("<iI", 12, graphs - 24) + vector_to(graph, graphs)
    content += struct.pack("<HHH2x", 6, 8, 4) + struct.pack("<iI", 8, tensors - (graph + 4)) + vector_to(tensor, tensors)
    content += struct.pack("<HH", 4, 4) + struct.pack("<i", 4)
    started = time.perf_counter()
    with pytest.raises(ModelFormatError, match="more entries than it has bytes"):
        flatbuffer.parse(content, "bomb.tflite")
    assert time.perf_counter() - started < 10


def test_damaged_files_give_a_summary_or_an_error(dense, add_int8, two_graphs, tmp_path: Path):
    rng = random.Random(20)
    outcomes = {"summary": 0, "error": 0}
    for case in range(240):
        content = bytearray(rng.choice([dense, add_int8, two_graphs]))
        for _ in range(rng.randint(1, 8)):
            content[rng.randrange(8, len(content))] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        if case % 3 == 0:
            del content[rng.randrange(len(content)) :]
        path = tmp_path / "damaged.tflite"
        path.write_bytes(content)
        try:
            assert isinstance(inspect(path, probe=False), Summary)
            outcomes["summary"] += 1
        except EdgekitError as error:
            assert "\n" not in str(error)
            outcomes["error"] += 1
    assert min(outcomes.values()) > 20
