"""The tokenizer that transformers makes of a checkpoint's folder, as one tokenizer.json that gives the same ids.

A tokenizer.json alone does not say what that is: tokenizer_config.json names a class, and most classes build the parts before and
behind the vocabulary anew, by settings such as `do_lower_case` and `add_prefix_space`."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit.errors import CheckpointError, one_line
from edgekit.system.serial import read_json

# What tokenizers split and normalize in different ways, or not at all.
HARD_TEXTS = (
    "",
    " ",
    "  two  spaces\tand a tab ",
    "Hello world, it's Mr. O'Neill's re-entry (50% off!) at 3.14 or 1,000,000.",
    "ALL CAPS and CamelCase",
    "café cafe\u0301 naïve Ångström ﬁne ﬂow straße İstanbul ıssız",
    "你好，世界。漢字かな交じり文 한국어",
    "สวัสดีชาวโลก नमस्ते שלום عليكم",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 ❤️ ∑∞≠½™",
    "zero\u200bwidth\u00a0space\ufeff soft\u00adhyphen\u2028line \u202eright\u202c",
    "nul\x00 bell\x07 escape\x1b \ufffd",
    "line\nbreak\r\nand\n\nmore",
    "…—–‘’“”«»„",
    "[CLS] [SEP] [MASK] [PAD] [UNK] <s> </s> <pad> <mask> <unk> <|endoftext|>",
    "a[MASK]b <mask>c ##ing ▁meta Ġbyte",
    "http://example.org/?q=a+b&c=%20#top user@example.org @name #tag",
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft" * 2,
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ＦＵＬＬ ｗｉｄｔｈ Ⅷ ㎏ ①",
    "don't can't I'm we'll they've 'quoted' \"double\"",
)
# What a tokenizer may consist of; weights are none of these.
_FILES = ("*token*.json", "vocab*", "merges*", "*.model", "*.tiktoken")
_BERT_CLASSES = ("BertTokenizer", "BertTokenizerFast")
_BERT_TOKENS = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}
# Settings by which ids may differ from what the class and the file say.
_DECIDING = ("add_bos_token", "add_eos_token", "additional_special_tokens", "extra_special_tokens", "split_special_tokens")
_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "special": True}


def is_berts(described: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether a tokenizer.json, `described`, is what transformers' BertTokenizer makes of its vocabulary and these `settings`.

    For these, a good part of all checkpoints, it need not be asked, which takes seconds."""
    if settings.get("tokenizer_class") not in _BERT_CLASSES or any(settings.get(name) for name in _DECIDING):
        return False
    tokens = {name: _content(settings.get(name, usual)) for name, usual in _BERT_TOKENS.items()}
    model, added = described.get("model") or {}, described.get("added_tokens") or []
    normalizer = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": settings.get("tokenize_chinese_chars", True),
        "strip_accents": settings.get("strip_accents"),
        "lowercase": settings.get("do_lower_case", True),
    }
    parts = {"type": "WordPiece", "unk_token": tokens["unk_token"], "continuing_subword_prefix": "##"}
    flags = [token for token in added if any(token.get(name) != value for name, value in _FLAGS.items())]
    named = {*tokens.values(), *(_content(token) for token in (settings.get("added_tokens_decoder") or {}).values())}
    return (
        {name: model.get(name) for name in parts} == parts
        and model.get("max_input_chars_per_word") == 100
        and described.get("normalizer") == normalizer
        and described.get("pre_tokenizer") == {"type": "BertPreTokenizer"}
        and described.get("post_processor") == _template(tokens["cls_token"], tokens["sep_token"], model.get("vocab") or {})
        and not flags
        and {token.get("content") for token in added} == named
    )


def _content(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token


def _template(first: str, last: str, vocabulary: Mapping[str, int]) -> dict[str, Any]:
    """BERT's post-processor as tokenizers writes it."""

    def special(token: str, kind: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": token, "type_id": kind}}

    def text(name: str, kind: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": kind}}

    single = [special(first, 0), text("A", 0), special(last, 0)]
    tokens = {token: {"id": token, "ids": [vocabulary.get(token)], "tokens": [token]} for token in (first, last)}
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, text("B", 1), special(last, 1)],
        "special_tokens": tokens,
    }


def _copy(folder: Path, alone: Path) -> None:
    """The tokenizer and what of config.json tells its class: faults of the rest are not the tokenizer's."""
    alone.mkdir()
    for file in (file for pattern in _FILES for file in folder.glob(pattern)):
        shutil.copyfile(file, alone / file.name)
    config = read_json(file) if (file := folder / "config.json").is_file() else {}
    told = {name: config[name] for name in ("model_type", "tokenizer_class", "_name_or_path") if config.get(name)}
    (alone / "config.json").write_text(json.dumps(told), encoding="utf-8")


def write(folder: Path, written: Path) -> None:
    """Write what AutoTokenizer makes of `folder` to `written`, with its padding and the side that it cuts.

    In a child, because transformers loads torch. Raises `CheckpointError` for a tokenizer that no such file can hold."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    alone = written.parent / "alone"
    try:
        _copy(folder, alone)
        loaded = AutoTokenizer.from_pretrained(str(alone), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, AttributeError, ImportError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder}: no tokenizer can be loaded ({one_line(error)[:200]}); save one there with save_pretrained"
        ) from error
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None:
        raise CheckpointError(
            f"{folder}: its tokenizer, {type(loaded).__name__}, is Python code, which no file holds; "
            "export the model to ONNX and convert that with token ids in an .npz file"
        )
    encoder = Tokenizer.from_str(backend.to_str())
    encoder.no_truncation()
    encoder.no_padding()
    for text in HARD_TEXTS:
        for pair in (None, "second text"):
            theirs = list(loaded(text, pair, verbose=False)["input_ids"])
            if theirs != (ours := encoder.encode(text, pair).ids):
                raise CheckpointError(
                    f"{folder}: its tokenizer, {type(loaded).__name__}, gives {text[:40]!r} the ids {theirs[:8]}, "
                    f"as a file it gives {ours[:8]}; export the model to ONNX and convert that with token ids in an .npz file"
                )
    encoder.enable_truncation(2**20, direction=loaded.truncation_side)
    if loaded.pad_token is not None:
        encoder.enable_padding(
            direction=loaded.padding_side,
            pad_id=loaded.pad_token_id,
            pad_type_id=loaded.pad_token_type_id,
            pad_token=str(loaded.pad_token),
        )
    encoder.save(str(written))
