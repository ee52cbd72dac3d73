"""Answers of a .tflite alone, without torch and TensorFlow: its tokenizer, task and settings travel inside it."""

import itertools
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.encode import Encoding, is_image, is_text
from edgekit.data.samples import Array, Samples
from edgekit.data.sources import ImageRows, TextRows
from edgekit.data.text import open_tokenizer
from edgekit.errors import CheckpointError, DatasetError, ModelFormatError
from edgekit.spec import MASK, DataSpec, Signature
from edgekit.system import rooms
from edgekit.tasks.base import Prediction
from edgekit.tflite import flatbuffer, lengths, loading
from edgekit.tflite.batches import groups
from edgekit.tflite.interpreter import Model, dequantize, filled, quantize
from edgekit.tflite.lengths import LengthsModel
from edgekit.workflows.inputs import encoding_of, read_task


def load(path: Path | str, threads: int = 2, task: str | None = None, prompt: str | None = None) -> "Predictor":
    """The file at `path`, ready to answer; see `Predictor`, also for what is raised."""
    return Predictor(Path(path), threads=threads, task=task, prompt=prompt)


class Predictor:
    """A loaded file. A malformed one can crash the process: load files of unknown origin in a child of your own."""

    def __init__(self, path: Path, *, threads: int = 2, task: str | None = None, prompt: str | None = None) -> None:
        """Load `path`, with what it needs from inside it, or with the tokenizer beside it where it holds none.

        `task` is for a file that says nothing of its own, `prompt` names the one of a sentence encoder's prompts that stands before
        texts, in place of its default.
        Raises `ModelFormatError` for a file that is damaged or takes neither texts nor an image, `CheckpointError` for an
        unusable tokenizer, `ConfigError` for an unknown `task` or `prompt`, and `UnsupportedOpError`."""
        self.path = path
        self._file = flatbuffer.read(path)
        self.task, self.settings = read_task(self._file, task)
        if prompt is not None:
            self.settings = {**self.task.with_prompt(self.settings, prompt)}
        self._model = loading.load_lazily(path, threads=threads)
        inputs = self.signature.inputs
        self.is_text = is_text(inputs)
        if not self.is_text and not is_image(inputs):
            listed = ", ".join(f"{spec.name} {list(spec.shape)}" for spec in inputs) or "nothing"
            raise ModelFormatError(f"{path}: takes {listed}, neither text nor an image; use edgekit evaluate with an .npz file")
        self._room = tempfile.TemporaryDirectory(prefix="predict-", dir=rooms.rooms())
        self._encoding = self._read_encoding()

    @property
    def signature(self) -> Signature:
        """Its inputs and outputs."""
        return self._model.signature

    @property
    def halves(self) -> tuple[str, ...]:
        """What its texts are called: one name, or those of the two texts of a row."""
        if not self.settings["pairs"]:
            return ("text",)
        if self.task.columns.choices:
            return ("context", "choices")
        return self.task.columns.texts[0] if self.task.columns.pairs else ("first text", "second text")

    @property
    def is_compared(self) -> bool:
        """Whether it takes a text alone, and two that are compared with each other."""
        return self.task.headless and not self.task.per_token

    def __call__(
        self,
        text: str | Path | None = None,
        pair: str | Sequence[str] | None = None,
        *,
        question: str | None = None,
        context: str | None = None,
        choices: Sequence[str] | None = None,
    ) -> Prediction:
        """The answer for one text, a text and its second half, a question and its context, a context and its choices, or an image.

        Raises `DatasetError` for a row that the model does not take."""
        started = time.perf_counter()
        row = self._encoded(text, pair, question=question, context=context, choices=choices)
        return self._answers([row], started)[0]

    def _encoded(
        self,
        text: str | Path | None = None,
        pair: str | Sequence[str] | None = None,
        *,
        question: str | None = None,
        context: str | None = None,
        choices: Sequence[str] | None = None,
    ) -> tuple[Samples, str]:
        if choices is not None:
            text, pair = context if text is None else text, choices
        return self.encode(question if text is None else text, context if pair is None else pair)

    def batch(self, rows: Iterable[Any]) -> list[Prediction]:
        """Answers in the rows' order: a row is a text, a pair, an image file, or the arguments of a call by name.

        A file that takes several texts at once is given them; the milliseconds of each are its share."""
        encoded = (
            self._encoded(**row) if isinstance(row, Mapping) else self._encoded(*(row if isinstance(row, tuple | list) else (row,)))
            for row in rows
        )
        answers: list[Prediction] = []
        started = time.perf_counter()
        while group := list(itertools.islice(encoded, self._model.batch)):
            answers += self._answers(group, started)
            started = time.perf_counter()
        return answers

    def encode(self, first: str | Path | None, second: str | Sequence[str] | None = None) -> tuple[Samples, str]:
        """The samples of one row, and what happened to a text that was empty or too long. Raises `DatasetError`."""
        folder = nullcontext(self._room.name) if self.is_text else tempfile.TemporaryDirectory(dir=self._room.name)
        with folder as place:
            rows = self._rows(first, second)
            if isinstance(rows, TextRows):
                self.task.refuse(rows, self.settings)
            samples = self.task.encode(rows, self.signature.inputs, self._encoding, self.settings, Path(place))
        remark = ""
        if isinstance(rows, TextRows):
            remark = "" if str(first).strip() else "the text is empty"
            if samples.row is None and self._is_cut(rows, samples):
                tokens = self.signature.inputs[0].shape[1]
                remark = f"the text is too long: cut to the {tokens} tokens that the model takes, as in training"
        return samples, remark

    def answer(self, samples: Samples, started: float) -> Prediction:
        """The answer for the samples of one row; its time counts from `started`, by `time.perf_counter`."""
        return self._answers([(samples, "")], started)[0]

    def _answers(self, rows: Sequence[tuple[Samples, str]], started: float) -> list[Prediction]:
        """The answers for the samples of each of `rows`, which run together as far as the file takes several, with its remark."""
        stored = {
            spec.name: quantize(np.concatenate([samples.inputs[spec.name] for samples, _ in rows]), spec)
            for spec in self.signature.inputs
        }
        runs = []
        for group in groups(stored, self._model.batch):
            if not isinstance(self._model, Model):
                before = time.perf_counter()
                self._model.prepare(group)
                started += time.perf_counter() - before
            runs.append(self._model.run(group))
        outputs = {name: np.concatenate([run[name] for run in runs]) for name in runs[0]}
        ends = np.cumsum([len(samples) for samples, _ in rows])
        predictions = [
            replace(
                self.task.predict({name: array[end - len(samples) : end] for name, array in outputs.items()}, samples),
                remark=remark,
            )
            for (samples, remark), end in zip(rows, ends, strict=True)
        ]
        share = (time.perf_counter() - started) * 1e3 / len(rows)
        return [replace(prediction, milliseconds=share) for prediction in predictions]

    def fed(self, samples: Samples) -> tuple[dict[str, Array], str | None]:
        """The first sample's arrays as the file takes them, and the signature that does where it is one of several.

        They are (1, …), or filled up to the fewest that it takes."""
        row: Mapping[str, Array] = {spec.name: quantize(samples.inputs[spec.name][:1], spec) for spec in self.signature.inputs}
        key = None
        if not isinstance(self._model, Model):
            key, row = self._model.prepare(row)
        batch = self._file.signature(self._file.entry(key)).batch
        return {name: filled(array, batch) if batch > 1 else array for name, array in row.items()}, key

    def read(self, stored: Mapping[str, Any], samples: Samples) -> Prediction:
        """The answer in flat outputs by name, as the file stores them, of the one sample in `samples`, fed as `fed` says.

        Raises `DatasetError` for outputs that are not those of the file."""
        outputs = {}
        entry = self._file.entry(self.fed(samples)[1])
        for spec in self._file.signature(entry).outputs:
            try:
                values = np.array(stored[spec.name], np.dtype(spec.dtype)).reshape([abs(size) for size in spec.shape])
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise DatasetError(f"{self.path}: output {spec.name} {list(spec.shape)} is not there ({error})") from None
            outputs[spec.name] = dequantize(values, spec)
        if self._file.signature(entry).batch > 1:
            outputs = {name: array[:1] for name, array in outputs.items()}
        if isinstance(self._model, LengthsModel):
            outputs = lengths.widen(outputs, self.signature, samples.inputs[MASK])
        return self.task.predict(outputs, samples)

    def _rows(self, first: str | Path | None, second: str | Sequence[str] | None) -> TextRows | ImageRows:
        if not self.is_text:
            if second is not None or not first:
                named = ", and the name given is empty; give an image file" if first == "" else "; give image files"
                raise DatasetError(f"{self.path}: takes images{named}")
            return ImageRows((Path(first),), None, None, str(first))
        if isinstance(first, Path):
            raise DatasetError(f"{self.path}: takes texts, not images")
        names = self.halves
        if first is None or ((second is not None) != (len(names) == 2) and not (self.is_compared and second is not None)):
            takes = "single texts; leave --pair out"
            if self.task.columns.choices:
                takes = "a context and its choices; give them all with a tab between each two"
            elif self.task.columns.pairs:
                takes = f"a {' and a '.join(names)}; give {' and '.join(f'--{name}' for name in names)}, or a tab between them"
            elif len(names) == 2:
                takes = "pairs of texts; give the second after a tab or with --pair"
            raise DatasetError(f"{self.path}: takes {takes}")
        try:
            f"{first}{second or ''}".encode()
        except UnicodeEncodeError:
            raise DatasetError(f"{self.path}: a text is not UTF-8; convert it, for example with iconv") from None
        if second is not None and self.task.columns.choices:
            second = tuple(second.split("\t") if isinstance(second, str) else second)
        return TextRows((first,), None if second is None else (second,), None, str(self.path))

    def _is_cut(self, rows: TextRows, samples: Samples) -> bool:
        """Only a row without padding can have lost tokens."""
        mask = samples.inputs.get(MASK)
        if (mask is not None and not mask.all()) or self._encoding.tokenizer is None:
            return False
        tokenizer = open_tokenizer(self._encoding.tokenizer, self.signature.inputs[0].shape[1], pair=rows.pairs is not None)
        return bool(tokenizer.encode(rows.texts[0], rows.pairs[0] if rows.pairs else None).overflowing)

    def _read_encoding(self) -> Encoding:
        """How rows are encoded. Raises `CheckpointError` for a tokenizer that is missing or unusable."""
        encoding = encoding_of(self._file, self.settings, DataSpec(""), Path(self._room.name))
        if not self.is_text:
            return encoding
        if encoding.tokenizer is None:
            raise CheckpointError(
                f"{self.path}: holds no tokenizer, and there is no tokenizer.json beside it; convert the checkpoint again"
            )
        return encoding
