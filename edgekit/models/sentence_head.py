"""What stands behind the encoder of a sentence-transformers folder: its modules.json and the files that it names.

The format: https://www.sbert.net/docs/sentence_transformer/usage/custom_models.html. The modules themselves, in torch, are in
`sentence_model`."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from edgekit.errors import CheckpointError
from edgekit.system.serial import read_json

MODULES = "modules.json"
# Where its modules are in a torch model.
NAME = "sentence_head"
_PROMPTS, _ENCODER = "config_sentence_transformers.json", "sentence_bert_config.json"
_PACKAGE, _AGAIN = "sentence_transformers.", "save the model again with sentence-transformers"
# How the states of a text's tokens become one vector, by the names of older files and of newer ones.
_OLD_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
POOLINGS = tuple(_OLD_POOLINGS.values())
ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "Sigmoid", "SiLU")
_KNOWN = ("Transformer", "Pooling", "Dense", "Normalize")


@dataclass(frozen=True)
class Dense:
    """A linear layer and its activation, of `ACTIVATIONS`; its weights lie in the folder `path` of the checkpoint."""

    path: str
    inputs: int
    outputs: int
    bias: bool = True
    activation: str = "Tanh"


@dataclass(frozen=True)
class Normalize:
    """A vector divided by its length."""


@dataclass(frozen=True)
class SentenceHead:
    """How an encoder's states become a vector: pooled each way of `pooling`, side by side, then through `layers`.

    `prompt` stands before every text; its tokens are not pooled without `include_prompt`. `prompts` are all that the folder knows.
    Texts are cut to `max_length` tokens and are lower-cased before the tokenizer where `lower_case` says so."""

    pooling: tuple[str, ...] = ("mean",)
    include_prompt: bool = True
    layers: tuple[Dense | Normalize, ...] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)
    prompt: str = ""
    max_length: int | None = None
    lower_case: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """What of it the task reads texts by and tells of the file."""
        normalized = bool(self.layers) and isinstance(self.layers[-1], Normalize)
        # The graph leaves out as many tokens as the one prompt has, where it leaves it out.
        prompts = {"prompts": dict(self.prompts)} if self.prompts and self.include_prompt else {}
        return {
            "pooling": list(self.pooling),
            "normalized": normalized,
            "prompt": self.prompt,
            "lower_case_texts": self.lower_case,
            **prompts,
        }


def read(folder: Path) -> SentenceHead | None:
    """That of a sentence-transformers folder; None where there is no modules.json, or it pools nothing.

    Raises `CheckpointError` for a module that is not known, and for files that are missing or damaged."""
    if not (folder / MODULES).is_file():
        return None
    modules = list(_modules(folder))
    kinds = [kind for kind, _ in modules]
    if kinds == ["Transformer"]:
        return None
    if unknown := [kind for kind in kinds if kind not in _KNOWN]:
        raise CheckpointError(
            f"{folder / MODULES}: has a module {unknown[0]}, which edgekit does not know; it knows {', '.join(_KNOWN)}; "
            "give a model of these, or --task feature-extraction for the encoder alone"
        )
    if kinds[:2] != ["Transformer", "Pooling"] or kinds.count("Transformer") + kinds.count("Pooling") > 2:
        raise CheckpointError(
            f"{folder / MODULES}: its modules are {', '.join(kinds)}; give a model of a Transformer, a Pooling and what follows"
        )
    if modules[0][1]:
        raise CheckpointError(
            f"{folder / MODULES}: its Transformer lies in {modules[0][1]}; {_AGAIN}, which puts it into the folder itself"
        )
    pooling, include_prompt = _pooling(folder, modules[1][1])
    layers = tuple(_dense(folder, path) if kind == "Dense" else Normalize() for kind, path in modules[2:])
    encoder, stored = _optional(folder / _ENCODER), _optional(folder / _PROMPTS)
    prompts, default, longest = stored.get("prompts") or {}, stored.get("default_prompt_name"), encoder.get("max_seq_length")
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise CheckpointError(f"{folder / _PROMPTS}: its prompts are no texts by name; mend them there")
    if default is not None and default not in prompts:
        raise CheckpointError(f"{folder / _PROMPTS}: default_prompt_name is {default!r}, none of its prompts; mend it there")
    return SentenceHead(
        pooling,
        include_prompt,
        layers,
        prompts,
        prompts[default] if default is not None else "",
        longest if isinstance(longest, int) and longest > 0 else None,
        bool(encoder.get("do_lower_case")),
    )


def files(folder: Path) -> Iterator[str]:
    """Names, relative to a folder whose modules.json is there, of the folders of its other modules."""
    return (path for _, path in _modules(folder) if path)


def write(head: SentenceHead, source: Path, folder: Path, dense: Sequence[Any]) -> None:
    """The files of `head` into the unpublished checkpoint `folder`; `dense` are the tensors by name of each Dense, in order.

    What `source` says besides, its prompts and lengths, goes along. Needs safetensors."""
    from safetensors.torch import save_file

    parts: list[tuple[str, str]] = [("Transformer", ""), ("Pooling", "1_Pooling")]
    tensors = iter(dense)
    for number, layer in enumerate(head.layers, 2):
        parts.append((type(layer).__name__, f"{number}_{type(layer).__name__}"))
        (folder / parts[-1][1]).mkdir(parents=True, exist_ok=True)
        if isinstance(layer, Dense):
            activation = f"torch.nn.modules.{'linear' if layer.activation == 'Identity' else 'activation'}.{layer.activation}"
            config = {"in_features": layer.inputs, "out_features": layer.outputs, "bias": layer.bias}
            _write(folder / parts[-1][1] / "config.json", {**config, "activation_function": activation})
            save_file(next(tensors), folder / parts[-1][1] / "model.safetensors", metadata={"format": "pt"})
    width = read_json(folder / "config.json").get("hidden_size")
    (folder / "1_Pooling").mkdir(exist_ok=True)
    flags = {old: new in head.pooling for old, new in _OLD_POOLINGS.items()}
    _write(folder / "1_Pooling/config.json", {"word_embedding_dimension": width, **flags, "include_prompt": head.include_prompt})
    listed = [
        {"idx": place, "name": str(place), "path": path, "type": f"{_PACKAGE}models.{kind}"}
        for place, (kind, path) in enumerate(parts)
    ]
    _write(folder / MODULES, listed)
    for name in (_PROMPTS, _ENCODER):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _modules(folder: Path) -> Iterator[tuple[str, str]]:
    """Kind and folder of each module, in order."""
    file = folder / MODULES
    listed = _json(file)
    try:
        for module in listed:
            kind, path = str(module["type"]), str(module.get("path", ""))
            inside = PurePosixPath(path)
            if inside.is_absolute() or ".." in inside.parts:
                raise CheckpointError(f"{file}: a module lies in {path[:80]!r}, outside its folder; {_AGAIN}")
            yield (kind.rpartition(".")[2] if kind.startswith(_PACKAGE) else kind), path
    except (TypeError, KeyError, AttributeError):
        raise CheckpointError(f"{file}: lists no modules with their types; {_AGAIN}") from None


def _pooling(folder: Path, path: str) -> tuple[tuple[str, ...], bool]:
    file = folder / path / "config.json"
    config = _object(file)
    named = config.get("pooling_mode") or [new for old, new in _OLD_POOLINGS.items() if config.get(old)]
    ways = (named,) if isinstance(named, str) else tuple(named) or ("mean",)
    if unknown := [way for way in ways if way not in POOLINGS]:
        raise CheckpointError(f"{file}: pools by {unknown[0]!r}, which edgekit does not know; it knows {', '.join(POOLINGS)}")
    return ways, bool(config.get("include_prompt", True))


def _dense(folder: Path, path: str) -> Dense:
    file = folder / path / "config.json"
    config = _object(file)
    activation = str(config.get("activation_function") or "Identity").rpartition(".")[2]
    used = [config.get(name) or "sentence_embedding" for name in ("module_input_name", "module_output_name")]
    if config.get("use_residual") or set(used) != {"sentence_embedding"} or activation not in ACTIVATIONS:
        raise CheckpointError(
            f"{file}: a Dense with activation {activation}, from {used[0]} to {used[1]}"
            f"{', with a residual' if config.get('use_residual') else ''}, is not known; edgekit knows one of "
            f"{', '.join(ACTIVATIONS)} on the sentence's vector"
        )
    try:
        return Dense(path, int(config["in_features"]), int(config["out_features"]), bool(config.get("bias", True)), activation)
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"{file}: names no in_features and out_features; {_AGAIN}") from None


def _optional(file: Path) -> dict[str, Any]:
    return _object(file) if file.is_file() else {}


def _object(file: Path) -> dict[str, Any]:
    if not isinstance(stored := _json(file), dict):
        raise CheckpointError(f"{file}: holds no settings by name; {_AGAIN}")
    return stored


def _json(file: Path) -> Any:
    try:
        return read_json(file)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: not readable as JSON ({error}); copy or download it again") from None


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
