"""Options that several commands share, and what their texts mean."""

import contextlib
import dataclasses
import enum
import functools
import math
import os
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import click

from edgekit.errors import ConfigError, RefusedError, printable
from edgekit.spec import DataSpec
from edgekit.system import settings
from edgekit.system.limits import limited
from edgekit.system.settings import MOST_SEED, MOST_THREADS, setting

Command = Callable[..., Any]

INTERRUPTED = 130
DATASET = "a .tsv .csv .jsonl .parquet .npz file, an image folder with labels.tsv, or hub:NAME[/CONFIG][:SPLIT]"
TEXTS = "a .tsv .csv .jsonl .parquet file, or hub:NAME[/CONFIG][:SPLIT]"
ARRAYS = "an .npz file, or an image folder with labels.tsv"
EXIT_CODES = """\b
Exit codes: 0 all that was asked for was done
            2 wrong option or recipe        3 wrong checkpoint, data or model file
            4 not convertible, or refused   5 a child process failed
            6 the output cannot be written  130 interrupted"""

command = functools.partial(click.command, epilog=EXIT_CODES)
checkpoint_out = click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the new checkpoint.")
_threads = click.IntRange(1, MOST_THREADS)
threads_option = click.option("--threads", type=_threads, default=2, show_default=True, help="Interpreter threads.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace what is at --out.")


def common(command: Command) -> Command:
    """Options of every command: --json --quiet --debug --seed --timeout --memory-limit; and how it ends when its reader does."""

    @functools.wraps(command)
    def called(*, debug: bool, timeout: float | None, memory_limit: float | None, **arguments: Any) -> Any:
        try:
            with limited(timeout_s=timeout, memory_bytes=None if memory_limit is None else int(memory_limit * 2**30)):
                return command(**arguments)
        except BrokenPipeError:
            # The reader has enough; what is left in the buffer must not be tried again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(0) from None

    positive = click.FloatRange(0, min_open=True)
    bounds = "Seconds that each child process may take; left out, as many as it needs while it tells of progress."
    for option in (
        click.option("--memory-limit", type=positive, metavar="GIB", help="Memory of each child; left out, 90 % of the machine's."),
        click.option("--timeout", type=positive, metavar="SECONDS", help=bounds),
        click.option("--seed", type=click.IntRange(0, MOST_SEED), default=0, show_default=True, help="Seed of every draw."),
        click.option("--debug", is_flag=True, help="Show the traceback and a child's last output on an error."),
        click.option("--quiet", is_flag=True, help="No progress on stderr."),
        click.option("--json", "as_json", is_flag=True, help="The result alone on stdout, as JSON."),
    ):
        called = option(called)
    return called


def say(text: str, *, err: bool = False) -> None:
    """Print what may hold names from others' files; see `printable`."""
    click.echo(printable(text), err=err)


def fail(message: str, code: int) -> NoReturn:
    """One line on stderr, and the command ends."""
    say(f"edgekit: error: {' '.join(message.split())}", err=True)
    raise click.exceptions.Exit(code)


@dataclasses.dataclass(frozen=True)
class _Reading:
    """How rows are read, beside their seed: the fields of `DataSpec` that are options."""

    text_columns: tuple[str, ...] = setting((), "Column with the text; twice for pairs.", option="--text-column")
    label_columns: tuple[str, ...] = setting((), "Column with the label; repeats.", option="--label-column")
    mean: tuple[float, ...] | None = settings.mean()
    std: tuple[float, ...] | None = settings.std()
    tokenizer: Path | None = setting(None, "Folder of the tokenizer, if it is not beside the file.")


def refuse(reasons: Collection[str]) -> None:
    """End the command as one that was refused what is named in `reasons`, where there are any."""
    if reasons:
        fail("; ".join(reasons), RefusedError.exit_code)


def rows(
    option: str, words: str, *, limit: int | None = 0, required: bool = True, leave: Collection[str] = ()
) -> Callable[[Command], Command]:
    """Give a command the data set of `option`, read as its other options say, as `data`; above `of`, which takes the seed.

    `limit` is how many rows are drawn by default; with None there is no option for it. Ways of reading in `leave` have none."""
    leaves = [leaf for leaf in _leaves(_Reading) if leaf[0].name not in leave]

    def decorated(command: Command) -> Command:
        @functools.wraps(command)
        def called(*, dataset: str | None, limit: int = 0, **arguments: Any) -> Any:
            reading = _taken(leaves, arguments, {})
            spec = DataSpec(dataset, samples=limit or None, seed=arguments["seed"], **reading) if dataset is not None else None
            return command(data=spec, **arguments)

        wrapped = _with_options(called, leaves)
        if limit is not None:
            drawn = "Rows drawn from it; 0 takes all."
            wrapped = click.option("--limit", type=click.IntRange(0), default=limit, show_default=True, help=drawn)(wrapped)
        return click.option(option, "dataset", metavar="D", required=required, help=f"{words}: {DATASET}.")(wrapped)

    return decorated


def of(
    config: type,
    *,
    data_set: str = DATASET,
    leave: Collection[str] = (),
    normalized: bool = False,
    complete: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda _: {},
) -> Callable[[Command], Command]:
    """Give a command the options of a config's fields that have a text for --help, and as `config` what they say.

    A field's option is called after it unless its metadata says otherwise. Where a field is a data set there are the options for
    its columns too, once for all; `data_set` is what such a reference may be. `normalized` adds --mean and --std to them.
    Fields named in `leave` get no option. What `complete` computes from the command's arguments goes before them. The fields of a
    config that is marked `inline` have options as well. Other fields are taken from the command's arguments of the same name, such
    as `seed`."""
    every = list(_leaves(config))
    leaves = [leaf for leaf in every if leaf[0].metadata.get("help") and leaf[0].name not in leave]
    columned = any(_bare(hint) is DataSpec for _, hint, _ in leaves)
    ways = ("text_columns", "label_columns") * columned + ("mean", "std") * normalized
    reading = [leaf for leaf in _leaves(_Reading) if leaf[0].name in ways]

    def decorated(command: Command) -> Command:
        @functools.wraps(command)
        def called(**arguments: Any) -> Any:
            arguments |= complete(arguments)
            values = _taken(leaves, arguments, _taken(reading, arguments, {}))
            values |= {item.name: arguments.pop(item.name) for item, *_ in every if item.name in arguments}
            return command(config=_built(config, None, values), **arguments)

        return _with_options(called, [*leaves, *reading], data_set)

    return decorated


_Leaf = tuple["dataclasses.Field[Any]", Any, Any]


def _with_options(command: Command, leaves: Iterable[_Leaf], data_set: str = DATASET) -> Command:
    for item, hint, default in reversed(list(leaves)):
        command = _option(item, hint, default, data_set)(command)
    return command


def _taken(leaves: Iterable[_Leaf], arguments: dict[str, Any], reading: Mapping[str, Any]) -> dict[str, Any]:
    """The fields' values, each taken out of a command's `arguments`; data sets are read as `reading` says."""
    return {item.name: _read(item, hint, arguments.pop(item.name), reading) for item, hint, _ in leaves}


def _leaves(config: type, instance: Any = None) -> Iterator[_Leaf]:
    """Each field, those of a config that is `inline` in its place, with its type and its default, which is that of `instance`."""
    hints = typing.get_type_hints(config)
    for item in dataclasses.fields(config):
        default = _default(item, instance)
        yield from _leaves(hints[item.name], default) if item.metadata.get("inline") else ((item, hints[item.name], default),)


def _default(item: "dataclasses.Field[Any]", instance: Any) -> Any:
    if instance is not None:
        return getattr(instance, item.name)
    return item.default if item.default_factory is dataclasses.MISSING else item.default_factory()


def _built(config: type, instance: Any, values: Mapping[str, Any]) -> Any:
    """The config of these values by the fields' names; what they do not name is as in `instance`."""
    parts = {}
    for item in dataclasses.fields(config):
        if item.metadata.get("inline"):
            parts[item.name] = _built(typing.get_type_hints(config)[item.name], _default(item, instance), values)
        elif item.name in values:
            parts[item.name] = values[item.name]
    return config(**parts) if instance is None else dataclasses.replace(instance, **parts)


def _flag(item: "dataclasses.Field[Any]") -> str:
    return str(item.metadata.get("option", f"--{item.name.replace('_', '-')}"))


def _bare(hint: Any) -> Any:
    """A field's type without `| None`."""
    options = [kind for kind in typing.get_args(hint) if kind is not types.NoneType]
    return options[0] if typing.get_origin(hint) in (types.UnionType, typing.Union) else hint


def _option(item: "dataclasses.Field[Any]", hint: Any, default: Any, data_set: str) -> Callable[[Command], Command]:
    kind, choices = _bare(hint), item.metadata.get("choices")
    inner = typing.get_args(kind)[:1] if typing.get_origin(kind) is tuple else ()
    repeats = (inner in ((str,), (Path,)) and "joined" not in item.metadata) or typing.get_origin(kind) is Mapping
    given: dict[str, Any] = {
        "help": item.metadata["help"].format(data=data_set),
        "metavar": item.metadata.get("metavar", "D" if kind is DataSpec else None),
        "required": item.metadata.get("required", default is dataclasses.MISSING),
    }
    if kind is bool:
        return click.option(_flag(item), item.name, is_flag=True, help=given["help"])
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        choices = [member.value for member in kind]
    single = inner[0] if repeats and inner else kind
    given["type"] = click.Choice(choices) if choices else _SIMPLE.get(single, str)
    if repeats:
        given["multiple"] = True
    elif not given["required"] and default not in (None, (), dataclasses.MISSING):
        given |= {"default": getattr(default, "value", default), "show_default": True}
    return click.option(_flag(item), item.name, **given)


_SIMPLE = {int: int, float: float, Path: click.Path(path_type=Path)}


def _read(item: "dataclasses.Field[Any]", hint: Any, value: Any, reading: Mapping[str, Any]) -> Any:
    """An option's value as its field takes it. Raises `ConfigError`."""
    kind = _bare(hint)
    if value is None:
        return () if typing.get_origin(hint) is tuple else None
    if kind is DataSpec:
        return DataSpec(value, **reading)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind(value)
    if typing.get_origin(kind) is Mapping:
        sizes = typing.get_args(typing.get_args(kind)[1])[0] is int
        return dict((input_shape if sizes else input_value)(text) for text in value)
    if typing.get_origin(kind) is tuple and isinstance(value, str):
        return separated(_flag(item), value, typing.get_args(kind)[0], str(item.metadata.get("metavar")))
    return value


def separated(option: str, text: str, kind: type, example: str) -> tuple[Any, ...]:
    """Numbers or names with commas between them. Raises `ConfigError`."""
    try:
        return tuple(kind(part.strip()) for part in text.split(",") if part.strip() or kind is not str)
    except ValueError:
        words = "whole numbers" if kind is int else "numbers"
        raise ConfigError(f"{option} {text}: not {words}; give them as {example}") from None


def input_shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, sizes = text.rpartition("=")
    if not name or not all(part.strip().isdigit() and int(part) > 0 for part in sizes.split(",")):
        raise ConfigError(f"--input-shape {text}: give it as NAME=1,3,224,224")
    return name, tuple(int(part) for part in sizes.split(","))


def input_value(text: str) -> tuple[str, tuple[float, ...]]:
    name, _, numbers = text.rpartition("=")
    with contextlib.suppress(ValueError):
        values = tuple(float(part) for part in numbers.split(","))
        if name and all(map(math.isfinite, values)):
            return name, values
    raise ConfigError(f"--input-value {text}: give it as NAME=16000, or with a number for each value that it holds")


def check_report(out: Path, *, overwrite: bool) -> None:
    """Find out before anything is measured whether a report can be written to `out`.

    Raises `ConfigError` for a name that says no format, `OutputError` for a file that may not be replaced or written."""
    from edgekit.report.content import Format
    from edgekit.system.artifacts import check_place, refuse_existing

    suffixes = [kind.suffix for kind in (Format.HTML, Format.MARKDOWN, Format.JSON)]
    if out.suffix.lower() not in suffixes:
        raise ConfigError(f"--out {out}: no such report format; end the name with {', '.join(suffixes)}")
    check_place(out)
    refuse_existing(out, overwrite=overwrite)
