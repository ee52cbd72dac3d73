"""What is no checkpoint of texts is told what it is, and which command makes one of it."""

import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import CheckpointError, ModelFormatError
from edgekit.models.checkpoint import Checkpoint, resolve
from edgekit.models.source import classify


def _folder(path: Path, config: dict[str, Any] | None, **files: Any) -> Path:
    path.mkdir(parents=True)
    if config is not None:
        (path / "config.json").write_text(json.dumps({"model_type": "bert", **config}))
    for name, content in files.items():
        (path / name.replace("__", ".")).write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def _refused(path: Path, task: str | None = None) -> str:
    with pytest.raises(CheckpointError) as refused:
        Checkpoint.read(path, task)
    assert str(path) in refused.value.message
    assert "\n" not in refused.value.message
    return refused.value.message


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"model_type": "vit", "architectures": ["ViTForImageClassification"], "image_size": 32, "num_channels": 3},
            r'model of images \(ViTForImageClassification\).*zeros\(1, 3, 32, 32\).*"vit.onnx"',
        ),
        (
            {"model_type": "resnet", "architectures": ["ResNetForImageClassification"], "num_channels": 3},
            r"model of images \(ResNetForImageClassification\).*zeros\(1, 3, 224, 224\)",
        ),
        (
            {"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForSequenceClassification"], "feat_extract_norm": "group"},
            r"model of sound \(Wav2Vec2ForSequenceClassification\).*the \.onnx file$",
        ),
        (
            {"model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"], "num_mel_bins": 80, "vocab_size": 9},
            r"model of sound \(Whisper.*the \.onnx file$",
        ),
        ({"model_type": "clip", "text_config": {}, "vision_config": {}}, r"images and texts \(clip\).*the \.onnx file$"),
        ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}, r"writes texts from texts \(T5.*the \.onnx file$"),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_a_model_of_another_kind(tmp_path: Path, config: dict[str, Any], words: str) -> None:
    assert re.search(words, _refused(_folder(tmp_path / config["model_type"], config)))


@pytest.mark.parametrize(
    ("config", "task"),
    [
        ({"architectures": ["BertForSequenceClassification"], "vocab_size": 9}, "text-classification"),
        ({"model_type": "clip_text_model", "architectures": ["CLIPTextModel"], "vocab_size": 9}, "feature-extraction"),
        ({"model_type": "vocabulary-first", "vocab_size": 9, "num_channels": 3}, "text-classification"),
    ],
)
def test_a_model_of_texts_is_read(tmp_path: Path, config: dict[str, Any], task: str) -> None:
    assert Checkpoint.read(_folder(tmp_path / "m", config)).task.name == task


def test_a_task_that_is_asked_for_may_take_an_encoder_out_of_a_model_that_writes(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "t5", {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]})
    assert Checkpoint.read(folder, "text-classification").model_type == "t5"


def test_an_adapter(tmp_path: Path) -> None:
    settings = {"base_model_name_or_path": "someone/base", "peft_type": "LORA", "task_type": "TOKEN_CLS"}
    folder = _folder(tmp_path / "an adapter", None, adapter_config__json=settings)
    name = "base_model.model.classifier.weight"
    header = json.dumps({name: {"dtype": "F32", "shape": [5, 32], "data_offsets": [0, 640]}}).encode()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(640))
    message = _refused(folder)
    assert "is an adapter (LORA) of someone/base" in message
    assert "from peft import AutoPeftModelForTokenClassification as M; from transformers import AutoTokenizer as T; " in message
    assert f'M.from_pretrained("{folder}", num_labels=5).merge_and_unload()' in message
    assert message.endswith("""T.from_pretrained("someone/base").save_pretrained("an adapter-merged")'""")


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_broken_adapter_is_still_called_one(tmp_path: Path, content: str) -> None:
    assert "is an adapter" in _refused(_folder(tmp_path / "broken", None, adapter_config__json=content))


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes"])
def test_weights_that_are_quantized(tmp_path: Path, method: str) -> None:
    config = {"quantization_config": {"quant_method": method}}
    message = _refused(_folder(tmp_path / "q", config, README__md="---\nbase_model:\n- someone/float\n---\n"))
    assert message.endswith(f"quantized already ({method}); give the float checkpoint that it was made from: "
                            "edgekit convert someone/float --scheme int8")  # fmt: skip
    assert "edgekit convert THAT" in _refused(_folder(tmp_path / "without", config))


def test_a_model_of_python_code(tmp_path: Path) -> None:
    code = {"AutoConfig": "c.OwnConfig", "AutoModelForSequenceClassification": "m.OwnForSequenceClassification"}
    config = {"model_type": "own", "architectures": ["OwnForSequenceClassification"], "auto_map": code}
    message = _refused(_folder(tmp_path / "own", config))
    assert "Python code of its own (OwnForSequenceClassification), which edgekit never runs" in message
    assert f'AutoModelForSequenceClassification.from_pretrained("{tmp_path / "own"}", trust_remote_code=True)' in message


def test_code_that_transformers_has_itself_is_not_needed(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    config = {"architectures": ["BertForSequenceClassification"], "auto_map": {"AutoModel": "m.Model"}}
    assert Checkpoint.read(_folder(tmp_path / "m", config)).model_type == "bert"
    config["architectures"] = ["JinaBertForMaskedLM"]
    assert "JinaBertForMaskedLM" in _refused(_folder(tmp_path / "other", config))


@pytest.mark.parametrize(("file", "framework"), [("tf_model.h5", "TensorFlow"), ("flax_model.msgpack", "Flax")])
def test_weights_of_another_framework(tmp_path: Path, file: str, framework: str) -> None:
    folder = _folder(tmp_path / "m", {"architectures": ["BertForSequenceClassification"]})
    (folder / file).touch()
    message = _refused(folder)
    assert f"holds {file} but no model.safetensors, and transformers 5 reads no {framework}" in message
    assert f'm = t.BertForSequenceClassification(t.AutoConfig.from_pretrained("{folder}"))' in message
    assert f'load(m, "{folder / file}").save_pretrained("m-torch")' in message
    (folder / "model.safetensors").touch()
    assert Checkpoint.read(folder).model_type == "bert"


def test_a_sentence_transformers_folder_whose_model_lies_below_it(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "old", None, modules__json=[{"path": "0_Transformer"}, {"path": "1_Pooling"}])
    assert "holds no config.json" in _refused(folder)
    _folder(folder / "0_Transformer", {})
    message = _refused(folder)
    assert f"give {folder / '0_Transformer'} for that alone" in message
    assert f'S("{folder}").save_pretrained("old-whole")' in message


@pytest.mark.parametrize("path", ["../other", "/etc", 3, None])
def test_modules_that_name_another_place_are_not_followed(tmp_path: Path, path: Any) -> None:
    _folder(tmp_path / "other", {})
    folder = _folder(tmp_path / "old", None, modules__json=[{"path": path}])
    assert "holds no config.json" in _refused(folder)


def test_a_gguf_file(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "m", None)
    file = folder / "m.Q4.gguf"
    file.write_bytes(b"GGUF" + bytes(20))
    for read in (classify, resolve):
        with pytest.raises((CheckpointError, ModelFormatError), match="GGUF file, whose weights llama.cpp quantized"):
            read(str(file))
    with pytest.raises(CheckpointError, match=r"m\.Q4\.gguf: is a GGUF file"):
        Checkpoint.read(folder)
