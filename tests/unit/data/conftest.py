"""A word-level tokenizer of a dozen words, written without any framework."""

import json
from pathlib import Path

import pytest

WORDS = ("[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "the", "a", "was", "[PAD]")


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with tokenizer.json and tokenizer_config.json; the padding token is the last id, 9, and only the config names it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder = tmp_path_factory.mktemp("tokenizer")
    encoder = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    encoder.pre_tokenizer = pre_tokenizers.Whitespace()
    encoder.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    # As a fine-tuning run leaves it: truncation of its own, which must not stay in force.
    encoder.enable_truncation(4)
    encoder.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": {"content": "[PAD]"}, "padding_side": "right"}))
    return folder
