"""Labels and scores from a file alone, the ids of Hugging Face, and what is wrong with files that cannot give any."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgekit.cli.commands.predict import halves
from edgekit.data.sources import ImageRows, TextRows
from edgekit.data.text import encode_text
from edgekit.errors import CheckpointError, DatasetError, EdgekitError, ModelFormatError
from edgekit.system.worker import Worker
from edgekit.tflite import flatbuffer, metadata, package
from edgekit.tflite.interpreter import Model
from edgekit.workflows.convert import contents
from edgekit.workflows.convert.bridge import Kind, Source
from edgekit.workflows.convert.config import ConvertConfig
from edgekit.workflows.predict import Predictor
from tests.unit.classifiers import LENGTH, hard_strings, hugging_face_ids, image_classifier, text_classifier
from tests.unit.tflite.conftest import Builder

CONFIG = ConvertConfig(schemes=("float32",), max_length=LENGTH)


def packed(folder: Path, room: Path, length: int = LENGTH, *, pairs: bool = False, **settings: Any) -> Path:
    room.mkdir(exist_ok=True)
    bare, target = room / "bare.tflite", room / "packed.tflite"
    bare.write_bytes(text_classifier(length, pairs=pairs))
    config = replace(CONFIG, max_length=length, **settings)
    found = contents.of_source(Source(Kind.CHECKPOINT, folder, "bert"), bare, None, config)
    assert found is not None
    found.write(bare, target, "float32")
    bare.unlink()
    return target


@pytest.fixture(scope="module")
def alone(tiny_bert, tmp_path_factory) -> Path:
    """A packed text classifier in a folder of its own."""
    return packed(tiny_bert, tmp_path_factory.mktemp("alone"))


def repacked(path: Path, target: Path, changes: dict[str, bytes | None]) -> Path:
    files = {name: content for name, content in {**package.read_files(path), **changes}.items() if content is not None}
    package.attach(path.read_bytes(), target, flatbuffer.read(path).model_metadata, files)
    return target


def ids(predictor: Predictor, texts: list[str]) -> np.ndarray:
    assert predictor.tokenizer is not None
    return np.array([predictor.tokenizer.encode(text).ids for text in texts])


def test_token_ids_are_those_of_hugging_face_on_hard_strings(alone, tiny_bert):
    texts = hard_strings(1000)
    assert max(map(len, texts)) == 10_000
    expected, _ = Worker(timeout_s=120).run(hugging_face_ids, tiny_bert, texts, LENGTH).value
    np.testing.assert_array_equal(ids(Predictor(alone), texts), expected)


def test_token_ids_of_the_shared_model(shared, tmp_path):
    folder = shared / "models" / "minilm-l6-sst2"
    texts = hard_strings(1000, seed=1)
    for name in ("dev.tsv", "train.tsv"):
        lines = (shared / "data" / "sst2" / name).read_text(encoding="utf-8").splitlines()[1:]
        texts += [line.split("\t")[0] for line in lines[:2000]]
    expected, _ = Worker(timeout_s=120).run(hugging_face_ids, folder, texts, 64).value
    np.testing.assert_array_equal(ids(Predictor(packed(folder, tmp_path, 64)), texts), expected)


def test_scores_are_the_softmax_of_what_the_model_gives(alone):
    predictor = Predictor(alone)
    found = predictor.text("a lovely film")
    assert predictor.tokenizer is not None
    encoding = predictor.tokenizer.encode("a lovely film")
    row = {"input_ids": np.array([encoding.ids], np.int32), "attention_mask": np.array([encoding.attention_mask], np.int32)}
    logits = Model(alone).run(row)["logits"][0]
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(list(found.scores.values()), expected, rtol=1e-5)
    assert list(found.scores) == ["negative", "positive"]
    assert found.label == ["negative", "positive"][int(expected.argmax())]
    assert found.milliseconds > 0


def test_for_mediapipe_the_scores_are_the_same(alone, tiny_bert, tmp_path):
    adapted = Predictor(packed(tiny_bert, tmp_path / "mediapipe", mediapipe=True))
    for text in ("a lovely film", "", "dull"):
        assert adapted.text(text).scores == pytest.approx(Predictor(alone).text(text).scores, abs=1e-6)


def test_empty_and_long_texts_are_judged_and_told(alone):
    predictor = Predictor(alone)
    assert predictor.text("a film").remark == ""
    assert predictor.text(" ").remark == "the text is empty"
    assert "cut to the 16 tokens" in predictor.text("film " * 40).remark


def test_files_without_labels_or_tokenizer(alone, tiny_bert, tmp_path):
    bare = tmp_path / "bare.tflite"
    bare.write_bytes(text_classifier())
    with pytest.raises(CheckpointError, match=r"holds no tokenizer, and there is no tokenizer\.json beside it"):
        Predictor(bare)
    (tmp_path / "tokenizer.json").write_bytes((tiny_bert / "tokenizer.json").read_bytes())
    found = Predictor(bare).text("a lovely film")
    assert list(found.scores) == ["0", "1"]
    assert list(found.scores.values()) == pytest.approx(list(Predictor(alone).text("a lovely film").scores.values()))


def test_more_labels_than_outputs(alone, tmp_path):
    settings = {**package.settings(alone), "labels": ["a", "b", "c"]}
    path = repacked(alone, tmp_path / "labels.tflite", {"edgekit.json": json.dumps(settings).encode()})
    with pytest.raises(ModelFormatError, match="names 3 labels but gives 2 scores"):
        Predictor(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"edgekit.json": b"{"}, "its edgekit.json is damaged"),
        ({"tokenizer.json": b"{}"}, "its tokenizer.json is damaged"),
        ({"tokenizer.json": None}, "holds no tokenizer"),
    ],
)
def test_damaged_files_inside(alone, tmp_path, changes, said):
    with pytest.raises(EdgekitError, match=said) as caught:
        Predictor(repacked(alone, tmp_path / "damaged.tflite", changes))
    assert caught.value.exit_code == 3


def test_a_damaged_metadata_block(alone, tmp_path):
    described = flatbuffer.read(alone).model_metadata
    path = tmp_path / "damaged.tflite"
    path.write_bytes(alone.read_bytes().replace(described, b"\xff" * 4 + described[4:]))
    with pytest.raises(ModelFormatError, match=r"damaged\.tflite: its TFLITE_METADATA entry is damaged"):
        Predictor(path)


def test_single_texts_take_no_second_half(alone):
    with pytest.raises(DatasetError, match="takes single texts"):
        Predictor(alone).text("a", "b")


def test_pairs_are_encoded_as_in_training(tiny_bert, tmp_path):
    predictor = Predictor(packed(tiny_bert, tmp_path / "pairs", pairs=True))
    texts, others = ("a lovely film", "the plot is dull"), ("grim scene", "very " * 20)
    rows = TextRows(texts, others, None, "pairs")
    names = ("input_ids", "attention_mask", "token_type_ids")
    encoded = encode_text(rows, tiny_bert, LENGTH, names, {})
    for index, (text, other) in enumerate(zip(texts, others, strict=True)):
        logits = Model(predictor.path).run({name: encoded.inputs[name][index : index + 1] for name in names})["logits"][0]
        expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        assert list(predictor.text(text, other).scores.values()) == pytest.approx(expected.tolist(), rel=1e-4)
    with pytest.raises(DatasetError, match="takes pairs of texts; give the second after a tab or with --pair"):
        predictor.text("a film")
    assert halves("a\tb", None, pairs=True) == ("a", "b")
    assert halves("a\tb", None, pairs=False) == ("a\tb", None)
    assert halves("a\tb", "c", pairs=True) == ("a\tb", "c")


def test_one_value_without_a_name_is_called_no_class(tmp_path):
    model = tmp_path / "sigmoid.tflite"
    model.write_bytes(image_classifier(1))
    assert Predictor(model).labels == ["value"]
    model.write_bytes(image_classifier(2))
    assert Predictor(model).labels == ["0", "1"]


def test_images(tmp_path):
    model, target = tmp_path / "image.tflite", tmp_path / "packed.tflite"
    model.write_bytes(image_classifier())
    rows = ImageRows((), None, ("cat", "cat", "dog"), "images")
    found = contents.of_source(Source(Kind.ONNX, model, "net"), model, rows, CONFIG)
    assert found is not None
    found.write(model, target, "float32")
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    predicted = Predictor(target).image(tmp_path / "image.png")
    logits = Model(target).run({"image": (pixels.astype(np.float32)[None] - 127.5) / 127.5})["logits"][0]
    np.testing.assert_allclose(list(predicted.scores.values()), np.exp(logits) / np.exp(logits).sum(), rtol=1e-4)
    assert list(predicted.scores) == ["0 cat", "1 cat", "dog"]
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"broken\.png: not a readable image"):
        Predictor(target).image(tmp_path / "broken.png")
    with pytest.raises(DatasetError, match="takes images"):
        Predictor(target).text("a")


def test_what_is_no_classifier(tmp_path):
    build = Builder()
    x, y = build.tensor("x", [1, 3, 2]), build.tensor("y", [1, 3, 2])
    build.op("ABS", [x], [y])
    build.ends({"x": x}, {"y": y})
    (tmp_path / "abs.tflite").write_bytes(build.pack())
    with pytest.raises(ModelFormatError, match=r"is no classifier \(its first output has shape \[1, 3, 2\]\)"):
        Predictor(tmp_path / "abs.tflite")


@pytest.mark.parametrize(
    ("config", "classes", "name"),
    [
        ({"problem_type": "regression", "id2label": {"0": "stars"}}, 1, "value"),
        ({"problem_type": "multi_label_classification"}, 2, "logits"),
    ],
)
def test_scores_of_other_kinds_of_heads(tiny_bert, tmp_path, config, classes, name):
    folder, bare, target = tmp_path / "head", tmp_path / "bare.tflite", tmp_path / "packed.tflite"
    shutil.copytree(tiny_bert, folder)
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    bare.write_bytes(text_classifier(classes=classes))
    found = contents.of_source(Source(Kind.CHECKPOINT, folder, "head"), bare, None, CONFIG)
    assert found is not None
    found.write(bare, target, "float32")
    assert metadata.parse(flatbuffer.read(target).model_metadata).outputs[0].name == name
    predictor = Predictor(target)
    assert predictor.tokenizer is not None
    encoding = predictor.tokenizer.encode("a film")
    row = {"input_ids": np.array([encoding.ids], np.int32), "attention_mask": np.array([encoding.attention_mask], np.int32)}
    values = Model(target).run(row)["logits"][0]
    expected = values if name == "value" else 1 / (1 + np.exp(-values))
    assert list(predictor.text("a film").scores.values()) == pytest.approx(expected.tolist(), rel=1e-4)
