"""A folder that an Android engineer takes over, made from a .tflite alone."""

import html
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgekit import __version__
from edgekit.data.encode import is_image, is_text
from edgekit.data.images import Preprocessing, for_input
from edgekit.deploy.android.golden import Golden, golden, per_token
from edgekit.deploy.android.kotlin import Tensor, identifier, literal, tensors
from edgekit.errors import ModelFormatError, UnsupportedOpError, about
from edgekit.spec import DataSpec, Signature
from edgekit.stages.quantize.mediapipe import gives_probabilities
from edgekit.system import artifacts
from edgekit.system.serial import plain
from edgekit.tasks.base import Settings, Task
from edgekit.tflite import flatbuffer, lengths, metadata, package
from edgekit.tflite.batches import largest
from edgekit.tflite.flatbuffer import ModelFile
from edgekit.tflite.metadata import ModelMetadata
from edgekit.tflite.op_versions import Requirements, requirements
from edgekit.workflows.inputs import read_task

# Releases on Google's Maven: the first LiteRT line with both APIs, its oldest Android, and what reads the files in a model.
RELEASES = {"litert": "2.1.4", "min_sdk": 23, "litert_metadata": "1.4.2", "mediapipe_version": "0.10.29", "mediapipe_sdk": 24}
# LiteRT 2.1 was branched after TensorFlow Lite 2.20, so its kernels are at least those.
LITERT_HAS = (2, 20)
_MOST_LABELS_IN_CODE = 50
_GOLDEN, _SUMS, _README, _GRADLE, _LABELS = "golden.json", "SHA256SUMS", "README.md", "dependencies.gradle.kts", "labels.txt"
_COMPILED = ("float32", "int32", "int8")


@dataclass(frozen=True)
class Bundle:
    """What was written: the folder and its files, what the golden rows are, and what a runtime has to have."""

    path: str
    files: tuple[str, ...]
    model: str
    sha256: str
    size_bytes: int
    source: str
    rows: int
    tolerance: Mapping[str, float]
    mediapipe: bool
    requirements: Requirements


@dataclass(frozen=True)
class BundleConfig:
    """`data` gives the golden rows, drawn with `seed`; `tokenizer` is the folder of one, where the file has none."""

    data: DataSpec | None = None
    tokenizer: Path | None = None
    seed: int = 0


def bundle(model: str | Path, out: str | Path, config: BundleConfig = BundleConfig(), *, overwrite: bool = False) -> Bundle:
    """Write `out` with the .tflite `model`, Kotlin for its signature, Gradle lines, golden rows and checksums.

    The file is run in a child for the golden rows. Raises `ModelFormatError`, `UnsupportedOpError` for a file that the plain
    interpreter cannot run, `DatasetError` and `OutputError`."""
    file, out = Path(model), Path(out)
    artifacts.refuse_source(out, file, "the file that is to be bundled")
    artifacts.refuse_existing(out, overwrite=overwrite)
    content = flatbuffer.read(file)
    if content.external_files:
        listed = ", ".join(content.external_files)
        raise ModelFormatError(
            f"{file}: keeps constant data in {listed}, which an app's assets cannot follow; convert it to one file"
        )
    if not file.name.isprintable():
        raise ModelFormatError(f"{file.name!r}: an asset needs a name without control characters; rename the file")
    signature = content.signature(content.entry())
    task, settings = read_task(content)
    if task.columns.choices:
        raise UnsupportedOpError(
            f"{file}: task {task.name}: a bundle's rows are one input each, and an answer compares several; use edgekit predict"
        )
    if signature.batch > 1:
        raise UnsupportedOpError(
            f"{file}: takes {signature.batch} texts at once, and a bundle's code gives it one; convert with --batch-size "
            f"1,{largest(content)}, or without it"
        )
    with about(file):
        described = metadata.parse(content.model_metadata) if content.model_metadata else None
    digest = artifacts.sha256(file)
    context = _context(file, content, signature, task, settings)
    context["golden"] = rows = golden(file, digest, task, settings, config.data, config.seed, config.tokenizer)
    text = described.description if described is not None and described.description else f"{task.describe(settings).what}."
    context["description"] = " ".join(text.split()).rstrip(".") + "."
    context["needs"] = needs = requirements(content)
    releases: dict[str, list[str]] = {}
    for release, op in dict.fromkeys((op.runtime, f"{op.name} {op.needed}") for op in needs.ops if op.runtime):
        releases.setdefault(release, []).append(op)
    low = sorted({f"{op.name} ({op.stated}, needs {op.needed})" for op in needs.ops if op.stated < op.needed})
    enough = tuple(int(part) for part in (needs.minimum or "0").split(".")) <= LITERT_HAS
    context |= {"releases": releases, "stated_too_low": low, "litert_has_all": enough}
    context["mediapipe"] = mediapipe = _fits_mediapipe(content, described, context)
    name = context["name"]
    texts = {f"{name}.kt": "model.kt.j2"}
    if context["compiled"]:
        texts[f"{name}Compiled.kt"] = "compiled.kt.j2"
    if mediapipe:
        texts[f"{name}MediaPipe.kt"] = "mediapipe.kt.j2"
    context["kotlin_files"] = list(texts)
    texts |= {f"{name}GoldenTest.kt": "golden_test.kt.j2", _GRADLE: "dependencies.gradle.kts.j2", _README: "README.md.j2"}
    with artifacts.staged(out, overwrite=overwrite) as partial:
        partial.mkdir()
        shutil.copyfile(file, partial / file.name)
        if artifacts.sha256(partial / file.name) != digest:
            raise ModelFormatError(f"{file}: changed while it was bundled; run it again")
        for target, template in texts.items():
            (partial / target).write_text(_render(template, context), encoding="utf-8")
        if context["labels_file"]:
            (partial / _LABELS).write_text("".join(f"{label}\n" for label in context["labels"]), encoding="utf-8")
        (partial / _GOLDEN).write_text(_lines(rows), encoding="utf-8")
        names = sorted(item.name for item in partial.iterdir())
        sums = "".join(f"{artifacts.sha256(partial / item)}  {item}\n" for item in names)
        (partial / _SUMS).write_text(sums, encoding="utf-8")
    written, size = tuple(sorted([*names, _SUMS])), content.size_bytes
    return Bundle(str(out), written, file.name, digest, size, rows.source, len(rows.cases), rows.tolerance, mediapipe, needs)


def _context(file: Path, content: ModelFile, signature: Signature, task: Task, settings: Settings) -> dict[str, Any]:
    entry = content.entry()
    inputs, outputs = tensors(signature.inputs, str(file)), tensors(signature.outputs, str(file))
    if not inputs or not outputs:
        raise ModelFormatError(f"{file}: has no inputs or no outputs; give a model that takes and gives tensors")
    limit = ""
    if not entry.key:
        limit = "the file has no signature to find tensors by name"
    elif wrong := [item for item in (*inputs, *outputs) if item.dtype not in _COMPILED]:
        limit = f"its TensorBuffer has no {wrong[0].dtype} in Kotlin"
    in_file = [name for name in (package.TOKENIZER, package.VOCABULARY) if name in metadata.associated_files(file)]
    text = None
    if is_text(signature.inputs):
        segments = "token_type_ids" in signature.input_names
        text = {"length": inputs[0].shape[-1], "files": ", ".join(in_file), "segments": segments}
    several = list(lengths.by_length(content)) if text else []
    labels = [" ".join(label.split()) for label in settings["labels"]]
    labels = labels if outputs[0].shape[-1:] == (len(labels),) else []
    many = len(labels) > _MOST_LABELS_IN_CODE
    words = task.describe(settings).outputs
    meanings = {
        item.name: (words.get(item.name) or (words.get("", ("", "")) if item is outputs[0] else ("", "")))[1] for item in outputs
    }
    return {
        "version": __version__,
        "file": file.name,
        "size_bytes": content.size_bytes,
        "name": identifier(file.stem, upper=True),
        "signature": entry.key,
        "other_signatures": ", ".join(item.key for item in content.entries if item.key != entry.key),
        "lengths": several,
        "inputs": inputs,
        "outputs": outputs,
        "meanings": meanings,
        "per_token": {spec.name: per_token(content, spec) for spec in signature.outputs},
        "kinds": list({item.kind.array: item.kind for item in inputs}.values()),
        "labels": labels,
        "classifies": bool(labels) and outputs[0].size == len(labels),
        "labels_file": many,
        "label_list": "labels" if many else "LABELS",
        "activation": settings.get("activation", "none"),
        "text": text,
        "image": _image(signature, settings, inputs[0]),
        "compiled": not limit,
        "compiled_limit": limit,
        **RELEASES,
    }


def _image(signature: Signature, settings: Settings, tensor: Tensor) -> dict[str, Any] | None:
    """How a bitmap becomes the input, where that is known; `unit` means pixels as they are."""
    mean, std = settings.get("mean"), settings.get("std")
    bounds = {"float32": (0, 0), "int8": (-128, 127), "uint8": (0, 255), "int16": (-(2**15), 2**15 - 1)}.get(tensor.dtype)
    if not is_image(signature.inputs) or tensor.shape[0] != 1 or not mean or not std or bounds is None:
        return None
    _, height, width, channels = tensor.shape
    how = for_input(signature.inputs[0], Preprocessing(tuple(mean), tuple(std)))
    means, stds = (tuple(values) * channels if len(values) == 1 else tuple(values) for values in (how.mean, how.std))
    pixels = tensor.dtype == "uint8" and tensor.scale is not None and means == (float(tensor.zero_point),) * channels
    unit = pixels and all(abs(value * (tensor.scale or 0.0) - 1) < 1e-6 for value in stds)
    return {
        "width": width,
        "height": height,
        "channels": channels,
        "crop": bool(settings.get("crop", how.crop)),
        "unit": unit,
        "mean": [*map(float, means)],
        "std": [*map(float, stds)],
        "least": bounds[0],
        "most": bounds[1],
    }


def _fits_mediapipe(content: ModelFile, described: ModelMetadata | None, context: Mapping[str, Any]) -> bool:
    """Whether TextClassifier or ImageClassifier load it as it is, by what `convert --mediapipe` puts in."""
    if described is None or len(content.subgraphs) != 1 or not context["classifies"] or not gives_probabilities(content):
        return False
    inputs, outputs = context["inputs"], context["outputs"]
    if len(outputs) > 1 or outputs[0].dtype not in ("float32", "uint8"):
        return False
    if context["text"]:
        return described.vocabulary is not None and [item.dtype for item in inputs] == ["int32"] * 3
    one = context["image"] is not None and inputs[0].dtype in ("float32", "uint8")
    return one and bool(described.inputs) and described.inputs[0].color_space == metadata.RGB


def _lines(found: Golden) -> str:
    """JSON with a line for each row: indented, a number would take one."""
    head = json.dumps(plain(replace(found, cases=())), ensure_ascii=False)
    rows = [json.dumps(plain(case), ensure_ascii=False) for case in found.cases]
    return head.removesuffix("[]}") + "[\n" + ",\n".join(rows) + "\n]}\n"


def _render(template: str, context: Mapping[str, Any]) -> str:
    from jinja2 import Environment, StrictUndefined

    # What comes from the file is quoted by `literal` where it is code; in Markdown it must not become HTML.
    shown = _in_markdown if template.startswith(_README) else None
    environment = Environment(autoescape=False, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=shown)
    environment.filters |= {
        "literal": literal,
        "parameters": lambda items: ", ".join(f"{item.variable}: {item.kind.array}" for item in items),
        "scale": lambda item: f", real = (stored - {item.zero_point}) * {item.scale!r}" if item.scale else "",
        "real": _real,
        "numbers": lambda values: ", ".join(f"{value:g}" for value in dict.fromkeys(values)),
        "lower_first": lambda text: text[0].lower() + text[1:],
        # Words of the file outside of code, where Markdown's own signs would make links and headings.
        "words": lambda text: re.sub(r"([\\*_{}\[\]#|!])", r"\\\1", text),
        "thousands": lambda number: f"{number:,}",
    }
    source = files("edgekit.deploy.android").joinpath(template).read_text(encoding="utf-8")
    return environment.from_string(source).render(context).rstrip("\n") + "\n"


def _in_markdown(value: Any) -> Any:
    return html.escape(value, quote=False).replace("`", "'") if isinstance(value, str) else value


def _real(item: Tensor, value: str) -> str:
    """The real value of a stored one, in Kotlin."""
    if item.dtype == "float32":
        return value
    number = f"({value}.toInt() and 0xff)" if item.kind.unsigned else value
    return f"({number} - {item.zero_point}) * {item.scale!r}f" if item.scale else f"{number}.toFloat()"
