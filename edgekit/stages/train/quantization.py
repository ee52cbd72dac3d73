"""Quantization-aware training: linear layers compute on rounded values, as an int8 .tflite will; for a worker, as it needs torch.

Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR 2018. Gradients
pass the rounding as if it were not there (straight-through estimator). Weights are rounded per output channel, symmetric, to
-127 … 127, with a scale that follows them; what goes in and comes out per tensor, asymmetric, to -128 … 127."""

import functools
from collections.abc import Mapping
from typing import Any

from edgekit.models import ranges
from edgekit.models.architectures import is_transposed, linear_layers

# Steps at the start that only observe, so that no rounding begins with a range of one batch: at most this many, this share of all.
_SETTLING_STEPS, _SETTLING_SHARE = 50, 0.1
# The last share of the steps has fixed ranges, to which the weights settle.
_FIXED_SHARE = 0.25
# The highest learning rate of ranges, whose logarithms do not grow with the weights.
RANGES_RATE = 1e-2
# What remains of a range when the next batch is seen.
_MOMENTUM = 0.9
_LOW, _HIGH, _WEIGHT = -128, 127, 127
# As ai-edge-quantizer has it.
_LEAST_RANGE = 1e-9


class Range:
    """The range of one tensor: a moving average of each batch's least and greatest value, times factors that are learned.

    `factors` is a parameter (2,) of their logarithms, so that a step means as much to a wide range as to a narrow one (Jain et
    al., Trained Quantization Thresholds, MLSys 2020)."""

    def __init__(self) -> None:
        import torch

        self.observed: tuple[float, float] | None = None
        self.factors = torch.nn.Parameter(torch.zeros(2))

    @property
    def ends(self) -> tuple[float, float] | None:
        """As they are now; 0 is among the values, for it has a place of its own on every grid."""
        if self.observed is None:
            return None
        low, high = (end * factor for end, factor in zip(self.observed, self.factors.detach().exp().tolist(), strict=True))
        return min(low, 0.0), max(high, 0.0)

    def observe(self, values: Any) -> None:
        low, high = (end.item() for end in values.detach().aminmax())
        if self.observed is not None:
            pairs = zip(self.observed, (low, high), strict=True)
            low, high = (_MOMENTUM * old + (1 - _MOMENTUM) * new for old, new in pairs)
        self.observed = low, high

    def rounded(self, values: Any) -> Any:
        """`values` as int8 has them."""
        return values if self.ends is None else _rounding().apply(values, self.factors, *self.ends)


@functools.cache
def _rounding() -> Any:
    """The rounding of activations with its gradients, as a `torch.autograd.Function`."""
    import torch

    def on_grid(values: Any, low: float, high: float) -> Any:
        scale = max(high - low, _LEAST_RANGE) / (_HIGH - _LOW)
        return torch.fake_quantize_per_tensor_affine(values, scale, round(_LOW - low / scale), _LOW, _HIGH)

    class Rounding(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, values: Any, factors: Any, low: float, high: float) -> Any:
            # Not what comes out, which models change in place.
            ctx.save_for_backward(values)
            ctx.ends = low, high
            return on_grid(values, low, high)

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            (values,) = ctx.saved_tensors
            low, high = ctx.ends
            above, below = values > high, values < low
            passed = gradient.masked_fill(above | below, 0.0)
            if not ctx.needs_input_grad[1]:
                return passed, None, None, None
            # A value outside follows the end that it is clipped to; one inside is moved as the steps grow.
            grown = (passed * (on_grid(values, low, high) - values)).sum() / max(high - low, _LEAST_RANGE)
            ends = low * ((gradient * below).sum() - grown), high * ((gradient * above).sum() + grown)
            return passed, torch.stack(ends), None, None

    return Rounding


class FakeQuantization:
    """Rounds in all linear layers of a model, which keeps its modules, its parameters and their names.

    Tensors that are one in the model have one range: the input of several layers, or what goes from one layer to the next."""

    def __init__(self, model: Any, inputs: Mapping[str, Any], total: int) -> None:
        """Attach to `model`, which is to be trained for `total` steps; tensors are told apart by running the batch `inputs`."""
        self.model, self.total = model, total
        self.rounding = self.observing = False
        self._layers = dict(linear_layers(model))
        self._inputs: dict[str, Range] = {}
        self._outputs: dict[str, Range] = {}
        self._real: Any = None
        self._trace(inputs)
        self._handle = model.register_forward_pre_hook(self._see_mask, with_kwargs=True)
        for name in self.used:
            self._layers[name].forward = functools.partial(self._forward, name)

    @property
    def used(self) -> tuple[str, ...]:
        """The layers that compute anything, in the order of their modules."""
        return tuple(name for name in self._layers if name in self._outputs)

    @property
    def learned(self) -> list[Any]:
        """The parameters of the ranges, each once."""
        return list({id(each): each.factors for name in self.used for each in self._both(name)}.values())

    def _trace(self, inputs: Mapping[str, Any]) -> None:
        import torch

        # Tensors are told apart by identity, so each is kept until the end.
        kept: dict[int, tuple[Any, Range]] = {}

        def see(name: str, module: Any, given: tuple[Any, ...], output: Any) -> None:
            if not given:
                return
            taken = kept.setdefault(id(given[0]), (given[0], Range()))[1]
            self._inputs.setdefault(name, taken)
            kept[id(output)] = output, self._outputs.setdefault(name, Range())

        handles = [module.register_forward_hook(functools.partial(see, name)) for name, module in self._layers.items()]
        training = self.model.training
        self.model.eval()
        with torch.no_grad():
            self.model(**inputs)
        self.model.train(training)
        for handle in handles:
            handle.remove()

    def _see_mask(self, module: Any, arguments: Any, named: Mapping[str, Any]) -> None:
        mask = named.get("attention_mask")
        self._real = None if mask is None else mask.bool()

    def _forward(self, name: str, values: Any) -> Any:
        import torch

        module = self._layers[name]
        taken, given = self._inputs[name], self._outputs[name]
        observing = self.observing and module.training
        if observing:
            taken.observe(self._without_padding(values))
        weight = module.weight
        if self.rounding:
            values, weight = taken.rounded(values), _rounded_weight(module)
        found = torch.nn.functional.linear(values, weight.T if is_transposed(module) else weight, module.bias)
        if observing:
            given.observe(self._without_padding(found))
        return given.rounded(found) if self.rounding else found

    def _without_padding(self, values: Any) -> Any:
        """The values of real tokens, where there is one row of them for each token."""
        if self._real is not None and values.dim() == 3 and values.shape[:2] == self._real.shape:
            return values[self._real]
        return values

    def at(self, step: int) -> None:
        """Say how many steps are done: the first ones only observe, then ranges are learned, and at last they are fixed."""
        settled = max(1, min(_SETTLING_STEPS, int(_SETTLING_SHARE * self.total)))
        self.rounding, self.observing = step >= settled, step < settled
        for held in self.learned:
            held.requires_grad_(settled <= step < int((1 - _FIXED_SHARE) * self.total))

    def detach(self) -> None:
        """Leave the model as it was before, but for its weights."""
        self._handle.remove()
        for name in self.used:
            del self._layers[name].forward

    def state(self) -> dict[str, list[Any]]:
        """What `restore` needs."""
        return {name: [(held.observed, held.factors.detach()) for held in self._both(name)] for name in self.used}

    def restore(self, state: Mapping[str, Any]) -> None:
        for name in self.used:
            for held, (observed, factors) in zip(self._both(name), state[name], strict=True):
                held.observed = None if observed is None else (observed[0], observed[1])
                held.factors.data.copy_(factors)

    def _both(self, name: str) -> tuple[Range, Range]:
        return self._inputs[name], self._outputs[name]

    def trained(self) -> ranges.TrainedRanges:
        """The ranges as they are now, with the digests of the weights as they are now."""
        layers = {}
        for name in self.used:
            module, (inputs, outputs) = self._layers[name], (held.ends for held in self._both(name))
            if inputs is not None and outputs is not None:
                weight, bias = module.weight.detach(), module.bias
                digest = ranges.digest((weight.T if is_transposed(module) else weight).numpy())
                layers[name] = ranges.LayerRanges(
                    inputs, outputs, digest, ranges.digest(bias if bias is None else bias.detach().numpy())
                )
        return ranges.TrainedRanges(layers)


def _rounded_weight(module: Any) -> Any:
    """The weight as int8 has it. The scale reaches to the greatest value of each channel, so the gradient passes everywhere."""
    import torch

    weight = module.weight.detach()
    with torch.no_grad():
        scales = weight.abs().amax(1 - int(is_transposed(module)), keepdim=True).clamp_min_(_LEAST_RANGE).div_(_WEIGHT)
        rounded = (weight / scales).round_().mul_(scales)
    return _straight().apply(module.weight, rounded)


@functools.cache
def _straight() -> Any:
    """Gives its second argument and hands the gradient to the first, as a `torch.autograd.Function`."""
    import torch

    class Straight(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, values: Any, rounded: Any) -> Any:
            return rounded

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            return gradient, None

    return Straight
