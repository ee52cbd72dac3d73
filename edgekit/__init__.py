"""edgekit: from a PyTorch checkpoint to .tflite files that were run and measured before they got their names.

Each name is loaded when it is first used: importing edgekit itself loads neither numpy nor any framework."""

import importlib
from typing import Any

__version__ = "0.1.0"

# Public name -> module that holds it. A verb is called as verb(model, out, config, *, overwrite=False, on_progress=None).
_PLACES = {
    # verbs
    "advise": "workflows.advise",
    "benchmark": "workflows.benchmark",
    "bundle": "deploy.android.bundle",
    "compare": "workflows.compare",
    "convert": "workflows.convert.conversion",
    "diagnose": "workflows.diagnose",
    "distill": "workflows.distill",
    "evaluate": "workflows.evaluate",
    "export": "workflows.export",
    "finetune": "workflows.finetune",
    "inspect": "workflows.inspect",
    "limited": "system.limits",
    "load": "workflows.predict",
    "prune": "workflows.prune",
    "run": "workflows.run",
    # what they are told
    "AdviseConfig": "workflows.advise",
    "BenchmarkConfig": "measure.judge",
    "BundleConfig": "deploy.android.bundle",
    "CompareConfig": "workflows.compare",
    "ConvertConfig": "workflows.convert.config",
    "DataSpec": "spec",
    "DiagnoseConfig": "workflows.diagnose",
    "DistillConfig": "stages.train.config",
    "EvaluateConfig": "workflows.evaluate",
    "ExportConfig": "workflows.export",
    "FinetuneConfig": "stages.train.config",
    "PruneConfig": "workflows.prune",
    "Recipe": "workflows.recipe",
    # what they answer
    "Artifact": "system.artifacts",
    "Conversion": "workflows.convert.conversion",
    "Converted": "workflows.convert.conversion",
    "Diagnosis": "measure.examine",
    "FinetuneResult": "stages.train.config",
    "Measurement": "measure.measurement",
    "Prediction": "tasks.base",
    "Predictor": "workflows.predict",
    "Progress": "system.worker",
    "Report": "report.content",
    "Score": "tasks.metrics",
    # tables
    "SCHEMES": "stages.quantize.schemes",
    "TASKS": "tasks.table",
    # errors
    **dict.fromkeys(
        (
            "CalibrationError",
            "CheckpointError",
            "ConfigError",
            "ConversionError",
            "DatasetError",
            "EdgekitError",
            "InputError",
            "ModelFormatError",
            "OutputError",
            "ParityError",
            "RefusedError",
            "UnsupportedOpError",
            "WorkerCrashed",
            "WorkerError",
            "WorkerOutOfMemory",
            "WorkerTimeout",
        ),
        "errors",
    ),
}

__all__ = ["__version__", *sorted(_PLACES)]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'edgekit' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"edgekit.{_PLACES[name]}"), name)
    if hasattr(value, "__qualname__"):
        value.__module__ = "edgekit"
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
