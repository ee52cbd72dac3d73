"""Rows that two data sets share, found by what they hold and not by where they lie."""

from collections.abc import Mapping

import numpy as np

from edgekit.data.samples import Array
from edgekit.data.sources import ArrayRows, ImageRows, Rows, take
from edgekit.system import artifacts


def apart(rows: Rows, judged: Rows) -> Rows:
    """Those of `rows` that are none of `judged`, whatever their labels say."""
    seen = set(_digests(judged))
    kept = [number for number, digest in enumerate(_digests(rows)) if digest not in seen]
    return rows if len(kept) == len(rows) else take(rows, kept)


def array_digests(arrays: Mapping[str, Array]) -> list[object]:
    """One for each row over all arrays; equal values have equal ones."""
    ordered = [arrays[name] for name in sorted(arrays)]
    return [hash(tuple(np.ascontiguousarray(part).tobytes() for part in row)) for row in zip(*ordered, strict=True)]


def _digests(rows: Rows) -> list[object]:
    if isinstance(rows, ImageRows):
        return [artifacts.sha256(file) for file in rows.files]
    if isinstance(rows, ArrayRows):
        return array_digests(rows.arrays)
    return list(zip(rows.texts, rows.pairs or rows.texts, strict=True))
