"""What the scripts run in workers: a child can only find functions of modules, not of a script."""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.samples import Samples
from edgekit.models.checkpoint import Checkpoint
from edgekit.models.weights import load_model
from edgekit.stages.export import module
from edgekit.tflite import lengths
from edgekit.tflite.lengths import LengthsModel

TOKEN_INPUTS = ("input_ids", "attention_mask")


def torch_outputs(checkpoint: Path, samples: Path, target: Path) -> None:
    """In a worker: PyTorch's own outputs by name for every row, as a folder of saved samples."""
    stored, model = Samples.load(samples), Checkpoint.read(checkpoint)
    # The module takes them by position; the .tflite lists them in its own order.
    rows = Samples({name: stored.inputs[name] for name in TOKEN_INPUTS})
    Samples(module.run(module.load(model, TOKEN_INPUTS), rows, model.task.outputs)).save(target)


def sentence_vectors(folder: Path, texts: Sequence[str], batch: int = 50) -> np.ndarray:
    """In a worker: of each text the mean of its tokens' last states by transformers alone (texts, D)."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer, vectors = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder), []
    with torch.inference_mode():
        for start in range(0, len(texts), batch):
            inputs = tokenizer(
                list(texts[start : start + batch]), padding=True, truncation=True, max_length=256, return_tensors="pt"
            )
            states = model(**inputs).last_hidden_state
            real = inputs["attention_mask"].unsqueeze(-1)
            vectors.append(((states * real).sum(1) / real.sum(1)).numpy())
    return np.concatenate(vectors)


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


def time_lengths(file: Path, samples: Path, threads: int) -> dict[str, np.ndarray]:
    """For each row the signature's length, ms and logits when the file chooses it, and ms and logits in the longest; in turns."""
    chosen = lengths.load(file, threads=threads)
    if not isinstance(chosen, LengthsModel):
        raise TypeError(f"{file} has one length")
    longest = chosen.models[chosen.longest]
    for model in chosen.models.values():
        model.invoke()
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("length", "ms", "logits", "ms_longest", "logits_longest")}

    def timed(model: Any, suffix: str, row: dict[str, np.ndarray]) -> None:
        model.set_inputs(row)
        # The weights that the other one left in the cache are not these: the second run counts.
        model.invoke()
        started = time.perf_counter()
        model.invoke()
        found[f"ms{suffix}"].append(np.float64((time.perf_counter() - started) * 1e3))
        found[f"logits{suffix}"].append(next(iter(model.outputs().values()))[0])

    for number, row in enumerate(Samples.load(samples)):
        turns = [(chosen, ""), (longest, "_longest")]
        for model, suffix in turns if number % 2 else reversed(turns):
            timed(model, suffix, row)
        found["length"].append(np.int64(lengths.fit(row, chosen.models)[0]))
    return {name: np.array(values) for name, values in found.items()}


ENCODERS = {
    "DistilBERT": (
        "DistilBertConfig",
        {"dim": 128, "n_layers": 3, "n_heads": 4, "hidden_dim": 512, "max_position_embeddings": 128},
    ),
    "DeBERTa-v2": (
        "DebertaV2Config",
        {
            "hidden_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 512,
            "max_position_embeddings": 128,
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 32,
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
            "position_biased_input": False,
            "type_vocab_size": 0,
        },
    ),
    "MobileBERT": (
        "MobileBertConfig",
        {
            "hidden_size": 128,
            "embedding_size": 64,
            "intra_bottleneck_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 128,
            "num_feedforward_networks": 2,
            "max_position_embeddings": 128,
        },
    ),
}


def write_encoder(kind: str, folder: Path, tokenizer: Path) -> int:
    """In a worker: a small encoder of `ENCODERS`, random weights, two classes; returns the number of parameters."""
    import torch
    import transformers

    torch.manual_seed(0)
    name, settings = ENCODERS[kind]
    known = transformers.AutoTokenizer.from_pretrained(tokenizer)
    config = getattr(transformers, name)(vocab_size=len(known), pad_token_id=known.pad_token_id, **settings)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(folder)
    for part in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer / part, folder / part)
    return sum(parameter.numel() for parameter in model.parameters())


def probabilities(folder: Path, texts: Sequence[str], length: int) -> np.ndarray:
    """Probabilities (N, classes) of a checkpoint itself."""
    import torch
    from transformers import AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), load_model(Checkpoint.read(folder))
    found = []
    with torch.inference_mode():
        for start in range(0, len(texts), 32):
            batch = tokenizer(
                list(texts[start : start + 32]), truncation=True, max_length=length, padding="max_length", return_tensors="pt"
            )
            found.append(torch.softmax(model(**batch).logits, -1).numpy())
    return np.concatenate(found)


def outputs_of(model: Path, rows: Path, target: Path) -> None:
    """In a worker: what a model's own runtime gives for the rows (N, ...) of an .npz, each output (N, ...) by name, as an .npz.

    That is ONNX Runtime, LiteRT's interpreter, or TensorFlow for a SavedModel, called as their own documentation does. Rows have
    channels on the last axis, and get them on axis 1 where the model wants them there."""
    runtimes = {".onnx": _onnx_runtime, ".tflite": _litert}
    feeds, run = runtimes.get(model.suffix, _tensorflow)(model)
    arrays = np.load(rows)
    outputs: dict[str, list[np.ndarray]] = {}
    for place in range(len(next(iter(arrays.values())))):
        row = {name: _as_wanted(arrays[name][place], shape, dtype) for name, (shape, dtype) in feeds.items()}
        for name, value in run(row).items():
            outputs.setdefault(name, []).append(np.asarray(value))
    np.savez(target, **{name: np.stack(values) for name, values in outputs.items()})


_Runtime = tuple[dict[str, tuple[Sequence[Any], Any]], Callable[[dict[str, np.ndarray]], Mapping[str, Any]]]


def _as_wanted(row: np.ndarray, shape: Sequence[Any], dtype: Any) -> np.ndarray:
    """One row, with a batch where there is one, and its channels where `shape` has them; free sizes are no numbers."""
    row = row if row.ndim == len(shape) else row[None]
    moved = np.moveaxis(row, -1, 1) if row.ndim == 4 else row

    def fits(array: np.ndarray) -> bool:
        return all(not isinstance(want, int) or want in (-1, size) for want, size in zip(shape, array.shape, strict=True))

    return np.ascontiguousarray(row if fits(row) else moved).astype(dtype, copy=False)


def _onnx_runtime(model: Path) -> _Runtime:
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}
    names = [item.name for item in session.get_outputs()]
    feeds = {item.name: (item.shape, kinds[item.type]) for item in session.get_inputs()}
    return feeds, lambda row: dict(zip(names, session.run(None, row), strict=True))


def _litert(model: Path) -> _Runtime:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model.read_bytes())
    interpreter.allocate_tensors()
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    # A file with a signature is fed by its names, as ONNX files are; the others have names of tensors alone.
    if signatures := interpreter.get_signature_list():
        key = next(iter(signatures))
        runner = interpreter.get_signature_runner(key)
        inputs = [{**item, "name": name} for name, item in runner.get_input_details().items()]
        return {item["name"]: (item["shape"].tolist(), item["dtype"]) for item in inputs}, lambda row: runner(**row)

    def run(row: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        for item in inputs:
            interpreter.set_tensor(item["index"], row[item["name"]])
        interpreter.invoke()
        return {item["name"]: interpreter.get_tensor(item["index"]) for item in outputs}

    return {item["name"]: (item["shape"].tolist(), item["dtype"]) for item in inputs}, run


def _tensorflow(model: Path) -> _Runtime:
    import tensorflow as tf

    serve = tf.saved_model.load(str(model)).signatures["serving_default"]
    specs = serve.structured_input_signature[1]
    feeds = {name: (spec.shape.as_list(), spec.dtype.as_numpy_dtype) for name, spec in specs.items()}
    return feeds, lambda row: {
        name: value.numpy() for name, value in serve(**{key: tf.constant(one) for key, one in row.items()}).items()
    }
