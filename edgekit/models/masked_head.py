"""The head of a masked language model on the mask's place alone; call these in a worker, because they load torch."""

from typing import Any


def at_mask(model: Any, mask_token_id: int) -> Any:
    """`model`, whose encoder's last states (B, L, D) are those at the first mask alone, (B, 1, D), and whose logits are (B, V).

    Such heads read each token by itself, so the logits are the same, and a vocabulary is multiplied with one state and not with L.
    Without a mask the first token is read."""
    rows = {}

    def keep_ids(_: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        rows["ids"] = named["input_ids"] if "input_ids" in named else arguments[0]

    def gather(_: Any, __: tuple[Any, ...], outputs: Any) -> Any:
        import torch

        ids, states = rows.pop("ids"), outputs[0]
        count, length, width = states.shape
        # Of integers, since a float on the way would keep the model from being integer only.
        places = (ids == mask_token_id).int().argmax(1) + torch.arange(count, device=ids.device) * length
        chosen = states.reshape(count * length, width).index_select(0, places).unsqueeze(1)
        if isinstance(outputs, tuple):
            return (chosen, *outputs[1:])
        outputs["last_hidden_state"] = chosen
        return outputs

    def flatten(_: Any, __: tuple[Any, ...], outputs: Any) -> Any:
        if isinstance(outputs, tuple):
            return (outputs[0].squeeze(1), *outputs[1:])
        outputs["logits"] = outputs["logits"].squeeze(1)
        return outputs

    model.base_model.register_forward_pre_hook(keep_ids, with_kwargs=True)
    model.base_model.register_forward_hook(gather)
    model.register_forward_hook(flatten)
    return model
