"""Float graphs in fewer ops that quantize well: the same results, whatever the converter wrote."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgekit.data.samples import Samples
from edgekit.stages.export.simplify import simplify
from edgekit.tflite import flatbuffer
from tests.unit.stages.export.nets import TOKENS, WHOLE, WIDTH, Net, names, outputs, rewritten
from tests.unit.stages.quantize.models import save

ROWS = Samples({"x": np.random.default_rng(3).standard_normal((4, TOKENS, WIDTH)).astype(np.float32)})
Unary = Callable[[Net, int], int]


def end(net: Net, *results: int) -> None:
    net.ends({"x": net.x}, {f"y{place}": result for place, result in enumerate(results)}, "serving_default")


def simplified(net: Net, result: int, folder: Path) -> dict[str, int]:
    end(net, result)
    return dict(names(rewritten(net, folder, ROWS, simplify)[1]))


def scalar(net: Net, value: float) -> int:
    return net.constant(f"c{len(net.current.tensors)}", np.array(value, np.float32))


def op(net: Net, name: str, *inputs: int) -> int:
    tables = {"ADD": schema.AddOptionsT, "MUL": schema.MulOptionsT, "DIV": schema.DivOptionsT, "POW": schema.PowOptionsT}
    options = tables[name]() if name in tables else None
    return net.result(name, [*inputs], f"{name}_{len(net.current.tensors)}", WHOLE, options)


def product(net: Net, bias: bool, units: int = 8) -> int:
    weights = net.constant("w", net.draw.standard_normal((WIDTH, units)).astype(np.float32))
    made = net.result("BATCH_MATMUL", [net.x, weights], "product", [1, TOKENS, units], schema.BatchMatMulOptionsT())
    if not bias:
        return made
    added = net.constant("b", np.arange(units, dtype=np.float32))
    return net.result("ADD", [added, made], "sum", [1, TOKENS, units], schema.AddOptionsT())


def test_equal_constants_are_one(tmp_path: Path) -> None:
    net = Net()
    weights, value = net.draw.standard_normal((WIDTH, WIDTH)).astype(np.float32), net.x
    # Large enough to count, and one that differs.
    for number, matrix in enumerate((np.tile(weights, (8, 1)), np.tile(weights, (8, 1)), np.tile(weights, (8, 1)) + 1)):
        wide = net.constant(f"w{number}", matrix)
        product = net.result(
            "FULLY_CONNECTED", [value, wide], f"p{number}", [1, TOKENS, 8 * WIDTH], schema.FullyConnectedOptionsT()
        )
        back = net.constant(f"v{number}", np.ones((WIDTH, 8 * WIDTH), np.float32) / WIDTH)
        value = net.result("FULLY_CONNECTED", [product, back], f"q{number}", [1, TOKENS, WIDTH], schema.FullyConnectedOptionsT())
    assert simplified(net, value, tmp_path) == {"FULLY_CONNECTED": 6}
    graph = flatbuffer.read(tmp_path / "model.tflite").subgraphs[0]
    assert sorted(tensor.name for tensor in graph.tensors if tensor.data_bytes) == ["v0", "w0", "w2"]


@pytest.mark.parametrize("bias", [True, False])
def test_a_product_by_a_constant_is_fully_connected(bias: bool, tmp_path: Path) -> None:
    net = Net()
    assert simplified(net, product(net, bias), tmp_path) == {"FULLY_CONNECTED": 1}
    graph = flatbuffer.read(tmp_path / "model.tflite").subgraphs[0]
    # What is no longer read is gone: one matrix, a bias where there was one.
    assert sum(tensor.data_bytes for tensor in graph.tensors) == 4 * 8 * (WIDTH + bias)


def test_an_activation_behind_it_is_part_of_it(tmp_path: Path) -> None:
    net = Net()
    made = net.result("RELU", [product(net, bias=True)], "relu", [1, TOKENS, 8])
    assert simplified(net, made, tmp_path) == {"FULLY_CONNECTED": 1}


def test_a_normalization_divides_no_more(tmp_path: Path) -> None:
    net = Net()
    square = op(net, "POW", net.x, scalar(net, 2.0))
    root = op(net, "SQRT", op(net, "ADD", square, scalar(net, 1e-3)))
    assert simplified(net, op(net, "DIV", net.x, root), tmp_path) == {"MUL": 2, "ADD": 1, "RSQRT": 1}


def test_division_by_a_constant_is_a_product(tmp_path: Path) -> None:
    net = Net()
    assert simplified(net, op(net, "DIV", net.x, scalar(net, 8.0)), tmp_path) == {"MUL": 1}


def test_a_sum_has_the_dtype_of_what_it_adds(tmp_path: Path) -> None:
    net = Net()
    whole = net.tensor("whole", WHOLE, "int32")
    net.op("CAST", [net.x], [whole], schema.CastOptionsT(outDataType=schema.TensorType.INT32))
    sums = net.tensor("sums", WHOLE, "int64")
    net.op("CUMSUM", [whole, net.constant("axis", np.array([1], np.int32))], [sums], schema.CumsumOptionsT())
    back = net.tensor("back", WHOLE)
    net.op("CAST", [sums], [back], schema.CastOptionsT(inDataType=schema.TensorType.INT64))
    end(net, back)
    file = save(net, tmp_path / "model.tflite")
    simplify(file)
    expected = np.cumsum(ROWS.inputs["x"].astype(np.int32), axis=1)
    np.testing.assert_array_equal(outputs(file, ROWS)["y0"][:, 0], expected)


@pytest.mark.parametrize("turned", [False, True])
def test_a_choice_by_arithmetic_is_a_select(turned: bool, tmp_path: Path) -> None:
    net = Net()
    condition = net.tensor("condition", WHOLE, "bool")
    net.op("GREATER", [net.x, scalar(net, 0.5)], [condition])
    cast = net.result("CAST", [condition], "cast", WHOLE, schema.CastOptionsT(inDataType=schema.TensorType.BOOL))
    inverse = net.result("SUB", [scalar(net, 1.0), cast], "inverse", WHOLE, schema.SubOptionsT())
    terms = [op(net, "MUL", cast, net.x), op(net, "MUL", scalar(net, -20.0), inverse)]
    assert simplified(net, op(net, "ADD", *terms[:: -1 if turned else 1]), tmp_path) == {"GREATER": 1, "SELECT_V2": 1}


def test_each_output_has_a_tensor_of_its_own(tmp_path: Path) -> None:
    """As Model.run reads them, and as ai-edge-quantizer takes them."""
    net = Net()
    doubled = op(net, "ADD", net.x, net.x)
    end(net, doubled, doubled, doubled)
    before, after = rewritten(net, tmp_path, ROWS, simplify)
    assert len(set(before.outputs)) == 1
    assert len(set(after.outputs)) == 3
    entry = flatbuffer.read(tmp_path / "model.tflite").entry()
    assert tuple(entry.outputs.values()) == after.outputs


def test_a_division_by_zero_stays(tmp_path: Path) -> None:
    net = Net()
    end(net, op(net, "DIV", net.x, scalar(net, 0.0)))
    file = save(net, tmp_path / "model.tflite")
    simplify(file)
    assert names(flatbuffer.read(file).subgraphs[0]) == {"DIV": 1}


def _tanh(net: Net, x: int) -> int:
    """As GPT-2 writes it."""
    cube = op(net, "MUL", op(net, "POW", x, scalar(net, 3.0)), scalar(net, 0.044715))
    inner = op(net, "TANH", op(net, "MUL", op(net, "ADD", x, cube), scalar(net, math.sqrt(2 / math.pi))))
    return op(net, "MUL", op(net, "MUL", x, scalar(net, 0.5)), op(net, "ADD", inner, scalar(net, 1.0)))


def _erf(net: Net, x: int) -> int:
    """With erf as Abramowitz and Stegun approximate it (Handbook of Mathematical Functions, 7.1.26)."""
    scaled = op(net, "MUL", x, scalar(net, 1 / math.sqrt(2)))
    size = op(net, "ABS", scaled)
    t = op(net, "DIV", scalar(net, 1.0), op(net, "ADD", op(net, "MUL", size, scalar(net, 0.3275911)), scalar(net, 1.0)))
    total = scalar(net, 1.061405429)
    for factor in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        total = op(net, "ADD", op(net, "MUL", total, t), scalar(net, factor))
    fall = op(net, "EXP", op(net, "NEG", op(net, "MUL", size, size)))
    rest = op(net, "SUB", scalar(net, 1.0), op(net, "MUL", op(net, "MUL", total, t), fall))
    erf = op(net, "MUL", op(net, "SIGN", scaled), rest)
    return op(net, "MUL", op(net, "MUL", x, op(net, "ADD", erf, scalar(net, 1.0))), scalar(net, 0.5))


@pytest.mark.parametrize(("form", "approximate"), [(_tanh, True), (_erf, False)])
def test_gelu_of_many_parts_is_one_op(form: Unary, approximate: bool, tmp_path: Path) -> None:
    net = Net()
    made = form(net, op(net, "MUL", net.x, scalar(net, 1.5)))
    end(net, op(net, "MUL", made, scalar(net, 2.0)))
    file = save(net, tmp_path / "model.tflite")
    _, after = rewritten(net, tmp_path, ROWS, simplify)
    assert names(after) == {"MUL": 2, "GELU": 1}
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(file.read_bytes(), 0))
    (gelu,) = [one for one in model.subgraphs[0].operators if one.builtinOptionsType == schema.BuiltinOptions.GeluOptions]
    assert gelu.builtinOptions.approximate == approximate


def test_what_is_almost_gelu_stays(tmp_path: Path) -> None:
    net = Net()
    swish = op(net, "MUL", net.x, op(net, "LOGISTIC", op(net, "MUL", net.x, scalar(net, 1.702))))
    assert "GELU" not in simplified(net, swish, tmp_path)


def test_gelu_whose_parts_are_read_elsewhere_stays(tmp_path: Path) -> None:
    net = Net()
    made = _tanh(net, net.x)
    inner = next(place for place, tensor in enumerate(net.current.tensors) if tensor.name.startswith("TANH"))
    assert "GELU" not in simplified(net, op(net, "ADD", made, inner), tmp_path)


def test_moves_that_cancel_are_gone(tmp_path: Path) -> None:
    net = Net()
    turned = [1, WIDTH, TOKENS]
    order = [net.constant(f"order{place}", np.array([0, 2, 1], np.int32)) for place in range(2)]
    there = net.result("TRANSPOSE", [net.x, order[0]], "there", turned, schema.TransposeOptionsT())
    back = net.result("TRANSPOSE", [there, order[1]], "back", WHOLE, schema.TransposeOptionsT())
    flat = net.constant("flat", np.array([TOKENS * WIDTH], np.int32))
    once = net.result("RESHAPE", [back, flat], "once", [TOKENS * WIDTH], schema.ReshapeOptionsT())
    shape = net.constant("shape", np.array(WHOLE, np.int32))
    twice = net.result("RESHAPE", [once, shape], "twice", WHOLE, schema.ReshapeOptionsT())
    assert simplified(net, op(net, "TANH", twice), tmp_path) == {"TANH": 1}


def test_float16_weights_behind_dequantize_are_float32(tmp_path: Path) -> None:
    net = Net()
    half = net.constant("half", net.draw.standard_normal((8, WIDTH)).astype(np.float16))
    weights = net.result("DEQUANTIZE", [half], "weights", [8, WIDTH], schema.DequantizeOptionsT())
    options = schema.FullyConnectedOptionsT(keepNumDims=True)
    made = net.result("FULLY_CONNECTED", [net.x, weights, -1], "product", [1, TOKENS, 8], options)
    assert simplified(net, made, tmp_path) == {"FULLY_CONNECTED": 1}
    graph = flatbuffer.read(tmp_path / "model.tflite").subgraphs[0]
    assert "float16" not in {tensor.dtype for tensor in graph.tensors}


def test_a_constant_that_would_grow_the_file_is_computed_at_run_time(tmp_path: Path) -> None:
    net = Net()
    size = [1, 600, WIDTH * 4]
    shape, one = net.constant("shape", np.array(size, np.int32)), scalar(net, 1.0)
    large = net.result("FILL", [shape, one], "large", size, schema.FillOptionsT())
    mean = net.result("MEAN", [large, net.constant("axes", np.array([0, 1, 2], np.int32))], "mean", [], schema.ReducerOptionsT())
    assert simplified(net, op(net, "MUL", net.x, mean), tmp_path)["FILL"] == 1


def test_an_output_that_is_constant_stays_an_output(tmp_path: Path) -> None:
    net = Net()
    same = op(net, "ADD", net.constant("c", np.ones(WHOLE, np.float32)), scalar(net, 1.0))
    end(net, op(net, "TANH", net.x), same)
    file = save(net, tmp_path / "model.tflite")
    simplify(file)
    assert names(flatbuffer.read(file).subgraphs[0]) == {"TANH": 1, "ADD": 1}
