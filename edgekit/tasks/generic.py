"""Any model whose task nobody told: every output is compared with the source's and judged by its error, never by argmax."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.data.encode import Encoding, feed
from edgekit.data.samples import Samples
from edgekit.data.sources import Rows
from edgekit.spec import TensorSpec
from edgekit.tasks.base import Outputs, Prediction, Reading, Settings, Task


@dataclass(frozen=True)
class Generic(Task):
    """Labels are left out: nobody knows what they would be of."""

    def encode(self, rows: Rows, inputs: Sequence[TensorSpec], encoding: Encoding, settings: Settings, folder: Path) -> Samples:
        return feed(rows, inputs, encoding, folder).labelled(None, self.name, settings)

    def reading(self, outputs: Outputs, samples: Samples) -> Reading:
        return Reading(None, {name: np.asarray(array) for name, array in outputs.items()})

    def predict(self, outputs: Outputs, samples: Samples) -> Prediction:
        shapes = {name: list(np.shape(array)[1:]) for name, array in outputs.items()}
        answer = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        return Prediction(answer, 0.0, {name: np.asarray(array)[0].tolist() for name, array in outputs.items()})


GENERIC = Generic("generic")
