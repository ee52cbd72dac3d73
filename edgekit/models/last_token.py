"""The state of the last token of each text, and the heads that read it; call these in a worker, because they load torch."""

from typing import Any


def state_of_last(states: Any, chosen: Any) -> Any:
    """Of states (B, L, D) that of the last token of each text where the booleans `chosen` (B, L) are true, (B, D)."""
    import torch

    count, length, width = states.shape
    # Of 64 bits TFLite has no ARG_MAX. Selected and not multiplied: a cast of truth values has no integer form.
    places = torch.arange(length, dtype=torch.int32, device=states.device)
    last = torch.where(chosen, places, -1).argmax(1) + torch.arange(count, device=states.device) * length
    return states.reshape(count * length, width).index_select(0, last)


def at_end(model: Any) -> Any:
    """A classifier such as BART's or T5's, whose decoder reads the text itself, one token later, and whose logits (B, C) are made
    of its state at the last token that ends a text.

    transformers picks that state by a mask of truth values, whose shape no exporter knows before it runs. The logits are the
    same."""
    shift = getattr(model, "_shift_right", None)
    end = model.config.eos_token_id

    def forward(input_ids: Any, attention_mask: Any = None, **_: Any) -> Any:
        from transformers.modeling_outputs import SequenceClassifierOutput

        # BART's own model moves the text by itself.
        decoded = {"decoder_input_ids": shift(input_ids)} if shift is not None else {}
        states = model.base_model(input_ids, attention_mask=attention_mask, use_cache=False, **decoded)[0]
        return SequenceClassifierOutput(logits=model.classification_head(state_of_last(states, input_ids == end)))

    model.forward = forward
    return model


def summed_up_without_padding(model: Any) -> Any:
    """`model`, whose head, where it sums a text up by its last token, reads the last one that is no padding."""
    summaries = [module for module in model.modules() if getattr(module, "summary_type", "") == "last"]
    fed = {}

    def keep_mask(_: Any, __: tuple[Any, ...], named: dict[str, Any]) -> None:
        fed["mask"] = named.get("attention_mask")

    def read_last(_: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        if (mask := fed.pop("mask")) is None:
            return arguments
        return (state_of_last(arguments[0], mask > 0).unsqueeze(1), *arguments[1:])

    if summaries:
        model.base_model.register_forward_pre_hook(keep_mask, with_kwargs=True)
    for module in summaries:
        module.register_forward_pre_hook(read_last)
    return model


def begun_by_last(model: Any) -> Any:
    """`model`, mBART's or PLBART's, whose decoder reads the text's last token, a language's, and then the text but that one.

    transformers' own way there has a shape that depends on the size of the batch."""
    padding = model.config.pad_token_id

    def move(_: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        import torch

        ids = arguments[0] if arguments else named["input_ids"]
        last = state_of_last(ids.unsqueeze(2), ids != padding)
        return arguments, {**named, "decoder_input_ids": torch.cat([last, ids[:, :-1]], 1)}

    model.base_model.register_forward_pre_hook(move, with_kwargs=True)
    return model
