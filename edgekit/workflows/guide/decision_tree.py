"""The guide's decision tree over what was measured: its questions and ends, and what is asked and answered.

The questions are those of https://ai.google.dev/edge/litert/models/model_optimization; where the guide states a rule
("dynamic range is 2 to 3 times faster"), the answer here is this model's own figure."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from edgekit.measure.measurement import Measurement
from edgekit.stages.quantize.schemes import SCHEMES
from edgekit.workflows.guide.targets import Fit, Hardware

INTEGER_ONLY = "int8 integer-only"
# What is kept or lost where there is no metric: see `Question.metric`.
DECISIONS, VALUES = "decisions", "values"
# From the least to the most that has to be done to a float32 model.
SIMPLEST_FIRST = ("float32", "float16", "dynamic", "int8", INTEGER_ONLY, "int16x8")


class Need(enum.StrEnum):
    """What matters most; `ACCELERATOR` is that the file runs on one at all."""

    LATENCY = "latency"
    SIZE = "size"
    ACCURACY = "accuracy"
    ACCELERATOR = "accelerator"


class Data(enum.StrEnum):
    """What data there is to calibrate, judge and train with."""

    NONE = "none"
    REPRESENTATIVE = "representative"
    LABELLED = "labelled"


@dataclass(frozen=True)
class Question:
    """What is asked. `max_drop` is what may be lost of `metric` (a proportion), without labels the share of other decisions.

    `metric` is the task's first, "decisions" without labels, and "values" where no decision is read from the outputs: these
    must stay within `min_db` dB of float32's."""

    hardware: Hardware = Hardware.CPU
    need: Need = Need.LATENCY
    data: Data = Data.NONE
    max_drop: float = 0.01
    min_db: float | None = 20.0
    metric: str = "accuracy"
    flash_bytes: int | None = None
    ram_bytes: int | None = None
    data_described: str = ""


@dataclass(frozen=True)
class Candidate:
    """One file of the model with its figures, or why there is none; `fit` compares it with the target asked for.

    What its figures say of its outputs is of rows that the user gave. `brought` is a file that calibrates on nothing, since
    its model came with trained ranges. What was `refused` may have run all the same; it is never taken."""

    scheme: str
    integer_only: bool = False
    measurement: Measurement | None = None
    refused: str | None = None
    fit: Fit | None = None
    brought: bool = False

    @property
    def name(self) -> str:
        return INTEGER_ONLY if self.integer_only else self.scheme

    @property
    def p50_ms(self) -> float:
        return self.measurement.latency.p50_ms if self.measurement and self.measurement.latency else float("inf")

    @property
    def size_bytes(self) -> int:
        return self.measurement.size_bytes if self.measurement else 0

    @property
    def ran(self) -> bool:
        return self.measurement is not None and self.measurement.failure is None and self.measurement.latency is not None

    @property
    def usable(self) -> bool:
        return self.ran and self.refused is None

    @property
    def judged(self) -> Measurement | None:
        """Its figures, where rows of the user's tell what it loses."""
        row = self.measurement
        return row if row and self.scheme != "float32" and (row.drop or row.agreement or row.outputs) else None

    @property
    def needs_data(self) -> bool:
        return SCHEMES[self.scheme].needs_data and not self.brought


@dataclass(frozen=True)
class Node:
    """A question, with a place for the metric's name, and where each answer leads: to another node or to a leaf, by name."""

    question: str
    answers: Mapping[str, str]


# The ends of the tree with their titles: the candidates, and what to do where none can be recommended as it is.
LEAVES: Mapping[str, str] = {
    "float32": "float32, as it is",
    "float16": "float16 weights",
    "dynamic": "dynamic range: int8 weights",
    "int8": "int8, float where integers cost too much",
    INTEGER_ONLY: "int8 integer-only",
    "int16x8": "int16 activations, int8 weights",
    "quantization-aware training": "train quantization-aware, then int8",
    "diagnose": "find the layers that lose, or calibrate better",
    "data first": "give data to calibrate on",
    "no integer-only file": "mend what keeps it from integers",
    "no float file": "convert it to float16 or float32",
    "other ops": "change the ops, or another target",
    "shrink": "prune or distil it first",
}
ROOT = "hardware"
TREE: Mapping[str, Node] = {
    "hardware": Node("What will run it?", {"CPU": "data", "GPU": "half", "Edge TPU, Hexagon or microcontroller": "integer data"}),
    "data": Node("What data is there?", {"none": "free", "rows to calibrate on": "quantized"}),
    "free": Node(
        "Which scheme that needs no data is best?",
        {"int8": "int8", "dynamic": "dynamic", "float16": "float16", "float32": "float32", "none": "data first"},
    ),
    "quantized": Node("Does a quantized file keep the {metric}?", {"yes": "measured", "not judged": "measured", "no": "labels"}),
    "measured": Node("Which of those that keep it is best?", {name: name for name in reversed(SIMPLEST_FIRST)}),
    "labels": Node("Are the rows labelled?", {"yes": "quantization-aware training", "no": "floats"}),
    "floats": Node("Which float file is best?", {"float16": "float16", "float32": "float32", "neither was measured": "diagnose"}),
    "half": Node(
        "Does float16 keep the {metric}?",
        {"yes": "float16", "not judged": "float16", "no": "float32", "neither was measured": "no float file"},
    ),
    "integer data": Node("Is there data to calibrate on?", {"no": "data first", "yes": "integers"}),
    "integers": Node("Is there a file with integers in every op?", {"no": "no integer-only file", "yes": "ops"}),
    "ops": Node("Does the target run its ops?", {"no": "other ops", "yes": "integers keep"}),
    "integers keep": Node("Does it keep the {metric}?", {"yes": "room", "not judged": "room", "no": "integer labels"}),
    "integer labels": Node("Are the rows labelled?", {"yes": "quantization-aware training", "no": "diagnose"}),
    "room": Node("Is there room for it?", {"yes": INTEGER_ONLY, "no": "shrink"}),
}


@dataclass(frozen=True)
class Step:
    """A question of the tree, the answer, and what decided it."""

    node: str
    question: str
    answer: str
    decided_by: str


@dataclass(frozen=True)
class Passed:
    """A scheme that was not taken: `verdict` in a word or two, `why` with the figures."""

    name: str
    verdict: str
    why: str


@dataclass(frozen=True)
class Recommendation:
    """Where the tree ended. `candidate` is the file to take, or until something better is made the best there is, or None."""

    leaf: str
    title: str
    candidate: Candidate | None
    reason: str
    path: tuple[Step, ...]
    passed: tuple[Passed, ...]

    @property
    def taken(self) -> bool:
        """Whether the tree ends at a file that can be used as it is."""
        return self.leaf in SIMPLEST_FIRST


def allowance(question: Question) -> str:
    """What may be lost, in words."""
    if question.metric == VALUES:
        return f"no output further than {question.min_db or 0:g} dB from float32's"
    if question.metric == DECISIONS:
        return f"{100 * question.max_drop:g} % other decisions"
    return f"{100 * question.max_drop:g} point{'' if 100 * question.max_drop == 1 else 's'} of {question.metric}"
