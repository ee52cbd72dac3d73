"""Which Python edgekit says that it runs on: the same in every place, and at once where it does not."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from edgekit.stages.export.direct import ENVIRONMENT

OURS = "{}.{}".format(*sys.version_info)


@pytest.fixture(scope="module")
def settings(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def supported(settings: dict[str, Any]) -> list[str]:
    """Versions of Python, the lowest first."""
    allowed = SpecifierSet(settings["project"]["requires-python"])
    return [version for minor in range(30) if (version := f"3.{minor}") in allowed]


def pins(file: Path) -> dict[str, str]:
    lines = [line for line in file.read_text().splitlines() if not line.startswith(("#", "--constraint"))]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    return {str(canonicalize_name(name)): version for name, version in (line.split("==") for line in lines)}


def test_every_place_names_the_same_versions(root: Path, settings: dict[str, Any], supported: list[str]) -> None:
    project, makefile, setup = settings["project"], (root / "Makefile").read_text(), (root / "setup.py").read_text()
    prefix = "Programming Language :: Python :: "
    assert [line.removeprefix(prefix) for line in project["classifiers"] if line.startswith(prefix)] == supported
    listed = re.search(r"^SUPPORTED := (.*)$", makefile, re.MULTILINE)
    assert listed is not None
    assert listed[1].split() == supported[::-1]
    sentence = f"Python {', '.join(supported[:-1])} and {supported[-1]}"
    assert f"edgekit runs on {sentence} with venv" in makefile
    assert [version for version in supported if version >= "3.12"] == ["{}.{}".format(*version) for version in ENVIRONMENT.versions]
    assert sentence in (root / "requirements.txt").read_text()
    assert sentence.replace(" and ", " or ") in (root / "README.md").read_text()
    lowest, _, highest = setup.partition("supported = ")[2].split("\n")[0].partition(" <= sys.version_info < ")
    assert "{}.{}".format(*ast.literal_eval(lowest)) == supported[0]
    major, minor = ast.literal_eval(highest)
    assert f"{major}.{minor - 1}" == supported[-1]
    assert settings["tool"]["ruff"]["target-version"] == f"py{supported[0].replace('.', '')}"
    assert settings["tool"]["mypy"]["python_version"] == supported[0]


def test_pins_are_within_the_ranges(root: Path, settings: dict[str, Any]) -> None:
    pinned, constrained = pins(root / "requirements.txt"), pins(root / "constraints-cuda.txt")
    assert not pinned.keys() & constrained.keys()
    extras = settings["project"]["optional-dependencies"]
    for line in [*settings["project"]["dependencies"], *extras["litert"], *extras["quickstart"], *extras["dev"]]:
        wanted = Requirement(line)
        assert pinned[canonicalize_name(wanted.name)] in wanted.specifier, line


@pytest.mark.parametrize(
    ("present", "taken"),
    [(["python9.9", f"python{OURS}", "python3"], f"python{OURS}"), (["python9.9", "python3"], "python3"), (["python9.9"], "")],
)
def test_make_takes_the_newest_that_runs(root: Path, tmp_path: Path, present: list[str], taken: str) -> None:
    """python9.9 is a shim of nothing."""
    shutil.copy(root / "Makefile", tmp_path)
    for name in present:
        target = "/bin/false" if name == "python9.9" else sys.executable
        (tmp_path / name).write_text(f'#!/bin/sh\nexec "{target}" "$@"\n')
        (tmp_path / name).chmod(0o755)
    make = [shutil.which("make") or "make", f"SUPPORTED=9.9 {OURS}", "--eval=which: ; @echo $(PYTHON);", "which"]
    done = subprocess.run(make, cwd=tmp_path, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == taken


def test_make_says_what_is_supported(root: Path, tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(root / name, tmp_path)
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = subprocess.run(["make", f"PYTHON={old}", "test"], cwd=tmp_path, capture_output=True, text=True, check=False)
    line, *rest = done.stderr.splitlines()
    assert line.startswith("edgekit runs on Python 3.") and f"'{old}' is none of them" in line and "make PYTHON=/" in line
    assert len(rest) == 1  # make's own
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize(("version", "named"), [((3, 10, 13), False), ((3, 11, 0), True), ((3, 13, 9), True), ((3, 14, 0), False)])
def test_dependencies_are_for_supported_pythons_alone(root: Path, tmp_path: Path, version: tuple[int, ...], named: bool) -> None:
    """Or pip before 25.1 fetches them before it compares the version."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, tmp_path)
    (tmp_path / "setup.py").write_text((root / "setup.py").read_text().replace("sys.version_info", str(version)))
    (tmp_path / "edgekit").mkdir()
    shutil.copy(root / "edgekit/__init__.py", tmp_path / "edgekit")
    subprocess.run([sys.executable, "setup.py", "--quiet", "dist_info", "--output-dir", "."], cwd=tmp_path, check=True)
    (metadata,) = tmp_path.glob("*.dist-info/METADATA")
    lines = metadata.read_text().partition("\n\n")[0].splitlines()
    assert any(line.startswith("Requires-Python: ") and ">=3.11" in line for line in lines)
    assert any(line.startswith("Requires-Dist: click") for line in lines) == named
