import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgekit.data.encode import Encoding, feed
from edgekit.data.sources import TextRows, take
from edgekit.data.text import class_numbers, encode_text
from edgekit.errors import CheckpointError, ConfigError, DatasetError
from edgekit.spec import TensorSpec

ALL = ("input_ids", "attention_mask", "token_type_ids")


def text_rows(*texts: str, labels: tuple[int | str, ...] | None = None, pairs: tuple[str, ...] | None = None) -> TextRows:
    return TextRows(texts, pairs, labels, "rows.tsv")


def test_padded_with_the_tokenizers_own_id(tokenizer: Path) -> None:
    samples = encode_text(text_rows("good film", "the film was bad"), tokenizer, 7, ALL)
    assert samples.inputs["input_ids"].tolist() == [[1, 3, 5, 2, 9, 9, 9], [1, 6, 5, 8, 4, 2, 9]]
    assert samples.inputs["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 0]]
    assert not samples.inputs["token_type_ids"].any()
    assert {array.dtype.name for array in samples.inputs.values()} == {"int32"}
    assert samples.labels is None


def test_pairs_lose_tokens_from_the_longer_half(tokenizer: Path) -> None:
    rows = text_rows("the film was a good film", pairs=("bad film",))
    samples = encode_text(rows, tokenizer, 8, ALL)
    assert samples.inputs["input_ids"].tolist() == [[1, 6, 5, 8, 2, 4, 5, 2]]
    assert samples.inputs["token_type_ids"].tolist() == [[0, 0, 0, 0, 0, 1, 1, 1]]


def test_only_asked_inputs_in_their_order(tokenizer: Path) -> None:
    samples = encode_text(text_rows("good"), tokenizer, 4, ["attention_mask", "input_ids"])
    assert list(samples.inputs) == ["attention_mask", "input_ids"]


def test_more_rows_than_one_batch(tokenizer: Path) -> None:
    texts = tuple("good film" if number % 3 else "bad" for number in range(2500))
    ids = encode_text(TextRows(texts, None, None, "rows"), tokenizer, 5, ["input_ids"]).inputs["input_ids"]
    assert ids.shape == (2500, 5)
    assert ids[2499].tolist() == [1, 4, 2, 9, 9]
    assert ids[2498].tolist() == [1, 3, 5, 2, 9]


def test_unknown_input(tokenizer: Path) -> None:
    with pytest.raises(DatasetError, match="'pixel_values'"):
        feed(text_rows("good"), [TensorSpec("pixel_values", (1, 4), "int32")], Encoding(tokenizer), tokenizer)


def test_padding_side_and_token_of_the_config(tokenizer: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tokenizer, tmp_path / "left")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"pad_token": "[UNK]", "padding_side": "left", "truncation_side": "left"})
    )
    ids = encode_text(text_rows("good", "the film was good"), folder, 5, ["input_ids"]).inputs["input_ids"]
    assert ids.tolist() == [[0, 0, 1, 3, 2], [1, 5, 8, 3, 2]]


def test_unusable_tokenizers(tokenizer: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tokenizer, tmp_path / "t")
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer_config.json: not JSON"):
        encode_text(text_rows("good"), folder, 4, ["input_ids"])
    (folder / "tokenizer_config.json").unlink()
    described = json.loads((folder / "tokenizer.json").read_text())
    del described["model"]["vocab"]["[PAD]"]
    (folder / "tokenizer.json").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match="no padding token"):
        encode_text(text_rows("good"), folder, 4, ["input_ids"])
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer.json: not a usable tokenizer"):
        encode_text(text_rows("good"), folder, 4, ["input_ids"])


@pytest.mark.parametrize(
    "settings", [[1], {"padding_side": "up"}, {"truncation_side": "up"}, {"pad_token_type_id": "x"}, {"pad_token_type_id": -1}]
)
def test_settings_that_no_tokenizer_knows_are_named(tokenizer: Path, tmp_path: Path, settings: Any) -> None:
    folder = shutil.copytree(tokenizer, tmp_path / "t")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=r"tokenizer_config.json: .*(mend it there|save_pretrained)$"):
        encode_text(text_rows("good"), folder, 4, ["input_ids"])


@pytest.mark.parametrize("token", [7, {"content": 5}])
def test_a_padding_token_that_is_no_text_is_looked_for_elsewhere(tokenizer: Path, tmp_path: Path, token: Any) -> None:
    folder = shutil.copytree(tokenizer, tmp_path / "t")
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": token}))
    encoded = [
        encode_text(text_rows("good"), place, 4, ["input_ids"]).inputs["input_ids"].tolist() for place in (folder, tokenizer)
    ]
    assert encoded[0] == encoded[1]


def test_length_without_room(tokenizer: Path) -> None:
    with pytest.raises(ConfigError, match="length of 3"):
        encode_text(text_rows("good", pairs=("bad",)), tokenizer, 3, ["input_ids"])


def test_vocabulary_alone_is_turned_into_a_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ngood\nfilm\n")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    samples = encode_text(text_rows("Good film"), tmp_path, 6, ["input_ids"])
    assert samples.inputs["input_ids"].tolist() == [[2, 5, 6, 3, 0, 0]]


def test_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="its tokenizer does not load"):
        encode_text(text_rows("good"), tmp_path, 6, ["input_ids"])


def test_labels_by_number_and_name() -> None:
    head = {"negative": 0, "Positive": 1}
    numbers = class_numbers(text_rows("a", "b", "c", labels=(1, "NEGATIVE", "Positive")), head)
    assert numbers is not None
    assert (numbers.dtype.name, numbers.tolist()) == ("int64", [1, 0, 1])


def test_numbers_are_names_where_the_heads_names_are_numbers() -> None:
    stars = {"1": 0, "2": 1, "3": 2}
    numbers = class_numbers(text_rows("a", "b", "c", labels=(1, 3, 2)), stars)
    assert numbers is not None
    assert numbers.tolist() == [0, 2, 1]
    with pytest.raises(DatasetError, match="row 1 .* has 0, the head's 3 classes are 1=0, 2=1, 3=2"):
        class_numbers(text_rows("a", "b", labels=(1, 0)), stars)
    told = class_numbers(TextRows(("a", "b"), None, (0, 2), "hub:x", ("1", "2", "3")), stars)
    assert told is not None
    assert told.tolist() == [0, 2]


@pytest.mark.parametrize("label", [2, -1, "neutral"])
def test_labels_outside_the_head_name_row_and_label(label: int | str) -> None:
    rows = take(text_rows("a", "b", "c", labels=(0, 1, label)), [1, 2])
    assert isinstance(rows, TextRows)
    with pytest.raises(DatasetError, match=rf"outside the head: row 2 .* has {label!r}"):
        class_numbers(rows, {"negative": 0, "positive": 1})


def test_numbers_that_the_source_names_follow_the_heads_order() -> None:
    rows = TextRows(("a", "b"), None, (0, 1), "hub:x", ("Entailment", "Contradiction"))
    ordered = class_numbers(rows, {"contradiction": 0, "neutral": 1, "entailment": 2})
    assert ordered is not None
    assert ordered.tolist() == [2, 0]
    unnamed = class_numbers(rows, {"LABEL_0": 0, "LABEL_1": 1})
    assert unnamed is not None
    assert unnamed.tolist() == [0, 1]


def test_encoding_loads_no_framework(tokenizer: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from edgekit.data.sources import TextRows
from edgekit.data.text import encode_text
encode_text(TextRows(("good",), None, None, "rows"), Path({str(tokenizer)!r}), 4, ["input_ids"])
print([name for name in ("torch", "tensorflow", "transformers", "datasets", "pyarrow", "PIL") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
