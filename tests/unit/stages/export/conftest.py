"""Tiny checkpoints of all architectures, exported once for the tests of this folder."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edgekit.data.samples import Samples
from edgekit.stages.export.onnx import OnnxExport
from edgekit.stages.export.saved_model import SavedModelExport
from edgekit.system.worker import Worker
from tests.unit.stages.export import architectures
from tests.unit.stages.export.architectures import LENGTH, VOCABULARY


@dataclass(frozen=True)
class Exports:
    """Checkpoint folders by architecture and what became of them; `rows` are the saved rows that they were compared on."""

    folders: dict[str, Path]
    rows: Path
    onnx: dict[str, OnnxExport | str]
    saved_models: dict[str, SavedModelExport | str]


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    folder = tmp_path_factory.mktemp("architectures")
    generator = np.random.default_rng(0)
    lengths = generator.integers(3, LENGTH + 1, (8, 1))
    mask = (np.arange(LENGTH) < lengths).astype(np.int32)
    ids = np.where(mask == 1, generator.integers(2, VOCABULARY, mask.shape), 0).astype(np.int32)
    rows = folder / "rows"
    Samples({"input_ids": ids, "attention_mask": mask}).save(rows)
    worker = Worker(timeout_s=600)
    folders = worker.run(architectures.save_all, folder).value
    made = worker.run(architectures.to_onnx, folders, rows).value
    sound = {name: folders[name] for name, export in made.items() if not isinstance(export, str)}
    return Exports(folders, rows, made, worker.run(architectures.to_tflite, sound, rows).value)
