"""What to do next: the commands that make the recommended file, or what would make one possible."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekit.data.representative import MINIMUM
from edgekit.spec import DataSpec
from edgekit.stages.quantize.schemes import SCHEMES
from edgekit.workflows.convert.config import ConvertConfig
from edgekit.workflows.guide.decision_tree import INTEGER_ONLY, Candidate, Question, Recommendation
from edgekit.workflows.guide.targets import FOREIGN, TARGETS, Hardware


@dataclass(frozen=True)
class Origin:
    """What a model's files were made of: `model` as convert takes it, of a `kind` of `source.Kind` or of an unknown one.

    `settings` are convert's as they were, also as a manifest holds them; the `candidates`' files are there after the command only
    where they are `kept`. `ends` are the dtypes of an integer-only file's inputs and outputs."""

    name: str
    model: str
    kind: str | None
    settings: Mapping[str, Any]
    candidates: tuple[Candidate, ...]
    kept: bool
    ends: tuple[str, str] = ("int8", "int8")

    @property
    def brings(self) -> set[str]:
        """Schemes that calibrate on nothing, since the model was trained quantization-aware."""
        return {item.scheme for item in self.candidates if item.brought}

    def rows(self, name: str) -> DataSpec | None:
        """The data set in convert's setting of that name; a manifest holds it as JSON."""
        spec = self.settings.get(name)
        return DataSpec(**spec) if isinstance(spec, Mapping) else DataSpec(spec) if isinstance(spec, str) else spec

    @property
    def data(self) -> str:
        """What stands for the rows to calibrate on in a command."""
        spec = self.rows("data")
        return shlex.quote(spec.origin if spec else "rows.tsv")


def steps(origin: Origin, question: Question, answer: Recommendation) -> tuple[str, ...]:
    """What to do after the answer, in order: commands as they are typed, or sentences."""
    data, taken = origin.data, answer.candidate
    file = taken.measurement.path if taken and taken.measurement and origin.kept else ""
    model = shlex.quote(origin.model)
    without = f"edgekit advise {model} --target cpu --data {data}"
    lines: list[str] = []
    if answer.taken and taken is not None:
        lines += [f"the file is there: {file}"] * bool(file and taken.refused is None)
        lines += [_convert_line(origin, question, taken.name)]
        quoted = shlex.quote(file or f"tflite_models/{origin.name}_{taken.scheme}.tflite")
        if question.hardware is Hardware.GPU:
            lines.append(f"edgekit benchmark {quoted} --device adb --gpu")
        if question.hardware is Hardware.EDGETPU:
            lines.append(f"edgetpu_compiler {quoted}")
        if (drop := taken.measurement.drop if taken.measurement else None) and drop.high > question.max_drop:
            lines.append(
                f"judge it on more than {drop.total} rows (--evaluation-data, --evaluation-samples) to narrow the interval"
            )
    elif answer.leaf == "quantization-aware training":
        lines += [*_training(origin), _diagnose_line(origin)]
        lines += (
            [f"until then: {_convert_line(origin, question, taken.name)}"]
            if taken and not TARGETS[question.hardware].integer_only
            else []
        )
    elif answer.leaf == "diagnose":
        again = _convert_line(origin, question, taken.name if taken else "int8")
        lines += [
            _diagnose_line(origin),
            f"more rows, or --calibration percentile, mse or entropy: {again}",
            "labelled rows would allow quantization-aware training (edgekit finetune --qat, edgekit optimize --technique qat)",
        ]
    elif answer.leaf == "data first":
        lines += [
            f"edgekit advise {model} --target {question.hardware} --data {data}",
            f"at least {MINIMUM} rows of what the model will see, some hundred are better; labels are needed to judge by a metric",
        ]
    elif answer.leaf == "no float file":
        lines += [_convert_line(origin, question, scheme) for scheme in ("float16", "float32")]
    elif answer.leaf == "no integer-only file":
        lines += [
            "the inputs and outputs of a model that was trained quantization-aware stay in float: give the float model, with --data"
            if "int8" in origin.brings
            else _convert_line(origin, question, INTEGER_ONLY),
            without,
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
        lines.append(without)
    elif answer.leaf == "shrink":
        prune = f"edgekit prune {model} --dataset {data} --heads 0.5 --ffn 0.5 --out {origin.name}-pruned"
        lines += [prune] * (origin.kind == "checkpoint")
        lines += ["a narrower network, smaller inputs, or a microcontroller with more room"]
    return tuple(lines)


def _convert_line(origin: Origin, question: Question, name: str) -> str:
    """The command that makes one file as it was made here."""
    integer_only = name == INTEGER_ONLY
    scheme = "int8" if integer_only else name
    settings, usual = origin.settings, ConvertConfig()
    data, judged = origin.rows("data"), origin.rows("evaluation_data")
    needy = SCHEMES[scheme].needs_data and scheme not in origin.brings
    words = ["edgekit", "convert", origin.model, "--scheme", scheme]
    if integer_only:
        words.append("--integer-only")
        words += [word for end, dtype in zip(("inputs", "outputs"), origin.ends, strict=True) for word in (f"--{end}", dtype)]
    if needy or (data is not None and judged is None):
        words += ["--representative-data", data.origin if data else "rows.tsv"]
    if judged is not None:
        words += ["--evaluation-data", judged.origin]
    calibrated = "--representative-data" in words
    counts = ["representative_samples"] * calibrated + ["evaluation_samples"] * (calibrated or judged is not None)
    for key in (*counts, "task", "calibration", "bridge", "threads", "seed"):
        if settings.get(key) is not None and settings[key] != getattr(usual, key):
            words += [f"--{key.replace('_', '-')}", str(settings[key])]
    if origin.kind == "checkpoint" and settings.get("max_length"):
        words += ["--max-length", str(settings["max_length"])]
    for key in ("mean", "std"):
        if settings.get(key):
            words += [f"--{key}", ",".join(f"{value:g}" for value in settings[key])]
    if spec := data or judged:
        words += [word for column in spec.text_columns for word in ("--text-column", column)]
        words += [word for column in spec.label_columns for word in ("--label-column", column)]
    for tensor, shape in (settings.get("input_shapes") or {}).items():
        words += ["--input-shape", f"{tensor}={','.join(map(str, shape))}"]
    for tensor, values in (settings.get("input_values") or {}).items():
        words += ["--input-value", f"{tensor}={','.join(f'{value:g}' for value in values)}"]
    return shlex.join([*words, "--max-drop", f"{question.max_drop:g}"])


def _training(origin: Origin) -> list[str]:
    model, rows, out = shlex.quote(origin.model), origin.data, shlex.quote(f"{origin.name}-qat")
    if origin.kind == "checkpoint":
        convert_line = f"edgekit convert {out} --scheme int8 --representative-data {rows}"
        return [f"edgekit finetune --model {model} --dataset {rows} --qat --out {out}", convert_line]
    if "int8" in origin.brings:
        return ["train it further where it was trained quantization-aware"]
    if origin.kind == "keras":
        return [f"edgekit optimize {model} --technique qat --dataset {rows} --out {out}"]
    return [
        "train it quantization-aware where it was trained: edgekit optimize --technique qat takes a Keras-2 .h5, "
        "edgekit finetune --qat a checkpoint"
    ]


def _diagnose_line(origin: Origin) -> str:
    """The command that says which layers lose most, where the files are kept."""
    paths = {item.name: item.measurement.path for item in origin.candidates if item.measurement}
    wrong = paths.get(INTEGER_ONLY) or paths.get("int8")
    if not origin.kept or wrong is None or "float32" not in paths:
        return "give --out DIR, and then edgekit diagnose says which layers lose most"
    return shlex.join(["edgekit", "diagnose", wrong, "--against", paths["float32"]]) + f" --data {origin.data}"
