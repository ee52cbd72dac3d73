"""Inputs and what this very file gives for them, for a test on a phone."""

import importlib.metadata
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.encode import encode
from edgekit.data.samples import Samples, random_samples, row_shape
from edgekit.data.sources import Rows, TextRows, take
from edgekit.errors import EdgekitError, ModelFormatError
from edgekit.spec import TensorSpec, shown
from edgekit.system.worker import Worker
from edgekit.tflite import flatbuffer, lengths, package
from edgekit.tflite.interpreter import Model, quantize
from edgekit.tflite.lengths import LengthsModel
from edgekit.workflows import assess
from edgekit.workflows.assess import Data

Array = np.ndarray[Any, np.dtype[Any]]

ROWS = 8
_SECONDS = 300.0
# Whole images as text soon fill megabytes; random inputs repeat a block of a prime length, so that rows of an image differ.
_MOST_VALUES = 320_000
_BLOCK = 251
_DECIMALS = 4
# Kernels of another processor differ from ours about as XNNPACK's do from the runtime's own here, and sum in another order.
_MARGIN = 2.0
_LEAST_RELATIVE = 1e-4
_LEAST_ABSOLUTE = 1e-6

_SENTENCES = (
    "The train arrives at nine in the morning.",
    "She put the book back on the shelf.",
    "It has been raining since Tuesday.",
    "The new phone is lighter than the old one.",
    "Please send the invoice to the address below.",
    "Nobody expected the meeting to end so early.",
)
_SECOND_SENTENCES = (
    "Passengers can board from ten to nine.",
    "The shelf is empty.",
    "The streets are wet.",
    "The old phone weighs less.",
    "The invoice has been paid.",
    "The meeting was short.",
)


@dataclass(frozen=True)
class Case:
    """One row: what is fed, as stored, and the real values of every output. A short input is repeated until it fills the tensor.

    `label` is set for classifiers where the two highest scores differ by more than the tolerance.
    """

    inputs: Mapping[str, list[Any]]
    outputs: Mapping[str, list[float]]
    text: str | None = None
    pair: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Golden:
    """The content of golden.json. `tolerance` is by output, in real values; `kernel_difference` is what it rests on."""

    model: str
    sha256: str
    signature: str
    source: str
    runtime: str
    tolerance: Mapping[str, float]
    kernel_difference: Mapping[str, float | None]
    cases: Sequence[Case] = field(default=())


def golden(file: Path, digest: str, labels: Sequence[str], data: Data | None, seed: int, tokenizer: Path | None = None) -> Golden:
    """Run `file` in a child on rows of `data`, or without it on built-in sentences or random values.

    `tokenizer` is the folder of one, where the file has none.

    Raises `DatasetError`, `ModelFormatError`, `UnsupportedOpError` and `WorkerError`.
    """
    content = flatbuffer.read(file)
    entry = content.entry()
    signature = content.signature(entry)
    rows, source = _rows(file, data, seed, tokenizer)
    with tempfile.TemporaryDirectory(prefix="edgekit-golden-") as room:
        if rows is None:
            stored = _random(signature.inputs, seed)
        else:
            told = data or Data("", tokenizer=tokenizer)
            samples = encode(rows, signature.inputs, assess.encoding_of(file, told, Path(room)), Path(room))
            stored = _stored(file, samples, signature.inputs)
        if several := lengths.by_length(content):
            stored = [_cut(row, list(several), number) for number, row in enumerate(stored)]
        found = Worker(timeout_s=_SECONDS).run(_run, file, stored).value
    tolerance, difference = {}, {}
    for spec in signature.outputs:
        size = int(np.prod(np.abs(spec.shape)))
        if not size or any(row[spec.name].size != size for row in found.delegated):
            raise ModelFormatError(
                f"{file}: output {spec.name} has a size that only a run tells, and Kotlin needs it; convert it to fixed shapes"
            )
        ours = np.stack([row[spec.name] for row in found.delegated])
        if not np.isfinite(ours).all():
            raise ModelFormatError(f"{file}: gives values that are not finite in output {spec.name}; convert it again")
        gap = None
        if found.plain:
            gap = float(max(np.abs(a[spec.name] - b[spec.name]).max() for a, b in zip(found.delegated, found.plain, strict=True)))
        least = spec.scale or _LEAST_RELATIVE * float(np.abs(ours).max()) + _LEAST_ABSOLUTE
        tolerance[spec.name], difference[spec.name] = max(_MARGIN * (gap or 0.0), least), gap
    texts = rows if isinstance(rows, TextRows) else None
    cases = []
    for number, (row, outputs) in enumerate(zip(stored, found.delegated, strict=True)):
        first = next(iter(outputs.values())).ravel() if outputs else np.empty(0)
        cases.append(
            Case(
                {name: _listed(values) for name, values in row.items()},
                {name: _listed(values.ravel().astype(np.float32)) for name, values in outputs.items()},
                text=texts.texts[number] if texts else None,
                pair=texts.pairs[number] if texts and texts.pairs else None,
                label=_label(first, labels, next(iter(tolerance.values()), 0.0)),
            )
        )
    version = importlib.metadata.version("ai-edge-litert")
    called = ", ".join(each.key for each in several.values()) or entry.key
    return Golden(file.name, digest, called, source, f"ai-edge-litert {version}, CPU", tolerance, difference, tuple(cases))


def _rows(file: Path, data: Data | None, seed: int, tokenizer: Path | None) -> tuple[Rows | None, str]:
    """What is fed and where it comes from; None for random values."""
    content = flatbuffer.read(file)
    specs = content.signature(content.entry()).inputs
    if data is not None:
        rows = assess.rows_of(data, seed)
        fit = min(ROWS, max(1, _MOST_VALUES // max(1, sum(int(np.prod(np.abs(row_shape(spec)))) for spec in specs))))
        rows = take(rows, np.arange(min(len(rows), fit)))
        return rows, f"{len(rows)} row{'s' * (len(rows) != 1)} of {shown(data.dataset)}, drawn with seed {seed}"
    names = {spec.name for spec in specs}
    knows = (
        tokenizer is not None
        or package.TOKENIZER in package.read_files(file, (package.TOKENIZER,))
        or (file.parent / package.TOKENIZER).is_file()
    )
    if "input_ids" in names and names <= {"input_ids", "attention_mask", "token_type_ids"} and knows:
        pairs = _SECOND_SENTENCES if package.settings(file).get("pairs") else None
        return TextRows(_SENTENCES, pairs, None, "built-in sentences"), f"{len(_SENTENCES)} built-in sentences"
    return None, f"{ROWS} rows of random values, drawn with seed {seed}"


def _random(specs: Sequence[TensorSpec], seed: int) -> list[dict[str, Array]]:
    """Rows of one block a tensor, which is repeated; integers without a scale are 0 or 1, which every id, mask and flag can be."""
    draw = np.random.default_rng(seed)
    samples = random_samples([spec for spec in specs if spec.scale is None], ROWS, seed)
    rows = []
    for number in range(ROWS):
        row: dict[str, Array] = {}
        for spec in specs:
            if spec.scale is not None:
                limits = np.iinfo(np.dtype(spec.dtype))
                values = draw.integers(limits.min, limits.max, _BLOCK, dtype=spec.dtype, endpoint=True)
            else:
                values = samples.inputs[spec.name][number].ravel()[:_BLOCK]
            size = int(np.prod(np.maximum(spec.shape, 1)))
            row[spec.name] = _rounded(values[:size])
        rows.append(row)
    return rows


def _stored(file: Path, samples: Samples, specs: Sequence[TensorSpec]) -> list[dict[str, Array]]:
    """Rows as the file's tensors hold them."""
    try:
        return [{spec.name: _rounded(quantize(np.asarray(row[spec.name]), spec)).ravel() for spec in specs} for row in samples]
    except EdgekitError as error:
        raise type(error)(f"{file}: {error.message}") from None


def _cut(row: Mapping[str, Array], known: Sequence[int], number: int) -> dict[str, Array]:
    """A flat row as one of the signatures that hold its tokens takes it: each of them has its turn, so that all are tested."""
    wide = {name: np.resize(values, known[-1])[None] for name, values in row.items()}
    holding = [length for length in known if length >= lengths.fit(wide, known)[0]]
    return {name: values[0] for name, values in lengths.fit(wide, holding[number % len(holding) :])[1].items()}


def _rounded(values: Array) -> Array:
    """Few decimals keep the JSON small; the file is run on exactly these values."""
    return values.round(_DECIMALS) if values.dtype.kind == "f" else values


@dataclass(frozen=True)
class _Found:
    delegated: list[dict[str, Array]]
    plain: list[dict[str, Array]]


def _run(file: Path, rows: list[dict[str, Array]]) -> _Found:
    """Real values of every output, by XNNPACK and by the runtime's own kernels; the latter empty where they do not run it."""
    delegated = _outputs(lengths.load(file), rows)
    try:
        return _Found(delegated, _outputs(lengths.load(file, delegate=False), rows))
    except EdgekitError:
        return _Found(delegated, [])


def _outputs(model: Model | LengthsModel, rows: list[dict[str, Array]]) -> list[dict[str, Array]]:
    if isinstance(model, LengthsModel):
        return [_outputs(model.models[next(iter(row.values())).size], [row])[0] for row in rows]
    shapes = {spec.name: tuple(1 if size < 0 else size for size in spec.shape) for spec in model.signature.inputs}
    fed = ({name: np.resize(values, shapes[name]) for name, values in row.items()} for row in rows)
    return [{name: np.array(value, np.float64) for name, value in model.run(row).items()} for row in fed]


def _listed(values: Array) -> list[Any]:
    # float32 as Python prints it: the shortest text that reads back as the same number.
    return [float(str(value)) for value in values] if values.dtype.kind == "f" else values.astype(int).tolist()


def _label(scores: Array, labels: Sequence[str], tolerance: float) -> str | None:
    if len(labels) != len(scores) or len(scores) < 2:
        return None
    second, first = np.sort(scores)[-2:]
    return labels[int(scores.argmax())] if first - second > 2 * tolerance else None
