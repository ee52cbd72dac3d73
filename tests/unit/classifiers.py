"""Models made by hand, a few milliseconds each, that take what edgekit's own files take."""

import random
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tests.unit.tflite.conftest import Builder

LENGTH = 16


def text_classifier(length: int = LENGTH, classes: int = 2, *, pairs: bool = False) -> bytes:
    """Inputs input_ids and attention_mask (1, length); the logits are a random product of both.

    With `pairs` there are token_type_ids too, which are added to the ids.
    """
    draw = np.random.default_rng(0)
    build = Builder()
    ids, mask = build.tensor("ids", [1, length], "int32"), build.tensor("mask", [1, length], "int32")
    product, real = build.tensor("product", [1, length], "int32"), build.tensor("real", [1, length])
    weights = build.tensor("weights", [classes, length], data=(0.01 * draw.standard_normal((classes, length))).astype(np.float32))
    logits = build.tensor("logits", [1, classes])
    inputs, summed = {"input_ids": ids, "attention_mask": mask}, ids
    if pairs:
        inputs["token_type_ids"] = build.tensor("segments", [1, length], "int32")
        summed = build.tensor("summed", [1, length], "int32")
        build.op("ADD", [ids, inputs["token_type_ids"]], [summed], schema.AddOptionsT())
    build.op("MUL", [summed, mask], [product], schema.MulOptionsT())
    build.op("CAST", [product], [real], schema.CastOptionsT())
    build.op("FULLY_CONNECTED", [real, weights, -1], [logits], schema.FullyConnectedOptionsT())
    build.ends(inputs, {"logits": logits}, "serving_default")
    return build.pack()


def token_classifier(length: int = LENGTH, classes: int = 3) -> bytes:
    """Inputs as `text_classifier`; logits (1, length, classes): each token's id, 0 for padding, times a weight a class."""
    draw = np.random.default_rng(0)
    build = Builder()
    ids, mask = build.tensor("ids", [1, length], "int32"), build.tensor("mask", [1, length], "int32")
    product, real = build.tensor("product", [1, length], "int32"), build.tensor("real", [1, length])
    column, flat = build.tensor("column", [length, 1]), build.tensor("flat", [length, classes])
    to_column = build.tensor("to_column", [2], "int32", data=np.array([length, 1], np.int32))
    to_rows = build.tensor("to_rows", [3], "int32", data=np.array([1, length, classes], np.int32))
    weights = build.tensor("weights", [classes, 1], data=(0.05 * draw.standard_normal((classes, 1))).astype(np.float32))
    bias = build.tensor("bias", [classes], data=draw.standard_normal(classes).astype(np.float32))
    logits = build.tensor("logits", [1, length, classes])
    build.op("MUL", [ids, mask], [product], schema.MulOptionsT())
    build.op("CAST", [product], [real], schema.CastOptionsT())
    build.op("RESHAPE", [real, to_column], [column], schema.ReshapeOptionsT(newShape=[length, 1]))
    build.op("FULLY_CONNECTED", [column, weights, bias], [flat], schema.FullyConnectedOptionsT())
    build.op("RESHAPE", [flat, to_rows], [logits], schema.ReshapeOptionsT(newShape=[1, length, classes]))
    build.ends({"input_ids": ids, "attention_mask": mask}, {"logits": logits}, "serving_default")
    return build.pack()


def span_model(length: int = LENGTH) -> bytes:
    """Inputs as `text_classifier`; start_logits and end_logits (1, length) are each token's id times 0.01 and -0.02."""
    build = Builder()
    ids, mask = build.tensor("ids", [1, length], "int32"), build.tensor("mask", [1, length], "int32")
    product, real = build.tensor("product", [1, length], "int32"), build.tensor("real", [1, length])
    build.op("MUL", [ids, mask], [product], schema.MulOptionsT())
    build.op("CAST", [product], [real], schema.CastOptionsT())
    outputs = {}
    for name, factor in (("start_logits", 0.01), ("end_logits", -0.02)):
        weight = build.tensor(f"{name}_factor", [1], data=np.array([factor], np.float32))
        outputs[name] = build.tensor(name, [1, length])
        build.op("MUL", [real, weight], [outputs[name]], schema.MulOptionsT())
    build.ends({"input_ids": ids, "attention_mask": mask}, outputs, "serving_default")
    return build.pack()


def image_classifier(classes: int = 3) -> bytes:
    """Input image (1, 4, 4, 3); the logits are sums of the pixels with random weights."""
    draw = np.random.default_rng(0)
    build = Builder()
    image, flat = build.tensor("image", [1, 4, 4, 3]), build.tensor("flat", [1, 48])
    shape = build.tensor("shape", [2], "int32", data=np.array([1, 48], np.int32))
    weights = build.tensor("weights", [classes, 48], data=draw.standard_normal((classes, 48)).astype(np.float32))
    logits = build.tensor("logits", [1, classes])
    build.op("RESHAPE", [image, shape], [flat], schema.ReshapeOptionsT(newShape=[1, 48]))
    build.op("FULLY_CONNECTED", [flat, weights, -1], [logits], schema.FullyConnectedOptionsT())
    build.ends({"image": image}, {"logits": logits}, "serving_default")
    return build.pack()


def hard_strings(count: int, seed: int = 0) -> list[str]:
    """Texts that tokenizers trip over: emoji, CJK, accents, control characters, right-to-left, and some of 10,000 characters."""
    draw = random.Random(seed)
    ranges = [
        (0x20, 0x7F), (0x00, 0x20), (0x80, 0x100), (0xC0, 0x250), (0x300, 0x370), (0x370, 0x500), (0x590, 0x700),
        (0x900, 0x980), (0x2000, 0x2070), (0x20A0, 0x20C0), (0x3040, 0x3100), (0x4E00, 0x9FFF), (0xAC00, 0xD7A0),
        (0xE000, 0xE010), (0xFE00, 0xFE10), (0xFF00, 0xFFF0), (0x1D400, 0x1D500), (0x1F1E6, 0x1F200), (0x1F300, 0x1F650),
        (0x20000, 0x20100), (0xE0100, 0xE0110),
    ]  # fmt: skip
    words = [
        "good",
        "Film",
        "NOT",
        "[SEP]",
        "[CLS]",
        "[MASK]",
        "##ing",
        "don't",
        "\u200d",
        "\r\n",
        "\t",
        "\u0130",
        "x" * 120,
        "e\u0301",
    ]

    def piece() -> str:
        if draw.random() < 0.4:
            return draw.choice(words)
        low, high = draw.choice(ranges)
        return "".join(chr(draw.randrange(low, high)) for _ in range(draw.randint(1, 8)))

    texts = ["", " ", "\0", "\ufeff", "\u00a0"]
    while len(texts) < count:
        text = draw.choice(["", " "]).join(piece() for _ in range(draw.randint(1, 30)))
        texts.append((text * 10_000)[:10_000] if len(texts) % 100 == 0 else text)
    return texts


def hugging_face_ids(folder: Path, texts: list[str], length: int) -> Any:
    """ids and masks (N, length) as transformers gives them; in a child."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    found = tokenizer(texts, truncation=True, padding="max_length", max_length=length)
    return np.array(found["input_ids"]), np.array(found["attention_mask"])
