"""The ids that edgekit feeds are those of the checkpoint's own tokenizer class."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgekit.data import checkpoint_tokenizer
from edgekit.data.sources import TextRows
from edgekit.data.text import check_ids, encode_text, open_tokenizer, uncut
from edgekit.errors import CheckpointError
from edgekit.models.checkpoint import publish_tokenizer
from edgekit.system.worker import Worker
from tests.unit.data import tokenizers

COUNT = 300
TEXTS = tuple(tokenizers.hard_texts(COUNT))
PAIRS = TEXTS[::-1]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    room = tmp_path_factory.mktemp("tokenizers")
    Worker().run(tokenizers.write_all, room)
    Worker().run(tokenizers.write_expected, room, TEXTS, PAIRS)
    return room


@pytest.mark.parametrize("pairs", [None, PAIRS], ids=["texts", "pairs"])
@pytest.mark.parametrize("name", tokenizers.TOKENIZERS)
def test_the_ids_are_transformers(room: Path, name: str, pairs: tuple[str, ...] | None) -> None:
    with np.load(room / name / tokenizers.EXPECTED) as expected:
        arrays = {key.partition(" ")[2]: expected[key] for key in expected if key.startswith("pairs" if pairs else "texts")}
    samples = encode_text(TextRows(TEXTS, pairs, None, "texts"), room / name, tokenizers.LENGTH, list(arrays))
    for key, array in arrays.items():
        wrong = np.flatnonzero((samples.inputs[key] != array).any(axis=1))
        assert not wrong.size, f"{key} of {TEXTS[wrong[0]]!r}"


def test_what_travels_as_one_file_gives_the_same_ids(room: Path, tmp_path: Path) -> None:
    """A .tflite holds what `open_tokenizer` gives, and nothing of what decided it."""
    encoder = open_tokenizer(room / "roberta_prefix_space", tokenizers.LENGTH, pair=False)
    (tmp_path / "tokenizer.json").write_text(encoder.to_str())
    alone = open_tokenizer(tmp_path, tokenizers.LENGTH, pair=False)
    assert [alone.encode(text).ids for text in TEXTS[:200]] == [encoder.encode(text).ids for text in TEXTS[:200]]


@pytest.mark.parametrize(
    "setting",
    [
        {"do_lower_case": False},
        {"strip_accents": False},
        {"tokenize_chinese_chars": False},
        {"add_bos_token": True},
        {"additional_special_tokens": ["<e1>"]},
        {"cls_token": "[SEP]"},
        {"tokenizer_class": "RobertaTokenizer"},
        {"model_input_names": ["input_ids"]},
        {"added_tokens_decoder": {"4": {"content": "[MASK]", "lstrip": True, "special": True}}},
    ],
)
def test_transformers_is_asked_where_a_setting_decides(room: Path, setting: dict[str, object]) -> None:
    described, settings = (json.loads((room / "bert" / name).read_text()) for name in ("tokenizer.json", "tokenizer_config.json"))
    assert checkpoint_tokenizer.is_plain(described, settings, "bert")
    assert not checkpoint_tokenizer.is_plain(described, settings, "modernbert")
    assert not checkpoint_tokenizer.is_plain(described, settings | setting, "bert")


def test_transformers_is_not_asked_about_a_file_that_decides_alone(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes seconds."""
    monkeypatch.setattr(Worker, "run", None)
    open_tokenizer(room / "words_with_segments", 9, pair=True)
    open_tokenizer(room / "bert", 9, pair=True)


def test_segments_that_transformers_does_not_feed(room: Path) -> None:
    rows = TextRows(("the film",), ("was good",), None, "rows")
    names = ["input_ids", "token_type_ids"]
    without, fed = (encode_text(rows, room / name, 8, names).inputs for name in ("words", "words_with_segments"))
    assert without["input_ids"].tolist() == fed["input_ids"].tolist()
    assert not without["token_type_ids"].any()
    assert fed["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 1, 0]]


def test_rows_that_get_other_ids(room: Path) -> None:
    content = (room / "bert_cased_by_its_settings" / "tokenizer.json").read_text()
    with pytest.raises(CheckpointError, match=r"BertTokenizer, gives 'Film' the ids .* as a file it gives .* edgekit export"):
        Worker().run(checkpoint_tokenizer.check, room / "bert_cased_by_its_settings", content, [(["good", "Film"], None)])


def test_choices_are_checked_each_with_its_text(room: Path) -> None:
    rows = TextRows(("a film", ("two", "words")), (("good", "bad", "dull"), "warm"), None, "choices")
    check_ids(room / "roberta_prefix_space", rows)


def test_the_published_tokenizer_decides_alone(room: Path, tmp_path: Path) -> None:
    publish_tokenizer(room / "roberta_prefix_space", tmp_path)
    rows = TextRows(("the film", " was", "Don't stop"), None, None, "rows")
    published, checkpoint = (
        encode_text(rows, place, 16, ["input_ids"]).inputs["input_ids"] for place in (tmp_path, room / "roberta_prefix_space")
    )
    assert published.tolist() == checkpoint.tolist()


@pytest.mark.parametrize("name", ["bert", "roberta_prefix_space", "xlm_roberta"])
def test_words_and_their_offsets(room: Path, name: str) -> None:
    """Words with single spaces between get the ids that AutoTokenizer gives them split, and tokens know their characters."""
    words = [text.split() for text in tokenizers.TRAINING[:3]]
    expected = Worker().run(tokenizers.of_words, room / name, words).value
    encoder = uncut(open_tokenizer(room / name, 128, pair=False))
    for text, (ids, offsets) in zip(map(" ".join, words), expected, strict=True):
        encoded = encoder.encode(text)
        assert encoded.ids == ids
        assert [tuple(place) for place in encoded.offsets] == offsets


def test_a_tokenizer_of_python_code(tmp_path: Path, room: Path) -> None:
    folder = shutil.copytree(room / "gpt2_vocabulary_alone", tmp_path / "ctrl")
    (folder / "config.json").write_text(json.dumps({"model_type": "ctrl"}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CTRLTokenizer"}))
    with pytest.raises(CheckpointError, match=r"CTRLTokenizer, is Python code.* \.npz$"):
        open_tokenizer(folder, 8, pair=False)
