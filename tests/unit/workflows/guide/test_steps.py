"""Every command that is told to type is one that the command line takes."""

import shlex
from dataclasses import replace

import click
import pytest

from edgekit.cli import main
from edgekit.measure.measurement import Latency, Measurement
from edgekit.tasks.metrics import Difference
from edgekit.workflows.guide.decision_tree import INTEGER_ONLY, Candidate, Data, Question, Recommendation
from edgekit.workflows.guide.steps import Origin, steps
from edgekit.workflows.guide.targets import Fit, Hardware, Obstacle

SETTINGS = {
    "data": {"source": "train rows.tsv", "text_columns": ["one", "two"], "label_columns": ["stars"]},
    "evaluation_data": "dev.tsv",
    "evaluation_samples": 872,
    "calibration": "entropy",
    "max_length": 32,
    "mean": (1.0, 2.5),
    "std": [127.5],
    "input_shapes": {"x": [1, 3, 8, 8]},
}


def _candidate(name: str) -> Candidate:
    drop = Difference(9, 0, 500, 0.018, 0.01, 0.026)
    found = Measurement("out/m_int8.tflite", 9, None, latency=Latency(3, 0, 1, 1, 1, 1, 1), drop=drop)
    fit = Fit(Hardware.EDGETPU, 9, 0, (Obstacle("GELU", 6, "not on its list"),), (), 9)
    return Candidate("int8" if name == INTEGER_ONLY else name, name == INTEGER_ONLY, found, fit=fit)


PATHS = {"float32": "out/m_float32.tflite", "int8": "out/m_int8.tflite", INTEGER_ONLY: "out/integer_only/m_int8.tflite"}
FILES = tuple(replace(_candidate(name), measurement=Measurement(path, 9, None)) for name, path in PATHS.items())
ORIGIN = Origin("m", "my models/m", "checkpoint", SETTINGS, FILES, kept=True)


def _steps(leaf: str, name: str | None, hardware: str = "cpu", origin: Origin = ORIGIN) -> tuple[str, ...]:
    answer = Recommendation(leaf, "", _candidate(name) if name else None, "", (), ())
    return steps(origin, Question(Hardware(hardware), data=Data.LABELLED), answer)


def _check(line: str) -> None:
    _, command, *words = shlex.split(line)
    found = main.cli.resolve_command(click.Context(main.cli), [command])[1]
    assert found is not None, line
    found.make_context(command, words)


@pytest.mark.parametrize("kind", ["checkpoint", "onnx", "keras", ""])
@pytest.mark.parametrize(
    ("leaf", "name", "hardware"),
    [
        ("dynamic", "dynamic", "cpu"),
        ("int8", "int8", "cpu"),
        ("float16", "float16", "gpu"),
        (INTEGER_ONLY, INTEGER_ONLY, "edgetpu"),
        ("quantization-aware training", "float16", "cpu"),
        ("diagnose", INTEGER_ONLY, "hexagon"),
        ("data first", None, "edgetpu"),
        ("no integer-only file", None, "edgetpu"),
        ("no float file", None, "gpu"),
        ("other ops", INTEGER_ONLY, "edgetpu"),
        ("shrink", INTEGER_ONLY, "microcontroller"),
    ],
)
def test_what_is_told_can_be_typed(leaf: str, name: str | None, hardware: str, kind: str) -> None:
    for origin in (replace(ORIGIN, kind=kind), replace(ORIGIN, kind=kind, settings={}, kept=False)):
        told = _steps(leaf, name, hardware, origin)
        assert told
        for line in told:
            if "edgekit " in line and not line.startswith(("labelled", "train", "give")):
                _check(line[line.index("edgekit ") :])


def test_the_command_makes_the_file_as_it_was_made() -> None:
    line = _steps(INTEGER_ONLY, INTEGER_ONLY, "edgetpu", replace(ORIGIN, kind="onnx"))[1]
    assert line == (
        "edgekit convert 'my models/m' --scheme int8 --integer-only --inputs int8 --outputs int8 --representative-data "
        "'train rows.tsv' --evaluation-data dev.tsv --evaluation-samples 872 --calibration entropy --mean 1,2.5 --std 127.5 "
        "--text-column one --text-column two --label-column stars --input-shape x=1,3,8,8 --max-drop 0.01"
    )


def test_a_checkpoint_that_loses_is_trained_by_edgekit_and_others_where_they_came_from() -> None:
    leaf = "quantization-aware training"
    assert _steps(leaf, "float16")[0] == "edgekit finetune --model 'my models/m' --dataset 'train rows.tsv' --qat --out m-qat"
    keras = _steps(leaf, "float16", origin=replace(ORIGIN, kind="keras"))[0]
    assert keras == "edgekit optimize 'my models/m' --technique qat --dataset 'train rows.tsv' --out m-qat"
    assert _steps(leaf, "float16", origin=replace(ORIGIN, kind="onnx"))[0].startswith("train it quantization-aware")
    assert "edgekit diagnose out/integer_only/m_int8.tflite --against out/m_float32.tflite" in _steps(leaf, "float16")[2]


def test_a_model_that_brings_its_ranges_is_told_nothing_that_convert_refuses() -> None:
    origin = replace(ORIGIN, kind="keras", settings={}, candidates=(replace(FILES[1], brought=True),))
    assert _steps("int8", "int8", origin=origin)[1] == "edgekit convert 'my models/m' --scheme int8 --max-drop 0.01"
    for leaf in ("no integer-only file", "quantization-aware training"):
        told = "\n".join(_steps(leaf, "int8", "edgetpu", origin))
        assert "--integer-only" not in told
        assert "optimize" not in told


def test_few_rows_are_told() -> None:
    assert any(line.startswith("judge it on more than 500 rows") for line in _steps("dynamic", "dynamic"))
