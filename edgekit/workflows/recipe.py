"""A whole run as one TOML file, and back.

A table holds the fields of one dataclass: the keys of a stage are the fields of its config. A data set is its reference, or a
table with `source` and how it is read.
An unknown key, a wrong type and a missing key are errors that name the file, the table and the key. Relative paths start
at the recipe's own folder, so that a recipe means the same wherever it is called from."""

import tomllib
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.errors import ConfigError
from edgekit.measure.judge import BenchmarkConfig
from edgekit.report.content import Format
from edgekit.spec import DataSpec, ModelReference
from edgekit.stages.train.config import DistillConfig, FinetuneConfig
from edgekit.system import serial
from edgekit.system.settings import setting
from edgekit.workflows.convert.config import ConvertConfig
from edgekit.workflows.prune import PruneConfig

# tomllib takes the square of a key's parts in time.
_MOST_DOTS = 1000


@dataclass(frozen=True)
class Model:
    """`[model]`: what the run starts from, and its task where it does not say."""

    source: ModelReference
    task: str | None = None


@dataclass(frozen=True)
class Columns:
    """`[data]`: columns of every data set that does not name its own."""

    text_columns: tuple[str, ...] = ()
    label_columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Benchmark:
    """`[benchmark]`: how the files are measured; without `data`, on the evaluation data."""

    data: DataSpec | None = None
    config: BenchmarkConfig = setting(BenchmarkConfig(), inline=True)


@dataclass(frozen=True)
class Report:
    """`[report]`: what is written beside the files."""

    formats: tuple[Format, ...] = tuple(Format)


@dataclass(frozen=True)
class Recipe:
    """The whole run; everything it writes lies below `out`."""

    name: str
    out: Path
    model: Model
    data: Columns = Columns()
    finetune: FinetuneConfig | None = None
    prune: PruneConfig | None = None
    distill: DistillConfig | None = None
    convert: ConvertConfig = setting(ConvertConfig())
    benchmark: Benchmark = Benchmark()
    report: Report = Report()

    def __post_init__(self) -> None:
        # Files and a checkpoint folder below `out` are called by it: `..` would put the folder in place of another.
        if Path(self.name).name != self.name or self.name in ("", "..") or not self.name.isprintable():
            raise ConfigError(f"name is {self.name!r}, which no file can be called; give one without / such as 'quickstart'")
        for stage, config in (("finetune", self.finetune), ("prune", self.prune), ("distill", self.distill)):
            if config is not None and config.data is None:
                raise ConfigError(f"[{stage}]: 'data' is missing; add it")

    def filled(self) -> "Recipe":
        """The recipe with the columns of `data` and the task of `model` wherever none are named."""
        whole: Recipe = _filled(self, self)
        return whole


def load(path: Path) -> Recipe:
    """The recipe in `path`, its paths made absolute.

    Raises `ConfigError` if the file is missing, is not UTF-8 or not TOML, or says something that no recipe knows."""
    try:
        serial.refuse_pipe(path)
        text = path.read_bytes().decode("utf-8")
        if any(line.count(".") > _MOST_DOTS for line in text.splitlines()):
            raise ValueError(f"a line has more than {_MOST_DOTS} dots")
        table = tomllib.loads(text)
    except OSError as error:
        what = f"cannot be read ({error.strerror}); give the path of a recipe such as recipes/quickstart.toml"
        raise ConfigError(f"{path}: {what}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except (ValueError, RecursionError) as error:  # of which tomllib's own is one
        raise ConfigError(f"{path}: not valid TOML: {error}; mend it there") from None
    return serial.read(Recipe, table, str(path), error=ConfigError, base=path.resolve().parent)


def dump(recipe: Recipe) -> str:
    """`recipe` as TOML, every default written out; `load` reads the same recipe from it, wherever it lies."""
    import tomli_w

    return tomli_w.dumps(serial.plain(recipe, sparse=True))


def _filled(value: Any, recipe: Recipe) -> Any:
    if isinstance(value, DataSpec):
        texts, labels = value.text_columns or recipe.data.text_columns, value.label_columns or recipe.data.label_columns
        return replace(value, text_columns=texts, label_columns=labels)
    if not is_dataclass(value) or isinstance(value, type | Model):
        return value
    parts = {item.name: _filled(getattr(value, item.name), recipe) for item in fields(value)}
    if "task" in parts:
        parts["task"] = parts["task"] or recipe.model.task
    return replace(value, **parts)
