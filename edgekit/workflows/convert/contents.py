"""What travels inside a published .tflite: metadata, labels, tokenizer and settings, so that the file alone can be used.

`edgekit predict` reads `SETTINGS` and `TOKENIZER`; MediaPipe Tasks reads the metadata, `LABELS` and `VOCABULARY`."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit import __version__
from edgekit.data.encode import is_image
from edgekit.data.images import Preprocessing
from edgekit.data.sources import ImageRows, Rows
from edgekit.data.text import open_tokenizer, serialized
from edgekit.errors import ConfigError, DatasetError, ModelFormatError
from edgekit.models.checkpoint import Checkpoint
from edgekit.models.sentence_head import MODULES
from edgekit.models.source import Kind, Source
from edgekit.spec import Signature, TensorSpec
from edgekit.stages.quantize import mediapipe
from edgekit.system.serial import parse_json
from edgekit.tasks.base import Description, Settings, Task
from edgekit.tasks.generic import GENERIC
from edgekit.tasks.recognition import recognise
from edgekit.tflite import flatbuffer, metadata, package
from edgekit.tflite.metadata import AssociatedFile, ModelMetadata, TensorMetadata
from edgekit.tflite.package import LABELS, SETTINGS, TOKENIZER, VOCABULARY
from edgekit.workflows.inputs import classes_of

# What MediaPipe has a task of its own for, where each row has one class or several labels.
_MEDIAPIPE_TASKS = ("text-classification", "image-classification")
# Names that MediaPipe's TextClassifier finds the inputs by.
_MEDIAPIPE_INPUTS = {
    "input_ids": ("ids", "Ids of the tokens, padded to the input's length."),
    "attention_mask": ("mask", "1 for each token, 0 for padding."),
    mediapipe.SEGMENTS: ("segment_ids", "0 for the first text and for padding, 1 for the second text of a pair."),
}
_SINGLE = "Made for single texts, since no data was given; if the model judges pairs of texts, convert it again with rows of pairs."
_PLAIN = "It has no modules.json: the mean of its tokens is taken for the text's vector, as it is, as sentence-transformers does."
_UNREAD = "Any values: the model is for single texts and does not read them."
_FILES = {
    SETTINGS: AssociatedFile(SETTINGS, "Settings of this model, as edgekit predict reads them."),
    TOKENIZER: AssociatedFile(TOKENIZER, "The whole tokenizer, for the Hugging Face tokenizers library."),
    LABELS: AssociatedFile(LABELS, "Names of the classes, one a line, in the order of the output.", metadata.AXIS_LABELS),
    VOCABULARY: AssociatedFile(VOCABULARY, "Word pieces, one a line; the line's number from 0 is the id.", metadata.VOCABULARY),
}


@dataclass(frozen=True)
class Package:
    """What all files of one conversion carry. `limits` says why MediaPipe cannot run them, empty if it can.

    `settings` are the task's and how rows are encoded; they become `SETTINGS`, which names the `task` too."""

    task: Task
    name: str
    settings: Mapping[str, Any]
    files: Mapping[str, bytes]
    for_mediapipe: bool = False
    score_threshold: float | None = None
    limits: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    author: str = ""
    license: str = ""

    def write(self, model: Path, target: Path, scheme: str) -> None:
        """The model at `model`, with all that it needs, as `target`. Raises `ConfigError` and `ModelFormatError`."""
        content: bytes | memoryview = flatbuffer.mapped(model)
        # A file whose task nobody knows says none: rows with labels may still tell it.
        named = {"task": self.task.name} if self.task is not GENERIC else {}
        settings = {"edgekit": __version__, **named, **self.settings}
        file = flatbuffer.parse(content, str(model))
        had_segments = mediapipe.SEGMENTS in file.entry().inputs
        if self.for_mediapipe:
            narrow = file.signature(file.entry()).outputs[0].dtype == "uint8"
            adding = settings["activation"] if settings["activation"] in mediapipe.ACTIVATIONS and not narrow else None
            segments = self.task.modality == "text"
            content = mediapipe.adapt(bytes(content), origin=self.name, segments=segments, activation=adding)
            settings["activation"] = "none" if adding else settings["activation"]
            file = flatbuffer.parse(content, str(model))
        files = {SETTINGS: _json(settings), **self.files}
        described = self._describe(file, settings, files, scheme, had_segments=had_segments)
        package.attach(content, target, package.build(described), files, origin=str(model))

    def _describe(
        self, file: flatbuffer.ModelFile, settings: Settings, files: Mapping[str, bytes], scheme: str, *, had_segments: bool
    ) -> ModelMetadata:
        entry = file.entry()
        graph = file.subgraphs[entry.subgraph]

        def specs(listed: Sequence[int], places: Mapping[str, int]) -> list[TensorSpec]:
            names = {index: name for name, index in places.items()}
            return [graph.tensors[index].spec(names.get(index, "")) for index in listed]

        inputs, outputs = specs(graph.inputs, entry.inputs), specs(graph.outputs, entry.outputs)
        first = next(iter(entry.outputs), "")
        probable = "activation" in settings and mediapipe.gives_probabilities(file)
        described = self.task.describe({**settings, "activation": "none"} if probable else settings)
        return ModelMetadata(
            name=self.name,
            description=f"{described.what}, {scheme}, made and measured by edgekit {__version__}.",
            author=self.author,
            license=self.license,
            inputs=tuple(self._input(spec, settings, had_segments=had_segments) for spec in inputs),
            outputs=tuple(self._output(spec.name, described, files, is_first=spec.name == first) for spec in outputs),
            vocabulary=_FILES[VOCABULARY] if VOCABULARY in files and not self.limits else None,
            files=tuple(_FILES[name] for name in files if name in (SETTINGS, TOKENIZER)),
        )

    def _input(self, spec: TensorSpec, settings: Mapping[str, Any], *, had_segments: bool) -> TensorMetadata:
        if self.task.modality == "text":
            name, description = _MEDIAPIPE_INPUTS.get(spec.name, (spec.name, ""))
            return TensorMetadata(name, _UNREAD if spec.name == mediapipe.SEGMENTS and not had_segments else description)
        if "mean" not in settings:
            return TensorMetadata(spec.name)
        grey = spec.shape[3] == 1
        return TensorMetadata(
            spec.name,
            f"{'Grey' if grey else 'RGB'} image of {spec.shape[2]} x {spec.shape[1]} pixels.",
            mean=tuple(settings["mean"]),
            std=tuple(settings["std"]),
            color_space=metadata.GREY if grey else metadata.RGB,
        )

    def _output(self, name: str, described: Description, files: Mapping[str, bytes], *, is_first: bool) -> TensorMetadata:
        title, text = described.outputs.get(name) or (described.outputs.get("", (name, "")) if is_first else (name, ""))
        labels = (_FILES[LABELS],) if is_first and LABELS in files else ()
        return TensorMetadata(title, text, files=labels, score_threshold=self.score_threshold if is_first else None)


@dataclass(frozen=True)
class Carried:
    """The metadata and files of a source that is a .tflite itself: they go on as they are."""

    described: bytes
    files: Mapping[str, bytes]
    notes: tuple[str, ...] = ()

    def write(self, model: Path, target: Path, scheme: str) -> None:
        package.attach(flatbuffer.mapped(model), target, self.described, self.files, origin=str(model))


def of_source(
    source: Source, float_model: Path, rows: Rows | None, task: Task, settings: Settings, config: Any
) -> Package | Carried | None:
    """What the files made of `source` carry; `config` is a `ConvertConfig`. None where nothing is known that helps.

    Raises `ConfigError` if `config` asks for what this model cannot have, `DatasetError` for labels that do not fit it."""
    file = flatbuffer.read(float_model)
    signature = file.signature(file.entry())
    if source.checkpoint is not None:
        if config.labels is not None:
            raise ConfigError(f"{source.name}: has its labels in config.json; leave --labels out")
        return _of_checkpoint(source.name, source.checkpoint, rows, config, signature)
    asked = config.mediapipe or config.labels is not None or config.score_threshold is not None
    if source.kind is Kind.TFLITE and not asked:
        return _carried(source.path)
    image = is_image(signature.inputs)
    classes = signature.outputs[0].shape[-1] if signature.outputs and len(signature.outputs[0].shape) == 2 else 0
    if asked and image and classes > 0 and task.name not in _MEDIAPIPE_TASKS:
        task, settings = recognise(settings, signature.outputs, None, "image-classification")
    if asked and (task.name != "image-classification" or not image or classes < 1):
        raise ConfigError(
            f"{source.name}: is no image classifier; leave --mediapipe, --labels and --score-threshold out, "
            "or give the checkpoint of a text classifier"
        )
    moved = settings.get("channels_first", ())
    if task is GENERIC and not (image and (config.mean or config.std)) and not moved:
        return None
    labels = list(settings.get("labels", ()))
    if image and task.name == "image-classification":
        labels = _labels(config.labels, rows.class_names if isinstance(rows, ImageRows) else None, classes) or labels
    settings = {**settings, "labels": labels} if labels else dict(settings)
    if "activation" in settings and mediapipe.gives_probabilities(file):
        settings["activation"] = "none"
    notes = []
    if moved:
        shapes = {spec.name: spec.shape for spec in signature.inputs}
        listed = ", ".join(f"{name} {shapes[name]}" for name in moved)
        notes.append(f"The files take channels last ({listed}); rows with channels first, as the source has them, are transposed.")
    # Arrays went in as they are, whatever they were made of.
    if image and (config.mediapipe or isinstance(rows, ImageRows) or config.mean or config.std or "mean" in settings):
        usual = Preprocessing()
        mean, std = config.mean or settings.get("mean") or usual.mean, config.std or settings.get("std") or usual.std
        settings |= {"mean": mean, "std": std, "crop": usual.crop}
        if config.mediapipe:
            notes.append("MediaPipe stretches an image to the model's size, edgekit evaluate and predict crop its centre.")
            if len(set(mean)) > 1 or len(set(std)) > 1:
                notes.append("MediaPipe normalizes all channels alike, this model's differ: give it --inputs uint8.")
    files = _labels_file(settings, signature)
    return Package(task, source.name, settings, files, config.mediapipe, config.score_threshold, notes=tuple(notes))


def _carried(path: Path) -> Carried | None:
    """Nothing where it is damaged: the model is sound all the same, and `inspect` tells of it."""
    try:
        if described := flatbuffer.read(path).model_metadata:
            metadata.parse(described)
            return Carried(described, package.read_files(path))
    except ModelFormatError:
        pass
    return None


def _of_checkpoint(name: str, checkpoint: Checkpoint, rows: Rows | None, config: Any, signature: Signature) -> Package:
    task, inputs = checkpoint.task, signature.input_names
    pairs = mediapipe.SEGMENTS in inputs or task.columns.pairs
    encoder = open_tokenizer(checkpoint.tokenizer, config.max_length, pair=pairs)
    text = parse_json(serialized(encoder))
    settings = {
        **checkpoint.settings,
        "max_length": config.max_length,
        "pairs": pairs,
        "lower_case": lower_cases(text.get("normalizer")),
        "special_token_ids": {token["content"]: token["id"] for token in text.get("added_tokens", []) if token.get("special")},
    }
    if config.score_threshold is not None and "threshold" in settings:
        settings["threshold"] = config.score_threshold
    classifies = task.name in _MEDIAPIPE_TASKS and settings["problem"] != "regression" and len(signature.outputs) == 1
    one_output = ["MediaPipe's TextClassifier takes classifiers of one output"]
    limits = mediapipe_limits(encoder, text, settings, inputs) if classifies else one_output
    limits = [*limits, *(["they take several texts at once"] if config.batch > 1 else [])]
    notes = [_PLAIN] if checkpoint.sentence_head is not None and not (checkpoint.path / MODULES).is_file() else []
    if limits and (classifies or config.mediapipe):
        notes.append(f"MediaPipe's TextClassifier cannot run these files: {'; '.join(limits)}. edgekit predict can.")
    elif config.mediapipe:
        notes.append("MediaPipe lower-cases ASCII alone and keeps accents: texts with accents get other ids there.")
    compares = any(len(group) == 2 for group in task.columns.texts) and not task.headless
    if not pairs and rows is None and compares and (checkpoint.config.get("type_vocab_size") or 0) > 1:
        notes.append(_SINGLE)
    files = {TOKENIZER: _json(text), **_labels_file(settings, signature)}
    if (text.get("model") or {}).get("type") == "WordPiece":
        files[VOCABULARY] = vocabulary(encoder)
    adapted = config.mediapipe and not limits
    return Package(task, name, settings, files, adapted, config.score_threshold, tuple(limits), tuple(notes), **card(checkpoint))


def mediapipe_limits(encoder: Any, text: Mapping[str, Any], settings: Settings, inputs: Sequence[str]) -> list[str]:
    """Why MediaPipe's TextClassifier, whose tokenizer is that of lower-casing BERT, gives other ids than `encoder`."""
    model, padding = text.get("model") or {}, encoder.padding
    if model.get("type") != "WordPiece":
        return [f"its tokenizer is {model.get('type')}, MediaPipe's is WordPiece"]
    marks = model.get("continuing_subword_prefix"), model.get("unk_token")
    limits = {
        "its word pieces are not marked with ## and [UNK]": marks != ("##", "[UNK]"),
        "its texts are not put between [CLS] and [SEP]": encoder.encode("").tokens[:2] != ["[CLS]", "[SEP]"],
        "it does not pad with id 0 on the right": (padding["pad_id"], padding["direction"]) != (0, "right"),
        "its tokenizer keeps upper case, MediaPipe's does not": not settings["lower_case"],
        f"its inputs are {', '.join(inputs)}": not {"input_ids", "attention_mask"} <= {*inputs},
    }
    return [limit for limit, holds in limits.items() if holds]


def lower_cases(normalizer: Mapping[str, Any] | None) -> bool:
    """Whether a tokenizer.json's normalizer turns text into lower case."""
    if not normalizer:
        return False
    if normalizer.get("type") == "Sequence":
        return any(lower_cases(part) for part in normalizer.get("normalizers", ()))
    return normalizer.get("type") == "Lowercase" or bool(normalizer.get("lowercase"))


def vocabulary(encoder: Any) -> bytes:
    """vocab.txt: the piece with id n on line n from 0; an id that no piece has gets a line that no text matches."""
    by_id = {number: piece for piece, number in encoder.get_vocab(with_added_tokens=True).items()}
    return _lines([by_id.get(number, f"[no piece {number}]") for number in range(max(by_id) + 1)])


def card(checkpoint: Checkpoint) -> dict[str, str]:
    """Author and licence, where the checkpoint's README.md says them in its front matter, or its config.json."""
    readme = checkpoint.path / "README.md"
    parts = readme.read_text(encoding="utf-8", errors="replace").split("---", 2) if readme.is_file() else []
    front = parts[1] if len(parts) == 3 and not parts[0].strip() else ""
    values = {name: checkpoint.config.get(name) for name in ("author", "license")}
    lines = re.findall(r"^(author|license):[ \t]*(\S.*)$", front, re.MULTILINE)
    values |= {name: value.strip().strip("\"'") for name, value in lines}
    return {name: value for name, value in values.items() if isinstance(value, str) and value}


def _labels(listing: Path | None, names: tuple[str, ...] | None, classes: int) -> list[str]:
    """The file's lines, else the data set's names; ImageNet heads of one class more have background in front."""
    labels = list(names or ())
    if listing is not None:
        try:
            labels = [line.strip() for line in listing.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise DatasetError(f"{listing}: cannot be read as labels ({error}); give a text file with one label a line") from None
    if labels and len(labels) == classes - 1:
        labels = ["background", *labels]
    if len(labels) == classes:
        return labels
    if listing is not None:
        raise DatasetError(
            f"{listing}: names {len(labels)} labels, the model gives {classes} scores; give the labels of this model"
        )
    return []


def _labels_file(settings: Settings, signature: Signature) -> dict[str, bytes]:
    """labels.txt where the labels are the classes of the first output."""
    labels = list(settings.get("labels", ()))
    return {LABELS: _lines(labels)} if labels and classes_of(signature.outputs) == len(labels) else {}


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _lines(values: Sequence[str]) -> bytes:
    return "".join(f"{' '.join(value.splitlines())}\n" for value in values).encode()
