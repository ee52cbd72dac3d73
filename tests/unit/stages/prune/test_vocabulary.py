"""A tokenizer cut to what a few texts use: the same pieces, nothing lost, special ids right, the same logits."""

import json
from pathlib import Path

import pytest

from edgekit.errors import CheckpointError, ConfigError
from edgekit.stages.prune import vocabulary
from edgekit.system.worker import Worker
from tests.unit.stages.prune import vocabularies
from tests.unit.stages.prune.vocabularies import KINDS, Cut


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vocabularies")


@pytest.fixture(scope="module")
def cuts(room: Path) -> dict[str, Cut | str]:
    return Worker(timeout_s=200).run(vocabularies.cut_all, room).value


def of(cuts: dict[str, Cut | str], kind: str) -> Cut:
    found = cuts[kind]
    assert isinstance(found, Cut), found
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_split_as_before(cuts: dict[str, Cut | str], kind: str) -> None:
    found = of(cuts, kind)
    assert found.raw_split_otherwise == ()
    assert found.split_otherwise == ()


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_tokens_and_as_many_embeddings(cuts: dict[str, Cut | str], kind: str) -> None:
    found = of(cuts, kind)
    assert found.embedded == found.after < found.before


@pytest.mark.parametrize("kind", KINDS)
def test_logits_of_the_texts_are_those_before(cuts: dict[str, Cut | str], kind: str) -> None:
    assert of(cuts, kind).logits_apart == 0


@pytest.mark.parametrize("kind", KINDS)
def test_new_words_of_known_characters_are_spelled(cuts: dict[str, Cut | str], kind: str) -> None:
    assert of(cuts, kind).lost == ()


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_have_their_names_and_ids(cuts: dict[str, Cut | str], kind: str) -> None:
    found = of(cuts, kind)
    assert found.special_moved == ()
    assert found.config_ids == found.wanted_ids


def test_vocab_txt_is_as_short_as_the_tokenizer(cuts: dict[str, Cut | str]) -> None:
    for kind in ("word_piece", "word_piece_bert", "slow"):
        *pieces, end = of(cuts, kind).beside
        assert (len(pieces), end) == (of(cuts, kind).after, "")
    assert "<user>" in of(cuts, "word_piece").beside
    assert of(cuts, "byte_level_gpt2").beside == ()


def test_a_padding_token_at_the_end_moves_with_its_ids(cuts: dict[str, Cut | str], room: Path) -> None:
    found = of(cuts, "byte_level_gpt2")
    assert found.config_ids["pad_token_id"] == found.after - 1
    content = json.loads((room / "byte_level_gpt2.cut" / "tokenizer.json").read_text())
    assert [token["id"] for token in content["added_tokens"] if token["content"] == "<|pad|>"] == [found.after - 1]


def _write(folder: Path, content: object) -> Path:
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


def _word_level(*tokens: str) -> dict[str, object]:
    pieces = {token: number for number, token in enumerate(tokens)}
    return {"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", "vocab": pieces, "unk_token": "<none>"}}


def test_an_unknown_character_costs_what_it_did(tmp_path: Path) -> None:
    # "aXb" has no piece X: with the lowest score gone, an unknown X would become cheaper than the pieces around it.
    pieces = [["<unk>", 0.0], ["aX", -12.0], ["b", -12.0], ["a", -1.0], ["zz", -40.0], ["bc", -0.5], ["c", -1.0], ["Xb", -30.0]]
    content = {
        "version": "1.0",
        "added_tokens": [],
        "model": {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": False},
    }
    folder = _write(tmp_path / "unigram", content)
    texts = ("aXbc", "abc")
    before = vocabulary._open(folder)
    kept = vocabulary.complete(folder, vocabulary.used(folder, texts, None), {})
    pieces_before = [before.encode(text).tokens for text in texts]
    vocabulary.cut(folder, kept)
    after = vocabulary._open(folder)
    assert [after.encode(text).tokens for text in texts] == pieces_before
    assert len(kept) < len(pieces)
    assert min(score for _, score in json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]) == -40


def test_listed_tokens_are_found_as_the_tokenizer_spells_them(tmp_path: Path) -> None:
    folder = _write(tmp_path / "words", _word_level("<none>", "a", "b\u2028c", "d"))
    file = tmp_path / "tokens.txt"
    file.write_text("a\n\n b\u2028c \n", encoding="utf-8")
    assert vocabulary.named(folder, file) == {1, 2}


@pytest.mark.parametrize(
    ("content", "words"), [(b"a\nz\n", r"line 2: 'z' is not a token"), (b"\xff\xfe", "not UTF-8"), (None, "No such file")]
)
def test_a_list_that_cannot_be_followed_is_told(tmp_path: Path, content: bytes | None, words: str) -> None:
    folder, file = _write(tmp_path / "words", _word_level("<none>", "a")), tmp_path / "tokens.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        vocabulary.named(folder, file)
    assert str(folder) not in str(caught.value)  # which may be a temporary one


def test_special_tokens_are_those_of_every_file(tmp_path: Path) -> None:
    content = _word_level("<none>", "a", "pad", "cls", "sep", "mine", "extra", "other", "[MASK]", "b", "named")
    content["padding"] = {"pad_id": 2, "pad_token": "pad"}
    content["post_processor"] = {
        "type": "Sequence",
        "processors": [{"type": "BertProcessing", "cls": ["cls", 3], "sep": ["sep", 4]}],
    }
    folder = _write(tmp_path / "words", content)
    settings = {"mask_token": {"content": "mine"}, "extra_special_tokens": ["extra"], "model_max_length": 5}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "special_tokens_map.json").write_text(json.dumps({"additional_special_tokens": [{"content": "other"}]}))
    found = vocabulary.special(folder, {"eos_token_id": 10, "bos_token_id": 99})
    assert set(found.values()) == {"<none>", "pad", "cls", "sep", "mine", "extra", "other", "[MASK]", "named"}
    with pytest.raises(ConfigError, match=r"list\.txt: would drop the special token '<none>'; add <none>, pad"):
        vocabulary.check(folder, {1, 9}, {}, "list.txt")
    with pytest.raises(ConfigError, match="keeps the token id 11"):
        vocabulary.check(folder, {*range(12)}, {}, "plan")


def test_another_kind_of_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = _write(tmp_path / "odd", {"added_tokens": [], "model": {"type": "Odd"}})
    with pytest.raises(CheckpointError, match="its tokenizer is a Odd"):
        vocabulary.complete(folder, {1}, {})
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="not a readable tokenizer"):
        vocabulary.complete(folder, {1}, {})
    with pytest.raises(CheckpointError, match="not a usable tokenizer"):
        vocabulary.used(folder, ("a",), None)


def test_tokens_of_an_added_decoder_that_the_tokenizer_lacks_go(tmp_path: Path) -> None:
    folder = _write(tmp_path / "words", _word_level("<none>", "a", "b"))
    decoder = {"0": {"content": "<none>"}, "7": {"content": "ghost"}}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    assert vocabulary.cut(folder, (0, 2)) == {0: 0, 2: 1}
    assert json.loads((folder / "tokenizer_config.json").read_text())["added_tokens_decoder"] == {"0": {"content": "<none>"}}
