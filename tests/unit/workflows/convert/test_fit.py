"""Rows of another length than a model's free axis was fixed to."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgekit.data.sources import ArrayRows
from edgekit.errors import DatasetError
from edgekit.models.source import Kind, Source
from edgekit.workflows.convert.config import ConvertConfig
from edgekit.workflows.convert.fit import check_length, check_rows
from tests.unit.stages.export.test_branches import by_input


def test_rows_of_another_length_name_the_option() -> None:
    rows = ArrayRows({"input_ids": np.zeros((5, 24), np.int64), "x": np.zeros((5, 3))}, None, "rows.npz")
    check_length(rows, ["input_ids"], 24)
    check_length(rows, ["absent"], 64)
    with pytest.raises(DatasetError, match=r"'input_ids' has 24 tokens a row.*fixed to 64; give --max-length 24"):
        check_length(rows, ["input_ids"], 64)


def test_rows_hold_no_input_that_has_a_value(tmp_path: Path) -> None:
    file, rows = tmp_path / "model.onnx", ArrayRows({"x": np.zeros((5, 4), np.float32)}, None, "rows.npz")
    onnx.save(by_input(), file)
    source = Source(Kind.ONNX, file, "model")
    check_rows(source, ConvertConfig(("float32",), input_values={"rate": (8000,)}), rows)
    with pytest.raises(DatasetError, match="no array for the model's input 'rate'"):
        check_rows(source, ConvertConfig(("float32",)), rows)
