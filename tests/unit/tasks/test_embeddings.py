"""Vectors of texts: rows, what is read of outputs, what is refused, and what is learned."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.data.encode import Encoding
from edgekit.data.samples import Array, Samples
from edgekit.data.sources import read
from edgekit.errors import ConfigError, DatasetError, RefusedError
from edgekit.measure.measurement import Measurement, refusal
from edgekit.models.checkpoint import Checkpoint
from edgekit.spec import DataSpec, TensorSpec
from edgekit.stages.train.config import DistillConfig, FinetuneConfig
from edgekit.system.worker import Worker
from edgekit.tasks import metrics
from edgekit.tasks.embeddings import FEATURE_EXTRACTION, SENTENCE_SIMILARITY, Embeddings
from edgekit.tasks.judgement import judge
from edgekit.workflows.distill import distill
from edgekit.workflows.finetune import finetune
from edgekit.workflows.prune import PruneConfig, prune
from tests import tiny

LENGTH = 24
DRAW = np.random.default_rng(0)
TEXTS = [text for text, _ in tiny.sentences(80)]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoders") / "encoder"
    return Path(Worker(timeout_s=100).run(tiny.sentence_encoder, folder, ("Dense", "Normalize")).value)


def encode(encoder: Path, rows: list[dict[str, Any]], task: Embeddings = SENTENCE_SIMILARITY, **settings: Any) -> Samples:
    inputs = tuple(TensorSpec(name, (1, LENGTH), "int32") for name in ("input_ids", "attention_mask"))
    return task.encode(read(DataSpec(rows), task.columns), inputs, Encoding(encoder), settings, encoder)


def pairs(count: int) -> list[dict[str, Any]]:
    return [
        {"sentence1": one, "sentence2": other, "score": round(5 * number / count, 2)}
        for number, (one, other) in enumerate(zip(TEXTS[:count], TEXTS[count:], strict=False))
    ]


def test_the_texts_of_a_pair_go_in_each_by_itself(encoder: Path) -> None:
    samples, alone = encode(encoder, pairs(6)), encode(encoder, [{"text": text} for text in TEXTS[:12]])
    np.testing.assert_array_equal(samples.inputs["input_ids"][::2], alone.inputs["input_ids"][:6])
    np.testing.assert_array_equal(samples.inputs["input_ids"][1::2], alone.inputs["input_ids"][6:])
    assert samples.row is not None
    assert samples.row.tolist() == [number // 2 for number in range(12)]
    assert samples.labels is not None
    assert samples.labels.tolist() == [row["score"] for row in pairs(6) for _ in range(2)]
    # A class of a text says nothing of how alike two are.
    assert encode(encoder, [{"text": text, "label": 1} for text in TEXTS[:3]]).labels is None


def test_a_prompt_stands_before_every_text(encoder: Path) -> None:
    prompted = encode(encoder, [{"text": "Warm film"}], prompt="the story : ", lower_case_texts=True)
    np.testing.assert_array_equal(
        prompted.inputs["input_ids"], encode(encoder, [{"text": "the story : warm film"}]).inputs["input_ids"]
    )


def test_scores_that_are_none_are_refused(encoder: Path) -> None:
    with pytest.raises(DatasetError, match="has the label 'entailment', no value"):
        encode(encoder, [{"sentence1": "a", "sentence2": "b", "label": "entailment"}])


def test_spearman_is_scipys_and_cosines_are_scikit_learns(encoder: Path) -> None:
    stats, pairwise = pytest.importorskip("scipy.stats"), pytest.importorskip("sklearn.metrics.pairwise")
    samples, vectors = encode(encoder, pairs(40)), DRAW.standard_normal((80, 16)).astype(np.float32)
    noisy = vectors + 0.1 * DRAW.standard_normal((80, 16)).astype(np.float32)
    judgement = judge({"sentence_embedding": noisy}, samples, {"sentence_embedding": vectors})
    scores = {score.metric: score.value for score in judgement.scores}
    alike = np.diag(pairwise.cosine_similarity(noisy[::2], noisy[1::2]))
    truth = np.asarray(samples.labels)[::2]
    assert scores["Spearman"] == pytest.approx(stats.spearmanr(alike, truth).statistic)
    assert scores["Pearson"] == pytest.approx(stats.pearsonr(alike, truth).statistic)
    to_reference = np.diag(pairwise.cosine_similarity(noisy, vectors))
    assert scores["cosine"] == pytest.approx(to_reference.mean())
    assert scores["worst cosine"] == pytest.approx(to_reference.min())
    assert (judgement.rows, judgement.scores[0].total, judgement.scores[-1].total) == (40, 40, 80)
    assert judgement.drop is not None
    assert judgement.drop.total == 40


def test_cosines_of_nothing() -> None:
    none, some = np.zeros((1, 3)), np.ones((1, 3))
    assert metrics.cosines(none, none).tolist() == [1]
    assert metrics.cosines(none, some).tolist() == [0]


def test_padding_has_no_vector(encoder: Path) -> None:
    samples = encode(encoder, [{"text": text} for text in TEXTS[:20]], FEATURE_EXTRACTION)
    states = DRAW.standard_normal((20, LENGTH, 8)).astype(np.float32)
    other = np.where(samples.inputs["attention_mask"][:, :, np.newaxis] > 0, states, 7)
    judgement = judge({"last_hidden_state": other}, samples, {"last_hidden_state": states})
    assert [score.value for score in judgement.scores] == [1, 1]
    other[3, 0] = -states[3, 0]
    judgement = judge({"last_hidden_state": other}, samples, {"last_hidden_state": states})
    assert judgement.scores[1].value == pytest.approx(-1)
    tokens = int(samples.inputs["attention_mask"].sum())
    assert judgement.scores[0].value == pytest.approx(1 - 2 / tokens)
    prediction = FEATURE_EXTRACTION.predict({"last_hidden_state": states[:1]}, samples.take([0]))
    assert len(prediction.fields["tokens"]) == int(samples.inputs["attention_mask"][0].sum())


@pytest.mark.parametrize("labelled", [True, False])
def test_vectors_that_point_elsewhere_are_refused(encoder: Path, labelled: bool) -> None:
    rows = pairs(40) if labelled else [{"text": text} for text in TEXTS]
    samples, vectors = encode(encoder, rows), DRAW.standard_normal((80, 16)).astype(np.float32)

    def reason(outputs: Array) -> str:
        judgement = judge({"sentence_embedding": outputs}, samples, {"sentence_embedding": vectors})
        return refusal(Measurement("file.tflite", 1, None).judged(judgement, samples.task), 0.05, 20, "try") or ""

    assert reason(vectors) == ""
    # Longer vectors are as alike, though far away in dB.
    assert reason(2 * vectors) == ""
    assert "its vectors have a mean cosine of" in reason(vectors + 0.3 * DRAW.standard_normal((80, 16)).astype(np.float32))
    others = reason(DRAW.standard_normal((80, 16)).astype(np.float32))
    assert ("its vectors have a mean cosine of" in others) or ("of Spearman against float32" in others)


def test_what_is_no_vector_is_refused(encoder: Path) -> None:
    samples = encode(encoder, [{"text": "warm"}])
    with pytest.raises(RefusedError, match="is not a vector; name another --task"):
        judge({"logits": np.zeros((1, 4, 4), np.float32)}, samples)
    with pytest.raises(RefusedError, match="is not a vector of each token; name another --task"):
        judge({"logits": np.zeros((1, 4), np.float32)}, encode(encoder, [{"text": "warm"}], FEATURE_EXTRACTION))


def test_what_a_person_sees_is_json(encoder: Path) -> None:
    vectors = np.array([[3.0, 4.0], [4.0, 3.0]], np.float32)
    one = SENTENCE_SIMILARITY.predict({"sentence_embedding": vectors[:1]}, encode(encoder, [{"text": "warm"}]))
    assert (one.answer, one.score, one.fields) == ("2 values", 5, {"norm": 5, "embedding": [3, 4]})
    two = SENTENCE_SIMILARITY.predict({"sentence_embedding": vectors}, encode(encoder, pairs(1)))
    assert two.score == pytest.approx(24 / 25)
    assert json.loads(json.dumps(two.fields)) == two.fields
    described = SENTENCE_SIMILARITY.describe({"pooling": ["mean"], "normalized": True, "prompt": "query: "})
    assert "mean of its tokens, of length 1" in described.outputs[""][1]
    assert "'query: ' before it" in described.outputs[""][1]


def _losses() -> list[float]:
    import torch

    near, far = torch.tensor([[1.0, 0.0], [1.0, 0.1]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    labels = torch.tensor([5.0, 5.0, 0.0, 0.0])
    rows = (torch.cat([near, far]), torch.cat([far, near]), torch.cat([near, near]))
    return [float(SENTENCE_SIMILARITY.loss({"sentence_embedding": row}, labels, {})) for row in rows]


def test_the_loss_is_less_where_the_order_is_right() -> None:
    right, wrong, even = Worker(timeout_s=100).run(_losses).value
    assert 0 <= right < 1e-6
    # exp(0) for nothing wrong, and once for the two pairs that are as alike.
    assert even == pytest.approx(np.log(2))
    assert wrong == pytest.approx(20 / np.sqrt(1.01), rel=1e-3)


QUICK: dict[str, Any] = {"batch_size": 8, "learning_rate": 1e-3, "max_length": LENGTH, "threads": 1}


def test_pairs_with_scores_are_learned(encoder: Path, tmp_path: Path) -> None:
    rows = DataSpec([{**row, "score": 1 if number % 2 else 5} for number, row in enumerate(pairs(40))])
    config = FinetuneConfig(rows, rows, "sentence-similarity", epochs=12, **QUICK)
    result = finetune(encoder, tmp_path / "out", config)
    assert result.metric.metric == "Spearman"
    assert result.metric.value > result.epochs[0].metric.value
    assert result.metric.value > 0.5
    assert Checkpoint.read(tmp_path / "out").settings == Checkpoint.read(encoder).settings


def test_a_text_alone_teaches_no_likeness(encoder: Path, tmp_path: Path) -> None:
    rows = DataSpec([{"text": text, "label": 1} for text in TEXTS])
    with pytest.raises(DatasetError, match="holds no pairs of texts with scores"):
        finetune(encoder, tmp_path / "out", FinetuneConfig(rows, None, "sentence-similarity", epochs=1, **QUICK))
    with pytest.raises(ConfigError, match="edgekit distill learns from a teacher"):
        finetune(encoder, tmp_path / "out", FinetuneConfig(rows, None, "feature-extraction", epochs=1, **QUICK))


def test_what_is_pruned_recovers_on_texts_without_labels(encoder: Path, tmp_path: Path) -> None:
    rows = DataSpec([{"text": text} for text in TEXTS])
    training = DistillConfig(epochs=12, **QUICK)
    pruned = prune(
        encoder, tmp_path / "out", PruneConfig(heads=0.5, ffn=0.5, max_length=LENGTH, round_to=1, data=rows, recovery=training)
    )
    assert pruned.recovery is not None
    first, last = (epoch.metric for epoch in (pruned.recovery.epochs[0], pruned.recovery.epochs[-1]))
    assert (first.metric, last.metric) == ("cosine", "cosine")
    assert last.value > first.value
    assert pruned.recovery.distillation is not None
    assert pruned.recovery.distillation.metric.value == pytest.approx(1)
    checkpoint = Checkpoint.read(tmp_path / "out")
    assert checkpoint.settings == Checkpoint.read(encoder).settings
    assert (tmp_path / "out/2_Dense/model.safetensors").is_file()


def test_states_of_tokens_are_learned_from_a_teacher(encoder: Path, tmp_path: Path) -> None:
    rows = DataSpec([{"text": text} for text in TEXTS[:32]])
    student = Worker(timeout_s=100).run(tiny.model, tmp_path / "student", "feature-extraction").value
    (student / "model.safetensors").unlink()
    config = DistillConfig(rows, None, "feature-extraction", epochs=6, teacher=str(encoder), **QUICK)
    result = distill(student, tmp_path / "out", config)
    assert result.task == "feature-extraction"
    assert result.metric.value > result.epochs[0].metric.value
