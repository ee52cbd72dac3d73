"""The straight line: a recipe in, measured files and a report out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.data import sources
from edgekit.data.sources import Columns, TextRows
from edgekit.errors import DatasetError, RefusedError
from edgekit.models import checkpoint
from edgekit.report import table
from edgekit.report.content import FILE_NAME, LearningCurve, Report
from edgekit.stages.quantize import schemes
from edgekit.stages.train.config import FinetuneResult
from edgekit.system import artifacts
from edgekit.system.worker import Progress, Worker
from edgekit.workflows import assess, prune, recipe
from edgekit.workflows.convert import bridge
from edgekit.workflows.convert.conversion import convert
from edgekit.workflows.distill import distil
from edgekit.workflows.finetune import finetune
from edgekit.workflows.recipe import Distil, Finetune, Format, Prune, Recipe

REPORT_NAMES = {Format.MARKDOWN: "report.md", Format.JSON: FILE_NAME, Format.HTML: "report.html"}
RECIPE_NAME = "recipe.toml"
# What the checkpoint of a stage is called where another stage follows it.
_STAGES = {"finetune": "finetuned", "prune": "pruned", "distil": "distilled"}


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
    source, worker, trained = plan.model.source, Worker(on_progress=on_progress), dict[str, FinetuneResult]()
    places = folders(plan)
    if plan.finetune is not None:
        trained["Fine-tuning"] = train(source, places["finetune"], plan, plan.finetune, overwrite=overwrite, worker=worker)
        source = str(places["finetune"])
    if plan.prune is not None:
        recovered = cut(source, places["prune"], plan, plan.prune, overwrite=overwrite, worker=worker).recovery
        trained |= {"Recovery": recovered} if recovered else {}
        source = str(places["prune"])
    if plan.distil is not None:
        trained["Distillation"] = teach(source, places["distil"], plan, plan.distil, overwrite=overwrite, worker=worker)
        source = str(places["distil"])
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
        training=training(trained) or None,
        curves=[curve(stage, result) for stage, result in trained.items()],
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
    made = folders(plan)
    name = plan.name if made else bridge.classify(plan.model.source).name
    written = [*targets(plan).values(), plan.out / RECIPE_NAME]
    written += [plan.out / f"{name}_{scheme.name}.tflite" for scheme in schemes.select(plan.convert.schemes)]
    if made:
        written += made.values()
        checkpoint.check_length(checkpoint.resolve(plan.model.source), plan.convert.max_length)
    if plan.distil is not None:
        checkpoint.check_length(checkpoint.resolve(plan.distil.teacher), plan.distil.config.max_length)
    for path in written:
        artifacts.refuse_existing(path, overwrite=overwrite)
    later = (plan.convert.representative_data, plan.convert.evaluation_data, plan.benchmark.dataset)
    for dataset in dict.fromkeys(reference for reference in later if reference is not None):
        sources.read(dataset, text_columns=plan.data.text_columns, label_column=plan.data.label_column, limit=1)


def targets(plan: Recipe) -> dict[Format, Path]:
    """Where a recipe's report goes, by format."""
    return {name: plan.out / REPORT_NAMES[name] for name in plan.report.formats}


def training(trained: Mapping[str, FinetuneResult]) -> Mapping[str, Any]:
    """What the training stages found, in words for the report; below the stage's name where there are several."""
    told = {stage: described(result) for stage, result in trained.items()}
    return next(iter(told.values())) if len(told) == 1 else told


def described(result: FinetuneResult) -> Mapping[str, str]:
    """What one training stage found, in words."""
    epochs = {
        f"Epoch {number}": f"training loss {epoch.train_loss:.4f}, loss {epoch.loss:.4f}, accuracy {100 * epoch.accuracy:.1f} %"
        for number, epoch in enumerate(result.epochs, 1)
    }
    lessons = {}
    if (told := result.distillation) is not None:
        lessons = {
            "Teacher": f"{told.teacher}, {told.correct} of {told.total} ({100 * told.accuracy:.1f} %)",
            "Against the teacher": f"{100 * (result.accuracy - told.accuracy):+.2f} points",
            "Learned from": ", ".join(told.losses),
            **{f"Left out: {name}": reason for name, reason in told.left_out.items()},
        }
    rounded = {}
    if (aware := result.quantization) is not None:
        rounded = {
            "Quantization-aware": f"{aware.layers} linear layers; figures are with rounding",
            "Accuracy without rounding": f"{aware.correct} of {aware.total} ({100 * aware.accuracy:.1f} %)",
        }
    return {
        "Accuracy": f"{result.correct} of {result.total} ({100 * result.accuracy:.1f} %)",
        "Loss": f"{result.loss:.4f}",
        **rounded,
        **lessons,
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


def curve(stage: str, result: FinetuneResult) -> LearningCurve:
    """The learning curve of a training stage, each epoch at its last step."""
    per_epoch = result.steps // len(result.epochs)
    ends = tuple((number * per_epoch, epoch.loss, epoch.accuracy) for number, epoch in enumerate(result.epochs, 1))
    return LearningCurve(stage, result.curve, ends)


def folders(plan: Recipe) -> dict[str, Path]:
    """Where each stage that a recipe has writes its checkpoint; the last one's name is what the .tflite files are called after."""
    present = [stage for stage in _STAGES if getattr(plan, stage) is not None]
    return {stage: plan.out / (plan.name if stage == present[-1] else f"{plan.name}_{_STAGES[stage]}") for stage in present}


def train(source: str, out: Path, plan: Recipe, stage: Finetune, *, overwrite: bool, worker: Worker) -> FinetuneResult:
    """The fine-tuning stage of a recipe."""
    rows, judged = read_training(stage.dataset, stage.evaluation, plan.data)
    return finetune(checkpoint.resolve(source), rows, judged, out, stage.config, overwrite=overwrite, worker=worker)


def cut(source: str, out: Path, plan: Recipe, stage: Prune, *, overwrite: bool, worker: Worker) -> prune.Pruned:
    """The pruning stage of a recipe."""
    rows, judged = read_training(stage.dataset, stage.evaluation, plan.data)
    recovery = prune.Recovery(stage.recovery, judged, stage.steps) if stage.recovery else None
    folder, tokens = checkpoint.resolve(source), stage.vocabulary
    return prune.run(folder, rows, out, stage.config, vocabulary=tokens, recovery=recovery, overwrite=overwrite, worker=worker)


def teach(source: str, out: Path, plan: Recipe, stage: Distil, *, overwrite: bool, worker: Worker) -> FinetuneResult:
    """The distillation stage of a recipe."""
    rows, judged = read_training(stage.dataset, stage.evaluation, plan.data)
    teacher, student = checkpoint.resolve(stage.teacher), checkpoint.resolve(source)
    return distil(teacher, student, rows, judged, out, stage.config, overwrite=overwrite, worker=worker)


def read_training(dataset: str, evaluation: str | None, columns: Columns) -> tuple[TextRows, TextRows | None]:
    """Rows to learn from, and those to judge by if they are given. Raises `DatasetError`."""
    return read_texts(dataset, columns), read_texts(evaluation, columns) if evaluation else None


def read_texts(reference: str, columns: Columns, *, labelled: bool = True) -> TextRows:
    """A text data set, with labels where they are needed. Raises `DatasetError` for any other kind."""
    rows = sources.read(reference, text_columns=columns.text_columns, label_column=columns.label_column, labelled=labelled)
    if not isinstance(rows, TextRows):
        raise DatasetError(f"{reference}: holds no texts; give a .tsv, .csv, .jsonl or .parquet file, or hub:NAME")
    return rows


def write_report(report: Report, places: Mapping[Format, Path]) -> None:
    """Publish `report` in each format. Raises `OutputError`."""
    from edgekit.report.html import page

    render = {Format.MARKDOWN: table.markdown, Format.JSON: table.json, Format.HTML: page}
    for kind, target in places.items():
        artifacts.write_text(target, render[kind](report))
