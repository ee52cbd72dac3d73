"""Masks of padding for models that count with them; call these in a worker, because they load torch."""

from typing import Any


def of_truth_values(model: Any) -> Any:
    """`model`, XLNet's, whose layers read a mask that is selected by truth values.

    transformers takes whole numbers from a float, which no exporter to ONNX writes, and adds to masks and compares them, of which
    integers have no form, or one at which LiteRT stops (int16). Each token reads itself, padding too, as it does there."""
    if model.config.attn_type != "bi":
        return model
    import torch

    masks: dict[str, Any] = {}

    def select(_: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        mask = named.pop("attention_mask", None)
        masks["layers"] = None
        if mask is not None:
            one, none = torch.ones(1, device=mask.device), torch.zeros(1, device=mask.device)
            named["input_mask"] = torch.where(mask > 0, none, one)
            others = ~torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)[:, :, None, None]
            # From each token (1) to each (2) of a text (3), for all heads.
            masks["layers"] = torch.where(others & (mask == 0).T[None, :, :, None], one, none)
        return arguments, named

    def replace(_: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return arguments, named if masks["layers"] is None else {**named, "attn_mask_h": masks["layers"]}

    model.base_model.register_forward_pre_hook(select, with_kwargs=True)
    for layer in model.base_model.layer:
        layer.register_forward_pre_hook(replace, with_kwargs=True)
    return model
