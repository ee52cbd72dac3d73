"""What every stage names alike: tensors, signatures, and references to data sets and models."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

# A data set is a path or `hub:NAME[/CONFIG][:SPLIT]`; a model is a path, a hub id, or `package:NAME` for an installed
# package that carries a checkpoint. The marks tell a recipe which strings may be paths.
DatasetReference = Annotated[str, "dataset"]
ModelReference = Annotated[str, "model"]

MASK = "attention_mask"
_LONGEST_SHOWN = 48


def path_of(reference: str) -> Path:
    """The path that a reference would be, `~` filled in; a home that nobody has stays as it is written."""
    path = Path(reference)
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def shown(reference: str) -> str:
    """A data set's or model's reference for people: a long path from the current folder, or its last part alone."""
    path = Path(reference)
    if path.is_absolute():
        near = os.path.relpath(path)
        return path.name if len(near) > _LONGEST_SHOWN or near.startswith("../..") else near
    return path.name if len(reference) > _LONGEST_SHOWN and ":" not in reference else reference


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    `shape` counts elements per axis, -1 where the axis is free; `dtype` is numpy's name (`int8`, `float32`).
    `scale` and `zero_point` are set for quantized tensors: real = (stored - zero_point) * scale."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None


@dataclass(frozen=True)
class Signature:
    """A model's inputs and outputs, by name."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.inputs)

    @property
    def batch(self) -> int:
        """Rows that one inference takes: N where all inputs are tokens (N, L) with their mask and all outputs (N, …), else 1."""
        rows = rows_at_once({spec.name: spec.shape for spec in self.inputs})
        return rows if self.outputs and all(spec.shape[:1] == (rows,) for spec in self.outputs) else 1

    def of_one_row(self) -> "Signature":
        """The same with a batch of 1."""
        if self.batch == 1:
            return self
        inputs, outputs = (
            tuple(replace(spec, shape=(1, *spec.shape[1:])) for spec in specs) for specs in (self.inputs, self.outputs)
        )
        return Signature(inputs, outputs)


def rows_at_once(shapes: Mapping[str, Sequence[int | None]]) -> int:
    """Rows that one inference takes, by the shapes of its inputs: N where all are tokens (N, L) with their mask, else 1."""
    tokens = tuple(shapes.get(MASK, ()))
    rows = tokens[0] if len(tokens) == 2 and all(tuple(shape) == tokens for shape in shapes.values()) else None
    return rows if rows is not None and rows > 0 else 1


@dataclass(frozen=True)
class DataSpec:
    """Rows and how they are read: one value for every data set that a command or a function is given.

    `source` is a path, `hub:NAME[/CONFIG][:SPLIT]`, or rows in memory: a list of dicts, columns by name, a pandas DataFrame, a
    `datasets.Dataset`, or arrays by input name. Columns are found by the task's usual names unless they are named. `samples`
    rows are drawn with `seed`; None takes all. `tokenizer` (a folder), `mean` and `std` (of each channel) say how rows are
    encoded where the model does not."""

    source: Annotated[Any, "dataset"]
    text_columns: tuple[str, ...] = ()
    label_columns: tuple[str, ...] = ()
    samples: int | None = None
    seed: int = 0
    tokenizer: Path | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def origin(self) -> str:
        """What errors and reports call it."""
        return str(self.source) if isinstance(self.source, str | Path) else str(getattr(self.source, "origin", "rows in memory"))
