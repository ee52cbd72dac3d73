"""Models with two halves, and those that count with masks and segments: what transformers says of texts without padding."""

import json
from pathlib import Path

import pytest

from edgekit.models.checkpoint import Checkpoint
from edgekit.system.worker import Worker
from tests.unit.stages.export import text_models


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[float, float, float]]:
    return Worker(timeout_s=300).run(text_models.export_all, tmp_path_factory.mktemp("text models")).value


@pytest.mark.parametrize("name", text_models.MODELS)
def test_the_export_is_true_to_texts_without_padding(results: dict[str, tuple[float, float, float]], name: str) -> None:
    from_transformers, onnx, spread = results[name]
    assert spread > 0.01, "rows that all look alike prove nothing"
    assert from_transformers < 1e-5
    assert onnx < 1e-5


@pytest.mark.parametrize(
    ("model_type", "names", "pairs", "segments"),
    [
        ("xlnet", ["input_ids", "token_type_ids", "attention_mask"], False, True),
        ("xlnet", ["input_ids", "attention_mask"], True, False),
        ("funnel", None, True, False),
        ("bert", ["input_ids", "token_type_ids", "attention_mask"], False, False),
        ("bert", None, True, True),
    ],
)
def test_segments_are_fed_where_they_change_the_answer(
    tmp_path: Path, model_type: str, names: list[str] | None, pairs: bool, segments: bool
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, "type_vocab_size": 3}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_input_names": names} if names else {}))
    (tmp_path / "tokenizer.json").write_text(json.dumps({}))
    specs = Checkpoint.read(tmp_path, "text-classification").inputs(8, pairs=pairs)
    assert ("token_type_ids" in [spec.name for spec in specs]) == segments
