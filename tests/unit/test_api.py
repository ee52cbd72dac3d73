"""The public names, what importing them costs, and the run-through of docs/python.md."""

import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import edgekit
from tests.commands import ROOT, environment

VERBS = {
    "advise",
    "benchmark",
    "bundle",
    "compare",
    "convert",
    "diagnose",
    "distill",
    "evaluate",
    "export",
    "finetune",
    "inspect",
    "load",
    "prune",
    "run",
}
TYPES = {
    "AdviseConfig",
    "Artifact",
    "BenchmarkConfig",
    "BundleConfig",
    "CompareConfig",
    "Conversion",
    "ConvertConfig",
    "Converted",
    "DataSpec",
    "Diagnosis",
    "DiagnoseConfig",
    "DistillConfig",
    "EvaluateConfig",
    "ExportConfig",
    "FinetuneConfig",
    "FinetuneResult",
    "Measurement",
    "Prediction",
    "Predictor",
    "Progress",
    "PruneConfig",
    "Recipe",
    "Report",
    "Score",
}
ERRORS = {
    "CalibrationError", "CheckpointError", "ConfigError", "ConversionError", "DatasetError", "EdgekitError", "InputError",
    "ModelFormatError", "OutputError", "ParityError", "RefusedError", "UnsupportedOpError", "WorkerCrashed", "WorkerError",
    "WorkerOutOfMemory", "WorkerTimeout",
}  # fmt: skip


def test_the_public_names_are_these_and_say_where_they_come_from() -> None:
    assert set(edgekit.__all__) == {"__version__", "SCHEMES", "TASKS", "limited", *VERBS, *TYPES, *ERRORS}
    for name in VERBS | TYPES | ERRORS | {"limited"}:
        assert getattr(edgekit, name).__module__ == "edgekit", name
        assert inspect.getdoc(getattr(edgekit, name)), name


@pytest.mark.parametrize(
    "verb", sorted(VERBS - {"benchmark", "compare", "evaluate", "inspect", "load", "run", "diagnose", "advise"})
)
def test_verbs_have_one_shape(verb: str) -> None:
    parameters = list(inspect.signature(getattr(edgekit, verb)).parameters.values())
    assert [parameter.name for parameter in parameters[1:3]] == ["out", "config"]
    assert {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY} >= {"overwrite"}


def test_importing_costs_no_framework_and_little_time() -> None:
    code = "import sys, time; start = time.perf_counter(); import edgekit; print(time.perf_counter() - start); print(*sys.modules)"
    seconds, modules = [], ""
    for _ in range(3):
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment()).stdout
        seconds.append(float(said.splitlines()[0]))
        modules = said.splitlines()[1]
    assert min(seconds) < 0.05
    assert not {"numpy", "torch", "tensorflow", "transformers", "click"} & set(modules.split())


def test_what_python_md_shows_runs_as_it_is_written(tiny_bert: Path, tiny_tsv: Path, tmp_path: Path) -> None:
    """In a process of its own: it imports torch, which no test's process may hold."""
    shutil.copytree(tiny_bert, tmp_path / "checkpoints/sentiment")
    shutil.copy(tiny_tsv, tmp_path / "train.tsv")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(encoding="utf-8"), re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)], cwd=tmp_path, capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    assert "exists already; add --overwrite" in done.stdout
