import json
from pathlib import Path

import pytest

from edgekit.data import hub
from edgekit.data.sources import TextRows, read
from edgekit.errors import DatasetError
from edgekit.spec import DataSpec


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "owner" / "reviews"
    place.mkdir(parents=True)
    for split, count in (("train", 5), ("test", 2)):
        lines = [json.dumps({"review": f"{split} {number}", "label": number % 2}) + "\n" for number in range(count)]
        (place / f"{split}.jsonl").write_text("".join(lines))
    return place


@pytest.mark.parametrize(
    ("reference", "tries", "split"),
    [
        ("hub:imdb", [("imdb", None)], None),
        ("hub:imdb:test", [("imdb", None)], "test"),
        ("hub:glue/sst2:validation", [("glue/sst2", None), ("glue", "sst2")], "validation"),
        ("hub:nyu-mll/glue/sst2", [("nyu-mll/glue", "sst2")], None),
        ("hub:glue/sst2:train[:100]", [("glue/sst2", None), ("glue", "sst2")], "train[:100]"),
    ],
)
def test_what_a_reference_may_mean(reference: str, tries: list[tuple[str, str | None]], split: str | None) -> None:
    assert hub.candidates(reference) == (tries, split)


@pytest.mark.parametrize(
    "reference", ["hub:", "hub::train", "hub:imdb:", "hub:a/b/c/d", "hub:a//b", "hub:./missing", "hub:/missing/folder"]
)
def test_malformed_reference(reference: str) -> None:
    with pytest.raises(DatasetError, match="hub:NAME"):
        read(DataSpec(reference))


def test_local_folder_reads_as_a_name_does(folder: Path) -> None:
    rows = read(DataSpec(f"hub:{folder}"), limit=3)
    assert isinstance(rows, TextRows)
    assert (rows.texts, rows.labels) == (("train 0", "train 1", "train 2"), (0, 1, 0))
    assert len(read(DataSpec(f"hub:{folder}:test"))) == 2
    assert len(read(DataSpec(f"hub:{folder}:train[1:4]"))) == 3


def test_unknown_split_names_the_others(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"dev.*'train', 'test'") as caught:
        read(DataSpec(f"hub:{folder}:dev"))
    assert "\n" not in str(caught.value)


def test_without_train_split_one_must_be_named(folder: Path) -> None:
    (folder / "train.jsonl").rename(folder / "validation.jsonl")
    with pytest.raises(DatasetError, match=r"no train split; add one of :validation, :test"):
        read(DataSpec(f"hub:{folder}"))
    (folder / "test.jsonl").unlink()
    assert len(read(DataSpec(f"hub:{folder}"))) == 5


def test_parquet_with_class_names(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"verdict": datasets.ClassLabel(names=["neg", "pos"]), "text": datasets.Value("string")})
    place = tmp_path / "set"
    place.mkdir()
    datasets.Dataset.from_dict({"verdict": [1, 0], "text": ["a", "b"]}, features).to_parquet(place / "train.parquet")
    datasets.Dataset.from_dict({"verdict": [-1, -1], "text": ["a", "b"]}, features).to_parquet(place / "test.parquet")
    rows = read(DataSpec(f"hub:{place}"))
    assert isinstance(rows, TextRows)
    assert (rows.texts, rows.labels, rows.class_names) == (("a", "b"), (1, 0), ("neg", "pos"))
    withheld = read(DataSpec(f"hub:{place}:test"))
    assert isinstance(withheld, TextRows)
    assert withheld.labels is None


def test_configuration_of_a_local_folder(tmp_path: Path) -> None:
    place = tmp_path / "set"
    place.mkdir()
    (place / "one.csv").write_text("text,label\na,0\n")
    (place / "two.csv").write_text("text,label\nb,1\nc,0\n")
    configs = "".join(f"- config_name: {name}\n  data_files: {name}.csv\n" for name in ("one", "two"))
    (place / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    rows = read(DataSpec(f"hub:{place}/two:train"))
    assert isinstance(rows, TextRows)
    assert rows.texts == ("b", "c")
    with pytest.raises(DatasetError, match="'one', 'two'"):
        read(DataSpec(f"hub:{place}"))


@pytest.mark.parametrize("reference", ["hub:no_such_set", "hub:glue/sst2:validation"])
def test_without_a_network(reference: str) -> None:
    with pytest.raises(DatasetError, match="hub cannot be reached") as caught:
        read(DataSpec(reference))
    assert "\n" not in str(caught.value)


def test_broken_file_of_a_folder(folder: Path) -> None:
    (folder / "test.jsonl").unlink()
    (folder / "train.jsonl").write_text('{"review": \n')
    with pytest.raises(DatasetError, match="check the configuration, the split and the files") as caught:
        read(DataSpec(f"hub:{folder}"))
    assert "\n" not in str(caught.value)
