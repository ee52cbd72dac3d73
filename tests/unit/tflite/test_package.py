"""Metadata written into a model and read back, and the files that travel behind it."""

import dataclasses
import io
import zipfile

import numpy as np
import pytest

from edgekit.errors import ModelFormatError
from edgekit.tflite import flatbuffer, metadata, package
from edgekit.tflite.inspect import describe, inspect
from edgekit.tflite.interpreter import Model
from edgekit.tflite.metadata import AssociatedFile, ModelMetadata, TensorMetadata

WORDS = AssociatedFile("vocab.txt", "word pieces", metadata.VOCABULARY)
LABELS = AssociatedFile("labels.txt", "classes", metadata.AXIS_LABELS)
TEXT = ModelMetadata(
    "classifier",
    "judges",
    author="someone",
    license="apache-2.0",
    inputs=(TensorMetadata("ids", "of tokens"), TensorMetadata("mask")),
    outputs=(TensorMetadata("probability", "of each class", files=(LABELS,), score_threshold=0.25),),
    vocabulary=WORDS,
    files=(AssociatedFile("edgekit.json"),),
    min_parser_version="1.1.0",
)
IMAGE = ModelMetadata(
    "images",
    inputs=(TensorMetadata("image", mean=(127.5, 1.0, 2.0), std=(127.5, 3.0, 4.0), color_space=metadata.RGB),),
    outputs=(TensorMetadata("scores", score_threshold=0.0),),
    min_parser_version="1.0.0",
)
FILES = {"labels.txt": b"no\nyes\n", "vocab.txt": b"[PAD]\n", "edgekit.json": b"{}"}
ROW = np.array([[1, -2, 3, 4]], np.float32)


@pytest.fixture
def attach(tmp_path):
    """The file that `package.attach` makes of its other arguments."""

    def attach(model, described, files):
        target = tmp_path / "attached.tflite"
        package.attach(model, target, described, files)
        return target

    return attach


@pytest.mark.parametrize("described", [TEXT, IMAGE, ModelMetadata("alone", min_parser_version="1.0.0")])
def test_what_is_written_is_read_back(described):
    assert metadata.parse(package.build(described)) == described


def test_a_model_computes_the_same_with_metadata_and_files(dense, write, attach):
    path = attach(dense, package.build(TEXT), FILES)
    plain = Model(write(dense, "plain.tflite"))
    np.testing.assert_array_equal(Model(path).run({"args_0": ROW})["output_0"], plain.run({"args_0": ROW})["output_0"])
    assert metadata.parse(flatbuffer.read(path).model_metadata) == TEXT
    assert package.read_files(path) == FILES
    assert metadata.associated_files(path) == {name: len(content) for name, content in FILES.items()}


def test_the_archive_is_uncompressed_and_the_same_every_time(dense, attach):
    made = attach(dense, package.build(TEXT), FILES).read_bytes()
    assert made == attach(dense, package.build(TEXT), FILES).read_bytes()
    with zipfile.ZipFile(io.BytesIO(made)) as archive:
        assert {item.compress_type for item in archive.infolist()} == {zipfile.ZIP_STORED}
        assert archive.testzip() is None


def test_other_entries_and_data_behind_the_flatbuffer_stay(builder, outside, write, attach):
    x = builder.tensor("x", [1], data=np.array([7], np.float32))
    builder.ends({"x": x}, {"y": x}, "serving_default")
    builder.metadata("min_runtime_version", b"2.3.0\0\0\0")
    builder.metadata("TFLITE_METADATA", b"of old")
    file = flatbuffer.read(attach(builder.pack(), package.build(TEXT), {}))
    assert [name for name, _ in file.metadata] == ["min_runtime_version", "TFLITE_METADATA"]
    assert file.min_runtime_version == "2.3.0"
    assert metadata.parse(file.model_metadata) == TEXT
    path = attach(outside, package.build(TEXT), FILES)
    np.testing.assert_array_equal(
        Model(path).run({"args_0": ROW})["output_0"], Model(write(outside, "plain.tflite")).run({"args_0": ROW})["output_0"]
    )


def test_the_metadata_is_aligned_as_the_schema_wants(dense, attach):
    described = package.build(TEXT)
    for files in ({}, FILES):
        made = attach(dense, described, files).read_bytes()
        assert made.index(described) % 16 == 0


def test_new_files_take_the_place_of_old_ones(dense, attach):
    first = attach(dense, package.build(IMAGE), FILES).read_bytes()
    path = attach(first, package.build(TEXT), {"labels.txt": b"a\nb\n"})
    assert package.read_files(path) == {"labels.txt": b"a\nb\n"}
    assert path.read_bytes().count(b"PK\x05\x06") == 1
    assert package.strip(dense) == dense


def test_inspect_shows_what_is_there_and_what_is_missing(dense, attach):
    text = describe(inspect(attach(dense, package.build(TEXT), FILES), probe=False))
    for line in (
        "  licence: apache-2.0",
        "  input ids: of tokens",
        "  output probability: scores from 0.25; labels in labels.txt",
        "associated files: labels.txt (7 bytes), vocab.txt (6 bytes), edgekit.json (2 bytes)",
    ):
        assert line in text.splitlines()
    summary = inspect(attach(dense, package.build(TEXT), {}), probe=False)
    assert summary.metadata_failure == "it names edgekit.json, labels.txt, vocab.txt, which is not behind the model"


def test_a_damaged_block_is_told_in_one_line(dense, write, attach):
    described = package.build(TEXT)
    made = attach(dense, described, FILES).read_bytes()
    place = made.index(described)
    for damage in (b"\xff" * 8, described[:4] + b"M009"):
        summary = inspect(write(made[:place] + damage + made[place + 8 :]), probe=False)
        assert summary.model_metadata is None
        assert summary.metadata_failure in (
            "its TFLITE_METADATA entry is damaged",
            "its TFLITE_METADATA entry is not in the metadata format",
        )
        assert summary.ops == 1


def test_random_damage_never_leaves_the_error_tree(dense, write, attach):
    described, draw = package.build(dataclasses.replace(TEXT, files=TEXT.files * 3)), np.random.default_rng(0)
    for _ in range(300):
        content = bytearray(described)
        for place in draw.integers(8, len(content), 3):
            content[place] = draw.integers(256)
        try:
            metadata.parse(bytes(content))
        except ModelFormatError as error:
            assert "TFLITE_METADATA" in error.message
    made = attach(dense, described, FILES).read_bytes()
    path = write(made.replace(b"[PAD]\n", b"[PAD]!"))
    with pytest.raises(ModelFormatError, match="files behind the model are damaged"):
        package.read_files(path)
