"""The search leaves the loud op in float and no other, within its time, and goes on from its journal."""

import json
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgekit.errors import ModelFormatError
from edgekit.stages.quantize import search
from edgekit.stages.quantize.candidates import Reference, expect
from edgekit.stages.quantize.forms import Form
from edgekit.stages.quantize.search import ENOUGH_DB, Found, Work


def work_in(room, journal) -> Work:
    reference = Reference(room / "rows", room / "reference")
    expect(room / "float32.tflite", reference)
    return Work(
        room / "float32.tflite", room / "calibration", reference, Form("every op"), journal, journal.with_name("found.tflite")
    )


def searched(work: Work, seconds: float = 5.0, max_drop: float | None = 0.0) -> Found:
    return search.search(work, seconds, max_drop)


@pytest.fixture
def made(monkeypatch) -> list[tuple[str, ...]]:
    """The integer ops of each run; the search goes on in this process."""
    calls: list[tuple[str, ...]] = []
    outputs = search._Switched.outputs

    def watched(self, kept, rows):
        calls.append(tuple(kept))
        return outputs(self, kept, rows)

    monkeypatch.setattr(search._Switched, "outputs", watched)
    return calls


def entries(journal) -> list[dict[str, Any]]:
    return [json.loads(line) for line in journal.read_text().splitlines()]


def test_the_loud_op_is_left_in_float_and_every_step_is_written_down(loud, tmp_path, made):
    found = searched(work_in(loud, tmp_path / "journal"))
    assert set(found.left) == found.form.floating == {"loud"}
    assert found.left["loud"] < 5
    assert found.considered == 4
    assert found.finished
    (plan,) = [step for step in found.steps if step.what == "plan" and step.ops == ("quiet", "mean", "logits")]
    assert plan.error_db >= ENOUGH_DB
    assert plan.agreement == 1
    assert {step.ops for step in found.steps if step.what == "alone"} == {("loud",), ("quiet",), ("mean",), ("logits",)}
    written = {(entry["what"], *entry["ops"]) for entry in entries(tmp_path / "journal")}
    assert written == {(step.what, *step.ops) for step in found.steps}
    assert not list(loud.glob("*.search*"))


def test_nothing_is_left_in_float_where_nothing_is_loud(loud, tmp_path, made):
    found = searched(replace(work_in(loud, tmp_path / "journal"), form=Form("wide", wide=frozenset({"loud"}))))
    assert found.finished
    assert found.left == {}
    assert found.form.wide == {"loud"}


def test_a_second_run_takes_all_from_the_journal(loud, tmp_path, made):
    first = searched(work_in(loud, tmp_path / "journal"))
    before, kept = len(made), (tmp_path / "journal").read_bytes()
    second = searched(work_in(loud, tmp_path / "journal"))
    assert len(made) == before
    assert (second.form, second.left, second.finished) == (first.form, first.left, first.finished)
    assert set(second.steps) == set(first.steps)
    assert (tmp_path / "journal").read_bytes() == kept


@pytest.mark.parametrize("other", ["model", "calibration", "form"])
def test_a_journal_of_something_else_is_not_believed(loud, encoder, tmp_path, made, other):
    lie = replace(searched(work_in(loud, tmp_path / "journal")), steps=())
    lines = (tmp_path / "journal").read_text().replace('"failure": null', '"failure": "a lie"')
    (tmp_path / "journal").write_text(lines)
    work = work_in(loud, tmp_path / "journal")
    if other == "form":
        work = replace(work, form=Form("every op", wide=frozenset({"mean"})))
    elif other == "calibration":
        (tmp_path / "calibration").write_bytes((loud / "calibration").read_bytes() + b"\0")
        work = replace(work, calibration=tmp_path / "calibration")
    else:
        work = work_in(encoder, tmp_path / "journal")
    before = len(made)
    found = searched(work)
    assert len(made) > before
    assert "a lie" not in {step.failure for step in found.steps}
    if other != "model":
        assert found.left.keys() == lie.left.keys()


@pytest.mark.parametrize("damage", ["half a line", "not JSON", "other fields", "not text", "a list"])
def test_a_damaged_line_costs_its_own_step_only(loud, tmp_path, made, damage):
    first = searched(work_in(loud, tmp_path / "journal"))
    lines = (tmp_path / "journal").read_bytes().splitlines()
    lines[1] = {
        "half a line": lines[1][:25],
        "not JSON": b"{,}",
        "other fields": json.dumps({**json.loads(lines[1]), "colour": "red"}).encode(),
        "not text": b"\xff\xfe\x00",
        "a list": b"[1, 2]",
    }[damage]
    (tmp_path / "journal").write_bytes(b"\n".join(lines) + b"\n")
    made.clear()
    second = searched(work_in(loud, tmp_path / "journal"))
    # What an op gives alone is compared with what none integer gives.
    assert len([kept for kept in made if kept]) == 1
    assert second.left.keys() == first.left.keys()


def test_next_to_no_time_gives_a_plan_all_the_same(encoder, tmp_path, made):
    found = searched(work_in(encoder, tmp_path / "journal"), seconds=0.001)
    # The first op, all of them in one group, and one plan.
    assert len([kept for kept in made if kept]) <= 3
    assert sum(step.what == "plan" for step in found.steps) == 1
    assert found.considered == 19


@pytest.mark.timing
def test_a_search_that_gets_slow_stops_at_its_time(encoder, tmp_path, made, monkeypatch):
    outputs = search._Switched.outputs

    def slower(self, kept, rows):
        time.sleep(0.2 if len(made) > 4 else 0)
        return outputs(self, kept, rows)

    monkeypatch.setattr(search._Switched, "outputs", slower)
    monkeypatch.setattr(search, "_groups", lambda ops, count: [(op,) for op in ops])
    started = time.perf_counter()
    found = searched(work_in(encoder, tmp_path / "journal"), seconds=1.0)
    assert time.perf_counter() - started < 4
    assert sum(step.what == "alone" for step in found.steps) < found.considered


def test_an_op_that_does_not_run_alone_is_the_loudest(loud, tmp_path, made, monkeypatch):
    outputs = search._Switched.outputs

    def failing(self, kept, rows):
        if "mean" in kept:
            raise ModelFormatError("float32.tflite: stops during inference (mean)")
        return outputs(self, kept, rows)

    monkeypatch.setattr(search._Switched, "outputs", failing)
    found = searched(work_in(loud, tmp_path / "journal"))
    assert set(found.left) == {"loud", "mean"}
    assert found.finished
    assert [step.failure for step in found.steps if step.ops == ("mean",)] == ["float32.tflite: stops during inference (mean)"]


def test_where_no_plan_is_good_the_best_is_kept_and_called_unfinished(loud, tmp_path, made, monkeypatch):
    monkeypatch.setattr(search, "ENOUGH_DB", 500.0)
    monkeypatch.setattr(search, "_ADDED", 0.0)
    found = searched(work_in(loud, tmp_path / "journal"))
    assert not found.finished
    assert "loud" in found.left


def test_what_integers_add_is_counted_from_what_none_adds(loud, tmp_path, made, monkeypatch):
    """A model that int8 weights alone take far from float32 keeps the integers that take it no further."""
    outputs = search._Switched.outputs
    draw = np.random.default_rng(0)
    noise: list[np.ndarray] = []

    def rough(self, kept, rows):
        found = outputs(self, kept, rows)
        expected = self.expected["logits"]
        if not noise:
            noise.append(draw.normal(0, 0.1 * np.abs(expected).mean(), expected.shape))
        return {"logits": found["logits"] + noise[0][: len(found["logits"])]}

    monkeypatch.setattr(search._Switched, "outputs", rough)
    found = searched(work_in(loud, tmp_path / "journal"), max_drop=None)
    assert next(step.error_db for step in found.steps if step.what == "none integer") < 25
    assert set(found.left) == {"loud"}
    assert found.finished


def test_a_child_searches(loud, tmp_path):
    from edgekit.system.worker import Worker

    work = work_in(loud, tmp_path / "journal")
    found = Worker(timeout_s=120).run(search.search, work, 5.0, None).value
    assert set(found.left) == {"loud"}
    assert found.finished


@pytest.mark.parametrize(
    ("without", "seconds", "left"),
    [(1.0, 5.0, {"loud"}), (1.0, 0.0, {"loud", "quiet", "mean", "logits"}), (0.85, 5.0, set())],
    ids=["as few", "no time for a second plan", "already more"],
)
def test_labels_forgive_no_decision_that_integers_alone_change(loud, tmp_path, made, monkeypatch, without, seconds, left):
    """The error is within limits and the metric loses nothing, yet integers in one op decide otherwise on a tenth of the rows."""

    def run(self, what, kept, rows):
        shifts = "loud" in kept
        return search.Step(what, tuple(kept), rows, 50.0 if shifts else 60.0, min(without, 0.9 if shifts else 1.0))

    monkeypatch.setattr(search._Trial, "run", run)
    found = searched(work_in(loud, tmp_path / "journal"), seconds, max_drop=0.05)
    assert set(found.left) == left
    assert found.finished


@pytest.mark.parametrize(("agreement", "left"), [(0.98, set()), (0.96, {"loud", "quiet", "mean", "logits"})])
def test_integers_add_nothing_where_decisions_are_at_their_limit_without_them(loud, tmp_path, made, monkeypatch, agreement, left):
    noise = {"alone": 45.0, "none integer": 30.0, "plan": 29.9}

    def run(self, what, kept, rows):
        return search.Step(what, tuple(kept), rows, noise[what] if kept else 30.0, agreement)

    monkeypatch.setattr(search._Trial, "run", run)
    assert set(searched(work_in(loud, tmp_path / "journal"), max_drop=0.05).left) == left
