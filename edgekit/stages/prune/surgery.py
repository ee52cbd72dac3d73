"""Structured pruning as a stage: measure importance, choose, cut, and publish a checkpoint that loads like any other."""

import inspect
import json
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.data import sources
from edgekit.data.representative import draw
from edgekit.data.samples import Samples
from edgekit.data.sources import TextRows
from edgekit.data.text import encode_text
from edgekit.errors import CheckpointError, ConfigError
from edgekit.models import architectures
from edgekit.models.architectures import Kept
from edgekit.models.checkpoint import check_length, label_ids, load_classifier, read_config, tokenizer_folder
from edgekit.models.linear8 import refuse_quantized
from edgekit.stages.prune import importance, pruning_plan, vocabulary
from edgekit.stages.prune.config import PruneConfig
from edgekit.stages.prune.pruning_plan import PruningPlan, Scores
from edgekit.system import artifacts
from edgekit.system.worker import Worker

TOOLS = ("torch", "transformers", "tokenizers")
_TOKENIZER_FILES = (vocabulary.TOKENIZER, vocabulary.PIECES, "tokenizer_config.json", "special_tokens_map.json")
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

    `parameters` are all values of the checkpoint, `encoder_parameters` those of its layers.
    """

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
    checkpoint: Path,
    rows: TextRows,
    out: Path,
    config: PruneConfig,
    *,
    vocabulary_of: Vocabulary | None = None,
    use: Path | None = None,
    overwrite: bool = False,
    worker: Worker = Worker(),  # noqa: B008 - frozen
) -> PruneResult:
    """Publish `checkpoint`, cut as `config` says, as the folder `out` with its tokenizer, its plan and the manifest edgekit.json.

    Labelled `rows` give the importance and the tokens that are used; `use` is a plan to follow instead of a new one. Raises
    `CheckpointError`, `DatasetError`, `ConfigError`, `OutputError` or a `WorkerError`.
    """
    artifacts.refuse_existing(out, overwrite=overwrite)
    if use is not None:
        made = pruning_plan.read(use)
        pruning_plan.check_source(made, checkpoint, use)
    else:
        made, _ = make_plan(checkpoint, rows, config, vocabulary_of, worker)
    with artifacts.staged(out, overwrite=overwrite) as partial:
        result = apply(checkpoint, made, partial, rows, worker)
        described = artifacts.describe(
            partial,
            "checkpoint",
            name=out.name,
            parents={str(checkpoint.resolve().name): made.checkpoint_sha256},
            config=config,
            tools=TOOLS,
            measured=result,
        )
        artifacts.write_manifest(partial, described)
    return result


def read_result(folder: Path) -> PruneResult:
    """What `prune` wrote of itself into the manifest in `folder`."""
    found = json.loads((folder / artifacts.MANIFEST).read_text(encoding="utf-8"))["measured"]
    tuples = {"layers": tuple(found["layers"]), "heads": tuple(found["heads"]), "ffn": tuple(map(tuple, found["ffn"]))}
    return PruneResult(**{**found, **tuples})


def make_plan(
    checkpoint: Path, rows: TextRows, config: PruneConfig, vocabulary_of: Vocabulary | None, worker: Worker
) -> tuple[PruningPlan, int]:
    """Measure the importance of all heads and units, and choose what stays; also how many values a head has.

    Raises what `prune` does.
    """
    check_architecture(checkpoint)
    check_length(checkpoint, config.max_length)
    tokens = _tokens(checkpoint, rows, vocabulary_of) if vocabulary_of else None
    scores, head_size = _importance(checkpoint, rows, config, worker)
    return PruningPlan(artifacts.sha256(checkpoint), scores, pruning_plan.choose(scores, config, head_size), tokens), head_size


def check_architecture(checkpoint: Path) -> None:
    """Raise `CheckpointError`, naming the checkpoint, if there is no adapter for it or it is quantized already."""
    found = read_config(checkpoint)
    refuse_quantized(checkpoint, found, "pruned")
    try:
        architectures.adapter(found["model_type"])
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint}: {error.message}") from None


def _importance(checkpoint: Path, rows: TextRows, config: PruneConfig, worker: Worker) -> tuple[Scores, int]:
    drawn = sources.take(rows, draw(rows, config.samples, config.seed))
    names = ("input_ids", "attention_mask", *(("token_type_ids",) if rows.pairs is not None else ()))
    with tempfile.TemporaryDirectory(prefix="edgekit-prune-") as room:
        encode_text(drawn, tokenizer_folder(checkpoint), config.max_length, names, label_ids(checkpoint)).save(Path(room))
        return worker.run(_measure, checkpoint, Path(room), config).value


def apply(checkpoint: Path, made: PruningPlan, folder: Path, rows: TextRows, worker: Worker) -> PruneResult:
    """Write what the plan leaves of `checkpoint` into the new `folder`; the tokenizer is checked on `rows`."""
    source = tokenizer_folder(checkpoint)
    worker.run(write_tokenizer, source, folder)
    if made.tokens is not None:
        if list(made.tokens) != sorted(set(made.tokens)):
            raise ConfigError(f"{pruning_plan.FILE_NAME}: its tokens are not each once and in order; leave --plan out")
        vocabulary.check(folder, set(made.tokens), _config_ids(checkpoint), pruning_plan.FILE_NAME)
        vocabulary.cut(folder, made.tokens)
    result = worker.run(_cut, checkpoint, made.layers, made.tokens, folder).value
    if made.tokens is not None:
        worker.run(_check_tokenizer, source, folder, rows.texts[:_CHECKED_TEXTS], made.tokens)
    pruning_plan.write(made, folder)
    return result


def _tokens(checkpoint: Path, rows: TextRows, vocabulary_of: Vocabulary) -> tuple[int, ...]:
    config_ids = _config_ids(checkpoint)
    with tempfile.TemporaryDirectory(prefix="edgekit-prune-") as room:
        folder = Path(room) / "tokenizer"
        Worker().run(write_tokenizer, tokenizer_folder(checkpoint), folder)
        if vocabulary_of.tokens is not None:
            given = vocabulary.named(folder, vocabulary_of.tokens)
            vocabulary.check(folder, given, config_ids, str(vocabulary_of.tokens))
        else:
            given = vocabulary.used(folder, rows.texts, rows.pairs)
        if vocabulary_of.extra is not None:
            given |= vocabulary.named(folder, vocabulary_of.extra)
        return vocabulary.complete(folder, given, config_ids)


def _config_ids(checkpoint: Path) -> dict[str, int]:
    """The token ids that config.json names."""
    found = read_config(checkpoint)
    return {name: value for name, value in found.items() if name.endswith("_token_id") and isinstance(value, int)}


def _measure(checkpoint: Path, samples: Path, config: PruneConfig) -> tuple[Scores, int]:
    model = load_classifier(checkpoint)
    accepted = inspect.signature(model.forward).parameters
    stored = Samples.load(samples)
    rows = replace(stored, inputs={name: array for name, array in stored.inputs.items() if name in accepted})
    return importance.score(model, rows, config.importance, config.seed), architectures.layers(model)[0].heads.size


def write_tokenizer(source: Path, folder: Path) -> None:
    """In a worker: the files of a fast tokenizer, made by transformers if the checkpoint has only a slow one's."""
    folder.mkdir()
    if (source / vocabulary.TOKENIZER).is_file():
        for name in _TOKENIZER_FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
        return
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(str(source), local_files_only=True, trust_remote_code=False).save_pretrained(folder)
    if not (folder / vocabulary.TOKENIZER).is_file():
        raise CheckpointError(f"{source}: its tokenizer has no fast form; save a tokenizer.json there with save_pretrained")


def _cut(checkpoint: Path, kept: tuple[Kept, ...], tokens: tuple[int, ...] | None, folder: Path) -> PruneResult:
    model = load_classifier(checkpoint)
    before = architectures.layers(model)
    _check_fits(kept, before)
    counts = _values(model), architectures.encoder_parameters(model), model.config.vocab_size
    architectures.keep(model, kept)
    if tokens is not None:
        try:
            architectures.keep_tokens(model, tokens)
        except CheckpointError as error:
            raise CheckpointError(f"{checkpoint}: {error.message}") from None
    after = architectures.layers(model)
    save(model, checkpoint, folder)
    return PruneResult(
        layers=tuple(part.layer for part in kept),
        heads=tuple(layer.heads.count for layer in after),
        ffn=tuple(tuple(part.width for part in layer.ffns) for layer in after),
        heads_before=sum(layer.heads.count for layer in before),
        units_before=sum(part.width for layer in before for part in layer.ffns),
        parameters=_values(model),
        parameters_before=counts[0],
        encoder_parameters=architectures.encoder_parameters(model),
        encoder_parameters_before=counts[1],
        tokens=model.config.vocab_size,
        tokens_before=counts[2],
    )


def save(model: Any, checkpoint: Path, folder: Path) -> None:
    """In the dtype that `checkpoint` is stored in: what was cut is no finer than what it was cut from."""
    import torch

    stored = read_config(checkpoint)
    name = str(stored.get("dtype") or stored.get("torch_dtype"))
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
        if (
            whole is None
            or not _is_subset(part.heads, whole.heads.count)
            or len(part.ffn) != len(whole.ffns)
            or not all(_is_subset(units, ffn.width) for units, ffn in zip(part.ffn, whole.ffns, strict=True))
        ):
            raise ConfigError(f"{pruning_plan.FILE_NAME}: layer {part.layer} keeps heads or units that the model does not have")


def _is_subset(members: tuple[int, ...], count: int) -> bool:
    return bool(members) and len(set(members)) == len(members) and min(members) >= 0 and max(members) < count


def _values(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _check_tokenizer(source: Path, folder: Path, texts: tuple[str, ...], tokens: tuple[int, ...]) -> None:
    """In a worker: the tokenizer, loaded as a user will load it, splits the texts into the same tokens as before.

    Where a text held a token that is not kept, as with a vocabulary that the user listed, it may not.
    """
    from transformers import AutoTokenizer

    old, new = (AutoTokenizer.from_pretrained(str(place), local_files_only=True) for place in (source, folder))
    places = {number: place for place, number in enumerate(tokens)}
    for text, before, after in zip(texts, old(list(texts))["input_ids"], new(list(texts))["input_ids"], strict=True):
        if set(before) <= places.keys() and [places[number] for number in before] != after:
            raise CheckpointError(
                f"{source}: with fewer tokens {text[:40]!r} is split in another way, so this tokenizer cannot be cut; "
                "leave --vocab out"
            )
