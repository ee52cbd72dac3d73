"""Plans that are read back from manifests, of the right model or not."""

import json
from typing import Any

import pytest

from edgekit.errors import ConfigError
from edgekit.publish import read_plan
from edgekit.quantize.forms import Form

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
