"""What travels inside a published .tflite: metadata, labels, tokenizer and settings, so that the file alone can be used.

`edgekit predict` reads `SETTINGS` and `TOKENIZER`; MediaPipe Tasks reads the metadata, `LABELS` and `VOCABULARY`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit import __version__
from edgekit.data.images import Preprocessing
from edgekit.data.sources import ImageRows, Rows
from edgekit.data.text import open_tokenizer
from edgekit.errors import ConfigError, DatasetError, ModelFormatError
from edgekit.models import checkpoint
from edgekit.spec import TensorSpec
from edgekit.stages.quantize import mediapipe
from edgekit.tflite import flatbuffer, metadata, package
from edgekit.tflite.metadata import AssociatedFile, ModelMetadata, TensorMetadata
from edgekit.tflite.package import LABELS, SETTINGS, TOKENIZER, VOCABULARY
from edgekit.workflows.convert.bridge import TOKEN_INPUTS, Kind, Source

TEXT, IMAGE = "text-classification", "image-classification"
# Names that MediaPipe's TextClassifier finds the inputs by.
_MEDIAPIPE_INPUTS = {
    "input_ids": ("ids", "Ids of the tokens, padded to the input's length."),
    "attention_mask": ("mask", "1 for each token, 0 for padding."),
    mediapipe.SEGMENTS: ("segment_ids", "0 for the first text and for padding, 1 for the second text of a pair."),
}
_SINGLE = "Made for single texts, since no data was given; if the model judges pairs of texts, convert it again with rows of pairs."
_MULTI_LABEL = (
    "A model of several labels a row: edgekit predict --json gives each label its own probability, but the label it names, "
    "accuracy and agreement go by the highest of a row alone, and --max-drop with them."
)
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

    `settings` becomes `SETTINGS`; its `activation` is what makes probabilities of the output: softmax, sigmoid or none.
    """

    task: str
    name: str
    settings: Mapping[str, Any]
    files: Mapping[str, bytes]
    author: str = ""
    license: str = ""
    for_mediapipe: bool = False
    score_threshold: float | None = None
    limits: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def write(self, model: Path, target: Path, scheme: str) -> None:
        """The model at `model`, with all that it needs, as `target`. Raises `ConfigError` and `ModelFormatError`."""
        content: bytes | memoryview = flatbuffer.mapped(model)
        settings = dict(self.settings)
        file = flatbuffer.parse(content, str(model))
        had_segments = mediapipe.SEGMENTS in file.entry().inputs
        if self.for_mediapipe:
            narrow = file.signature(file.entry()).outputs[0].dtype == "uint8"
            adding = settings["activation"] if settings["activation"] in mediapipe.ACTIVATIONS and not narrow else None
            content = mediapipe.adapt(bytes(content), origin=self.name, segments=self.task == TEXT, activation=adding)
            settings["activation"] = "none" if adding else settings["activation"]
            file = flatbuffer.parse(content, str(model))
        files = {SETTINGS: _json(settings), **self.files}
        described = self._describe(file, settings, files, scheme, had_segments=had_segments)
        package.attach(content, target, package.build(described), files, origin=str(model))

    def _describe(
        self,
        file: flatbuffer.ModelFile,
        settings: Mapping[str, Any],
        files: Mapping[str, bytes],
        scheme: str,
        *,
        had_segments: bool,
    ) -> ModelMetadata:
        entry = file.entry()
        graph = file.subgraphs[entry.subgraph]
        names = {index: name for name, index in entry.inputs.items()}
        inputs = [graph.tensors[index].spec(names.get(index, "")) for index in graph.inputs]
        name, scores = "logits", "Logit of each class."
        if mediapipe.gives_probabilities(file):
            name, scores = "probability", "Probability of each class."
        elif settings["activation"] == "none":
            name, scores = "value", "The value that the model estimates."
        output = TensorMetadata(
            name,
            scores,
            files=(_FILES[LABELS],) if LABELS in files else (),
            score_threshold=self.score_threshold,
        )
        others = [TensorMetadata(name) for name in list(entry.outputs)[1:]]
        what = "Text classifier" if self.task == TEXT else "Image classifier"
        return ModelMetadata(
            name=self.name,
            description=f"{what}, {scheme}, made and measured by edgekit {__version__}.",
            author=self.author,
            license=self.license,
            inputs=tuple(self._input(spec, settings, had_segments=had_segments) for spec in inputs),
            outputs=(output, *others),
            vocabulary=_FILES[VOCABULARY] if VOCABULARY in files and not self.limits else None,
            files=tuple(_FILES[name] for name in files if name in (SETTINGS, TOKENIZER)),
        )

    def _input(self, spec: TensorSpec, settings: Mapping[str, Any], *, had_segments: bool) -> TensorMetadata:
        if self.task == TEXT:
            name, description = _MEDIAPIPE_INPUTS.get(spec.name, (spec.name, ""))
            return TensorMetadata(name, _UNREAD if spec.name == mediapipe.SEGMENTS and not had_segments else description)
        grey = spec.shape[3] == 1
        return TensorMetadata(
            spec.name,
            f"{'Grey' if grey else 'RGB'} image of {spec.shape[2]} x {spec.shape[1]} pixels.",
            mean=tuple(settings["mean"]),
            std=tuple(settings["std"]),
            color_space=metadata.GREY if grey else metadata.RGB,
        )


@dataclass(frozen=True)
class Carried:
    """The metadata and files of a source that is a .tflite itself: they go on as they are."""

    described: bytes
    files: Mapping[str, bytes]
    notes: tuple[str, ...] = ()

    def write(self, model: Path, target: Path, scheme: str) -> None:
        package.attach(flatbuffer.mapped(model), target, self.described, self.files, origin=str(model))


def of_source(source: Source, float_model: Path, rows: Rows | None, config: Any) -> Package | Carried | None:
    """What the files made of `source` carry; `config` is a `ConvertConfig`. None where nothing is known that helps.

    Raises `ConfigError` if `config` asks for what this model cannot have, `DatasetError` for labels that do not fit it.
    """
    file = flatbuffer.read(float_model)
    specs = file.signature(file.entry())
    if source.kind is Kind.CHECKPOINT:
        if config.labels is not None:
            raise ConfigError(f"{source.name}: has its labels in config.json; leave --labels out")
        return _of_checkpoint(source, config, [spec.name for spec in specs.inputs])
    image = len(specs.inputs) == 1 and len(specs.inputs[0].shape) == 4 and specs.inputs[0].shape[3] in (1, 3)
    classes = specs.outputs[0].shape[-1] if specs.outputs and len(specs.outputs[0].shape) == 2 else 0
    told = config.mediapipe or config.labels is not None or config.score_threshold is not None
    if source.kind is Kind.TFLITE and not told:
        return _carried(source.path)
    if not image or classes < 1:
        if told:
            raise ConfigError(
                f"{source.name}: is no image classifier; leave --mediapipe, --labels and --score-threshold out, "
                "or give the checkpoint of a text classifier"
            )
        return None
    names = rows.class_names if isinstance(rows, ImageRows) else None
    labels = _labels(config.labels, names, classes)
    if not labels and not told:
        return None
    usual = Preprocessing()
    mean, std = config.mean or usual.mean, config.std or usual.std
    settings = {
        "edgekit": __version__,
        "task": IMAGE,
        "labels": labels,
        "activation": "none" if mediapipe.gives_probabilities(file) or classes == 1 else "softmax",
        "mean": mean,
        "std": std,
        "crop": usual.crop,
    }
    per_channel = len(set(mean)) > 1 or len(set(std)) > 1
    notes = []
    if config.mediapipe:
        notes.append("MediaPipe stretches an image to the model's size, edgekit evaluate and predict crop its centre.")
        notes += ["MediaPipe normalizes all channels alike, this model's differ: give it --inputs uint8."] if per_channel else []
    files = {LABELS: _lines(labels)} if labels else {}
    return Package(
        IMAGE,
        source.name,
        settings,
        files,
        for_mediapipe=config.mediapipe,
        score_threshold=config.score_threshold,
        notes=tuple(notes),
    )


def _carried(path: Path) -> Carried | None:
    """Nothing where it is damaged: the model is sound all the same, and `inspect` tells of it."""
    try:
        if not (found := flatbuffer.read(path).model_metadata):
            return None
        metadata.parse(found)
        return Carried(found, package.read_files(path))
    except ModelFormatError:
        return None


def _of_checkpoint(source: Source, config: Any, inputs: Sequence[str]) -> Package:
    folder = source.path
    pairs = mediapipe.SEGMENTS in inputs
    encoder = open_tokenizer(checkpoint.tokenizer_folder(folder), config.max_length, pair=pairs)
    text = json.loads(encoder.to_str())
    labels = list(checkpoint.label_ids(folder))
    found = checkpoint.read_config(folder)
    activation = "sigmoid" if found.get("problem_type") == "multi_label_classification" else "softmax"
    settings = {
        "edgekit": __version__,
        "task": TEXT,
        "labels": labels,
        "activation": "none" if found.get("problem_type") == "regression" or len(labels) == 1 else activation,
        "max_length": config.max_length,
        "pairs": pairs,
        "lower_case": lower_cases(text.get("normalizer")),
        "special_token_ids": {token["content"]: token["id"] for token in text.get("added_tokens", []) if token.get("special")},
    }
    limits = tuple(mediapipe_limits(encoder, text, settings, inputs))
    notes = [_MULTI_LABEL] if settings["activation"] == "sigmoid" else []
    segments = found.get("type_vocab_size")
    if not pairs and config.representative_data is None and config.evaluation_data is None and (segments or 0) > 1:
        notes.append(_SINGLE)
    files = {TOKENIZER: _json(text), LABELS: _lines(labels)}
    if (text.get("model") or {}).get("type") == "WordPiece":
        files[VOCABULARY] = vocabulary(encoder)
    written = card(folder)
    made = Package(
        TEXT,
        source.name,
        settings,
        files,
        author=written.get("author", ""),
        license=written.get("license", ""),
        for_mediapipe=config.mediapipe and not limits,
        score_threshold=config.score_threshold,
        limits=limits,
        notes=tuple(notes),
    )
    if limits:
        told = f"MediaPipe's TextClassifier cannot run these files: {'; '.join(limits)}. edgekit predict can."
    elif config.mediapipe:
        told = "MediaPipe lower-cases ASCII alone and keeps accents: texts with accents get other ids there."
    else:
        return made
    return replace(made, notes=(told, *notes))


def mediapipe_limits(encoder: Any, text: Mapping[str, Any], settings: Mapping[str, Any], inputs: Sequence[str]) -> list[str]:
    """Why MediaPipe's TextClassifier, whose tokenizer is that of lower-casing BERT, gives other ids than `encoder`."""
    model = text.get("model") or {}
    if model.get("type") != "WordPiece":
        return [f"its tokenizer is {model.get('type')}, MediaPipe's is WordPiece"]
    limits = []
    if model.get("continuing_subword_prefix") != "##" or model.get("unk_token") != "[UNK]":
        limits.append("its word pieces are not marked with ## and [UNK]")
    if encoder.encode("").tokens[:2] != ["[CLS]", "[SEP]"]:
        limits.append("its texts are not put between [CLS] and [SEP]")
    if encoder.padding["pad_id"] != 0 or encoder.padding["direction"] != "right":
        limits.append("it does not pad with id 0 on the right")
    if not settings["lower_case"]:
        limits.append("its tokenizer keeps upper case, MediaPipe's does not")
    if not {*TOKEN_INPUTS} <= {*inputs}:
        limits.append(f"its inputs are {', '.join(inputs)}")
    return limits


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


def card(folder: Path) -> dict[str, str]:
    """Author and licence, where the checkpoint's README.md says them in its front matter, or its config.json."""
    found: dict[str, str] = {}
    config = checkpoint.read_config(folder)
    readme = folder / "README.md"
    front = ""
    if readme.is_file():
        parts = readme.read_text(encoding="utf-8", errors="replace").split("---", 2)
        front = parts[1] if len(parts) == 3 and not parts[0].strip() else ""
    for name in ("author", "license"):
        line = re.search(rf"^{name}:[ \t]*(\S.*)$", front, re.MULTILINE)
        value = line[1].strip().strip("\"'") if line else config.get(name)
        if isinstance(value, str) and value:
            found[name] = value
    return found


def _labels(given: Path | None, names: tuple[str, ...] | None, classes: int) -> list[str]:
    """The file's lines, else the data set's names; ImageNet heads of one class more have background in front."""
    if given is not None:
        try:
            lines = [line.strip() for line in given.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise DatasetError(f"{given}: cannot be read as labels ({error}); give a text file with one label a line") from None
        found = [line for line in lines if line]
    else:
        found = list(names or ())
    if found and len(found) == classes - 1:
        found = ["background", *found]
    if len(found) == classes:
        return found
    if given is not None:
        raise DatasetError(f"{given}: names {len(found)} labels, the model gives {classes} scores; give the labels of this model")
    return []


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _lines(values: Sequence[str]) -> bytes:
    return "".join(f"{' '.join(value.splitlines())}\n" for value in values).encode()
