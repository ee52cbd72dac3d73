"""Single weights at zero: how many, which, where, for good."""

import json
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import ConfigError
from edgekit.stages.prune.config import Method
from edgekit.stages.prune.sparsity import SparsityConfig, SparsityResult, sparsify
from edgekit.system.worker import Worker
from tests.unit.stages.prune.models import Inline

RUNS = {
    "l1": SparsityConfig(0.3),
    "random": SparsityConfig(0.3, Method.RANDOM, seed=1),
    "random again": SparsityConfig(0.3, Method.RANDOM, seed=1),
    "random otherwise": SparsityConfig(0.3, Method.RANDOM, seed=2),
    "threshold": SparsityConfig(method=Method.THRESHOLD, threshold=0.05),
    "pattern": SparsityConfig(0.9, weights="*.layer.1.*.dense"),
    "nothing": SparsityConfig(0.0),
}


def _sparsify_all(checkpoint: Path, folder: Path) -> tuple[dict[str, SparsityResult], dict[str, Any], dict[str, Any], str]:
    """In a child: each run's result and state dict, the dense one's, and what is told where nothing matches."""
    from safetensors.numpy import load_file

    from edgekit.models.checkpoint import Checkpoint
    from edgekit.models.weights import load_model

    results, weights = {}, {}
    for name, config in RUNS.items():
        results[name] = sparsify(Checkpoint.read(checkpoint), folder / name, config, worker=Inline())
        weights[name] = load_file(folder / name / "model.safetensors")
        assert set(load_model(Checkpoint.read(folder / name)).state_dict()) >= set(weights[name])
    told = ""
    for refused in (SparsityConfig(0.5, weights="*.h.*"), SparsityConfig(method=Method.THRESHOLD, threshold=99)):
        try:
            sparsify(Checkpoint.read(checkpoint), folder / "none", refused, worker=Inline())
        except ConfigError as error:
            told += f"{error}\n"
    return results, weights, load_file(checkpoint / "model.safetensors"), told


Sparse = tuple[dict[str, SparsityResult], dict[str, Any], dict[str, Any], str, Path]


@pytest.fixture(scope="module")
def sparse(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Sparse:
    folder = tmp_path_factory.mktemp("sparse") / "out"
    return *Worker(timeout_s=100).run(_sparsify_all, tiny_bert, folder).value, folder


def linear(weights: dict[str, Any]) -> dict[str, Any]:
    return {name: array for name, array in weights.items() if array.ndim == 2 and "embeddings" not in name}


def test_the_smallest_of_each_matrix_go_and_the_others_stay(sparse: Sparse) -> None:
    results, weights, dense, *_ = sparse
    for name, array in linear(weights["l1"]).items():
        gone = array == 0
        assert gone.sum() == round(0.3 * array.size)
        assert abs(dense[name][gone]).max() <= abs(dense[name][~gone]).min()
        assert (array[~gone] == dense[name][~gone]).all()
    found = results["l1"]
    assert found.matrices == len(linear(dense)) == 14
    assert found.chosen == sum(array.size for array in linear(dense).values())
    assert found.zeros / found.chosen == pytest.approx(0.3, abs=1e-3)
    assert found.zeros_before == 0
    assert found.parameters == sum(array.size for array in dense.values())


def test_everything_else_is_untouched_and_masks_are_gone(sparse: Sparse) -> None:
    _, weights, dense, *_ = sparse
    for name, found in weights.items():
        assert found.keys() == dense.keys(), name  # no weight_orig, no weight_mask
        assert all((found[key] == dense[key]).all() for key in dense if key not in linear(dense))


def test_random_weights_go_by_the_seed(sparse: Sparse) -> None:
    results, weights, *_ = sparse
    first, again, other = (weights[name] for name in ("random", "random again", "random otherwise"))
    assert all((first[name] == again[name]).all() for name in first)
    assert any((first[name] != other[name]).any() for name in linear(first))
    assert results["random"].zeros / results["random"].chosen == pytest.approx(0.3, abs=1e-3)


def test_a_threshold_takes_what_lies_below_it(sparse: Sparse) -> None:
    _, weights, dense, *_ = sparse
    for name, array in linear(weights["threshold"]).items():
        assert ((array == 0) == (abs(dense[name]) < 0.05)).all()


def test_a_pattern_chooses_layers(sparse: Sparse) -> None:
    results, weights, dense, *_ = sparse
    changed = {name for name in dense if (weights["pattern"][name] != dense[name]).any()}
    prefix = "bert.encoder.layer.1"
    assert changed == {f"{prefix}.{name}.dense.weight" for name in ("attention.output", "intermediate", "output")}
    assert results["pattern"].matrices == 3


def test_none_is_none(sparse: Sparse) -> None:
    results, weights, dense, *_ = sparse
    assert results["nothing"].zeros == 0
    assert all((weights["nothing"][name] == dense[name]).all() for name in dense)


def test_a_pattern_that_matches_nothing_is_told_with_names_and_nothing_is_written(sparse: Sparse) -> None:
    *_, told, folder = sparse
    assert "--weights *.h.*: no linear layer has such a name" in told
    assert "bert.encoder.layer.0.attention.self.query" in told
    assert "--threshold 99 leaves none of 69760 weights; give a smaller one" in told
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) == sorted(RUNS)


def test_the_folder_is_a_checkpoint_with_its_manifest(sparse: Sparse, tiny_bert: Path) -> None:
    folder = sparse[-1] / "l1"
    assert (folder / "tokenizer.json").read_bytes() == (tiny_bert / "tokenizer.json").read_bytes()
    manifest = json.loads((folder / "edgekit.json").read_text())
    assert manifest["measured"]["zeros"] == sparse[0]["l1"].zeros
    assert manifest["config"]["method"] == "l1"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sparsity": 1.0}, "sparsity is 1"),
        ({"sparsity": -0.5}, "sparsity is -0.5"),
        ({"sparsity": float("nan")}, "sparsity is nan"),
        ({"threshold": 0.0}, "threshold is 0"),
        ({"threshold": float("nan")}, "threshold is nan"),
    ],
)
def test_a_setting_out_of_range_is_told(settings: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SparsityConfig(**settings)  # type: ignore[arg-type]
