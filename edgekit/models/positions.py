"""How many tokens a model has positions for, by what its config.json says: no framework is loaded."""

from collections.abc import Mapping
from typing import Any

# Beside the usual name, that of older architectures. T5 and its kin use it, too, and mean nothing by it.
_NAMES = ("max_position_embeddings", "n_positions")
# Positions relative to each other, or biases by distance: no text is too long.
_RELATIVE = (
    *("bloom", "funnel", "longt5", "mpt", "mt5", "switch_transformers", "t5", "transfo-xl", "udop", "umt5", "xlnet"),
    *("t5gemma", "mega"),
)
# Counted from behind the padding token's id, which takes that many of them away.
_OFFSET = (
    *("altclip", "camembert", "data2vec-text", "esm", "ibert", "layoutlmv3", "lilt", "longformer", "luke", "markuplm", "mpnet"),
    *("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
)
_PADDING = 1


def longest(config: Mapping[str, Any]) -> int | None:
    """How many tokens the model of a config.json takes; None where nothing limits them, or it does not say."""
    text = config.get("text_config")
    settings = text if isinstance(text, Mapping) else config
    model_type = config.get("model_type")
    if model_type in _RELATIVE or settings.get("position_biased_input") is False:
        return None
    # DeBERTa and others name a position for "none" by -1.
    positions = next((value for name in _NAMES if isinstance(value := settings.get(name), int) and value > 0), None)
    if positions is None or not counts_from_padding(config):
        return positions
    padding = config.get("pad_token_id", _PADDING)
    return positions - (padding if isinstance(padding, int) else _PADDING) - 1


def counts_from_padding(config: Mapping[str, Any]) -> bool:
    """Whether a model's first position is the one behind its padding token's id."""
    model_type = config.get("model_type")
    return model_type in _OFFSET and not (model_type == "esm" and config.get("position_embedding_type") == "rotary")
