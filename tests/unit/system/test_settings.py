"""Bounds beside the fields, and the options that come of them."""

import dataclasses
import enum
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from edgekit.cli import options
from edgekit.errors import ConfigError
from edgekit.spec import DataSpec
from edgekit.system import settings
from edgekit.system.serial import plain
from edgekit.system.settings import above, at_least, between, check, inside, part, setting, share
from edgekit.workflows.convert.config import Bridge, ConvertConfig


class _Way(enum.StrEnum):
    LONG = "long"
    SHORT = "short"


@dataclasses.dataclass(frozen=True)
class _Config:
    count: int = setting(3, "How many.", at_least(1))
    rate: float | None = setting(None, "How fast.", inside(0, 1, 5e-5))
    drop: float = setting(0.5, "How much.", share())
    names: tuple[str, ...] = setting((), "Who.", option="--name", choices=("ann", "bob"))
    lengths: tuple[int, ...] = setting((), "How long.", at_least(1), metavar="16,32")
    way: _Way = setting(_Way.LONG, "Which way.")
    loud: bool = setting(False, "Whether.")
    data: DataSpec | None = setting(None, "Rows: {data}.", option="--dataset")
    labels: Path | None = setting(None, "Where.")
    shapes: Mapping[str, tuple[int, ...]] = setting(default_factory=dict, words="What.", option="--input-shape")
    values: Mapping[str, tuple[float, ...]] = setting(default_factory=dict, words="What.", option="--input-value")
    hidden: int = 7
    threads: int = settings.threads()
    seed: int = settings.seed()

    def __post_init__(self) -> None:
        check(self)


@click.command()
@options.of(_Config, data_set="a table")
@click.option("--out")
@options.common
def command(config: _Config, out: str | None, as_json: bool, quiet: bool) -> None:
    click.echo(json.dumps([plain(config), out]))


def _called(*arguments: str) -> Any:
    ended = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    return json.loads(ended.output)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"count": 0}, "count is 0; give at least 1"),
        ({"count": "three"}, "count is three; give at least 1"),
        ({"rate": 1.0}, "rate is 1; give a number above 0 and below 1, such as 5e-05"),
        ({"drop": -0.1}, "drop is -0.1; give a proportion between 0 and 1, such as 0.01"),
        ({"drop": float("nan")}, "drop is nan; give a proportion between 0 and 1, such as 0.01"),
        ({"names": ("ann", "eve")}, "names is eve; choose from ann, bob"),
        ({"lengths": (16, 0)}, "lengths is 0; give at least 1"),
        ({"threads": 257}, "threads is 257; give 1 to 256, best as many as there are cores"),
        ({"seed": 2**32}, "seed is 4294967296; give a number between 0 and 4294967295"),
    ],
)
def test_a_value_out_of_bounds_is_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _Config(**changed)
    assert str(caught.value) == message


def test_bounds_say_which_ends_belong_to_them() -> None:
    assert [above(0, 2).hold(value) for value in (0, 1, float("inf"))] == [False, True, False]
    assert [between(0, 2).hold(value) for value in (0, 2, 3)] == [True, True, False]
    assert [part().hold(value) for value in (0, 0.99, 1)] == [True, True, False]


def test_without_options_a_command_gets_the_configs_defaults() -> None:
    assert _called() == [plain(_Config()), None]


def test_options_become_what_the_fields_hold() -> None:
    config, out = _called(
        *("--count", "5", "--rate", "0.1", "--name", "bob", "--name", "ann", "--lengths", "16,32", "--way", "short", "--loud"),
        *("--dataset", "a.tsv", "--text-column", "q", "--text-column", "c", "--label-column", "y", "--labels", "l.txt"),
        *("--input-shape", "x=1,3", "--input-value", "a=b=0.5,-2", "--threads", "1", "--seed", "4", "--out", "there"),
    )
    assert out == "there"
    assert config == plain(
        _Config(
            5,
            0.1,
            names=("bob", "ann"),
            lengths=(16, 32),
            way=_Way.SHORT,
            loud=True,
            data=DataSpec("a.tsv", ("q", "c"), ("y",)),
            labels=Path("l.txt"),
            shapes={"x": (1, 3)},
            values={"a=b": (0.5, -2)},
            threads=1,
            seed=4,
        )
    )


def test_numbers_that_are_none_are_named_with_their_option() -> None:
    with pytest.raises(ConfigError, match=r"^--lengths 16,x: not whole numbers; give them as 16,32$"):
        _called("--lengths", "16,x")
    for text in ("rate", "rate=", "=3", "rate=fast", "rate=nan"):
        with pytest.raises(ConfigError, match=f"^--input-value {text}: give it as NAME=16000, or"):
            _called("--input-value", text)


def test_every_option_of_a_conversion_has_its_fields_default_and_a_text() -> None:
    from edgekit.cli.commands.convert import convert

    fields = {item.name: item for item in dataclasses.fields(ConvertConfig)}
    found = {str(option.name): option for option in convert.params if option.name in fields}
    assert set(found) == set(fields) - {"every_op"}
    values = convert.make_context("convert", ["model", "--scheme", "float32"]).params
    for name, option in found.items():
        assert isinstance(option, click.Option)
        assert option.help, name
        if not (option.multiple or option.required):
            default = fields[name].default
            assert values[name] == (default.value if isinstance(default, Bridge) else None if default == () else default), name
    flags = {flag for option in found.values() for flag in option.opts}
    assert {"--scheme", "--representative-data", "--evaluation-data", "--input-shape", "--min-db", "--task", "--mean"} <= flags
