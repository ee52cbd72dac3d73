"""Tiny classifiers of architectures that edgekit exports, and what a child does with all of them at once.

Those that can be pruned, tests/integration/test_prune.py sends the same way, with other heads and widths in each layer.
"""

from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.samples import Samples
from edgekit.models.checkpoint import Checkpoint
from edgekit.models.ranges import TrainedRanges
from edgekit.stages.export.litert import export_litert
from edgekit.stages.export.onnx import OnnxExport, export_onnx
from edgekit.stages.export.saved_model import SavedModelExport, export_saved_model
from edgekit.stages.quantize.converter import convert_float

NAMES = ("bert", "electra", "roberta")
LENGTH = 12
VOCABULARY = 50
_COMMON = {"vocab_size": VOCABULARY, "max_position_embeddings": 40, "num_labels": 3, "initializer_range": 0.2, "pad_token_id": 0}
_WIDTHS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


def save_all(folder: Path) -> dict[str, Path]:
    """A checkpoint folder for each of `NAMES`, random weights, no tokenizer."""
    import torch
    import transformers as t

    configs: dict[str, Any] = {
        "bert": t.BertConfig(**_COMMON, **_WIDTHS),
        "electra": t.ElectraConfig(**_COMMON, **_WIDTHS, embedding_size=16),
        "roberta": t.RobertaConfig(**_COMMON | {"pad_token_id": 1}, **_WIDTHS, type_vocab_size=1),
    }
    for name, config in configs.items():
        torch.manual_seed(0)
        t.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder / name)
    return {name: folder / name for name in configs}


def to_onnx(checkpoints: dict[str, Path], rows: Path) -> dict[str, OnnxExport | str]:
    """Each as `model.onnx` in its folder, with PyTorch's outputs in `reference`; or what was raised."""
    found: dict[str, OnnxExport | str] = {}
    for name, folder in checkpoints.items():
        try:
            found[name] = export_onnx(Checkpoint.read(folder), rows, folder / "model.onnx", folder / "reference")
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def to_tflite(checkpoints: dict[str, Path], rows: Path) -> dict[str, SavedModelExport | str]:
    """Each `model.onnx` as `saved_model` and `float32.tflite` in its folder; or what was raised."""
    found: dict[str, SavedModelExport | str] = {}
    for name, folder in checkpoints.items():
        try:
            made = export_saved_model(folder / "model.onnx", rows, folder / "saved_model", foreign=False, max_length=LENGTH)
            convert_float(
                folder / "saved_model", folder / "float32.tflite", LENGTH, names=made.ends.names, outputs=made.ends.outputs
            )
            found[name] = made
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def save_others(folder: Path, rows: Path) -> dict[str, Path]:
    """A checkpoint folder with its `float32.tflite`, through litert-torch, of architectures with modules of other kinds."""
    import torch
    import transformers as t

    gpt2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 1}
    configs: dict[str, Any] = {
        "distilbert": t.DistilBertConfig(**_COMMON, dim=32, n_layers=2, n_heads=4, hidden_dim=64),
        "gpt2": t.GPT2Config(**_COMMON, **gpt2),
    }
    for name, config in configs.items():
        torch.manual_seed(0)
        t.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder / name)
        source = Checkpoint.read(folder / name)
        export_litert(source, rows, source.path / "float32.tflite", source.path / "reference")
    return {name: folder / name for name in configs}


def ranges(checkpoints: dict[str, Path], rows: Path) -> dict[str, TrainedRanges]:
    """The ranges that each one's linear layers have on the saved rows."""
    import torch

    from edgekit.models.weights import load_model
    from edgekit.stages.train.quantization import FakeQuantization

    found = {}
    for name, folder in checkpoints.items():
        model = load_model(Checkpoint.read(folder))
        batch = {key: torch.from_numpy(np.array(values)).long() for key, values in Samples.load(rows).inputs.items()}
        rounding = FakeQuantization(model, batch, 10)
        with torch.no_grad():
            rounding.at(0)
            torch.manual_seed(0)
            model.train()(**batch)
        found[name] = rounding.trained()
    return found


def layer_outputs(checkpoint: Path, ranges: TrainedRanges, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What each linear layer gives with rounding, its input being the given one."""
    import torch

    from edgekit.models.weights import load_model
    from edgekit.stages.train.quantization import FakeQuantization

    model = load_model(Checkpoint.read(checkpoint))
    ids = torch.ones((1, LENGTH), dtype=torch.long)
    rounding = FakeQuantization(model, {"input_ids": ids, "attention_mask": ids}, 10)
    unlearned = torch.zeros(2)
    rounding.restore({name: [(layer.input, unlearned), (layer.output, unlearned)] for name, layer in ranges.layers.items()})
    rounding.at(9)
    with torch.no_grad():
        return {name: model.get_submodule(name)(torch.from_numpy(values)).numpy() for name, values in inputs.items()}
