"""A file with several signatures of one model, of which each run takes the one that fits."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import ModelFormatError
from edgekit.spec import Signature
from edgekit.tflite.flatbuffer import Entry, ModelFile
from edgekit.tflite.interpreter import Model

Array = np.ndarray[Any, np.dtype[Any]]


class SeveralModel(ABC):
    """A loaded file whose signatures differ in one size; called like a `Model` of the one of `size`.

    All of them share one interpreter. `load_ms` covers what is prepared for all; `ops`, `delegated_ops` and `partitions` are those
    of the first subgraph. XNNPACK packs the weights once for each: where `one` loads a signature alone, the one that is needed
    first is all there is until a run needs another."""

    def __init__(
        self,
        file: ModelFile,
        path: Path,
        entries: Mapping[int, Entry],
        size: int,
        whole: Callable[[], Model],
        one: Callable[..., Model] | None = None,
    ) -> None:
        """`entries` of `file` by their size; `whole` loads it."""
        self.path, self.metadata = path, file.model_metadata
        self.signature: Signature = file.signature(entries[size]).of_one_row()
        self.signature_key = entries[size].key
        self._entries, self._whole, self._one = entries, whole, one
        self.models: dict[int, Model] = {}
        self._model: Model | None = None
        if one is None:
            self._load()

    def _load(self) -> None:
        # What was loaded alone goes first, and its memory with it.
        self.models, self._model = {}, None
        model = self._whole()
        self.models = {size: model.with_signature(entry.key) for size, entry in self._entries.items()}
        self.load_ms = model.load_ms + sum(each.prepare_ms for each in self.models.values())
        self.ops, self.delegated_ops, self.partitions = model.ops, model.delegated_ops, model.partitions

    def _load_for(self, size: int) -> None:
        if self._one is not None and not self.models:
            # Without room for a copy of the file all of it is prepared.
            with suppress(OSError):
                self.models = {size: self._one(signature_key=self._entries[size].key)}
        if size not in self.models:
            self._load()

    @property
    def _stored(self) -> Model:
        if self._model is None:
            raise ModelFormatError(f"{self.path}: no inputs are stored; store some first")
        return self._model

    @abstractmethod
    def _fit(self, inputs: Mapping[str, Array]) -> tuple[int, Mapping[str, Array]]:
        """The size that these inputs run in, and them as it takes them."""

    def prepare(self, inputs: Mapping[str, Array]) -> tuple[str, Mapping[str, Array]]:
        """Load what these inputs need, as `set_inputs` does; returns the signature that they run in, and them as it takes them."""
        size, fitting = self._fit(inputs)
        self._load_for(size)
        return self._entries[size].key, fitting

    def set_inputs(self, inputs: Mapping[str, Array]) -> None:
        """Store one row or, where it takes several, rows; see `Model.run`."""
        size, fitting = self._fit(inputs)
        self._load_for(size)
        self._model = self.models[size]
        self._model.set_inputs(fitting)

    def invoke(self) -> None:
        """Run on what `set_inputs` stored."""
        self._stored.invoke()

    def outputs(self) -> dict[str, Array]:
        """Results of the last `invoke` by output name."""
        return self._stored.outputs()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One inference; see `Model.run`."""
        self.set_inputs(inputs)
        self.invoke()
        return self.outputs()
