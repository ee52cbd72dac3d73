"""Labels and scores from a file alone, the ids of Hugging Face, and what is wrong with files that cannot give any."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgekit.cli.commands.predict import halves, lines
from edgekit.data.sources import ImageRows, TextRows
from edgekit.data.text import encode_text
from edgekit.errors import CheckpointError, ConfigError, DatasetError, EdgekitError, ModelFormatError
from edgekit.models.checkpoint import Checkpoint
from edgekit.models.source import Kind, Source
from edgekit.system.worker import Worker
from edgekit.tasks.classification import IMAGE_CLASSIFICATION
from edgekit.tflite import flatbuffer, metadata, package
from edgekit.tflite.interpreter import Model
from edgekit.workflows.convert import contents
from edgekit.workflows.convert.config import ConvertConfig
from edgekit.workflows.predict import Predictor, load
from tests.commands import edgekit
from tests.unit.classifiers import (
    LENGTH,
    hard_strings,
    hugging_face_ids,
    image_classifier,
    span_model,
    text_classifier,
    token_classifier,
)
from tests.unit.tflite.conftest import Builder

CONFIG = ConvertConfig(schemes=("float32",), max_length=LENGTH)


def packed(
    folder: Path, room: Path, length: int = LENGTH, *, pairs: bool = False, model: bytes | None = None, **settings: Any
) -> Path:
    """A text model, by default a classifier, that carries what the checkpoint in `folder` says."""
    room.mkdir(exist_ok=True)
    bare, target = room / "bare.tflite", room / "packed.tflite"
    bare.write_bytes(model or text_classifier(length, pairs=pairs))
    config = replace(CONFIG, max_length=length, **settings)
    checkpoint = Checkpoint.read(folder)
    source = Source(Kind.CHECKPOINT, folder, "bert", checkpoint)
    found = contents.of_source(source, bare, None, checkpoint.task, checkpoint.settings, config)
    assert found is not None
    found.write(bare, target, "float32")
    bare.unlink()
    return target


def headed(folder: Path, target: Path, **settings: Any) -> Path:
    """A copy of a checkpoint's folder whose config.json says something else of the head."""
    shutil.copytree(folder, target)
    file = target / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    return target


@pytest.fixture(scope="module")
def alone(tiny_bert, tmp_path_factory) -> Path:
    """A packed text classifier in a folder of its own."""
    return packed(tiny_bert, tmp_path_factory.mktemp("alone"))


def repacked(path: Path, target: Path, changes: dict[str, bytes | None]) -> Path:
    files = {name: content for name, content in {**package.read_files(path), **changes}.items() if content is not None}
    package.attach(path.read_bytes(), target, flatbuffer.read(path).model_metadata, files)
    return target


def fed(predictor: Predictor, text: str) -> dict[str, np.ndarray]:
    return predictor.fed(predictor.encode(text)[0])[0]


def ids(predictor: Predictor, texts: list[str]) -> np.ndarray:
    return np.concatenate([fed(predictor, text)["input_ids"] for text in texts])


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
    found = predictor("a lovely film")
    logits = Model(alone).run(fed(predictor, "a lovely film"))["logits"][0]
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(list(found.fields["scores"].values()), expected, rtol=1e-5)
    assert list(found.fields["scores"]) == ["negative", "positive"]
    assert found.answer == found.fields["label"] == ["negative", "positive"][int(expected.argmax())]
    assert found.score == pytest.approx(expected.max())
    assert found.milliseconds > 0


def test_for_mediapipe_the_scores_are_the_same(alone, tiny_bert, tmp_path):
    adapted = Predictor(packed(tiny_bert, tmp_path / "mediapipe", mediapipe=True))
    for text in ("a lovely film", "", "dull"):
        assert adapted(text).fields["scores"] == pytest.approx(Predictor(alone)(text).fields["scores"], abs=1e-6)


def test_empty_and_long_texts_are_judged_and_told(alone):
    predictor = Predictor(alone)
    assert predictor("a film").remark == ""
    assert predictor(" ").remark == "the text is empty"
    assert "cut to the 16 tokens" in predictor("film " * 40).remark


def test_files_without_labels_or_tokenizer(alone, tiny_bert, tmp_path):
    bare = tmp_path / "bare.tflite"
    bare.write_bytes(text_classifier())
    with pytest.raises(CheckpointError, match=r"holds no tokenizer, and there is no tokenizer\.json beside it"):
        Predictor(bare)
    (tmp_path / "tokenizer.json").write_bytes((tiny_bert / "tokenizer.json").read_bytes())
    found = load(bare, task="text-classification")("a lovely film").fields["scores"]
    assert list(found) == ["0", "1"]
    assert list(found.values()) == pytest.approx(list(Predictor(alone)("a lovely film").fields["scores"].values()))
    assert Predictor(bare)("a lovely film").answer == "logits [2]"
    with pytest.raises(ConfigError, match="unknown task summary; choose from text-classification"):
        load(bare, task="summary")


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
        Predictor(alone)("a", "b")


def test_pairs_are_encoded_as_in_training(tiny_bert, tmp_path):
    predictor = Predictor(packed(tiny_bert, tmp_path / "pairs", pairs=True))
    texts, others = ("a lovely film", "the plot is dull"), ("grim scene", "very " * 20)
    rows = TextRows(texts, others, None, "pairs")
    names = ("input_ids", "attention_mask", "token_type_ids")
    encoded = encode_text(rows, tiny_bert, LENGTH, names)
    for index, (text, other) in enumerate(zip(texts, others, strict=True)):
        logits = Model(predictor.path).run({name: encoded.inputs[name][index : index + 1] for name in names})["logits"][0]
        expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        assert list(predictor(text, other).fields["scores"].values()) == pytest.approx(expected.tolist(), rel=1e-4)
    with pytest.raises(DatasetError, match="takes pairs of texts; give the second after a tab or with --pair"):
        predictor("a film")
    assert halves("a\tb", None, pairs=True) == ("a", "b")
    assert halves("a\tb", None, pairs=False) == ("a\tb", None)
    assert halves("a\tb", "c", pairs=True) == ("a\tb", "c")


def test_one_value_without_a_name_is_called_no_class(tmp_path):
    model, picture = tmp_path / "sigmoid.tflite", tmp_path / "image.png"
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(picture)
    for classes, names in ((1, ["value"]), (2, ["0", "1"])):
        model.write_bytes(image_classifier(classes))
        assert list(load(model, task="image-classification")(picture).fields["scores"]) == names
    assert list(load(model)(picture).fields) == ["logits"]


def test_images(tmp_path):
    model, target = tmp_path / "image.tflite", tmp_path / "packed.tflite"
    model.write_bytes(image_classifier())
    rows = ImageRows((), None, ("cat", "cat", "dog"), "images")
    told = {"problem": "single_label_classification", "activation": "softmax", "labels": []}
    found = contents.of_source(Source(Kind.ONNX, model, "net"), model, rows, IMAGE_CLASSIFICATION, told, CONFIG)
    assert found is not None
    found.write(model, target, "float32")
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    predicted = Predictor(target)(tmp_path / "image.png").fields["scores"]
    logits = Model(target).run({"image": (pixels.astype(np.float32)[None] - 127.5) / 127.5})["logits"][0]
    np.testing.assert_allclose(list(predicted.values()), np.exp(logits) / np.exp(logits).sum(), rtol=1e-4)
    assert list(predicted) == ["0 cat", "1 cat", "dog"]
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"broken\.png: not a readable image"):
        Predictor(target)(tmp_path / "broken.png")
    with pytest.raises(DatasetError, match="takes images"):
        Predictor(target)("a", "b")


def test_what_takes_neither_texts_nor_an_image(tmp_path):
    build = Builder()
    x, y = build.tensor("x", [1, 3, 2]), build.tensor("y", [1, 3, 2])
    build.op("ABS", [x], [y])
    build.ends({"x": x}, {"y": y})
    (tmp_path / "abs.tflite").write_bytes(build.pack())
    with pytest.raises(ModelFormatError, match=r"takes x \[1, 3, 2\], neither text nor an image; use edgekit evaluate"):
        Predictor(tmp_path / "abs.tflite")


MULTI = "multi_label_classification"


@pytest.mark.parametrize(
    ("config", "classes", "name"),
    [
        ({"problem_type": "regression", "id2label": {"0": "stars"}, "label2id": {"stars": 0}}, 1, "value"),
        ({"problem_type": MULTI}, 2, "logits"),
        ({"problem_type": MULTI, "id2label": {"0": "toxic"}, "label2id": {"toxic": 0}}, 1, "logits"),
    ],
)
def test_scores_of_other_kinds_of_heads(tiny_bert, tmp_path, config, classes, name):
    folder = headed(tiny_bert, tmp_path / "head", **config)
    target = packed(folder, tmp_path / "packed", model=text_classifier(classes=classes))
    assert metadata.parse(flatbuffer.read(target).model_metadata).outputs[0].name == name
    predictor = Predictor(target)
    values = Model(target).run(fed(predictor, "a film"))["logits"][0]
    expected = values if name == "value" else 1 / (1 + np.exp(-values))
    assert list(predictor("a film").fields["scores"].values()) == pytest.approx(expected.tolist(), rel=1e-4)


def test_a_label_of_several_holds_from_the_threshold_that_travels_along(tiny_bert, tmp_path):
    folder = headed(tiny_bert, tmp_path / "head", problem_type=MULTI)
    scores = Predictor(packed(folder, tmp_path / "first"))("a film").fields["scores"]
    low, high = sorted(scores, key=scores.__getitem__)
    for threshold, labels in ((0.0, ["negative", "positive"]), ((scores[low] + scores[high]) / 2, [high]), (1.0, [])):
        found = Predictor(packed(folder, tmp_path / str(threshold), score_threshold=threshold))("a film")
        assert found.fields["labels"] == labels
        assert found.answer == (", ".join(labels) or "none")


def test_a_batch_gives_what_calls_give(alone, tiny_bert, tmp_path):
    predictor = load(str(alone))
    first, second = predictor.batch(["a film", {"text": "dull"}])
    assert (first.fields, second.fields) == (predictor("a film").fields, predictor("dull").fields)
    pairs = load(packed(tiny_bert, tmp_path / "pairs", pairs=True))
    assert pairs.batch([("a film", "dull")])[0].fields == pairs("a film", "dull").fields


def test_padding_and_cutting_are_those_of_the_checkpoint(tiny_bert, tmp_path):
    folder = shutil.copytree(tiny_bert, tmp_path / "left")
    settings = json.loads((folder / "tokenizer_config.json").read_text()) | {"truncation_side": "left", "padding_side": "left"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    texts = ["a film", "a lovely film with a dull plot and " * 3 + "grim scene"]
    expected, _ = Worker(timeout_s=120).run(hugging_face_ids, folder, texts, LENGTH).value
    np.testing.assert_array_equal(ids(Predictor(packed(folder, tmp_path / "packed")), texts), expected)


def tagger(folder: Path, room: Path, **settings: Any) -> Path:
    """A file that tags tokens, with the tokenizer of the checkpoint in `folder`."""
    names = ["O", "B-PER", "I-PER"]
    head = {
        "architectures": ["BertForTokenClassification"],
        "id2label": dict(enumerate(names)),
        "label2id": {name: number for number, name in enumerate(names)},
    }
    return packed(headed(folder, room / "head", **head), room / "packed", model=token_classifier(), **settings)


def test_entities_have_their_characters_and_the_mean_score_of_their_tokens(tiny_bert, tmp_path):
    predictor = Predictor(tagger(tiny_bert, tmp_path))
    assert predictor.task.name == "token-classification"
    text = "a lovely film with a dull plot"
    found = predictor(text)
    logits = Model(predictor.path).run(fed(predictor, text))["logits"][0].astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    offsets = predictor.encode(text)[0].extras["offsets"][0]
    assert found.fields["entities"]
    for entity in found.fields["entities"]:
        tokens = [place for place, (start, end) in enumerate(offsets) if entity["start"] <= start and 0 < end <= entity["end"]]
        assert entity["text"] == text[entity["start"] : entity["end"]]
        assert entity["label"] == "PER"
        assert entity["score"] == pytest.approx(shares[tokens].max(axis=1).mean())
    first, *others = lines(found, text)
    assert first.split("\t")[0] == found.answer
    assert others == [
        f"  {entity['label']}\t{entity['score']:.4f}\t{entity['start']}-{entity['end']}\t{entity['text']}"
        for entity in found.fields["entities"]
    ]


def test_a_text_to_tag_is_empty_too_long_or_one_of_a_pair(tiny_bert, tmp_path):
    predictor = Predictor(tagger(tiny_bert, tmp_path))
    assert (predictor("").answer, predictor("").remark) == ("none", "the text is empty")
    assert "cut to the 16 tokens" in predictor("film " * 40).remark
    with pytest.raises(DatasetError, match="takes single texts"):
        predictor("a film", "dull")


def asker(folder: Path, room: Path) -> Path:
    """A file that answers questions, with the tokenizer of the checkpoint in `folder`."""
    head = headed(folder, room / "head", architectures=["BertForQuestionAnswering"])
    return packed(head, room / "packed", model=span_model())


def test_an_answer_stands_in_its_context_however_many_windows_that_takes(tiny_bert, tmp_path):
    predictor = Predictor(asker(tiny_bert, tmp_path))
    assert predictor.halves == ("question", "context")
    for times in (1, 8):
        context = "a lovely film with a dull plot " * times
        samples, remark = predictor.encode("film", context)
        assert (len(samples) > 1, remark) == (times > 1, "")
        found = predictor(question="film", context=context)
        assert found.answer == context[found.fields["start"] : found.fields["end"]] != ""
        place = f"{found.fields['start']}-{found.fields['end']}"
        assert lines(found, "film")[0].split("\t")[:3] == [found.answer, f"{found.score:.4f}", place]
    assert predictor.batch([{"question": "film", "context": context}])[0].fields == found.fields
    with pytest.raises(DatasetError, match="takes a question and a context; give --question and --context, or a tab"):
        predictor("film")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "there is nothing to answer"),
        (("--question", "who"), 2, "--question goes with --context alone"),
        (("a", "--question", "who", "--context", "b"), 2, "--question goes with --context alone"),
        (("--question", "who", "--context", "b"), 3, "takes single texts"),
        (("a", "--task", "summary"), 2, "unknown task summary"),
    ],
)
def test_the_command_says_in_one_line_what_it_cannot_answer(alone, arguments, code, said):
    found = edgekit("predict", alone, *arguments)
    assert (found.code, found.out, len(found.err)) == (code, "", 1)
    assert said in found.err[0]


def test_the_command_prints_entities_below_their_text(tiny_bert, tmp_path):
    path = tagger(tiny_bert, tmp_path)
    found = edgekit("predict", path, "a lovely film")
    expected = Predictor(path)("a lovely film")
    assert [line.split("\t")[0] for line in found.out.splitlines()] == [
        expected.answer,
        *(f"  {entity['label']}" for entity in expected.fields["entities"]),
    ]
    told = json.loads(edgekit("predict", path, "a lovely film", "--json").out)
    assert set(told) == {"entities", "milliseconds"}
    assert [(entity["start"], entity["end"]) for entity in told["entities"]] == [
        (entity["start"], entity["end"]) for entity in expected.fields["entities"]
    ]
