"""Which candidate wins, and what is said of it."""

import numpy as np
import pytest

from edgekit.data.samples import Samples
from edgekit.errors import RefusedError
from edgekit.stages.quantize.candidates import Candidate, choose
from edgekit.tasks.judgement import judge


def candidate(name: str, agreement: float | None, error_db: float, p50: float, **more) -> Candidate:
    return Candidate(name, rows=more.pop("rows", 64), agreement=agreement, error_db=error_db, p50_ms=p50, partitions=2, **more)


def test_of_equally_true_ones_the_faster_wins():
    tried = [candidate("every op", 0.97, 20, 9.0), candidate("matrix products", 0.98, 21, 2.5)]
    assert choose(tried)[0].name == "matrix products"


def test_a_tie_in_speed_goes_to_more_integers():
    tried = [candidate("every op", 0.97, 20, 2.6), candidate("matrix products", 0.98, 21, 2.5)]
    assert choose(tried)[0].name == "every op"


def test_a_faster_one_that_decides_otherwise_loses():
    tried = [candidate("every op", 0.90, 20, 1.0), candidate("matrix products", 0.98, 21, 2.5)]
    assert choose(tried)[0].name == "matrix products"


def test_one_that_loses_too_much_is_taken_where_all_do():
    tried = [candidate("every op", 0.94, 20, 1.0), candidate("matrix products", 0.96, 21, 2.5)]
    assert choose(tried)[0].name == "every op"
    assert choose(tried, losing=["every op"])[0].name == "matrix products"
    assert choose(tried, losing=["every op", "matrix products"])[0].name == "every op"


def test_a_bit_of_noise_decides_where_agreement_does_not():
    tried = [candidate("every op", 1.0, 8, 1.0), candidate("matrix products", 1.0, 15, 2.5)]
    assert choose(tried)[0].name == "matrix products"


def test_more_than_enough_signal_does_not_cost_speed():
    tried = [candidate("every op", 1.0, 31, 1.0), candidate("matrix products", 1.0, 60, 2.5)]
    assert choose(tried)[0].name == "every op"


def test_without_decisions_the_error_alone_tells_and_nobody_speaks_of_agreement():
    tried = [candidate("every op", None, 8, 1.0), candidate("matrix products", None, 15, 2.5)]
    chosen, reason = choose(tried)
    assert chosen.name == "matrix products"
    assert "worst output at 15.0 dB" in reason
    assert "agreement" not in reason


def test_one_row_of_few_is_chance():
    tried = [candidate("every op", 0.9, 20, 1.0, rows=10), candidate("matrix products", 1.0, 21, 2.5, rows=10)]
    assert choose(tried)[0].name == "every op"


def test_a_candidate_that_does_not_run_is_told_and_the_other_taken():
    tried = [Candidate("every op", failure="stops at DIV"), candidate("matrix products", 0.98, 21, 2.5)]
    chosen, reason = choose(tried)
    assert chosen.name == "matrix products"
    assert "2.50 ms, 2 partitions" in reason
    assert "integers in every op do not run (stops at DIV)" in reason


def test_with_none_that_runs_each_cause_is_named():
    tried = [Candidate("every op", failure="stops at DIV"), Candidate("matrix products", failure="no op has an int8 form")]
    with pytest.raises(RefusedError, match=r"\(stops at DIV; no op has an int8 form\); choose dynamic or float16"):
        choose(tried)


def test_labels_tell_what_other_decisions_lose():
    expected = {"logits": np.eye(4)[[0, 1, 2, 3]]}
    outputs = {"logits": np.eye(4)[[0, 1, 3, 0]]}

    def lost(labels, task="tabular-classification") -> float:
        rows = Samples({"x": np.zeros((5, 1))}, labels, task=task)
        return judge(outputs, rows, expected).lost

    assert lost(None) == 0.5
    assert lost(np.array([0, 1, 2, 0, 1])) == 0
    assert lost(np.array([0, 1, 2, 2, 9])) == 0.25, "there may be more labels than rows that were run"
    assert lost(None, "generic") == 0
