"""The ids that edgekit feeds are those of the checkpoint's own tokenizer class."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgekit.data import checkpoint_tokenizer, tables
from edgekit.data.sources import TextRows
from edgekit.data.text import encode_text, open_tokenizer
from edgekit.errors import CheckpointError
from edgekit.system.worker import Worker
from tests.unit.data import tokenizers

ROWS, LONGEST = 2000, 200
TEXTS = tuple(tokenizers.hard_texts(1000))
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
    _compare(room / name, TEXTS, pairs)


def _compare(folder: Path, texts: tuple[str, ...], pairs: tuple[str, ...] | None) -> None:
    with np.load(folder / tokenizers.EXPECTED) as expected:
        arrays = {key.partition(" ")[2]: expected[key] for key in expected if key.startswith("pairs" if pairs else "texts")}
    samples = encode_text(TextRows(texts, pairs, None, "texts"), folder, tokenizers.LENGTH, list(arrays))
    for key, array in arrays.items():
        wrong = np.flatnonzero((samples.inputs[key] != array).any(axis=1))
        assert not wrong.size, f"{folder.name}: {key} of {texts[wrong[0]]!r}"


def test_the_ids_of_real_rows(shared: Path, room: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(room, tmp_path / "tokenizers")
    named = {"sst2/dev.tsv": ("sentence",), "stsb/dev.tsv": ("sentence1",), "xquad/es_train.jsonl": ("context",)}
    texts = [
        str(text)[:LONGEST]
        for name, columns in named.items()
        for text in tables.read_columns(shared / "data" / name, columns, ROWS // 4)[columns[0]]
    ]
    lines = (shared / "data/quijote/train.txt").read_text().splitlines()
    texts += [line[:LONGEST] for line in lines[: ROWS - len(texts)]]
    assert len(texts) == ROWS
    Worker().run(tokenizers.write_expected, copied, texts)
    for name in tokenizers.TOKENIZERS:
        _compare(copied / name, tuple(texts), None)


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
    ],
)
def test_transformers_is_asked_where_a_setting_decides(room: Path, setting: dict[str, object]) -> None:
    described, settings = (json.loads((room / "bert" / name).read_text()) for name in ("tokenizer.json", "tokenizer_config.json"))
    assert checkpoint_tokenizer.is_berts(described, settings)
    assert not checkpoint_tokenizer.is_berts(described, settings | setting)


def test_a_tokenizer_of_python_code(tmp_path: Path, room: Path) -> None:
    folder = shutil.copytree(room / "gpt2_vocabulary_alone", tmp_path / "ctrl")
    (folder / "config.json").write_text(json.dumps({"model_type": "ctrl"}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CTRLTokenizer"}))
    with pytest.raises(CheckpointError, match=r"CTRLTokenizer, is Python code.* \.npz file$"):
        open_tokenizer(folder, 8, pair=False)
