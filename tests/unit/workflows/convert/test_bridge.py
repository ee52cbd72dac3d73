"""What a model reference turns out to be."""

from pathlib import Path

import pytest

from edgekit.errors import ModelFormatError
from edgekit.models.source import Kind, classify


def test_a_keras_3_file_is_refused_with_the_way_to_save_it(tmp_path: Path) -> None:
    file = tmp_path / "model.keras"
    file.write_bytes(b"PK\x03\x04")
    with pytest.raises(ModelFormatError, match=r"model.keras: is a Keras 3 file; .*model.export.*tf_keras \(Keras 2\).*\.h5"):
        classify(str(file))


def test_suffixes_tell_files_apart(tmp_path: Path) -> None:
    for name, kind in (("a.h5", Kind.KERAS), ("b.onnx", Kind.ONNX), ("c.TFLITE", Kind.TFLITE)):
        (tmp_path / name).write_bytes(b"")
        assert classify(str(tmp_path / name)).kind is kind
