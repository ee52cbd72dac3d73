"""Python environments of their own, for packages that pin what edgekit's own environment has in other versions.

Every file is checked by its hash. What an interrupted run has fetched stays for the next one, and nothing is taken for an
environment before all of it is there and its package can be imported."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import InputError, OutputError

_PROBE = "import ensurepip, sys, venv; print(*sys.version_info[:2])"
# Where pyenv and uv put interpreters that are not on the PATH.
_ELSEWHERE = (".pyenv/versions/{}.*/bin/python", ".local/share/uv/python/cpython-{}.*/bin/python3")
_TAIL = 300


def home() -> Path:
    """The folder of what edgekit installs for this user."""
    import platformdirs  # other environments, in which this module is imported, lack it

    return platformdirs.user_data_path("edgekit")


@dataclass(frozen=True)
class Environment:
    """`requirements` pins every package with its hashes; `versions` of Python they have files for, the best first.

    `setup` is the command that installs it."""

    package: str
    setup: str
    requirements: Path
    versions: Sequence[tuple[int, int]]

    @property
    def folder(self) -> Path:
        digest = hashlib.sha256(self.requirements.read_bytes()).hexdigest()[:12]
        return home() / f"{self.package}-{digest}"

    @property
    def python(self) -> Path | None:
        """Its interpreter, None where it is not installed."""
        python = self.folder / "bin/python"
        return python if python.is_file() else None

    def make(self, base: Path | None = None, tell: Callable[[str], None] = lambda _: None) -> Path:
        """Install it, unless it is there, with the Python `base` or one that is found on the machine; give its interpreter.

        Raises `InputError` where there is no such Python or a package cannot be fetched, and `OutputError`."""
        base = self._found() if base is None else self._fitting(base)
        try:
            home().mkdir(parents=True, exist_ok=True)
            with (home() / f"{self.package}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                return self.python or self._make(base, tell)
        except OSError as error:
            place = error.filename or home()
            raise OutputError(f"{place}: {error.strerror}; make room there, or set XDG_DATA_HOME to another place") from error

    def _make(self, base: Path, tell: Callable[[str], None]) -> Path:
        partial = self.folder.with_name(f"{self.folder.name}.partial")
        wheels, environment = partial / "wheels", partial / "environment"
        wheels.mkdir(parents=True, exist_ok=True)
        tell(f"fetching {self.package} and what it needs, some 250 MB")
        hashed = ["--require-hashes", "--only-binary", ":all:", "--requirement", str(self.requirements)]
        shutil.rmtree(environment, ignore_errors=True)
        self._run([str(base), "-m", "venv", str(environment)])
        pip = [str(environment / "bin/python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
        self._run([*pip, "download", *hashed, "--dest", str(wheels)])
        tell(f"installing {self.package}")
        self._run([*pip, "install", *hashed, "--no-index", "--find-links", str(wheels)])
        self._run([*pip, "check"])
        self._run([str(environment / "bin/python"), "-c", f"import {self.package}"])
        shutil.rmtree(self.folder, ignore_errors=True)
        # Its interpreter finds its packages wherever the folder lies; only scripts, which nothing here calls, name the old place.
        environment.rename(self.folder)
        shutil.rmtree(partial, ignore_errors=True)
        return self.folder / "bin/python"

    def _run(self, command: Sequence[str]) -> None:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=_clean(), check=False)
        if done.returncode:
            lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
            errors = [line for line in lines if line.startswith("ERROR")] or lines or ["no output"]
            cause = " ".join(errors[-1].removeprefix("ERROR:").split())[:_TAIL]
            raise InputError(
                f"{self.package}: cannot be installed ({cause}); run {self.setup} again once that is mended, it goes on"
            )

    def _found(self) -> Path:
        for candidate in self._candidates():
            if _version(candidate) in self.versions:
                return Path(candidate)
        wanted = " or ".join(f"{major}.{minor}" for major, minor in self.versions)
        raise InputError(f"{self.package}: needs Python {wanted}, and there is none here; install one, or name it with --python")

    def _fitting(self, base: Path) -> Path:
        if _version(str(base)) not in self.versions:
            wanted = " or ".join(f"{major}.{minor}" for major, minor in self.versions)
            raise InputError(f"{base}: is no Python {wanted} with venv and pip, which {self.package} needs; name another")
        return base

    def _candidates(self) -> Iterator[str]:
        if sys.version_info[:2] in self.versions:
            yield sys.executable
        for major, minor in self.versions:
            name = f"{major}.{minor}"
            if found := shutil.which(f"python{name}"):
                yield found
            for pattern in _ELSEWHERE:
                yield from map(str, sorted(Path.home().glob(pattern.format(name)), reverse=True))


def _version(python: str) -> tuple[int, int] | None:
    """Of an interpreter that can make environments; None for what is none."""
    try:
        done = subprocess.run([python, "-I", "-c", _PROBE], capture_output=True, text=True, timeout=20, env=_clean(), check=False)
        major, minor = map(int, done.stdout.split())
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return major, minor


def _clean() -> dict[str, str]:
    """This environment without what would lead another Python to this one's packages."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
