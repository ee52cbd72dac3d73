"""`edgekit benchmark`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli import options
from edgekit.cli.console import show_report
from edgekit.cli.options import DATASET, fail
from edgekit.errors import ConfigError, RefusedError

if TYPE_CHECKING:
    from edgekit.measure.adb import DeviceConfig
    from edgekit.measure.judge import BenchmarkConfig


@options.command()
@click.argument("files", metavar="FILE.tflite…", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--dataset", help=f"Rows for accuracy and as inputs: {DATASET}.")
@click.option("--against", type=click.Path(path_type=Path), help="The file that ratios are taken from; default: the float32 one.")
@options.judged
@click.option("--device", help="Run on a phone instead: adb, or adb:SERIAL where several are attached.")
@click.option("--benchmark-binary", type=click.Path(path_type=Path), help="Google's benchmark_model for that phone.")
@click.option("--gpu", is_flag=True, help="On the phone's GPU too; on its CPU with 1, 2 and 4 threads or with --threads.")
@click.option("--out", type=click.Path(path_type=Path), help="Also write the report: .html, .md or .json.")
@options.timing
@options.normalize
@options.columns
@options.overwrite_option
@options.common
def benchmark(
    files: tuple[Path, ...],
    dataset: str | None,
    against: Path | None,
    device: str | None,
    benchmark_binary: Path | None,
    gpu: bool,
    out: Path | None,
    overwrite: bool,
    threads: int,
    runs: int,
    warmup: int,
    rounds: int,
    as_json: bool,
    quiet: bool,
    seed: int,
    **data: Any,
) -> None:
    """Time files side by side, in fresh processes and in turns; with --dataset, their accuracy too. Or on a phone."""
    from edgekit.cli.progress import progress
    from edgekit.measure import adb
    from edgekit.measure.judge import BenchmarkConfig
    from edgekit.workflows import assess

    config = BenchmarkConfig(threads=threads, runs=runs, warmup=warmup, rounds=rounds, seed=seed)
    target = options.report_format(out, overwrite=overwrite) if out else None
    if device is not None:
        serial = adb.serial_of(device)
        phone = _phone(device, benchmark_binary, config, gpu, elsewhere=bool(dataset or against))
        with progress(quiet) as tell:
            report = assess.on_device(files, serial, phone, on_progress=tell)
    elif benchmark_binary is not None or gpu:
        raise ConfigError("--benchmark-binary and --gpu are for a phone; add --device adb")
    else:
        given = options.data(dataset=dataset, **data) if dataset else None
        compared = [*files, *([against] if against is not None and against not in files else [])]
        with progress(quiet) as tell:
            report = assess.assess(compared, given, config, reference=against, on_progress=tell)
    if target and out:
        from edgekit.workflows.run import write_report

        write_report(report, {target: out})
    show_report(report, as_json)
    if all(row.failure for row in report.rows):
        fail("; ".join(row.failure for row in report.rows if row.failure), RefusedError.exit_code)


def _phone(device: str, binary: Path | None, config: "BenchmarkConfig", gpu: bool, *, elsewhere: bool) -> "DeviceConfig":
    """What to run on the phone; --threads counts only where it was given."""
    from edgekit.measure.adb import DeviceConfig

    if elsewhere:
        raise ConfigError(f"--device {device}: a phone is for timing alone; leave --dataset and --against out")
    if binary is None:
        raise ConfigError(
            f"--device {device}: needs Google's benchmark_model for the phone, with --benchmark-binary; "
            "builds are at https://ai.google.dev/edge/litert/models/measurement"
        )
    told = click.get_current_context().get_parameter_source("threads") is not click.core.ParameterSource.DEFAULT
    usual = DeviceConfig(binary)
    return DeviceConfig(binary, (config.threads,) if told else usual.threads, gpu, config.runs, config.warmup)
