"""What to do next: the commands that make the recommended file, or what would make one possible."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekit.data.representative import MINIMUM
from edgekit.stages.quantize.schemes import SCHEMES
from edgekit.workflows.guide.decision_tree import INTEGER_ONLY, Question, Recommendation
from edgekit.workflows.guide.targets import FOREIGN, TARGETS, Hardware


@dataclass(frozen=True)
class Origin:
    """What a model's files were made of: `model` as convert takes it, of a `kind` of `bridge.Kind` or of an unknown one.

    `settings` are convert's as they were and `defaults` as they are unless given; `paths` are the files by candidate, which
    are there after the command only where they are `kept`. `ends` are the dtypes of an integer-only file's inputs and outputs,
    `brings` the schemes that calibrate on nothing since the model was trained quantization-aware.
    """

    name: str
    model: str
    kind: str
    settings: Mapping[str, Any]
    defaults: Mapping[str, Any]
    paths: Mapping[str, str]
    kept: bool
    ends: tuple[str, str] = ("int8", "int8")
    brings: tuple[str, ...] = ()


def steps(found: Origin, question: Question, answer: Recommendation) -> tuple[str, ...]:
    """What to do after the answer, in order: commands as they are typed, or sentences."""
    data = found.settings.get("representative_data") or "rows.tsv"
    taken = answer.candidate
    file = taken.measurement.path if taken and taken.measurement and found.kept else ""
    model = shlex.quote(found.model)
    integer = TARGETS[question.hardware].integer_only
    lines: list[str] = []
    if answer.taken and taken is not None:
        lines += [
            f"the file is there: {file}" if file and taken.refused is None else "",
            _convert_line(found, question, taken.name),
        ]
        if question.hardware is Hardware.GPU:
            lines.append(
                f"edgekit benchmark {shlex.quote(file or f'tflite_models/{found.name}_{taken.scheme}.tflite')} --device adb --gpu"
            )
        if question.hardware is Hardware.EDGETPU:
            lines.append(f"edgetpu_compiler {shlex.quote(file or f'tflite_models/{found.name}_int8.tflite')}")
        if (drop := taken.measurement.drop if taken.measurement else None) and drop.high > question.max_drop:
            lines.append(
                f"judge it on more than {drop.total} rows (--evaluation-data, --evaluation-samples) to narrow the interval"
            )
    elif answer.leaf == "quantization-aware training":
        lines += [*_training(found, data), _diagnose_line(found, data)]
        lines += [f"until then: {_convert_line(found, question, taken.name)}" if taken is not None and not integer else ""]
    elif answer.leaf == "diagnose":
        again = _convert_line(found, question, taken.name if taken else "int8")
        lines += [
            _diagnose_line(found, data),
            f"more rows, or --calibration percentile, mse or entropy: {again}",
            "labelled rows would allow quantization-aware training (edgekit finetune --qat, edgekit optimize --technique qat)",
        ]
    elif answer.leaf == "data first":
        lines += [f"edgekit advise {model} --target {question.hardware} --data {shlex.quote(str(data))}"]
        lines += [
            f"at least {MINIMUM} rows of what the model will see, some hundred are better; labels are needed to judge accuracy"
        ]
    elif answer.leaf == "no float file":
        lines += [_convert_line(found, question, scheme) for scheme in ("float16", "float32")]
    elif answer.leaf == "no integer-only file":
        lines += [
            "the inputs and outputs of a model that was trained quantization-aware stay in float: give the float model, with --data"
            if "int8" in found.brings
            else _convert_line(found, question, INTEGER_ONLY),
            f"edgekit advise {model} --target cpu --data {shlex.quote(str(data))}",
        ]
    elif answer.leaf == "other ops":
        stand = taken.fit.obstacles if taken and taken.fit else ()
        foreign = list(dict.fromkeys(item.op for item in stand if item.reason in FOREIGN))
        wide = sum(item.count for item in stand if item.reason == "in int16")
        lines += [f"replace in the model by ops on the list, and convert it again: {', '.join(foreign)}"] * bool(foreign)
        lines += [
            f"{wide} ops are in int16, where edgekit leaves normalizations that lose in int8: one that folds into a convolution "
            f"or a dense layer (batch normalization) has no such ops"
        ] * bool(wide)
        lines += [f"edgekit advise {model} --target cpu --data {shlex.quote(str(data))}"]
    elif answer.leaf == "shrink":
        lines += [f"edgekit prune {model} --dataset {shlex.quote(str(data))} --heads 0.5 --ffn 0.5 --out {found.name}-pruned"] * (
            found.kind == "checkpoint"
        )
        lines += ["a narrower network, smaller inputs, or a microcontroller with more room"]
    return tuple(line for line in lines if line)


def _convert_line(found: Origin, question: Question, name: str) -> str:
    """The command that makes one file as it was made here."""
    integer_only = name == INTEGER_ONLY
    scheme = "int8" if integer_only else name
    settings = found.settings
    needy = SCHEMES[scheme].needs_data and scheme not in found.brings
    words = ["edgekit", "convert", found.model, "--scheme", scheme]
    if integer_only:
        words.append("--integer-only")
        words += [word for end, dtype in zip(("inputs", "outputs"), found.ends, strict=True) for word in (f"--{end}", dtype)]
    if settings.get("representative_data") and (needy or not settings.get("evaluation_data")):
        words += ["--representative-data", str(settings["representative_data"])]
    elif needy:
        words += ["--representative-data", "rows.tsv"]
    if settings.get("evaluation_data"):
        words += ["--evaluation-data", str(settings["evaluation_data"])]
    judged = {"--representative-data", "--evaluation-data"} & set(words)
    counts = ["representative_samples"] * ("--representative-data" in words) + ["evaluation_samples"] * bool(judged)
    for key in (*counts, "calibration", "bridge", "threads", "seed"):
        if settings.get(key) is not None and settings[key] != found.defaults[key]:
            words += [f"--{key.replace('_', '-')}", str(settings[key])]
    if found.kind == "checkpoint" and settings.get("max_length"):
        words += ["--max-length", str(settings["max_length"])]
    for key in ("mean", "std"):
        if settings.get(key):
            words += [f"--{key}", ",".join(f"{value:g}" for value in settings[key])]
    words += [word for column in settings.get("text_columns") or () for word in ("--text-column", column)]
    words += ["--label-column", str(settings["label_column"])] if settings.get("label_column") else []
    for tensor, shape in (settings.get("input_shapes") or {}).items():
        words += ["--input-shape", f"{tensor}={','.join(map(str, shape))}"]
    return shlex.join([*words, "--max-drop", f"{question.max_drop:g}"])


def _training(found: Origin, data: str) -> list[str]:
    model, rows, out = shlex.quote(found.model), shlex.quote(str(data)), shlex.quote(f"{found.name}-qat")
    if found.kind == "checkpoint":
        convert_line = f"edgekit convert {out} --scheme int8 --representative-data {rows}"
        return [f"edgekit finetune --model {model} --dataset {rows} --qat --out {out}", convert_line]
    if "int8" in found.brings:
        return ["train it further where it was trained quantization-aware"]
    if found.kind == "keras":
        return [f"edgekit optimize {model} --technique qat --dataset {rows} --out {out}"]
    return [
        "train it quantization-aware where it was trained: edgekit optimize --technique qat takes a Keras-2 .h5, "
        "edgekit finetune --qat a checkpoint"
    ]


def _diagnose_line(found: Origin, data: str) -> str:
    """The command that says what costs the accuracy, where the files are kept."""
    paths = found.paths
    wrong = paths.get(INTEGER_ONLY) or paths.get("int8")
    if not found.kept or wrong is None or "float32" not in paths:
        return "give --out DIR, and then edgekit diagnose says which layers lose the accuracy"
    return shlex.join(["edgekit", "diagnose", wrong, "--against", paths["float32"], "--data", str(data)])
