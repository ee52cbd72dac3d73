"""Vectors of texts: states of an encoder's tokens, or one of a sentence, whose cosine with another's says how alike they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.encode import Encoding, feed
from edgekit.data.samples import Array, Samples
from edgekit.data.sources import COLUMNS, ColumnNames, Rows, TextRows
from edgekit.errors import ConfigError, DatasetError, RefusedError
from edgekit.spec import TensorSpec
from edgekit.tasks import metrics
from edgekit.tasks.base import Description, Outputs, Prediction, Reading, Settings, Task, first_output
from edgekit.tasks.classification import numbers
from edgekit.tasks.metrics import COSINE, WORST_COSINE, Metric

# How sharply a pair that is more alike has to be told from one that is less: J. Su, "CoSENT", 2022, takes 20.
_SHARPNESS = 20.0


@dataclass(frozen=True)
class Embeddings(Task):
    """Settings of sentences: `pooling`, `normalized`, `prompt` (before every text), `prompts` by name, and `lower_case_texts`.

    A row is a text, or two that are encoded each by itself and make a sample each; labels, of both samples, are how alike they
    are, on any scale. With `per_token` there are no labels, and every real token has a vector."""

    def serves(self, architecture: str) -> bool:
        # XLMWithLMHeadModel has a head.
        return super().serves(architecture) and not architecture.endswith(("HeadModel", "HeadsModel"))

    def settings(self, config: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
        names = () if self.per_token else ("pooling", "normalized", "prompt", "prompts", "lower_case_texts")
        return {name: config[name] for name in names if name in config}

    def settings_for(
        self, rows: Rows, config: Mapping[str, Any], known: Sequence[str], problem: str | None, trained: bool
    ) -> dict[str, Any]:
        settings = super().settings_for(rows, config, known, problem, trained)
        if self.per_token:
            raise ConfigError(f"task {self.name}: has no labels to learn from; edgekit distill learns from a teacher")
        if not isinstance(rows, TextRows) or rows.pairs is None:
            raise DatasetError(
                f"{rows.origin}: holds no pairs of texts with scores; name the columns with --text-column, twice, and "
                "--label-column, or learn from a teacher with edgekit distill"
            )
        numbers(rows)
        return settings

    def metrics(self, settings: Settings) -> tuple[Metric, ...]:
        return () if self.per_token else (metrics.SPEARMAN, metrics.PEARSON)

    def likeness_metrics(self) -> tuple[Metric, ...]:
        return (COSINE, WORST_COSINE)

    def likeness(self, ours: Reading, theirs: Reading, samples: Samples) -> Mapping[str, Array]:
        """Of tokens the mean, and the least, of each text's."""
        (vectors,), (expected,) = ours.values.values(), theirs.values.values()
        if vectors.shape != expected.shape:
            return {}
        alike = worst = metrics.cosines(vectors, expected)
        counts = np.ones_like(alike)
        if self.per_token:
            mask = samples.inputs.get("attention_mask")
            each = np.full(len(samples), len(vectors) // len(samples)) if mask is None else (np.asarray(mask) > 0).sum(axis=1)
            starts, counts = np.cumsum(each) - each, each.astype(np.float64)
            alike, worst = np.add.reduceat(alike, starts), np.minimum.reduceat(worst, starts)
        return {COSINE.name: np.stack([alike, counts], axis=1), WORST_COSINE.name: worst[:, np.newaxis]}

    def with_prompt(self, settings: Settings, name: str) -> Settings:
        stored = settings.get("prompts")
        prompts = {key: text for key, text in stored.items() if isinstance(text, str)} if isinstance(stored, Mapping) else {}
        if name not in prompts:
            raise ConfigError(
                f"prompt {name!r}: the model knows {', '.join(map(repr, prompts)) or 'none to choose'}; give one of these"
            )
        return {**settings, "prompt": prompts[name]}

    def encode(self, rows: Rows, inputs: Sequence[TensorSpec], encoding: Encoding, settings: Settings, folder: Path) -> Samples:
        if not isinstance(rows, TextRows):
            return super().encode(rows, inputs, encoding, settings, folder)
        texts = rows.texts if rows.pairs is None else [text for pair in zip(rows.texts, rows.pairs, strict=True) for text in pair]
        if any(not isinstance(text, str) for text in texts):
            raise DatasetError(f"{rows.origin}: holds lists of words, and whole texts have a vector; name another --text-column")
        prompt = settings.get("prompt", "")
        whole = tuple(prompt + (text.lower() if settings.get("lower_case_texts") else text) for text in texts)
        samples = feed(replace(rows, texts=whole, pairs=None, labels=None), inputs, replace(encoding, pairs=None), folder)
        if rows.pairs is None:
            return samples.labelled(None, self.name, settings)
        labels = np.repeat(numbers(rows), 2) if rows.labels is not None and not self.per_token else None
        return replace(samples.labelled(labels, self.name, settings), row=np.repeat(np.arange(len(rows)), 2))

    def reading(self, outputs: Outputs, samples: Samples) -> Reading:
        name, vectors = self._vectors(outputs, samples)
        if samples.labels is None or samples.row is None or self.per_token:
            return Reading(None, {name: vectors})
        alike, scores = metrics.cosines(vectors[::2], vectors[1::2]), np.asarray(samples.labels, np.float64)[::2]
        tallies = {
            metrics.SPEARMAN.name: np.stack([alike, scores], axis=1),
            metrics.PEARSON.name: metrics.moments(alike, scores),
        }
        return Reading(None, {name: vectors}, tallies)

    def head(self, settings: Settings) -> dict[str, Any]:
        return {}

    def loss(self, outputs: Any, labels: Any, settings: Settings) -> Any:
        """log(1 + sum of exp(20 (cosine of j - cosine of i))) over all pairs i of the batch that are more alike than a pair j.

        So Spearman's order is learned, whatever the scores' scale. J. Su, "CoSENT", https://kexue.fm/archives/8847, 2022."""
        import torch

        vectors = outputs[self.outputs[0]].float()
        alike = _SHARPNESS * torch.nn.functional.cosine_similarity(vectors[::2], vectors[1::2])
        wrong = alike[None, :] - alike[:, None]
        wrong = wrong.masked_fill(labels[::2][:, None] <= labels[::2][None, :], -torch.inf)
        return torch.logsumexp(torch.cat([wrong.new_zeros(1), wrong.flatten()]), 0)

    def sensitivity(self, outputs: Any) -> Any:
        """A direction drawn once: what moves vectors at all moves them along it."""
        import torch

        vectors = outputs[self.outputs[0]].float()
        direction = torch.randn(vectors.shape[-1], generator=torch.Generator().manual_seed(0))
        along = vectors @ direction
        return along.sum() / len(vectors)

    def soft_targets(self, outputs: Any, settings: Settings) -> list[tuple[Any, str]]:
        return [(outputs[self.outputs[0]], "vectors")]

    def predict(self, outputs: Outputs, samples: Samples) -> Prediction:
        _, vectors = self._vectors(outputs, samples)
        lengths = np.sqrt((vectors.astype(np.float64) ** 2).sum(axis=-1))
        size, norm = vectors.shape[-1], float(lengths.mean())
        if self.per_token:
            return Prediction(f"{len(vectors)} tokens of {size} values", norm, {"tokens": vectors.tolist()})
        if len(vectors) > 1:
            alike = float(metrics.cosines(vectors[:1], vectors[1:2])[0])
            return Prediction("similarity", alike, {"similarity": alike, "embeddings": vectors.tolist()})
        return Prediction(f"{size} values", norm, {"norm": norm, "embedding": vectors[0].tolist()})

    def describe(self, settings: Settings) -> Description:
        if self.per_token:
            return Description(
                "Text encoder", {"": ("states", "The last layer's state of each token; of padding it means nothing.")}
            )
        ways = " and ".join(map(str, settings.get("pooling", ()))) or "pooled"
        unit = ", of length 1" if settings.get("normalized") else ""
        prompt = f" Every text has {settings['prompt']!r} before it." if settings.get("prompt") else ""
        text = f"Vector of the text ({ways} of its tokens{unit}); the cosine of two says how alike they are.{prompt}"
        return Description("Sentence encoder", {"": ("embedding", text)})

    def _vectors(self, outputs: Outputs, samples: Samples) -> tuple[str, Array]:
        """Those of the rows (N, D), or of all real tokens (P, D), by the name of their output. Raises `RefusedError`."""
        name, first = first_output(outputs)
        rank = 3 if self.per_token else 2
        flat = first if self.per_token else first.reshape(len(first), *(size for size in first.shape[1:] if size != 1))
        if flat.ndim != rank or (not self.per_token and flat.shape[1] < 2):
            what = "a vector of each token" if self.per_token else "a vector"
            raise RefusedError(f"output {name} of shape {first.shape[1:]} is not {what}; name another --task")
        if not self.per_token:
            return name, flat
        mask = samples.inputs.get("attention_mask")
        return name, flat.reshape(-1, flat.shape[2]) if mask is None else flat[np.asarray(mask) > 0]


_TEXTS = (*COLUMNS.texts, ("query", "document"), ("anchor", "positive"))
FEATURE_EXTRACTION = Embeddings(
    "feature-extraction",
    "text",
    ("Model",),
    "AutoModel",
    ("last_hidden_state",),
    ColumnNames(texts=_TEXTS, labels=()),
    headless=True,
    per_token=True,
)
SENTENCE_SIMILARITY = Embeddings(
    "sentence-similarity",
    "text",
    (),
    "AutoModel",
    ("sentence_embedding",),
    ColumnNames(texts=_TEXTS, labels=("score", "similarity_score", "similarity", "label", "labels")),
    headless=True,
)
