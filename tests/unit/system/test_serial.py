"""Dataclasses to plain data and back, with every mistake named."""

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.errors import ConfigError
from edgekit.spec import DataSpec
from edgekit.system import serial


class _Colour(enum.StrEnum):
    RED = "red"


@dataclass(frozen=True)
class _Point:
    x: float
    labels: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ConfigError(f"x is {self.x:g}; give at least 0")


@dataclass(frozen=True)
class _Whole:
    name: str
    points: tuple[_Point, ...]
    pair: tuple[int, float] = (0, 0.0)
    colour: _Colour = _Colour.RED
    counts: Mapping[str, int] = field(default_factory=dict)
    anything: Any = None
    place: Path | None = None
    data: DataSpec | None = None
    nested: tuple[tuple[int, ...], ...] = ()


WHOLE = _Whole(
    "a",
    (_Point(1.0, frozenset({"b", "a"})), _Point(2.5)),
    (3, 4.0),
    counts={"n": 1},
    anything={"k": [1, None]},
    place=Path("here"),
    data=DataSpec("rows.tsv", ("text",), samples=3, mean=(0.5,), tokenizer=Path("tokenizer")),
    nested=((1, 2), ()),
)


def test_json_reads_back_equal():
    assert serial.read(_Whole, json.loads(serial.to_json(WHOLE))) == WHOLE
    assert serial.read(_Whole, serial.plain(WHOLE, sparse=True)) == WHOLE


def test_a_data_set_is_its_reference_where_that_says_all():
    assert serial.plain(DataSpec("hub:glue/sst2")) == "hub:glue/sst2"
    assert serial.plain(DataSpec(Path("a.npz"))) == "a.npz"
    assert serial.plain(DataSpec("a.tsv", samples=2)) == {"source": "a.tsv", "samples": 2}
    assert serial.plain(DataSpec([{"text": "secret"}])) == "rows in memory"
    assert serial.read(_Whole, {"name": "a", "points": [], "data": "a.tsv"}).data == DataSpec("a.tsv")


def test_numpy_sets_and_what_is_not_finite_become_what_json_holds():
    assert serial.plain({"a": np.float32(0.5), "b": np.array([1, 2]), "c": {"y", "x"}, "d": float("inf")}) == {
        "a": 0.5,
        "b": [1, 2],
        "c": ["x", "y"],
        "d": None,
    }


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"nam": 1}, "f.json: unknown key 'nam'; did you mean 'name'?"),
        ({"name": None}, "f.json: name must be a string, not None"),
        ({"points": 3}, "f.json: points must be a list, each item a table, not 3"),
        ({"points": [3]}, "f.json: points[0] must be an object, not 3"),
        ({"points": [{}]}, "f.json: [points[0]]: 'x' is missing; add it"),
        ({"points": [{"x": -1}]}, "f.json: [points[0]]: x is -1; give at least 0"),
        ({"pair": [1]}, "f.json: pair must be a list of 2, not [1]"),
        ({"pair": [1, True]}, "f.json: pair[1] must be a number, not true"),
        ({"pair": [1, float("nan")]}, "f.json: pair[1] must be a number, not nan"),
        ({"colour": "blue"}, "f.json: colour is 'blue'; choose from red"),
        ({"counts": {"n": 1.5}}, "f.json: counts.n must be a whole number, not 1.5"),
        ({"data": {"source": ""}}, "f.json: [data]: source is empty; name a dataset or leave the key out"),
    ],
)
def test_a_mistake_is_named_in_the_callers_kind_of_error(changed: dict[str, Any], message: str):
    for error in (ConfigError, ValueError):
        with pytest.raises(error) as caught:
            serial.read(_Whole, {**serial.plain(WHOLE), **changed}, "f.json", error=error)
        assert str(caught.value) == message
