"""What the scripts run in workers: a child can only find functions of modules, not of a script."""

import shutil
from pathlib import Path

import numpy as np

from edgekit.bridge import TOKEN_INPUTS
from edgekit.data.samples import Samples
from edgekit.export import classifier


def torch_logits(checkpoint: Path, samples: Path, target: Path) -> None:
    """In a worker: PyTorch's own answer for every row."""
    stored = Samples.load(samples)
    # The module takes them by position; the .tflite lists them in its own order.
    rows = Samples({name: stored.inputs[name] for name in TOKEN_INPUTS})
    module = classifier.load(checkpoint, TOKEN_INPUTS)
    blocks = (rows.take(range(start, min(start + 32, len(rows)))) for start in range(0, len(rows), 32))
    np.save(target, np.concatenate([classifier.logits(module, block) for block in blocks]))


def write_checkpoint(folder: Path, tokenizer: Path) -> int:
    """In a worker: BERT-base from its default config; returns the number of parameters."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig())
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer / name, folder / name)
    return sum(parameter.numel() for parameter in model.parameters())
