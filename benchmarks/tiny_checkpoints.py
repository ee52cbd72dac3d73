"""A tiny checkpoint of every architecture and task of texts at hand, with random weights."""

from pathlib import Path
from typing import Any

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("the", "a", "film", "story", "actor", "scene", "was", "is", "and", "very", "good", "bad", "warm", "dull", "great", "cold")
LENGTH = 16
_SIZES = {"num_labels": 2, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
# What an architecture calls its sizes, or needs besides.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "albert": {"embedding_size": 32},
    "bart": {
        "num_labels": 3,
        "d_model": 64,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 128,
    },
    "bert": {},
    "camembert": {},
    "clip_text_model": {},
    "convbert": {"embedding_size": 64},
    "data2vec-text": {},
    "deberta": {"relative_attention": True, "pos_att_type": "c2p|p2c"},
    "deberta-v2": {"relative_attention": True, "pos_att_type": "c2p|p2c", "position_buckets": 8, "conv_kernel_size": 3},
    "distilbert": {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128},
    "electra": {"embedding_size": 32},
    "ernie": {},
    "esm": {"mask_token_id": 4, "position_embedding_type": "rotary"},
    "eurobert": {"head_dim": 16, "num_key_value_heads": 4},
    "flaubert": {"emb_dim": 64, "n_layers": 2, "n_heads": 4},
    "fnet": {"use_tpu_fourier_optimizations": False},
    "funnel": {
        "architectures": ["FunnelModel"],
        "block_sizes": [1, 1],
        "d_model": 64,
        "n_head": 4,
        "d_head": 16,
        "d_inner": 128,
        "num_decoder_layers": 1,
        "num_hidden_layers": None,
        "block_repeats": [1, 1],
    },
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4},
    "gpt_neox": {},
    "ibert": {},
    "jina_embeddings_v3": {},
    "layoutlm": {},
    "llama": {"num_key_value_heads": 2},
    "mbart": {"d_model": 64, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 4, "encoder_ffn_dim": 128},
    "megatron-bert": {},
    "mistral": {"num_key_value_heads": 2},
    "mobilebert": {"embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32},
    "modernbert": {},
    "mpnet": {},
    "mt5": {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0},
    "nomic_bert": {},
    "nystromformer": {"num_landmarks": LENGTH, "segment_means_seq_len": LENGTH},
    "opt": {"ffn_dim": 128, "word_embed_proj_dim": 64},
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 16},
    "rembert": {"input_embedding_size": 32, "output_embedding_size": 32},
    "roberta": {},
    "roberta-prelayernorm": {},
    "roformer": {"embedding_size": 64},
    "squeezebert": {"embedding_size": 64},
    "t5": {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0},
    "umt5": {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4},
    "xlm": {"emb_dim": 64, "n_layers": 2, "n_heads": 4},
    "xlm-roberta": {},
    "xlm-roberta-xl": {},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "xlnet": {"max_position_embeddings": None, "d_model": 64, "n_layer": 2, "n_head": 4, "d_inner": 128},
}


# Tasks with the transformers class whose head serves them.
CLASSES = {
    "feature-extraction": "AutoModel",
    "fill-mask": "AutoModelForMaskedLM",
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "multiple-choice": "AutoModelForMultipleChoice",
}
# Which of an encoder with a decoder is the encoder alone.
_ENCODERS = {"mt5": "MT5EncoderModel", "t5": "T5EncoderModel", "umt5": "UMT5EncoderModel"}
# How the tokens of a text, and of two, stand, where not as BERT's; padding is on the right but for XLNet's.
_CLOSED = ("$A [SEP]", "$A [SEP] $B [SEP]")
_FRAMES = {
    **dict.fromkeys(("mbart", "mt5", "t5", "umt5"), _CLOSED),
    **dict.fromkeys(("gpt2", "gpt_neox", "qwen2", "qwen3"), ("$A", "$A $B")),
    **dict.fromkeys(("llama", "mistral", "opt"), ("[CLS] $A", "[CLS] $A $B")),
    **dict.fromkeys(
        (
            "camembert",
            "data2vec-text",
            "jina_embeddings_v3",
            "mpnet",
            "roberta",
            "roberta-prelayernorm",
            "xlm-roberta",
            "xlm-roberta-xl",
            "xmod",
        ),
        ("[CLS] $A [SEP]", "[CLS] $A [SEP] [SEP] $B [SEP]"),
    ),
    "funnel": ("[CLS]:2 $A [SEP]", "[CLS]:2 $A [SEP] $B:1 [SEP]:1"),
    "xlnet": ("$A [SEP] [CLS]:2", "$A [SEP] $B:1 [SEP]:1 [CLS]:2"),
}
_BERT = ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
# Whose tokenizers say nothing of segments.
_NO_SEGMENTS = (*(_FRAMES.keys() - {"funnel", "xlnet"}), "bart", "clip_text_model", "distilbert", "esm", "eurobert", "modernbert")
# Of which AutoTokenizer builds a tokenizer of bytes, whatever class the folder names.
_BYTE_PAIRS = {"qwen2": "Qwen2Tokenizer"}


def served(name: str, task: str) -> bool:
    """Whether transformers has a class of the architecture for the task, which fits an encoder alone. Needs transformers."""
    import transformers

    if task == "feature-extraction" and name in _ENCODERS:
        return True
    if task in ("fill-mask", "multiple-choice") and name in ("bart", "mbart", "mt5", "t5", "umt5"):
        return False
    mapping = getattr(transformers, CLASSES[task])._model_mapping
    return type(_config(name)) in mapping


def all_pairs() -> list[tuple[str, str]]:
    """Architectures and tasks; in a child."""
    return [(name, task) for name in ARCHITECTURES for task in CLASSES if served(name, task)]


def _byte_pairs() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges by which each word, behind a blank or not, is built of its letters."""
    vocabulary = {token: number for number, token in enumerate([*_SPECIAL, "Ġ", *sorted({*"".join(WORDS)})])}
    merges = []
    for word in [*(f"Ġ{word}" for word in WORDS), *WORDS]:
        for end in range(1, len(word)):
            if word[: end + 1] not in vocabulary:
                merges.append((word[:end], word[end]))
                vocabulary[word[: end + 1]] = len(vocabulary)
    return vocabulary, merges


def _config(name: str) -> Any:
    import transformers

    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3, "pad_index": 0}
    common = {"vocab_size": len(_SPECIAL) + len(WORDS), "max_position_embeddings": 64, "initializer_range": 0.2}
    settings = {**common, **ids, **_SIZES, **ARCHITECTURES[name]}
    if name in _BYTE_PAIRS:
        settings["vocab_size"] = len(_byte_pairs()[0])
    return transformers.AutoConfig.for_model(name, **{key: value for key, value in settings.items() if value is not None})


def save(folder: Path, name: str, task: str = "text-classification") -> None:
    """A checkpoint of the architecture with random weights and a tokenizer of a few words; in a child."""
    import tokenizers
    import torch
    import transformers

    named = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), _SPECIAL, strict=True))
    if name in _BYTE_PAIRS:
        vocabulary, merges = _byte_pairs()
        tokenizer = getattr(transformers, _BYTE_PAIRS[name])(vocab=vocabulary, merges=merges, eos_token="[SEP]", **named)
    else:
        words = {word: number for number, word in enumerate([*_SPECIAL, *WORDS])}
        text = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
        text.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        single, pair = _FRAMES.get(name, _BERT)
        text.post_processor = tokenizers.processors.TemplateProcessing(
            single=single, pair=pair, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        side = "left" if name == "xlnet" else "right"
        inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if name not in _NO_SEGMENTS else [])]
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=text, padding_side=side, model_input_names=inputs, **named
        )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = _config(name)
    if task == "feature-extraction" and name in _ENCODERS:
        model = getattr(transformers, _ENCODERS[name])(config)
    else:
        model = getattr(transformers, CLASSES[task]).from_config(config)
    model.save_pretrained(folder)
