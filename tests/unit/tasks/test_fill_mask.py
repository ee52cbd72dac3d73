"""Masked language models: which token is masked, what is refused, and metrics against scikit-learn and torch."""

from pathlib import Path

import numpy as np
import pytest

from edgekit.data.encode import Encoding
from edgekit.data.samples import Samples
from edgekit.data.sources import TextRows
from edgekit.data.text import mask_token, token_specs
from edgekit.errors import DatasetError
from edgekit.models.checkpoint import Checkpoint
from edgekit.system.worker import Worker
from edgekit.tasks.fill_mask import FILL_MASK
from edgekit.tasks.judgement import judge
from tests import tiny

LENGTH = 16
TEXTS = tuple(text for text, _ in tiny.sentences(40))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return Checkpoint.read(Worker(timeout_s=120).run(tiny.model, tmp_path_factory.mktemp("fill") / "mlm", "fill-mask").value)


def encode(checkpoint: Checkpoint, *texts: str, labels: tuple[str, ...] | None = None) -> Samples:
    rows, encoding = TextRows(texts, None, labels, "rows"), Encoding(checkpoint.tokenizer)
    return FILL_MASK.encode(rows, token_specs(LENGTH, segments=False), encoding, checkpoint.settings, Path())


def test_the_mask_is_the_tokenizers(checkpoint: Checkpoint) -> None:
    assert checkpoint.settings == {"mask_token": "[MASK]", "mask_token_id": 4}
    assert mask_token(checkpoint.path) == ("[MASK]", 4)


def test_one_token_of_each_text_is_masked_and_is_its_label(checkpoint: Checkpoint) -> None:
    samples, plain = encode(checkpoint, *TEXTS), encode(checkpoint, *(f"[MASK] {text}" for text in TEXTS))
    assert plain.labels is None
    ids, labels = samples.inputs["input_ids"], samples.labels
    assert labels is not None
    assert ((ids == 4).sum(axis=1) == 1).all()
    assert (labels > 4).all()
    # Behind the mask in front stand the text's own tokens.
    own = np.where(ids == 4, labels[:, np.newaxis], ids)[:, 1 : LENGTH - 2]
    cut = plain.inputs["input_ids"][:, 2 : LENGTH - 1]
    assert np.array_equal(np.where(cut == 3, 0, cut), np.where(own == 3, 0, own))
    assert len({int(place) for place in (ids == 4).argmax(axis=1)}) > 5
    one = encode(checkpoint, TEXTS[7])
    assert np.array_equal(one.inputs["input_ids"][0], ids[7])


@pytest.mark.parametrize(
    ("text", "labels", "cause"),
    [
        ("the [MASK] was [MASK]", None, "has 2 masks, of which one is filled"),
        ("the film " * 20 + "[MASK]", None, r"has its \[MASK\] behind the 16 tokens"),
        ("", None, "has no token to mask"),
        ("the film", ("film",), r"has the label 'film' but no \[MASK\]"),
        ("the [MASK]", ("film actor",), "is no single token"),
    ],
)
def test_rows_that_cannot_be_filled_are_refused(
    checkpoint: Checkpoint, text: str, labels: tuple[str, ...] | None, cause: str
) -> None:
    with pytest.raises(DatasetError, match=cause):
        encode(checkpoint, text, labels=labels)


def test_metrics_are_scikit_learns_and_torchs(checkpoint: Checkpoint) -> None:
    samples, logits = encode(checkpoint, *TEXTS), np.random.default_rng(0).normal(size=(40, 108)).astype(np.float32)
    assert samples.labels is not None
    logits[np.arange(30), samples.labels[:30]] += 4
    scores = {score.metric: score.value for score in judge({"logits": logits}, samples).scores}
    expected = Worker(timeout_s=120).run(theirs, logits, samples.labels).value
    assert scores == pytest.approx({"accuracy": expected[0], "pseudo-perplexity": expected[1]}, rel=1e-5)


def theirs(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """In a worker: accuracy, and exp of the mean cross-entropy."""
    import torch
    from sklearn.metrics import accuracy_score

    loss = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(labels))
    return float(accuracy_score(labels, logits.argmax(axis=1))), float(loss.exp())
