"""8-bit linear layers of a PyTorch checkpoint: made, kept in plain tensors, and put back into a model.

A quantized layer lies in the safetensors file as `<layer>.weight`, int8 (outputs, inputs), and `<layer>.weight_scale`,
float32 (outputs,): weight ≈ int8 · scale. `KEY` in config.json says which backend made it and computes with it. Only the
encoder's layers are quantized: the head is small, and its rounding would reach the decision unaveraged."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgekit.errors import CheckpointError, ConfigError
from edgekit.models import sentence_head
from edgekit.models.architectures import inputs_first, linear_layers

KEY = "edgekit_quantization"
SCALE = "_scale"
TORCHAO, BITSANDBYTES = "torchao", "bitsandbytes"
BACKENDS = (TORCHAO, BITSANDBYTES)
_LEVELS = 127
# LLM.int8: input channels with a value beyond this are multiplied in half precision (Dettmers et al., 2022, section 3.2).
_OUTLIER = 6.0


def check_backend(backend: str) -> None:
    """Raises `ConfigError` if its package is not there."""
    if backend == BITSANDBYTES and find_spec("bitsandbytes") is None:
        raise ConfigError(
            "--backend bitsandbytes: the package is not installed; run pip install 'edgekit[bitsandbytes]' or leave --backend out"
        )


def quantize(model: Any, backend: str) -> dict[str, Any]:
    """The weights of a float32 classifier by name, as they are stored: the encoder's linear layers in int8, the rest float32.

    Both backends round each output's row symmetrically, by its largest value."""
    import torch

    tensors = dict(model.state_dict())
    for name, layer in _linear_layers(model):
        values, scale = _rounded(inputs_first(layer).detach().T.contiguous(), backend)
        tensors[f"{name}.weight"], tensors[f"{name}.weight{SCALE}"] = values.contiguous(), scale.reshape(-1).to(torch.float32)
    return tensors


def stored_layers(tensors: Mapping[str, Any]) -> list[str]:
    """The names of the layers that are quantized among the tensors of a file."""
    return [name.removesuffix(f".weight{SCALE}") for name in tensors if name.endswith(f".weight{SCALE}")]


def install(model: Any, tensors: Mapping[str, Any], how: Any, path: Path) -> set[str]:
    """Put the stored 8-bit layers in the place of the model's own; returns the names of the weights that this gives.

    `how` is what config.json has under `KEY`. Raises `CheckpointError`, which names `path`, if a layer does not fit."""
    backend = how.get("backend") if isinstance(how, Mapping) else None
    if backend not in BACKENDS:
        raise CheckpointError(f"{path}: {KEY} in config.json names the backend {backend!r}; there are {', '.join(BACKENDS)}")
    if backend == BITSANDBYTES and find_spec("bitsandbytes") is None:
        raise CheckpointError(
            f"{path}: its 8-bit layers need bitsandbytes, which is not installed; run pip install 'edgekit[bitsandbytes]'"
        )
    there = dict(_linear_layers(model))
    names = set()
    for name in stored_layers(tensors):
        layer, weight, scale = there.get(name), tensors.get(f"{name}.weight"), tensors[f"{name}.weight{SCALE}"]
        if layer is None or weight is None or not _fits(layer, weight, scale):
            raise CheckpointError(f"{path}: the 8-bit weights of {name} do not fit config.json; export it again from its parent")
        parent, _, last = name.rpartition(".")
        replacement = (_dynamic if backend == TORCHAO else _outliers_apart)(weight, scale, layer.bias)
        setattr(model.get_submodule(parent), last, replacement)
        names.add(f"{name}.weight")
    return names


def refuse_quantized(path: Path, config: Mapping[str, Any], verb: str) -> None:
    """Raise `CheckpointError` if `config`, that of the checkpoint at `path`, says that layers are in 8 bits already."""
    if KEY in config:
        parent = config[KEY].get("parent") if isinstance(config[KEY], Mapping) else None
        raise CheckpointError(
            f"{path}: its linear layers are quantized to 8 bits, so it cannot be {verb}; "
            f"give the checkpoint that it was made from{f', {parent}' if parent else ''}"
        )


def _linear_layers(model: Any) -> list[tuple[str, Any]]:
    prefix = "" if model.base_model is model else model.base_model_prefix
    return [(name, layer) for name, layer in linear_layers(model.base_model, prefix) if not name.startswith(sentence_head.NAME)]


def _fits(layer: Any, weight: Any, scale: Any) -> bool:
    import torch

    inputs, outputs = inputs_first(layer).shape
    kinds = weight.dtype == torch.int8 and scale.dtype == torch.float32
    return kinds and tuple(weight.shape) == (outputs, inputs) and tuple(scale.shape) == (outputs,)


def _rounded(weight: Any, backend: str) -> tuple[Any, Any]:
    import torch

    if backend == BITSANDBYTES:
        import bitsandbytes

        values, largest, _ = bitsandbytes.functional.int8_vectorwise_quant(weight.to(torch.float16))
        return values, largest / _LEVELS
    with _quiet():
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    layer = torch.nn.Sequential(torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False))
    layer[0].weight = torch.nn.Parameter(weight.clone())
    quantize_(layer, Int8DynamicActivationInt8WeightConfig())
    return layer[0].weight.qdata, layer[0].weight.scale


def _dynamic(weight: Any, scale: Any, bias: Any) -> Any:
    """torchao's scheme: each token is rounded by its own scale, products are summed in int32.

    Computed here and not by torchao's tensor, which outside torch.compile takes longer than float32 on a CPU."""
    import torch

    # Without these instructions the integer product is slow, and saturates on some processors; whole numbers in float32 do not.
    integer = torch.cpu._is_vnni_supported()

    class Int8Linear(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out_features, self.in_features = weight.shape
            self.register_buffer("weight", weight)
            self.register_buffer("weight_scale", scale)
            self.bias = bias

        def forward(self, values: Any) -> Any:
            rows = values.reshape(-1, self.in_features)
            token_scale = rows.abs().amax(1, keepdim=True).clamp_(min=1e-12).div_(_LEVELS)
            rounded = rows.div(token_scale).round_()
            if integer:
                product = torch._int_mm(rounded.to(torch.int8), self.weight.t()).to(torch.float32)
            else:
                product = rounded @ self.weight.t().to(torch.float32)
            product.mul_(token_scale).mul_(self.weight_scale)
            if self.bias is not None:
                product.add_(self.bias)
            return product.reshape(*values.shape[:-1], self.out_features)

    return Int8Linear()


def _outliers_apart(weight: Any, scale: Any, bias: Any) -> Any:
    """bitsandbytes' layer: as `_dynamic`, with outlier channels in half precision."""
    import torch

    # It remarks on its cast to float16 at every product.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    from bitsandbytes import nn

    layer = nn.Linear8bitLt(weight.shape[1], weight.shape[0], bias is not None, has_fp16_weights=False, threshold=_OUTLIER)
    layer.weight = nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False, CB=weight, SCB=scale * _LEVELS)
    if bias is not None:
        layer.bias = torch.nn.Parameter(bias.detach())
    return layer


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """While torchao is imported, which warns of its GPU kernels on every machine without a GPU."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
