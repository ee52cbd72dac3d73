"""Which ops a form names: those of normalizations, those around matrix products, those with weights."""

import pytest

from edgekit.stages.quantize import forms
from edgekit.stages.quantize.forms import Form
from edgekit.stages.quantize.prepare import read_graph
from tests.unit.stages.quantize.models import NORMALIZATION, conv_net, encoder_net, pointwise_net, save, token_net
from tests.unit.tflite.conftest import Builder


def test_a_normalization_is_its_own_ops_and_its_residual_add(tmp_path):
    graph = read_graph(save(encoder_net(), tmp_path / "m.tflite"))
    assert forms.normalizations(graph) == NORMALIZATION


def test_reshapes_beside_the_residual_stream_are_of_it_and_do_not_cut_it(tmp_path):
    graph = read_graph(save(encoder_net(reshapes=True), tmp_path / "m.tflite"))
    assert forms.normalizations(graph) == NORMALIZATION | {"entered", "left"}


@pytest.mark.parametrize("build", [conv_net, token_net])
def test_a_net_without_normalization_has_none(tmp_path, build):
    assert forms.normalizations(read_graph(save(build(), tmp_path / "m.tflite"))) == frozenset()


def test_around_products_is_all_but_the_products(tmp_path):
    graph = read_graph(save(encoder_net(), tmp_path / "m.tflite"))
    named = {forms.output(graph, operator) for operator in graph.operators}
    assert named - forms.around_products(graph) == {"dense", "query", "products", "mixed", "logits"}


def test_products_have_constant_weights(tmp_path):
    graph = read_graph(save(encoder_net(), tmp_path / "m.tflite"))
    assert forms.products(graph) == ["dense", "query", "logits"]
    assert forms.candidates(graph, Form("products", ops=forms.PRODUCTS)) == forms.products(graph)
    assert len(forms.candidates(graph, Form("every"))) == len(graph.operators)


def test_a_convolution_is_thin_where_it_computes_little_from_each_value(tmp_path):
    assert forms.thin_convolutions(read_graph(save(pointwise_net(), tmp_path / "m.tflite"))) == {"thin"}
    assert forms.thin_convolutions(read_graph(save(conv_net(), tmp_path / "m.tflite"))) == frozenset(), "3x3 windows are worth it"


def test_names_are_those_of_the_prepared_file(tmp_path):
    """Where tensors share a name, the quantizer sees other names than the file has."""
    build = Builder()
    x, first, second = (build.tensor(name, [1, 4]) for name in ("x", "same", "same"))
    build.op("RSQRT", [x], [first])
    build.op("RSQRT", [first], [second])
    build.ends({"x": x}, {"y": second}, "serving_default")
    names = forms.candidates(read_graph(save(build, tmp_path / "m.tflite")), Form("every"))
    assert len(set(names)) == 2
    assert "same" not in names


def test_variances_are_the_roots_and_what_they_are_computed_from(tmp_path):
    graph = read_graph(save(encoder_net(), tmp_path / "m.tflite"))
    assert forms.variances(graph) == {"squares", "variance", "padded", "root"}
