"""Tiny models and data that are built on the spot; each function runs in a worker's child."""

import json
import random
from pathlib import Path
from typing import Any

from edgekit.spec import DataSpec

POSITIVE = ("good", "great", "lovely", "warm", "clever", "bright", "funny", "fresh")
NEGATIVE = ("bad", "dull", "awful", "cold", "stupid", "grim", "boring", "stale")
NEUTRAL = ("the", "a", "film", "story", "actor", "scene", "was", "is", "and", "very", "this", "plot", "not", "quite", ".", ",")


def sentences(count: int, seed: int = 0) -> list[tuple[str, int]]:
    """`count` sentences of 4 to 14 words with their label, 1 where the words of praise are in the majority."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        label = number % 2
        words = draw.choices(NEUTRAL, k=draw.randint(3, 11)) + draw.choices(POSITIVE if label else NEGATIVE, k=draw.randint(1, 3))
        draw.shuffle(words)
        rows.append((" ".join(words), label))
    return rows


def data(count: int, seed: int = 0, names: tuple[Any, Any] = (0, 1), **options: Any) -> DataSpec:
    """Rows in memory of `sentences`, whose labels are `names`."""
    rows = sentences(count, seed)
    return DataSpec({"sentence": [text for text, _ in rows], "label": [names[label] for _, label in rows]}, **options)


def write_tsv(path: Path, count: int, seed: int = 0) -> Path:
    """A `sentence<TAB>label` file with one header line."""
    lines = ["sentence\tlabel", *(f"{text}\t{label}" for text, label in sentences(count, seed))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def model(
    folder: Path, task: str = "text-classification", labels: tuple[str, ...] = ("negative", "positive"), **config: Any
) -> Path:
    """A 2-layer, 64-wide BERT with 4 heads, seeded random weights and the head of a task, saved as safetensors."""
    import torch
    import transformers

    from edgekit.tasks.table import TASKS

    tokenizer = _tokenizer()
    torch.manual_seed(0)
    settings = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=128,
        # Wider than usual, so that the logits differ from one sentence to the next as a trained model's do.
        initializer_range=0.2,
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
        **config,
    )
    getattr(transformers, f"Bert{TASKS[task].heads[0]}")(settings).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def encoder(folder: Path, architecture: str, task: str, **config: Any) -> Path:
    """A 2-layer, 64-wide model of any architecture with seeded random weights and the head of a task."""
    import torch
    import transformers

    from edgekit.tasks.table import TASKS

    tokenizer = _tokenizer()
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "initializer_range": 0.2,
    }
    settings = transformers.AutoConfig.for_model(
        architecture, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **sizes, **config
    )
    getattr(transformers, TASKS[task].auto).from_config(settings).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def sentence_encoder(
    folder: Path,
    layers: tuple[str, ...] = ("Normalize",),
    prompts: dict[str, Any] | None = None,
    side: str = "right",
    **pooling: Any,
) -> Path:
    """A tiny BERT as sentence-transformers saves one: a Pooling with the config `pooling`, then `layers`."""
    import torch
    from safetensors.torch import save_file

    model(folder, "feature-extraction")
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "padding_side": side}))
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), *((f"{place}_{kind}", kind) for place, kind in enumerate(layers, 2))]
    listed = [
        {"idx": n, "name": f"{n}", "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (path, kind) in enumerate(modules)
    ]
    for path, kind in modules[1:]:
        (folder / path).mkdir()
        if kind == "Dense":
            save_file(
                {"linear.weight": torch.randn(48, 64) / 4, "linear.bias": torch.randn(48) / 4}, folder / path / "model.safetensors"
            )
            tanh = {"activation_function": "torch.nn.modules.activation.Tanh"}
            (folder / path / "config.json").write_text(json.dumps({"in_features": 64, "out_features": 48, "bias": True, **tanh}))
    pooling = {"word_embedding_dimension": 64, **(pooling or {"pooling_mode_mean_tokens": True})}
    (folder / "1_Pooling/config.json").write_text(json.dumps(pooling))
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 40, "do_lower_case": False}))
    if prompts is not None:
        (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    return folder


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    pieces = (*special, *NEUTRAL, *POSITIVE, *NEGATIVE, *letters, *(f"##{letter}" for letter in letters))
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        model_max_length=128,
    )
