"""Imports point down, and looking at the package costs no framework."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# From the ground up: a module may import what lies in a lower layer, in its own folder, or in a folder beside it where
# `NEIGHBOURS` says so.
LAYERS = (
    ("errors", "spec"),
    ("system",),
    ("data", "tflite"),
    ("models", "tasks"),
    ("stages",),
    ("measure",),
    ("report",),
    ("workflows",),
    ("deploy", "cli", "__main__"),
)
NEIGHBOURS = ({"errors", "spec"}, {"models", "tasks"}, {"deploy", "cli", "__main__"})
HEAVY = (
    "ai_edge_litert",
    "ai_edge_quantizer",
    "bitsandbytes",
    "datasets",
    "huggingface_hub",
    "jax",
    "keras",
    "litert_torch",
    "matplotlib",
    "onnx",
    "onnx2tf",
    "onnxruntime",
    "pandas",
    "pyarrow",
    "scipy",
    "tensorflow",
    "tensorflow_model_optimization",
    "tf_keras",
    "torch",
    "torchao",
    "transformers",
)
PACKAGE = Path(__file__).resolve().parents[2] / "edgekit"
FILES = sorted(PACKAGE.rglob("*.py"))
_LOADED = """
import importlib, json, sys
found = {}
for name in sys.argv[2:]:
    before = set(sys.modules)
    importlib.import_module(name)
    if heavy := sorted(set(json.loads(sys.argv[1])) & (set(sys.modules) - before)):
        found[name] = heavy
print(json.dumps(found))
"""


def _module(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _unit(module: str) -> str:
    """The folder or module below the root; each stage is a unit of its own, since stages never import each other."""
    parts = module.split(".")
    return ".".join(parts[1:3] if parts[1:2] == ["stages"] else parts[1:2])


def _layer(unit: str) -> int:
    return next((number for number, layer in enumerate(LAYERS) if unit.split(".")[0] in layer), -1)


def _imports(file: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of each edgekit module that `file` imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] == "edgekit")
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module == "edgekit":
            yield from ((node.lineno, f"edgekit.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").startswith("edgekit."):
            yield node.lineno, str(node.module)
        elif isinstance(node, ast.ImportFrom) and node.level > 0:
            yield node.lineno, ".".join([*_module(file).split(".")[: -node.level or None], node.module or ""])


def _may_import(unit: str, other: str) -> bool:
    together = any({unit, other} <= group for group in NEIGHBOURS)
    return unit == other or together or _layer(other) < _layer(unit)


def _heavy_after(*modules: str) -> dict[str, list[str]]:
    run = subprocess.run([sys.executable, "-c", _LOADED, json.dumps(HEAVY), *modules], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found: dict[str, list[str]] = json.loads(run.stdout)
    return found


def test_the_rule_itself_tells_up_from_down() -> None:
    assert _may_import("stages.export", "tflite")
    assert _may_import("cli", "deploy")
    assert not _may_import("stages.export", "stages.quantize")
    assert not _may_import("data", "tflite")
    assert not _may_import("errors", "data")


def test_every_module_has_its_layer() -> None:
    assert all(_layer(_unit(_module(file))) >= 0 for file in FILES if file.parent != PACKAGE or file.stem not in ("__init__",))


@pytest.mark.parametrize("file", FILES, ids=_module)
def test_imports_point_down(file: Path) -> None:
    unit = _unit(_module(file))
    wrong = [
        f"{file.name}:{line} imports {name}"
        for line, name in _imports(file)
        if _layer(_unit(name)) >= 0 and not _may_import(unit, _unit(name))
    ]
    assert not wrong


@pytest.mark.parametrize("module", ["edgekit", "edgekit.cli.main", "edgekit.tflite.inspect", "edgekit.workflows.inspect"])
def test_looking_costs_no_framework(module: str) -> None:
    if module not in {_module(file) for file in FILES}:
        pytest.skip(f"{module} is not written yet")
    assert _heavy_after(module) == {}


def test_no_module_loads_a_framework_when_imported() -> None:
    assert _heavy_after(*(_module(file) for file in FILES if file.stem != "__main__")) == {}


@pytest.mark.parametrize("file", [file for file in FILES if _unit(_module(file)) not in {"cli", "__main__"}], ids=_module)
def test_only_the_command_line_leaves_the_process(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="sys"), attr="exit")) | ast.Call(func=ast.Name(id="exit" | "quit")):
                pytest.fail(f"{file.name}:{node.lineno} leaves the process")
            case ast.Raise(exc=ast.Name(id="SystemExit") | ast.Call(func=ast.Name(id="SystemExit"))):
                pytest.fail(f"{file.name}:{node.lineno} leaves the process")


@pytest.mark.parametrize("file", FILES, ids=_module)
def test_no_module_is_too_long(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= (400 if file.stem == "cli" else 500)
