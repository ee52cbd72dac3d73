"""int8 through `convert`: searched plans, plans used again, integer-only files, and files that are refused with a diagnosis."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.data.samples import Samples
from edgekit.errors import ConfigError
from edgekit.spec import DataSpec
from edgekit.system.worker import Worker
from edgekit.tflite.interpreter import Model
from edgekit.workflows.convert.config import ConvertConfig
from edgekit.workflows.convert.conversion import Conversion, convert
from tests.commands import edgekit
from tests.integration import sources
from tests.unit.stages.quantize.models import encoder_net, encoder_samples, loud_net, loud_samples, outputs, save, stubborn_net

REFUSED = 4


@pytest.fixture(scope="module")
def room(tmp_path_factory) -> Path:
    """`loud.tflite` with `labelled.npz`, its own decisions as labels, and `bare.npz` without."""
    room = tmp_path_factory.mktemp("int8")
    save(loud_net(), room / "loud.tflite")
    rows = loud_samples(128).inputs["x"]
    decided = outputs(room / "loud.tflite", Samples({"x": rows})).argmax(-1)
    np.savez(room / "labelled.npz", x=rows, y=decided)
    np.savez(room / "bare.npz", x=rows)
    return room


def manifest(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def converted(room: Path, out: Path, *, data: str = "labelled.npz", model: str = "loud.tflite", **more: Any) -> Conversion:
    given = {"schemes": ("int8",), "data": DataSpec(str(room / data)), "representative_samples": 64, **more}
    overwrite = given.pop("overwrite", False)
    return convert(str(room / model), out, ConvertConfig(**given), overwrite=overwrite)


@pytest.fixture(scope="module")
def searched(room, tmp_path_factory) -> Path:
    """Folder of the int8 file that a search of its plan gave."""
    out = tmp_path_factory.mktemp("searched")
    assert converted(room, out, max_drop=0.02).refusals == ()
    return out


def test_the_search_brings_the_file_within_max_drop_and_the_manifest_tells_it(searched):
    measured = manifest(searched / "loud_int8.json")["measured"]
    assert measured["plan"]["chosen"] == "the searched ops"
    assert list(measured["plan"]["left"]) == ["loud"]
    assert {step["what"] for step in measured["plan"]["steps"]} == {"none integer", "alone", "plan"}
    assert measured["measurement"]["drop"]["value"] <= 0.02
    assert not list(searched.glob(".*search*"))


def test_a_plan_is_used_again_by_its_manifest(room, searched, tmp_path):
    found = converted(room, tmp_path / "out", max_drop=0.02, plan=searched / "loud_int8.json")
    assert found.refusals == ()
    assert (tmp_path / "out/loud_int8.tflite").read_bytes() == (searched / "loud_int8.tflite").read_bytes()
    told = manifest(tmp_path / "out/loud_int8.json")
    assert told["config"]["plan"] == "loud_int8.json"
    assert told["measured"]["plan"]["form"]["floating"] == ["loud"]
    assert told["measured"]["plan"]["steps"] == []


def test_a_plan_of_another_model_is_a_wrong_option(room, searched, tmp_path):
    save(encoder_net(), room / "other.tflite")
    with pytest.raises(ConfigError, match=r"loud_int8\.json: is the plan of another model \(.*loud\.tflite\)"):
        converted(room, tmp_path / "out", model="other.tflite", plan=searched / "loud_int8.json")
    assert not (tmp_path / "out").exists()


def test_a_refused_file_is_kept_aside_with_its_diagnosis_until_a_good_one_comes(room, tmp_path, contents):
    out = tmp_path / "out"
    command = ("convert", room / "loud.tflite", "--out", out, "--representative-data", room / "labelled.npz", "--max-drop", "0")
    said = edgekit(*command, "--scheme", "float32", "--scheme", "float16", "--scheme", "int8", "--search-seconds", "0", "--quiet")
    assert said.code == REFUSED, said.err
    assert len(said.err) == 1
    assert re.search(r"int8: loses [\d.]+ points of accuracy against float32 .*--max-drop allows 0\.0;.*kept as", said.err[0])
    assert {name for name in contents(out) if not name.startswith(".")} == {
        "loud_float32.tflite",
        "loud_float32.json",
        "loud_float16.tflite",
        "loud_float16.json",
        "loud_int8.tflite.rejected",
        "loud_int8.tflite.rejected.json",
    }
    told = manifest(out / "loud_int8.tflite.rejected.json")
    assert told["path"] == "loud_int8.tflite.rejected"
    assert told["measured"]["refused"] in said.err[0].replace(f"{out}/", "")
    diagnosis = told["measured"]["diagnosis"]
    assert diagnosis["rows"] == 64
    assert diagnosis["error_db"] < 10
    assert (diagnosis["file"], diagnosis["against"]) == ("loud_int8.tflite.rejected", "loud.tflite")
    assert any(layer["name"] == "loud" for layer in diagnosis["layers"])
    assert converted(room, out, max_drop=0.02).refusals == ()
    assert not list(out.glob("*.rejected*"))
    assert (out / "loud_float32.tflite").is_file()


def test_a_refusal_leaves_the_file_that_was_there(room, tmp_path):
    out = tmp_path / "out"
    assert converted(room, out, max_drop=None, search_seconds=0).refusals == ()
    before = (out / "loud_int8.tflite").read_bytes()
    assert converted(room, out, max_drop=0.0, search_seconds=0, overwrite=True).refusals != ()
    assert (out / "loud_int8.tflite").read_bytes() == before
    assert (out / "loud_int8.tflite.rejected").is_file()


def test_without_labels_agreement_is_the_measure_and_is_said(room, tmp_path):
    found = converted(room, tmp_path / "out", data="bare.npz", task="tabular-classification", max_drop=0.0, search_seconds=0)
    told = r"int8: decides otherwise than float32 on [\d.]+ % of 64 decisions, --max-drop allows 0\.0 %"
    assert re.match(told, found.refusals[0])
    measured = manifest(tmp_path / "out/loud_int8.tflite.rejected.json")["measured"]
    assert measured["measurement"]["metric"] is None
    assert measured["measurement"]["agreement"]["total"] == 64


def test_integer_only_is_int8_from_end_to_end(room, tmp_path):
    save(encoder_net(), room / "encoder.tflite")
    np.savez(room / "encoder.npz", x=encoder_samples(128).inputs["x"])
    out = tmp_path / "out"
    found = converted(room, out, model="encoder.tflite", data="encoder.npz", integer_only=True, max_drop=0.2)
    assert found.refusals == ()
    signature = Model(out / "encoder_int8.tflite").signature
    assert [spec.dtype for spec in (*signature.inputs, *signature.outputs)] == ["int8", "int8"]
    assert manifest(out / "encoder_int8.json")["measured"]["plan"]["floating"] == {}


def test_integer_only_is_refused_with_the_ops_in_the_way(room, tmp_path):
    save(stubborn_net(), room / "stubborn.tflite")
    np.savez(room / "stubborn.npz", x=np.random.default_rng(0).standard_normal((64, 16)).astype(np.float32))
    found = converted(room, tmp_path / "out", model="stubborn.tflite", data="stubborn.npz", integer_only=True)
    assert "1 EXP (" in found.refusals[0]
    assert "1 POW (" in found.refusals[0]
    assert not list((tmp_path / "out").glob("*.tflite*"))


def test_an_onnx_with_a_fixed_batch_becomes_int8(tmp_path):
    Worker(timeout_s=120).run(sources.write_batched_onnx, tmp_path / "batched.onnx")
    rows = np.random.default_rng(0).standard_normal((64, 3, 16)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", x=rows)
    found = converted(tmp_path, tmp_path / "out", model="batched.onnx", data="rows.npz", max_drop=0.3)
    assert found.refusals == ()
    model = Model(tmp_path / "out/batched_int8.tflite")
    assert model.signature.inputs[0].shape == (3, 16)
    assert model.run({"x": rows[:1]})[model.signature.outputs[0].name].shape == (3, 10)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"schemes": ("dynamic",), "integer_only": True}, "integer_only: changes int8 files only"),
        ({"schemes": ("int8", "int16x8"), "integer_only": True}, "integer_only: changes int8 files only"),
        ({"schemes": ("float16",), "plan": Path("m.json")}, "plan: changes int8 files only"),
        ({"search_seconds": -1.0}, "search_seconds is -1; give 0 for no search"),
        ({"search_seconds": float("nan")}, "search_seconds is nan"),
        ({"search_seconds": float("inf")}, "search_seconds is inf"),
    ],
)
def test_options_that_make_no_sense_together(wrong, told):
    with pytest.raises(ConfigError, match=told) as caught:
        ConvertConfig(**{"schemes": ("int8",), "data": DataSpec("rows.npz"), **wrong})
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.message
