"""Options that several commands share, and what their texts mean."""

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from edgekit.errors import ConfigError

if TYPE_CHECKING:
    from edgekit.workflows.assess import Data
    from edgekit.workflows.recipe import Format

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
_MOST_SEED = 2**32 - 1  # of numpy's generators

command = functools.partial(click.command, epilog=EXIT_CODES)
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace what is at --out.")


def common(command: Command) -> Command:
    """Options of every command: --json --quiet --debug --seed; and how it ends when it is interrupted."""

    @functools.wraps(command)
    def called(*, debug: bool, **arguments: Any) -> Any:
        try:
            return command(**arguments)
        except KeyboardInterrupt:
            fail("interrupted; each output is as it was before or whole", INTERRUPTED)
        except BrokenPipeError:
            # The reader has enough; what is left in the buffer must not be tried again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(0) from None

    for option in (
        click.option("--seed", type=click.IntRange(0, _MOST_SEED), default=0, show_default=True, help="Seed of every draw."),
        click.option("--debug", is_flag=True, help="Show the traceback and a child's last output on an error."),
        click.option("--quiet", is_flag=True, help="No progress on stderr."),
        click.option("--json", "as_json", is_flag=True, help="The result alone on stdout, as JSON."),
    ):
        called = option(called)
    return called


def fail(message: str, code: int) -> NoReturn:
    """One line on stderr, and the command ends."""
    click.echo(f"edgekit: error: {' '.join(message.split())}", err=True)
    raise click.exceptions.Exit(code)


def judged(command: Command) -> Command:
    """How a data set is read for a file that is there already."""
    for option in (
        click.option("--limit", type=click.IntRange(0), default=0, help="Rows drawn from the data set; 0 takes all."),
        click.option("--tokenizer", type=click.Path(path_type=Path), help="Folder of the tokenizer, if it is not beside the file."),
    ):
        command = option(command)
    return command


def columns(command: Command) -> Command:
    command = click.option("--label-column", help="Column with the label.")(command)
    return click.option("--text-column", "text_columns", multiple=True, help="Column with the text; twice for pairs.")(command)


def normalize(command: Command) -> Command:
    command = click.option("--std", help="Divisor of each channel after --mean is taken off; images: 127.5.")(command)
    return click.option("--mean", help="Mean of each channel, comma-separated; images: 127.5.")(command)


def training(command: Command) -> Command:
    """What fine-tuning and distillation are told alike: rows, output, and how to go through them."""
    for option in (
        overwrite_option,
        columns,
        click.option(
            "--qat",
            "quantization_aware",
            is_flag=True,
            help="Quantization-aware: round in linear layers as int8 will, and keep the ranges for edgekit convert.",
        ),
        click.option("--freeze-embeddings", is_flag=True, help="Leave the token embeddings as they are: a step is faster."),
        click.option("--bfloat16", is_flag=True, help="Matrix products in bfloat16; faster on CPUs with avx512_bf16 or amx_bf16."),
        click.option("--max-length", type=int, default=128, show_default=True, help="Tokens of a row."),
        click.option("--learning-rate", type=float, default=5e-5, show_default=True),
        click.option("--batch-size", type=int, default=16, show_default=True),
        click.option("--epochs", type=int, default=3, show_default=True),
        click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the new checkpoint."),
        click.option("--evaluation-data", help="Rows to judge on; left out, a tenth of the training rows is held out."),
        click.option("--dataset", required=True, help=f"Training rows: {TEXTS}."),
    ):
        command = option(command)
    return command


def threads_option(command: Command) -> Command:
    return click.option("--threads", type=int, default=2, show_default=True, help="Interpreter threads.")(command)


def timing(command: Command) -> Command:
    for option in (
        click.option("--rounds", type=int, default=5, show_default=True, help="Fresh processes for each file, in turns."),
        click.option("--warmup", type=int, default=10, show_default=True, help="Uncounted inferences in each process."),
        click.option("--runs", type=int, default=100, show_default=True, help="Timed inferences of each file in all."),
        threads_option,
    ):
        command = option(command)
    return command


def numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"{option} {text}: not numbers; give one for each channel, such as 123.7,116.3,103.5") from None


def lengths(text: str | None) -> tuple[int, ...]:
    """The numbers of --sequence-lengths, none without it. Raises `ConfigError`."""
    try:
        return tuple(int(part) for part in text.split(",")) if text is not None else ()
    except ValueError:
        raise ConfigError(f"--sequence-lengths {text}: not whole numbers; give them as 16,32,64,128") from None


def input_shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, sizes = text.rpartition("=")
    if not name or not all(part.strip().isdigit() and int(part) > 0 for part in sizes.split(",")):
        raise ConfigError(f"--input-shape {text}: give it as NAME=1,3,224,224")
    return name, tuple(int(part) for part in sizes.split(","))


def data(
    *,
    dataset: str,
    text_columns: tuple[str, ...],
    label_column: str | None,
    mean: str | None,
    std: str | None,
    **rest: Any,
) -> "Data":
    """The data set that a command was given and how to read it; `rest` are the other fields of `Data`."""
    from edgekit.data.sources import Columns
    from edgekit.workflows.assess import Data

    named = Columns(text_columns, label_column)
    return Data(dataset, named, mean=numbers("--mean", mean), std=numbers("--std", std), **rest)


def report_format(out: Path, *, overwrite: bool) -> "Format":
    """What a report's file name says it is.

    Raises `OutputError` for a file that may not be replaced and a place that cannot be written, before anything is measured.
    """
    from edgekit.system.artifacts import check_place, refuse_existing
    from edgekit.workflows.recipe import Format

    kinds = {".html": Format.HTML, ".md": Format.MARKDOWN, ".json": Format.JSON}
    if out.suffix.lower() not in kinds:
        raise ConfigError(f"--out {out}: no such report format; end the name with {', '.join(kinds)}")
    check_place(out)
    refuse_existing(out, overwrite=overwrite)
    return kinds[out.suffix.lower()]
