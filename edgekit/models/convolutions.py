"""Convolutions along the tokens of a text, which padding must not reach; call these in a worker, because they load torch."""

import functools
from typing import Any

import numpy as np


def without_padding(model: Any) -> Any:
    """`model`, whose convolutions read zeros at padding, as they do beyond the end of a text that stands alone.

    transformers gives them the states of padding tokens, so that ConvBERT's and Nystromformer's answer to a text depends on how
    far it is padded."""
    import torch
    from torch.nn import functional
    from torch.overrides import TorchFunctionMode

    modules = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Unfold)
    if not any(isinstance(module, modules) and np.max(module.kernel_size) > 1 for module in model.modules()):
        return model
    # Not the modules: ConvBERT has an Unfold, and calls the function.
    functions = (torch.conv1d, torch.conv2d, functional.unfold)
    one, none = torch.ones(1), torch.zeros(1)

    class Masked(TorchFunctionMode):
        def __init__(self, tokens: Any) -> None:
            super().__init__()
            self.tokens = tokens

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function in functions:
                # In all of them tokens are the third axis: (B, C, L), (B, C, L, D) and (B, C, L, 1).
                tokens = self.tokens.reshape(len(self.tokens), 1, -1, *[1] * (args[0].dim() - 3))
                args = (args[0] * tokens, *args[1:])
            return function(*args, **(kwargs or {}))

    base = model.base_model
    forward = base.forward

    @functools.wraps(forward)
    def masked(*arguments: Any, attention_mask: Any = None, **named: Any) -> Any:
        if attention_mask is None:
            return forward(*arguments, **named)
        # Selected and not cast: a CAST has no integer form.
        with Masked(torch.where(attention_mask > 0, one, none)):
            return forward(*arguments, attention_mask=attention_mask, **named)

    base.forward = masked
    return model
