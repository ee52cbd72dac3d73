"""`edgekit predict`."""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli import options
from edgekit.cli.forked import in_child, timed
from edgekit.errors import ConfigError, DatasetError
from edgekit.system.child import hushed

if TYPE_CHECKING:
    from edgekit.tasks.base import Prediction

_STREAM = "-"
# Values of a vector; --json gives all.
_SHOWN = 6


@options.command()
@click.argument("file", metavar="FILE.tflite", type=click.Path(path_type=Path))
@click.argument("inputs", metavar="[TEXT|IMAGE|-...]", nargs=-1)
@click.option("--pair", help="Second text of a pair; several pairs have a tab between their texts.")
@click.option("--question", help="What to ask of --context; several questions have a tab before their contexts.")
@click.option("--context", help="Text with the answer to --question.")
@click.option("--prompt", metavar="NAME", help="Which of a sentence encoder's prompts stands before each text.")
@click.option("--task", help="What the model is for, where the file does not say.")
@options.threads_option
@options.common
def predict(
    file: Path,
    inputs: tuple[str, ...],
    pair: str | None,
    question: str | None,
    context: str | None,
    prompt: str | None,
    task: str | None,
    threads: int,
    as_json: bool,
    quiet: bool,
    seed: int,
) -> None:
    """Answer and score of each text or image, from the file alone; - reads a line at a time from stdin."""
    if (question is None) != (context is None) or (question is not None and (inputs or pair is not None)):
        raise ConfigError("--question goes with --context alone; put a tab between the texts of several questions")
    if question is not None:
        inputs, pair = (question,), context
    if not inputs:
        raise ConfigError("there is nothing to answer; give a text, an image file, - for stdin, or --question and --context")
    if pair is not None and question is None and (len(inputs) > 1 or inputs[0] == _STREAM):
        raise ConfigError("--pair goes with one text; put a tab between the texts of several pairs")
    in_child(file)
    # One inference at a time does no linear algebra, and threads that wait for some take time to start.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from edgekit.workflows.predict import Predictor

    with hushed(), timed(file):
        predictor = Predictor(file, threads=threads, task=task, prompt=prompt)
    for number, text in enumerate([question] if question is not None else _each(inputs), 1):
        # A file with several sequence lengths loads those that are needed when they are.
        try:
            with hushed(), timed(file):
                found = predictor(*halves(text, pair, pairs=len(predictor.halves) == 2 or predictor.is_compared))
        except DatasetError as error:
            raise DatasetError(f"input {number}: {error.message}" if _STREAM in inputs or inputs[1:] else error.message) from None
        if found.remark:
            options.say(f"edgekit: note: input {number}: {found.remark}", err=True)
        if as_json:
            click.echo(json.dumps({**found.fields, "milliseconds": round(found.milliseconds, 3)}, ensure_ascii=False))
        else:
            click.echo("\n".join(lines(found, text)))
    sys.stdout.flush()


def lines(found: "Prediction", text: str) -> list[str]:
    """The answer with its score and, where it stands in the text, its characters; then each entity or token on a line of its own,
    or the first values of a vector."""
    place = [_place(found.fields)] if {"start", "end"} <= found.fields.keys() else []
    first = [" ".join(found.answer.split()), f"{found.score:.4f}", *place, f"{found.milliseconds:.2f} ms", " ".join(text.split())]
    entities, candidates = (found.fields.get(name, ()) for name in ("entities", "candidates"))
    vector = found.fields.get("embedding", ())
    return [
        "\t".join(first),
        *(f"  {entity['label']}\t{entity['score']:.4f}\t{_place(entity)}\t{entity['text']}" for entity in entities),
        *(f"  {candidate['token']}\t{candidate['score']:.4f}" for candidate in candidates),
        *(["  " + ", ".join(f"{value:.4f}" for value in vector[:_SHOWN]) + ", …"] if vector else []),
    ]


def _place(fields: Mapping[str, Any]) -> str:
    return f"{fields['start']}-{fields['end']}"


def _each(inputs: tuple[str, ...]) -> Iterator[str]:
    for text in inputs:
        if text != _STREAM:
            yield text
            continue
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
        yield from (line.rstrip("\r\n") for line in sys.stdin)


def halves(text: str, pair: str | None, *, pairs: bool) -> tuple[str, str | None]:
    """A tab divides a pair, and is white space in a single text."""
    if pair is not None:
        return text, pair
    first, tab, second = text.partition("\t")
    return (first, second) if pairs and tab else (text, None)
