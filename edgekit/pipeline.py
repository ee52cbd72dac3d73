"""The straight line: a recipe in, measured files and a report out."""

from collections.abc import Callable
from pathlib import Path

from edgekit import artifacts, assess, checkpoint, recipe
from edgekit.convert import convert
from edgekit.data import sources
from edgekit.data.sources import Columns, TextRows
from edgekit.errors import DatasetError, RefusedError
from edgekit.recipe import Format, Recipe
from edgekit.report import table
from edgekit.report.content import FILE_NAME, Report
from edgekit.train.config import FinetuneResult
from edgekit.train.finetune import finetune
from edgekit.worker import Progress, Worker

REPORT_NAMES = {Format.MARKDOWN: "report.md", Format.JSON: FILE_NAME, Format.HTML: "report.html"}


def run(plan: Recipe, *, overwrite: bool = False, on_progress: Callable[[Progress], None] | None = None) -> Report:
    """Run a recipe; what was run is written to `OUT/recipe.toml`, and can be run again from there.

    Raises what the stages raise, and `RefusedError` if no scheme could be published.
    """
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
        assess.Data(dataset, plan.data) if dataset else None,
        plan.benchmark.config,
        title=plan.name,
        training=artifacts.to_jsonable(training) if training else None,
        notes=[*(f"{r.scheme}: {r.plan.reason}" for r in conversion.results if r.plan and r.path), *conversion.refusals],
        on_progress=on_progress,
    )
    write_report(report, {name: plan.out / REPORT_NAMES[name] for name in plan.report.formats})
    artifacts.write_text(plan.out / "recipe.toml", recipe.dump(plan))
    return report


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


def write_report(report: Report, targets: dict[Format, Path]) -> None:
    """Publish `report` in each format. Raises `OutputError`."""
    from edgekit.report.html import page

    render = {Format.MARKDOWN: table.markdown, Format.JSON: table.json, Format.HTML: page}
    for kind, target in targets.items():
        artifacts.write_text(target, render[kind](report))
