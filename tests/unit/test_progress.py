"""What is said of progress where there is no terminal."""

from types import SimpleNamespace

import pytest

from edgekit.cli import progress
from edgekit.cli.progress import Lines, duration
from edgekit.system.worker import Progress, stage


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_a_stage_says_that_it_begins_and_what_it_took(clock: list[float]) -> None:
    said: list[str] = []
    lines = Lines(said.append)
    with stage(lines, "calibrate"):
        clock[0] += 8.4
    with stage(lines, "quick"):
        clock[0] += 0.2
    with stage(lines, "calibrate"):
        clock[0] += 90
    assert said == ["calibrate", "calibrate: took 8.4 s", "quick", "calibrate", "calibrate: took 1 min 30 s"]


def test_a_stage_whose_child_ends_with_it_ends_once(clock: list[float]) -> None:
    said: list[str] = []
    lines = Lines(said.append)
    with stage(lines, "calibrate"):
        for done in (0, 100, 200):
            lines(Progress("calibrate", done, 200))
            clock[0] += 4
    assert said == ["calibrate", "calibrate: took 8.0 s"]


def test_a_count_says_how_long_it_will_still_take(clock: list[float]) -> None:
    said: list[str] = []
    lines = Lines(said.append)
    for done in range(4):
        lines(Progress("train", done, 10, f"loss {done}"))
        clock[0] += 5
        lines.beat()
    assert said == ["train", "train: 1 of 10, about 40 s left", "train: 3 of 10, about 30 s left"]


def test_remarks_are_all_said_and_no_stage(clock: list[float]) -> None:
    said: list[str] = []
    lines = Lines(said.append)
    for note in ("one road fails", "another fails"):
        lines(Progress("convert", 0, 0, note))
    clock[0] += 60
    lines.beat()
    assert said == ["convert: one road fails", "convert: another fails"]


def test_a_stage_that_fails_is_not_over(clock: list[float]) -> None:
    said: list[str] = []
    lines = Lines(said.append)
    with pytest.raises(ValueError, match="broken"), stage(lines, "calibrate"):
        clock[0] += 20
        raise ValueError("broken")
    lines.beat()
    assert said == ["calibrate", "calibrate: 20 s so far"]


@pytest.mark.parametrize(("seconds", "text"), [(0.94, "0.9 s"), (12.4, "12 s"), (119.6, "2 min 0 s"), (3725, "1 h 2 min")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
