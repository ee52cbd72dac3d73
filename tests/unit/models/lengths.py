"""Tiny models of many architectures, and the lengths at which they run; in a child."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

_USUAL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
_OLD = {"n_embd": 16, "n_layer": 1, "n_head": 2}
# What the architectures call their sizes, and how many positions they have.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("max_position_embeddings", _USUAL),
    "roberta": ("max_position_embeddings", _USUAL),
    "mpnet": ("max_position_embeddings", _USUAL),
    "data2vec-text": ("max_position_embeddings", _USUAL),
    "albert": ("max_position_embeddings", {**_USUAL, "embedding_size": 8}),
    "distilbert": ("max_position_embeddings", {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16}),
    "electra": ("max_position_embeddings", {**_USUAL, "embedding_size": 8}),
    "flaubert": ("max_position_embeddings", {"emb_dim": 16, "n_layers": 1, "n_heads": 2}),
    "xlm": ("max_position_embeddings", {"emb_dim": 16, "n_layers": 1, "n_heads": 2}),
    "gpt2": ("n_positions", _OLD),
    "openai-gpt": ("n_positions", _OLD),
    "opt": (
        "max_position_embeddings",
        {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 16, "word_embed_proj_dim": 16},
    ),
    "xlnet": ("ignored", {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 16}),
    "funnel": (
        "max_position_embeddings",
        {"block_sizes": [1], "num_decoder_layers": 1, "d_model": 16, "n_head": 2, "d_head": 8, "d_inner": 16},
    ),
    "deberta-v2": (
        "max_position_embeddings",
        {**_USUAL, "position_biased_input": False, "relative_attention": True, "pos_att_type": "c2p|p2c"},
    ),
}


def tried(names: Sequence[str], positions: int, lengths: Sequence[int]) -> dict[str, tuple[dict[str, Any], dict[int, bool]]]:
    """Each model's config, as config.json has it, and at which lengths it runs."""
    import torch
    import transformers

    outcomes = {}
    for name in names:
        key, sizes = MODELS[name]
        common = {"vocab_size": 20, "pad_token_id": 1, "pad_index": 1, "bos_token_id": 2, "eos_token_id": 3}
        config = transformers.AutoConfig.for_model(name, **common, **sizes, **{key: positions})
        config.architectures = config.architectures or []
        model = transformers.AutoModel.from_config(config).eval()
        runs = {}
        for length in lengths:
            try:
                with torch.no_grad():
                    model(input_ids=torch.full((1, length), 5))
                runs[length] = True
            except (IndexError, RuntimeError):
                runs[length] = False
        outcomes[name] = (config.to_dict(), runs)
    return outcomes


def padding(folder: Path, name: str, pad_token: str | None) -> int | str:
    """The padding token's id of a classifier whose config names none, as it is loaded, or why it is not."""
    import transformers
    from tokenizers import Tokenizer, models

    from edgekit.errors import CheckpointError
    from edgekit.models.checkpoint import Checkpoint
    from edgekit.models.weights import load_model

    words = {word: number for number, word in enumerate(("the", "end", "fill", "film"))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="end"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=pad_token).save_pretrained(folder)
    sizes: dict[str, Any] = (
        {"attention_types": [[["global"], 1]], "num_layers": 1, "num_heads": 2} if name == "gpt_neo" else {**_USUAL}
    )
    ids = {"pad_token_id": None, "bos_token_id": 1, "eos_token_id": 1}
    config = transformers.AutoConfig.for_model(name, vocab_size=4, **{**_USUAL, **sizes, **ids})
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    try:
        return int(load_model(Checkpoint.read(folder)).config.pad_token_id)
    except CheckpointError as error:
        return error.message
