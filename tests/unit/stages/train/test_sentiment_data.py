"""The project's own sentiment set is what its README says."""

import runpy
import shutil
from pathlib import Path

import pytest

from edgekit.data.sources import TextRows, read
from edgekit.spec import DataSpec


def _rows(root: Path, split: str) -> TextRows:
    rows = read(DataSpec(root / "representative_data" / f"sentiment_{split}.tsv"))
    assert isinstance(rows, TextRows)
    return rows


@pytest.mark.parametrize(("split", "count"), [("train", 1200), ("dev", 300)])
def test_it_is_balanced_and_without_duplicates(root: Path, split: str, count: int) -> None:
    rows = _rows(root, split)
    assert rows.labels is not None
    assert len({text.casefold() for text in rows.texts}) == len(rows) == count
    assert rows.labels.count(0) == rows.labels.count(1) == count // 2
    assert max(len(text.split()) for text in rows.texts) <= 40


def test_train_and_dev_share_no_sentence(root: Path) -> None:
    assert not {text.casefold() for text in _rows(root, "train").texts} & {text.casefold() for text in _rows(root, "dev").texts}


def test_its_script_makes_the_same_bytes_again(root: Path, tmp_path: Path) -> None:
    source = root / "representative_data"
    for file in (*source.glob("*.toml"), source / "make_sentiment.py"):
        shutil.copy(file, tmp_path)
    runpy.run_path(str(tmp_path / "make_sentiment.py"), run_name="__main__")
    for split in ("train", "dev"):
        name = f"sentiment_{split}.tsv"
        assert (tmp_path / name).read_bytes() == (source / name).read_bytes()
