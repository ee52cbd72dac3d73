"""Tiny classifiers of all architectures that can be pruned, and what a child finds when it cuts them."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from edgekit.models.architectures import Kept
from edgekit.system.worker import Outcome, Worker

P = ParamSpec("P")
T = TypeVar("T")
VOCABULARY = 50
_COMMON = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 40,
    "num_labels": 3,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
_WIDTHS = {"hidden_size": 32, "intermediate_size": 48}
_MOBILEBERT = {**_WIDTHS, "embedding_size": 16, "intra_bottleneck_size": 16, "num_feedforward_networks": 3}
_DEBERTA = {
    **_WIDTHS,
    "relative_attention": True,
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "position_biased_input": False,
    "type_vocab_size": 0,
}
# Model type and settings, by a name for each form that changes what lies in a layer.
FORMS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    **{name: (name, _WIDTHS) for name in ("bert", "camembert", "data2vec-text", "ernie", "layoutlm", "megatron-bert", "roberta")},
    **{name: (name, _WIDTHS) for name in ("roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl")},
    "electra": ("electra", _WIDTHS | {"embedding_size": 16}),
    "rembert": ("rembert", _WIDTHS | {"input_embedding_size": 16, "output_embedding_size": 16}),
    "roformer": ("roformer", _WIDTHS | {"embedding_size": 16}),
    "distilbert": ("distilbert", {"dim": 32, "hidden_dim": 48}),
    "mobilebert": ("mobilebert", _MOBILEBERT),
    "mobilebert, one FFN, no bottleneck": ("mobilebert", _MOBILEBERT | {"num_feedforward_networks": 1, "use_bottleneck": False}),
    "mobilebert, bottleneck attention": (
        "mobilebert",
        _MOBILEBERT | {"use_bottleneck_attention": True, "key_query_shared_bottleneck": False, "normalization_type": "layer_norm"},
    ),
    "deberta-v2": ("deberta-v2", _DEBERTA),
    "deberta-v2, own position keys": (
        "deberta-v2",
        _DEBERTA | {"share_att_key": False, "position_biased_input": True, "type_vocab_size": 2, "position_buckets": -1},
    ),
    "deberta-v2, convolution": ("deberta-v2", _DEBERTA | {"conv_kernel_size": 3, "conv_act": "gelu"}),
    "deberta-v2, absolute": ("deberta-v2", _WIDTHS | {"relative_attention": False, "position_biased_input": True}),
    "gpt2": ("gpt2", {"hidden_size": 32}),
    "gpt2, n_inner": ("gpt2", {"hidden_size": 32, "n_inner": 48, "tie_word_embeddings": False}),
    "gpt2, scaled": ("gpt2", {"hidden_size": 32, "scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True}),
}
# Different head counts and widths in each layer, and not in order of size.
KEPT = (Kept(0, (1, 3), ((*range(5, 13),),)), Kept(1, (0, 1, 2, 3), ((*range(0, 48, 2),),)), Kept(2, (2,), ((47, 46, 3),)))
FEWER = (Kept(0, (1, 3), ((*range(5, 13),),)), Kept(2, (2, 0), ((*range(48),),)))
AGAIN = (Kept(0, (1,), ((0, 3, 4),)), Kept(1, (1,), ((*range(8),),)))


class Inline(Worker):
    """Runs each function right here, for a test that is in a child already."""

    def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Outcome[T]:
        return Outcome(function(*args, **kwargs), 0.0, 0)


def build(form: str, **settings: Any) -> Any:
    """A classifier in eval mode with seeded random weights, biases too."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    model_type, own = FORMS[form]
    # On a busy machine the threads of such small products wait for each other ten times longer than they work.
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **{**_COMMON, **own, **settings})
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.2)
    return model


def inputs(rows: int = 6, length: int = 12) -> dict[str, Any]:
    """Ids and masks (rows, length), padded on the right with 0."""
    import torch

    torch.manual_seed(1)
    mask = (torch.arange(length) < torch.randint(3, length + 1, (rows, 1))).long()
    return {"input_ids": torch.randint(2, VOCABULARY, (rows, length)) * mask, "attention_mask": mask}


def logits(model: Any, rows: Mapping[str, Any] | None = None) -> Any:
    import torch

    with torch.no_grad():
        return model(**(rows or inputs())).logits


def for_each_ffn(kept: Sequence[Kept], model: Any) -> tuple[Kept, ...]:
    """`kept` names units once; as many times as the layers of `model` have FFNs, each time one unit fewer."""
    from edgekit.models import architectures

    count = len(architectures.layers(model)[0].ffns)
    return tuple(Kept(part.layer, part.heads, tuple(part.ffn[0][: len(part.ffn[0]) - n] for n in range(count))) for part in kept)


def masked(model: Any, kept: Sequence[Kept]) -> Any:
    """The uncut model without the layers that go, whose projections see zeros where a head or unit goes."""
    import re

    import torch
    from transformers import AutoModelForSequenceClassification

    from edgekit.models import architectures

    config = copy.deepcopy(model.config)
    config.num_hidden_layers = len(kept)
    found = AutoModelForSequenceClassification.from_config(config).eval()
    places = {part.layer: place for place, part in enumerate(kept)}
    weights = {}
    for name, tensor in model.state_dict().items():
        number = re.search(r"(?:layer|h)\.(\d+)\.", name)
        if number is None or int(number[1]) in places:
            start, end = number.span(1) if number else (0, 0)
            weights[f"{name[:start]}{places[int(number[1])]}{name[end:]}" if number else name] = tensor
    found.load_state_dict(weights)

    def zeros(projection: Any, members: Sequence[int], size: int) -> None:
        chosen = torch.zeros(architectures.inputs_first(projection).shape[0])
        for member in members:
            chosen[member * size : (member + 1) * size] = 1
        projection.register_forward_pre_hook(lambda _, arguments: (arguments[0] * chosen,))

    for layer, part in zip(architectures.layers(found), kept, strict=True):
        zeros(layer.heads.output, part.heads, layer.heads.size)
        for ffn, units in zip(layer.ffns, part.ffn, strict=True):
            zeros(ffn.down, units, 1)
    return found


@dataclass(frozen=True)
class Surgery:
    """Largest differences of logits, and what the config says after one and after two cuts."""

    changed: float
    cut: float
    fewer: float | str
    loaded: float
    again: float
    loaded_again: float
    shape: dict[str, Any]
    shape_again: dict[str, Any]
    parameters: int
    stored: int


def operate(folder: Path) -> dict[str, Surgery | str]:
    """In a child: each form is cut, compared with its masked self, saved, loaded, cut again."""
    found: dict[str, Surgery | str] = {}
    for form in FORMS:
        try:
            found[form] = _operate(form, folder / form.replace(", ", "-").replace(" ", "_"))
        except Exception as error:
            found[form] = f"{type(error).__name__}: {error}"
    return found


def _operate(form: str, folder: Path) -> Surgery:
    from edgekit.errors import ConfigError
    from edgekit.models import architectures
    from edgekit.models.checkpoint import Checkpoint
    from edgekit.models.weights import load_model

    def apart(one: Any, other: Any) -> float:
        return float((logits(one) - logits(other)).abs().max())

    whole = build(form)
    cut = copy.deepcopy(whole)
    first = for_each_ffn(KEPT, whole)
    architectures.keep(cut, first)
    shape = copy.deepcopy(getattr(cut.config, architectures.KEY))
    cut.save_pretrained(folder / "cut")
    loaded = load_model(Checkpoint.read(folder / "cut"))
    fewer = copy.deepcopy(whole)
    few = for_each_ffn(FEWER, whole)
    try:
        architectures.keep(fewer, few)
    except ConfigError as error:
        told: float | str = str(error)
        second = tuple(
            Kept(part.layer, (0,), tuple(tuple(range(len(units) - 1)) for units in part.ffn)) for part in for_each_ffn(KEPT, whole)
        )
        fewer = loaded
    else:
        told = apart(fewer, masked(whole, few))
        second = for_each_ffn(AGAIN, whole)
    before = copy.deepcopy(fewer)
    architectures.keep(fewer, second)
    fewer.save_pretrained(folder / "again")
    if isinstance(told, float):
        # The numbers in the second cut are those of what the first left.
        both = tuple(
            Kept(
                few[part.layer].layer,
                tuple(few[part.layer].heads[head] for head in part.heads),
                tuple(tuple(old[unit] for unit in new) for old, new in zip(few[part.layer].ffn, part.ffn, strict=True)),
            )
            for part in second
        )
        again = apart(fewer, masked(whole, both))
    else:
        again = 0.0 if apart(fewer, before) > 0 else 1.0
    return Surgery(
        changed=apart(cut, whole),
        cut=apart(cut, masked(whole, first)),
        fewer=told,
        loaded=apart(load_model(Checkpoint.read(folder / "cut")), cut),
        again=again,
        loaded_again=apart(load_model(Checkpoint.read(folder / "again")), fewer),
        shape=shape,
        shape_again=getattr(fewer.config, architectures.KEY),
        parameters=sum(parameter.numel() for parameter in cut.parameters()),
        stored=sum(parameter.numel() for parameter in load_model(Checkpoint.read(folder / "cut")).parameters()),
    )
