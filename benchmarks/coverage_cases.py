"""The rows of each task that coverage.py tries, what transformers says of them, and how far a file's outputs lie from that."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tiny_checkpoints import LENGTH, WORDS

from edgekit.data.samples import Samples
from edgekit.tasks.table import TASKS
from edgekit.tflite.interpreter import Model

Row = dict[str, Any]


def _words(count: int, generator: np.random.Generator) -> str:
    return " ".join(WORDS[number] for number in generator.integers(0, len(WORDS), count))


def _texts(count: int, seed: int) -> list[Row]:
    """Texts of one word up to more than there is room for, each length as often."""
    generator = np.random.default_rng(seed)
    return [{"text": _words(1 + number % LENGTH, generator)} for number in range(count)]


def _questions(count: int, seed: int) -> list[Row]:
    """Questions of two words; contexts of one up to as many as the longest frame leaves room for."""
    generator = np.random.default_rng(seed)
    return [{"question": _words(2, generator), "context": _words(1 + number % (LENGTH - 6), generator)} for number in range(count)]


def _masked(count: int, seed: int) -> list[Row]:
    """Texts of one word up to more than there is room for, each with one word masked."""
    generator, rows = np.random.default_rng(seed), []
    for row in _texts(count, seed):
        words = row["text"].split()[: LENGTH - 2]
        place = int(generator.integers(0, len(words)))
        rows.append({"text": " ".join([*words[:place], "[MASK]", *words[place + 1 :]]), "masked": words[place]})
    return rows


def _choices(count: int, seed: int) -> list[Row]:
    """Contexts of two words and three choices, of one word up to as many as the longest frame leaves room for."""
    generator = np.random.default_rng(seed)
    return [
        {
            "context": _words(2, generator),
            "choices": [_words(1 + (number + place) % (LENGTH - 6), generator) for place in range(3)],
            "label": int(generator.integers(0, 3)),
        }
        for number in range(count)
    ]


@dataclass(frozen=True)
class Case:
    """How a task is tried: its `rows`, of which `columns` are what a conversion is given, and `texts` what the tokenizer is.

    `by_token` says that outputs (1, L, …) are about tokens, of which padding is left out; `at_mask` that those of the mask are
    wanted, and `as_choices` that the model takes (1, C, L)."""

    rows: Callable[[int, int], list[Row]]
    columns: tuple[str, ...] = ("text",)
    texts: Callable[[Row], list[str]] = lambda row: list(row.values())[:2]
    by_token: bool = False
    at_mask: bool = False
    as_choices: bool = False


CASES: Mapping[str, Case] = {
    "feature-extraction": Case(_texts, by_token=True),
    "fill-mask": Case(_masked, ("text", "masked"), lambda row: [row["text"]], at_mask=True),
    "text-classification": Case(_texts),
    "token-classification": Case(_texts, by_token=True),
    "question-answering": Case(_questions, ("question", "context"), by_token=True),
    "multiple-choice": Case(
        _choices, ("context", "choices", "label"), lambda row: [row["context"], row["choices"][0]], as_choices=True
    ),
}


def transformers_answers(folder: Path, task: str, rows: Sequence[Row], target: Path, inputs: Sequence[str]) -> None:
    """What transformers gives for each row without padding, and the padded inputs: in a child, by transformers alone.

    `target` gets samples of the inputs, padded to LENGTH, whose extras are the expected outputs, padded with zeros."""
    import torch
    import transformers

    tokenizer, case = transformers.AutoTokenizer.from_pretrained(folder), CASES[task]
    auto = getattr(transformers, TASKS[task].auto)
    if task == "feature-extraction" and json.loads((folder / "config.json").read_text())["architectures"][0].endswith(
        "EncoderModel"
    ):
        auto = getattr(transformers, json.loads((folder / "config.json").read_text())["architectures"][0])
    model = auto.from_pretrained(folder).eval()
    fed: dict[str, list[np.ndarray]] = {name: [] for name in inputs}
    expected: dict[str, list[np.ndarray]] = {name: [] for name in TASKS[task].outputs}
    for row in rows:
        texts = case.texts(row)
        padded = tokenizer(*texts, truncation=True, padding="max_length", max_length=LENGTH, return_tensors="np")
        bare = tokenizer(*texts, truncation=True, max_length=LENGTH, return_tensors="pt")
        real = np.asarray(padded["attention_mask"][0], bool)
        with torch.inference_mode():
            outputs = model(**{name: ids.unsqueeze(1) if case.as_choices else ids for name, ids in bare.items()})
        for name in inputs:
            # A tokenizer that tells no segments apart gives none.
            fed[name].append(np.asarray(padded.get(name, np.zeros((1, LENGTH)))[0], np.int32))
        for name, arrays in expected.items():
            output = outputs[name][0].numpy()
            if case.at_mask:
                output = output[(bare["input_ids"][0] == tokenizer.mask_token_id).numpy()][0]
            if case.by_token:
                whole = np.zeros((LENGTH, *output.shape[1:]), output.dtype)
                whole[real] = output
                output = whole
            arrays.append(output)
    Samples({name: np.stack(arrays) for name, arrays in fed.items()}, extras={n: np.stack(a) for n, a in expected.items()}).save(
        target
    )


def largest_difference(file: Path, folder: Path, task: str) -> tuple[float, list[int]]:
    """Of a .tflite's outputs from the expected ones, relative to how far these lie from their mean; and the lengths of rows."""
    model, samples = Model(file), Samples.load(folder)

    def kept(output: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return output[:, mask] if CASES[task].by_token else output

    worst, masks = 0.0, np.asarray(samples.inputs["attention_mask"], bool)
    results = [model.run(row) for row in samples]
    for name, expected in samples.extras.items():
        ours = np.concatenate([kept(result[name], mask).ravel() for result, mask in zip(results, masks, strict=True)])
        theirs = np.concatenate([kept(row[np.newaxis], mask).ravel() for row, mask in zip(expected, masks, strict=True)])
        spread = np.abs(theirs - theirs.mean()).max()
        worst = max(worst, float(np.abs(ours - theirs).max() / spread))
    return worst, sorted({int(mask.sum()) for mask in masks})


def input_names(file: Path) -> list[str]:
    return [spec.name for spec in Model(file).signature.inputs]
