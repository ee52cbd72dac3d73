"""Names by torch modules: read in both forms, and the short one says as much."""

import pytest
from ai_edge_litert import schema_py_generated as schema

from edgekit.tflite.module_names import module_path, shorten

WRAPPED = "edgekit.export.<locals>.Named/edgekit.load.<locals>.Exported_module/"
QUERY = "a.b.BertModel_bert/a.b.BertLayer_0/torch.nn.Linear_query"


@pytest.mark.parametrize(
    ("name", "short", "path"),
    [
        (f"{WRAPPED}{QUERY};1", "bert.0.query;0", ["bert", "0", "query"]),
        (f"{WRAPPED}a.b.BertModel_bert/a.b.Dense_dense;{WRAPPED}{QUERY};", "bert.0.query;0", ["bert", "0", "query"]),
        ("edgekit.program.<locals>.Flat;3", "Flat;0", ["Flat"]),
        ("model/tf.linalg.matmul_3/MatMul;1", "model/tf.linalg.matmul_3/MatMul;1", [""]),
        ("val_92_by_rows", "val_92_by_rows", [""]),
    ],
)
def test_a_name_is_shortened_and_read(name: str, short: str, path: list[str]) -> None:
    graph = schema.SubGraphT()
    graph.tensors = [schema.TensorT()]
    graph.tensors[0].name = name.encode()
    assert shorten(graph) is (short != name)
    assert graph.tensors[0].name == short.encode()
    assert module_path(short) == path


def test_short_names_are_all_different() -> None:
    graph = schema.SubGraphT()
    graph.tensors = [schema.TensorT() for _ in range(3)]
    for tensor, number in zip(graph.tensors, ("", "1", "7"), strict=True):
        tensor.name = f"{QUERY};{number}".encode()
    shorten(graph)
    assert [tensor.name for tensor in graph.tensors] == [b"bert.0.query;0", b"bert.0.query;1", b"bert.0.query;2"]
