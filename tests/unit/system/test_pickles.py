import pickle
from pathlib import Path

import pytest

from edgekit.system import pickles


def test_paths_are_read_by_every_python() -> None:
    """The class of a path lies in pathlib on 3.11 and 3.12, and in pathlib._local on 3.13: a child may run another one."""
    value = {"files": (Path("a/b"), [Path("/c")])}
    written = pickles.dumps(value)
    assert b"pathlib" not in written
    assert pickles.loads(written) == value


def test_nothing_else_is_run() -> None:
    with pytest.raises(pickle.UnpicklingError, match="no plain data"):
        pickles.loads(pickle.dumps(pytest.raises))
