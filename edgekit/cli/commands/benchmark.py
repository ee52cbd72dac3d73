"""`edgekit benchmark`."""

from pathlib import Path

import click

from edgekit.cli import options
from edgekit.cli.console import show_report
from edgekit.errors import ConfigError
from edgekit.measure import adb
from edgekit.measure.adb import DeviceConfig
from edgekit.measure.judge import BenchmarkConfig
from edgekit.spec import DataSpec


@options.command()
@click.argument("files", metavar="FILE.tflite…", nargs=-1, required=True, type=click.Path(path_type=Path))
@options.rows("--dataset", "Rows to judge the files on and as inputs", required=False)
@options.of(BenchmarkConfig)
@click.option("--task", help="What the model is for, where the files do not say.")
@click.option("--against", type=click.Path(path_type=Path), help="The file that ratios are taken from; default: the float32 one.")
@click.option("--device", help="Run on a phone instead: adb, or adb:SERIAL where several are attached.")
@click.option("--benchmark-binary", type=click.Path(path_type=Path), help="Google's benchmark_model for that phone.")
@click.option("--gpu", is_flag=True, help="On the phone's GPU too; on its CPU with 1, 2 and 4 threads or with --threads.")
@click.option("--out", type=click.Path(path_type=Path), help="Also write the report: .html, .md or .json.")
@options.overwrite_option
@options.common
def benchmark(
    files: tuple[Path, ...],
    data: DataSpec | None,
    config: BenchmarkConfig,
    task: str | None,
    against: Path | None,
    device: str | None,
    benchmark_binary: Path | None,
    gpu: bool,
    out: Path | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Time files side by side, in fresh processes and in turns; with --dataset, judge them too. Or on a phone."""
    from edgekit.cli.progress import progress
    from edgekit.workflows import benchmark as benchmarking
    from edgekit.workflows.report import write_report

    if out:
        options.check_report(out, overwrite=overwrite)
    if device is not None:
        serial = adb.serial_of(device)
        if data or against:
            raise ConfigError(f"--device {device}: a phone is for timing alone; leave --dataset and --against out")
        phone = _phone(device, benchmark_binary, config, gpu)
        with progress(quiet) as tell:
            report = benchmarking.on_device(files, serial, phone, on_progress=tell)
    elif benchmark_binary is not None or gpu:
        raise ConfigError("--benchmark-binary and --gpu are for a phone; add --device adb")
    else:
        compared = [*files, *([against] if against is not None and against not in files else [])]
        with progress(quiet) as tell:
            report = benchmarking.benchmark(compared, data, config, reference=against, task=task, on_progress=tell)
    show_report(report, as_json, unless_all_failed=True)
    write_report(report, [out] if out else [])


def _phone(device: str, binary: Path | None, config: BenchmarkConfig, gpu: bool) -> DeviceConfig:
    """What to run on the phone; --threads counts only where it was given."""
    if binary is None:
        raise ConfigError(
            f"--device {device}: needs Google's benchmark_model for the phone, with --benchmark-binary; "
            "builds are at https://ai.google.dev/edge/litert/models/measurement"
        )
    usual = click.get_current_context().get_parameter_source("threads") is click.core.ParameterSource.DEFAULT
    threads = DeviceConfig(binary).threads if usual else (config.threads,)
    return DeviceConfig(binary, threads, gpu, config.runs, config.warmup)
