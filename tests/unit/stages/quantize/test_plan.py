"""What a plan of integers holds, when it is searched for, and that it can be used again."""

import json
from dataclasses import replace

import numpy as np
import pytest

from edgekit.data.samples import Samples
from edgekit.errors import ConfigError, RefusedError, WorkerCrashed
from edgekit.stages.quantize import plan as planning
from edgekit.stages.quantize import quantizer
from edgekit.stages.quantize.candidates import run_rows
from edgekit.stages.quantize.forms import Form
from edgekit.stages.quantize.plan import IntegerSettings, QuantizationPlan, quantize
from edgekit.stages.quantize.schemes import SCHEMES
from edgekit.system import serial
from edgekit.tasks.judgement import judge
from edgekit.tflite import flatbuffer
from edgekit.tflite.interpreter import Model
from edgekit.workflows.convert.publish import read_plan
from tests.integration import sources
from tests.unit.stages.quantize.models import CLASSES, Inline, calibrated, in_turn, loud_net, loud_samples, outputs, stubborn_net
from tests.unit.stages.quantize.test_integer import noise


def planned(room, target, worker=None, **settings) -> QuantizationPlan:
    given = {"samples": room / "rows", "calibration": room / "calibration", "settings": IntegerSettings(**settings)}
    return quantize(room / "float32.tflite", SCHEMES["int8"], target, worker=worker, **given)


@pytest.fixture
def inline(monkeypatch) -> Inline:
    monkeypatch.setattr(planning, "together", in_turn)
    return Inline()


@pytest.fixture(scope="module")
def found(loud, tmp_path_factory):
    """The plan of a search and the file it made, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "together", in_turn)
        target = tmp_path_factory.mktemp("found") / "int8.tflite"
        return planned(loud, target, Inline()), target


def test_the_search_is_a_candidate_and_the_plan_says_what_it_left_and_tried(found, loud):
    plan, target = found
    assert plan.chosen == "the searched ops"
    assert plan.reason.startswith("1 of 4 ops left in float, each the loudest when integer alone: integers in the searched ops")
    assert plan.form is not None
    assert plan.form.floating == set(plan.left) == {"loud"}
    assert plan.left["loud"] < 5
    assert {step.what for step in plan.steps} == {"none integer", "alone", "plan"}
    assert [candidate.name for candidate in plan.candidates] == ["every op", "matrix products", "the searched ops"]
    assert set(plan.floating) == {"DEPTHWISE_CONV_2D"}
    assert noise(target, loud) > 25


@pytest.mark.parametrize("task", ["generic", "tabular-classification"])
def test_a_noisy_second_output_is_searched_for_whatever_the_first_hides(tmp_path, inline, task):
    room = calibrated(loud_net(scores=True), replace(loud_samples(32), task=task), tmp_path)
    plan = planned(room, tmp_path / "int8.tflite", inline, max_drop=0.05)
    assert "loud" in plan.left
    every, *_, searched = plan.candidates
    assert every.error_db < 10
    assert searched.error_db > 30
    if task == "generic":
        assert every.agreement is None
        assert "agreement" not in plan.reason
    rows = Samples.load(room / "rows")
    reference, *files = (run_rows([Model(room / name)], rows, 32) for name in ("float32.tflite", "int8.tflite"))
    found = {output.name: output.error_db for output in judge(files[0], rows, reference).outputs}
    assert found["scores"] > 30
    assert found["logits"] > 30


def test_zero_seconds_are_no_search(loud, tmp_path, inline, monkeypatch):
    monkeypatch.setattr(planning, "search", sources.crash)
    plan = planned(loud, tmp_path / "int8.tflite", inline, search_seconds=0)
    assert plan.chosen in ("every op", "matrix products")
    assert (plan.left, plan.steps) == ({}, ())
    assert len(plan.candidates) == 2


def test_what_is_quiet_is_not_searched(encoder, tmp_path, inline, monkeypatch):
    monkeypatch.setattr(planning, "_QUIET_DB", 0.0)
    monkeypatch.setattr(planning, "search", sources.crash)
    assert planned(encoder, tmp_path / "int8.tflite", inline, max_drop=1.0).steps == ()


def test_what_decides_otherwise_but_loses_no_accuracy_is_not_searched(loud, tmp_path, inline, monkeypatch):
    monkeypatch.setattr(planning, "_QUIET_DB", -np.inf)
    rows = Samples.load(loud / "rows")
    right = outputs(loud / "float32.tflite", rows).argmax(axis=-1).reshape(-1)
    for name, labels in (("right", right), ("wrong", (right + 1) % CLASSES)):
        Samples(rows.inputs, labels.astype(np.int64), task=rows.task).save(tmp_path / name)
    tried = {
        name: planned(loud, tmp_path / f"{name}.tflite", inline, max_drop=0.0, trial=tmp_path / name) for name in ("right", "wrong")
    }
    assert all((candidate.agreement or 0) < 1 for candidate in tried["wrong"].candidates)
    assert (bool(tried["right"].steps), bool(tried["wrong"].steps)) == (True, False)


@pytest.mark.parametrize("way", ["as it is", "through its manifest"])
def test_a_plan_used_again_gives_the_same_bytes(found, loud, tmp_path, inline, way):
    plan, target = found
    form = plan.form
    if way == "through its manifest":
        (tmp_path / "m.json").write_text(serial.to_json({"parents": {"model": "abc"}, "measured": {"plan": plan}}))
        form = read_plan(tmp_path / "m.json", {"elsewhere/model": "abc"})
        assert form == plan.form
    again = planned(loud, tmp_path / "int8.tflite", inline, form=form)
    assert (tmp_path / "int8.tflite").read_bytes() == target.read_bytes()
    assert again.chosen == "the plan's ops"
    assert (again.candidates, again.steps) == ((), ())


def test_a_plan_is_json_even_where_an_op_alone_is_hopeless(found):
    plan, _ = found
    text = serial.to_json(QuantizationPlan(**{**plan.__dict__, "left": {"loud": float("-inf")}}))
    assert json.loads(text)["left"] == {"loud": None}
    assert json.loads(text)["form"] == {"name": "the searched ops", "bits": 8, "ops": None, "wide": [], "floating": ["loud"]}


def test_a_plan_with_ops_of_another_graph_is_a_wrong_option(loud, tmp_path, inline):
    with pytest.raises(ConfigError, match=r"--plan: names 1 ops that the graph does not have, such as bert/add;"):
        planned(loud, tmp_path / "int8.tflite", inline, form=Form("old", floating=frozenset({"bert/add"})))
    assert not list(tmp_path.iterdir())


def test_a_search_that_crashes_leaves_the_candidates(loud, tmp_path, inline, monkeypatch):
    def crash(*_, **__):
        raise WorkerCrashed("quantize.search.rank: crashed with SIGSEGV; run with --debug for its last output")

    monkeypatch.setattr(planning, "search", crash)
    plan = planned(loud, tmp_path / "int8.tflite", inline)
    assert plan.chosen in ("every op", "matrix products")
    assert "the search for ops to leave in float failed (quantize.search.rank: crashed with SIGSEGV" in plan.reason
    assert (tmp_path / "int8.tflite").is_file()


def test_candidates_whose_children_crash_are_told_and_nothing_is_left(loud, tmp_path, monkeypatch):
    monkeypatch.setattr(quantizer, "write_integer", sources.crash)
    with pytest.raises(RefusedError, match="no integer form of the model runs .*crashed with SIGABRT"):
        planned(loud, tmp_path / "int8.tflite")
    assert not list(tmp_path.iterdir())


def test_integer_only_widens_normalizations_until_it_is_quiet(encoder, tmp_path, inline, monkeypatch):
    # An offset that all rows share is no signal, and these logits have one that is larger than what varies.
    monkeypatch.setattr(planning, "_QUIET_DB", 15.0)
    target = tmp_path / "int8.tflite"
    plan = planned(encoder, target, inline, integer_only=True, max_drop=1.0)
    assert plan.chosen == "every op, int16 in normalizations"
    # The next wider form would have been tried if this one had been noisy.
    assert [candidate.name for candidate in plan.candidates] == ["every op", "every op, int16 in normalizations"]
    assert plan.floating == {}
    assert plan.form is not None
    assert "squares_difference" in plan.form.wide
    signature = (file := flatbuffer.read(target)).signature(file.entry())
    assert [spec.dtype for spec in (*signature.inputs, *signature.outputs)] == ["int8", "int8"]
    again = planned(encoder, tmp_path / "again.tflite", inline, integer_only=True, form=plan.form)
    assert (tmp_path / "again.tflite").read_bytes() == target.read_bytes()
    assert again.form is not None
    with pytest.raises(ConfigError, match="squares_difference.*--integer-only that it was made with"):
        planned(encoder, tmp_path / "mixed.tflite", inline, form=plan.form)


def test_integer_only_names_what_stands_in_the_way(tmp_path, inline):
    import numpy as np

    from edgekit.data.samples import Samples

    draw = np.random.default_rng(0)
    room = calibrated(stubborn_net(), Samples({"x": draw.standard_normal((16, 16)).astype(np.float32)}), tmp_path)
    with pytest.raises(RefusedError, match=r"1 EXP \(.*1 POW \(") as caught:
        planned(room, tmp_path / "int8.tflite", inline, integer_only=True)
    assert len(caught.value.message.splitlines()) == 1
    assert not (tmp_path / "int8.tflite").exists()


@pytest.mark.parametrize(("option", "settings"), [("--inputs int4", {"inputs": "int4"}), ("--outputs int16", {"outputs": "int16"})])
def test_ends_that_no_file_has_are_refused(option, settings):
    with pytest.raises(ConfigError, match=f"{option}: unknown; choose from float32, int8, uint8"):
        IntegerSettings(**settings)
