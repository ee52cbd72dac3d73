"""Find a checkpoint, refuse what is unsafe or broken, and load it as a sequence classifier.

torch and transformers are loaded by `load_classifier`, `start_classifier` and `check_weights` alone: call these in a worker.
"""

import importlib.util
import json
import pickle
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgekit.errors import CheckpointError, ConfigError, OutputError, one_line
from edgekit.models import architectures, linear8
from edgekit.spec import path_of

PACKAGE = "package:"
_SAFE, _PICKLED = "model*.safetensors", "pytorch_model*.bin"
_HUB_FILES = ("*.json", "*.txt", "*.model", "README.md", _SAFE)
_TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "spm.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "vocab.json",
)
_BESIDE_TOKENIZER = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
_OFFSET_POSITIONS = (
    "camembert",
    "ibert",
    "longformer",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
)
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def resolve(reference: str) -> Path:
    """The folder of a checkpoint: a path, package:NAME or a hub id, which is downloaded if it is not in the cache.

    package:NAME is the folder inside the installed package NAME that holds a model's config.json. Raises `CheckpointError`.
    """
    if reference.startswith(PACKAGE):
        return _package_folder(reference.removeprefix(PACKAGE))
    path = path_of(reference)
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(f"{reference}: is a file, not a checkpoint; give the folder that holds config.json and the weights")
    if not _HUB_ID.fullmatch(reference) or reference.startswith(".") or Path(reference).parts[0] == ".." or _below_a_folder(path):
        raise CheckpointError(f"{reference}: no such folder; check the path, or give a hub id or package:NAME")
    return _hub_folder(reference)


def _below_a_folder(path: Path) -> bool:
    return len(path.parts) > 1 and Path(path.parts[0]).is_dir()


def _package_folder(name: str) -> Path:
    module = re.sub(r"[-.]+", "_", name)
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    roots = spec.submodule_search_locations if spec is not None else None
    if not roots:
        raise CheckpointError(f"{PACKAGE}{name}: no such package is installed; install it with pip or give a folder or a hub id")
    folders = sorted({config.parent for root in roots for config in Path(root).rglob("config.json") if _is_model_config(config)})
    if not folders:
        raise CheckpointError(f"{PACKAGE}{name}: holds no config.json of a model; give another package, a folder or a hub id")
    if len(folders) > 1:
        listed = ", ".join(str(folder) for folder in folders[:4])
        raise CheckpointError(f"{PACKAGE}{name}: holds {len(folders)} models; give the folder of one: {listed}")
    return folders[0]


def _is_model_config(file: Path) -> bool:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and "model_type" in found


def _hub_folder(name: str) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    from edgekit.system.network import hub_in_reach

    try:
        with hub_in_reach():
            folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=list(_HUB_FILES), ignore_patterns=["*/*"]))
            if not any(folder.glob(_SAFE)):
                patterns = [*_HUB_FILES, _PICKLED]
                folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns, ignore_patterns=["*/*"]))
    except errors.GatedRepoError:
        raise CheckpointError(
            f"{name}: the hub wants you to accept its terms; do so on its page and log in with `hf auth login`"
        ) from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(f"{name}: neither a folder here nor a model on the hub; check the spelling") from None
    except (errors.LocalEntryNotFoundError, errors.HfHubHTTPError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{name}: no folder of that name, and the hub cannot be reached ({type(error).__name__}); "
            "check the path or the network, or give a folder or package:NAME",
            str(error),
        ) from None
    return folder


def read_config(path: Path) -> dict[str, Any]:
    """The checkpoint's config.json. Raises `CheckpointError` if it is missing, not JSON or names no model type."""
    file = path / "config.json"
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such folder; check the path")
    if not file.is_file():
        raise CheckpointError(f"{path}: holds no config.json; give a folder that save_pretrained wrote")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{file}: not UTF-8 at byte offset {error.start}; save the model again with save_pretrained"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: not readable as JSON ({error}); save the model again with save_pretrained") from None
    if not isinstance(found, dict) or not isinstance(found.get("model_type"), str):
        raise CheckpointError(f"{file}: names no model_type; give a folder that save_pretrained wrote for a transformers model")
    return found


def label_ids(path: Path) -> dict[str, int]:
    """Class name to class number, in the order of the numbers, as config.json says. Raises `CheckpointError`."""
    config = read_config(path)
    names = config.get("id2label")
    if names is None:
        count = config.get("num_labels", config.get("_num_labels", 2))
        names = {number: f"LABEL_{number}" for number in range(count)}
    try:
        ids = {str(name): int(number) for number, name in sorted(names.items(), key=lambda item: int(item[0]))}
    except (AttributeError, TypeError, ValueError):
        ids = {}
    if len(ids) != len(names) or list(ids.values()) != list(range(len(ids))):
        raise CheckpointError(f"{path / 'config.json'}: id2label must name the classes 0, 1, 2, … each differently; mend it there")
    return ids


def check_length(path: Path, max_length: int) -> None:
    """Raise `ConfigError` if the model has fewer positions than `max_length` tokens, as far as config.json says."""
    config = read_config(path)
    positions = config.get("max_position_embeddings")
    if not isinstance(positions, int) or config.get("position_biased_input") is False:
        return
    # RoBERTa and its kin count positions from behind the padding token's id.
    if config["model_type"] in _OFFSET_POSITIONS:
        padding = config.get("pad_token_id", 1)
        positions -= (padding if isinstance(padding, int) else 1) + 1
    if max_length > positions:
        raise ConfigError(
            f"max_length is {max_length} but {path.name} takes {positions} tokens; give --max-length {positions} or less"
        )


def vocabulary_size(path: Path) -> int | None:
    """How many token ids the checkpoint knows, where config.json says. Raises `CheckpointError`."""
    found = read_config(path).get("vocab_size")
    return found if isinstance(found, int) else None


def tokenizer_folder(path: Path) -> Path:
    """The folder with the checkpoint's tokenizer, which is the checkpoint's. Raises `CheckpointError` if it has none."""
    if not any((path / name).is_file() for name in _TOKENIZER_FILES):
        raise CheckpointError(f"{path}: holds no tokenizer (tokenizer.json or vocab.txt); save one there with save_pretrained")
    return path


def tokenizer_files(path: Path) -> list[Path]:
    """All that the tokenizer in a folder consists of."""
    return [path / name for name in (*_TOKENIZER_FILES, *_BESIDE_TOKENIZER) if (path / name).is_file()]


def copy_tokenizer(folder: Path, target: Path) -> None:
    """Into a folder that is not published yet."""
    for file in tokenizer_files(folder):
        shutil.copyfile(file, target / file.name)


def refuse_other_tokenizer(folder: Path, out: Path, *, overwrite: bool) -> None:
    """Raise `OutputError` if `out` holds another tokenizer than `folder` and it may not be replaced; asked before the work."""
    if overwrite:
        return
    for file in tokenizer_files(folder):
        there = out / file.name
        if there.is_file() and there.read_bytes() != file.read_bytes():
            raise OutputError(f"{there}: is another model's tokenizer; add --overwrite to replace it or choose another --out")


def publish_tokenizer(folder: Path, out: Path) -> None:
    """The tokenizer travels with the files, so that they can be evaluated and used without the checkpoint."""
    # Every child that runs a model imports this module, and none publishes: the import would be a third of its start.
    from edgekit.system import artifacts

    for file in tokenizer_files(folder):
        with artifacts.staged(out / file.name, overwrite=True) as partial:
            shutil.copyfile(file, partial)


def weight_files(path: Path) -> list[Path]:
    """The safetensors files, else the pickled ones; empty if the folder has neither."""
    return sorted(path.glob(_SAFE)) or sorted(path.glob(_PICKLED))


def check_weights(path: Path) -> None:
    """Read every weight once.

    Raises `CheckpointError` for an unsafe pickle, a damaged file, or a NaN or infinity, naming the tensor.
    """
    import torch

    files = weight_files(path)
    if not files:
        raise CheckpointError(f"{path}: holds no weights (model.safetensors); give a folder that save_pretrained wrote")
    for file in files:
        for name, tensor in _tensors(file):
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                kind = "NaN" if bool(torch.isnan(tensor).any()) else "infinite"
                raise CheckpointError(f"{file}: the weights of {name} hold {kind} values; give an earlier checkpoint of this model")


def _tensors(file: Path) -> Iterator[tuple[str, Any]]:
    import torch
    from safetensors import SafetensorError, safe_open

    if file.suffix == ".safetensors":
        try:
            with safe_open(file, framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118 - not a mapping
                    yield name, weights.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file}: not a readable safetensors file ({error}); copy or download it again") from None
        return
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{file}: a pickle that may run code when it is loaded, refused; save the model as safetensors with save_pretrained"
        ) from None
    except (OSError, RuntimeError, EOFError, KeyError, ValueError) as error:
        raise CheckpointError(f"{file}: not readable ({one_line(error)}); copy or download it again") from None
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{file}: holds a {type(loaded).__name__}, not weights by name; save the model with save_pretrained")
    yield from ((name, tensor) for name, tensor in loaded.items() if isinstance(tensor, torch.Tensor))


def load_classifier(path: Path) -> Any:
    """The checked checkpoint as a float32 transformers classifier in eval mode; linear layers stored in 8 bits compute in them.

    Raises `CheckpointError`, also if the weights lack the classification head.
    """
    check_weights(path)
    _refuse_other_task(path)
    model, missing = _from_pretrained(path, None)
    if missing:
        raise CheckpointError(
            f"{path}: has no trained classification head ({missing[0]} is missing); run edgekit finetune on it first"
        )
    _name_padding(path, model)
    return model.eval()


def _refuse_other_task(path: Path) -> None:
    """Heads that judge tokens or choices may have a classifier's very tensors, so that the names of these alone prove nothing."""
    named = read_config(path).get("architectures")
    heads = [name for name in named if isinstance(name, str) and "For" in name] if isinstance(named, list) else []
    if heads and not any(name.endswith("ForSequenceClassification") for name in heads):
        raise CheckpointError(
            f"{path}: is no text classifier but a {heads[0]} (architectures in config.json); run edgekit finetune on it first"
        )


def start_classifier(path: Path, labels: Mapping[str, int]) -> Any:
    """A float32 classifier for `labels` to train: a head that is missing or of another size starts at random.

    So does the whole model if the folder holds a config.json without weights; torch's seed decides. Raises `CheckpointError`.
    """
    linear8.refuse_quantized(path, read_config(path), "trained")
    if weight_files(path):
        check_weights(path)
        model = _from_pretrained(path, labels)[0]
        _name_padding(path, model)
        return model
    if others := [
        file.name for file in sorted(path.iterdir()) if file.suffix in (".h5", ".msgpack", ".pt", ".pth", ".pkl", ".ckpt", ".bin")
    ]:
        raise CheckpointError(
            f"{path}: holds {others[0]} but no model.safetensors; save the model as safetensors with save_pretrained"
        )
    model = _unfilled(path, _auto_config(path, labels))
    _name_padding(path, model)
    return model


def _name_padding(path: Path, model: Any) -> None:
    """A GPT-2's head reads the last token that is no padding, so the config must say which that is: the tokenizer's.

    Raises `CheckpointError` if there is none.
    """
    if model.config.model_type != "gpt2" or model.config.pad_token_id is not None:
        return
    from transformers import AutoTokenizer

    try:
        model.config.pad_token_id = AutoTokenizer.from_pretrained(str(tokenizer_folder(path)), local_files_only=True).pad_token_id
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise CheckpointError(
            f"{path}: its tokenizer does not load ({one_line(error)}); save one there with save_pretrained"
        ) from error
    if model.config.pad_token_id is None:
        raise CheckpointError(f"{path}: names no padding token; set pad_token in tokenizer_config.json")


def _from_pretrained(path: Path, labels: Mapping[str, int] | None) -> tuple[Any, list[str]]:
    import torch
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    config = _auto_config(path, labels)
    if hasattr(config, architectures.KEY) or hasattr(config, linear8.KEY):
        return _from_stored(path, config)
    # What is missing is judged below; the library's table of it would only alarm.
    logging.set_verbosity_error()
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            str(path),
            config=config,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except MemoryError:
        raise
    except Exception as error:  # a config that is wrong ends in whatever its model's code stumbles on
        raise CheckpointError(
            f"{path}: no model can be made of its config.json and weights ({one_line(error)}); "
            "give a folder that save_pretrained wrote"
        ) from error
    mismatched = sorted(info["mismatched_keys"])
    if mismatched and labels is None:
        name, stored, wanted = mismatched[0]
        raise CheckpointError(
            f"{path}: the weights do not fit config.json ({name} is {tuple(stored)}, not {tuple(wanted)}); give matching files"
        )
    missing = {*info["missing_keys"], *(key[0] for key in mismatched)}
    return model, _head_alone(path, model, missing)


def _from_stored(path: Path, config: Any) -> tuple[Any, list[str]]:
    """A pruned or an 8-bit checkpoint: the layers are made whole and then changed before the weights come in."""
    model = _unfilled(path, config)
    wanted = model.state_dict()
    stored = {name: tensor for file in weight_files(path) for name, tensor in _tensors(file)}
    given = linear8.install(model, stored, how, path) if (how := getattr(config, linear8.KEY, None)) else set()
    fitting = {
        name: tensor for name, tensor in stored.items() if name in wanted and name not in given and _fits(tensor, wanted[name])
    }
    model.load_state_dict(fitting, strict=False)
    return model, _head_alone(path, model, set(wanted) - set(fitting) - given)


def _fits(tensor: Any, place: Any) -> bool:
    """Whole numbers are no weights: those of an 8-bit layer mean nothing without their scale."""
    return bool(tensor.shape == place.shape and tensor.is_floating_point() == place.is_floating_point())


def _unfilled(path: Path, config: Any) -> Any:
    """The model of a config with random weights, cut to its shape if it is pruned."""
    import torch
    from transformers import AutoModelForSequenceClassification

    try:
        model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32, trust_remote_code=False)
        if hasattr(config, architectures.KEY):
            architectures.shrink(model, getattr(config, architectures.KEY))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error.message}") from None
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: no model can be built from config.json ({one_line(error)}); mend it or make the checkpoint again"
        ) from error
    return model


def _head_alone(path: Path, model: Any, missing: set[str]) -> list[str]:
    """The names of the weights that are `missing`, in order. Raises `CheckpointError` if they are of the encoder."""
    # A pooler comes with some pretraining heads and not with others; everything else of the encoder must be there.
    if lost := [name for name in sorted(missing) if name.startswith(f"{model.base_model_prefix}.") and "pooler" not in name]:
        raise CheckpointError(
            f"{path}: the weights do not fit config.json ({len(lost)} tensors such as {lost[0]}); give matching files"
        )
    return sorted(missing)


def _auto_config(path: Path, labels: Mapping[str, int] | None) -> Any:
    from transformers import AutoConfig

    named: dict[str, Any] = {}
    if labels is not None:
        named = {
            "label2id": dict(labels),
            "id2label": {number: name for name, number in labels.items()},
            "problem_type": "single_label_classification",
        }
    model_type = read_config(path)["model_type"]
    try:
        config = AutoConfig.from_pretrained(str(path), local_files_only=True, trust_remote_code=False, **named)
    except MemoryError:
        raise
    except Exception as error:  # each model's config checks its values in its own way
        raise CheckpointError(
            f"{path}: transformers cannot use its config.json, model type {model_type!r} ({one_line(error)}); mend it there"
        ) from error
    if getattr(config, "is_encoder_decoder", False):
        raise CheckpointError(
            f"{path}: is an encoder with a decoder ({model_type}), whose classifier has no fixed graph; "
            "give an encoder such as BERT"
        )
    return config
