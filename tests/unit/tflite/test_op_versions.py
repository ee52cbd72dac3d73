"""The runtime that a file needs, by the op versions that it states or that its tensors call for."""

from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgekit.tflite import flatbuffer
from edgekit.tflite.op_versions import OpVersion, first_runtime, needed_runtime, requirements
from tests.unit.tflite.conftest import Builder


def fully_connected(scales: list[float], dtype: str = "int8", version: int = 1) -> flatbuffer.ModelFile:
    build = Builder()
    taken, given = build.tensor("x", [1, 4]), build.tensor("y", [1, 2])
    stored = np.ones((2, 4), np.int8 if dtype == "int8" else np.float32)
    weights = build.tensor("w", [2, 4], dtype, data=stored, scale=scales or None)
    build.op("FULLY_CONNECTED", [taken, weights, -1], [given], schema.FullyConnectedOptionsT())
    build.model.operatorCodes[0].version = version
    build.ends({"x": taken}, {"y": given}, "serving_default")
    return flatbuffer.parse(build.pack(), "model")


@pytest.mark.parametrize(
    ("scales", "dtype", "version", "needed", "runtime"),
    [
        ([], "float32", 1, 1, "1.5"),
        ([], "float32", 5, 5, "2.0"),
        ([0.1], "int8", 1, 3, "1.14"),
        ([0.1, 0.2], "int8", 5, 12, "2.17"),
        ([], "float32", 99, 99, ""),
    ],
)
def test_versions_by_weights(scales, dtype, version, needed, runtime):
    found = requirements(fully_connected(scales, dtype, version))
    assert found.ops == (OpVersion("FULLY_CONNECTED", version, needed, runtime),)
    assert found.minimum == runtime
    assert found.unknown == (() if runtime else ("FULLY_CONNECTED version 99",))


def test_the_newest_op_decides_and_others_are_named(tmp_path: Path):
    build = Builder()
    tensors = [build.tensor(name, [1, 4], "int8", scale=[0.1]) for name in "abcde"]
    for name, place in (("ADD", 0), ("GELU", 1), ("UNIQUE", 2), ("FlexErf", 3)):
        build.op(name, [tensors[place]], [tensors[place + 1]])
    build.op("TFLite_Detection_PostProcess", [tensors[0]], [tensors[4]])
    build.ends({"a": tensors[0]}, {"e": tensors[4]}, "serving_default")
    found = requirements(flatbuffer.parse(build.pack(), "model"))
    assert found.minimum == "2.9"
    assert [(op.name, op.stated, op.needed, op.runtime) for op in found.ops if op.runtime] == [
        ("ADD", 1, 2, "1.14"),
        ("GELU", 1, 1, "2.9"),
    ]
    assert found.unknown == ("UNIQUE version 1",)
    assert found.custom == ("TFLite_Detection_PostProcess",)
    assert found.flex == ("FlexErf",)


def test_nothing_is_guessed():
    assert first_runtime("BROADCAST_TO", 1) == ""
    assert first_runtime("BROADCAST_TO", 2) == "2.5"
    assert first_runtime("ADD", 0) == ""
    assert first_runtime("NO_SUCH_OP", 1) == ""


def test_a_file_needs_what_it_states_or_what_its_ops_call_for():
    for stated, needed in ((b"2.3.0\0", "2.17"), (b"2.18.1", "2.18.1"), (b"", "2.17")):
        build = Builder()
        tensors = [build.tensor("a", [1, 4]), build.tensor("w", [2, 4], "int8", scale=[0.1, 0.2]), build.tensor("b", [1, 2])]
        build.op("FULLY_CONNECTED", [tensors[0], tensors[1], -1], [tensors[2]])
        build.metadata("min_runtime_version", stated)
        build.ends({"a": tensors[0]}, {"b": tensors[2]}, "serving_default")
        assert needed_runtime(flatbuffer.parse(build.pack(), "model")) == needed
