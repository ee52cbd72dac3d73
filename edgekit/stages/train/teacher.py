"""The teacher of a distillation inside the training loop; for a worker, because it loads torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.data.samples import Array, Samples
from edgekit.errors import ConfigError
from edgekit.models import architectures
from edgekit.models.batches import Batch, Batches
from edgekit.models.checkpoint import Checkpoint
from edgekit.models.weights import load_model
from edgekit.stages.train import losses
from edgekit.stages.train.config import ATTENTION, HIDDEN, LABELS, SOFT_TARGETS, DistillConfig


@dataclass(frozen=True)
class Lessons:
    """Which parts of two models are compared.

    `layers` pairs a student's layer with the teacher's, from 0, for the hidden states; `heads` holds for a pair of layers
    which heads of each correspond. `left_out` says of each loss, or part of one, why it is not used."""

    layers: tuple[tuple[int, int], ...]
    heads: Mapping[tuple[int, int], tuple[tuple[int, ...], tuple[int, ...]]]
    left_out: Mapping[str, str]


@dataclass(frozen=True)
class Shapes:
    """What one forward pass of a model gave: widths of its states by layer, head counts by layer, its pruning if any."""

    widths: tuple[int, ...]
    heads: tuple[int, ...]
    pruning: Mapping[str, Any] | None

    @property
    def layer_numbers(self) -> list[int]:
        """For each layer that is there, its number in the unpruned model."""
        return list(self.pruning["layers"]) if self.pruning else list(range(len(self.widths)))

    def head_numbers(self, layer: int) -> list[int]:
        """For each head of a layer that is there, its number in the unpruned model."""
        return list(self.pruning["heads"][layer]) if self.pruning else list(range(self.heads[layer]))


class Teacher:
    """A frozen model that says for each batch of the student's rows what it makes of them."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        order: Sequence[int] | None,
        student: Any,
        train: Batches,
        rows: Samples,
        config: DistillConfig,
    ) -> None:
        """Load the teacher; `order` holds its class number of each of the student's classes, where they differ.

        `rows` are those of the student's `train` as the teacher takes them. Raises `CheckpointError` for an unusable teacher,
        `ConfigError` if nothing can be learned from it."""
        self.config, self.order = config, order
        self.task, self.settings = checkpoint.task, train.samples.settings
        # Autocast would keep a copy of each weight that may be trained.
        self.model = load_model(checkpoint).requires_grad_(False)
        self.rows, self.by_token = Batches.of(rows, self.model, checkpoint.path), train.by_token
        self.labelled = train.samples.labels is not None
        self.lessons = self._lessons(student, train)
        if not self.used - {LABELS}:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self.lessons.left_out.items()) or "no loss compares with it"
            raise ConfigError(
                f"{checkpoint.path}: nothing can be learned from this teacher ({reasons}); "
                "set --alpha above 0, or give one with the student's tokenizer"
            )
        self.extra_outputs = {"output_hidden_states": bool(self.lessons.layers), "output_attentions": bool(self.lessons.heads)}

    def _lessons(self, student: Any, ours: Batches) -> Lessons:
        config = self.config
        asked = {HIDDEN: config.hidden > 0, ATTENTION: config.attention > 0}
        if not np.array_equal(ours.lengths, self.rows.lengths):
            split = f"rows into {len(self.rows)} and {len(ours)} parts"
            if len(ours) == len(self.rows):
                split = f"{(ours.lengths != self.rows.lengths).sum()} of {len(ours)} rows into other numbers of tokens"
            reason = f"the tokenizers of teacher and student split {split}"
            # What is said of a token can be learned only where both have it.
            asked = {SOFT_TARGETS: self.by_token and config.alpha > 0, **asked}
            return Lessons((), {}, {name: reason for name, there in asked.items() if there})
        if not any(asked.values()):
            return Lessons((), {}, {})
        hidden, attention = asked[HIDDEN], asked[ATTENTION]
        for model in (student, self.model) if attention else ():
            model.set_attn_implementation("eager")
        return correspondence(_shapes(student, ours, attention), _shapes(self.model, self.rows, attention), hidden, attention)

    @property
    def used(self) -> set[str]:
        """The names of the losses that are not left out."""
        config, lessons = self.config, self.lessons
        soft = config.alpha > 0 and SOFT_TARGETS not in lessons.left_out
        parts = {SOFT_TARGETS: soft, LABELS: config.alpha < 1 and self.labelled, HIDDEN: lessons.layers, ATTENTION: lessons.heads}
        return {name for name, there in parts.items() if there}

    def hasten(self) -> None:
        """Keep the weights of matrix products in bfloat16, as autocast would make them again for each batch."""
        import torch

        self.model.set_attn_implementation("eager")  # as the student has it, and faster on short rows

        for module in self.model.modules():
            if isinstance(module, torch.nn.Linear):
                module.to(torch.bfloat16)

    def outputs(self, numbers: Array) -> Any:
        """What the teacher says of the training rows with these numbers."""
        import torch

        with torch.no_grad():
            return self.model(**self.rows.batch(numbers).inputs, **self.extra_outputs)

    def loss(self, labels_loss: Any, student: Any, teacher: Any, batch: Batch) -> Any:
        """The weighted sum of all losses on the student's `batch`; that of the labels is None where there are none.

        Raises `ConfigError` for vectors of another size than the teacher's."""
        config, lessons, mask = self.config, self.lessons, batch.mask
        total = 0.0 if labels_loss is None else (1 - config.alpha) * labels_loss
        if SOFT_TARGETS in self.used:
            ours, theirs = (self.task.soft_targets(outputs, self.settings) for outputs in (student, teacher))
            for (values, how), (targets, _) in zip(ours, theirs, strict=True):
                targets = targets if self.order is None else targets[..., list(self.order)]
                if values.shape[-1] != targets.shape[-1]:
                    sizes = f"the student's vectors have {values.shape[-1]} values, the teacher's {targets.shape[-1]}"
                    raise ConfigError(f"{sizes}; give a student with a Dense module of {targets.shape[-1]} outputs, or as wide")
                if self.by_token:
                    values, targets = losses.without_padding(values, targets, batch.labels, mask)
                share = config.alpha / len(ours)
                total = total + share * losses.soft_targets(values, targets, config.temperature, how)
        if lessons.layers:
            # The first of the states is the embeddings'.
            ours = [student.hidden_states[layer + 1] for layer, _ in lessons.layers]
            theirs = [teacher.hidden_states[layer + 1] for _, layer in lessons.layers]
            total = total + config.hidden * losses.hidden_states(ours, theirs, mask)
        if lessons.heads:
            ours = [student.attentions[layer][:, list(heads)] for (layer, _), (heads, _) in lessons.heads.items()]
            theirs = [teacher.attentions[layer][:, list(heads)] for (_, layer), (_, heads) in lessons.heads.items()]
            total = total + config.attention * losses.attention_maps(ours, theirs, mask)
        return total


def correspondence(student: Shapes, teacher: Shapes, hidden: bool, attention: bool) -> Lessons:
    """Match layers and heads: by their numbers in the unpruned model where one of the two is pruned.

    Else layers are spread evenly, the last to the last, and heads correspond where there are as many."""
    pairs = _layer_pairs(student, teacher)
    if not pairs:
        reason = "no layer of the student is left in the teacher"
        return Lessons((), {}, {name: reason for name, asked in ((HIDDEN, hidden), (ATTENTION, attention)) if asked})
    left_out: dict[str, str] = {}
    layers = tuple((ours, theirs) for ours, theirs in pairs if student.widths[ours] == teacher.widths[theirs])
    if hidden and len(layers) < len(pairs):
        ours, theirs = next(pair for pair in pairs if pair not in layers)
        part = "" if not layers else f" of {len(pairs) - len(layers)} of {len(pairs)} layers"
        left_out[HIDDEN + part] = f"the student's are {student.widths[ours]} wide, the teacher's {teacher.widths[theirs]}"
    heads: dict[tuple[int, int], tuple[tuple[int, ...], tuple[int, ...]]] = {}
    if attention and not (student.heads and teacher.heads):
        left_out[ATTENTION] = f"the {'teacher' if student.heads else 'student'} does not give them"
    elif attention:
        heads = {pair: found for pair in pairs if (found := _head_pairs(student, teacher, pair))[0]}
        if missing := [pair for pair in pairs if pair not in heads]:
            ours, theirs = missing[0]
            part = "" if not heads else f" of {len(missing)} of {len(pairs)} layers"
            left_out[ATTENTION + part] = (
                f"the student has {student.heads[ours]} heads, the teacher {teacher.heads[theirs]}, none known to correspond"
            )
    return Lessons(layers if hidden else (), heads, left_out)


def _layer_pairs(student: Shapes, teacher: Shapes) -> list[tuple[int, int]]:
    ours, theirs = student.layer_numbers, teacher.layer_numbers
    if student.pruning or teacher.pruning:
        return [(place, theirs.index(number)) for place, number in enumerate(ours) if number in theirs]
    return [(place, -(-(place + 1) * len(theirs) // len(ours)) - 1) for place in range(len(ours))]


def _head_pairs(student: Shapes, teacher: Shapes, pair: tuple[int, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    ours, theirs = student.head_numbers(pair[0]), teacher.head_numbers(pair[1])
    if not (student.pruning or teacher.pruning) and len(ours) != len(theirs):
        return (), ()
    common = [number for number in ours if number in theirs]
    return tuple(ours.index(number) for number in common), tuple(theirs.index(number) for number in common)


def _shapes(model: Any, rows: Batches, attention: bool) -> Shapes:
    """Found by a forward pass of the first row, which draws no random number."""
    import torch

    training = model.training
    model.eval()
    with torch.no_grad():
        found = model(**rows.batch(np.arange(1)).inputs, output_hidden_states=True, output_attentions=attention)
    model.train(training)
    widths = tuple(state.shape[-1] for state in found.hidden_states[1:])
    maps = found.attentions if attention and found.attentions and all(item is not None for item in found.attentions) else ()
    return Shapes(widths, tuple(item.shape[1] for item in maps), getattr(model.config, architectures.KEY, None))
