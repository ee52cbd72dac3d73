"""A folder that an Android engineer takes over, made from a .tflite alone."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgekit import __version__
from edgekit.data.images import Preprocessing, for_input
from edgekit.deploy.android.golden import Golden, golden
from edgekit.deploy.android.kotlin import Dtype, Tensor, identifier, literal, tensors
from edgekit.errors import ModelFormatError, OutputError
from edgekit.spec import Signature
from edgekit.stages.quantize.mediapipe import gives_probabilities
from edgekit.system import artifacts
from edgekit.tflite import flatbuffer, lengths, metadata, package
from edgekit.tflite.flatbuffer import ModelFile
from edgekit.tflite.metadata import ModelMetadata
from edgekit.tflite.op_versions import Requirements, requirements
from edgekit.workflows.assess import Data

# Releases on Google's Maven: the first LiteRT line with both APIs, its oldest Android, and what reads the files in a model.
LITERT, MIN_SDK = "2.1.4", 23
LITERT_METADATA = "1.4.2"
MEDIAPIPE, MEDIAPIPE_SDK = "0.10.29", 24
# LiteRT 2.1 was branched after TensorFlow Lite 2.20, so its kernels are at least those.
LITERT_HAS = (2, 20)
_MOST_LABELS_IN_CODE = 50
_TOKENS = ("input_ids", "attention_mask", "token_type_ids")
_GOLDEN, _SUMS, _README, _GRADLE, _LABELS = "golden.json", "SHA256SUMS", "README.md", "dependencies.gradle.kts", "labels.txt"
_COMPILED_INPUTS, _COMPILED_OUTPUTS = ("float32", "int32", "int8"), ("float32", "int32", "int8")


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


def bundle(
    file: Path, out: Path, data: Data | None = None, *, tokenizer: Path | None = None, seed: int = 0, overwrite: bool = False
) -> Bundle:
    """Write `out` with the model, Kotlin for its signature, Gradle lines, golden rows and checksums.

    `file` is run in a child for the golden rows, which come from `data` where that is given; `tokenizer` as in `golden`.
    Raises `ModelFormatError`, `UnsupportedOpError` for a file that the plain interpreter cannot run, `DatasetError` and
    `OutputError`.
    """
    artifacts.refuse_existing(out, overwrite=overwrite)
    content = flatbuffer.read(file)
    if content.external_files:
        listed = ", ".join(content.external_files)
        raise ModelFormatError(
            f"{file}: keeps constant data in {listed}, which an app's assets cannot follow; convert it to one file"
        )
    if not file.name.isprintable():
        raise ModelFormatError(f"{file.name!r}: an asset needs a name without control characters; rename the file")
    if out.is_dir() and out.resolve() in file.resolve().parents:
        raise OutputError(f"{out}: holds the file that is to be bundled; choose another --out")
    entry = content.entry()
    signature = content.signature(entry)
    described = _metadata(content)
    settings = package.settings(file)
    labels = _labels(file, signature, settings)
    digest = artifacts.sha256(file)
    context = _context(file, content, signature, settings, labels)
    context["golden"] = found = golden(file, digest, labels, data, seed, tokenizer)
    context["tolerance_note"] = _tolerance_note(found)
    context["description"] = _description(described, context)
    context |= _requirement(needs := requirements(content))
    context["mediapipe"] = mediapipe = _fits_mediapipe(content, described, context)
    name = context["name"]
    compiled = context["compiled"]
    context["kotlin_files"] = [
        f"{name}.kt",
        *([f"{name}Compiled.kt"] if compiled else []),
        *([f"{name}MediaPipe.kt"] if mediapipe else []),
    ]
    texts = {
        f"{name}.kt": "model.kt.j2",
        f"{name}Compiled.kt": "compiled.kt.j2" if compiled else "",
        f"{name}MediaPipe.kt": "mediapipe.kt.j2" if mediapipe else "",
        f"{name}GoldenTest.kt": "golden_test.kt.j2",
        _GRADLE: "dependencies.gradle.kts.j2",
        _README: "README.md.j2",
    }
    with artifacts.staged(out, overwrite=overwrite) as partial:
        partial.mkdir()
        shutil.copyfile(file, partial / file.name)
        if artifacts.sha256(partial / file.name) != digest:
            raise ModelFormatError(f"{file}: changed while it was bundled; run it again")
        for target, template in texts.items():
            if template:
                (partial / target).write_text(_render(template, context), encoding="utf-8")
        if context["labels_file"]:
            (partial / _LABELS).write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
        (partial / _GOLDEN).write_text(_lines(found), encoding="utf-8")
        names = sorted(item.name for item in partial.iterdir())
        sums = "".join(f"{artifacts.sha256(partial / item)}  {item}\n" for item in names)
        (partial / _SUMS).write_text(sums, encoding="utf-8")
    return Bundle(
        str(out),
        tuple(sorted([*names, _SUMS])),
        file.name,
        digest,
        content.size_bytes,
        found.source,
        len(found.cases),
        found.tolerance,
        mediapipe,
        needs,
    )


def _context(
    file: Path, content: ModelFile, signature: Signature, settings: Mapping[str, Any], labels: Sequence[str]
) -> dict[str, Any]:
    """What all templates are filled from."""
    entry = content.entry()
    inputs, outputs = tensors(signature.inputs, str(file)), tensors(signature.outputs, str(file))
    if not inputs or not outputs:
        raise ModelFormatError(f"{file}: has no inputs or no outputs; give a model that takes and gives tensors")
    kinds = {tensor.kind.array: tensor.kind for tensor in inputs}
    limit = ""
    if not entry.key:
        limit = "the file has no signature to find tensors by name"
    elif wrong := [item for item in inputs if item.dtype not in _COMPILED_INPUTS] + [
        item for item in outputs if item.dtype not in _COMPILED_OUTPUTS
    ]:
        limit = f"its TensorBuffer has no {wrong[0].dtype} in Kotlin"
    in_file = [name for name in (package.TOKENIZER, package.VOCABULARY) if name in metadata.associated_files(file)]
    text = None
    if _is_text(signature):
        text = {
            "length": inputs[0].shape[-1],
            "files": ", ".join(in_file),
            "segments": any(item.name == "token_type_ids" for item in inputs),
        }
    several = list(lengths.by_length(content)) if text else []
    many = len(labels) > _MOST_LABELS_IN_CODE
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
        "kinds": list(kinds.values()),
        "labels": list(labels),
        "labels_file": many,
        "label_list": "labels" if many else "LABELS",
        "activation": settings.get("activation") or ("none" if gives_probabilities(content) else "softmax"),
        "text": text,
        "image": _image(content, signature, settings, inputs[0]),
        "compiled": not limit,
        "compiled_limit": limit,
        "litert": LITERT,
        "litert_metadata": LITERT_METADATA,
        "min_sdk": MIN_SDK,
        "mediapipe_version": MEDIAPIPE,
        "mediapipe_sdk": MEDIAPIPE_SDK,
    }


def _is_text(signature: Signature) -> bool:
    names = set(signature.input_names)
    return "input_ids" in names and names <= set(_TOKENS) and all(len(spec.shape) == 2 for spec in signature.inputs)


def _image(content: ModelFile, signature: Signature, settings: Mapping[str, Any], tensor: Tensor) -> dict[str, Any] | None:
    """How a bitmap becomes the input, where that is known; `unit` means pixels as they are."""
    told = metadata.normalization(content.model_metadata) if content.model_metadata else (None, None)
    mean, std = (settings.get(name) or value for name, value in zip(("mean", "std"), told, strict=True))
    if (
        len(signature.inputs) != 1
        or len(tensor.shape) != 4
        or tensor.shape[0] != 1
        or tensor.shape[3] not in (1, 3)
        or not mean
        or not std
    ):
        return None
    if tensor.dtype not in ("float32", "int8", "uint8", "int16"):
        return None
    _, height, width, channels = tensor.shape
    how = for_input(signature.inputs[0], Preprocessing(tuple(mean), tuple(std)))
    means, stds = (tuple(values) * channels if len(values) == 1 else tuple(values) for values in (how.mean, how.std))
    pixels = tensor.dtype == "uint8" and tensor.scale is not None and means == (float(tensor.zero_point),) * channels
    unit = pixels and all(abs(value * (tensor.scale or 0.0) - 1) < 1e-6 for value in stds)
    bits = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-(2**15), 2**15 - 1)}.get(tensor.dtype, (0, 0))
    words = "pixels as they are, 0 to 255" if unit else f"(pixel - {_numbers(means)}) / {_numbers(stds)}"
    return {
        "width": width,
        "height": height,
        "channels": channels,
        "crop": bool(settings.get("crop", how.crop)),
        "unit": unit,
        "mean": ", ".join(f"{value!r}f" for value in map(float, means)),
        "std": ", ".join(f"{value!r}f" for value in map(float, stds)),
        "least": bits[0],
        "most": bits[1],
        "words": f"{'grey' if channels == 1 else 'RGB'}, {words}",
    }


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in dict.fromkeys(values))


def _labels(file: Path, signature: Signature, settings: Mapping[str, Any]) -> list[str]:
    """Labels that travel in the file, where its first output has a score for each. Raises `ModelFormatError` if it has not."""
    labels = [" ".join(str(label).split()) for label in settings.get("labels", ())]
    if not labels:
        content = package.read_files(file, (package.LABELS,)).get(package.LABELS, b"")
        labels = content.decode(errors="replace").splitlines()
    shape = signature.outputs[0].shape if signature.outputs else ()
    if labels and (len(shape) != 2 or shape[0] not in (1, -1) or shape[1] != len(labels)):
        raise ModelFormatError(
            f"{file}: names {len(labels)} labels but its first output has shape {list(shape)}; convert it with the right labels"
        )
    if len(set(labels)) < len(labels):
        labels = [f"{number} {label}" if labels.count(label) > 1 else label for number, label in enumerate(labels)]
    return labels


def _metadata(content: ModelFile) -> ModelMetadata | None:
    """Raises `ModelFormatError` if it is there and damaged."""
    if not content.model_metadata:
        return None
    try:
        return metadata.parse(content.model_metadata)
    except ModelFormatError as error:
        raise ModelFormatError(f"{content.path}: {error}; convert or download it again") from None


def _description(described: ModelMetadata | None, context: Mapping[str, Any]) -> str:
    if described is not None and described.description:
        return " ".join(described.description.split()).rstrip(".") + "."
    return "A text model." if context["text"] else "A model without a description of its own."


def _fits_mediapipe(content: ModelFile, described: ModelMetadata | None, context: Mapping[str, Any]) -> bool:
    """Whether TextClassifier or ImageClassifier load it as it is, by what `convert --mediapipe` puts in."""
    if described is None or len(content.subgraphs) != 1 or not context["labels"] or not gives_probabilities(content):
        return False
    inputs, outputs = context["inputs"], context["outputs"]
    if outputs[0].dtype not in ("float32", "uint8"):
        return False
    if context["text"]:
        return described.vocabulary is not None and [item.dtype for item in inputs] == ["int32"] * 3
    one = context["image"] is not None and inputs[0].dtype in ("float32", "uint8")
    return one and bool(described.inputs) and described.inputs[0].color_space == metadata.RGB


def _requirement(needs: Requirements) -> dict[str, Any]:
    """The README's words on the runtime."""
    releases: dict[str, list[str]] = {}
    for release, name in dict.fromkeys((op.runtime, f"{op.name} {op.needed}") for op in needs.ops if op.runtime):
        releases.setdefault(release, []).append(name)
    remarks = []
    if low := sorted({f"{op.name} ({op.stated}, needs {op.needed})" for op in needs.ops if op.stated < op.needed}):
        remarks.append(
            f"The file states lower versions than its tensors need for {', '.join(low)}: "
            "a runtime that is too old may load it all the same and give wrong results: run the golden test."
        )
    if needs.unknown:
        remarks.append(f"Not known since when: {', '.join(needs.unknown)}. The golden test tells whether a runtime has them.")
    remarks.append(f"Custom ops: {', '.join(needs.custom) or 'none'}. Flex ops: {', '.join(needs.flex) or 'none'}.")
    if not needs.minimum:
        return {"requirement": "No op of this file is in edgekit's table of versions.", "releases": (), "remarks": remarks}
    enough = tuple(int(part) for part in needs.minimum.split(".")) <= LITERT_HAS
    said = (
        f"LiteRT {LITERT} of the Gradle lines has them all"
        if enough
        else f"that may be newer than LiteRT {LITERT} of the Gradle lines"
    )
    words = f"TensorFlow Lite {needs.minimum} or later; {said}. Op versions used, and the first release with each:"
    return {"requirement": words, "releases": [(release, ", ".join(ops)) for release, ops in releases.items()], "remarks": remarks}


def _tolerance_note(found: Golden) -> str:
    gaps = [value for value in found.kernel_difference.values() if value is not None]
    if not gaps:
        return "The runtime's own kernels do not run this file, so there was nothing to compare XNNPACK's with."
    differ = f"XNNPACK's kernels and the runtime's own differ by up to {max(gaps):.2g} on these rows"
    return f"{differ}; twice that is allowed, or the rounding of the output's dtype."


def _lines(found: Golden) -> str:
    """JSON with a line for each row: indented, a number would take one."""
    head = json.dumps(artifacts.to_jsonable(replace(found, cases=())), ensure_ascii=False)
    rows = [json.dumps(artifacts.to_jsonable(case), ensure_ascii=False) for case in found.cases]
    return head.removesuffix("[]}") + "[\n" + ",\n".join(rows) + "\n]}\n"


def _render(template: str, context: Mapping[str, Any]) -> str:
    from jinja2 import Environment, StrictUndefined

    # Kotlin and Markdown, not HTML: what comes from the file is quoted by `literal` where it is code.
    environment = Environment(autoescape=False, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "literal": literal,
        "parameters": lambda items: ", ".join(f"{item.variable}: {item.kind.array}" for item in items),
        "arguments": _arguments,
        "scale": lambda item: f", real = (stored - {item.zero_point}) * {item.scale!r}" if item.scale else "",
        "real": _real,
        "read": _read,
        "from_json": _from_json,
        "lower_first": lambda text: text[0].lower() + text[1:],
        "thousands": lambda number: f"{number:,}",
    }
    source = files("edgekit.deploy.android").joinpath(template).read_text(encoding="utf-8")
    return environment.from_string(source).render(context).rstrip("\n") + "\n"


def _arguments(items: Sequence[Tensor], several: Sequence[int]) -> str:
    """Each input of a golden row; with several lengths it is listed whole, whatever its length is."""

    def argument(item: Tensor) -> str:
        values = f"values(case, {literal(item.name)})"
        return f"{item.kind.array[0].lower()}{item.kind.array[1:]}({values}, {f'{values}.length()' if several else item.size})"

    return ", ".join(map(argument, items))


def _read(item: Tensor) -> str:
    place = "it" if item.kind.bytes == 1 else f"{item.kind.bytes} * it"
    return _real(item, f"{item.variable}Out.{item.kind.get}({place})")


def _real(item: Tensor, value: str) -> str:
    """The real value of a stored one, in Kotlin."""
    if item.dtype == "float32":
        return value
    number = f"({value}.toInt() and 0xff)" if item.kind.unsigned else value
    return f"({number} - {item.zero_point}) * {item.scale!r}f" if item.scale else f"{number}.toFloat()"


def _from_json(kind: Dtype) -> str:
    value = "values.{}(it % values.length())"
    if kind.array == "FloatArray":
        return value.format("getDouble") + ".toFloat()"
    if kind.array == "LongArray":
        return value.format("getLong")
    return value.format("getInt") + {"ShortArray": ".toShort()", "ByteArray": ".toByte()"}.get(kind.array, "")
