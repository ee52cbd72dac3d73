"""Where the attention heads, FFN units, layers and token embeddings of each architecture are, and the surgery on them.

An adapter is one entry in `ADAPTERS`. Models are `torch.nn.Module`s of transformers; what this module changes in them it
also writes into their config, so that `save_pretrained` keeps it and `shrink` builds the same shape again."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import CheckpointError, ConfigError
from edgekit.models import positions

# The key of config.json that says what is left of each layer.
KEY = "edgekit_pruning"
# Lies in a pruned checkpoint's folder, and tells of what is trained or compacted from it what it tells of that.
PLAN = "pruning_plan.json"


@dataclass(frozen=True)
class Adapter:
    """Module names of one architecture, by default BERT's: `layers` from the base model, all others from one layer.

    `inputs` are the projections whose outputs are split into heads, each holding `fused` of them side by side; `output` is the
    projection that joins the heads; `ffns` are pairs of the projections into and out of the FFN's units, by name or, where
    a module list holds several, by the list's name and the names inside. `head_count` and `head_width` are the attributes
    of the module `attention` that hold the number of heads and their width together."""

    layers: str = "encoder.layer"
    attention: str = "attention.self"
    inputs: tuple[str, ...] = ("attention.self.query", "attention.self.key", "attention.self.value")
    output: str = "attention.output.dense"
    ffns: tuple[tuple[str, str], ...] = (("intermediate.dense", "output.dense"),)
    head_size: str = "attention_head_size"
    head_count: str = "num_attention_heads"
    head_width: str = "all_head_size"
    fused: int = 1


# Layers of the same names and shapes as BERT's, whatever stands before and behind them. MiniLM, TinyBERT and their kin are BERTs.
_LIKE_BERT = (
    *("bert", "camembert", "data2vec-text", "electra", "ernie", "layoutlm", "megatron-bert", "rembert", "roberta"),
    *("roberta-prelayernorm", "roformer", "xlm-roberta", "xlm-roberta-xl"),
)
ADAPTERS: Mapping[str, Adapter] = {
    **dict.fromkeys(_LIKE_BERT, Adapter()),
    "distilbert": Adapter(
        layers="transformer.layer",
        attention="attention",
        inputs=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        output="attention.out_lin",
        ffns=(("ffn.lin1", "ffn.lin2"),),
        head_count="n_heads",
        head_width="",
    ),
    "mobilebert": Adapter(ffns=(("ffn.*.intermediate.dense", "ffn.*.output.dense"), *Adapter.ffns)),
    "deberta-v2": Adapter(
        inputs=tuple(f"attention.self.{name}_proj" for name in ("query", "key", "value", "pos_key", "pos_query")),
    ),
    "gpt2": Adapter(
        layers="h",
        attention="attn",
        inputs=("attn.c_attn",),
        output="attn.c_proj",
        ffns=(("mlp.c_fc", "mlp.c_proj"),),
        head_size="head_dim",
        head_count="num_heads",
        head_width="split_size",
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
    parts = dict(module.named_modules())
    attention, output = parts[names.attention], parts[names.output]
    size = int(getattr(attention, names.head_size))
    # DeBERTa's projections of positions are there only in some of its forms.
    inputs = tuple(parts[name] for name in names.inputs if name in parts)
    pairs = [pair for up, down in names.ffns for pair in _numbered(up, down, parts)]
    ffns = [Ffn(parts[up], parts[down], int(inputs_first(parts[up]).shape[1])) for up, down in pairs]
    return Layer(Heads(attention, inputs, output, int(inputs_first(output).shape[0]) // size, size), tuple(ffns))


def _numbered(up: str, down: str, parts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The names of a pair, with each number that a module list has in place of `*`."""
    members = range(len(parts.get(up.partition(".*.")[0], ()))) if "*" in up else (0,)
    return [(up.replace("*", str(number)), down.replace("*", str(number))) for number in members]


def keep(model: Any, kept: Sequence[Kept]) -> None:
    """Cut `model` in place to the given layers, heads and units, in the given order, and write into its config what is left.

    Numbers are those of the model as it is; the config speaks of the model that was there before any pruning. Raises
    `ConfigError`, with the model as it was, for a layer that cannot go."""
    names = adapter(model.config.model_type)
    there = layers(model)
    _check_layers(model.config, [part.layer for part in kept], len(there))
    before = numbers(model.config, there)
    for part in kept:
        _cut_layer(names, there[part.layer], part.heads, part.ffn)
    _keep_layers(model, names, [part.layer for part in kept])
    after = {
        "layers": [before["layers"][part.layer] for part in kept],
        "heads": [[before["heads"][part.layer][head] for head in part.heads] for part in kept],
        "ffn": [[len(units) for units in part.ffn] for part in kept],
    }
    setattr(model.config, KEY, after)


def shrink(model: Any, shape: Mapping[str, Any]) -> None:
    """Cut a model, fresh from a pruned config, to the shape which that config's `KEY` tells; its weights mean nothing.

    Raises `CheckpointError` if the shape is none that this architecture can have."""
    names = adapter(model.config.model_type)
    there = layers(model)
    try:
        heads, ffn = shape["heads"], shape["ffn"]
        fits = len(shape["layers"]) == len(heads) == len(ffn) == len(there) and all(
            0 < len(rest) <= layer.heads.count
            and len(widths) == len(layer.ffns)
            and all(0 < width <= part.width for width, part in zip(widths, layer.ffns, strict=True))
            for rest, widths, layer in zip(heads, ffn, there, strict=True)
        )
    except (KeyError, TypeError):
        fits = False
    if not fits:
        raise CheckpointError(f"{KEY} in config.json does not fit the model's layers; prune the original checkpoint again")
    for layer, rest, widths in zip(there, heads, ffn, strict=True):
        _cut_layer(names, layer, range(len(rest)), [range(width) for width in widths])


def numbers(config: Any, there: Sequence[Layer]) -> dict[str, Any]:
    """What the config says of the layers under `KEY`; for a model that was never pruned, all of them."""
    return getattr(config, KEY, None) or {
        "layers": list(range(len(there))),
        "heads": [list(range(layer.heads.count)) for layer in there],
        "ffn": [[part.width for part in layer.ffns] for layer in there],
    }


def keep_tokens(model: Any, kept: Sequence[int]) -> None:
    """Cut the token embeddings, and what of a head gives a value of each token, in place to the rows `kept`, and renumber the
    config's special token ids; None is one that went.

    Raises `CheckpointError` if there is no such row."""
    import torch

    table = model.get_input_embeddings()
    if max(kept) >= table.num_embeddings:
        raise CheckpointError(f"the tokenizer has a token {max(kept)}, but the model embeds {table.num_embeddings}; give its own")
    padding = model.config.pad_token_id
    if positions.counts_from_padding(model.config.to_dict()) and [*kept[padding : padding + 1]] != [padding]:
        raise CheckpointError(
            f"counts positions from its padding token's number, {padding}, before which tokens would go; prune it without --vocab"
        )
    index = torch.as_tensor(list(kept))
    _cut_head(model, table, index)
    table.weight = torch.nn.Parameter(table.weight.detach()[index].clone())
    table.num_embeddings = len(kept)
    model.config.vocab_size = len(kept)
    if model.get_output_embeddings() is not None:
        model.tie_weights()
    places = {number: place for place, number in enumerate(kept)}
    if table.padding_idx is not None:
        table.padding_idx = places.get(table.padding_idx)
    # Read from the loaded config: config.json may leave out what is the class's default.
    for name, value in model.config.to_dict().items():
        if name.endswith("_token_id") and value is not None:
            ids = [places[number] for number in value if number in places] if isinstance(value, list) else places.get(value)
            setattr(model.config, name, ids)


def _cut_head(model: Any, table: Any, index: Any) -> None:
    """Weights and biases that a language model's head has for each token of the embeddings `table`, those of a tied one too."""
    import torch

    if model.get_output_embeddings() is None:
        return
    encoder, count = {*model.base_model.modules()}, table.num_embeddings
    for module in (module for module in model.modules() if module not in encoder):
        for name, values in list(module.named_parameters(recurse=False)):
            if count in values.shape:
                setattr(module, name, torch.nn.Parameter(values.detach().index_select(values.shape.index(count), index)))
        if isinstance(module, torch.nn.Linear):
            module.out_features, module.in_features = module.weight.shape


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
    for name, value in ((names.head_count, len(heads)), (names.head_width, len(values))):
        if name:
            setattr(attention.module, name, value)
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

    modules = model.base_model.get_submodule(names.layers)
    if list(kept) == list(range(len(modules))):
        return
    parent, _, name = names.layers.rpartition(".")
    setattr(model.base_model.get_submodule(parent), name, torch.nn.ModuleList(modules[index] for index in kept))
    for place, index in enumerate(kept):
        attention = modules[index].get_submodule(names.attention)
        if hasattr(attention, "layer_idx"):
            attention.layer_idx = place
    model.config.num_hidden_layers = len(kept)


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
