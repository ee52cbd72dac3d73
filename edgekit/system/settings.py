"""Fields of configs: the default, the bounds and what --help says of each, in one place."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from edgekit.errors import ConfigError

MOST_SEED = 2**32 - 1  # of numpy's generators
MOST_THREADS = 256


@dataclass(frozen=True)
class Bounds:
    """Which values a field takes, and what an error says to give."""

    hold: Callable[[Any], bool]
    words: str


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def at_least(least: float) -> Bounds:
    return Bounds(lambda value: least <= value < math.inf, f"at least {_shown(least)}")


def above(least: float, example: float) -> Bounds:
    return Bounds(lambda value: least < value < math.inf, f"more than {least:g}, such as {example:g}")


FINITE = Bounds(math.isfinite, "a number")


def between(low: float, high: float, example: float | None = None, *, what: str = "a number") -> Bounds:
    """Both ends are allowed."""
    such = "" if example is None else f", such as {example:g}"
    return Bounds(lambda value: low <= value <= high, f"{what} between {_shown(low)} and {_shown(high)}{such}")


def inside(low: float, high: float, example: float, *, what: str = "a number") -> Bounds:
    """Neither end is allowed."""
    return Bounds(lambda value: low < value < high, f"{what} above {low:g} and below {high:g}, such as {example:g}")


def share(example: float = 0.01) -> Bounds:
    """Of 0 to 1, both allowed."""
    return between(0, 1, example, what="a proportion")


def part(example: float = 0.1) -> Bounds:
    """Of 0 to below 1."""
    return Bounds(lambda value: 0 <= value < 1, f"a proportion from 0 to below 1, such as {example:g}")


def setting(
    default: Any = dataclasses.MISSING,
    words: str = "",
    bounds: Bounds | None = None,
    *,
    default_factory: Any = dataclasses.MISSING,
    **metadata: Any,
) -> Any:
    """A config's field. `words` is its text in --help; without it the command line has no such option.

    `metadata`: `choices` that it has to be one of; `option`, the flag where that is not the field's name; `metavar`;
    `set=False` where no recipe may set it."""
    marks = {"help": words, "bounds": bounds, **metadata}
    if default_factory is not dataclasses.MISSING:
        return field(default_factory=default_factory, metadata=marks)
    return field(default=default, metadata=marks)


# The fields of options that several commands have; None is no limit.
seed = partial(setting, 0, "", between(0, MOST_SEED))
max_drop = partial(setting, 0.05, "What of the metric, or of decisions, may be lost before a file is refused.", share())
min_db = partial(setting, 20.0, "Worst output's error in dB that is allowed where nothing is decided.", FINITE)
min_cosine = partial(setting, 0.99, "Least mean cosine of vectors with float32's, of a model of embeddings.", share(0.99))
task = partial(setting, None, "What the model is for, where it does not say; generic compares the values of its outputs.")
mean = partial(setting, None, "Mean of each channel, comma-separated; images: 127.5.", metavar="123.7,116.3,103.5")
std = partial(setting, None, "Divisor of each channel after --mean is taken off; images: 127.5.", metavar="58.4,57.1,57.4")
_SHAPES = "Fixes a free shape of an .onnx or .pt2."
input_shapes = partial(setting, words=_SHAPES, default_factory=dict, option="--input-shape", metavar="NAME=1,…")
_VALUES = "Makes a constant of an .onnx file's input, such as a sample rate that decides which branch is computed."
input_values = partial(setting, words=_VALUES, default_factory=dict, option="--input-value", metavar="NAME=16000")


def threads(default: int | None = 2, words: str = "Interpreter threads.") -> Any:
    """The field of `--threads`: the interpreter crashes where it gets no memory for the stacks of too many."""
    most = f"1 to {MOST_THREADS}, best as many as there are cores"
    return setting(default, words, Bounds(lambda count: 1 <= count <= MOST_THREADS, most))


def check(config: Any) -> None:
    """Raise `ConfigError` where a field of `config` is outside its bounds or choices; None is inside all."""
    for item in dataclasses.fields(config):
        value, bounds, choices = getattr(config, item.name), item.metadata.get("bounds"), item.metadata.get("choices")
        for single in value if isinstance(value, tuple) else (value,):
            if single is None:
                continue
            if bounds is not None and not _holds(bounds, single):
                raise ConfigError(f"{item.name} is {_shown(single)}; give {bounds.words}")
            if choices and single not in choices:
                raise ConfigError(f"{item.name} is {single}; choose from {', '.join(choices)}")


class Checked:
    """A dataclass that is not made with a field outside its bounds or choices: it raises what `check` raises."""

    def __post_init__(self) -> None:
        check(self)


def _holds(bounds: Bounds, value: Any) -> bool:
    try:
        return bounds.hold(value)
    except TypeError:
        return False
