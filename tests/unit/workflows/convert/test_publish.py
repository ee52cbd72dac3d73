"""Plans that are read back from manifests, of the right model or not, and files that are rejected with what is wrong with them."""

import json
from typing import Any

import numpy as np
import pytest

from edgekit.data.samples import Samples
from edgekit.errors import ConfigError, WorkerCrashed
from edgekit.measure.causes import Finding
from edgekit.measure.examine import Diagnosis
from edgekit.measure.measurement import Measurement, refusal
from edgekit.models.source import Kind, Source
from edgekit.stages.quantize.forms import Form
from edgekit.stages.quantize.plan import QuantizationPlan
from edgekit.stages.quantize.schemes import SCHEMES
from edgekit.tasks.judgement import OutputError
from edgekit.tasks.table import TASKS
from edgekit.workflows.convert import publish
from edgekit.workflows.convert.bridge import FloatModel
from edgekit.workflows.convert.config import ConvertConfig
from edgekit.workflows.convert.publish import Data, Publisher, read_plan

FORM = {"name": "every op", "bits": 8, "ops": None, "wide": ["b"], "floating": ["a"]}
PARENTS = {"models/bert": "f00d"}


def manifest(form: Any = FORM) -> dict[str, Any]:
    return {"parents": PARENTS, "measured": {"plan": {"form": form}}}


def written(folder, content: Any):
    path = folder / "bert_int8.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_form_comes_back_as_it_was(tmp_path):
    form = Form("every op", wide=frozenset({"b"}), floating=frozenset({"a"}))
    assert read_plan(written(tmp_path, manifest()), PARENTS) == form
    named = {**FORM, "ops": ["CONV_2D", "FULLY_CONNECTED"]}
    assert read_plan(written(tmp_path, manifest(named)), PARENTS).ops == ("CONV_2D", "FULLY_CONNECTED")


def test_a_model_that_was_moved_is_the_same_model(tmp_path):
    assert read_plan(written(tmp_path, manifest()), {"elsewhere/bert": "f00d"}).name == "every op"


def test_a_plan_of_another_model_names_it(tmp_path):
    with pytest.raises(ConfigError, match=r"bert_int8\.json: is the plan of another model \(models/bert\)") as caught:
        read_plan(written(tmp_path, manifest()), {"models/bert": "beef"})
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "null",
        "{}",
        manifest(None),
        manifest([]),
        manifest({**FORM, "bits": "many"}),
        manifest({**FORM, "bits": 16}),
        manifest({name: value for name, value in FORM.items() if name != "wide"}),
        {"measured": manifest()["measured"]},
        {"parents": [], "measured": manifest()["measured"]},
        {"parents": {"m": {}}, "measured": manifest()["measured"]},
    ],
)
def test_a_manifest_without_an_int8_plan_is_a_wrong_option(tmp_path, content):
    with pytest.raises(ConfigError, match=r"bert_int8\.json: holds no int8 plan"):
        read_plan(written(tmp_path, content), PARENTS)


def test_a_tflite_is_no_plan(tmp_path):
    (tmp_path / "model.tflite").write_bytes(b"\x1c\0\0\0TFL3\xff\xfe\x80")
    with pytest.raises(ConfigError, match=r"model\.tflite: holds no int8 plan; give the \.json"):
        read_plan(tmp_path / "model.tflite", PARENTS)


def test_what_cannot_be_read_is_a_wrong_option(tmp_path):
    with pytest.raises(ConfigError, match=r"missing\.json: cannot be read \(No such file or directory\)"):
        read_plan(tmp_path / "missing.json", PARENTS)
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\)"):
        read_plan(tmp_path, PARENTS)


def rejected(folder, monkeypatch, diagnose) -> tuple[str, dict[str, Any]]:
    """Reason and manifest of a file that a publisher rejects."""
    monkeypatch.setattr(publish, "diagnose", diagnose)
    (folder / "int8.tflite").write_bytes(b"a file that decides otherwise")
    Samples({"x": np.zeros((100, 4), np.float32)}).save(folder / "rows")
    source = Source(Kind.TFLITE, folder / "model.tflite", "model")
    data = Data(None, folder / "rows", "100 rows of x.npz", real=True, trial=None, task=TASKS["generic"], settings={"labels": []})
    publisher = Publisher(folder, source, PARENTS, ConvertConfig(), FloatModel(folder / "float32.tflite"), data, overwrite=False)
    told = publisher.reject(
        SCHEMES["int8"], folder / "int8.tflite", QuantizationPlan("m", "c", "r"), Measurement("f", 29, None), "loses 9 points"
    )
    manifest = json.loads((folder / "model_int8.tflite.rejected.json").read_text())
    assert (folder / "model_int8.tflite.rejected").read_bytes() == b"a file that decides otherwise"
    assert manifest["measured"]["refused"] == told.replace(f"{folder}/", "")
    return told, manifest["measured"]


def test_a_rejected_file_is_told_with_its_first_cause(tmp_path, monkeypatch):
    seen = []

    def diagnose(file, against, rows, **more):
        seen.append(len(Samples.load(rows)))
        found = (Finding("outlier channels", "one channel of dense is wide", "int16"), Finding("clipping", "cut", "more rows"))
        return Diagnosis(str(file), str(against), more["data"], 64, more["threads"], 0.5, 3.0, found, (), 0, None)

    told, measured = rejected(tmp_path, monkeypatch, diagnose)
    assert told == f"loses 9 points; one channel of dense is wide; kept as {tmp_path / 'model_int8.tflite.rejected'}"
    assert seen == [64]
    assert measured["diagnosis"]["file"] == "model_int8.tflite.rejected"
    assert [finding["cause"] for finding in measured["diagnosis"]["findings"]] == ["one channel of dense is wide", "cut"]


def test_a_file_that_cannot_be_diagnosed_is_rejected_all_the_same(tmp_path, monkeypatch):
    def crash(*_, **__):
        raise WorkerCrashed("layer_errors: crashed with SIGSEGV")

    told, measured = rejected(tmp_path, monkeypatch, crash)
    assert told == f"loses 9 points; kept as {tmp_path / 'model_int8.tflite.rejected'}"
    assert measured["diagnosis"] is None


def test_a_refusal_does_not_name_the_temporary_file():
    failed = Measurement("/tmp/room/int8.tflite", 1, 1, failure="/tmp/room/int8.tflite: gives values that are not finite")
    assert refusal(failed, 0.05, None, "try another scheme") == "gives values that are not finite"


def test_outputs_that_decide_nothing_are_told_by_their_difference():
    outputs = (OutputError("boxes", 12.25, 0.98765, 0.125, decisive=False), OutputError("scores", 40.0, 1.0, 0.001, decisive=False))
    row = Measurement("b", 1, 1, scheme="int8", task="generic", rows=100, error_db=12.25, outputs=outputs)
    told = refusal(row, 0.01, 20, "try another scheme")
    assert told == (
        "output boxes is 12.2 dB from float32's, --min-db asks for 20 (cosine 0.9877, largest difference 0.125); try another scheme"
    )
    assert refusal(row, 0.01, 12, "") is refusal(row, 0.01, None, "") is None
