"""Temporary folders lie under one root, which every run clears of what killed ones left."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from edgekit.errors import OutputError
from edgekit.system import rooms

_WAITS = """
import sys, time
from edgekit.system import rooms
with rooms.temporary("test") as room:
    (room / "model.tflite").write_bytes(b"half")
    print(room, flush=True)
    time.sleep(float(sys.argv[1]))
"""


def _run(place: Path, root: Path, seconds: float) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", _WAITS, str(seconds)], stdout=subprocess.PIPE, text=True, cwd=root, env={"TMPDIR": str(place)}
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_the_next_run_clears_what_a_killed_one_left_and_nothing_of_one_at_work(tmp_path: Path, root: Path) -> None:
    killed, left = _run(tmp_path, root, 60)
    killed.kill()
    killed.wait()
    assert (left / "model.tflite").is_file()
    working, kept = _run(tmp_path, root, 60)
    assert not left.exists()
    other, _ = _run(tmp_path, root, 0)
    assert other.wait(timeout=30) == 0
    assert (kept / "model.tflite").is_file()
    working.kill()
    working.wait()
    assert _run(tmp_path, root, 0)[0].wait(timeout=30) == 0
    assert [*tmp_path.iterdir()] == []


def test_one_that_is_being_made_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with rooms.temporary("test") as room:
        young = room.parents[2] / "making-young"
        young.mkdir()
        rooms._sweep(young)
        assert young.is_dir()
        monkeypatch.setattr(time, "time", lambda: young.stat().st_mtime + 3600)
        rooms._sweep(young)
        assert not young.exists()
    assert not room.exists()


def test_somebody_elses_folder_of_that_name_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    rooms._root(tmp_path).symlink_to(elsewhere)
    with rooms.temporary("test") as room:
        assert elsewhere not in room.resolve().parents


def test_a_place_where_nothing_can_be_made_is_named(unwritable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(unwritable))
    with pytest.raises(OutputError, match="no temporary folder can be made there .* set TMPDIR"), rooms.temporary("test"):
        pass
