"""`edgekit predict`."""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from edgekit.cli import options
from edgekit.errors import ConfigError, DatasetError, WorkerCrashed

_STREAM = "-"


@options.command()
@click.argument("file", metavar="FILE.tflite", type=click.Path(path_type=Path))
@click.argument("inputs", metavar="TEXT|IMAGE|-...", nargs=-1, required=True)
@click.option("--pair", help="Second text of a pair; several pairs have a tab between their texts.")
@click.option("--threads", type=click.IntRange(1, 256), default=2, show_default=True, help="Interpreter threads.")
@options.common
def predict(file: Path, inputs: tuple[str, ...], pair: str | None, threads: int, as_json: bool, quiet: bool, seed: int) -> None:
    """Label and scores of each text or image, from the file alone; - reads a line at a time from stdin."""
    if pair is not None and (len(inputs) > 1 or inputs[0] == _STREAM):
        raise ConfigError("--pair goes with one text; put a tab between the texts of several pairs")
    in_child(file)
    # One inference at a time does no linear algebra, and threads that wait for some take time to start.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from edgekit.workflows.predict import Predictor

    with quiet_runtime():
        predictor = Predictor(file, threads=threads)
    for number, given in enumerate(_each(inputs), 1):
        # A file with several sequence lengths loads those that are needed when they are.
        try:
            with quiet_runtime():
                if predictor.is_text:
                    text, second = halves(given, pair, pairs=predictor.pairs)
                    found = predictor.text(text, second)
                elif given:
                    found = predictor.image(Path(given))
                else:
                    raise DatasetError(f"{file}: takes images, and the name given is empty; give an image file")
        except DatasetError as error:
            raise DatasetError(f"input {number}: {error.message}" if _STREAM in inputs or inputs[1:] else error.message) from None
        if found.remark:
            click.echo(f"edgekit: note: input {number}: {found.remark}", err=True)
        if as_json:
            line = {"label": found.label, "scores": found.scores, "milliseconds": round(found.milliseconds, 3)}
            click.echo(json.dumps(line, ensure_ascii=False))
        else:
            click.echo(f"{found.label}\t{found.scores[found.label]:.4f}\t{found.milliseconds:.2f} ms\t{' '.join(given.split())}")
    sys.stdout.flush()


@contextlib.contextmanager
def quiet_runtime() -> Iterator[None]:
    """The runtime says on stderr that it has made its delegate, and cannot be told not to."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _each(inputs: tuple[str, ...]) -> Iterator[str]:
    for given in inputs:
        if given != _STREAM:
            yield given
            continue
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
        yield from (line.rstrip("\r\n") for line in sys.stdin)


def halves(given: str, pair: str | None, *, pairs: bool) -> tuple[str, str | None]:
    """A tab divides a pair, and is white space in a single text."""
    if pair is not None:
        return given, pair
    first, tab, second = given.partition("\t")
    return (first, second) if pairs and tab else (given, None)


def in_child(file: Path) -> None:
    """Go on in a forked child, whose exit this process passes on: a malformed file can crash the interpreter.

    A fork shares what is loaded so far, so it costs a few milliseconds where a fresh child would start Python again.
    """
    parent = os.getpid()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        from edgekit.system.child import die_with_parent

        die_with_parent(parent)
        return
    # Ctrl-C reaches the child as well, and what it says about it is enough.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0:
        name = str(-code)
        with contextlib.suppress(ValueError):
            name = signal.Signals(-code).name
        raise WorkerCrashed(f"{file}: the interpreter crashed with {name}; convert or download the file again")
    raise click.exceptions.Exit(code)
