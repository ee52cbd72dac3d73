"""The five schemes and how they are chosen by name."""

import pytest

from edgekit.errors import ConfigError
from edgekit.stages.quantize.schemes import SCHEMES, select


@pytest.mark.parametrize(
    ("name", "weights", "activations", "needs_data"),
    [
        ("float32", "float32", None, False),
        ("float16", "float16", None, False),
        ("dynamic", "int8", None, False),
        ("int8", "int8", "int8", True),
        ("int16x8", "int8", "int16", True),
    ],
)
def test_what_a_scheme_is(name, weights, activations, needs_data):
    scheme = SCHEMES[name]
    assert (scheme.name, scheme.weights, scheme.activations, scheme.needs_data) == (name, weights, activations, needs_data)


def test_all_is_every_scheme_in_the_order_of_the_table():
    assert [scheme.name for scheme in select(["all"])] == ["float32", "float16", "dynamic", "int8", "int16x8"]


def test_the_order_of_the_table_holds_whatever_was_asked_first_and_twice():
    assert [scheme.name for scheme in select(["int8", "float32", "int8"])] == ["float32", "int8"]


def test_an_unknown_scheme_is_named_with_the_choices():
    with pytest.raises(ConfigError, match=r"unknown scheme int4; choose from float32, float16, dynamic, int8, int16x8 or all"):
        select(["int8", "int4"])
