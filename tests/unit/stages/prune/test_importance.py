"""Importance against what autograd and plain sums say of the same rows."""

from typing import Any

import numpy as np
import pytest

from edgekit.stages.prune.pruning_plan import Scores
from edgekit.system.worker import Worker
from tests.unit.stages.prune import measuring


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    return Worker(timeout_s=200).run(measuring.measure, tmp_path_factory.mktemp("importance")).value


def near(one: Scores, other: Scores) -> bool:
    """Equal within what sums in another order make of float32."""
    pairs = [*zip(one.heads, other.heads, strict=True)]
    pairs += [pair for ours, theirs in zip(one.ffn, other.ffn, strict=True) for pair in zip(ours, theirs, strict=True)]
    return all(np.allclose(ours, theirs, rtol=2e-3, atol=2e-5 * max(theirs)) for ours, theirs in pairs)


@pytest.mark.parametrize("method", ["gradient", "taylor", "activation", "magnitude"])
@pytest.mark.parametrize("form", measuring.SHOWN)
def test_scores_are_what_they_are_said_to_be(measured: tuple[Any, Any, Any], form: str, method: str) -> None:
    found = measured[0][form]
    assert not isinstance(found, str), found
    ours, by_hand = found[method]
    assert ours.method == method
    assert [len(layer) for layer in ours.heads] == [4, 4, 4]
    assert near(ours, by_hand)
    assert not near(ours, Scores(method, by_hand.heads[::-1], by_hand.ffn))


@pytest.mark.parametrize("form", measuring.SHOWN)
def test_what_nothing_listens_to_scores_zero_and_goes_first(measured: tuple[Any, Any, Any], form: str) -> None:
    for scores, heads, units in measured[1][form]:
        assert scores.heads[1][2] == 0
        assert scores.ffn[1][-1][5] == 0
        assert heads == (0, 1, 3)
        # MobileBERT's ReLU leaves other units silent as well, and of equals the first stays.
        assert 5 not in units or (form == "mobilebert" and scores.ffn[1][-1].count(0) > 1)
        assert min(scores.heads[0] + scores.heads[2]) > 0


def test_random_scores_come_back_with_their_seed(measured: tuple[Any, Any, Any]) -> None:
    (first, again, other), _ = measured[2]
    assert first == again
    assert first != other


def test_gradients_need_labels_and_activations_do_not(measured: tuple[Any, Any, Any]) -> None:
    assert "importance by gradients needs labelled rows" in measured[2][1]
