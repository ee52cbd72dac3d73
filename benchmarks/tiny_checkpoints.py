"""A tiny text classifier of every architecture at hand, with random weights."""

from pathlib import Path
from typing import Any

_WORDS = ("the", "a", "film", "story", "actor", "scene", "was", "is", "and", "very", "good", "bad", "warm", "dull", "great", "cold")
LENGTH = 16
_SIZES = {"num_labels": 2, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
# What an architecture calls its sizes, or needs besides.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "albert": {"embedding_size": 32},
    "bert": {},
    "camembert": {},
    "convbert": {"embedding_size": 64},
    "deberta": {"relative_attention": True, "pos_att_type": "c2p|p2c"},
    "deberta-v2": {"relative_attention": True, "pos_att_type": "c2p|p2c", "position_buckets": 8, "conv_kernel_size": 3},
    "distilbert": {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128},
    "electra": {"embedding_size": 32},
    "ernie": {},
    "flaubert": {"emb_dim": 64, "n_layers": 2, "n_heads": 4},
    "funnel": {
        "block_sizes": [1, 1],
        "d_model": 64,
        "n_head": 4,
        "d_head": 16,
        "d_inner": 128,
        "num_decoder_layers": 1,
        "num_hidden_layers": None,
    },
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4},
    "megatron-bert": {},
    "mobilebert": {"embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32},
    "modernbert": {},
    "mpnet": {},
    "nystromformer": {"num_landmarks": LENGTH, "segment_means_seq_len": LENGTH},
    "roberta": {},
    "roformer": {"embedding_size": 64},
    "squeezebert": {"embedding_size": 64},
    "xlm": {"emb_dim": 64, "n_layers": 2, "n_heads": 4},
    "xlm-roberta": {},
    "xlnet": {"max_position_embeddings": None, "d_model": 64, "n_layer": 2, "n_head": 4, "d_inner": 128},
}


def save(folder: Path, name: str) -> None:
    """A checkpoint of the architecture with random weights and a tokenizer of a few words; in a child."""
    import tokenizers
    import torch
    import transformers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = {word: number for number, word in enumerate([*special, *_WORDS])}
    text = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    text.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    text.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    named = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    transformers.PreTrainedTokenizerFast(tokenizer_object=text, **named).save_pretrained(folder)
    torch.manual_seed(0)
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3, "pad_index": 0}
    common = {"vocab_size": len(words), "max_position_embeddings": 64, "initializer_range": 0.2}
    settings = {**common, **ids, **_SIZES, **ARCHITECTURES[name]}
    config = transformers.AutoConfig.for_model(name, **{key: value for key, value in settings.items() if value is not None})
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
