"""What stays: within its budget, in whole blocks, never nothing; and the plan's file says the same."""

import json
from pathlib import Path

import numpy as np
import pytest

from edgekit.errors import ConfigError
from edgekit.models.architectures import Kept
from edgekit.stages.prune import pruning_plan
from edgekit.stages.prune.config import Scope, StructureConfig
from edgekit.stages.prune.pruning_plan import PruningPlan, Scores


def scores(heads: int = 8, units: int = 48, layers: int = 4, ffns: int = 1, seed: int = 0) -> Scores:
    draw = np.random.default_rng(seed)
    return Scores(
        "gradient",
        tuple(tuple(map(float, draw.random(heads))) for _ in range(layers)),
        tuple(tuple(tuple(map(float, draw.random(units))) for _ in range(ffns)) for _ in range(layers)),
    )


def counts(kept: tuple[Kept, ...]) -> tuple[list[int], list[int]]:
    return [len(part.heads) for part in kept], [len(units) for part in kept for units in part.ffn]


@pytest.mark.parametrize("scope", list(Scope))
@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.75, 0.9, 0.99])
def test_as_much_goes_as_was_asked_for(scope: Scope, share: float) -> None:
    config = StructureConfig(heads=share, ffn=share, scope=scope, round_to=1)
    heads, units = counts(pruning_plan.choose(scores(), config, 8))
    # One of each at least, which matters where next to nothing may stay.
    if scope is Scope.GLOBAL:
        assert sum(heads) == max(int((1 - share) * 32 + 1e-9), 4)
        assert sum(units) == max(int((1 - share) * 192 + 1e-9), 4)
    else:
        assert heads == [max(int((1 - share) * 8 + 1e-9), 1)] * 4
        assert units == [max(int((1 - share) * 48 + 1e-9), 1)] * 4
    assert min(heads) >= 1
    assert min(units) >= 1


@pytest.mark.parametrize(("head_size", "round_to", "block"), [(8, 8, 1), (4, 8, 2), (2, 8, 4), (12, 8, 2), (5, 8, 8), (64, 8, 1)])
def test_widths_are_multiples(head_size: int, round_to: int, block: int) -> None:
    heads, units = counts(pruning_plan.choose(scores(), StructureConfig(heads=0.4, ffn=0.4, round_to=round_to), head_size))
    assert all(count % block == 0 and (count * head_size) % round_to == 0 for count in heads)
    assert all(width % round_to == 0 for width in units)
    assert sum(heads) <= max(0.6 * 32, 4 * block)
    assert sum(units) <= 0.6 * 192


def test_a_width_that_is_no_multiple_stays_whole_or_becomes_one() -> None:
    found = pruning_plan.choose(scores(heads=5, units=21), StructureConfig(heads=0.3, ffn=0.3), 4)
    heads, units = counts(found)
    assert all(count % 2 == 0 or count == 5 for count in heads)
    assert all(width % 8 == 0 or width == 21 for width in units)
    whole = counts(pruning_plan.choose(scores(heads=5, units=21), StructureConfig(), 4))
    assert whole == ([5] * 4, [21] * 4)


def test_the_most_important_stay_in_their_order() -> None:
    given = Scores("taylor", ((0.1, 5.0, 3.0, 4.0),), (((1.0, 0.0, 2.0, 0.5),),))
    assert pruning_plan.choose(given, StructureConfig(heads=0.5, ffn=0.5, round_to=1), 8) == (Kept(0, (1, 3), ((0, 2),)),)


def test_a_head_that_does_nothing_goes_first() -> None:
    given = Scores("gradient", ((0.9, 0.0, 0.8), (0.7, 0.7, 0.6)), (((1.0,),), ((1.0,),)))
    kept = pruning_plan.choose(given, StructureConfig(heads=0.16, round_to=1), 8)
    assert [part.heads for part in kept] == [(0, 2), (0, 1, 2)]


def test_layers_compete_by_their_norm_and_a_scope_keeps_them_apart() -> None:
    # The second layer's scores are a hundred times the first's: divided by their norms they are alike.
    given = Scores("gradient", ((1.0, 1.0, 1.0, 0.1), (100.0, 1.0, 1.0, 1.0)), (((1.0,),), ((1.0,),)))
    together = pruning_plan.choose(given, StructureConfig(heads=0.5, round_to=1), 8)
    assert [part.heads for part in together] == [(0, 1, 2), (0,)]
    apart = pruning_plan.choose(given, StructureConfig(heads=0.5, round_to=1, scope=Scope.LAYER), 8)
    assert [len(part.heads) for part in apart] == [2, 2]


def test_the_least_important_layers_go_and_shares_are_of_what_is_left() -> None:
    heads = tuple(tuple([float(value)] * 4) for value in (3, 1, 2, 4))
    given = Scores("gradient", heads, tuple((tuple([0.1] * 8),) for _ in heads))
    kept = pruning_plan.choose(given, StructureConfig(heads=0.5, layers=2, round_to=1), 8)
    assert [part.layer for part in kept] == [0, 3]
    assert sum(len(part.heads) for part in kept) == 4
    with pytest.raises(ConfigError, match="--layers is 4 but the model has 4; leave at least one"):
        pruning_plan.choose(given, StructureConfig(layers=4), 8)


def test_every_ffn_of_a_layer_is_chosen_from() -> None:
    kept = pruning_plan.choose(scores(ffns=3), StructureConfig(ffn=0.5), 8)
    assert all(len(part.ffn) == 3 for part in kept)
    assert sum(len(units) for part in kept for units in part.ffn) == 4 * 3 * 48 / 2


def test_scores_of_nothing_are_no_trouble() -> None:
    given = Scores("gradient", ((0.0,) * 4,) * 2, (((0.0,) * 16,),) * 2)
    heads, units = counts(pruning_plan.choose(given, StructureConfig(heads=0.5, ffn=0.5), 8))
    assert (sum(heads), sum(units)) == (4, 16)


PLAN = PruningPlan("ab" * 32, scores(layers=2), (Kept(1, (0, 2), ((1, 5, 7),)),), (0, 3, 4))


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    pruning_plan.write(PLAN, tmp_path)
    found = pruning_plan.read(tmp_path)
    assert found == pruning_plan.read(tmp_path / pruning_plan.FILE_NAME)
    assert (found.layers, found.tokens, found.checkpoint_sha256) == (PLAN.layers, PLAN.tokens, PLAN.checkpoint_sha256)
    assert np.allclose(found.importance.heads, PLAN.importance.heads, rtol=1e-5)
    assert found.importance.method == "gradient"
    content = json.loads((tmp_path / pruning_plan.FILE_NAME).read_text())
    assert content["layers"] == [{"layer": 1, "heads": [0, 2], "ffn": [[1, 5, 7]]}]
    pruning_plan.write(PruningPlan("", PLAN.importance, PLAN.layers), tmp_path)
    assert pruning_plan.read(tmp_path).tokens is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"importance": 3}', "\x00"])
def test_another_file_is_no_plan(tmp_path: Path, content: str) -> None:
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(ConfigError, match=r"plan\.json: not a pruning plan"):
        pruning_plan.read(tmp_path / "plan.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        pruning_plan.read(tmp_path)


def test_two_plans_are_one() -> None:
    first = PruningPlan("a", PLAN.importance, (Kept(0, (1, 3), ((2, 4, 6),)), Kept(2, (0, 5), ((1, 3),))), (1, 2))
    second = PruningPlan("b", PLAN.importance, (Kept(1, (1,), ((0,),)),))
    both = pruning_plan.compose(first, second)
    assert both.layers == (Kept(2, (5,), ((1,),)),)
    assert (both.checkpoint_sha256, both.tokens) == ("a", (1, 2))


def test_a_plan_knows_its_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("one")
    with pytest.raises(ConfigError, match=r"plan\.json: is the plan of another checkpoint"):
        pruning_plan.check_source(PLAN, tmp_path, Path("plan.json"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"heads": 1.0}, "heads is 1"),
        ({"heads": -0.1}, "heads is -0.1"),
        ({"ffn": float("nan")}, "ffn is nan"),
        ({"layers": -1}, "layers is -1"),
        ({"round_to": 0}, "round_to is 0"),
        ({"samples": 0}, "samples is 0"),
        ({"max_length": 2}, "max_length is 2"),
    ],
)
def test_a_setting_out_of_range_is_told(settings: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        StructureConfig(**settings)  # type: ignore[arg-type]
