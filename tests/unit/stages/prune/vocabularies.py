"""Tokenizers of every kind, trained on the spot, and what a child finds when it cuts them to what a few texts use."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import tiny

CORPUS = (
    *(text for text, _ in tiny.sentences(200)),
    *("the unbelievable representation of running runners ran on and on", "tokenization is not a naïve café idea, is it?") * 3,
    "a quick brown fox jumps over the lazy dog 0123456789",
)
TEXTS = (*CORPUS[:20], "Unbelievable!  running, naïve runner\n\tis 12 and 3", "aaaaaaa the the thethe", "")
PAIRS = tuple(reversed(TEXTS))
# Words that nobody trained on, made of characters that `TEXTS` have.
NEW = ("thebad storygood", "notting vlewas", "eraw lufituaeb ton")
_BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def _trained(model: Any, trainer: Any, *, before: Any = None, normalizer: Any = None, decoder: Any = None) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer(model)
    if before is not None:
        tokenizer.pre_tokenizer = before
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if decoder is not None:
        tokenizer.decoder = decoder
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _template(tokenizer: Any, first: str, last: str) -> None:
    from tokenizers import processors

    ids = [(token, tokenizer.token_to_id(token)) for token in dict.fromkeys((first, last))]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", pair=f"{first} $A {last} $B:1 {last}:1", special_tokens=ids
    )


def _save(tokenizer: Any, folder: Path, kind: str = "PreTrainedTokenizerFast", **named: Any) -> None:
    import transformers

    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "tokenizer_class": kind}))


_BERT_NAMES = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}


def word_piece(folder: Path) -> None:
    """As BERT's, with a token of the user's own beyond the vocabulary and padding in the file."""
    from tokenizers import models, normalizers, pre_tokenizers, trainers

    tokenizer = _trained(
        models.WordPiece(unk_token="[UNK]"),
        trainers.WordPieceTrainer(vocab_size=260, special_tokens=list(_BERT), show_progress=False),
        before=pre_tokenizers.BertPreTokenizer(),
        normalizer=normalizers.BertNormalizer(),
    )
    _template(tokenizer, "[CLS]", "[SEP]")
    tokenizer.add_tokens(["<user>"])
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    _save(tokenizer, folder, **_BERT_NAMES)


def word_piece_bert(folder: Path) -> None:
    """As word_piece, with BERT's own post-processor, its class, and the padding token last."""
    from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = _trained(
        models.WordPiece(unk_token="[UNK]"),
        trainers.WordPieceTrainer(vocab_size=260, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False),
        before=pre_tokenizers.BertPreTokenizer(),
        normalizer=normalizers.BertNormalizer(),
    )
    tokenizer.post_processor = processors.BertProcessing(
        ("[SEP]", tokenizer.token_to_id("[SEP]")), ("[CLS]", tokenizer.token_to_id("[CLS]"))
    )
    tokenizer.add_special_tokens(["[PAD]", "[MASK]"])
    _save(tokenizer, folder, "BertTokenizer", **_BERT_NAMES)


def bare(folder: Path) -> None:
    """tokenizer.json alone, whose special tokens are ordinary ones of the vocabulary, used by post-processor and padding."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    pieces = dict.fromkeys((*tiny.NEGATIVE, *_BERT, *tiny.NEUTRAL, *tiny.POSITIVE, "a", "##b"))
    tokenizer = Tokenizer(models.WordPiece({piece: number for number, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    _template(tokenizer, "[CLS]", "[SEP]")
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id("[PAD]"), pad_token="[PAD]")
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))


def slow(folder: Path) -> None:
    """vocab.txt alone."""
    word_piece(folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    pieces = sorted(content["model"]["vocab"], key=content["model"]["vocab"].get)
    for file in folder.iterdir():
        file.unlink()
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))


def _byte_level(folder: Path, special: list[str], kind: str, *, strings: bool, post: Callable[[Any], None], **named: Any) -> None:
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer = _trained(
        models.BPE(),
        trainers.BpeTrainer(
            vocab_size=420,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
        before=pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoder=decoders.ByteLevel(),
    )
    post(tokenizer)
    _save(tokenizer, folder, kind, **named)
    if strings:
        file = folder / "tokenizer.json"
        content = json.loads(file.read_text())
        content["model"]["merges"] = [" ".join(merge) for merge in content["model"]["merges"]]
        file.write_text(json.dumps(content))


def byte_level_gpt2(folder: Path) -> None:
    """As GPT-2's, merges written as strings, with a padding token beyond the vocabulary."""

    def post(tokenizer: Any) -> None:
        from tokenizers import processors

        tokenizer.add_special_tokens(["<|pad|>"])
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)

    ends = {"unk_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|pad|>"}
    _byte_level(folder, ["<|endoftext|>"], "GPT2Tokenizer", strings=True, post=post, **ends)


def byte_level_roberta(folder: Path) -> None:
    """As RoBERTa's, whose padding has id 1, merges written as lists."""

    def post(tokenizer: Any) -> None:
        from tokenizers import processors

        tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))

    names = {"bos_token": "<s>", "cls_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "sep_token": "</s>"}
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    _byte_level(folder, special, "RobertaTokenizer", strings=False, post=post, **names, unk_token="<unk>", mask_token="<mask>")


def _unigram(folder: Path, kind: str, special: list[str], *, lower: bool = False, named: Mapping[str, str]) -> None:
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = _trained(
        models.Unigram(),
        trainers.UnigramTrainer(vocab_size=150, special_tokens=special, unk_token=named["unk_token"], show_progress=False),
        before=pre_tokenizers.Metaspace(),
        normalizer=normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()])
        if lower
        else normalizers.NFKC(),
        decoder=decoders.Metaspace(),
    )
    _template(tokenizer, "[CLS]", "[SEP]")
    tokenizer.add_special_tokens(["[MASK]"])
    _save(tokenizer, folder, kind, **named)


def unigram_deberta(folder: Path) -> None:
    """As DeBERTa-v2's: [MASK] beyond the vocabulary."""
    _unigram(folder, "DebertaV2Tokenizer", ["[PAD]", "[CLS]", "[SEP]", "[UNK]"], named=_BERT_NAMES)


def unigram_albert(folder: Path) -> None:
    """As ALBERT's."""
    names = {**_BERT_NAMES, "unk_token": "<unk>", "pad_token": "<pad>"}
    _unigram(folder, "AlbertTokenizer", ["<pad>", "<unk>", "[CLS]", "[SEP]"], lower=True, named=names)


def byte_fallback(folder: Path) -> None:
    """Byte-pair merging of characters, as LLaMA's: one token for each byte stands in for characters it does not have."""
    from tokenizers import decoders, models, normalizers, trainers

    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = _trained(
        models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True),
        trainers.BpeTrainer(vocab_size=420, special_tokens=special, show_progress=False),
        normalizer=normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        decoder=decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]),
    )
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if not token["content"].startswith("<0x")]
    _save(type(tokenizer).from_str(json.dumps(content)), folder, unk_token="<unk>", pad_token="</s>")


def byte_pairs_end(folder: Path) -> None:
    """As OpenAI GPT's: a token at a word's end carries a mark."""
    from tokenizers import models, pre_tokenizers, trainers

    tokenizer = _trained(
        models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"),
        trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>", "<pad>"], end_of_word_suffix="</w>", show_progress=False),
        before=pre_tokenizers.BertPreTokenizer(),
    )
    _save(tokenizer, folder, unk_token="<unk>", pad_token="<pad>")


def byte_pairs_inside(folder: Path) -> None:
    """Byte-pair merging where tokens inside a word carry a mark."""
    from tokenizers import models, pre_tokenizers, trainers

    tokenizer = _trained(
        models.BPE(unk_token="<unk>", continuing_subword_prefix="##"),
        trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>", "<pad>"], continuing_subword_prefix="##", show_progress=False),
        before=pre_tokenizers.BertPreTokenizer(),
    )
    _save(tokenizer, folder, unk_token="<unk>", pad_token="<pad>")


def word_level(folder: Path) -> None:
    from tokenizers import models, pre_tokenizers, trainers

    tokenizer = _trained(
        models.WordLevel(unk_token="<unk>"),
        trainers.WordLevelTrainer(special_tokens=["<unk>", "<pad>"], show_progress=False),
        before=pre_tokenizers.Whitespace(),
    )
    _save(tokenizer, folder, unk_token="<unk>", pad_token="<pad>")


KINDS: Mapping[str, Callable[[Path], None]] = {
    build.__name__: build
    for build in (
        word_piece,
        word_piece_bert,
        bare,
        slow,
        byte_level_gpt2,
        byte_level_roberta,
        unigram_deberta,
        unigram_albert,
        byte_fallback,
        byte_pairs_end,
        byte_pairs_inside,
        word_level,
    )
}


@dataclass(frozen=True)
class Cut:
    """What came of one kind: token counts, texts that are split in another way, new words that became unknown, and so on."""

    before: int
    after: int
    embedded: int
    split_otherwise: tuple[str, ...]
    raw_split_otherwise: tuple[str, ...]
    lost: tuple[str, ...]
    special_moved: tuple[str, ...]
    logits_apart: float
    config_ids: Mapping[str, Any]
    wanted_ids: Mapping[str, Any]
    beside: tuple[str, ...]


def cut_all(room: Path) -> dict[str, Cut | str]:
    """In a child: each kind, cut to what `TEXTS` use."""
    import torch

    torch.set_num_threads(1)
    found: dict[str, Cut | str] = {}
    for name, build in KINDS.items():
        try:
            build(room / name)
            found[name] = _cut(room / name, room / f"{name}.cut")
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def _cut(source: Path, folder: Path) -> Cut:
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    from edgekit.data.sources import TextRows
    from edgekit.data.text import encode_text
    from edgekit.models import architectures
    from edgekit.stages.prune import vocabulary
    from edgekit.stages.prune.surgery import write_tokenizer

    write_tokenizer(source, folder)
    if (source / "config.json").is_file():
        (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    old = AutoTokenizer.from_pretrained(str(source))
    raw_before = {text: _raw(folder, text) for text in (*TEXTS, *NEW)}
    ids = {f"{name}_token_id": getattr(old, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    torch.manual_seed(0)
    size = len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]) + 9
    widths = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=size, **widths, initializer_range=0.5, **ids)
    model = BertForSequenceClassification(config).eval()
    rows = TextRows(TEXTS, PAIRS, None, "texts")
    before = encode_text(rows, folder, 40, ("input_ids", "attention_mask"))

    def logits(samples: Any) -> Any:
        with torch.no_grad():
            return model(**{name: torch.from_numpy(array).long() for name, array in samples.inputs.items()}).logits

    whole = logits(before)
    known = {name: value for name, value in ids.items() if value is not None}
    kept = vocabulary.complete(folder, vocabulary.used(folder, TEXTS, PAIRS), known)
    vocabulary.check(folder, kept, known, "plan")
    places = vocabulary.cut(folder, kept)
    architectures.keep_tokens(model, kept)
    new = AutoTokenizer.from_pretrained(str(folder))

    def moved(numbers: Any) -> list[Any]:
        return [places.get(number) for number in numbers]

    unknown = old.unk_token_id
    return Cut(
        before=len(old),
        after=len(new),
        embedded=model.get_input_embeddings().num_embeddings,
        split_otherwise=tuple(
            text
            for text, pair in zip(TEXTS, PAIRS, strict=True)
            if moved(old(text)["input_ids"]) != new(text)["input_ids"]
            or moved(old(text, pair)["input_ids"]) != new(text, pair)["input_ids"]
            or old.decode(old(text)["input_ids"]) != new.decode(new(text)["input_ids"])
        ),
        raw_split_otherwise=tuple(text for text in TEXTS if moved(raw_before[text]) != _raw(folder, text)),
        lost=tuple(
            text
            for text in NEW
            if unknown is not None and unknown not in old(text)["input_ids"] and new.unk_token_id in new(text)["input_ids"]
        ),
        special_moved=tuple(
            name
            for name in ("pad", "unk", "cls", "sep", "mask", "bos", "eos")
            if getattr(old, f"{name}_token_id") is not None
            and (
                getattr(new, f"{name}_token_id") != places.get(getattr(old, f"{name}_token_id"))
                or getattr(new, f"{name}_token") != getattr(old, f"{name}_token")
            )
        ),
        logits_apart=float((logits(encode_text(rows, folder, 40, ("input_ids", "attention_mask"))) - whole).abs().max()),
        config_ids={name: getattr(model.config, name) for name in ids},
        wanted_ids={name: None if value is None else places[value] for name, value in ids.items()},
        beside=tuple((folder / "vocab.txt").read_text().split("\n")) if (folder / "vocab.txt").is_file() else (),
    )


def _raw(folder: Path, text: str) -> list[int]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    return list(tokenizer.encode(text).ids)
