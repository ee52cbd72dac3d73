"""Which ops of a file stand in a target's way."""

from dataclasses import replace

import pytest
from ai_edge_litert import schema_py_generated as schema

from edgekit.tflite.flatbuffer import Entry, ModelFile, Operator, Subgraph, Tensor
from edgekit.workflows.guide.targets import TARGETS, Fit, Hardware, fit


def _tensor(name: str, dtype: str, shape: tuple[int, ...] = (1, 8), data: int = 0) -> Tensor:
    return Tensor(name, shape, dtype, 1 if data else 0, data, 1, 0.1, 0, False, False)


def _file(activations: str = "int8", interface: str = "int8", op: str = "FULLY_CONNECTED", **changed: object) -> ModelFile:
    """input → op with weights and an int32 bias → SOFTMAX → output."""
    tensors = (
        _tensor("input", interface),
        _tensor("weights", "int8", (4, 8), 32),
        _tensor("bias", "int32", (4,), 16),
        _tensor("hidden", activations, (1, 4)),
        _tensor("output", interface, (1, 4)),
    )
    operators = (Operator(op, False, (0, 1, 2), (3,)), Operator("SOFTMAX", False, (3,), (4,)))
    graph = replace(Subgraph("main", tensors, operators, (0,), (4,)), **changed)  # type: ignore[arg-type]
    entry = Entry("serving_default", 0, {"input": 0}, {"output": 4})
    return ModelFile("m.tflite", 1000, 3, "", (graph,), (entry,), (), "", b"", ())


def _fits(hardware: str, file: ModelFile) -> Fit:
    return fit(TARGETS[Hardware(hardware)], file)


def _told(found: Fit) -> list[str]:
    return [str(obstacle) for obstacle in found.obstacles]


@pytest.mark.parametrize("hardware", list(Hardware))
def test_every_list_is_of_built_in_ops_and_says_where_it_was_read(hardware: Hardware) -> None:
    target = TARGETS[hardware]
    assert all(hasattr(schema.BuiltinOperator, op) for op in target.ops or ())
    assert target.source.startswith("https://")
    assert target.read
    assert target.needs


@pytest.mark.parametrize("hardware", ["gpu", "edgetpu", "hexagon", "microcontroller"])
def test_integers_throughout_run_everywhere(hardware: str) -> None:
    found = _fits(hardware, _file())
    assert (found.ops, found.float_ops, found.in_the_way, found.interface) == (2, 0, 0, ())


def test_float_ops_stand_in_the_way_of_integers() -> None:
    found = _fits("edgetpu", _file("float32", "float32"))
    assert _told(found) == ["FULLY_CONNECTED ×1 (in float32)", "SOFTMAX ×1 (in float32)"]
    assert found.interface == ("input input is float32, not int8 or uint8", "output output is float32, not int8 or uint8")
    assert found.float_ops == 2
    assert _fits("gpu", _file("float32", "float32")).in_the_way == 0


def test_int16_activations_are_too_wide_for_eight_bits() -> None:
    wide = _file("int16", "int16")
    assert _fits("hexagon", wide).in_the_way == 2
    assert _fits("microcontroller", wide).in_the_way == 0


def test_an_op_that_is_not_listed_is_counted() -> None:
    found = _fits("microcontroller", _file(op="GELU"))
    assert _told(found) == ["GELU ×1 (not on its list)"]
    assert _fits("cpu", _file(op="GELU")).in_the_way == 0


def test_free_shapes_and_too_many_axes_are_told() -> None:
    tensors = list(_file().subgraphs[0].tensors)
    tensors[3] = _tensor("hidden", "int8", (-1, 4))
    free = _fits("edgetpu", _file(tensors=tuple(tensors)))
    assert _told(free) == ["FULLY_CONNECTED ×1 (free shape)", "SOFTMAX ×1 (free shape)"]
    assert free.arena_bytes == 8 + 4
    assert _fits("microcontroller", _file(tensors=tuple(tensors))).in_the_way == 0
    tensors[3] = _tensor("hidden", "int8", (1, 1, 1, 1, 4))
    assert "more than 4 axes" in _told(_fits("hexagon", _file(tensors=tuple(tensors))))[0]


def test_the_arena_holds_what_is_alive_at_one_time() -> None:
    assert _fits("microcontroller", _file()).arena_bytes == 8 + 4
    assert _fits("microcontroller", _file("float32", "float32")).arena_bytes == 4 * (8 + 4)


def test_weights_that_are_unpacked_when_the_file_is_loaded_are_no_op() -> None:
    tensors = list(_file("float32", "float32").subgraphs[0].tensors)
    tensors[1] = _tensor("weights", "float16", (4, 8), 64)
    tensors.append(_tensor("unpacked", "float32", (4, 8)))
    operators = (
        Operator("DEQUANTIZE", False, (1,), (5,)),
        Operator("FULLY_CONNECTED", False, (0, 5, 2), (3,)),
        Operator("SOFTMAX", False, (3,), (4,)),
    )
    found = _fits("gpu", _file("float32", "float32", tensors=tuple(tensors), operators=operators))
    assert (found.ops, found.in_the_way) == (2, 0)
