"""How many tokens a config.json says that a model takes, against what the model does; and what fills the rest."""

from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import ConfigError
from edgekit.models import positions
from edgekit.models.checkpoint import Checkpoint
from edgekit.system.worker import Worker
from tests.unit.models import lengths

POSITIONS = 12


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Any], dict[int, bool]]]:
    return Worker().run(lengths.tried, tuple(lengths.MODELS), POSITIONS, (8, 10, 12, 13, 14, 24)).value


@pytest.mark.parametrize("model_type", lengths.MODELS)
def test_a_model_runs_up_to_its_longest_and_no_further(
    outcomes: dict[str, tuple[dict[str, Any], dict[int, bool]]], model_type: str
) -> None:
    config, runs = outcomes[model_type]
    most = positions.longest(config)
    assert runs == {length: most is None or length <= most for length in runs}


def test_what_is_not_limited_and_what_is(tmp_path: Path) -> None:
    for config, most in (
        ({"model_type": "xlnet", "max_position_embeddings": -1}, None),
        ({"model_type": "deberta-v2", "max_position_embeddings": 64, "position_biased_input": False}, None),
        ({"model_type": "t5", "n_positions": 64}, None),
        ({"model_type": "gpt2", "n_positions": 64}, 64),
        ({"model_type": "clip", "text_config": {"max_position_embeddings": 77}}, 77),
        ({"model_type": "esm", "max_position_embeddings": 66, "pad_token_id": 1}, 64),
        ({"model_type": "esm", "max_position_embeddings": 66, "position_embedding_type": "rotary"}, 66),
        ({"model_type": "bert", "max_position_embeddings": "many"}, None),
        ({"model_type": "bert"}, None),
    ):
        assert positions.longest(config) == most, config


def test_a_length_beyond_the_positions_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "n_positions": 64}')
    checkpoint = Checkpoint.read(tmp_path)
    checkpoint.check_length(64)
    with pytest.raises(ConfigError, match=r"max_length is 128 but .* takes 64 tokens; give --max-length 64 or less"):
        checkpoint.check_length(128)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt_neo"])
def test_a_config_without_a_padding_token_takes_the_tokenizers(tmp_path: Path, name: str) -> None:
    assert Worker().run(lengths.padding, tmp_path, name, "fill").value == 2


def test_no_padding_token_anywhere(tmp_path: Path) -> None:
    message = Worker().run(lengths.padding, tmp_path, "llama", None).value
    assert str(message).endswith("names no padding token; set pad_token in tokenizer_config.json")
