"""Labels and scores of texts and images from a .tflite alone: its tokenizer, labels and settings travel inside it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import CheckpointError, DatasetError, ModelFormatError
from edgekit.spec import Signature
from edgekit.tflite import flatbuffer, lengths, metadata, package
from edgekit.tflite.interpreter import quantize
from edgekit.tflite.lengths import LengthsModel
from edgekit.tflite.package import LABELS, TOKENIZER

# Input name -> attribute of a tokenizers Encoding.
_FIELDS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


@dataclass(frozen=True)
class Prediction:
    """The likeliest label and every label's score: a probability, or the value itself where the model gives one value.

    `milliseconds` counts tokenizing or decoding and one inference. `remark` says what happened to an input that was empty
    or too long. `inputs` are the arrays that the file was given, by name, as it stores them, and `signature` is the one that
    took them, where the file has one for each of several lengths.
    """

    label: str
    scores: Mapping[str, float]
    milliseconds: float
    remark: str = ""
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)
    signature: str | None = None


class Predictor:
    """A loaded classifier. A malformed file can crash the process: load files of unknown origin in a child of your own."""

    def __init__(self, path: Path, *, threads: int = 2) -> None:
        """Load `path`, with what it needs from inside it, or for older files from the tokenizer and manifest beside it.

        Raises `ModelFormatError` for a file that is damaged or no classifier, `CheckpointError` for an unusable tokenizer,
        and `UnsupportedOpError`.
        """
        self.path = path
        self._model = lengths.load_lazily(path, threads=threads)
        if described := self._model.metadata:
            try:
                metadata.parse(described)
            except ModelFormatError as error:
                raise ModelFormatError(f"{path}: {error}; convert or download it again") from None
        files = package.read_files(path, (TOKENIZER, LABELS))
        signature = self._model.signature
        shape = signature.outputs[0].shape if signature.outputs else ()
        if len(shape) != 2 or shape[0] not in (1, -1) or not signature.inputs:
            raise ModelFormatError(f"{path}: is no classifier (its first output has shape {list(shape)}); give one")
        self._settings = self._read_settings()
        self.is_text = all(len(spec.shape) == 2 for spec in signature.inputs)
        if not self.is_text and (len(signature.inputs) != 1 or len(signature.inputs[0].shape) != 4):
            listed = ", ".join(f"{spec.name} {list(spec.shape)}" for spec in signature.inputs)
            raise ModelFormatError(f"{path}: takes {listed}, neither text nor an image; use edgekit evaluate with an .npz file")
        self.labels = self._read_labels(files, shape[1])
        self.tokenizer = self._read_tokenizer(files.get(TOKENIZER)) if self.is_text else None

    @property
    def pairs(self) -> bool:
        """Whether it judges pairs of texts."""
        return bool(self._settings.get("pairs", False))

    @property
    def activation(self) -> str:
        """What makes scores of its outputs: softmax, sigmoid or none."""
        return str(self._settings.get("activation", "softmax"))

    @property
    def signature(self) -> Signature:
        """Its inputs and outputs."""
        return self._model.signature

    def text(self, text: str, pair: str | None = None) -> Prediction:
        """Judge one text, or a text and its second half. Raises `DatasetError` if the model takes the other kind."""
        if self.tokenizer is None:
            raise DatasetError(f"{self.path}: takes images; give image files")
        if (pair is not None) != self.pairs:
            wanted = (
                "pairs of texts; give the second after a tab or with --pair" if self.pairs else "single texts; leave --pair out"
            )
            raise DatasetError(f"{self.path}: takes {wanted}")
        started = time.perf_counter()
        try:
            (text + (pair or "")).encode()
        except UnicodeEncodeError:
            raise DatasetError(f"{self.path}: a text is not UTF-8; convert it, for example with iconv") from None
        encoding = self.tokenizer.encode(text, pair)
        row = {spec.name: np.array([getattr(encoding, _FIELDS[spec.name])], np.int32) for spec in self._model.signature.inputs}
        remark = "" if text.strip() else "the text is empty"
        if encoding.overflowing:
            remark = f"the text is too long: cut to the {len(encoding.ids)} tokens that the model takes, as in training"
        return self._run(row, started, remark)

    def image(self, path: Path) -> Prediction:
        """Judge one image file. Raises `DatasetError` if it cannot be read."""
        if self.tokenizer is not None:
            raise DatasetError(f"{self.path}: takes texts, not images")
        from edgekit.data.images import Preprocessing, for_input, read_image

        spec = self._model.signature.inputs[0]
        usual = Preprocessing()
        started = time.perf_counter()
        _, height, width, channels = spec.shape
        mean, std = (tuple(self._settings.get(name, getattr(usual, name))) for name in ("mean", "std"))
        how = for_input(spec, Preprocessing(mean, std, bool(self._settings.get("crop", usual.crop))))
        pixels = read_image(path, height, width, channels, crop=how.crop)
        real = (pixels - np.asarray(how.mean, np.float32)) / np.asarray(how.std, np.float32)
        return self._run({spec.name: real[np.newaxis]}, started, "")

    def _run(self, row: Mapping[str, np.ndarray], started: float, remark: str) -> Prediction:
        row = {spec.name: quantize(row[spec.name], spec) for spec in self._model.signature.inputs}
        fed, signature = row, None
        if isinstance(self._model, LengthsModel):
            before = time.perf_counter()
            signature, fed = self._model.prepare(row)
            started += time.perf_counter() - before
        values = next(iter(self._model.run(row).values()))[0].astype(np.float64)
        activation = self.activation
        if activation == "softmax":
            values = np.exp(values - values.max())
            values /= values.sum()
        elif activation == "sigmoid":
            values = 1 / (1 + np.exp(-values))
        milliseconds = (time.perf_counter() - started) * 1e3
        scores = dict(zip(self.labels, values.tolist(), strict=True))
        return Prediction(self.labels[int(values.argmax())], scores, milliseconds, remark, fed, signature)

    def _read_settings(self) -> dict[str, Any]:
        if found := package.settings(self.path):
            return found
        told = metadata.normalization(self._model.metadata)
        settings = {name: value for name, value in zip(("mean", "std"), told, strict=True) if value}
        from edgekit.stages.quantize.mediapipe import gives_probabilities
        from edgekit.workflows.assess import manifest_of

        manifest = manifest_of(self.path)
        settings |= {name: value for name in ("mean", "std") if (value := manifest.get("config", {}).get(name))}
        pairs = "token_type_ids" in self._model.signature.input_names
        labels = manifest.get("measured", {}).get("labels", {})
        activation = "none" if gives_probabilities(flatbuffer.read(self.path)) else "softmax"
        return {**settings, "pairs": pairs, "labels": list(labels), "activation": activation}

    def _read_labels(self, files: Mapping[str, bytes], classes: int) -> list[str]:
        """The settings' own, else those of a labels file, else the classes' numbers."""
        labels = [str(label) for label in self._settings.get("labels", ())]
        if not labels and LABELS in files:
            labels = files[LABELS].decode(errors="replace").splitlines()
        if not labels:
            # Class 0 is what a sigmoid's one value speaks against.
            return [str(number) for number in range(classes)] if classes > 1 else ["value"]
        if len(labels) != classes:
            raise ModelFormatError(
                f"{self.path}: names {len(labels)} labels but gives {classes} scores; convert it again with the right labels"
            )
        if len(set(labels)) < len(labels):
            return [f"{number} {label}" if labels.count(label) > 1 else label for number, label in enumerate(labels)]
        return labels

    def _read_tokenizer(self, content: bytes | None) -> Any:
        if unknown := [name for name in self._model.signature.input_names if name not in _FIELDS]:
            raise ModelFormatError(f"{self.path}: text cannot fill its input {unknown[0]}; use edgekit evaluate with an .npz file")
        if content is not None:
            from tokenizers import Tokenizer

            try:
                return Tokenizer.from_buffer(content)
            except Exception as error:  # the package raises bare exceptions
                raise ModelFormatError(
                    f"{self.path}: its {TOKENIZER} is damaged ({str(error)[:200]}); convert or download it again"
                ) from None
        from edgekit.data.text import open_tokenizer

        beside = self.path.parent / "tokenizer.json"
        if not beside.is_file():
            raise CheckpointError(
                f"{self.path}: holds no tokenizer, and there is no tokenizer.json beside it; convert the checkpoint again"
            )
        return open_tokenizer(self.path.parent, self._model.signature.inputs[0].shape[1], pair=self.pairs)
