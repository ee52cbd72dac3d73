"""Checkpoints' tokenizers of every kind, and what transformers makes of texts with them; in a child, because it loads torch."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

TRAINING = (
    "the film was good and the story is bad, a warm scene with great actors in the cold",
    "El caballero de la Mancha; naïve café, ÉTÉ, straße, 漢字 and 1,000 numbers: 3.14!",
    "Don't stop; it's Mr. O'Neill's re-entry. THE END (of all)",
) * 4
_SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
LENGTH, EXPECTED = 24, "expected.npz"


def hard_texts(count: int, seed: int = 0) -> list[str]:
    """Texts put together from pieces that tokenizers treat in different ways."""
    import numpy as np

    from edgekit.data.checkpoint_tokenizer import HARD_TEXTS

    draw = np.random.default_rng(seed)
    pieces = [piece for text in (*HARD_TEXTS, *TRAINING[:3]) for piece in (*text.split(" "), text[:9], text[3:17])]
    ranges = [(0x20, 0x7F), (0xA0, 0x250), (0x300, 0x370), (0x370, 0x600), (0x900, 0xE80), (0x2000, 0x2C00), (0x3000, 0xD7FF)]
    ranges += [(0xE000, 0x10000), (0x1F300, 0x1FAFF), (0x20000, 0x20100), (0, 0x20)]
    texts = list(HARD_TEXTS)
    while len(texts) < count:
        parts = []
        for _ in range(draw.integers(1, 9)):
            low, high = ranges[draw.integers(len(ranges))]
            strange = "".join(map(chr, draw.integers(low, high, draw.integers(1, 5))))
            parts.append(pieces[draw.integers(len(pieces))] if draw.random() < 0.7 else strange)
        texts.append(["", " ", "  ", "\t"][draw.integers(4)].join(parts) if draw.random() < 0.3 else " ".join(parts))
    return texts[:count]


def write_all(room: Path) -> None:
    """Folders in `room`, each with a tokenizer and a config.json."""
    for name, write in TOKENIZERS.items():
        folder = room / name
        folder.mkdir(parents=True)
        write(folder)


def write_expected(room: Path, texts: Sequence[str], pairs: Sequence[str]) -> None:
    """Beside each tokenizer, the ids, masks and segments that AutoTokenizer gives texts alone and with `pairs`."""
    import numpy as np
    from transformers import AutoTokenizer

    how: dict[str, Any] = {"truncation": "longest_first", "max_length": LENGTH, "padding": "max_length"}
    for name in TOKENIZERS:
        loaded = AutoTokenizer.from_pretrained(str(room / name))
        fed = {"texts": loaded(list(texts), **how), "pairs": loaded(list(texts), list(pairs), **how)}
        arrays = {f"{kind} {key}": np.array(fed[kind][key]) for kind in fed for key in fed[kind]}
        for kind in fed:
            # Segments that transformers does not feed are all the model's first.
            arrays.setdefault(f"{kind} token_type_ids", np.zeros_like(arrays[f"{kind} input_ids"]))
        np.savez(room / name / EXPECTED, **arrays)  # type: ignore[arg-type]


def of_words(folder: Path, rows: Sequence[Sequence[str]]) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """The ids of each row's words, and where in the words with spaces between each token stands, as AutoTokenizer has them."""
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(str(folder))
    return [
        (
            loaded(list(words), is_split_into_words=True)["input_ids"],
            loaded(" ".join(words), return_offsets_mapping=True)["offset_mapping"],
        )
        for words in rows
    ]


def _config(folder: Path, model_type: str, **settings: Any) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _pieces(*, lower: bool) -> dict[str, int]:
    from tokenizers import BertWordPieceTokenizer

    trained = BertWordPieceTokenizer(lowercase=lower)
    trained.train_from_iterator(TRAINING, vocab_size=160, min_frequency=1, show_progress=False)
    return dict(sorted(trained.get_vocab().items(), key=lambda item: item[1]))


def _bert(folder: Path, *, file_lower: bool = True, **settings: Any) -> None:
    """A tokenizer.json that lower-cases or not, whatever the settings beside it say."""
    from tokenizers import BertWordPieceTokenizer

    BertWordPieceTokenizer(_pieces(lower=file_lower), lowercase=file_lower).save(str(folder / "tokenizer.json"))
    _config(folder, "bert", tokenizer_class="BertTokenizer", **_SPECIAL, **settings)


def _bert_saved(folder: Path, **settings: Any) -> None:
    from transformers import BertTokenizer

    BertTokenizer(vocab=_pieces(lower=True), **settings).save_pretrained(folder)
    _config(folder, "bert")


def _bert_vocabulary(folder: Path) -> None:
    (folder / "vocab.txt").write_text("\n".join(_pieces(lower=False)) + "\n", encoding="utf-8")
    _config(folder, "bert", tokenizer_class="BertTokenizer", do_lower_case=False)


def _added(folder: Path) -> None:
    from tokenizers import AddedToken
    from transformers import BertTokenizer

    tokenizer = BertTokenizer(vocab=_pieces(lower=True))
    tokenizer.add_tokens([AddedToken("naïve", normalized=False), AddedToken("story", lstrip=True, rstrip=True), "O'Neill"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<e1>", "scene"]})
    tokenizer.save_pretrained(folder)
    _config(folder, "bert")


def _bytes(folder: Path, kind: str, *, as_json: bool, **settings: Any) -> None:
    from tokenizers import ByteLevelBPETokenizer

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(TRAINING, vocab_size=400, min_frequency=1, special_tokens=special, show_progress=False)
    if as_json:
        trained.save(str(folder / "tokenizer.json"))
    else:
        trained.save_model(str(folder))
    _config(folder, kind, **settings)


def _roberta(folder: Path, *, as_json: bool = True, **settings: Any) -> None:
    _bytes(folder, "roberta", as_json=as_json, tokenizer_class="RobertaTokenizer", **settings)


def _gpt2(folder: Path) -> None:
    _bytes(folder, "gpt2", as_json=False, tokenizer_class="GPT2Tokenizer", bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def _pieces_of_sentences(folder: Path, name: str, model_type: str, ids: Sequence[int], extra: str = "", **settings: Any) -> None:
    """A SentencePiece model alone, whose tokens pad, unk, bos and eos have `ids`."""
    import sentencepiece

    text, numbers = folder / "text", dict(zip(("pad_id", "unk_id", "bos_id", "eos_id"), ids, strict=True))
    text.write_text("\n".join(TRAINING), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "m"),
        vocab_size=150,
        hard_vocab_limit=False,
        minloglevel=2,
        user_defined_symbols=extra,
        **numbers,  # type: ignore[arg-type]
    )
    text.unlink()
    (folder / "m.vocab").unlink()
    (folder / "m.model").rename(folder / name)
    _config(folder, model_type, **settings)


def _generic(folder: Path, **settings: Any) -> None:
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate([*_SPECIAL.values(), "the", "film", "was", "good", ",", "."])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(tokenizer_object=made, **_SPECIAL, **settings).save_pretrained(folder)
    _config(folder, "bert")


TOKENIZERS: dict[str, Callable[[Path], None]] = {
    "bert": _bert_saved,
    "bert_accents": lambda folder: _bert_saved(folder, strip_accents=False, tokenize_chinese_chars=False),
    "bert_cased_by_its_settings": lambda folder: _bert(folder, do_lower_case=False),
    "bert_uncased_by_its_settings": lambda folder: _bert(folder, file_lower=False, do_lower_case=True),
    "bert_vocabulary_alone": _bert_vocabulary,
    "added_tokens": _added,
    "roberta": _roberta,
    "roberta_prefix_space": lambda folder: _roberta(folder, add_prefix_space=True),
    "roberta_vocabulary_alone": lambda folder: _roberta(folder, as_json=False),
    "gpt2_vocabulary_alone": _gpt2,
    "albert": lambda folder: _pieces_of_sentences(folder, "spiece.model", "albert", (0, 1, 2, 3), "[CLS],[SEP],[MASK]"),
    "deberta_v2": lambda folder: _pieces_of_sentences(folder, "spm.model", "deberta-v2", (0, 3, 1, 2), "[MASK]"),
    "t5": lambda folder: _pieces_of_sentences(folder, "spiece.model", "t5", (0, 2, -1, 1)),
    "xlnet": lambda folder: _pieces_of_sentences(folder, "spiece.model", "xlnet", (5, 0, 1, 2), "<sep>,<cls>,<mask>"),
    "xlm_roberta": lambda folder: _pieces_of_sentences(folder, "sentencepiece.bpe.model", "xlm-roberta", (-1, 0, 1, 2)),
    "words": _generic,
    "words_with_segments": lambda folder: _generic(folder, model_input_names=["input_ids", "token_type_ids", "attention_mask"]),
    "words_left": lambda folder: _generic(folder, padding_side="left", truncation_side="left"),
}
