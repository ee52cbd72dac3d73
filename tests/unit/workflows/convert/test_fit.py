"""Rows of another length than a model's free axis was fixed to."""

import numpy as np
import pytest

from edgekit.data.sources import ArrayRows
from edgekit.errors import DatasetError
from edgekit.workflows.convert.fit import check_length


def test_rows_of_another_length_name_the_option() -> None:
    rows = ArrayRows({"input_ids": np.zeros((5, 24), np.int64), "x": np.zeros((5, 3))}, None, "rows.npz")
    check_length(rows, ["input_ids"], 24)
    check_length(rows, ["absent"], 64)
    with pytest.raises(DatasetError, match=r"'input_ids' has 24 tokens a row.*fixed to 64; give --max-length 24"):
        check_length(rows, ["input_ids"], 64)
