"""Cut a tokenizer to the tokens that a data set uses, so that texts it was made for are split as before.

Only `tokenizer.json` (the `tokenizers` package's format) is read and written. Kept besides the used tokens are the special
and added ones, those that byte-pair merging goes through on its way to a kept one, and the single characters of the kept
ones (all bytes of a byte-level vocabulary), so that an unknown word is spelled, not lost."""

import itertools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.data.text import batches, open_uncut
from edgekit.errors import CheckpointError, ConfigError, thrown_as
from edgekit.system.child import hushed
from edgekit.system.serial import read_json

TOKENIZER, PIECES = "tokenizer.json", "vocab.txt"
CONFIG, SPECIAL = "tokenizer_config.json", "special_tokens_map.json"
# What transformers' tokenizer classes call their special tokens, whether a checkpoint's files name them or not.
_USUAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<pad>", "<unk>", "<s>", "</s>", "<mask>", "<|endoftext|>")
_METASPACE = "\u2581"
# What a tokenizer.json stumbles at that lacks what it should have.
_ODD = f"{TOKENIZER}: is not as tokenizers writes it ({{}}); save it again with save_pretrained"


def used(tokenizer: Path, texts: Sequence[Any], pairs: Sequence[Any] | None) -> set[int]:
    """Ids of all tokens in texts or tuples of words, whole and not cut to a length, with the special ones around them."""
    encoder = open_uncut(tokenizer)
    ids: set[int] = set()
    words = not isinstance(next(iter(texts), ""), str)
    for part in batches(texts, pairs):
        rows = list(texts[part]) if pairs is None else list(zip(texts[part], pairs[part], strict=True))
        with thrown_as(CheckpointError, _ODD), hushed():
            encoded = encoder.encode_batch_fast(rows, is_pretokenized=words)
        ids.update(*(encoding.ids for encoding in encoded))
    return ids


def named(tokenizer: Path, file: Path) -> set[int]:
    """Ids of the tokens that `file` lists, one a line. Raises `ConfigError` for one that the tokenizer does not have."""
    encoder = _open(tokenizer)
    try:
        # Not splitlines: a token may hold one of the other characters that end a line.
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"{file}: cannot be read ({reason}); give a text file with one token a line") from None
    found = set()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if (token := encoder.token_to_id(line)) is None and (token := encoder.token_to_id(line.strip())) is None:
            raise ConfigError(
                f"{file}: line {number}: {line.strip()[:40]!r} is not a token of the checkpoint; "
                "give tokens as tokenizer.json spells them, such as ##ing"
            )
        found.add(token)
    return found


@thrown_as(CheckpointError, _ODD)
def special(tokenizer: Path, config_ids: Mapping[str, Any]) -> dict[int, str]:
    """Ids that no vocabulary may lose, with their names: special and added tokens, and those that config.json names."""
    content = _read(tokenizer / TOKENIZER)
    vocabulary = _vocabulary(content, tokenizer)
    names = {number: token for token, number in vocabulary.items()}
    model, padding = content["model"], content.get("padding") or {}
    ids: list[Any] = [int(token["id"]) for token in content.get("added_tokens", ())]
    ids += [vocabulary[token] for token in (model.get("unk_token"), *_USUAL, *_named(tokenizer)) if token in vocabulary]
    ids += [held[place] for held, place in _processor_ids(content.get("post_processor"))]
    ids += [*config_ids.values(), model.get("unk_id"), padding.get("pad_id")]
    return {number: names[number] for number in ids if number in names}


def _named(folder: Path) -> Iterator[str]:
    """The special tokens that the settings beside tokenizer.json name: AutoTokenizer would add those that are lost."""
    for file in (folder / CONFIG, folder / SPECIAL):
        for name, value in (_read(file) if file.is_file() else {}).items():
            if not name.endswith(("_token", "_tokens", "_tokens_decoder")):
                continue
            if isinstance(value, dict) and "content" not in value:
                value = list(value.values())
            for token in value if isinstance(value, list) else [value]:
                content = token.get("content") if isinstance(token, dict) else token
                if isinstance(content, str):
                    yield content


@thrown_as(CheckpointError, _ODD)
def complete(tokenizer: Path, ids: Collection[int], config_ids: Mapping[str, Any]) -> tuple[int, ...]:
    """`ids` with all that the kept tokens need, sorted."""
    content = _read(tokenizer / TOKENIZER)
    vocabulary = _vocabulary(content, tokenizer)
    names = {number: token for token, number in vocabulary.items()}
    kept = {number for number in ids if number in names} | set(special(tokenizer, config_ids))
    model = content["model"]
    if model["type"] == "Unigram" and model["vocab"]:
        # What an unknown character costs is reckoned from the lowest score of all.
        kept.add(min(range(len(model["vocab"])), key=lambda number: model["vocab"][number][1]))
    if model["type"] == "BPE":
        tokens = {names[number] for number in kept}
        tokens |= _merged(model, tokens)
        # A byte-level vocabulary has a token for each byte, and one with byte fallback one for each byte as <0x..>.
        tokens |= {token for token in vocabulary if len(_symbols(model, token)) == 1 or _is_byte(token)}
        kept |= {vocabulary[token] for token in tokens if token in vocabulary}
    else:
        prefix = model.get("continuing_subword_prefix") or ""
        characters = {character for number in kept for character in names[number].removeprefix(prefix)}
        singles = {*characters, *(prefix + character for character in characters), _METASPACE}
        kept |= {number for token, number in vocabulary.items() if token in singles or _is_byte(token)}
    return tuple(sorted(kept))


@thrown_as(CheckpointError, _ODD)
def check(tokenizer: Path, kept: Collection[int], config_ids: Mapping[str, Any], origin: str) -> None:
    """Raise `ConfigError` if `kept` lacks a special token or holds an id that is none."""
    if strays := sorted(set(kept) - set(_vocabulary(_read(tokenizer / TOKENIZER), tokenizer).values())):
        raise ConfigError(f"{origin}: keeps the token id {strays[0]}, which the tokenizer does not have; leave --plan out")
    if lost := [name for number, name in sorted(special(tokenizer, config_ids).items()) if number not in kept]:
        raise ConfigError(f"{origin}: would drop the special token {lost[0]!r}; add {', '.join(lost[:8])}")


@thrown_as(CheckpointError, _ODD)
def cut(folder: Path, kept: Sequence[int]) -> dict[int, int]:
    """Rewrite the tokenizer in `folder` to the ids `kept` (sorted), renumbered from 0 in their order.

    Returns new id by old id. Raises `CheckpointError` for a kind of tokenizer that is not known."""
    content = _read(folder / TOKENIZER)
    renumbered = {old: new for new, old in enumerate(kept)}
    vocabulary = {
        token: renumbered[number]
        for token, number in sorted(_model_vocabulary(content, folder).items(), key=lambda item: item[1])
        if number in renumbered
    }
    model = content["model"]
    if model["type"] == "Unigram":
        model["vocab"] = [piece for number, piece in enumerate(model["vocab"]) if number in renumbered]
        if model.get("unk_id") is not None:
            model["unk_id"] = renumbered[model["unk_id"]]
    else:
        model["vocab"] = vocabulary
    if model["type"] == "BPE":
        model["merges"] = [
            merge for merge in model["merges"] if {*(pair := _pair(merge)), _join(model, *pair)} <= vocabulary.keys()
        ]
    for token in content.get("added_tokens", ()):
        token["id"] = renumbered[token["id"]]
    if content.get("padding"):
        content["padding"]["pad_id"] = renumbered[content["padding"]["pad_id"]]
    for held, place in _processor_ids(content.get("post_processor")):
        held[place] = renumbered[held[place]]
    (folder / TOKENIZER).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    settings = _read(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    if decoder := settings.get("added_tokens_decoder"):
        kept_tokens = {str(renumbered[int(number)]): token for number, token in decoder.items() if int(number) in renumbered}
        text = json.dumps({**settings, "added_tokens_decoder": kept_tokens}, ensure_ascii=False, indent=2)
        (folder / CONFIG).write_text(text, encoding="utf-8")
    if model["type"] == "WordPiece":
        pieces = sorted(_vocabulary(content, folder).items(), key=lambda item: item[1])
        (folder / PIECES).write_text("".join(f"{piece}\n" for piece, _ in pieces), encoding="utf-8")
    return renumbered


def _processor_ids(processor: Any) -> Iterator[tuple[Any, int]]:
    """Where a post-processor holds ids, as a list and a place in it: a template's special tokens, or BERT's and RoBERTa's pairs."""
    if isinstance(processor, dict):
        for inner in processor.get("processors", ()):
            yield from _processor_ids(inner)
        specials = processor.get("special_tokens")
        for token in specials.values() if isinstance(specials, dict) else ():
            yield from ((token["ids"], place) for place in range(len(token["ids"])))
        yield from ((processor[name], 1) for name in ("sep", "cls") if name in processor)


def _merged(model: Mapping[str, Any], tokens: Collection[str]) -> set[str]:
    """The tokens between single characters and each of `tokens`, as byte-pair merging makes them, lowest rank first.

    Merges never cross the bounds of a token that came out, so a token alone goes the way that it went inside a word."""
    ranks = {_pair(merge): rank for rank, merge in enumerate(model["merges"])}
    found: set[str] = set()
    for token in tokens:
        parts = _symbols(model, token)
        while len(parts) > 1:
            pairs = enumerate(itertools.pairwise(parts))
            rank, place = min((ranks.get(pair, len(ranks)), place) for place, pair in pairs)
            if rank == len(ranks):
                break
            parts[place : place + 2] = [_join(model, parts[place], parts[place + 1])]
            found.add(parts[place])
    return found


def _symbols(model: Mapping[str, Any], token: str) -> list[str]:
    """What byte-pair merging starts from: characters, with what marks those inside and at the end of a word."""
    inside, end = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    word = token.removeprefix(inside)
    body = word.removesuffix(end) or word
    parts = [inside + character for character in body]
    if parts and word == token:
        parts[0] = parts[0].removeprefix(inside)
    if parts and body != word:
        parts[-1] += end
    return parts


def _join(model: Mapping[str, Any], first: str, second: str) -> str:
    return first + second.removeprefix(model.get("continuing_subword_prefix") or "")


def _pair(merge: Any) -> tuple[str, str]:
    """A merge is written as one string with a blank, or as a list of two."""
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _vocabulary(content: Mapping[str, Any], origin: Path) -> dict[str, int]:
    """Id by token, with the added tokens."""
    return _model_vocabulary(content, origin) | {token["content"]: int(token["id"]) for token in content.get("added_tokens", ())}


def _model_vocabulary(content: Mapping[str, Any], origin: Path) -> dict[str, int]:
    model = content.get("model", {})
    match model.get("type"):
        case "WordPiece" | "BPE" | "WordLevel":
            return {str(token): int(number) for token, number in model["vocab"].items()}
        case "Unigram":
            return {piece: number for number, (piece, _) in enumerate(model["vocab"])}
        case other:
            raise CheckpointError(f"{origin}: its tokenizer is a {other}, whose vocabulary edgekit cannot cut; leave --vocab out")


def _read(file: Path) -> Any:
    try:
        return read_json(file)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: not a readable tokenizer ({error}); save it again with save_pretrained") from None


def _open(folder: Path) -> Any:
    from tokenizers import Tokenizer

    file = folder / TOKENIZER
    with thrown_as(CheckpointError, f"{file}: not a readable tokenizer ({{}}); save it again with save_pretrained"), hushed():
        encoder = Tokenizer.from_buffer(file.read_bytes())
    encoder.no_truncation()
    encoder.no_padding()
    return encoder
