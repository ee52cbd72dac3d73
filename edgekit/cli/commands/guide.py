"""`edgekit guide`."""

from pathlib import Path

import click

from edgekit.cli import options
from edgekit.cli.console import print_json, show
from edgekit.cli.options import DATASET, EXIT_CODES, fail
from edgekit.errors import RefusedError

_WEIGHTS = "imagenet (downloaded by Keras), random, or a folder with NAME.h5, NAME.onnx, NAME.tflite or a SavedModel NAME"


@click.group(epilog=EXIT_CODES)
def guide() -> None:
    """The TF Lite guide on model optimization, measured here."""


@guide.command("run", epilog=EXIT_CODES)
@click.option("--table", type=click.IntRange(1, 2), default=1, show_default=True, help="Which of the guide's tables.")
@click.option("--models", "models", metavar="NAME,…", help="Rows of it, such as mobilenet_v2; left out, all.")
@click.option("--weights", default="imagenet", show_default=True, help=f"{_WEIGHTS}.")
@click.option("--data", metavar="D", help=f"Labelled rows for accuracy, and others of them to calibrate on: {DATASET}.")
@click.option("--representative-data", metavar="D", help="Rows to calibrate on in place of those.")
@click.option("--representative-samples", type=int, default=200, show_default=True, help="How many of them, drawn with the seed.")
@click.option("--qat-data", metavar="D", help="Labelled rows to train quantization-aware; left out, ranges are calibrated only.")
@click.option("--qat-epochs", type=int, default=1, show_default=True)
@click.option("--max-drop", type=float, default=0.05, show_default=True, help="Accuracy that may be lost before a file is refused.")
@click.option("--runs", type=int, default=60, show_default=True, help="Timed inferences of each file in all.")
@click.option("--warmup", type=int, default=5, show_default=True, help="Uncounted inferences in each process.")
@click.option("--rounds", type=int, default=3, show_default=True, help="Fresh processes for each file, in turns.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("tflite_models/guide"), show_default=True)
@options.threads_option
@options.overwrite_option
@options.common
def run(
    table: int,
    models: str | None,
    weights: str,
    data: str | None,
    representative_data: str | None,
    representative_samples: int,
    qat_data: str | None,
    qat_epochs: int,
    max_drop: float,
    runs: int,
    warmup: int,
    rounds: int,
    out: Path,
    threads: int,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    seed: int,
) -> None:
    """Build the models of one of the guide's tables, convert each in every scheme, and measure them beside its figures.

    Run it again with the same options and it goes on where it was interrupted.
    """
    from dataclasses import replace

    from edgekit.cli.progress import progress
    from edgekit.workflows.guide import all_models, one_model
    from edgekit.workflows.guide.table import terminal

    config = one_model.GuideConfig(
        table=table,
        models=tuple(name.strip() for name in models.split(",") if name.strip()) if models else (),
        weights=weights,
        data=data,
        representative_data=representative_data,
        representative_samples=representative_samples,
        qat_data=qat_data,
        qat_epochs=qat_epochs,
        max_drop=max_drop,
        timing=replace(one_model.TIMING, threads=threads, runs=runs, warmup=warmup, rounds=rounds),
        seed=seed,
    )
    with progress(quiet) as tell:
        found = all_models.run(out, config, overwrite=overwrite, on_progress=tell)
    if as_json:
        print_json(found)
    else:
        show(terminal(found))
        for name in all_models.WRITTEN:
            if (out / name).is_file():
                click.echo(str(out / name))
    if failed := all_models.failures(found):
        fail("; ".join(failed), RefusedError.exit_code)
