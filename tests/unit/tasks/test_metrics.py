"""Metrics against the libraries that the field trusts, counts and intervals against values from tables and by hand."""

import numpy as np
import pytest

from edgekit.errors import DatasetError
from edgekit.tasks import metrics
from edgekit.tasks.metrics import Metric, difference, moments, proportion


def test_wilson_at_the_ends():
    # z^2 / (n + z^2) = 3.8415 / 13.8415
    none, every = proportion(0, 10), proportion(10, 10)
    assert (none.low, none.value) == (0.0, 0.0)
    assert none.high == pytest.approx(0.27753, abs=1e-5)
    assert (every.high, every.value) == (1.0, 1.0)
    assert every.low == pytest.approx(1 - 0.27753, abs=1e-5)


def test_wilson_in_the_middle():
    # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3: 81 of 263.
    found = proportion(81, 263)
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)


def test_nothing_to_count():
    with pytest.raises(DatasetError, match="no rows"):
        proportion(0, 0)


def test_the_paired_interval():
    # p12 = 10/102, p21 = 4/102: 0.058824 -+ 1.959964 * sqrt((0.137255 - 0.003460) / 102)
    found = difference(lost=9, gained=3, total=100)
    assert found.value == pytest.approx(0.06)
    assert [found.low, found.high] == pytest.approx([-0.01216, 0.12981], abs=1e-5)


def test_no_discordant_row_still_leaves_an_interval():
    found = difference(0, 0, 50)
    assert found.value == 0
    assert found.low == -found.high < 0


@pytest.fixture
def labels() -> tuple[np.ndarray, np.ndarray]:
    """Labels (200, 6) that hold and that are named; the last is neither once."""
    draw = np.random.default_rng(3)
    truth = draw.random((200, 6)) < (0.5, 0.3, 0.2, 0.1, 0.02, 0)
    return truth, truth ^ (draw.random((200, 6)) < (0.2, 0.1, 0.1, 0.05, 0.02, 0))


@pytest.mark.parametrize(("metric", "average"), [(metrics.MICRO_F1, "micro"), (metrics.MACRO_F1, "macro")])
def test_f1_is_scikit_learns(labels: tuple[np.ndarray, np.ndarray], metric: Metric, average: str):
    from sklearn.metrics import f1_score

    truth, named = labels
    counts = np.stack([truth & named, ~truth & named, truth & ~named], axis=2)
    tallies = counts.sum(axis=1) if average == "micro" else counts.reshape(len(counts), -1)
    assert metric.value(tallies) == pytest.approx(f1_score(truth, named, average=average, zero_division=0))


def test_accuracy_and_loss_are_scikit_learns():
    from sklearn.metrics import accuracy_score, log_loss

    draw = np.random.default_rng(5)
    truth, logits = draw.integers(0, 3, 50), draw.standard_normal((50, 3))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    right = (logits.argmax(axis=1) == truth)[:, None]
    assert metrics.ACCURACY.value(right) == accuracy_score(truth, logits.argmax(axis=1))
    losses = -np.log(shares[np.arange(50), truth])
    assert metrics.CROSS_ENTROPY.value(np.stack([losses, np.ones(50)], axis=1)) == pytest.approx(log_loss(truth, shares))


def test_correlations_are_scipys_and_the_absolute_error_scikit_learns():
    from scipy import stats
    from sklearn.metrics import mean_absolute_error

    draw = np.random.default_rng(4)
    x = np.round(draw.standard_normal(80), 1) + 2000  # ties, far from zero
    y = np.round(x + draw.standard_normal(80), 1)
    assert metrics.PEARSON.value(moments(x, y)) == pytest.approx(stats.pearsonr(x, y).statistic)
    assert metrics.SPEARMAN.value(np.stack([x, y], axis=1)) == pytest.approx(stats.spearmanr(x, y).statistic)
    error = np.stack([np.abs(x - y), np.ones(80)], axis=1)
    assert metrics.MEAN_ABSOLUTE_ERROR.value(error) == pytest.approx(mean_absolute_error(x, y))


@pytest.mark.parametrize("value", [0.0, 0.1, 2000.1, -2e6 / 3])
def test_a_constant_correlates_with_nothing(value: float):
    x = np.full(1000, value)
    y = np.random.default_rng(0).normal(2000, 3, 1000)
    score = metrics.PEARSON.score(moments(x, y))
    assert score is not None
    assert (score.value, score.low, score.high) == (0, 0, 0)
    assert metrics.SPEARMAN.value(np.stack([x, y], axis=1)) == 0


def test_the_bootstraps_interval_is_scipys():
    from scipy import stats

    values = np.random.default_rng(0).gamma(2.0, size=100)
    score = metrics.ANSWER_F1.score(np.stack([values, np.ones(100)], axis=1))
    assert score is not None
    expected = stats.bootstrap((values,), np.mean, n_resamples=5000, method="percentile", rng=1).confidence_interval
    assert (score.low, score.high) == pytest.approx((expected.low, expected.high), abs=0.03)
    assert score.value == pytest.approx(values.mean())


def test_a_drop_is_paired_and_above_zero_for_what_is_worse():
    draw = np.random.default_rng(1)
    base = draw.random(200)
    ours, theirs = (np.stack([values, np.ones(200)], axis=1) for values in (base - 0.01, base))
    drop = metrics.ANSWER_F1.drop(ours, theirs)
    assert drop is not None
    # Both lose the same in each row, so that pairing leaves no doubt where single intervals are 0.04 wide.
    assert (drop.value, drop.low, drop.high) == pytest.approx((0.01, 0.01, 0.01))
    error = metrics.MEAN_ABSOLUTE_ERROR.drop(ours, theirs)
    assert error is not None
    assert error.value == pytest.approx(-0.01)
