"""The straight line: a recipe in, measured files and a report out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekit import artifacts, assess, bridge, checkpoint, recipe
from edgekit.convert import convert
from edgekit.data import sources
from edgekit.data.sources import Columns, TextRows
from edgekit.errors import DatasetError, RefusedError
from edgekit.quantize import schemes
from edgekit.recipe import Format, Recipe
from edgekit.report import table
from edgekit.report.content import FILE_NAME, Report
from edgekit.train.config import FinetuneResult
from edgekit.train.finetune import finetune
from edgekit.worker import Progress, Worker

REPORT_NAMES = {Format.MARKDOWN: "report.md", Format.JSON: FILE_NAME, Format.HTML: "report.html"}
RECIPE_NAME = "recipe.toml"


@dataclass(frozen=True)
class Finished:
    """A recipe's report, and why each scheme that is missing from it was refused."""

    report: Report
    refusals: tuple[str, ...]


def run(plan: Recipe, *, overwrite: bool = False, on_progress: Callable[[Progress], None] | None = None) -> Finished:
    """Run a recipe; what was run is written to `OUT/recipe.toml`, and can be run again from there.

    Raises what the stages raise, and `RefusedError` if no scheme could be published.
    """
    check(plan, overwrite=overwrite)
    source, training = plan.model.source, None
    if plan.finetune is not None:
        training = train(source, plan, overwrite=overwrite, on_progress=on_progress)
        source = str(checkpoint_folder(plan))
    conversion = convert(source, plan.out, plan.convert, columns=plan.data, overwrite=overwrite, on_progress=on_progress)
    files = [result.path for result in conversion.results if result.path is not None]
    if not files:
        raise RefusedError("; ".join(conversion.refusals))
    dataset = plan.benchmark.dataset or plan.convert.evaluation_data or plan.convert.representative_data
    report = assess.assess(
        files,
        assess.Data(dataset, plan.data, mean=plan.convert.mean, std=plan.convert.std) if dataset else None,
        plan.benchmark.config,
        title=plan.name,
        training=described(training) if training else None,
        notes=[*(f"{r.scheme}: {r.plan.reason}" for r in conversion.results if r.plan and r.path), *conversion.refusals],
        on_progress=on_progress,
    )
    write_report(report, targets(plan))
    artifacts.write_text(plan.out / RECIPE_NAME, recipe.dump(plan))
    return Finished(report, conversion.refusals)


def check(plan: Recipe, *, overwrite: bool) -> None:
    """Find out before the first stage what would stop a later one: outputs that exist, data that is not there, too long an input.

    Raises `OutputError`, `DatasetError`, `CheckpointError` and `ConfigError`.
    """
    name = plan.name if plan.finetune is not None else bridge.classify(plan.model.source).name
    written = [*targets(plan).values(), plan.out / RECIPE_NAME]
    written += [plan.out / f"{name}_{scheme.name}.tflite" for scheme in schemes.select(plan.convert.schemes)]
    if plan.finetune is not None:
        written.append(checkpoint_folder(plan))
        checkpoint.check_length(checkpoint.resolve(plan.model.source), plan.convert.max_length)
    for path in written:
        artifacts.refuse_existing(path, overwrite=overwrite)
    later = (plan.convert.representative_data, plan.convert.evaluation_data, plan.benchmark.dataset)
    for dataset in dict.fromkeys(reference for reference in later if reference is not None):
        sources.read(dataset, text_columns=plan.data.text_columns, label_column=plan.data.label_column, limit=1)


def targets(plan: Recipe) -> dict[Format, Path]:
    """Where a recipe's report goes, by format."""
    return {name: plan.out / REPORT_NAMES[name] for name in plan.report.formats}


def described(result: FinetuneResult) -> Mapping[str, str]:
    """What fine-tuning found, in words for the report."""
    epochs = {
        f"Epoch {number}": f"training loss {epoch.train_loss:.4f}, loss {epoch.loss:.4f}, accuracy {100 * epoch.accuracy:.1f} %"
        for number, epoch in enumerate(result.epochs, 1)
    }
    return {
        "Accuracy": f"{result.correct} of {result.total} ({100 * result.accuracy:.1f} %)",
        "Loss": f"{result.loss:.4f}",
        "Judged on": result.evaluated_on,
        "Classes": ", ".join(result.labels),
        "Parameters": f"{result.parameters:,}",
        **epochs,
        "Steps": f"{result.steps}" + (f", resumed at {result.resumed_at}" if result.resumed_at else ""),
        "Throughput": f"{result.samples_per_s:.1f} samples/s, {result.steps_per_s:.2f} steps/s",
        "Preparation": f"{result.preparation_s:.1f} s",
        "Training": f"{result.training_s:.1f} s",
        "Runtime": f"{result.runtime_s:.1f} s",
    }


def checkpoint_folder(plan: Recipe) -> Path:
    """Where a recipe's fine-tuned checkpoint lies; its name is what the .tflite files are called after."""
    return plan.out / plan.name


def train(source: str, plan: Recipe, *, overwrite: bool, on_progress: Callable[[Progress], None] | None) -> FinetuneResult:
    """The fine-tuning stage of a recipe."""
    stage = plan.finetune
    if stage is None:
        raise DatasetError(f"{plan.name}: the recipe has no [finetune] table; add one")
    rows = read_texts(stage.dataset, plan.data)
    judged = read_texts(stage.evaluation, plan.data) if stage.evaluation else None
    return finetune(
        checkpoint.resolve(source),
        rows,
        judged,
        checkpoint_folder(plan),
        stage.config,
        overwrite=overwrite,
        worker=Worker(on_progress=on_progress),
    )


def read_texts(reference: str, columns: Columns) -> TextRows:
    """A labelled text data set. Raises `DatasetError` for any other kind."""
    rows = sources.read(reference, text_columns=columns.text_columns, label_column=columns.label_column, labelled=True)
    if not isinstance(rows, TextRows):
        raise DatasetError(f"{reference}: holds no texts; fine-tuning takes a .tsv, .csv, .jsonl or .parquet file, or hub:NAME")
    return rows


def write_report(report: Report, places: Mapping[Format, Path]) -> None:
    """Publish `report` in each format. Raises `OutputError`."""
    from edgekit.report.html import page

    render = {Format.MARKDOWN: table.markdown, Format.JSON: table.json, Format.HTML: page}
    for kind, target in places.items():
        artifacts.write_text(target, render[kind](report))
