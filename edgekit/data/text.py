"""Texts to token ids, masks and segments, through the `tokenizers` package: no framework is loaded."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data import checkpoint_tokenizer
from edgekit.data.samples import Array, Samples, random_samples
from edgekit.data.sources import Rows, TextRows, are_numbers
from edgekit.errors import CheckpointError, ConfigError, DatasetError, thrown_as
from edgekit.spec import MASK, TensorSpec
from edgekit.system import rooms
from edgekit.system.child import hushed
from edgekit.system.serial import read_json

# Input name -> attribute of a tokenizers Encoding. Every text model takes the first two, some the third.
FIELDS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
KNOWN_PADS, _KNOWN_MASKS = ("[PAD]", "<pad>", "<PAD>"), ("[MASK]", "<mask>", "<special1>")
_BATCH, _BATCH_CHARACTERS = 1024, 2**21
_SPARSE = 100
_CHECKED = 2000
_STOPS = "tokenizer.json: stops at a text ({}); save the tokenizer again with save_pretrained"
# The later one goes before the earlier.
_SETTINGS = ("special_tokens_map.json", "tokenizer_config.json")
_CONFIG, _ADDED = "config.json", "added_tokens.json"


def encode_text(rows: TextRows, tokenizer: Path, max_length: int, input_names: Sequence[str]) -> Samples:
    """Encode to int32 arrays (N, max_length), one per asked name: input_ids, attention_mask, token_type_ids.

    Padded with the tokenizer's own token on its own side; too long a pair loses tokens from its longer half first.
    `tokenizer` is the checkpoint's folder. Raises `CheckpointError` for an unusable tokenizer, `ConfigError` if
    `max_length` leaves no room for text."""
    encoder = open_tokenizer(tokenizer, max_length, pair=rows.pairs is not None)
    arrays = {name: np.empty((len(rows), max_length), np.int32) for name in input_names}
    for part in batches(rows.texts, rows.pairs):
        texts = list(rows.texts[part]) if rows.pairs is None else list(zip(rows.texts[part], rows.pairs[part], strict=True))
        with thrown_as(CheckpointError, _STOPS), hushed():
            encodings = encoder.encode_batch_fast(texts)
            for name, array in arrays.items():
                array[part] = [getattr(encoding, FIELDS[name]) for encoding in encodings]
    return Samples(arrays)


def batches(texts: Sequence[Any], pairs: Sequence[Any] | None = None) -> Iterator[slice]:
    """Parts of some texts, or lists of words, that are tokenized at once: so many, and so many characters."""
    start = characters = 0
    for place, text in enumerate(texts):
        long = _length(text) + (_length(pairs[place]) if pairs is not None else 0)
        if place > start and (place - start == _BATCH or characters + long > _BATCH_CHARACTERS):
            yield slice(start, place)
            start, characters = place, 0
        characters += long
    if start < len(texts):
        yield slice(start, len(texts))


def encodings(encoder: Any, texts: Sequence[str], *, special: bool = True) -> Iterator[Any]:
    """Each text's `tokenizers.Encoding` with offsets in characters, with or without the special tokens; few live at a time."""
    for part in batches(texts):
        with thrown_as(CheckpointError, _STOPS), hushed():
            encoded = encoder.encode_batch(list(texts[part]), add_special_tokens=special)
        yield from encoded


def fed(encoded: Any, name: str) -> np.ndarray:
    """What of a `tokenizers.Encoding` the input `name` takes, int32. Raises `CheckpointError` for ids that are larger."""
    with thrown_as(CheckpointError, _STOPS):
        return np.array(getattr(encoded, FIELDS[name]), np.int32)


def token_specs(max_length: int, *, segments: bool) -> tuple[TensorSpec, ...]:
    """Inputs of a text model's .tflite; `segments` tell the two texts of a pair apart."""
    return tuple(TensorSpec(name, (1, max_length), "int32") for name in list(FIELDS)[: 3 if segments else 2])


def gives_segments(checkpoint: Path) -> bool:
    """Whether the tokenizer in a checkpoint's folder is set to tell the model which text each token is of."""
    return "token_type_ids" in (_settings(checkpoint).get("model_input_names") or ())


def _length(text: Any) -> int:
    return len(text) if isinstance(text, str) else sum(map(len, text))


def mask_token(checkpoint: Path) -> tuple[str, int]:
    """What masks a token in the tokenizer of a checkpoint's folder, and its id. Raises `CheckpointError` if it has none."""
    named = _settings(checkpoint).get("mask_token")
    if (first := _first_there(open_uncut(checkpoint), (named, *_KNOWN_MASKS))) is not None:
        return first
    raise CheckpointError(f"{checkpoint}: its tokenizer has no mask token; set mask_token in tokenizer_config.json")


def check_room(tokenizer: Path, max_length: int) -> None:
    """Raise `ConfigError` if `max_length` leaves no room for text, and `CheckpointError` for a tokenizer that is unusable."""
    open_tokenizer(tokenizer, max_length, pair=False)


def class_numbers(rows: TextRows, label_ids: Mapping[str, int]) -> Array | None:
    """Labels as int64 class numbers of a head whose names are `label_ids`; None if the rows have none.

    A name is looked up exactly, then without regard to case. A number stays as it is, unless the source names its
    numbers and the head knows all these names: then the head's number of the same name is taken. With empty
    `label_ids` numbers pass unchecked. Where the head's names are numbers themselves (stars from 1 to 5), a number is
    a name. Raises `DatasetError` for a label outside the head."""
    if rows.labels is None:
        return None
    numbered = not rows.class_names and are_numbers(label_ids)
    folded = {name.casefold(): number for name, number in label_ids.items()}
    renumbered = [folded.get(name.casefold(), -1) for name in rows.class_names or ()]
    renames = min(renumbered, default=-1) >= 0
    labels = np.empty(len(rows), np.int64)
    for index, label in enumerate(rows.labels):
        if isinstance(label, str) or numbered:
            number = label_ids.get(str(label), folded.get(str(label).casefold(), -1))
        elif renames:
            number = renumbered[label] if 0 <= label < len(renumbered) else -1
        else:
            number = label if isinstance(label, int) else -1
        if number < 0 or (label_ids and number >= len(label_ids)):
            listed = ", ".join(f"{name}={place}" for name, place in list(label_ids.items())[:8])
            raise DatasetError(
                f"{rows.origin}: labels outside the head: row {rows.number(index)} (from 0) has {label!r}, "
                f"the head's {len(label_ids)} classes are {listed}; mend the label or set --label-column"
            )
        labels[index] = number
    return labels


def open_tokenizer(checkpoint: Path, max_length: int, *, pair: bool) -> Any:
    """The tokenizer of a checkpoint's folder (or tokenizer.json) that cuts and pads to `max_length` as its settings say.

    It is opened once and shared: change a copy. Raises `CheckpointError` for an unusable one, `ConfigError` if `max_length`
    leaves no room for text."""
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    file = folder / "tokenizer.json" if checkpoint.is_dir() else checkpoint
    return _opened(folder, file, max_length, pair, checkpoint.is_dir(), _changed(folder, file))


def standalone(checkpoint: Path) -> bytes:
    """The tokenizer.json that gives, by itself, the ids of a checkpoint's folder. Raises `CheckpointError`."""
    file = checkpoint / "tokenizer.json"
    return _read(checkpoint, file, True, _changed(checkpoint, file))[0]


def open_uncut(checkpoint: Path) -> Any:
    """The tokenizer of a checkpoint's folder for whole texts: it neither cuts nor pads. Raises `CheckpointError`."""
    from tokenizers import Tokenizer

    with thrown_as(CheckpointError, f"{checkpoint}: not a usable tokenizer ({{}}); save it again with save_pretrained"), hushed():
        encoder = Tokenizer.from_buffer(standalone(checkpoint))
    encoder.no_truncation()
    encoder.no_padding()
    return encoder


def random_texts(checkpoint: Path, inputs: Sequence[TensorSpec], count: int, seed: int = 0) -> Samples:
    """`random_samples` of ids, padded as the tokenizer of a checkpoint's folder pads.

    Raises `CheckpointError` for an unusable tokenizer, `ConfigError` if the inputs leave no room for text."""
    samples = random_samples(inputs, count, seed)
    ids, mask = (samples.inputs[name] for name in ("input_ids", MASK))
    padding = open_tokenizer(checkpoint, ids.shape[1], pair=False).padding
    mask = mask[:, ::-1] if padding["direction"] == "left" else mask
    ids = np.where(mask > 0, ids, padding["pad_id"]).astype(ids.dtype)
    return replace(samples, inputs={**samples.inputs, "input_ids": ids, MASK: mask})


def check_ids(checkpoint: Path, *parts: Rows | None) -> None:
    """Raise `CheckpointError` where AutoTokenizer gives one of the first texts of `parts` other ids than what travels.

    A tokenizer.json of which that is certain is not asked about, since it takes seconds."""
    rows, file = [part for part in parts if isinstance(part, TextRows)], checkpoint / "tokenizer.json"
    content, alone = _read(checkpoint, file, True, _changed(checkpoint, file)) if rows else (b"", True)
    if not alone:
        from edgekit.system.worker import Worker

        fed = [_asked(part) for part in rows]
        Worker().run(checkpoint_tokenizer.check, checkpoint, content.decode(), fed)


def _asked(rows: TextRows) -> checkpoint_tokenizer.Part:
    """The first texts, or pairs, of some rows as a tokenizer takes them: words of a list in one text, each choice with its text."""
    texts = [text if isinstance(text, str) else " ".join(text) for text in rows.texts[:_CHECKED]]
    if rows.pairs is None:
        return texts, None
    choices = [[pair] if isinstance(pair, str) else pair for pair in rows.pairs[:_CHECKED]]
    pairs = [(text, choice) for text, listed in zip(texts, choices, strict=True) for choice in listed][:_CHECKED]
    return [text for text, _ in pairs], [choice for _, choice in pairs]


def _changed(folder: Path, file: Path) -> tuple[int, ...]:
    """The times at which what a tokenizer is read from was written."""
    parts = (file if file.is_file() else folder, *(folder / name for name in (*_SETTINGS, _ADDED, _CONFIG)))
    return tuple(part.stat().st_mtime_ns for part in parts if part.exists())


def _is_plain(folder: Path, file: Path) -> bool:
    """Whether a tokenizer.json alone decides the ids; where a checkpoint's config.json lies beside it, its class may."""
    if not file.is_file() or not (folder / _CONFIG).is_file():
        return file.is_file()
    if (folder / _ADDED).is_file():
        return False
    with thrown_as(CheckpointError, f"{file}: not a usable tokenizer ({{}}); save it again with save_pretrained"):
        # What is no checkpoint's config.json names no type.
        config = read_json(folder / _CONFIG)
        kind = config.get("model_type") if isinstance(config, dict) else None
        return not isinstance(kind, str) or checkpoint_tokenizer.is_plain(read_json(file), _settings(folder), kind)


@lru_cache(maxsize=8)
def _read(folder: Path, file: Path, whole: bool, changed: tuple[int, ...]) -> tuple[bytes, bool]:
    """The tokenizer.json that gives the ids, and whether it is the folder's own and not what its class makes.

    `whole` says that the folder is what was named, not the file alone; `changed` is for the cache: asking takes seconds."""
    if file.is_file() and (not whole or _is_plain(folder, file)):
        return file.read_bytes(), True
    # What reads a file alone needs no children, which take a while to import.
    from edgekit.system.worker import Worker

    with rooms.temporary("tokenizer") as room:
        written = Path(room) / "tokenizer.json"
        Worker().run(checkpoint_tokenizer.write, folder, written)
        return written.read_bytes(), False


@lru_cache(maxsize=8)
def _opened(folder: Path, file: Path, max_length: int, pair: bool, whole: bool, changed: tuple[int, ...]) -> Any:
    from tokenizers import Tokenizer

    # One that was unpacked is known by the file that it came in, which whoever asked for it names.
    called = "its tokenizer" if rooms.holds(file) else file
    with thrown_as(CheckpointError, f"{called}: not a usable tokenizer ({{}}); save it again with save_pretrained"), hushed():
        # Its own reader takes no names that are not UTF-8.
        content, alone = _read(folder, file, whole, changed)
        encoder = Tokenizer.from_buffer(content)
    # What the class decided is in the file that was made.
    settings = _settings(folder) if alone else {}
    if max_length <= encoder.num_special_tokens_to_add(pair):
        raise ConfigError(
            f"a maximum length of {max_length} leaves no room for text beside the special tokens; give a larger --max-length"
        )
    padding, truncation = encoder.padding or {}, encoder.truncation or {}
    pad_token, pad_id = _pad(encoder, settings, padding, file)
    try:
        side = settings.get("truncation_side") or truncation.get("direction", "right")
        encoder.enable_truncation(max_length, strategy="longest_first", direction=side)
        encoder.enable_padding(
            direction=settings.get("padding_side") or padding.get("direction", "right"),
            pad_id=pad_id,
            pad_token=pad_token,
            pad_type_id=settings.get("pad_token_type_id") or padding.get("pad_type_id", 0),
            length=max_length,
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(
            f"{folder / 'tokenizer_config.json'}: has a side or a padding type that no tokenizer knows ({error}); mend it there"
        ) from None
    return encoder


@lru_cache(maxsize=8)
def uncut(encoder: Any) -> Any:
    """A copy of what `open_tokenizer` gave that neither cuts nor pads, shared as that is."""
    from tokenizers import Tokenizer

    whole = Tokenizer.from_str(serialized(encoder))
    whole.no_truncation()
    whole.no_padding()
    return whole


def serialized(encoder: Any) -> str:
    """The tokenizer as JSON. Raises `CheckpointError` for ids so far apart that the package counts to them for minutes."""
    vocabulary = encoder.get_vocab()
    if (highest := max(vocabulary.values(), default=0)) > _SPARSE * (len(vocabulary) + 1000):
        raise CheckpointError(f"tokenizer.json: numbers {len(vocabulary)} tokens up to {highest}; number them one after the other")
    return str(encoder.to_str())


def _settings(folder: Path) -> dict[str, Any]:
    """What `tokenizer_config.json` says, completed by `special_tokens_map.json`; a tokenizer may come without either."""
    settings: dict[str, Any] = {}
    for file in filter(Path.is_file, (folder / name for name in _SETTINGS)):
        try:
            stored = read_json(file)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file}: not JSON ({error}); save the tokenizer again with save_pretrained") from None
        if not isinstance(stored, dict):
            raise CheckpointError(f"{file}: holds no settings by name; save the tokenizer again with save_pretrained")
        settings |= {key: value for key, value in stored.items() if value is not None}
    return settings


def _pad(encoder: Any, settings: Mapping[str, Any], padding: Mapping[str, Any], file: Path) -> tuple[str, int]:
    if (first := _first_there(encoder, (settings.get("pad_token"), padding.get("pad_token"), *KNOWN_PADS))) is not None:
        return first
    raise CheckpointError(f"{file}: the tokenizer has no padding token; set pad_token in tokenizer_config.json")


def _first_there(encoder: Any, tokens: Sequence[Any]) -> tuple[str, int] | None:
    """The first of some tokens, as settings name them, that the tokenizer has, and its id."""
    for token in map(checkpoint_tokenizer.content, tokens):
        if isinstance(token, str) and (number := encoder.token_to_id(token)) is not None:
            return token, int(number)
    return None
