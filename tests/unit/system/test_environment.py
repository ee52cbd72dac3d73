"""Environments of their own: whole or not there, every file by its hash."""

import hashlib
import importlib.metadata
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edgekit.errors import InputError, OutputError
from edgekit.system.environment import Environment
from edgekit.system.worker import Worker

VERSION = sys.version_info[:2]


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one wheel, which pip takes everything from."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tinypackage-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tinypackage.py", "answer = 42\n")
        wheel.writestr("tinypackage-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinypackage\nVersion: 1.0\n")
        wheel.writestr("tinypackage-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("tinypackage-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    return folder


def pinned(folder: Path, digest: str, versions: tuple[tuple[int, int], ...] = (VERSION,)) -> Environment:
    requirements = folder.parent / "requirements.txt"
    requirements.write_text(f"tinypackage==1.0 --hash=sha256:{digest}\n")
    return Environment("tinypackage", "edgekit setup tiny", requirements, versions)


def digest_of(folder: Path) -> str:
    return hashlib.sha256(next(folder.glob("*.whl")).read_bytes()).hexdigest()


def test_it_is_made_once_and_runs_functions_of_ours(wheels: Path) -> None:
    environment = pinned(wheels, digest_of(wheels))
    assert environment.python is None
    notes: list[str] = []
    python = environment.make(tell=notes.append)
    assert len(notes) == 2
    assert python == environment.python
    assert subprocess.run([python, "-c", "import tinypackage; print(tinypackage.answer)"], capture_output=True).stdout == b"42\n"
    assert Worker(python=python).run(importlib.metadata.version, "tinypackage").value == "1.0"
    assert environment.make(tell=notes.append) == python
    assert len(notes) == 2
    assert sorted(path.name for path in environment.folder.parent.iterdir()) == [environment.folder.name, "tinypackage.lock"]


def test_the_python_that_runs_is_the_first_choice(wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "names" / "python{}.{}".format(*VERSION)
    other.parent.mkdir()
    other.write_text(f'#!/bin/sh\ntouch "{tmp_path}/asked"\nexec "{sys.executable}" "$@"\n')
    other.chmod(0o755)
    monkeypatch.setenv("PATH", f"{other.parent}{os.pathsep}{os.environ['PATH']}")
    python = pinned(wheels, digest_of(wheels), ((3, 99), VERSION)).make()
    assert not (tmp_path / "asked").exists()
    base = "import sys; print(sys.base_prefix, *sys.version_info[:3])"
    assert subprocess.check_output([python, "-c", base]) == subprocess.check_output([sys.executable, "-c", base])


def test_a_file_of_another_hash_is_not_installed_and_the_next_run_goes_on(wheels: Path) -> None:
    sound = digest_of(wheels)
    with pytest.raises(InputError, match=r"tinypackage: cannot be installed \(.*(HASHES|hash).*edgekit setup tiny again"):
        pinned(wheels, "0" * 64).make()
    assert pinned(wheels, "0" * 64).python is None
    assert pinned(wheels, sound).make().is_file()


def test_nothing_to_install_from_is_told(wheels: Path) -> None:
    environment = pinned(wheels, digest_of(wheels))
    for wheel in wheels.glob("*.whl"):
        wheel.unlink()
    with pytest.raises(InputError, match=r"tinypackage: cannot be installed \(.*tinypackage==1\.0"):
        environment.make()
    assert environment.python is None


def test_a_python_that_does_not_fit_is_named(wheels: Path, tmp_path: Path) -> None:
    environment = pinned(wheels, digest_of(wheels), ((3, 99),))
    with pytest.raises(InputError, match=r"tinypackage: needs Python 3\.99, and there is none here"):
        environment.make()
    with pytest.raises(InputError, match=r"python.*: is no Python 3\.99"):
        environment.make(Path(sys.executable))
    with pytest.raises(InputError, match=r"nowhere: is no Python"):
        environment.make(tmp_path / "nowhere")


def test_a_place_that_cannot_be_written_is_named(wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="file/edgekit: Not a directory"):
        pinned(wheels, digest_of(wheels)).make()
