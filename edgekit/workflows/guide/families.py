"""The other families of the guide's Table 2, built at their real sizes with their real ops and seeded random weights.

Weights nobody gave can say nothing of accuracy; size and latency depend on shapes and ops alone. They are drawn so that
activations neither die nor grow from layer to layer, since ranges that no trained network has break int16x8 files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import ConfigError

_LETTERS = 29  # a to z, apostrophe, space, and CTC's blank
_MFCC, _MFCC_FRAMES = 39, 296
_CEPSTRA, _CONTEXT, _STEPS, _UNITS = 26, 9, 16, 2048
_WINDOW = 2 * _CONTEXT + 1
_RELU_CLIP = 20.0
_IMAGE, _CLASSES, _ANCHORS = 416, 80, 3
_DARKNET = ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4))
# What a residual branch adds: 23 of them at full strength would make the last layer's values 3000 times the first's.
_BRANCH_SCALE = 0.3
_SEQUENCE, _WORDS = 384, 30_522
_SPECIAL = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}


@dataclass(frozen=True)
class Family:
    """One family of Table 2; `name` is that of its row in `published.TABLE_2`.

    `build(target, seed)` writes the model as `file_name` (Keras-2 .h5, or a checkpoint folder) says and returns its number
    of parameters; it loads TensorFlow or torch: call it in a worker's child.
    `write_rows(target, count, seed)` writes random rows of a plausible range as `rows_name` says (.npz by input name, or
    .tsv). `max_length` counts the tokens of a checkpoint's input."""

    name: str
    file_name: str
    rows_name: str
    build: Callable[[Path, int], int]
    write_rows: Callable[[Path, int, int], None]
    max_length: int | None = None

    @property
    def differs(self) -> str:
        """What tells it from the guide's model."""
        return _DIFFERS[self.name]


def family(name: str) -> Family:
    """The family of that name. Raises `ConfigError` if there is none."""
    if name not in FAMILIES:
        raise ConfigError(f"no family {name!r}; choose from {', '.join(FAMILIES)}")
    return FAMILIES[name]


def build_wav2letter(target: Path, seed: int) -> int:
    """Eleven convolutions over 296 frames of MFCCs to letters: R. Collobert et al., arXiv 1609.03193, as Arm's ML zoo sizes it."""
    keras = _keras(seed)
    layers = keras.layers
    mfcc = keras.Input((_MFCC_FRAMES, _MFCC), batch_size=1, name="mfcc")
    x = layers.Reshape((1, _MFCC_FRAMES, _MFCC))(mfcc)
    for filters, width, stride in ((250, 48, 2), *[(250, 7, 1)] * 7, (2000, 32, 1), (2000, 1, 1)):
        x = layers.Conv2D(filters, (1, width), strides=(1, stride), padding="same", kernel_initializer="he_normal")(x)
        x = layers.LeakyReLU(0.2)(x)
    x = layers.Conv2D(_LETTERS, 1, padding="same", name="letters")(x)
    return _save(keras.Model(mfcc, layers.Softmax(name="probabilities")(x)), target)


def wav2letter_rows(target: Path, count: int, seed: int) -> None:
    """MFCCs normalized to mean 0 and standard deviation 1, that change slowly from frame to frame as speech does."""
    draw = np.random.default_rng(seed)
    np.savez(target, mfcc=np.stack([_slow(draw, _MFCC_FRAMES, _MFCC) for _ in range(count)]))


def build_deepspeech(target: Path, seed: int) -> int:
    """Three dense layers, an LSTM unrolled over 16 steps whose state goes in and out, two dense layers (DeepSpeech 0.5.1)."""
    keras = _keras(seed)
    layers = keras.layers
    windows = keras.Input((_STEPS, _WINDOW, _CEPSTRA), batch_size=1, name="input_node")
    cell = keras.Input((_UNITS,), batch_size=1, name="previous_state_c")
    hidden = keras.Input((_UNITS,), batch_size=1, name="previous_state_h")
    inputs, states = [windows, cell, hidden], []

    def dense(x: Any) -> Any:
        return layers.ReLU(max_value=_RELU_CLIP)(layers.Dense(_UNITS, kernel_initializer="he_normal")(x))

    x = layers.Reshape((_STEPS, _WINDOW * _CEPSTRA))(windows)
    for _ in range(3):
        x = dense(x)
    # One product over input and state together, as the exported DeepSpeech graph has it: Keras' own cell makes two.
    gates = layers.Dense(4 * _UNITS, kernel_initializer="lecun_normal", name="lstm")
    for step in range(_STEPS):
        parts = gates(layers.Concatenate()([x[:, step], hidden]))
        take, new, forget, give = (parts[:, number * _UNITS : (number + 1) * _UNITS] for number in range(4))
        kept = layers.Multiply()([layers.Activation("sigmoid")(forget), cell])
        added = layers.Multiply()([layers.Activation("sigmoid")(take), layers.Activation("tanh")(new)])
        cell = layers.Add()([kept, added])
        hidden = layers.Multiply()([layers.Activation("sigmoid")(give), layers.Activation("tanh")(cell)])
        states.append(layers.Reshape((1, _UNITS))(hidden))
    x = dense(layers.Concatenate(axis=1)(states))
    logits = layers.Softmax(name="logits")(layers.Dense(_LETTERS, name="letters")(x))
    state = [layers.Activation("linear", name=f"new_state_{name}")(value) for name, value in (("c", cell), ("h", hidden))]
    return _save(keras.Model(inputs, [logits, *state]), target)


def deepspeech_rows(target: Path, count: int, seed: int) -> None:
    """Overlapping windows of normalized cepstra; the states are those of an LSTM that has run: h within ±1, c wider."""
    draw = np.random.default_rng(seed)
    speech = [_slow(draw, _STEPS + _WINDOW - 1, _CEPSTRA) for _ in range(count)]
    windows = np.stack([[frames[step : step + _WINDOW] for step in range(_STEPS)] for frames in speech])
    cell = draw.normal(0, 0.5, (count, _UNITS)).astype(np.float32)
    hidden = (draw.uniform(0, 1, cell.shape) * np.tanh(cell)).astype(np.float32)
    np.savez(target, input_node=windows, previous_state_c=cell, previous_state_h=hidden)


def build_yolov3(target: Path, seed: int) -> int:
    """Darknet-53 and three heads for 80 classes at 416 x 416: J. Redmon and A. Farhadi, arXiv 1804.02767."""
    keras = _keras(seed)
    layers = keras.layers

    def block(x: Any, filters: int, size: int, stride: int = 1, scale: float = 1.0) -> Any:
        if stride == 2:
            x = layers.ZeroPadding2D(((1, 0), (1, 0)))(x)
        padding = "same" if stride == 1 else "valid"
        x = layers.Conv2D(filters, size, stride, padding, use_bias=False, kernel_initializer="he_normal")(x)
        x = layers.BatchNormalization(gamma_initializer=keras.initializers.Constant(scale))(x)
        return layers.LeakyReLU(0.1)(x)

    def neck(x: Any, filters: int) -> Any:
        for width, size in ((filters, 1), (2 * filters, 3)) * 2:
            x = block(x, width, size)
        return block(x, filters, 1)

    def head(x: Any, filters: int, name: str) -> Any:
        return layers.Conv2D(_ANCHORS * (_CLASSES + 5), 1, name=name)(block(x, 2 * filters, 3))

    image = keras.Input((_IMAGE, _IMAGE, 3), batch_size=1, name="image")
    x, stages = block(image, 32, 3), []
    for filters, repeats in _DARKNET:
        x = block(x, filters, 3, stride=2)
        for _ in range(repeats):
            x = layers.Add()([x, block(block(x, filters // 2, 1), filters, 3, scale=_BRANCH_SCALE)])
        stages.append(x)
    x = neck(stages[-1], 512)
    outputs = [head(x, 512, "large")]
    for stage, filters, name in ((stages[-2], 256, "medium"), (stages[-3], 128, "small")):
        x = layers.UpSampling2D(2)(block(x, filters, 1))
        x = neck(layers.Concatenate()([x, stage]), filters)
        outputs.append(head(x, filters, name))
    return _save(keras.Model(image, outputs), target)


def yolov3_rows(target: Path, count: int, seed: int) -> None:
    """Images of coloured patches with some noise, 0 to 1."""
    draw = np.random.default_rng(seed)
    patches = draw.uniform(0, 1, (count, 13, 13, 3)).astype(np.float32).repeat(32, axis=1).repeat(32, axis=2)
    noise = draw.normal(0, 0.05, patches.shape).astype(np.float32)
    np.savez(target, image=np.clip(patches + noise, 0, 1))


def build_mobilebert(target: Path, seed: int) -> int:
    """google/mobilebert-uncased's configuration (Z. Sun et al., arXiv 2004.02984) with two classes, and a made-up vocabulary."""
    import torch
    from transformers import MobileBertConfig, MobileBertForSequenceClassification, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    config = MobileBertConfig(vocab_size=_WORDS, classifier_activation=False, num_labels=2)
    model = MobileBertForSequenceClassification(config)
    with torch.no_grad():
        # At the usual 0.02 every score lies so near zero that one step of an int8 tensor covers them all.
        for table in (model.mobilebert.embeddings.word_embeddings, model.mobilebert.embeddings.position_embeddings):
            table.weight.normal_(0.0, 1.0)
    model.save_pretrained(target)
    special: Any = {f"{token[1:-1].lower()}_token": token for token in _SPECIAL.values()}
    tokenizer: Any = PreTrainedTokenizerFast(
        tokenizer_object=_word_tokenizer(), model_max_length=config.max_position_embeddings, **special
    )
    tokenizer.save_pretrained(target)
    return sum(parameter.numel() for parameter in model.parameters())


def mobilebert_rows(target: Path, count: int, seed: int) -> None:
    """Texts of random words of the made-up vocabulary, a tenth of the sequence to all of it; no labels: there is no truth."""
    draw = np.random.default_rng(seed)
    words = np.array([number for number in range(_WORDS) if number not in _SPECIAL])
    lines = [draw.choice(words, draw.integers(_SEQUENCE // 10, _SEQUENCE - 1)) for _ in range(count)]
    texts = [" ".join(f"w{number}" for number in line) for line in lines]
    target.write_text("\n".join(["sentence", *texts]) + "\n", encoding="utf-8")


def _word_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    vocabulary = {_SPECIAL.get(number, f"w{number}"): number for number in range(_WORDS)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    single, ends = "[CLS] $A [SEP]", [("[CLS]", 101), ("[SEP]", 102)]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=f"{single} $B:1 [SEP]:1", special_tokens=ends)
    return tokenizer


def _slow(draw: np.random.Generator, frames: int, features: int) -> np.ndarray:
    """(frames, features) float32 of mean 0 and standard deviation 1, each frame near the one before."""
    near = 0.9
    values = draw.standard_normal((frames, features))
    for frame in range(1, frames):
        values[frame] = near * values[frame - 1] + np.sqrt(1 - near**2) * values[frame]
    return values.astype(np.float32)


def _keras(seed: int) -> Any:
    import tf_keras

    tf_keras.utils.set_random_seed(seed)
    return tf_keras


def _save(model: Any, target: Path) -> int:
    model.save(target, save_format="h5", include_optimizer=False)
    return int(model.count_params())


_DIFFERS = {
    "wav2letter": "sized as Arm's ML zoo publishes it (296 frames of 39 MFCCs); "
    "the guide does not say which Wav2letter it measured",
    "deepspeech": "one call is 16 frames of 20 ms; features are computed outside the model",
    "yolov3": "416 × 416 pixels, the three heads' raw values; boxes are decoded and sorted outside the model",
    "mobilebert": "384 tokens as for SQuAD, but with a head of two classes instead of the question-answering one "
    "(1,026 of 24.6 million parameters either way)",
}
FAMILIES: Mapping[str, Family] = {
    item.name: item
    for item in (
        Family("wav2letter", "wav2letter.h5", "wav2letter.npz", build_wav2letter, wav2letter_rows),
        Family("deepspeech", "deepspeech.h5", "deepspeech.npz", build_deepspeech, deepspeech_rows),
        Family("yolov3", "yolov3.h5", "yolov3.npz", build_yolov3, yolov3_rows),
        Family("mobilebert", "mobilebert", "mobilebert.tsv", build_mobilebert, mobilebert_rows, max_length=_SEQUENCE),
    )
}
