"""Load a checkpoint's weights, refusing what is unsafe or broken, as a model of its task.

torch and transformers are loaded by every function but `weight_files`: call these in a worker."""

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgekit.data.text import KNOWN_PADS
from edgekit.errors import CheckpointError, one_line
from edgekit.models import architectures, choice_head, convolutions, input_masks, last_token, linear8, masked_head
from edgekit.models.checkpoint import PICKLED, SAFE, Checkpoint, load_tokenizer
from edgekit.models.sentence_head import Dense
from edgekit.tasks.fill_mask import FILL_MASK
from edgekit.tasks.multiple_choice import MULTIPLE_CHOICE

# Whose vectors of texts are those of its encoder: transformers has a class for it, which is not what AutoModel loads.
_ENCODERS = {"mt5": "MT5EncoderModel", "t5": "T5EncoderModel", "umt5": "UMT5EncoderModel"}
# Whose decoder is fed the text itself where nothing else is.
_READS_ITS_TEXT = ("bart", "mbart", "mvp", "plbart")


def weight_files(path: Path) -> list[Path]:
    """The safetensors files, else the pickled ones; empty if the folder has neither."""
    return sorted(path.glob(SAFE)) or sorted(path.glob(PICKLED))


def check_weights(path: Path) -> None:
    """Read every weight once.

    Raises `CheckpointError` for an unsafe pickle, a damaged file, or a NaN or infinity, naming the tensor."""
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


def load_model(checkpoint: Checkpoint) -> Any:
    """A checked checkpoint, a float32 model of its task in eval mode, 8-bit layers as stored. Raises `CheckpointError`."""
    path = checkpoint.path
    check_weights(path)
    checkpoint.refuse_other_head()
    model, missing = _from_pretrained(checkpoint, None)
    if missing and not checkpoint.task.headless:
        raise CheckpointError(
            f"{path}: has no trained {checkpoint.task.name} head ({missing[0]} is missing); run edgekit finetune on it first"
        )
    _name_padding(path, model)
    return _with_own_head(checkpoint, model).eval()


def start_model(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> Any:
    """A float32 model of the checkpoint's task to train, with a head for `settings`: one that is missing or of another size
    starts at random.

    So does the whole model if the folder holds a config.json without weights; torch's seed decides. Raises `CheckpointError`."""
    path, head = checkpoint.path, checkpoint.task.head(settings)
    linear8.refuse_quantized(path, checkpoint.config, "trained")
    if weight_files(path):
        check_weights(path)
        model = _from_pretrained(checkpoint, head)[0]
        _name_padding(path, model)
        return _with_own_head(checkpoint, model)
    if others := [
        file.name for file in sorted(path.iterdir()) if file.suffix in (".h5", ".msgpack", ".pt", ".pth", ".pkl", ".ckpt", ".bin")
    ]:
        raise CheckpointError(
            f"{path}: holds {others[0]} but no model.safetensors; save the model as safetensors with save_pretrained"
        )
    model = _unfilled(checkpoint, _auto_config(checkpoint, head))
    _name_padding(path, model)
    return _with_own_head(checkpoint, model)


def _with_own_head(checkpoint: Checkpoint, model: Any) -> Any:
    """`model` with what its task has beside transformers' head: the modules that make a sentence's vector, the mask's place, a
    choice alone.

    Raises `CheckpointError`."""
    _mend(model, checkpoint.model_type)
    if checkpoint.task == FILL_MASK:
        return masked_head.at_mask(model, checkpoint.settings["mask_token_id"])
    if checkpoint.task == MULTIPLE_CHOICE:
        return choice_head.alone(model)
    head = checkpoint.sentence_head
    if head is None:
        return model
    from edgekit.models import sentence_model

    path, skipped, tensors = checkpoint.path, 0, []
    tokenizer = load_tokenizer(path)
    if head.prompt and not head.include_prompt:
        ids = tokenizer(head.prompt)["input_ids"]
        # The token that ends a text does not stand behind a prompt.
        skipped = len(ids) - int(bool(ids) and ids[-1] in (tokenizer.eos_token_id, tokenizer.sep_token_id))
    for layer in head.layers:
        if isinstance(layer, Dense):
            check_weights(path / layer.path)
            tensors.append({name: tensor for file in weight_files(path / layer.path) for name, tensor in _tensors(file)})
    try:
        return sentence_model.joined(model, head, path, tensors, skipped, from_left=tokenizer.padding_side == "left")
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: the weights of its Dense do not fit its config.json ({one_line(error)}); give matching files"
        ) from None


def _mend(model: Any, model_type: str) -> None:
    """Where what transformers' code says depends on padding, or is of a form that no exporter writes, it does so no more."""
    convolutions.without_padding(model)
    last_token.summed_up_without_padding(model)
    if model_type == "xlnet":
        input_masks.of_truth_values(model)
    if model_type in ("mbart", "plbart"):
        last_token.begun_by_last(model)
    if getattr(model.config, "is_encoder_decoder", False) and hasattr(model, "classification_head"):
        last_token.at_end(model)


def _name_padding(path: Path, model: Any) -> None:
    """A decoder's head reads the last token that is no padding: config gets the tokenizer's id. Raises `CheckpointError`."""
    if getattr(model.config, "pad_token_id", None) is not None:
        return
    tokenizer = load_tokenizer(path)
    vocabulary = tokenizer.get_vocab()
    usual = next((vocabulary[token] for token in KNOWN_PADS if token in vocabulary), None)
    model.config.pad_token_id = usual if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    if model.config.pad_token_id is None:
        raise CheckpointError(f"{path}: names no padding token; set pad_token in tokenizer_config.json")


def _from_pretrained(checkpoint: Checkpoint, head: Mapping[str, Any] | None) -> tuple[Any, list[str]]:
    import torch
    from transformers.utils import logging

    path, config = checkpoint.path, _auto_config(checkpoint, head)
    if hasattr(config, architectures.KEY) or hasattr(config, linear8.KEY):
        return _from_stored(checkpoint, config)
    # What is missing is judged below; the library's table of it would only alarm.
    logging.set_verbosity_error()
    try:
        model, info = _auto(checkpoint).from_pretrained(
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
    if mismatched and head is None:
        name, stored, wanted = mismatched[0]
        raise CheckpointError(
            f"{path}: the weights do not fit config.json ({name} is {tuple(stored)}, not {tuple(wanted)}); give matching files"
        )
    missing = {*info["missing_keys"], *(key[0] for key in mismatched)}
    return model, _head_alone(checkpoint, model, missing)


def _auto(checkpoint: Checkpoint) -> Any:
    """The transformers class that loads models of the checkpoint's task. Raises `CheckpointError` where there is none."""
    import transformers

    if not checkpoint.task.auto:
        raise CheckpointError(f"{checkpoint.path}: task {checkpoint.task.name}: no checkpoint serves it; leave --task out")
    encoder = _ENCODERS.get(checkpoint.model_type, "") if checkpoint.task.headless else ""
    return getattr(transformers, encoder or checkpoint.task.auto)


def _from_stored(checkpoint: Checkpoint, config: Any) -> tuple[Any, list[str]]:
    """A pruned or an 8-bit checkpoint: the layers are made whole and then changed before the weights come in."""
    path, model = checkpoint.path, _unfilled(checkpoint, config)
    wanted = model.state_dict()
    stored = {name: tensor for file in weight_files(path) for name, tensor in _tensors(file)}
    given = linear8.install(model, stored, how, path) if (how := getattr(config, linear8.KEY, None)) else set()
    fitting = {
        name: tensor for name, tensor in stored.items() if name in wanted and name not in given and _fits(tensor, wanted[name])
    }
    model.load_state_dict(fitting, strict=False)
    # A head that is tied to the embeddings is stored once.
    loaded = {wanted[name].data_ptr() for name in fitting}
    missing = {name for name in set(wanted) - set(fitting) - given if wanted[name].data_ptr() not in loaded}
    return model, _head_alone(checkpoint, model, missing)


def _fits(tensor: Any, place: Any) -> bool:
    """Whole numbers are no weights: those of an 8-bit layer mean nothing without their scale."""
    return bool(tensor.shape == place.shape and tensor.is_floating_point() == place.is_floating_point())


def _unfilled(checkpoint: Checkpoint, config: Any) -> Any:
    """The model of a config with random weights, cut to its shape if it is pruned."""
    import torch

    path = checkpoint.path
    try:
        model = _auto(checkpoint).from_config(config, dtype=torch.float32, trust_remote_code=False)
        if hasattr(config, architectures.KEY):
            architectures.shrink(model, getattr(config, architectures.KEY))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error.message}") from None
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: no model can be built from config.json ({one_line(error)}); mend it or make the checkpoint again"
        ) from error
    return model


def _head_alone(checkpoint: Checkpoint, model: Any, missing: set[str]) -> list[str]:
    """The names of the weights that are `missing`, in order. Raises `CheckpointError` if they are of the encoder."""
    # A pooler comes with some pretraining heads and not with others; everything else of the encoder must be there.
    encoder = "" if checkpoint.task.headless else f"{model.base_model_prefix}."
    if lost := [name for name in sorted(missing) if name.startswith(encoder) and "pooler" not in name]:
        raise CheckpointError(
            f"{checkpoint.path}: the weights do not fit config.json ({len(lost)} tensors such as {lost[0]}); give matching files"
        )
    return sorted(missing)


def _auto_config(checkpoint: Checkpoint, head: Mapping[str, Any] | None) -> Any:
    from transformers import AutoConfig

    path, model_type = checkpoint.path, checkpoint.model_type
    try:
        config = AutoConfig.from_pretrained(str(path), local_files_only=True, trust_remote_code=False, **(head or {}))
    except MemoryError:
        raise
    except Exception as error:  # each model's config checks its values in its own way
        raise CheckpointError(
            f"{path}: transformers cannot use its config.json, model type {model_type!r} ({one_line(error)}); mend it there"
        ) from error
    for name, value in (head or {}).items():
        # Settings of a task are no fields of the model's own config, and travel in it all the same.
        setattr(config, name, value)
    if getattr(config, "is_encoder_decoder", False) and model_type not in (*_ENCODERS, *_READS_ITS_TEXT):
        raise CheckpointError(
            f"{path}: is an encoder with a decoder ({model_type}), which writes another text and says nothing of the one it reads; "
            f"give an encoder such as BERT, or one of {', '.join(sorted((*_ENCODERS, *_READS_ITS_TEXT)))}"
        )
    return config
