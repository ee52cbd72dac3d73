"""Roads that stand in for each other: which are tried, what is told of those that fail, and what is not their fault."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.errors import ConfigError, EdgekitError, ModelFormatError, UnsupportedOpError, WorkerCrashed
from edgekit.models.source import Kind
from edgekit.stages.export.direct import ENVIRONMENT, VERSION
from edgekit.system.worker import Progress
from edgekit.workflows.convert import bridge
from edgekit.workflows.convert.bridge import FloatModel
from edgekit.workflows.convert.config import Bridge

MODEL = Path("folder/model.onnx")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "_lacking", lambda road: None)


def failing(causes: dict[Bridge, EdgekitError]) -> Callable[[Bridge, Path], tuple[FloatModel, str]]:
    def make(road: Bridge, room: Path) -> tuple[FloatModel, str]:
        (room / "half").write_text("written")
        if road in causes:
            raise causes[road]
        return FloatModel(room / "float32.tflite"), "the rest"

    return make


@pytest.mark.usefixtures("installed")
def test_the_next_road_is_taken_and_told(tmp_path: Path) -> None:
    told: list[Progress] = []
    make = failing({Bridge.DIRECT: UnsupportedOpError(f"{MODEL}: onnx2tf cannot convert op Loop")})
    made, rest = bridge.by_first(Kind.ONNX, MODEL, Bridge.AUTO, make, tmp_path, told.append)
    assert (made.road, rest) == (Bridge.TF, "the rest")
    assert made.failed_roads == {"direct": "onnx2tf cannot convert op Loop"}
    assert [progress.note for progress in told] == [
        "--bridge direct does not lead there (onnx2tf cannot convert op Loop); going on without it"
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["by_tf"]


@pytest.mark.usefixtures("installed")
def test_where_all_fail_each_cause_is_told_once(tmp_path: Path) -> None:
    error = UnsupportedOpError(f"{MODEL}: no TFLite form of op Loop")
    with pytest.raises(UnsupportedOpError) as raised:
        bridge.by_first(Kind.ONNX, MODEL, Bridge.AUTO, failing({Bridge.DIRECT: error, Bridge.TF: error}), tmp_path, None)
    assert raised.value.message == f"{MODEL}: no TFLite form of op Loop"
    (tmp_path / "second").mkdir()
    crashed = WorkerCrashed(f"{tmp_path}/second/by_tf/model.onnx: crashed")
    causes: dict[Bridge, EdgekitError] = {Bridge.DIRECT: error, Bridge.TF: crashed}
    with pytest.raises(WorkerCrashed) as other:
        bridge.by_first(Kind.ONNX, MODEL, Bridge.AUTO, failing(causes), tmp_path / "second", None)
    assert other.value.message == f"{MODEL}: --bridge direct: no TFLite form of op Loop; --bridge tf: crashed"


@pytest.mark.usefixtures("installed")
def test_what_all_say_to_do_is_told_once(tmp_path: Path) -> None:
    causes: dict[Bridge, EdgekitError] = {
        road: UnsupportedOpError(f"{MODEL}: no form of op {op}; export the model without it")
        for road, op in ((Bridge.DIRECT, "Loop"), (Bridge.TF, "Scan"))
    }
    with pytest.raises(UnsupportedOpError) as raised:
        bridge.by_first(Kind.ONNX, MODEL, Bridge.AUTO, failing(causes), tmp_path, None)
    told = "--bridge direct: no form of op Loop; --bridge tf: no form of op Scan; export the model without it"
    assert raised.value.message == f"{MODEL}: {told}"


@pytest.mark.usefixtures("installed")
def test_one_road_alone_is_tried_where_it_is_named(tmp_path: Path) -> None:
    make = failing({Bridge.TF: UnsupportedOpError(f"{MODEL}: no TFLite form of op Loop")})
    with pytest.raises(UnsupportedOpError, match=r"no TFLite form of op Loop; leave --bridge tf out$"):
        bridge.by_first(Kind.ONNX, MODEL, Bridge.TF, make, tmp_path, None)


@pytest.mark.usefixtures("installed")
def test_a_fault_of_the_source_ends_it(tmp_path: Path) -> None:
    tried: list[Bridge] = []

    def make(road: Bridge, room: Path) -> tuple[FloatModel, None]:
        tried.append(road)
        raise ModelFormatError(f"{MODEL}: not an ONNX model")

    with pytest.raises(ModelFormatError, match="not an ONNX model"):
        bridge.by_first(Kind.ONNX, MODEL, Bridge.AUTO, make, tmp_path, None)
    assert tried == [Bridge.DIRECT]


@pytest.mark.usefixtures("installed")
def test_a_large_checkpoint_goes_by_the_road_that_takes_less_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(100))
    roads = [bridge.fitting(Kind.CHECKPOINT, tmp_path, Bridge.AUTO)[0]]
    monkeypatch.setattr(bridge, "_LARGE_BYTES", 99)
    roads.append(bridge.fitting(Kind.CHECKPOINT, tmp_path, Bridge.AUTO)[0])
    assert roads == [Bridge.DIRECT, Bridge.LITERT]


def test_a_road_that_is_not_installed_is_told_with_how(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert bridge.fitting(Kind.ONNX, MODEL, Bridge.AUTO) == (Bridge.TF,)
    assert bridge.fitting(Kind.CHECKPOINT, MODEL, Bridge.AUTO) == (Bridge.TF,)
    with pytest.raises(ConfigError, match="--bridge direct needs onnx2tf 2, which is not installed; run edgekit setup onnx"):
        bridge.fitting(Kind.ONNX, MODEL, Bridge.DIRECT)
    with pytest.raises(ConfigError, match=r"--bridge litert needs litert-torch, which is not installed; install edgekit\[litert\]"):
        bridge.fitting(Kind.CHECKPOINT, MODEL, Bridge.LITERT)
    make = failing({Bridge.TF: UnsupportedOpError(f"{MODEL}: no TFLite form of op Loop")})
    with pytest.raises(UnsupportedOpError, match=r"op Loop; --bridge direct needs onnx2tf 2, which is not installed; run edgekit"):
        bridge.by_first(Kind.ONNX, MODEL, Bridge.AUTO, make, tmp_path, None)


def test_a_road_for_other_sources_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.onnx: --bridge litert is not for onnx; give direct or tf$"):
        bridge.fitting(Kind.ONNX, MODEL, Bridge.LITERT)
    with pytest.raises(ConfigError, match="--bridge tf is not for tflite; leave it out"):
        bridge.fitting(Kind.TFLITE, MODEL, Bridge.TF)
    assert bridge.fitting(Kind.TFLITE, MODEL, Bridge.AUTO) == (Bridge.AUTO,)


def test_the_version_is_the_one_that_is_installed() -> None:
    assert f"\nonnx2tf=={VERSION} " in ENVIRONMENT.requirements.read_text()
