"""Structured pruning as a stage: measure importance, choose, cut, and publish a checkpoint that loads like any other."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.data import sources
from edgekit.data.encode import Encoding
from edgekit.data.representative import draw
from edgekit.data.samples import Samples
from edgekit.data.sources import TextRows
from edgekit.errors import CheckpointError, ConfigError
from edgekit.models import architectures
from edgekit.models.architectures import Kept
from edgekit.models.checkpoint import Checkpoint, load_tokenizer
from edgekit.models.linear8 import refuse_quantized
from edgekit.models.weights import load_model
from edgekit.stages.prune import importance, pruning_plan, vocabulary
from edgekit.stages.prune.config import StructureConfig
from edgekit.stages.prune.pruning_plan import PruningPlan, Scores
from edgekit.system import artifacts, rooms, serial
from edgekit.system.serial import read_json
from edgekit.system.worker import Worker

TOOLS = ("torch", "transformers", "tokenizers")
_TOKENIZER_FILES = (vocabulary.TOKENIZER, vocabulary.PIECES, vocabulary.CONFIG, vocabulary.SPECIAL)
_CHECKED_TEXTS = 2000
_STORED = ("float16", "bfloat16", "float32")


@dataclass(frozen=True)
class Vocabulary:
    """Which tokens stay: those that the data set uses, or with `tokens` the ones in that file; `extra` is a file of more."""

    tokens: Path | None = None
    extra: Path | None = None


@dataclass(frozen=True)
class PruneResult:
    """What is left: heads and FFN widths of each layer that stays, and counts before and after.

    `parameters` are all values of the checkpoint, `encoder_parameters` those of its layers."""

    layers: tuple[int, ...]
    heads: tuple[int, ...]
    ffn: tuple[tuple[int, ...], ...]
    heads_before: int
    units_before: int
    parameters: int
    parameters_before: int
    encoder_parameters: int
    encoder_parameters_before: int
    tokens: int
    tokens_before: int


def prune(
    checkpoint: Checkpoint,
    rows: TextRows,
    out: Path,
    config: StructureConfig,
    *,
    vocabulary_of: Vocabulary | None = None,
    use: Path | None = None,
    overwrite: bool = False,
    worker: Worker = Worker(),  # noqa: B008 - frozen
) -> PruneResult:
    """Publish `checkpoint`, cut as `config` says, as the folder `out` with its tokenizer, its plan and the manifest edgekit.json.

    Labelled `rows` give the importance and the tokens that are used; `use` is a plan to follow instead of a new one. Raises
    `CheckpointError`, `DatasetError`, `ConfigError`, `OutputError` or a `WorkerError`."""
    artifacts.refuse_existing(out, overwrite=overwrite)
    artifacts.refuse_source(out, checkpoint.path)
    if use is not None:
        plan = pruning_plan.read(use)
        pruning_plan.check_source(plan, checkpoint.path, use)
    else:
        plan, _ = make_plan(checkpoint, rows, config, vocabulary_of, worker)
    parents = {checkpoint.name: plan.checkpoint_sha256}
    with artifacts.published(out, "checkpoint", parents=parents, config=config, tools=TOOLS, overwrite=overwrite) as draft:
        draft.measured = result = apply(checkpoint, plan, draft.path, rows, worker)
    return result


def read_result(folder: Path) -> PruneResult:
    """What `prune` wrote of itself into the manifest in `folder`."""
    manifest = read_json(folder / artifacts.MANIFEST)
    return serial.read(PruneResult, manifest["measured"])


def make_plan(
    checkpoint: Checkpoint, rows: TextRows, config: StructureConfig, vocabulary_of: Vocabulary | None, worker: Worker
) -> tuple[PruningPlan, int]:
    """Measure the importance of all heads and units, and choose what stays; also how many values a head has.

    Raises what `prune` does."""
    check_architecture(checkpoint)
    checkpoint.check_length(config.max_length)
    tokens = _tokens(checkpoint, rows, vocabulary_of) if vocabulary_of else None
    scores, head_size = _importance(checkpoint, rows, config, worker)
    return PruningPlan(artifacts.sha256(checkpoint.path), scores, pruning_plan.choose(scores, config, head_size), tokens), head_size


def check_architecture(checkpoint: Checkpoint) -> None:
    """Raise `CheckpointError`, naming the checkpoint, if there is no adapter for it or it is quantized already."""
    refuse_quantized(checkpoint.path, checkpoint.config, "pruned")
    try:
        architectures.adapter(checkpoint.model_type)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.path}: {error.message}") from None


def _importance(checkpoint: Checkpoint, rows: TextRows, config: StructureConfig, worker: Worker) -> tuple[Scores, int]:
    drawn = sources.take(rows, draw(rows, config.samples, config.seed))
    if not config.importance.needs_labels:
        drawn = replace(drawn, labels=None)
    inputs = checkpoint.inputs(config.max_length, pairs=checkpoint.task.joins(rows))
    encoding = Encoding(checkpoint.tokenizer, vocabulary=checkpoint.vocabulary)
    with rooms.temporary("prune") as room:
        checkpoint.task.encode(drawn, inputs, encoding, checkpoint.settings, Path(room)).save(Path(room))
        return worker.run(_measure, checkpoint, Path(room), config).value


def apply(checkpoint: Checkpoint, plan: PruningPlan, folder: Path, rows: TextRows, worker: Worker) -> PruneResult:
    """Write what the plan leaves of `checkpoint` into the new `folder`; the tokenizer is checked on `rows`."""
    source = checkpoint.tokenizer
    worker.run(write_tokenizer, source, folder)
    if plan.tokens is not None:
        if list(plan.tokens) != sorted(set(plan.tokens)):
            raise ConfigError(f"{pruning_plan.FILE_NAME}: its tokens are not each once and in order; leave --plan out")
        vocabulary.check(folder, set(plan.tokens), _config_ids(checkpoint), pruning_plan.FILE_NAME)
        vocabulary.cut(folder, plan.tokens)
    result = worker.run(_cut, checkpoint, plan.layers, plan.tokens, folder).value
    if plan.tokens is not None:
        texts = (*rows.texts[:_CHECKED_TEXTS], *(rows.pairs or ())[:_CHECKED_TEXTS])
        worker.run(_check_tokenizer, source, folder, texts, plan.tokens)
    pruning_plan.write(plan, folder)
    return result


def _tokens(checkpoint: Checkpoint, rows: TextRows, vocabulary_of: Vocabulary) -> tuple[int, ...]:
    config_ids = _config_ids(checkpoint)
    with rooms.temporary("prune") as room:
        folder = Path(room) / "tokenizer"
        Worker().run(write_tokenizer, checkpoint.tokenizer, folder)
        if vocabulary_of.tokens is not None:
            ids = vocabulary.named(folder, vocabulary_of.tokens)
            vocabulary.check(folder, ids, config_ids, str(vocabulary_of.tokens))
        else:
            ids = vocabulary.used(checkpoint.tokenizer, rows.texts, rows.pairs)
        if vocabulary_of.extra is not None:
            ids |= vocabulary.named(folder, vocabulary_of.extra)
        return vocabulary.complete(folder, ids, config_ids)


def _config_ids(checkpoint: Checkpoint) -> dict[str, int]:
    """The token ids that config.json names."""
    return {name: value for name, value in checkpoint.config.items() if name.endswith("_token_id") and isinstance(value, int)}


def _measure(checkpoint: Checkpoint, samples: Path, config: StructureConfig) -> tuple[Scores, int]:
    model = load_model(checkpoint)
    return importance.score(model, Samples.load(samples), config.importance, config.seed), architectures.layers(model)[0].heads.size


def write_tokenizer(source: Path, folder: Path) -> None:
    """In a worker: the files of a fast tokenizer, plan by transformers if the checkpoint has only a slow one's."""
    folder.mkdir()
    if (source / vocabulary.TOKENIZER).is_file():
        for name in _TOKENIZER_FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
        return
    load_tokenizer(source).save_pretrained(folder)
    if not (folder / vocabulary.TOKENIZER).is_file():
        raise CheckpointError(f"{source}: its tokenizer has no fast form; save a tokenizer.json there with save_pretrained")


def _cut(checkpoint: Checkpoint, kept: tuple[Kept, ...], tokens: tuple[int, ...] | None, folder: Path) -> PruneResult:
    model = load_model(checkpoint)
    before = architectures.layers(model)
    _check_fits(kept, before)
    values, encoder, vocabulary_size = _values(model), architectures.encoder_parameters(model), model.config.vocab_size
    architectures.keep(model, kept)
    if tokens is not None:
        try:
            architectures.keep_tokens(model, tokens)
        except CheckpointError as error:
            raise CheckpointError(f"{checkpoint.path}: {error.message}") from None
    after = architectures.layers(model)
    save(model, checkpoint, folder)
    return PruneResult(
        layers=tuple(part.layer for part in kept),
        heads=tuple(layer.heads.count for layer in after),
        ffn=tuple(tuple(part.width for part in layer.ffns) for layer in after),
        heads_before=sum(layer.heads.count for layer in before),
        units_before=sum(part.width for layer in before for part in layer.ffns),
        parameters=_values(model),
        parameters_before=values,
        encoder_parameters=architectures.encoder_parameters(model),
        encoder_parameters_before=encoder,
        tokens=model.config.vocab_size,
        tokens_before=vocabulary_size,
    )


def save(model: Any, checkpoint: Checkpoint, folder: Path) -> None:
    """In the dtype that `checkpoint` is stored in: what was cut is no finer than what it was cut from."""
    import torch

    name = str(checkpoint.config.get("dtype") or checkpoint.config.get("torch_dtype"))
    model.to(getattr(torch, name) if name in _STORED else torch.float32).save_pretrained(folder)


def _check_fits(kept: tuple[Kept, ...], layers: tuple[architectures.Layer, ...]) -> None:
    """Raise `ConfigError` for a plan, edited by hand perhaps, that keeps what the model does not have, or nothing."""
    numbers = [part.layer for part in kept]
    if not numbers or numbers != sorted(set(numbers)):
        raise ConfigError(
            f"{pruning_plan.FILE_NAME}: its layers are none, or not each once and in order; leave --plan out to make a new one"
        )
    for part in kept:
        whole = layers[part.layer] if 0 <= part.layer < len(layers) else None
        # Each FFN keeps some of its units, and the layer some of its heads.
        groups = [(part.heads, whole.heads.count), *zip(part.ffn, (ffn.width for ffn in whole.ffns), strict=False)] if whole else []
        if whole is None or len(part.ffn) != len(whole.ffns) or not all(_is_subset(*group) for group in groups):
            raise ConfigError(f"{pruning_plan.FILE_NAME}: layer {part.layer} keeps heads or units that the model does not have")


def _is_subset(members: tuple[int, ...], count: int) -> bool:
    return bool(members) and len(set(members)) == len(members) and min(members) >= 0 and max(members) < count


def _values(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _check_tokenizer(source: Path, folder: Path, texts: tuple[Any, ...], tokens: tuple[int, ...]) -> None:
    """In a worker: the tokenizer, loaded as a user will load it, splits texts or tuples of words into the same tokens as before.

    Where a text held a token that is not kept, as with a vocabulary that the user listed, it may not."""
    rows = [text if isinstance(text, str) else list(text) for text in texts]
    words = bool(rows) and not isinstance(rows[0], str)
    old, new = (load_tokenizer(place)(rows, is_split_into_words=words)["input_ids"] for place in (source, folder))
    places = {number: place for place, number in enumerate(tokens)}
    for text, before, after in zip(rows, old, new, strict=True):
        if set(before) <= places.keys() and [places[number] for number in before] != after:
            shown = (" ".join(text) if words else text)[:40]
            raise CheckpointError(
                f"{source}: with fewer tokens {shown!r} is split in another way, so this tokenizer cannot be cut; leave --vocab out"
            )
