"""The straight line: a recipe in, measured files and a report out."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.data import sources
from edgekit.errors import RefusedError
from edgekit.models.checkpoint import Checkpoint, resolve
from edgekit.models.source import classify
from edgekit.report.content import LearningCurve, Report
from edgekit.spec import DataSpec
from edgekit.stages.quantize import schemes
from edgekit.stages.train.config import FinetuneResult
from edgekit.system import artifacts
from edgekit.system.worker import OnProgress
from edgekit.tasks.metrics import Score
from edgekit.workflows import recipe as recipes
from edgekit.workflows.benchmark import benchmark
from edgekit.workflows.convert.conversion import check_schemes, convert
from edgekit.workflows.distill import distill
from edgekit.workflows.finetune import finetune
from edgekit.workflows.prune import prune
from edgekit.workflows.recipe import Recipe
from edgekit.workflows.report import write_report

RECIPE_NAME = "recipe.toml"
# What the checkpoint of a stage is called where another stage follows it.
_STAGES = {"finetune": "finetuned", "prune": "pruned", "distill": "distilled"}


@dataclass(frozen=True)
class Finished:
    """A recipe's report, and why each scheme that is missing from it was refused."""

    report: Report
    refusals: tuple[str, ...]


def run(recipe: Recipe, *, overwrite: bool = False, on_progress: OnProgress = None) -> Finished:
    """Run a recipe; what was run is written to `OUT/recipe.toml`, and can be run again from there.

    Raises what the stages raise, and `RefusedError` if no scheme could be published."""
    plan = recipe.filled()
    check(plan, overwrite=overwrite)
    source, trained = train(plan, overwrite=overwrite, on_progress=on_progress)
    conversion = convert(source, plan.out, plan.convert, overwrite=overwrite, on_progress=on_progress)
    files = [result.path for result in conversion.results if result.path is not None]
    if not files:
        raise RefusedError("; ".join(conversion.refusals))
    report = benchmark(
        files,
        _judged_on(plan),
        plan.benchmark.config,
        task=plan.model.task,
        title=plan.name,
        training=training(trained) or None,
        curves=[curve(stage, result) for stage, result in trained.items()],
        notes=[*(f"{r.scheme}: {r.plan.reason}" for r in conversion.results if r.plan and r.path), *conversion.refusals],
        on_progress=on_progress,
    )
    write_report(report, targets(plan))
    artifacts.write_text(plan.out / RECIPE_NAME, recipes.dump(recipe))
    return Finished(report, conversion.refusals)


def train(plan: Recipe, *, overwrite: bool = False, on_progress: OnProgress = None) -> tuple[str, dict[str, FinetuneResult]]:
    """Run the stages before the conversion: the checkpoint that is to be converted, and what each training measured."""
    source, trained = plan.model.source, dict[str, FinetuneResult]()
    how: dict[str, Any] = {"overwrite": overwrite, "on_progress": on_progress}
    for stage, place in folders(plan).items():
        if stage == "finetune" and plan.finetune is not None:
            trained["Fine-tuning"] = finetune(source, place, plan.finetune, **how)
        elif stage == "prune" and plan.prune is not None:
            recovered = prune(source, place, plan.prune, **how).recovery
            trained |= {"Recovery": recovered} if recovered else {}
        elif plan.distill is not None:
            trained["Distillation"] = distill(source, place, plan.distill, **how)
        source = str(place)
    return source, trained


def _judged_on(plan: Recipe) -> DataSpec | None:
    """The rows of the benchmark, with the normalization that the files were converted with."""
    data = plan.benchmark.data or plan.convert.evaluation_data or plan.convert.data
    return data and replace(data, mean=data.mean or plan.convert.mean, std=data.std or plan.convert.std)


def check(plan: Recipe, *, overwrite: bool) -> None:
    """Find out before the first stage what would stop a later one: outputs that exist, data that is not there, too long an input.

    Raises `OutputError`, `DatasetError`, `CheckpointError` and `ConfigError`."""
    places = folders(plan)
    check_schemes(plan.model.source, plan.convert)
    name = plan.name if places else classify(plan.model.source, plan.model.task).name
    written = [*targets(plan), plan.out / RECIPE_NAME]
    written += [plan.out / f"{name}_{scheme.name}.tflite" for scheme in schemes.select(plan.convert.schemes)]
    if places:
        written += places.values()
        Checkpoint.read(resolve(plan.model.source), plan.model.task).check_length(plan.convert.max_length)
    if plan.distill is not None:
        Checkpoint.read(resolve(plan.distill.teacher or ""), plan.model.task).check_length(plan.distill.max_length)
    for path in written:
        artifacts.refuse_existing(path, overwrite=overwrite)
    for data in (plan.convert.data, plan.convert.evaluation_data, plan.benchmark.data):
        if data is not None:
            sources.read(data, limit=1)


def targets(plan: Recipe) -> list[Path]:
    """Where a recipe's report goes."""
    return [plan.out / f"report{kind.suffix}" for kind in plan.report.formats]


def training(trained: Mapping[str, FinetuneResult]) -> Mapping[str, Any]:
    """What the training stages found, in words for the report; below the stage's name where there are several."""
    words = {stage: described(result) for stage, result in trained.items()}
    return next(iter(words.values())) if len(words) == 1 else words


def described(result: FinetuneResult) -> Mapping[str, str]:
    """What one training stage found, in words."""
    lessons, rounded = {}, {}
    if (lesson := result.distillation) is not None:
        apart = result.metric.value - lesson.metric.value
        lessons = {
            "Teacher": f"{lesson.teacher}, {_counted(lesson.metric)}",
            "Against the teacher": f"{100 * apart:+.2f} points" if result.metric.percent else f"{apart:+.3g}",
            "Learned from": ", ".join(lesson.losses),
            **{f"Left out: {name}": reason for name, reason in lesson.left_out.items()},
        }
    if (aware := result.quantization) is not None:
        rounded = {
            "Quantization-aware": f"{aware.layers} linear layers; figures are with rounding",
            f"{_title(aware.metric)} without rounding": _counted(aware.metric),
        }
    epochs = {}
    for number, epoch in enumerate(result.epochs, 1):
        losses = f"training loss {epoch.train_loss:.4f}, loss {epoch.loss:.4f}"
        epochs[f"Epoch {number}"] = f"{losses}, {epoch.metric.metric} {_value(epoch.metric)}"
    return {
        **{_title(score): _counted(score) for score in result.scores},
        "Loss": f"{result.loss:.4f}",
        **rounded,
        **lessons,
        "Judged on": result.evaluated_on,
        **({"Classes": ", ".join(result.labels)} if result.labels else {}),
        "Parameters": f"{result.parameters:,}",
        **epochs,
        "Steps": f"{result.steps}" + (f", resumed at {result.resumed_at}" if result.resumed_at else ""),
        "Throughput": f"{result.samples_per_s:.1f} samples/s, {result.steps_per_s:.2f} steps/s",
        "Preparation": f"{result.preparation_s:.1f} s",
        "Training": f"{result.training_s:.1f} s",
        "Runtime": f"{result.runtime_s:.1f} s",
    }


def _title(score: Score) -> str:
    return score.metric[:1].upper() + score.metric[1:]


def _value(score: Score) -> str:
    return f"{100 * score.value:.1f} %" if score.percent else f"{score.value:.4g}"


def _counted(score: Score) -> str:
    return _value(score) if score.count is None else f"{score.count} of {score.total} ({_value(score)})"


def curve(stage: str, result: FinetuneResult) -> LearningCurve:
    """The learning curve of a training stage, each epoch at its last step."""
    per_epoch = result.steps // len(result.epochs)
    ends = tuple((number * per_epoch, epoch.loss, epoch.metric.value) for number, epoch in enumerate(result.epochs, 1))
    return LearningCurve(stage, result.curve, ends, result.metric.metric, result.metric.percent)


def folders(plan: Recipe) -> dict[str, Path]:
    """Where each stage that a recipe has writes its checkpoint; the last one's name is what the .tflite files are called after."""
    present = [stage for stage in _STAGES if getattr(plan, stage) is not None]
    return {stage: plan.out / (plan.name if stage == present[-1] else f"{plan.name}_{_STAGES[stage]}") for stage in present}
