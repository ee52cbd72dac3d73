"""The command line names the cause of what the documented road makes of an encoder, and turns wrong files away in one line."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from edgekit.data.samples import Samples
from edgekit.spec import DataSpec
from edgekit.system.worker import Worker
from edgekit.workflows.convert.config import Bridge, ConvertConfig
from edgekit.workflows.convert.conversion import convert
from edgekit.workflows.export import ExportConfig, Format, export
from edgekit.workflows.inputs import encode_for
from tests.commands import edgekit


def documented_road(saved_model: Path, rows: Path, out: Path) -> None:
    """float32 and full-integer files as TensorFlow's documentation makes them; in a child."""
    import tensorflow as tf

    def representative():
        for row in Samples.load(rows):
            yield {name: np.array(values) for name, values in row.items()}

    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model))
    (out / "float32.tflite").write_bytes(converter.convert())
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    (out / "int8.tflite").write_bytes(converter.convert())


@pytest.fixture(scope="module")
def made(tiny_bert: Path, tiny_tsv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with float32.tflite and int8.tflite of the tiny BERT, its mask the float32 minimum as the model itself has it."""
    out = tmp_path_factory.mktemp("diagnose")
    export(str(tiny_bert), out / "saved", ExportConfig(Format.SAVED_MODEL, max_length=16))
    value = json.loads((out / "saved.json").read_text())["measured"]["mask"]
    graph = out / "saved" / "saved_model.pb"
    soft, hard = (struct.pack("<f", number) for number in (value, np.finfo(np.float32).min))
    assert graph.read_bytes().count(soft) == 1
    graph.write_bytes(graph.read_bytes().replace(soft, hard))
    shutil.copy(tiny_bert / "tokenizer.json", out)
    shutil.copy(tiny_bert / "tokenizer_config.json", out)
    rows = out / "rows"
    # The float file is there only after the first conversion, and its inputs are known. By the same road ops have the same names.
    convert(str(tiny_bert), out / "own", ConvertConfig(("float32",), data=DataSpec(tiny_tsv), max_length=16, bridge=Bridge.TF))
    encode_for(out / "own" / "bert_float32.tflite", DataSpec(tiny_tsv, samples=32), out / "room").save(rows)
    Worker(timeout_s=300).run(documented_road, out / "saved", rows, out)
    return out


def test_the_attention_mask_is_named_first(made: Path, tiny_tsv: Path) -> None:
    for against in (made / "float32.tflite", made / "own" / "bert_float32.tflite"):
        said = edgekit("diagnose", made / "int8.tflite", "--against", against, "--data", tiny_tsv, "--quiet", "--json")
        assert (said.code, said.err) == (0, [])
        found = json.loads(said.out)
        assert found["failure"] is None
        assert found["findings"][0]["kind"] == "attention mask"
        assert "-3.4e38" in found["findings"][0]["cause"]
        worst = found["layers"][0]
        assert "attention" in worst["name"]
        assert "scores" in worst["name"]
        assert worst["storage_sqnr_db"] < 1
        # edgekit's own file computes one token of the last layer alone, the documented road's all.
        if against.parent == made:
            assert found["unmatched_ops"] == 0
        else:
            assert 0 < found["unmatched_ops"] < len(found["layers"])
        assert found["speed"]["split"]["partitions"] > 4


def test_the_table_and_the_page(made: Path, tiny_tsv: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    said = edgekit(
        *("diagnose", made / "int8.tflite", "--against", made / "float32.tflite"),
        *("--data", tiny_tsv, "--limit", "8", "--quiet", "--out", page),
    )
    assert (said.code, said.err) == (0, [])
    assert "1. attention mask" in said.out
    assert "masked scores" in said.out
    assert "--level:1" in page.read_text()


def test_wrong_files_end_in_one_line(made: Path, tiny_tsv: Path, tmp_path: Path) -> None:
    (tmp_path / "text.tflite").write_text("this is not a model at all")
    table = tmp_path / "numbers.npz"
    np.savez(table, other=np.zeros((4, 3), np.float32))
    int8, floating = made / "int8.tflite", made / "float32.tflite"
    for file, against, data, code, words in (
        (tmp_path / "text.tflite", floating, tiny_tsv, 3, "not a .tflite file"),
        (tmp_path / "none.tflite", floating, tiny_tsv, 3, "no such file"),
        (floating, int8, tiny_tsv, 3, "is quantized itself"),
        (int8, floating, table, 3, "numbers.npz"),
    ):
        said = edgekit("diagnose", file, "--against", against, "--data", data, "--quiet")
        assert said.code == code, said
        assert len(said.err) == 1
        assert words in said.err[0]
    said = edgekit("diagnose", int8, "--against", floating, "--data", tiny_tsv, "--out", tmp_path / "page.pdf")
    assert said.code == 2
