"""Rows of one data set that another one holds as well."""

import numpy as np

from edgekit.data.overlap import apart
from edgekit.data.sources import ArrayRows, TextRows


def test_rows_are_the_same_by_their_values_whatever_their_file_and_label():
    values = np.arange(12, dtype=np.float32).reshape(6, 2)
    judged = ArrayRows({"x": values[3:], "y": values[3:]}, np.zeros(3, np.int64), "judged.npz")
    rows = ArrayRows({"y": values, "x": values}, np.ones(6, np.int64), "rows.npz")
    kept = apart(rows, judged)
    assert isinstance(kept, ArrayRows)
    assert np.array_equal(kept.arrays["x"], values[:3])
    other = ArrayRows({"x": values, "y": values[::-1]}, None, "other.npz")
    assert apart(other, judged) is other


def test_pairs_of_texts_are_the_same_in_both_halves():
    rows = TextRows(("a", "a"), ("b", "c"), None, "rows.tsv")
    kept = apart(rows, TextRows(("a",), ("c",), None, "judged.tsv"))
    assert isinstance(kept, TextRows)
    assert kept.pairs == ("b",)
