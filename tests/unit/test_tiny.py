"""The shared fixtures are what they say."""

import json
import sys
from pathlib import Path

from edgekit.system.worker import Worker
from tests import tiny


def _predictions(folder: Path, texts: list[str]) -> list[int]:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return [int(model(**tokenizer(text, return_tensors="pt")).logits.argmax()) for text in texts]


def test_tiny_bert_loads_and_tells_sentences_apart(tiny_bert: Path) -> None:
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in tiny_bert.iterdir()}
    config = json.loads((tiny_bert / "config.json").read_text())
    assert (config["num_hidden_layers"], config["hidden_size"], config["num_attention_heads"]) == (2, 64, 4)
    texts = [text for text, _ in tiny.sentences(32)]
    found = Worker().run(_predictions, tiny_bert, texts).value
    assert 4 <= sum(found) <= 28


def test_tiny_tsv_is_balanced(tiny_tsv: Path) -> None:
    header, *rows = tiny_tsv.read_text().splitlines()
    assert header == "sentence\tlabel"
    assert len(rows) == 64
    assert sum(row.endswith("\t1") for row in rows) == 32


def test_the_test_process_holds_no_framework(tiny_bert: Path) -> None:
    assert not {"torch", "tensorflow"} & set(sys.modules)
