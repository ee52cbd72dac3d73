"""Folders and files that are no checkpoint of a text model: what they are instead, and the command that makes one of them."""

import importlib.util
import json
import re
import shlex
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit.errors import CheckpointError
from edgekit.system.serial import parse_json, read_json

ADAPTER, MODULES = "adapter_config.json", "modules.json"
_GGUF = ".gguf"
# What a parameter-efficient adapter was trained for -> peft's class that loads it with its model.
_ADAPTED = {
    "SEQ_CLS": "ForSequenceClassification",
    "TOKEN_CLS": "ForTokenClassification",
    "QUESTION_ANS": "ForQuestionAnswering",
    "FEATURE_EXTRACTION": "ForFeatureExtraction",
    "CAUSAL_LM": "ForCausalLM",
    "SEQ_2_SEQ_LM": "ForSeq2SeqLM",
}
# In the front matter of a README.md.
_BASE = re.compile(r"^base_model:\s*(?:-\s*)?(\S+)", re.MULTILINE)
_HEADS = re.compile(r"\.(classifier|score)(\.out_proj)?(\.modules_to_save)?\.weight$")
# Weights of frameworks that transformers 5 reads no more -> what their loaders in its version 4 are called by.
_OTHERS = {"tf_model.h5": ("TensorFlow", "tf", "tf2"), "flax_model.msgpack": ("Flax", "flax", "flax")}
_TORCH = ("model*.safetensors", "pytorch_model*.bin")
_SOUND, _IMAGES = {"num_mel_bins", "feat_extract_norm", "audio_config"}, {"image_size", "num_channels"}
_VISION_HEADS = ("ForImageClassification", "ForObjectDetection", "Segmentation", "ForDepthEstimation", "ForVideoClassification")
_WRITES = "ForConditionalGeneration"
_BY_ONNX = "export it to ONNX with torch.onnx.export and give edgekit convert the .onnx file"
_CLASSIFIES = "ForImageClassification"


def refuse_file(file: Path) -> None:
    """Raise `CheckpointError` for a GGUF file."""
    if file.suffix.lower() == _GGUF:
        raise CheckpointError(
            f"{file}: is a GGUF file, whose weights llama.cpp quantized; give the Hugging Face checkpoint that it was made from"
        )


def refuse_folder(path: Path) -> None:
    """Raise `CheckpointError` for a folder without config.json that holds something else than a model."""
    if (path / ADAPTER).is_file():
        raise CheckpointError(_of_adapter(path))
    if (path / "config.json").is_file():
        return
    for file in sorted(path.glob(f"*{_GGUF}")):
        refuse_file(file)
    if (inside := _module(path)) is not None:
        whole = f"{path.resolve().name}-whole"
        code = f"from sentence_transformers import SentenceTransformer as S; S({_text(path)}).save_pretrained({_text(whole)})"
        raise CheckpointError(
            f"{path}: is a folder of sentence-transformers, whose model lies below it; give {inside} for that alone, or what this "
            f"saves: {_python(code)}"
        )


def refuse(path: Path, config: Mapping[str, Any], task: str | None) -> None:
    """Raise `CheckpointError` for a checkpoint of another kind than PyTorch's of texts; `task` is what was asked for, if any."""
    architectures = config.get("architectures")
    heads = [name for name in architectures if isinstance(name, str)] if isinstance(architectures, list) else []
    if isinstance(config.get("quantization_config"), Mapping):
        raise CheckpointError(_of_quantized(path, config["quantization_config"]))
    if kind := _kind(config, heads):
        raise CheckpointError(
            f"{path}: is a model of {kind} ({heads[0] if heads else config['model_type']}), and only those of texts are read as "
            f"checkpoints; {_exported(path, config, heads)}"
        )
    if isinstance(config.get("auto_map"), Mapping) and not _is_in_transformers(str(config["model_type"]), heads):
        raise CheckpointError(_of_own_code(path, config["auto_map"], heads))
    if not any(True for pattern in _TORCH for _ in path.glob(pattern)):
        for name, loader in _OTHERS.items():
            if (path / name).is_file():
                raise CheckpointError(_of_framework(path, name, loader, heads))
    if task is None and heads and heads[0].endswith(_WRITES):
        raise CheckpointError(f"{path}: is a model that writes texts from texts ({heads[0]}), token by token; {_BY_ONNX}")


def _of_adapter(path: Path) -> str:
    adapter = _read(path / ADAPTER)
    base, kind = adapter.get("base_model_name_or_path"), str(adapter.get("peft_type", "LORA"))
    tokenizer = path if (path / "tokenizer_config.json").is_file() else base
    merged, labels = _text(f"{path.resolve().name}-merged"), _labels(path / "adapter_model.safetensors")
    code = (
        f"from peft import AutoPeftModel{_ADAPTED.get(str(adapter.get('task_type')), '')} as M; "
        f"from transformers import AutoTokenizer as T; "
        f"M.from_pretrained({_text(path)}{labels}).merge_and_unload().save_pretrained({merged}); "
        f"T.from_pretrained({_text(tokenizer)}).save_pretrained({merged})"
    )
    return f"{path}: is an adapter ({kind}) of {base}, without that model; merge the two and give what this saves: {_python(code)}"


def _labels(file: Path) -> str:
    """How many classes an adapter's own head has, as an argument: it is not in its config."""
    try:
        with file.open("rb") as stream:
            (size,) = struct.unpack("<Q", stream.read(8))
            header = parse_json(stream.read(min(size, 2**25)))
        counts = [tensor["shape"][0] for name, tensor in header.items() if _HEADS.search(name)]
    except (OSError, ValueError, struct.error, AttributeError, KeyError, TypeError, IndexError):
        return ""
    return f", num_labels={int(counts[0])}" if counts else ""


def _of_quantized(path: Path, quantized: Mapping[str, Any]) -> str:
    readme, named = path / "README.md", None
    if readme.is_file():
        named = _BASE.search(readme.read_text(encoding="utf-8", errors="replace"))
    base = shlex.quote(named[1].strip("\"'")) if named else "THAT"
    return (
        f"{path}: its weights are quantized already ({quantized.get('quant_method', 'quantization_config')}); "
        f"give the float checkpoint that it was made from: edgekit convert {base} --scheme int8"
    )


def _of_own_code(path: Path, auto_map: Mapping[str, Any], heads: list[str]) -> str:
    name = next((name for name in auto_map if name.startswith("AutoModelFor")), "AutoModel")
    file = _text(f"{path.resolve().name}.onnx")
    code = (
        f"import torch, transformers as t; m = t.{name}.from_pretrained({_text(path)}, trust_remote_code=True).eval(); "
        "i = torch.ones(1, 64, dtype=torch.long); "
        f'torch.onnx.export(m, (i, i), {file}, input_names=["input_ids", "attention_mask"], dynamo=True)'
    )
    return (
        f"{path}: its model is Python code of its own ({heads[0] if heads else name}), which edgekit never runs; "
        f"if you trust it, give edgekit convert what this exports: {_python(code)}"
    )


def _of_framework(path: Path, file: str, loader: tuple[str, str, str], heads: list[str]) -> str:
    framework, module, kind = loader
    saved = _text(f"{path.resolve().name}-torch")
    # A TensorFlow class is called as the one of PyTorch, with a prefix.
    name, config = (re.sub("^(TF|Flax)", "", heads[0]), "") if heads else ("AutoModel", ".from_config")
    code = (
        f"import transformers as t; "
        f"from transformers.modeling_{module}_pytorch_utils import load_{kind}_checkpoint_in_pytorch_model as load; "
        f"m = t.{name}{config}(t.AutoConfig.from_pretrained({_text(path)})); "
        f"load(m, {_text(path / file)}).save_pretrained({saved}); "
        f"t.AutoTokenizer.from_pretrained({_text(path)}).save_pretrained({saved})"
    )
    return (
        f"{path}: holds {file} but no model.safetensors, and transformers 5 reads no {framework}; give what this saves where "
        f"transformers 4 and {framework} are: {_python(code)}"
    )


def _exported(path: Path, config: Mapping[str, Any], heads: list[str]) -> str:
    if not heads or not heads[0].endswith(_CLASSIFIES):
        return _BY_ONNX
    size, channels = config.get("image_size"), config.get("num_channels", 3)
    height, width = size if isinstance(size, list) and len(size) == 2 else (size if isinstance(size, int) else 224,) * 2
    code = (
        f"import torch, transformers as t; m = t.{heads[0]}.from_pretrained({_text(path)}).eval(); "
        f"torch.onnx.export(m, (torch.zeros(1, {channels}, {height}, {width}),), {_text(f'{path.resolve().name}.onnx')}, "
        'input_names=["pixel_values"], output_names=["logits"], dynamo=True)'
    )
    return f"give edgekit convert what this exports: {_python(code)}"


def _kind(config: Mapping[str, Any], heads: list[str]) -> str | None:
    """What a model is fed besides texts, or instead of them."""
    if _SOUND & config.keys():
        return "sound"
    if "vision_config" in config:
        return "images and texts"
    sees = "vocab_size" not in config and _IMAGES & config.keys()
    return "images" if sees or any(head.endswith(_VISION_HEADS) for head in heads) else None


def _is_in_transformers(model_type: str, heads: list[str]) -> bool:
    """Whether the library has the model's code itself; it is looked at, not loaded."""
    spec = importlib.util.find_spec("transformers")
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        files = sorted((Path(place) / "models" / model_type.replace("-", "_").replace(".", "_")).glob("modeling_*.py"))
        if any(f"class {head}(" in file.read_text(encoding="utf-8") for file in files for head in heads[:1] or [""]):
            return True
        if files and not heads:
            return True
    return False


def _module(path: Path) -> Path | None:
    """The folder of the first module that modules.json names, where a model lies in it."""
    try:
        modules = read_json(path / MODULES)
        inside = path / str(modules[0]["path"])
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None
    return inside if ".." not in inside.parts and (inside / "config.json").is_file() else None


def _read(file: Path) -> Mapping[str, Any]:
    try:
        content = read_json(file)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _text(value: Any) -> str:
    """A Python literal with double quotes, since the shell's are single ones."""
    return json.dumps(str(value), ensure_ascii=False)


def _python(code: str) -> str:
    return f"python -c {shlex.quote(code)}"
