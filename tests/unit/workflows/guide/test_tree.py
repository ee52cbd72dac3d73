"""The tree with made-up figures: every leaf is reached, and every reason names a figure."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from edgekit.errors import RefusedError
from edgekit.measure.measurement import Latency, Measurement
from edgekit.tasks.judgement import OutputError
from edgekit.tasks.metrics import Difference, Proportion, Score
from edgekit.workflows.guide.decision_tree import (
    INTEGER_ONLY,
    LEAVES,
    ROOT,
    TREE,
    VALUES,
    Candidate,
    Data,
    Need,
    Question,
    Recommendation,
)
from edgekit.workflows.guide.targets import Fit, Hardware, Obstacle
from edgekit.workflows.guide.walk import recommend

LABELLED = Question(data=Data.LABELLED, data_described="500 rows of dev.tsv")


def measured(
    name: str, megabytes: float, p50: float, lost: int = 0, *, rows: int = 500, labelled: bool = True, **more: Any
) -> Candidate:
    """A candidate whose drop is `lost` of `rows`, with an interval of one point to each side; of no rows it has no such figures."""
    value = lost / max(rows, 1)
    drop = Difference(max(lost, 0), max(-lost, 0), rows, value, value - 0.01, value + 0.01) if labelled and rows else None
    agreement = Proportion(rows - abs(lost), rows, 1 - abs(value), 1 - abs(value) - 0.01, 1.0) if rows else None
    found = Measurement(
        f"{name}.tflite",
        int(megabytes * 1e6),
        None,
        scheme=name,
        latency=Latency(30, 5, p50, p50, p50, p50, p50),
        partitions=2,
        delegated_ops=9,
        ops=10,
        metric=Score("accuracy", 0.9 - value, 0.8, 0.95, rows) if drop else None,
        drop=None if name == "float32" else drop,
        agreement=agreement,
    )
    integer_only = name == INTEGER_ONLY
    return Candidate("int8" if integer_only else name, integer_only, found, **more)


def fit(hardware: Hardware, *, floats: int = 0, obstacles: Sequence[Obstacle] = (), arena: int = 16_000) -> Fit:
    return Fit(hardware, 10, floats, tuple(obstacles), (), arena)


def model(**replaced: Candidate | None) -> list[Candidate]:
    """A Transformer's figures: dynamic as fast as int8, int16x8 slow."""
    usual = {
        "float32": measured("float32", 90.9, 8.7),
        "float16": measured("float16", 45.9, 8.7),
        "dynamic": measured("dynamic", 23.7, 2.75),
        "int8": measured("int8", 23.9, 2.79),
        "int16x8": measured("int16x8", 35.7, 274.0),
    }
    return [item for item in (usual | replaced).values() if item is not None]


def integers(hardware: Hardware, *, lost: int = 0, **fitted: Any) -> list[Candidate]:
    strict = measured(INTEGER_ONLY, 4.0, 1.0, lost, fit=fit(hardware, **fitted))
    return [
        measured("float32", 14.0, 2.0, fit=fit(hardware, floats=10)),
        measured("int8", 4.1, 1.0, fit=fit(hardware, floats=2)),
        strict,
    ]


def edge(**facts: Any) -> Question:
    return Question(**{"hardware": Hardware.EDGETPU, "need": Need.ACCELERATOR, "data": Data.LABELLED} | facts)


NO_DATA = [
    measured(name, size, p50, rows=0) for name, size, p50 in (("float32", 90, 8.7), ("float16", 45, 8.7), ("dynamic", 23, 2.7))
]
SLOW_DYNAMIC = [NO_DATA[0], NO_DATA[1], measured("dynamic", 23, 20.0, rows=0)]
LOSING: dict[str, Candidate | None] = {
    "dynamic": measured("dynamic", 23.7, 2.75, 40),
    "int8": measured("int8", 23.9, 2.79, 30),
    "int16x8": None,
}
UNLABELLED = Question(data=Data.REPRESENTATIVE)
ADD = Obstacle("ADD", 9, "in int16")
CASES: dict[str, tuple[Question, list[Candidate], str]] = {
    "no data, dynamic is faster": (Question(), NO_DATA, "dynamic"),
    "no data, dynamic is slower": (Question(), SLOW_DYNAMIC, "float16"),
    "no data, float32 alone ran": (Question(), NO_DATA[:1], "float32"),
    "no data, accuracy counts": (Question(need=Need.ACCURACY), NO_DATA, "float16"),
    "dynamic and int8 are as fast": (LABELLED, model(), "dynamic"),
    "dynamic is slower than float": (LABELLED, model(dynamic=measured("dynamic", 23.7, 30.0)), "int8"),
    "only int16x8 is small and true": (
        Question(need=Need.SIZE, data=Data.LABELLED),
        model(**{**LOSING, "int16x8": measured("int16x8", 35.7, 274.0)}),
        "int16x8",
    ),
    "int8 without float alone": (LABELLED, [measured("float32", 14, 2.0), measured(INTEGER_ONLY, 4, 1.0)], INTEGER_ONLY),
    "nothing is faster than float": (
        LABELLED,
        model(dynamic=measured("dynamic", 23.7, 30.0), int8=measured("int8", 23.9, 30.0)),
        "float16",
    ),
    "accuracy counts and rows are few": (Question(need=Need.ACCURACY, data=Data.LABELLED, max_drop=0.001), model(), "float32"),
    "quantized files lose": (LABELLED, model(**LOSING), "quantization-aware training"),
    "quantized files lose, no labels": (UNLABELLED, model(**LOSING), "float16"),
    "quantized files lose, no labels, no float": (UNLABELLED, [measured("dynamic", 23.7, 2.75, 40)], "diagnose"),
    "no data, dynamic loses on rows to judge on": (Question(), model(dynamic=measured("dynamic", 23.7, 2.75, 40)), "float16"),
    "no data, dynamic was refused": (
        Question(),
        [*NO_DATA[:2], replace(measured("dynamic", 23.7, 2.75, 40), refused="loses 8.0 points")],
        "float16",
    ),
    "no data, trained ranges": (Question(), [measured("int8", 4.0, 1.0, rows=0, brought=True)], "int8"),
    "no data, nothing keeps it": (Question(), [measured("dynamic", 23.7, 2.75, 40)], "data first"),
    "what is faster loses, what is smaller does not": (
        LABELLED,
        model(dynamic=measured("dynamic", 23.7, 8.2), int8=measured("int8", 23.9, 2.79, 30), int16x8=None),
        "quantization-aware training",
    ),
    "nothing to train on, so what keeps it will do": (
        UNLABELLED,
        model(dynamic=measured("dynamic", 23.7, 8.2), int8=measured("int8", 23.9, 2.79, 30), int16x8=None),
        "dynamic",
    ),
    "nothing was judged": (UNLABELLED, [NO_DATA[0], measured("int8", 23, 2.7, rows=0)], "int8"),
    "GPU, nothing was judged": (Question(hardware=Hardware.GPU), NO_DATA, "float16"),
    "accelerator, nothing was judged": (
        edge(data=Data.REPRESENTATIVE),
        [measured(INTEGER_ONLY, 4.0, 1.0, rows=0, fit=fit(Hardware.EDGETPU))],
        INTEGER_ONLY,
    ),
    "GPU": (Question(hardware=Hardware.GPU, data=Data.LABELLED), model(), "float16"),
    "GPU, float16 loses": (
        Question(hardware=Hardware.GPU, data=Data.LABELLED),
        model(float16=measured("float16", 45.9, 8.7, 30)),
        "float32",
    ),
    "GPU, no float file": (Question(hardware=Hardware.GPU), [measured("int8", 4.0, 1.0)], "no float file"),
    "accelerator, trained ranges and float ends": (
        edge(data=Data.NONE),
        [measured("int8", 4.0, 1.0, rows=0, brought=True, fit=fit(Hardware.EDGETPU, floats=2))],
        "no integer-only file",
    ),
    "accelerator": (edge(), integers(Hardware.EDGETPU), INTEGER_ONLY),
    "accelerator, an op of ten in the way": (
        edge(),
        integers(Hardware.EDGETPU, obstacles=[Obstacle("GELU", 1, "not on its list")]),
        INTEGER_ONLY,
    ),
    "accelerator, no data": (edge(data=Data.NONE), NO_DATA, "data first"),
    "accelerator, refused": (
        edge(),
        [*model(int8=None), Candidate("int8", integer_only=True, refused="2 of 10 ops have no integer kernel: ERF")],
        "no integer-only file",
    ),
    "accelerator, most ops in the way": (edge(), integers(Hardware.EDGETPU, obstacles=[ADD]), "other ops"),
    "microcontroller, one op in the way": (
        edge(hardware=Hardware.MICROCONTROLLER),
        integers(Hardware.MICROCONTROLLER, obstacles=[Obstacle("GELU", 1, "not on its list")]),
        "other ops",
    ),
    "accelerator, loses": (edge(), integers(Hardware.EDGETPU, lost=40), "quantization-aware training"),
    "accelerator, loses, no labels": (edge(data=Data.REPRESENTATIVE), integers(Hardware.EDGETPU, lost=40), "diagnose"),
    "no flash": (edge(hardware=Hardware.MICROCONTROLLER, flash_bytes=10**6), integers(Hardware.MICROCONTROLLER), "shrink"),
    "no RAM": (
        edge(hardware=Hardware.MICROCONTROLLER, flash_bytes=10**7, ram_bytes=8_000),
        integers(Hardware.MICROCONTROLLER),
        "shrink",
    ),
}


def ended(case: str) -> Recommendation:
    question, candidates, _ = CASES[case]
    return recommend(question, candidates)


@pytest.mark.parametrize("case", CASES)
def test_figures_lead_to_the_leaf(case: str) -> None:
    assert ended(case).leaf == CASES[case][2]


@pytest.mark.parametrize("case", CASES)
def test_every_reason_names_a_figure(case: str) -> None:
    found = ended(case)
    assert re.search(r"\d", found.reason)
    assert all(re.search(r"\d", item.why) for item in found.passed), found.passed
    assert all(step.decided_by for step in found.path)


@pytest.mark.parametrize("case", CASES)
def test_the_path_is_one_of_the_tree(case: str) -> None:
    found = ended(case)
    place = ROOT
    for step in found.path:
        assert step.node == place
        place = TREE[place].answers[step.answer]
    assert place == found.leaf


@pytest.mark.parametrize("case", CASES)
def test_what_was_not_taken_is_told_once_each(case: str) -> None:
    question, candidates, _ = CASES[case]
    found = recommend(question, candidates)
    named = [item.name for item in found.passed]
    assert len(named) == len(set(named))
    assert {"float32", "float16", "dynamic", "int8", "int16x8"} <= {
        *named,
        *(c.name for c in candidates if c is found.candidate),
    } | {"int8" if INTEGER_ONLY in (*named, found.leaf) else ""}


def test_every_leaf_is_reached() -> None:
    assert {leaf for *_, leaf in CASES.values()} == set(LEAVES)


def test_every_answer_leads_somewhere_and_every_node_is_asked_once() -> None:
    targets = [to for node in TREE.values() for to in node.answers.values()]
    assert all(to in TREE or to in LEAVES for to in targets)
    inner = [to for node in TREE.values() for to in set(node.answers.values()) if to in TREE]
    assert sorted([*inner, ROOT]) == sorted(TREE)


def test_noise_is_no_reason_and_the_simpler_scheme_is_taken() -> None:
    found = recommend(LABELLED, model(int8=measured("int8", 23.5, 2.6)))
    assert found.leaf == "dynamic"
    (told,) = [item for item in found.passed if item.name == "int8"]
    assert told.verdict == "needs data"
    assert "noise" in told.why
    assert "2.60 ms against 2.75" in told.why
    assert recommend(LABELLED, model(int8=measured("int8", 23.5, 2.2))).leaf == "int8"


def test_a_need_for_size_takes_the_faster_of_two_that_are_as_small() -> None:
    question = Question(need=Need.SIZE, data=Data.LABELLED)
    slow = model(dynamic=measured("dynamic", 3.95, 7.0), int8=measured("int8", 4.06, 0.8))
    assert recommend(question, slow).leaf == "int8"


def test_slowness_is_not_what_training_mends() -> None:
    slow = model(dynamic=measured("dynamic", 23.7, 30.0), int8=measured("int8", 23.9, 30.0, 40), int16x8=None)
    assert recommend(LABELLED, slow).leaf == "float16"


def test_what_loses_says_by_how_much_and_training_names_what_to_use_until_then() -> None:
    found = ended("quantized files lose")
    assert {item.verdict for item in found.passed if item.name in ("dynamic", "int8")} == {"loses"}
    assert "int8 loses 6.0 points of accuracy (5.0 to 7.0 with 95 % confidence, 500 rows)" in found.reason
    assert "until then float16" in found.reason
    assert not found.taken


def test_integers_at_both_ends_are_for_accelerators() -> None:
    found = recommend(LABELLED, [*model(dynamic=measured("dynamic", 23.7, 30.0)), measured(INTEGER_ONLY, 23.8, 1.0)])
    assert found.leaf == "int8"
    assert [item.verdict for item in found.passed if item.name == INTEGER_ONLY] == ["for accelerators"]


def test_without_labels_other_decisions_count_as_loss() -> None:
    question = Question(data=Data.REPRESENTATIVE)
    few = model(dynamic=measured("dynamic", 23.7, 2.75, 30, labelled=False), int8=measured("int8", 23.9, 2.79, 2, labelled=False))
    found = recommend(question, few)
    assert found.leaf == "int8"
    assert "decides otherwise on 0.4 % of 500 decisions" in found.reason


def test_everything_refused_says_why_and_what_to_try() -> None:
    refused = [Candidate(name, refused=f"{name} stops at its first inference") for name in ("float32", "int8")]
    with pytest.raises(RefusedError, match=r"float32: float32 stops.*; int8: int8 stops.*convert float32 alone"):
        recommend(LABELLED, refused)


@pytest.mark.parametrize("hardware", [Hardware.CPU, Hardware.GPU])
@pytest.mark.parametrize("data", list(Data))
def test_what_was_refused_is_never_taken(hardware: Hardware, data: Data) -> None:
    refused = [replace(item, refused="loses 3.0 points") if item.name != "float32" else item for item in model()]
    found = recommend(Question(hardware, data=data, max_drop=0.5), refused)
    assert found.candidate is None or found.candidate.name == "float32"
    assert {item.verdict for item in found.passed if item.name in ("float16", "dynamic")} == {"refused"}
    with pytest.raises(RefusedError, match="dynamic: loses 3.0 points"):
        recommend(Question(), refused[1:])


def test_rows_to_judge_on_count_without_rows_to_calibrate_on() -> None:
    found = recommend(Question(data_described="500 rows of dev.tsv"), model(int8=None, int16x8=None))
    assert found.leaf == "dynamic"
    assert found.path[1].decided_by == "0 rows to calibrate on, judged on 500 rows of dev.tsv"
    assert "loses 0.0 points of accuracy" in found.reason


@pytest.mark.parametrize("case", ["nothing was judged", "GPU, nothing was judged", "accelerator, nothing was judged"])
def test_what_was_not_judged_is_not_said_to_keep_the_accuracy(case: str) -> None:
    answers = {step.question: step.answer for step in ended(case).path if "keep the accuracy" in step.question}
    assert list(answers.values()) == ["not judged"]


def test_a_gain_is_more_than_noise() -> None:
    """Only int8 is faster; dynamic, a little slower than float32, keeps the accuracy and is no reason to leave int8 as it is."""
    found = recommend(LABELLED, model(dynamic=measured("dynamic", 23.7, 9.0), int8=measured("int8", 23.9, 2.79, 30)))
    assert found.leaf == "quantization-aware training"
    assert "until then dynamic" in found.reason


def test_a_metric_gives_its_name_to_questions_and_losses() -> None:
    question = replace(LABELLED, metric="entity F1")
    found = recommend(question, model(**LOSING))
    assert "Does a quantized file keep the entity F1?" in [step.question for step in found.path]
    assert "loses 6.0 points of entity F1" in found.reason
    assert "1 point of entity F1 may be lost" in " ".join(item.why for item in found.passed)


def test_values_that_decide_nothing_are_judged_in_decibels() -> None:
    def noisy(name: str, size: float, p50: float, decibels: float) -> Candidate:
        item = measured(name, size, p50, rows=0)
        assert item.measurement is not None
        outputs = (OutputError("boxes", decibels, 0.99, 3.0), OutputError("scores", 60.0, 1.0, 0.1))
        return replace(item, measurement=replace(item.measurement, error_db=decibels, outputs=outputs))

    candidates = [measured("float32", 90.9, 8.7, rows=0), noisy("float16", 45.9, 8.7, 70.0), noisy("dynamic", 23.7, 2.75, 12.5)]
    found = recommend(Question(data=Data.REPRESENTATIVE, metric=VALUES), [*candidates, noisy("int8", 23.9, 2.79, 31.0)])
    assert found.leaf == "int8"
    assert "output boxes is 31.0 dB from float32's" in found.reason
    told = {item.name: (item.verdict, item.why) for item in found.passed}
    assert told["dynamic"][0] == "loses"
    assert "output boxes is 12.5 dB" in told["dynamic"][1]
    everything = " ".join([found.reason, *(step.question + step.decided_by for step in found.path), *(w for _, w in told.values())])
    assert "accuracy" not in everything
    assert "decision" not in everything
