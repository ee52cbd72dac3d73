"""Encoders of texts, from the checkpoint to the file: what it gives is what PyTorch gives, and what it says of itself."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekit
from edgekit.models.checkpoint import Checkpoint
from edgekit.models.weights import load_model
from edgekit.spec import DataSpec
from edgekit.stages.quantize import quantizer
from edgekit.system.worker import Worker
from edgekit.tflite import flatbuffer, metadata
from edgekit.workflows.convert.config import ConvertConfig
from edgekit.workflows.convert.conversion import convert
from tests import tiny
from tests.commands import edgekit as command
from tests.integration import sources

LENGTH = 24
TEXTS = [text for text, _ in tiny.sentences(64)]
SINGLE = [{"text": text} for text in TEXTS]
PAIRS = [
    {"sentence1": one, "sentence2": other, "score": n % 5} for n, (one, other) in enumerate(zip(TEXTS, TEXTS[::-1], strict=True))
]


def config(evaluation: list[dict[str, Any]], *schemes: str, **more: Any) -> ConvertConfig:
    return ConvertConfig(schemes, data=DataSpec(SINGLE), evaluation_data=DataSpec(evaluation), max_length=LENGTH, **more)


def torch_vectors(folder: Path, task: str) -> list[Any]:
    """In a worker: what the model gives of each text alone, without padding."""
    import torch

    checkpoint = Checkpoint.read(folder, task)
    model = load_model(checkpoint)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return [model(**tokenizer(text, return_tensors="pt"))[checkpoint.task.outputs[0]][0].tolist() for text in TEXTS[:16]]


def predictions(file: Path) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """In a worker: the fields of each answer, and of one for two texts where it takes them."""
    model = edgekit.load(file)
    pair = dict(model(TEXTS[0], TEXTS[1]).fields) if model.is_compared else None
    return [dict(answer.fields) for answer in model.batch(TEXTS[:16])], pair


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoders") / "encoder"
    prompts = {"prompts": {"query": "the story "}}
    return Path(Worker(timeout_s=100).run(tiny.sentence_encoder, folder, ("Dense", "Normalize"), prompts).value)


@pytest.fixture(scope="module")
def published(encoder: Path) -> Path:
    result = convert(
        encoder,
        encoder.parent / "out",
        config(PAIRS, "float32", "dynamic", "int8", search_seconds=0.0, min_cosine=0.5, max_drop=1.0),
    )
    assert result.refusals == ()
    for row in result.published:
        assert row.measurement is not None
        scores = {score.metric: score.value for score in (row.measurement.metric, *row.measurement.scores) if score}
        assert list(scores) == ["Spearman", "Pearson", "cosine", "worst cosine"]
        assert row.measurement.task == "sentence-similarity"
        assert scores["worst cosine"] <= scores["cosine"] <= 1 + 1e-9
    path = result.results[0].path
    assert path is not None
    return path


def test_a_files_vectors_are_pytorchs(encoder: Path, published: Path) -> None:
    theirs = Worker(timeout_s=100).run(torch_vectors, encoder, "sentence-similarity").value
    ours, pair = Worker(timeout_s=100).run(predictions, published).value
    np.testing.assert_allclose([one["embedding"] for one in ours], theirs, atol=1e-4)
    assert [one["norm"] for one in ours] == pytest.approx([1] * 16, abs=1e-5)
    assert pair is not None
    assert pair["similarity"] == pytest.approx(float(np.dot(theirs[0], theirs[1])), abs=1e-4)


def test_a_file_says_what_it_is(published: Path) -> None:
    described = metadata.parse(flatbuffer.read(published).model_metadata)
    assert described.description.startswith("Sentence encoder, float32")
    assert described.outputs[0].name == "embedding"
    assert "mean of its tokens, of length 1" in described.outputs[0].description
    said = command("predict", published.name, TEXTS[0], "--pair", TEXTS[1], folder=published.parent)
    assert said.code == 0, said.err
    assert said.out.startswith("similarity\t")
    said = command("predict", published.name, f"{TEXTS[0]}\t{TEXTS[1]}", TEXTS[2], "--json", folder=published.parent)
    first, second = map(json.loads, said.out.splitlines())
    assert len(first["embeddings"]) == 2
    assert len(second["embedding"]) == 48


def test_a_prompt_is_chosen_by_name(published: Path) -> None:
    prompted = command("predict", published.name, "was good", "--prompt", "query", "--json", folder=published.parent)
    whole = command("predict", published.name, "the story was good", "--json", folder=published.parent)
    assert json.loads(prompted.out)["embedding"] == json.loads(whole.out)["embedding"]
    said = command("predict", published.name, "was good", "--prompt", "passage", folder=published.parent)
    assert said.code == 2
    assert said.err == ["edgekit: error: prompt 'passage': the model knows 'query'; give one of these"]


@pytest.mark.parametrize("rows", [SINGLE, PAIRS], ids=["texts", "pairs"])
def test_vectors_that_point_elsewhere_are_refused(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]]
) -> None:
    monkeypatch.setattr(quantizer, "write_float16", sources.ruin)
    (refused,) = convert(encoder, tmp_path / "out", config(rows, "float16")).refusals
    assert "its vectors have a mean cosine of" in refused or "of Spearman against float32" in refused
    assert not list((tmp_path / "out").glob("*.tflite"))


def test_an_encoder_alone_gives_the_states_of_its_tokens(tmp_path: Path) -> None:
    folder = Worker(timeout_s=100).run(tiny.model, tmp_path / "bert", "feature-extraction").value
    result = convert(folder, tmp_path / "out", config(SINGLE, "float32", "dynamic", min_cosine=0.9))
    assert result.refusals == ()
    row = result.results[0]
    assert row.measurement is not None
    assert row.measurement.task == "feature-extraction"
    assert row.path is not None
    theirs = Worker(timeout_s=100).run(torch_vectors, folder, "feature-extraction").value
    ours, pair = Worker(timeout_s=100).run(predictions, row.path).value
    assert pair is None
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one["tokens"], other, atol=1e-3)
