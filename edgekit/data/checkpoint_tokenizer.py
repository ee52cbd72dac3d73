"""The tokenizer that transformers makes of a checkpoint's folder, as one tokenizer.json that gives the same ids.

A tokenizer.json alone does not say what that is: tokenizer_config.json names a class, and most classes build the parts before and
behind the vocabulary anew, by settings such as `do_lower_case` and `add_prefix_space`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.errors import CheckpointError, one_line
from edgekit.system.serial import parse_json

_UNCUT = 2**20
_WAY_OUT = (
    "run edgekit export on the checkpoint with --format onnx and no data, then edgekit convert on that file with ids in an .npz"
)

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
_BERT_CLASSES, _GENERIC_CLASSES = ("BertTokenizer", "BertTokenizerFast"), ("PreTrainedTokenizerFast", "TokenizersBackend")
_BERT_TOKENS = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}
# Those of which transformers believes the class that tokenizer_config.json names; for others it has a list.
_BELIEVED = (
    *("albert", "bert", "camembert", "convbert", "deberta", "deberta-v2", "distilbert", "electra", "ernie", "funnel", "gpt2"),
    *("gpt_neo", "megatron-bert", "mobilebert", "mpnet", "nystromformer", "opt", "roberta", "roformer", "squeezebert"),
    *("xlm-roberta", "xlnet"),
)
# Settings by which ids may differ from what the class and the file say.
_DECIDING = (
    "add_bos_token",
    "add_eos_token",
    "additional_special_tokens",
    "extra_special_tokens",
    "split_special_tokens",
    "auto_map",
)
_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
# Larger ones transformers may mend the splitting of.
_LARGE = 100_000
_SEGMENTS = "token_type_ids"
# Texts, and the second ones of pairs.
Part = tuple[Sequence[str], Sequence[str] | None]


def is_plain(described: Mapping[str, Any], settings: Mapping[str, Any], model_type: str) -> bool:
    """Whether a tokenizer.json, `described`, is itself what transformers makes of it by `settings`, those of tokenizer_config.json.

    For these, a good part of all checkpoints, it need not be asked, which takes seconds."""
    kind, added = settings.get("tokenizer_class"), described.get("added_tokens") or []
    vocabulary = (described.get("model") or {}).get("vocab") or {}
    if model_type not in _BELIEVED or any(settings.get(name) for name in _DECIDING) or len(vocabulary) > _LARGE:
        return False
    listed = {token.get("content"): token for token in added}
    decoder = (settings.get("added_tokens_decoder") or {}).values()
    if any(
        token != {name: value for name, value in listed.get(token.get("content"), {}).items() if name != "id"} for token in decoder
    ):
        return False
    named = {content(value) for name, value in settings.items() if name.endswith("_token")} - {None}
    if kind in _GENERIC_CLASSES:
        processor = described.get("post_processor") or {}
        segments = _SEGMENTS in (settings.get("model_input_names") or ())
        return named <= listed.keys() and bool(processor) and (segments or not _tells_apart(processor))
    return kind in _BERT_CLASSES and _is_berts(described, settings, vocabulary, listed, named)


def _is_berts(
    described: Mapping[str, Any],
    settings: Mapping[str, Any],
    vocabulary: Mapping[str, int],
    listed: Mapping[str, Any],
    named: set[Any],
) -> bool:
    """Whether it is what BertTokenizer builds of the vocabulary."""
    normalizer = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": settings.get("tokenize_chinese_chars", True),
        "strip_accents": settings.get("strip_accents"),
        "lowercase": settings.get("do_lower_case", True),
    }
    model = {name: value for name, value in (described.get("model") or {}).items() if name != "vocab"}
    return (
        model.pop("max_input_chars_per_word", None) == 100
        and model == {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##"}
        and described.get("normalizer") == normalizer
        and described.get("pre_tokenizer") == {"type": "BertPreTokenizer"}
        and described.get("post_processor") == _template("[CLS]", "[SEP]", vocabulary)
        and all(token.get(name) == value for token in listed.values() for name, value in _FLAGS.items())
        and listed.keys() == {*_BERT_TOKENS.values()} >= named
        and all(content(settings.get(name, usual)) == usual for name, usual in _BERT_TOKENS.items())
        and _SEGMENTS in settings.get("model_input_names", [_SEGMENTS])
    )


def content(token: Any) -> Any:
    """A token's text: settings hold it so, or with what is said of it."""
    return token.get("content") if isinstance(token, dict) else token


def _tells_apart(part: Any) -> bool:
    """Whether a post-processor gives the second text another segment than the first."""
    if isinstance(part, list):
        return any(map(_tells_apart, part))
    if isinstance(part, dict):
        return bool(part.get("type_id")) or part.get("type") == "BertProcessing" or any(map(_tells_apart, part.values()))
    return False


def _one_segment(part: Any) -> Any:
    """A post-processor whose second text has the first one's segment."""
    if isinstance(part, list):
        return [_one_segment(item) for item in part]
    if isinstance(part, dict):
        return {name: 0 if name == "type_id" else _one_segment(item) for name, item in part.items()}
    return part


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


def write(folder: Path, written: Path) -> None:
    """Write what AutoTokenizer makes of `folder` to `written`, with its padding and the side that it cuts.

    In a child, because transformers loads torch. Raises `CheckpointError` for a tokenizer that no such file can hold."""
    from tokenizers import Tokenizer

    loaded = load(folder)
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None:
        raise CheckpointError(f"{folder}: its tokenizer, {type(loaded).__name__}, is Python code, which no file holds; {_WAY_OUT}")
    described = parse_json(backend.to_str())
    if _SEGMENTS not in loaded.model_input_names:
        described["post_processor"] = _one_segment(described["post_processor"])
    encoder = Tokenizer.from_str(json.dumps(described))
    encoder.no_padding()
    encoder.enable_truncation(_UNCUT, direction=loaded.truncation_side)
    if loaded.pad_token is not None:
        encoder.enable_padding(
            direction=loaded.padding_side,
            pad_id=loaded.pad_token_id,
            pad_type_id=loaded.pad_token_type_id if _SEGMENTS in loaded.model_input_names else 0,
            pad_token=str(loaded.pad_token),
        )
    encoder.save(str(written))
    _compare(loaded, folder, Tokenizer.from_file(str(written)), [(HARD_TEXTS, None), (HARD_TEXTS, HARD_TEXTS[::-1])])


def check(folder: Path, tokenizer: str, parts: Sequence[Part]) -> None:
    """Raise `CheckpointError` for a text, or a pair, to which the tokenizer.json `tokenizer` gives other ids than AutoTokenizer.

    In a child, as `write`."""
    from tokenizers import Tokenizer

    _compare(load(folder), folder, Tokenizer.from_str(tokenizer), parts)


def load(folder: Path) -> Any:
    """The checkpoint's tokenizer as transformers has it. Raises `CheckpointError` if it does not load."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise CheckpointError(
            f"{folder}: its tokenizer does not load ({one_line(error)}); save one with save_pretrained"
        ) from error


def _compare(loaded: Any, folder: Path, encoder: Any, parts: Sequence[Part]) -> None:
    encoder.no_truncation()
    encoder.no_padding()
    for texts, pairs in parts:
        both = (list(texts),) if pairs is None else (list(texts), list(pairs))
        theirs, ours = loaded(*both, verbose=False), encoder.encode_batch([*zip(*both, strict=True)] if pairs else both[0])
        for index, (ids, encoded) in enumerate(zip(theirs["input_ids"], ours, strict=True)):
            segments = theirs[_SEGMENTS][index] if _SEGMENTS in theirs else [0] * len(ids)
            if list(ids) != encoded.ids or list(segments) != encoded.type_ids:
                raise CheckpointError(
                    f"{folder}: its tokenizer, {type(loaded).__name__}, gives {texts[index][:40]!r} the ids {list(ids)[:8]}, "
                    f"as a file it gives {encoded.ids[:8]}; {_WAY_OUT}"
                )
