"""Tiny text models that are fed or read otherwise than BERT, and what a child does with all of them at once."""

from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.samples import Samples
from edgekit.models.checkpoint import Checkpoint
from edgekit.stages.export.onnx import export_onnx

LENGTH, VOCABULARY, END = 12, 50, 3
_COMMON = {"vocab_size": VOCABULARY, "num_labels": 3, "pad_token_id": 0, "eos_token_id": END, "decoder_start_token_id": 2}
_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4, "initializer_factor": 0.5}
_BART = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
_XLNET = {"d_model": 32, "n_layer": 1, "n_head": 4, "d_inner": 64, "initializer_range": 0.2}
# Each with its class in transformers, what its config is told, and the task.
MODELS: dict[str, tuple[str, dict[str, Any], str]] = {
    "bart": ("BartForSequenceClassification", {**_BART, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "init_std": 0.2}, "classes"),
    "bart vectors": ("BartModel", {**_BART, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "init_std": 0.2}, "states"),
    "t5": ("T5ForSequenceClassification", _T5, "classes"),
    "t5 encoder": ("T5EncoderModel", _T5, "states"),
    "t5 whole": ("T5ForConditionalGeneration", _T5, "states"),
    "umt5": ("UMT5ForSequenceClassification", _T5, "classes"),
    "xlnet": ("XLNetForSequenceClassification", _XLNET, "classes"),
    "xlnet padded on the left": ("XLNetForSequenceClassification", _XLNET, "classes"),
}
TASKS = {"classes": "text-classification", "states": "feature-extraction"}


def rows(generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Texts of two tokens up to as many as there is room for, each ended by one token, padded on the right."""
    lengths = np.arange(2, LENGTH + 1)[:, np.newaxis]
    places = np.arange(LENGTH)
    ids = np.where(places < lengths - 1, generator.integers(END + 1, VOCABULARY, (len(lengths), LENGTH)), 0)
    ids[places == lengths - 1] = END
    # XLNet has a token of a segment of its own.
    segments = np.where(places == lengths - 1, 2, 0)
    arrays = {"input_ids": ids, "attention_mask": places < lengths, "token_type_ids": segments}
    return {name: array.astype(np.int32) for name, array in arrays.items()}


def export_all(folder: Path) -> dict[str, Any]:
    """Of each model how far the exported ONNX's reference, and the ONNX itself, lie from transformers' answers to texts without
    padding, and over which outputs' spread."""
    import torch
    import transformers

    results = {}
    for name, (kind, settings, outputs) in MODELS.items():
        torch.manual_seed(0)
        model_class = getattr(transformers, kind)
        model = model_class(model_class.config_class(**_COMMON, **settings)).eval()
        path = folder / name
        model.save_pretrained(path)
        arrays = rows(np.random.default_rng(0))
        if not name.startswith("xlnet"):
            del arrays["token_type_ids"]
        if name.endswith("left"):
            arrays = {key: np.ascontiguousarray(array[:, ::-1]) for key, array in arrays.items()}
        Samples(arrays).save(folder / f"{name} rows")
        reference = folder / f"{name} reference"
        task = TASKS[outputs]
        exported = export_onnx(Checkpoint.read(path, task), folder / f"{name} rows", folder / f"{name}.onnx", reference)
        (written,) = Samples.load(reference).inputs.values()
        worst, spread = 0.0, 0.0
        for index, mask in enumerate(arrays["attention_mask"] > 0):
            bare = {key: torch.from_numpy(array[index : index + 1, mask]).long() for key, array in arrays.items()}
            with torch.no_grad():
                if outputs == "classes":
                    expected, ours = model(**bare).logits[0].numpy(), written[index]
                else:
                    whole = model.get_encoder() if name.startswith("t5") else model
                    expected, ours = whole(**bare).last_hidden_state[0].numpy(), written[index][mask]
            worst, spread = max(worst, float(np.abs(ours - expected).max())), max(spread, float(np.ptp(expected)))
        results[name] = (worst / spread, exported.parity.max_rel, spread)
    return results
