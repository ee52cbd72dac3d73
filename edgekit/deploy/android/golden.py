"""Inputs and what this very file gives for them, for a test on a phone."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.encode import is_text
from edgekit.data.samples import Array, Samples, random_samples, row_shape
from edgekit.data.sources import TextRows, take
from edgekit.errors import EdgekitError, ModelFormatError
from edgekit.spec import DataSpec, TensorSpec, shown
from edgekit.system import rooms
from edgekit.system.worker import Worker
from edgekit.tasks.base import Settings, Task
from edgekit.tflite import flatbuffer, lengths, loading
from edgekit.tflite.flatbuffer import ModelFile
from edgekit.tflite.interpreter import quantize
from edgekit.tflite.lengths import LengthsModel
from edgekit.tflite.loading import AnyModel
from edgekit.workflows import inputs

ROWS = 8
# Whole images as text soon fill megabytes; random inputs repeat a block of a prime length, so that rows of an image differ.
_MOST_VALUES = 320_000
_BLOCK = 251
_DECIMALS = 4
# Kernels of another processor differ from ours about as XNNPACK's do from the runtime's own here, and sum in another order.
_MARGIN = 2.0
_LEAST_RELATIVE = 1e-4
_LEAST_ABSOLUTE = 1e-6

# Texts with the second ones that a model of pairs takes.
_SENTENCES = (
    ("The train arrives at nine in the morning.", "Passengers can board from ten to nine."),
    ("She put the book back on the shelf.", "The shelf is empty."),
    ("It has been raining since Tuesday.", "The streets are wet."),
    ("The new phone is lighter than the old one.", "The old phone weighs less."),
    ("Please send the invoice to the address below.", "The invoice has been paid."),
    ("Nobody expected the meeting to end so early.", "The meeting was short."),
)


@dataclass(frozen=True)
class Case:
    """One row: what is fed, as stored, and the real values of every output. A short input is repeated until it fills the tensor.

    `label` is the class where a row has one and the two highest scores differ by more than the tolerance."""

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
    cases: Sequence[Case] = ()


def golden(
    file: Path, digest: str, task: Task, settings: Settings, data: DataSpec | None, seed: int, tokenizer: Path | None = None
) -> Golden:
    """Run `file` in a child on rows of `data`, or without it on built-in sentences or random values.

    `settings` are what `task` reads its outputs with; `tokenizer` is the folder of one, where the file has none. Raises
    `DatasetError`, `ModelFormatError`, `UnsupportedOpError` and `WorkerError`."""
    content = flatbuffer.read(file)
    entry = content.entry()
    signature, several = content.signature(entry), lengths.by_length(content)
    samples, rows, source = None, None, f"{ROWS} rows of random values, drawn with seed {seed}"
    with rooms.temporary("golden") as name:
        room = Path(name)
        encoding = inputs.encoding_of(content, inputs.settings_of(content), data or DataSpec("", tokenizer=tokenizer), room)
        if data is not None:
            rows, task, settings = inputs.rows_for(data, settings, signature)
            fit = min(ROWS, max(1, _MOST_VALUES // sum(int(np.prod(np.abs(row_shape(spec)))) for spec in signature.inputs)))
            rows = take(rows, np.arange(min(len(rows), fit)))
            source = f"{len(rows)} row{'s' * (len(rows) != 1)} of {shown(data.origin)}, drawn with seed {data.seed}"
        elif is_text(signature.inputs) and encoding.tokenizer is not None:
            source = f"{len(_SENTENCES)} built-in sentences"
            first, second = zip(*_SENTENCES, strict=True)
            rows = TextRows(first, second if settings["pairs"] else None, None, "built-in sentences")
        if rows is None:
            stored = _random(signature.inputs, seed)
        else:
            samples = task.encode(rows, signature.inputs, encoding, settings, room).span(slice(0, ROWS))
            stored = _stored(file, samples, signature.inputs)
        if several:
            stored = [_cut(row, list(several), number) for number, row in enumerate(stored)]
        delegated, plain = Worker().run(_run, file, stored).value
    tolerance, difference = {}, {}
    for spec in signature.outputs:
        values = [row[spec.name] for row in delegated]
        each, whole = per_token(content, spec), int(np.prod(np.abs(spec.shape)))
        if any((each * next(iter(row.values())).size or whole) != array.size for row, array in zip(stored, values, strict=True)):
            raise ModelFormatError(
                f"{file}: output {spec.name} has a size that only a run tells, and Kotlin needs it; convert it to fixed shapes"
            )
        if not all(np.isfinite(array).all() for array in values):
            raise ModelFormatError(f"{file}: gives values that are not finite in output {spec.name}; convert it again")
        gap = float(max(np.abs(a - b[spec.name]).max() for a, b in zip(values, plain, strict=True))) if plain else None
        least = spec.scale or _LEAST_RELATIVE * float(max(np.abs(array).max() for array in values)) + _LEAST_ABSOLUTE
        tolerance[spec.name], difference[spec.name] = max(_MARGIN * (gap or 0.0), least), gap
    cases = []
    texts = rows if isinstance(rows, TextRows) else None
    for number, (row, outputs) in enumerate(zip(stored, delegated, strict=True)):
        place = number if samples is None or samples.row is None else int(samples.row[number])
        cases.append(
            Case(
                {name: _listed(array) for name, array in row.items()},
                {name: _listed(array.ravel().astype(np.float32)) for name, array in outputs.items()},
                text=_text(texts.texts[place]) if texts else None,
                pair=_text(texts.pairs[place]) if texts and texts.pairs else None,
                label=_label(outputs, task, settings, next(iter(tolerance.values()), 0.0)),
            )
        )
    version = importlib.metadata.version("ai-edge-litert")
    called = ", ".join(each.key for each in several.values()) or entry.key
    return Golden(file.name, digest, called, source, f"ai-edge-litert {version}, CPU", tolerance, difference, tuple(cases))


def per_token(content: ModelFile, spec: TensorSpec) -> int:
    """How many values of an output there are for each token, where it is as long as the signature's inputs; else 0."""
    sizes = {
        length: int(np.prod(np.abs(output.shape)))
        for length, entry in lengths.by_length(content).items()
        for output in content.signature(entry).outputs
        if output.name == spec.name
    }
    shares = {size / length for length, size in sizes.items()}
    return int(shares.pop()) if len(shares) == 1 else 0


def _random(specs: Sequence[TensorSpec], seed: int) -> list[dict[str, Array]]:
    """Rows of one block a tensor, which is repeated; integers without a scale are 0 or 1, which every id, mask and flag can be."""
    draw = np.random.default_rng(seed)
    samples = random_samples([spec for spec in specs if spec.scale is None], ROWS, seed)
    rows = []
    for number in range(ROWS):
        row: dict[str, Array] = {}
        for spec in specs:
            if spec.scale is None:
                values = samples.inputs[spec.name][number].ravel()
            else:
                limits = np.iinfo(np.dtype(spec.dtype))
                values = draw.integers(limits.min, limits.max, _BLOCK, dtype=spec.dtype, endpoint=True)
            row[spec.name] = _rounded(values[: min(_BLOCK, int(np.prod(np.maximum(spec.shape, 1))))])
        rows.append(row)
    return rows


def _stored(file: Path, samples: Samples, specs: Sequence[TensorSpec]) -> list[dict[str, Array]]:
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


def _run(file: Path, rows: list[dict[str, Array]]) -> tuple[list[dict[str, Array]], list[dict[str, Array]]]:
    """Real values of every output, by XNNPACK and by the runtime's own kernels; the latter empty where they do not run it."""
    delegated = _outputs(loading.load(file), rows)
    try:
        return delegated, _outputs(loading.load(file, delegate=False), rows)
    except EdgekitError:
        return delegated, []


def _outputs(model: AnyModel, rows: list[dict[str, Array]]) -> list[dict[str, Array]]:
    if isinstance(model, LengthsModel):
        return [_outputs(model.models[next(iter(row.values())).size], [row])[0] for row in rows]
    shapes = {spec.name: tuple(1 if size < 0 else size for size in spec.shape) for spec in model.signature.inputs}
    fed = ({name: np.resize(values, shapes[name]) for name, values in row.items()} for row in rows)
    return [{name: np.array(value, np.float64) for name, value in model.run(row).items()} for row in fed]


def _listed(values: Array) -> list[Any]:
    # float32 as Python prints it: the shortest text that reads back as the same number.
    return [float(str(value)) for value in values] if values.dtype.kind == "f" else values.astype(int).tolist()


def _text(text: Any) -> str:
    return text if isinstance(text, str) else " ".join(text)


def _label(outputs: Mapping[str, Array], task: Task, settings: Settings, tolerance: float) -> str | None:
    """The class of a row, where it has one and the least tolerated difference cannot change it."""
    scores = next(iter(outputs.values())).ravel()
    if scores.size != len(settings["labels"]) or scores.size < 2:
        return None
    second, first = np.sort(scores)[-2:]
    label = task.predict(outputs, Samples({}, settings=settings)).fields.get("label")
    return label if first - second > 2 * tolerance else None
