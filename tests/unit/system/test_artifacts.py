"""Published whole or not at all, with a manifest that can be checked."""

import contextlib
import dataclasses
import enum
import json
import math
import os
import resource
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.errors import OutputError
from edgekit.system import artifacts, serial
from edgekit.system.worker import Worker

Contents = Callable[[Path], dict[str, bytes]]


class _Colour(enum.StrEnum):
    RED = "red"


@dataclasses.dataclass(frozen=True)
class _Config:
    rate: float
    path: Path
    colour: _Colour = _Colour.RED


def _claim(folder: Path) -> None:
    with artifacts.claimed(folder):
        pass


def _folder(path: Path, text: str) -> Path:
    (path / "deep").mkdir(parents=True)
    (path / "weights.bin").write_text(text)
    (path / "deep" / "config.json").write_text("{}")
    return path


def test_a_file_appears_only_when_the_block_ends(tmp_path: Path, contents: Contents) -> None:
    final = tmp_path / "new" / "model.tflite"
    with artifacts.staged(final) as partial:
        partial.write_bytes(b"whole")
        assert not final.exists()
        assert partial.parent.parent == final.parent  # the same file system, so that the rename is atomic
    assert contents(tmp_path) == {"new/model.tflite": b"whole"}


def test_a_failed_block_leaves_the_old_file(tmp_path: Path, contents: Contents) -> None:
    final = tmp_path / "model.tflite"
    final.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="half way"), artifacts.staged(final, overwrite=True) as partial:
        partial.write_bytes(b"ne")
        raise RuntimeError("half way")
    assert contents(tmp_path) == {"model.tflite": b"old"}


def test_an_existing_output_is_refused_before_the_work(tmp_path: Path, contents: Contents) -> None:
    final = tmp_path / "model.tflite"
    final.write_bytes(b"old")
    with pytest.raises(OutputError, match="exists already; add --overwrite"), artifacts.staged(final):
        pytest.fail("the block ran")
    assert contents(tmp_path) == {"model.tflite": b"old"}


def test_overwrite_replaces_a_file(tmp_path: Path, contents: Contents) -> None:
    final = tmp_path / "model.tflite"
    final.write_bytes(b"old")
    with artifacts.staged(final, overwrite=True) as partial:
        partial.write_bytes(b"new")
    assert contents(tmp_path) == {"model.tflite": b"new"}


@pytest.mark.parametrize("can_exchange", [True, False])
def test_overwrite_replaces_a_folder_as_a_whole(
    tmp_path: Path, contents: Contents, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    if not can_exchange:
        monkeypatch.setattr(artifacts, "_exchange", lambda one, other: False)
    final = _folder(tmp_path / "checkpoint", "old")
    (final / "only in the old one").write_text("x")
    with artifacts.staged(final, overwrite=True) as partial:
        _folder(partial, "new")
    assert contents(tmp_path) == {"checkpoint/weights.bin": b"new", "checkpoint/deep/config.json": b"{}"}


def test_two_folders_change_places_in_one_step(tmp_path: Path) -> None:
    one, other = _folder(tmp_path / "one", "1"), _folder(tmp_path / "other", "2")
    if not artifacts._exchange(one, other):
        pytest.skip("this file system cannot exchange two paths")
    assert (one / "weights.bin").read_text() == "2"
    assert (other / "weights.bin").read_text() == "1"


def test_a_file_never_replaces_a_folder(tmp_path: Path, contents: Contents) -> None:
    final = _folder(tmp_path / "out", "old")
    before = contents(tmp_path)
    with pytest.raises(OutputError, match="cannot be written"), artifacts.staged(final, overwrite=True) as partial:
        partial.write_text("a file")
    assert contents(tmp_path) == before


def test_a_block_that_wrote_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"), artifacts.staged(tmp_path / "model.tflite"):
        pass
    assert not list(tmp_path.iterdir())


def test_what_is_published_can_be_read_by_others(tmp_path: Path) -> None:
    previous = os.umask(0o022)
    try:
        artifacts.write_text(tmp_path / "report.md", "text")
        with artifacts.staged(tmp_path / "folder") as partial:
            _folder(partial, "x")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "report.md").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o755


def test_an_unwritable_place_is_an_output_error(unwritable: Path) -> None:
    with (
        pytest.raises(OutputError, match="cannot be written .Not a directory.; choose another --out"),
        artifacts.staged(unwritable / "a.tflite"),
    ):
        pytest.fail("the block ran")
    with pytest.raises(OutputError, match="cannot be written"), artifacts.claimed(unwritable):
        pytest.fail("the block ran")
    with pytest.raises(OutputError, match="cannot be written"), artifacts.staged(Path("/proc/edgekit/a.tflite")):
        pytest.fail("the block ran")


def test_a_name_too_long_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="File name too long"), artifacts.staged(tmp_path / ("x" * 300)):
        pytest.fail("the block ran")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_rights_is_an_output_error(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    with pytest.raises(OutputError, match="Permission denied"), artifacts.staged(locked / "a.tflite"):
        pytest.fail("the block ran")


def test_a_full_disk_is_an_output_error_and_leaves_the_old_file(tmp_path: Path, contents: Contents) -> None:
    final = tmp_path / "model.tflite"
    final.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OutputError, match="free some space"), artifacts.staged(final, overwrite=True) as partial:
            partial.write_bytes(bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(tmp_path) == {"model.tflite": b"old"}


def test_an_error_of_the_work_itself_keeps_its_class(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), artifacts.staged(tmp_path / "out"):
        (tmp_path / "missing").read_text()


def test_a_claim_keeps_other_processes_out_until_it_ends(tmp_path: Path) -> None:
    with artifacts.claimed(tmp_path / "out") as folder, pytest.raises(OutputError, match="another edgekit run is writing here"):
        Worker().run(_claim, folder)
    Worker().run(_claim, folder)


def test_a_claim_sweeps_what_a_killed_run_left(tmp_path: Path, contents: Contents) -> None:
    folder = tmp_path / "out"
    _folder(folder / f"{artifacts._PARTIAL}abc", "stale")
    (folder / "model.tflite").write_bytes(b"kept")
    with artifacts.claimed(folder):
        assert set(contents(folder)) == {"model.tflite", artifacts.LOCK_NAME}


def test_a_folders_hash_is_that_of_its_names_and_contents(tmp_path: Path) -> None:
    one, other = _folder(tmp_path / "one", "same"), tmp_path / "other"
    (other / "deep").mkdir(parents=True)
    (other / "deep" / "config.json").write_text("{}")
    (other / "weights.bin").write_text("same")
    assert artifacts.sha256(one) == artifacts.sha256(other)
    (other / artifacts.LOCK_NAME).write_text("")
    (other / ".cache").mkdir()
    (other / ".cache" / "entry").write_text("anything")
    assert artifacts.sha256(one) == artifacts.sha256(other)
    assert artifacts.size(one) == artifacts.size(other) == 6
    (other / "deep" / "config.json").rename(other / "config.json")
    assert artifacts.sha256(one) != artifacts.sha256(other)


def test_a_files_hash_is_the_standard_one(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert artifacts.sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_manifest_holds_what_was_told_and_found(tmp_path: Path) -> None:
    (tmp_path / "partial").write_bytes(b"abc")
    config = _Config(rate=math.inf, path=Path("data/train.tsv"))
    artifact = artifacts.describe(
        tmp_path / "partial",
        "tflite",
        name="model_int8.tflite",
        parents={"model.onnx": "00"},
        config=config,
        tools=("numpy", "no-such-package"),
        measured={"p50": np.float32(1.5), "shape": np.array([1, 64])},
    )
    written = json.loads(serial.to_json(artifact))
    assert written["path"] == "model_int8.tflite"
    assert written["size_bytes"] == 3
    assert written["config"] == {"rate": None, "path": "data/train.tsv", "colour": "red"}
    assert written["measured"] == {"p50": 1.5, "shape": [1, 64]}
    assert written["tools"]["numpy"] == np.__version__
    assert "no-such-package" not in written["tools"]


def test_the_configs_hash_depends_on_nothing_but_its_values(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")

    def digest(config: Any) -> str:
        return artifacts.describe(tmp_path / "a", "file", config=config).config_sha256

    assert digest({"a": 1, "b": {"x", "y", "z"}}) == digest({"b": {"z", "y", "x"}, "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


@pytest.mark.parametrize("value", [math.nan, -math.inf, np.float32("nan"), np.float64("inf")])
def test_what_is_not_finite_becomes_null(value: float) -> None:
    assert serial.to_json([value]) == "[\n  null\n]"


def test_a_place_that_cannot_be_written_is_found_before_the_work(tmp_path, unwritable):
    artifacts.check_place(tmp_path / "new" / "folder" / "report.html")
    for place in (unwritable / "report.html", tmp_path):
        with pytest.raises(OutputError, match="cannot be written .*; choose another --out"):
            artifacts.check_place(place)
    assert not (tmp_path / "new").exists()


def test_a_file_and_its_manifest_come_together_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ends between their two names is finished by the next."""
    final = tmp_path / "model.tflite"
    with artifacts.published(final, "tflite") as draft:
        draft.path.write_bytes(b"old")
    replace = Path.replace
    moved: list[Path] = []

    def stop(self: Path, target: Path) -> Path:
        if moved:
            raise KeyboardInterrupt
        moved.append(target)
        return replace(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", stop)
        patch.setattr(artifacts, "_remove", lambda room: None)
        with artifacts.published(final, "tflite", overwrite=True) as draft:
            draft.path.write_bytes(b"new")
    assert len(moved) == 1
    with artifacts.claimed(tmp_path):
        told = json.loads((tmp_path / "model.json").read_text())
        assert told["sha256"] == artifacts.sha256(final)
        assert final.read_bytes() == b"new"


def test_what_was_not_ready_is_not_published_later(tmp_path: Path) -> None:
    room = tmp_path / f"{artifacts._PARTIAL}abc"
    room.mkdir()
    (room / "model.tflite").write_bytes(b"half")
    with artifacts.claimed(tmp_path):
        assert [item.name for item in tmp_path.iterdir()] == [artifacts.LOCK_NAME]


def test_a_folder_with_somebodys_work_is_not_replaced(tmp_path: Path) -> None:
    final = tmp_path / "out"
    for overwrite in (False, True):
        with artifacts.published(final, "checkpoint", overwrite=overwrite) as draft:
            _folder(draft.path, "ours")
    (final / "thesis.txt").write_text("three years")
    with pytest.raises(OutputError, match=r"out: holds thesis\.txt, which edgekit did not write"):
        artifacts.refuse_existing(final, overwrite=True)
    (final / "thesis.txt").unlink()
    (final / "weights.bin").write_text("trained on")
    with pytest.raises(OutputError, match=r"holds weights\.bin, which edgekit did not write or which changed since"):
        artifacts.refuse_existing(final, overwrite=True)


@pytest.mark.parametrize("source", ["out", "out/bert"])
def test_what_something_is_made_of_is_not_replaced_by_it(tmp_path: Path, source: str) -> None:
    with pytest.raises(OutputError, match="which it is made of"):
        artifacts.refuse_source(tmp_path / "out", tmp_path / source)
    artifacts.refuse_source(tmp_path / "out", tmp_path / "other")


def test_a_name_that_is_not_utf_8_is_published(tmp_path: Path) -> None:
    final = tmp_path / os.fsdecode(b"caf\xe9.tflite")
    with artifacts.published(final, "tflite") as draft:
        draft.path.write_bytes(b"model")
    assert json.loads(final.with_suffix(".json").read_text())["path"] == final.name


@pytest.mark.parametrize("stop", range(4))
def test_a_folder_and_the_manifest_beside_it_come_together_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """A run that ends at any step of publishing leaves the old pair or is finished by the next."""
    final, beside = tmp_path / "saved", tmp_path / "saved.json"

    def publish(content: str, *, overwrite: bool) -> None:
        with artifacts.published(final, "saved-model", manifest=beside, overwrite=overwrite) as draft:
            _folder(draft.path, content)

    publish("old", overwrite=False)
    old = artifacts.sha256(final)
    steps = iter(range(stop))

    def dies(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            if next(steps, None) is None:
                raise KeyboardInterrupt
            return function(*arguments)

        return called

    with monkeypatch.context() as patched:
        # What is left as it is after a kill: nobody tidies up.
        patched.setattr(artifacts, "_remove", lambda _: None)
        patched.setattr(artifacts, "_exchange", dies(artifacts._exchange))
        patched.setattr(Path, "rename", dies(Path.rename))
        patched.setattr(Path, "replace", dies(Path.replace))
        with contextlib.suppress(KeyboardInterrupt):
            publish("new", overwrite=True)
    with artifacts.claimed(tmp_path):
        pass
    assert json.loads(beside.read_text())["sha256"] == artifacts.sha256(final)
    assert (artifacts.sha256(final) == old) == (stop == 0)
    assert not list(tmp_path.glob(f"{artifacts._PARTIAL}*"))


def test_a_manifest_names_no_place_of_this_machine_and_every_op_in_full(tmp_path: Path) -> None:
    measured = {"op": "/5/Relu_output_0", "log": f"in {tmp_path.parent}/elsewhere/model.onnx stops at /5/Relu_output_0"}
    with artifacts.published(tmp_path / "model.tflite", "tflite", measured=measured) as draft:
        draft.path.write_bytes(b"x")
    written = json.loads((tmp_path / "model.json").read_text())["measured"]
    assert written == {"op": "/5/Relu_output_0", "log": "in model.onnx stops at /5/Relu_output_0"}
