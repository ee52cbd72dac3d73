"""What travels inside a file: the vocabulary, the settings, the card, and what MediaPipe cannot run."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from edgekit.data.sources import ImageRows, TextRows
from edgekit.errors import ConfigError, DatasetError
from edgekit.models.checkpoint import Checkpoint
from edgekit.models.source import Kind, Source
from edgekit.tasks.generic import GENERIC
from edgekit.tasks.recognition import recognise
from edgekit.tflite import flatbuffer, metadata, package
from edgekit.tflite.interpreter import Model
from edgekit.workflows.convert import contents
from edgekit.workflows.convert.config import ConvertConfig
from edgekit.workflows.convert.contents import Package
from tests.unit.classifiers import LENGTH, image_classifier, span_model, text_classifier

CONFIG = ConvertConfig(schemes=("float32",), max_length=LENGTH)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "float32.tflite"
    path.write_bytes(text_classifier())
    return path


@pytest.fixture
def image_model(tmp_path: Path) -> Path:
    path = tmp_path / "image.tflite"
    path.write_bytes(image_classifier())
    return path


def of_folder(folder: Path, model: Path, config: ConvertConfig = CONFIG, rows: TextRows | None = None) -> Package:
    checkpoint = Checkpoint.read(folder)
    source = Source(Kind.CHECKPOINT, folder, "bert", checkpoint)
    found = contents.of_source(source, model, rows, checkpoint.task, checkpoint.settings, config)
    assert isinstance(found, Package)
    return found


def of_images(
    model: Path, config: ConvertConfig = CONFIG, rows: ImageRows | None = None, task: str | None = None
) -> Package | None:
    file = flatbuffer.read(model)
    recognised = recognise({}, file.signature(file.entry()).outputs, rows, task)
    found = contents.of_source(Source(Kind.ONNX, model, "net"), model, rows, *recognised, config)
    assert not isinstance(found, contents.Carried)
    return found


def configured(folder: Path, target: Path, **settings: object) -> Path:
    """A copy of a checkpoint's folder whose config.json has other settings."""
    shutil.copytree(folder, target)
    written = json.loads((folder / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**written, **settings}))
    return target


def named(*names: str) -> ImageRows:
    return ImageRows((Path("a.png"),), (0,), names, "images")


def test_a_text_classifier_carries_all_that_it_needs(tiny_bert, model, tmp_path):
    target = tmp_path / "packed.tflite"
    of_folder(tiny_bert, model).write(model, target, "float32")
    files = package.read_files(target)
    assert list(files) == ["edgekit.json", "tokenizer.json", "labels.txt", "vocab.txt"]
    assert files["labels.txt"] == b"negative\npositive\n"
    vocabulary = json.loads((tiny_bert / "tokenizer.json").read_text())["model"]["vocab"]
    pieces = files["vocab.txt"].decode().split("\n")
    assert pieces.pop() == ""
    assert {piece: number for number, piece in enumerate(pieces)} == vocabulary
    settings = json.loads(files["edgekit.json"])
    assert settings["labels"] == ["negative", "positive"]
    assert (settings["max_length"], settings["lower_case"], settings["pairs"]) == (LENGTH, True, False)
    assert settings["special_token_ids"] == {name: vocabulary[name] for name in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")}
    described = metadata.parse(flatbuffer.read(target).model_metadata)
    assert [tensor.name for tensor in described.inputs] == ["ids", "mask"]
    assert described.vocabulary is not None
    assert described.vocabulary.name == "vocab.txt"
    assert described.outputs[0].files[0].kind == metadata.AXIS_LABELS
    assert (described.author, described.license, described.min_parser_version) == ("", "", "1.1.0")
    assert Model(target).signature == Model(model).signature


def test_without_data_a_model_with_segments_is_told_to_take_single_texts(tiny_bert, model, tmp_path):
    def notes(**settings: int | None) -> list[str]:
        folder = configured(tiny_bert, tmp_path / "-".join(["bert", *settings, *map(str, settings.values())]), **settings)
        return [line for line in of_folder(folder, model).notes if "single texts" in line]

    assert len(notes(type_vocab_size=2)) == 1
    assert notes(type_vocab_size=1) == notes(type_vocab_size=None) == []
    rows = TextRows(("a film",), None, None, "dev.tsv")
    assert of_folder(tmp_path / "bert-type_vocab_size-2", model, rows=rows).notes == ()


def test_the_task_and_what_its_outputs_are_read_with_travel_along(tiny_bert, model, tmp_path):
    folder = configured(tiny_bert, tmp_path / "several", problem_type="multi_label_classification")
    target = tmp_path / "packed.tflite"
    rows = TextRows(("a film",), None, None, "dev.tsv")
    found = of_folder(folder, model, replace(CONFIG, score_threshold=0.25), rows)
    assert found.notes == ()
    found.write(model, target, "float32")
    settings = package.settings(target)
    assert (settings["task"], settings["problem"]) == ("text-classification", "multi_label_classification")
    assert (settings["activation"], settings["threshold"]) == ("sigmoid", 0.25)
    described = metadata.parse(flatbuffer.read(target).model_metadata)
    assert described.description.startswith("Text classifier of several labels, float32,")
    assert described.outputs[0].score_threshold == 0.25


def test_a_task_that_mediapipe_lacks_says_so_where_it_is_asked_for(tiny_bert, model, tmp_path):
    folder = configured(tiny_bert, tmp_path / "stars", problem_type="regression", id2label={"0": "stars"}, label2id={"stars": 0})
    model.write_bytes(text_classifier(classes=1))
    assert not any("MediaPipe" in note for note in of_folder(folder, model).notes)
    found = of_folder(folder, model, replace(CONFIG, mediapipe=True))
    assert "takes classifiers of one output" in found.notes[0]
    target = tmp_path / "packed.tflite"
    found.write(model, target, "float32")
    described = metadata.parse(flatbuffer.read(target).model_metadata)
    assert (described.outputs[0].name, described.vocabulary) == ("value", None)


def test_every_output_has_a_title_and_no_labels_that_are_not_its_classes(tiny_bert, tmp_path):
    model, target = tmp_path / "span.tflite", tmp_path / "packed.tflite"
    model.write_bytes(span_model())
    of_folder(tiny_bert, model).write(model, target, "float32")
    described = metadata.parse(flatbuffer.read(target).model_metadata)
    assert [output.name for output in described.outputs] == ["logits", "end_logits"]
    assert described.outputs[1].files == described.outputs[0].files == ()
    assert "labels.txt" not in package.read_files(target)


def test_for_mediapipe_the_metadata_follows_the_order_of_the_inputs(tiny_bert, model, tmp_path):
    target = tmp_path / "packed.tflite"
    of_folder(tiny_bert, model, replace(CONFIG, mediapipe=True, score_threshold=0.5)).write(model, target, "float32")
    file = flatbuffer.read(target)
    described = metadata.parse(file.model_metadata)
    assert [tensor.name for tensor in described.inputs] == ["ids", "mask", "segment_ids"]
    assert described.outputs[0].name == "probability"
    assert described.outputs[0].score_threshold == 0.5
    assert package.settings(target)["activation"] == "none"
    assert [spec.name for spec in file.signature(file.entry()).outputs] == ["probabilities"]


def test_author_and_licence_are_those_of_the_card_or_none(tiny_bert, tmp_path):
    folder = tmp_path / "carded"
    shutil.copytree(tiny_bert, folder)
    assert contents.card(Checkpoint.read(folder)) == {}
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\nauthor: 'A. Person'\n---\n# Model\nlicense: other\n")
    assert contents.card(Checkpoint.read(folder)) == {"author": "A. Person", "license": "apache-2.0"}
    (folder / "README.md").write_text("# Model\n---\nlicense: other\n---\n")
    assert contents.card(Checkpoint.read(folder)) == {}


def with_tokenizer(folder: Path, target: Path, change) -> Path:
    shutil.copytree(folder, target)
    tokenizer = change(Tokenizer.from_file(str(folder / "tokenizer.json")))
    tokenizer.save(str(target / "tokenizer.json"))
    return target


def cased(tokenizer):
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    return tokenizer


def byte_level(tokenizer):
    vocabulary = {"[PAD]": 0, "[UNK]": 1, **{letter: 2 + n for n, letter in enumerate("abcdefghijklmnopqrstuvwxyzĠ")}}
    made = Tokenizer(models.BPE(vocabulary, [], unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel()
    return made


def unigram(tokenizer):
    return Tokenizer(models.Unigram([("[PAD]", 0.0), ("[UNK]", 0.0), ("▁a", -1.0)], unk_id=1))


@pytest.mark.parametrize(
    ("change", "said"),
    [(cased, "keeps upper case"), (byte_level, "its tokenizer is BPE"), (unigram, "its tokenizer is Unigram")],
)
@pytest.mark.parametrize("asked", [False, True])
def test_what_mediapipe_cannot_express_is_told_and_written_all_the_same(tiny_bert, model, tmp_path, change, said, asked):
    folder = with_tokenizer(tiny_bert, tmp_path / "other", change)
    found = of_folder(folder, model, replace(CONFIG, mediapipe=asked))
    assert said in found.notes[0]
    assert "TextClassifier cannot run" in found.notes[0]
    target = tmp_path / "packed.tflite"
    found.write(model, target, "float32")
    assert Tokenizer.from_buffer(package.read_files(target)["tokenizer.json"]).get_vocab_size() > 0
    assert metadata.parse(flatbuffer.read(target).model_metadata).vocabulary is None
    assert Model(target).signature == Model(model).signature


def test_ids_that_no_piece_has_keep_the_others_in_their_place():
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "b": 3}, unk_token="[UNK]"))
    assert contents.vocabulary(tokenizer) == b"[UNK]\n[no piece 1]\n[no piece 2]\nb\n"


def test_images_take_the_labels_of_the_data_or_of_the_file(image_model, tmp_path):
    assert of_images(image_model) is None
    told = of_images(image_model, replace(CONFIG, mean=(0.0,), std=(255.0,)))
    assert told is not None
    told.write(image_model, tmp_path / "told.tflite", "float32")
    assert "task" not in package.settings(tmp_path / "told.tflite")
    assert package.settings(tmp_path / "told.tflite")["std"] == [255.0]
    found = of_images(image_model, rows=named("cat", "dog"))
    assert found is not None
    assert found.settings["labels"] == ["background", "cat", "dog"]
    (tmp_path / "labels.txt").write_text("one\ntwo\nthree\n")
    found = of_images(image_model, replace(CONFIG, labels=tmp_path / "labels.txt", mediapipe=True))
    assert found is not None
    target = tmp_path / "packed.tflite"
    found.write(image_model, target, "float32")
    described = metadata.parse(flatbuffer.read(target).model_metadata)
    assert described.inputs[0].mean == described.inputs[0].std == (127.5,)
    assert described.inputs[0].color_space == metadata.RGB
    assert package.read_files(target)["labels.txt"] == b"one\ntwo\nthree\n"
    assert Model(target).signature.outputs[0].name == "probabilities"


def test_what_a_model_cannot_have_is_refused(image_model, model, tiny_bert, tmp_path):
    (tmp_path / "labels.txt").write_text("one\n")
    with pytest.raises(DatasetError, match=r"names 1 labels, the model gives 3 scores"):
        of_images(image_model, replace(CONFIG, labels=tmp_path / "labels.txt"))
    with pytest.raises(DatasetError, match=r"cannot be read as labels"):
        of_images(image_model, replace(CONFIG, labels=tmp_path / "absent.txt"))
    with pytest.raises(ConfigError, match=r"net: is no image classifier"):
        of_images(model, replace(CONFIG, mediapipe=True))
    with pytest.raises(ConfigError, match=r"leave --labels out"):
        of_folder(tiny_bert, model, replace(CONFIG, labels=tmp_path / "labels.txt"))
    with pytest.raises(ConfigError, match=r"score_threshold is 2"):
        replace(CONFIG, score_threshold=2.0)


def test_a_tflite_source_hands_on_what_it_carries(tiny_bert, model, tmp_path):
    first, second = tmp_path / "first.tflite", tmp_path / "second.tflite"
    of_folder(tiny_bert, model).write(model, first, "float32")
    carried = contents.of_source(Source(Kind.TFLITE, first, "first"), first, None, GENERIC, {}, CONFIG)
    assert carried is not None
    carried.write(model, second, "dynamic")
    assert package.read_files(second) == package.read_files(first)
    assert contents.of_source(Source(Kind.TFLITE, model, "model"), model, None, GENERIC, {}, CONFIG) is None


def test_damaged_metadata_of_a_tflite_source_is_not_handed_on(tiny_bert, model, tmp_path):
    source = tmp_path / "source.tflite"
    of_folder(tiny_bert, model).write(model, source, "float32")
    source.write_bytes(source.read_bytes().replace(b"M001", b"M000"))
    assert contents.of_source(Source(Kind.TFLITE, source, "source"), source, None, GENERIC, {}, CONFIG) is None
