"""`edgekit convert`."""

from pathlib import Path
from typing import Any

import click

from edgekit.cli import options
from edgekit.cli.console import print_json, show_report
from edgekit.cli.options import DATASET, fail
from edgekit.errors import RefusedError
from edgekit.stages.quantize.schemes import CALIBRATIONS, MINMAX, SCHEMES, SEARCH_SECONDS

_MODEL = "a checkpoint folder, hub id, package:NAME, .onnx, SavedModel folder, Keras-2 .h5 or float .tflite"


@options.command()
@click.argument("model", metavar="MODEL", help=f"{_MODEL}.")
@click.option("--scheme", "schemes", required=True, multiple=True, type=click.Choice([*SCHEMES, "all"]), help="Repeats.")
@click.option("--representative-data", metavar="D", help=f"Rows to calibrate on: {DATASET}.")
@click.option("--representative-samples", type=int, default=200, show_default=True, help="How many of them, drawn with the seed.")
@click.option("--calibration", type=click.Choice(CALIBRATIONS), default=MINMAX, show_default=True, help="Ranges of int8 values.")
@click.option("--evaluation-data", metavar="D", help="Rows to judge on; left out, others of the representative data.")
@click.option("--evaluation-samples", type=int, default=200, show_default=True, help="How many of them, drawn with the seed.")
@click.option("--max-length", type=int, default=64, show_default=True, help="Tokens of an input.")
@click.option("--sequence-lengths", metavar="16,32,…", help="A signature for each of these lengths, over the same weights.")
@click.option("--max-drop", type=float, default=0.05, show_default=True, help="Accuracy that may be lost before a file is refused.")
@click.option("--bridge", type=click.Choice(["onnx", "litert"]), default="onnx", show_default=True, help="Road from a checkpoint.")
@click.option("--inputs", type=click.Choice(["float32", "int8", "uint8"]), default="float32", show_default=True)
@click.option("--outputs", type=click.Choice(["float32", "int8", "uint8"]), default="float32", show_default=True)
@click.option("--integer-only", is_flag=True, help="int8 without a float op, for accelerators; token ids stay integers.")
@click.option("--mediapipe", is_flag=True, help="Inputs and scores as MediaPipe's TextClassifier and ImageClassifier take them.")
@click.option("--labels", type=click.Path(path_type=Path), help="Labels of an image classifier, one a line; left out, the data's.")
@click.option("--score-threshold", type=float, help="Least probability worth telling, for the file's metadata.")
@click.option(
    "--search-seconds", type=float, default=SEARCH_SECONDS, show_default=True, help="Time for the search of an int8 plan."
)
@click.option("--plan", type=click.Path(path_type=Path), help="The .json beside an int8 file: its plan is used again.")
@click.option("--input-shape", "input_shapes", multiple=True, metavar="NAME=1,…", help="Fixes a free shape of an .onnx.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("tflite_models"), show_default=True)
@options.normalize
@options.threads_option
@options.columns
@options.overwrite_option
@options.common
def convert(
    model: str,
    schemes: tuple[str, ...],
    input_shapes: tuple[str, ...],
    sequence_lengths: str | None,
    out: Path,
    mean: str | None,
    std: str | None,
    bridge: str,
    text_columns: tuple[str, ...],
    label_column: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Convert MODEL to .tflite files, run each, and publish it with its figures or refuse it."""
    from edgekit.cli.progress import progress
    from edgekit.data.sources import Columns
    from edgekit.workflows import assess
    from edgekit.workflows.convert.bridge import Bridge, brings
    from edgekit.workflows.convert.config import ConvertConfig
    from edgekit.workflows.convert.conversion import convert as convert_model

    shapes = dict(options.input_shape(text) for text in input_shapes)
    config = ConvertConfig(
        schemes,
        bridge=Bridge(bridge),
        input_shapes=shapes,
        sequence_lengths=options.lengths(sequence_lengths),
        mean=options.numbers("--mean", mean),
        std=options.numbers("--std", std),
        brings=brings(model),
        **settings,
    )
    with progress(quiet) as tell:
        found = convert_model(
            model, out, config, columns=Columns(text_columns, label_column), overwrite=overwrite, on_progress=tell
        )
    measured = [result.measurement for result in found.results if result.path and result.measurement]
    if as_json:
        print_json({"published": [result for result in found.results if result.path], "refused": found.refusals})
    elif measured:
        notes = [f"{result.scheme}: {result.plan.reason}" for result in found.results if result.path and result.plan]
        notes += [f"{result.scheme}: {result.lengths.told}" for result in found.results if result.path and result.lengths]
        notes += found.notes
        show_report(assess.of_conversion(measured, found.reference, found.source.name, found.data, notes), as_json=False)
        for result in found.results:
            if result.path:
                click.echo(str(result.path))
    if found.refusals:
        fail("; ".join(found.refusals), RefusedError.exit_code)
