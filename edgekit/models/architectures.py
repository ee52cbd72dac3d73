"""Where the attention heads, FFN units, layers and token embeddings of each architecture are, and the surgery on them.

An adapter is one entry in `ADAPTERS`. Models are `torch.nn.Module`s of transformers; what this module changes in them it
also writes into their config, so that `save_pretrained` keeps it and `shrink` builds the same shape again.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.errors import CheckpointError, ConfigError

# The key of config.json that says what is left of each layer.
KEY = "edgekit_pruning"
# Lies in a pruned checkpoint's folder, and tells of what is trained or compacted from it what it tells of that.
PLAN = "pruning_plan.json"


@dataclass(frozen=True)
class Adapter:
    """Module names of one architecture: `layers` from the base model, all others from one layer.

    `inputs` are the projections whose outputs are split into heads, each holding `fused` of them side by side; `output` is the
    projection that joins the heads; `ffns` are pairs of the projections into and out of the FFN's units, by name or, where
    a module list holds several, by the list's name and the names inside. `head_counts` and `head_widths` are attributes of
    the module `attention` that hold the number of heads and their width together.
    """

    layers: str
    attention: str
    inputs: tuple[str, ...]
    output: str
    ffns: tuple[tuple[str, str], ...]
    head_size: str
    head_counts: tuple[str, ...] = ()
    head_widths: tuple[str, ...] = ()
    fused: int = 1


_BERT = Adapter(
    layers="encoder.layer",
    attention="attention.self",
    inputs=("attention.self.query", "attention.self.key", "attention.self.value"),
    output="attention.output.dense",
    ffns=(("intermediate.dense", "output.dense"),),
    head_size="attention_head_size",
    head_counts=("num_attention_heads",),
    head_widths=("all_head_size",),
)

ADAPTERS: Mapping[str, Adapter] = {
    # MiniLM, TinyBERT and their kin are BERTs.
    "bert": _BERT,
    "distilbert": Adapter(
        layers="transformer.layer",
        attention="attention",
        inputs=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        output="attention.out_lin",
        ffns=(("ffn.lin1", "ffn.lin2"),),
        head_size="attention_head_size",
        head_counts=("n_heads",),
    ),
    "mobilebert": replace(_BERT, ffns=(("ffn.*.intermediate.dense", "ffn.*.output.dense"), *_BERT.ffns)),
    "deberta-v2": replace(
        _BERT,
        inputs=tuple(
            f"attention.self.{name}" for name in ("query_proj", "key_proj", "value_proj", "pos_key_proj", "pos_query_proj")
        ),
    ),
    "gpt2": Adapter(
        layers="h",
        attention="attn",
        inputs=("attn.c_attn",),
        output="attn.c_proj",
        ffns=(("mlp.c_fc", "mlp.c_proj"),),
        head_size="head_dim",
        head_counts=("num_heads",),
        head_widths=("split_size",),
        fused=3,
    ),
}


@dataclass(frozen=True)
class Heads:
    """One layer's attention: `count` heads of `size` values each; `inputs` and `output` are its projections."""

    module: Any
    inputs: tuple[Any, ...]
    output: Any
    count: int
    size: int


@dataclass(frozen=True)
class Ffn:
    """One FFN: `up` gives its `width` units, `down` takes them."""

    up: Any
    down: Any
    width: int


@dataclass(frozen=True)
class Layer:
    """The parts of one layer that can be cut."""

    heads: Heads
    ffns: tuple[Ffn, ...]


@dataclass(frozen=True)
class Kept:
    """What stays of one layer: its number, the numbers of its heads, and those of the units of each of its FFNs."""

    layer: int
    heads: tuple[int, ...]
    ffn: tuple[tuple[int, ...], ...]


def adapter(model_type: str) -> Adapter:
    """Raises `CheckpointError` if there is none for this architecture."""
    if model_type not in ADAPTERS:
        raise CheckpointError(
            f"no adapter for the architecture {model_type!r}: edgekit cannot prune it; it can prune {', '.join(sorted(ADAPTERS))}"
        )
    return ADAPTERS[model_type]


def layers(model: Any) -> tuple[Layer, ...]:
    """The layers of a transformers classifier, from the first to the last. Raises `CheckpointError` without an adapter."""
    names = adapter(model.config.model_type)
    return tuple(_layer(names, module) for module in model.base_model.get_submodule(names.layers))


def _layer(names: Adapter, module: Any) -> Layer:
    attention = module.get_submodule(names.attention)
    size = int(getattr(attention, names.head_size))
    output = module.get_submodule(names.output)
    # DeBERTa's projections of positions are there only in some of its forms.
    inputs = tuple(found for name in names.inputs if (found := _submodule(module, name)) is not None)
    ffns = [Ffn(up, down, _outputs(up)) for pair in names.ffns for up, down in _pairs(module, *pair)]
    return Layer(Heads(attention, inputs, output, _inputs(output) // size, size), tuple(ffns))


def _submodule(module: Any, name: str) -> Any | None:
    try:
        return module.get_submodule(name)
    except AttributeError:
        return None


def _pairs(module: Any, up: str, down: str) -> list[tuple[Any, Any]]:
    if "*" not in up:
        return [(module.get_submodule(up), module.get_submodule(down))]
    listed, _, inner = up.partition(".*.")
    outer = down.partition(".*.")[2]
    members = _submodule(module, listed)
    return [(member.get_submodule(inner), member.get_submodule(outer)) for member in members or ()]


def keep(model: Any, kept: Sequence[Kept]) -> None:
    """Cut `model` in place to the given layers, heads and units, in the given order, and write into its config what is left.

    Numbers are those of the model as it is; the config speaks of the model that was there before any pruning. Raises
    `ConfigError`, with the model as it was, for a layer that cannot go.
    """
    names = adapter(model.config.model_type)
    there = layers(model)
    _check_layers(model.config, [part.layer for part in kept], len(there))
    before = numbers(model.config, there)
    for part in kept:
        _cut_layer(names, there[part.layer], part.heads, part.ffn)
    _keep_layers(model, names, [part.layer for part in kept])
    setattr(
        model.config,
        KEY,
        {
            "layers": [before["layers"][part.layer] for part in kept],
            "heads": [[before["heads"][part.layer][head] for head in part.heads] for part in kept],
            "ffn": [[len(units) for units in part.ffn] for part in kept],
        },
    )


def shrink(model: Any, shape: Mapping[str, Any]) -> None:
    """Cut a model, fresh from a pruned config, to the shape which that config's `KEY` tells; its weights mean nothing.

    Raises `CheckpointError` if the shape is none that this architecture can have.
    """
    names = adapter(model.config.model_type)
    there = layers(model)
    try:
        heads, ffn = shape["heads"], shape["ffn"]
        fits = len(shape["layers"]) == len(heads) == len(ffn) == len(there) and all(
            0 < len(found) <= layer.heads.count
            and len(widths) == len(layer.ffns)
            and all(0 < width <= part.width for width, part in zip(widths, layer.ffns, strict=True))
            for found, widths, layer in zip(heads, ffn, there, strict=True)
        )
    except (KeyError, TypeError):
        fits = False
    if not fits:
        raise CheckpointError(f"{KEY} in config.json does not fit the model's layers; prune the original checkpoint again")
    for layer, found, widths in zip(there, heads, ffn, strict=True):
        _cut_layer(names, layer, range(len(found)), [range(width) for width in widths])


def numbers(config: Any, there: Sequence[Layer]) -> dict[str, Any]:
    """What the config says of the layers under `KEY`; for a model that was never pruned, all of them."""
    return getattr(config, KEY, None) or {
        "layers": list(range(len(there))),
        "heads": [list(range(layer.heads.count)) for layer in there],
        "ffn": [[part.width for part in layer.ffns] for layer in there],
    }


def keep_tokens(model: Any, kept: Sequence[int]) -> None:
    """Cut the token embeddings in place to the rows `kept`, and renumber the config's special token ids; None is one that went.

    Raises `CheckpointError` if there is no such row.
    """
    import torch

    table = model.get_input_embeddings()
    if max(kept) >= table.num_embeddings:
        raise CheckpointError(f"the tokenizer has a token {max(kept)}, but the model embeds {table.num_embeddings}; give its own")
    index = torch.as_tensor(list(kept))
    table.weight = torch.nn.Parameter(table.weight.detach()[index].clone())
    table.num_embeddings = len(kept)
    places = {number: place for place, number in enumerate(kept)}
    if table.padding_idx is not None:
        table.padding_idx = places.get(table.padding_idx)
    # Read from the loaded config: config.json may leave out what is the class's default.
    for name, value in model.config.to_dict().items():
        if name.endswith("_token_id") and value is not None:
            found = [places[number] for number in value if number in places] if isinstance(value, list) else places.get(value)
            setattr(model.config, name, found)
    model.config.vocab_size = len(kept)


def encoder_parameters(model: Any) -> int:
    """Values in the layers: without embeddings, pooler and head."""
    modules = model.base_model.get_submodule(adapter(model.config.model_type).layers)
    return sum(parameter.numel() for parameter in modules.parameters())


def _cut_layer(names: Adapter, layer: Layer, heads: Sequence[int], ffn: Sequence[Sequence[int]]) -> None:
    attention, size = layer.heads, layer.heads.size
    values = [head * size + offset for head in heads for offset in range(size)]
    width = attention.count * size
    for projection in attention.inputs:
        _cut(projection, outputs=[part * width + value for part in range(names.fused) for value in values])
    _cut(attention.output, inputs=values)
    for name in names.head_counts:
        setattr(attention.module, name, len(heads))
    for name in names.head_widths:
        setattr(attention.module, name, len(values))
    for part, units in zip(layer.ffns, ffn, strict=True):
        _cut(part.up, outputs=list(units))
        _cut(part.down, inputs=list(units))


def _check_layers(config: Any, kept: Sequence[int], count: int) -> None:
    if list(kept) == list(range(count)):
        return
    if getattr(config, "scale_attn_by_inverse_layer_idx", False):
        raise ConfigError("the attention of this GPT-2 is scaled by the layer's number, so no layer can go; leave --layers out")
    if (getattr(config, "conv_kernel_size", 0) or 0) > 0 and kept[0] != 0:
        raise ConfigError("the convolution of this DeBERTa belongs to layer 0, so that layer cannot go; leave --layers out")


def _keep_layers(model: Any, names: Adapter, kept: Sequence[int]) -> None:
    import torch

    config = model.config
    modules = model.base_model.get_submodule(names.layers)
    if list(kept) == list(range(len(modules))):
        return
    parent, _, name = names.layers.rpartition(".")
    setattr(model.base_model.get_submodule(parent), name, torch.nn.ModuleList(modules[index] for index in kept))
    for place, index in enumerate(kept):
        attention = modules[index].get_submodule(names.attention)
        if hasattr(attention, "layer_idx"):
            attention.layer_idx = place
    config.num_hidden_layers = len(kept)


def linear_layers(model: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """All linear layers and Conv1Ds below `model` with their names, which begin with `prefix`."""
    import torch

    named = model.named_modules(prefix=prefix)
    return [(name, module) for name, module in named if isinstance(module, torch.nn.Linear) or is_transposed(module)]


def copy_plan(source: Path, target: Path) -> None:
    """The pruning plan in `source`, if there is one, into the unpublished folder `target`."""
    if (source / PLAN).is_file():
        shutil.copyfile(source / PLAN, target / PLAN)


def is_transposed(projection: Any) -> bool:
    """GPT-2's Conv1D keeps its weight as (inputs, outputs), a linear layer as (outputs, inputs)."""
    return type(projection).__name__ == "Conv1D"


def inputs_first(projection: Any) -> Any:
    """The weight of a linear layer or a Conv1D as (inputs, outputs)."""
    return projection.weight if is_transposed(projection) else projection.weight.T


def _outputs(projection: Any) -> int:
    return int(inputs_first(projection).shape[1])


def _inputs(projection: Any) -> int:
    return int(inputs_first(projection).shape[0])


def _cut(projection: Any, *, outputs: Sequence[int] | None = None, inputs: Sequence[int] | None = None) -> None:
    """Keep some outputs, or some inputs, of a linear layer or a Conv1D, in place."""
    import torch

    weight = projection.weight.detach()
    axis = int((outputs is None) != is_transposed(projection))
    index = torch.as_tensor(list(outputs if outputs is not None else inputs or ()))
    projection.weight = torch.nn.Parameter(weight.index_select(axis, index).clone())
    if outputs is not None and projection.bias is not None:
        projection.bias = torch.nn.Parameter(projection.bias.detach()[index].clone())
    if is_transposed(projection):
        projection.nx, projection.nf = projection.weight.shape
    else:
        projection.out_features, projection.in_features = projection.weight.shape
