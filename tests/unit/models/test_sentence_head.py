"""What stands behind the encoder of a sentence-transformers folder, against sentence-transformers itself."""

import importlib.util
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.data.encode import Encoding
from edgekit.data.samples import Array
from edgekit.data.sources import TextRows
from edgekit.errors import CheckpointError
from edgekit.models import sentence_head
from edgekit.models.checkpoint import Checkpoint, resolve
from edgekit.models.weights import load_model
from edgekit.system.worker import Worker
from tests import tiny

TEXTS = tuple(text for text, _ in tiny.sentences(12))
PROMPTS = {"prompts": {"query": "the story : ", "passage": ""}, "default_prompt_name": "query"}
CASES: Mapping[str, dict[str, Any]] = {
    "mean": {},
    "cls, as it is": {"pooling_mode_cls_token": True, "layers": ()},
    "max, projected": {"pooling_mode_max_tokens": True, "layers": ("Dense", "Normalize")},
    "last, padding left": {"pooling_mode": "lasttoken", "side": "left"},
    "cls, padding left": {"pooling_mode": "cls", "side": "left"},
    "several": {"pooling_mode": ["mean_sqrt_len_tokens", "weightedmean", "lasttoken"], "layers": ()},
    "weighted, padding left": {"pooling_mode": "weightedmean", "side": "left"},
    "prompt": {"prompts": PROMPTS},
    "prompt not pooled": {"prompts": PROMPTS, "pooling_mode_mean_tokens": True, "include_prompt": False},
    "prompt not pooled, padding left": {
        "prompts": PROMPTS,
        "pooling_mode": ["cls", "mean"],
        "include_prompt": False,
        "side": "left",
    },
}


def encoded(folder: Path) -> tuple[Checkpoint, dict[str, Any]]:
    """In a worker: the checkpoint, and its texts as tensors, padded to 40 tokens."""
    import torch

    checkpoint = Checkpoint.read(folder)
    inputs = checkpoint.inputs(40, pairs=False)
    rows = TextRows(TEXTS, None, None, "rows")
    samples = checkpoint.task.encode(rows, inputs, Encoding(checkpoint.tokenizer), checkpoint.settings, folder)
    return checkpoint, {name: torch.from_numpy(array).long() for name, array in samples.inputs.items()}


def vectors(folder: Path) -> Array:
    """In a worker: what edgekit's model gives."""
    import torch

    checkpoint, inputs = encoded(folder)
    with torch.no_grad():
        return np.asarray(load_model(checkpoint)(**inputs)["sentence_embedding"])


def reference(folder: Path) -> Array:
    """In a worker: what sentence-transformers gives, of the same tokens where padding on the left moves BERT's positions."""
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    if model.tokenizer.padding_side == "right":
        return np.asarray(model.encode(list(TEXTS)))
    features = encoded(folder)[1]
    if model.default_prompt_name:
        features["prompt_length"] = len(model.tokenizer(model.prompts[model.default_prompt_name])["input_ids"]) - 1
    with torch.no_grad():
        return np.asarray(model(features)["sentence_embedding"])


def compared(room: Path) -> dict[str, tuple[Array, ...]]:
    """In a worker, for each case: sentence-transformers' vectors and ours, of a folder and of what is saved of its model again."""
    found: dict[str, tuple[Array, ...]] = {}
    for number, (name, case) in enumerate(CASES.items()):
        folder, again = room / f"{number}", room / f"{number}_again"
        tiny.sentence_encoder(folder, **case)
        shutil.copytree(folder, again)
        for file in ("model.safetensors", "modules.json", "1_Pooling/config.json", "config_sentence_transformers.json"):
            (again / file).unlink(missing_ok=True)
        load_model(Checkpoint.read(folder)).save_pretrained(again)
        found[name] = reference(folder), vectors(folder), reference(again), vectors(again)
    return found


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Array, ...]]:
    # Looked for and not imported, which would load torch here.
    if importlib.util.find_spec("sentence_transformers") is None:
        pytest.skip("sentence-transformers is not installed")
    return Worker(timeout_s=300).run(compared, tmp_path_factory.mktemp("encoders")).value


@pytest.mark.parametrize("name", CASES)
def test_vectors_are_those_of_sentence_transformers_before_and_after_saving(cases: dict[str, tuple[Array, ...]], name: str) -> None:
    theirs, *others = cases[name]
    assert theirs.std(axis=0).mean() > 0.01
    for other in others:
        np.testing.assert_allclose(other, theirs, atol=2e-5)


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    return Path(Worker(timeout_s=100).run(tiny.sentence_encoder, tmp_path / "encoder", ("Dense", "Normalize")).value)


def changed(folder: Path, name: str, change: Callable[[Any], Any]) -> Path:
    file = folder / name
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    return folder


def test_a_folder_is_for_sentences_and_its_encoder_alone_for_features(encoder: Path) -> None:
    checkpoint = Checkpoint.read(encoder)
    assert checkpoint.task.name == "sentence-similarity"
    assert checkpoint.settings == {"pooling": ["mean"], "normalized": True, "prompt": "", "lower_case_texts": False}
    assert checkpoint.longest == 40
    assert Checkpoint.read(encoder, "feature-extraction").longest == 128
    assert Checkpoint.read_to_train(encoder).task.name == "text-classification"
    assert Checkpoint.read_to_train(encoder, "sentence-similarity").task.name == "sentence-similarity"
    (encoder / "modules.json").unlink()
    assert Checkpoint.read(encoder).task.name == "feature-extraction"
    plain = Checkpoint.read(encoder, "sentence-similarity")
    assert plain.sentence_head == sentence_head.SentenceHead()
    changed(encoder, "config.json", lambda config: {**config, "architectures": ["GPT2LMHeadModel"]})
    assert Checkpoint.read(encoder).task.name != "feature-extraction"


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (
            "modules.json",
            lambda modules: [*modules, {"type": "sentence_transformers.models.WordWeights", "path": "4_WordWeights"}],
            "has a module WordWeights, which edgekit does not know; it knows Transformer, Pooling, Dense, Normalize",
        ),
        ("modules.json", lambda modules: [*modules, {"type": "someone.Else", "path": ""}], "has a module someone.Else, "),
        ("modules.json", lambda modules: modules[::-1], "its modules are Normalize, Dense, Pooling, Transformer; "),
        ("modules.json", lambda modules: [{**modules[0], "path": "0_Transformer"}, *modules[1:]], "its Transformer lies in 0_"),
        ("modules.json", lambda modules: [*modules[:2], {**modules[2], "path": "../x"}], "a module lies in '../x', outside"),
        ("modules.json", lambda modules: [1], "lists no modules"),
        ("modules.json", lambda modules: {"a": 1}, "lists no modules"),
        ("1_Pooling/config.json", lambda config: {"pooling_mode": "median"}, "pools by 'median', which edgekit does not know"),
        ("1_Pooling/config.json", lambda config: [], "holds no settings by name"),
        ("2_Dense/config.json", lambda config: {**config, "activation_function": "a.b.Softsign"}, "with activation Softsign"),
        ("2_Dense/config.json", lambda config: {**config, "use_residual": True}, "with a residual"),
        ("2_Dense/config.json", lambda config: {}, "names no in_features"),
    ],
)
def test_what_is_not_known_is_refused_in_one_line(encoder: Path, name: str, change: Callable[[Any], Any], words: str) -> None:
    changed(encoder, name, change)
    with pytest.raises(CheckpointError) as error:
        Checkpoint.read(encoder)
    assert words in error.value.message
    assert "\n" not in error.value.message
    assert Checkpoint.read(encoder, "feature-extraction").sentence_head is None


def test_dense_weights_that_do_not_fit_are_refused(encoder: Path) -> None:
    changed(encoder, "2_Dense/config.json", lambda config: {**config, "out_features": 32})
    with pytest.raises(CheckpointError, match="the weights of its Dense do not fit"):
        Worker(timeout_s=100).run(vectors, encoder)


def test_the_hub_gives_the_folders_of_modules_too(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    cache = tmp_path / "cache"

    def download(name: str, allow_patterns: Any = None, ignore_patterns: Any = None) -> str:
        files = [str(file.relative_to(encoder)) for file in encoder.rglob("*") if file.is_file()]
        for file in filter_repo_objects(files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns):
            (cache / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(encoder / file, cache / file)
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    folder = resolve("someone/some-encoder")
    assert (folder / "2_Dense/model.safetensors").is_file()
    assert sentence_head.read(folder) == sentence_head.read(encoder)
