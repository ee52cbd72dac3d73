"""Surgery: what is cut gives the logits of the whole model with zeros in its place, and what was saved is what was cut."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import CheckpointError
from edgekit.models import architectures
from edgekit.models.checkpoint import Checkpoint
from edgekit.models.weights import load_model, start_model
from edgekit.system.worker import Worker
from tests.unit.stages.prune import models
from tests.unit.stages.prune.models import FORMS, Surgery

TOLERANCE = 3e-6


@dataclass(frozen=True)
class Found:
    """What one child did: the surgery on each form, what was told of a cut that cannot be and whether it left the model alone,
    what was told of each wrong folder, and head counts, FFN widths and classes of models to train."""

    forms: dict[str, Surgery | str]
    convolution: tuple[str, bool]
    wrong: dict[str, str]
    started: tuple[list[int], list[int], list[int]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return Worker(timeout_s=200).run(_find, tmp_path_factory.mktemp("surgery")).value


@pytest.fixture(scope="module")
def operated(found: Found) -> dict[str, Surgery | str]:
    return found.forms


def _find(room: Path) -> Found:
    forms = models.operate(room)
    for name, (edit, _) in WRONG.items():
        shutil.copytree(room / "bert" / "cut", room / name)
        edit(room / name)
    return Found(forms, _drop_first_of_convolution(), _load_each(room), _start(room / "bert" / "cut"))


def surgery(operated: dict[str, Surgery | str], form: str) -> Surgery:
    found = operated[form]
    assert isinstance(found, Surgery), found
    return found


def test_every_adapter_has_a_form() -> None:
    assert {model_type for model_type, _ in FORMS.values()} == set(architectures.ADAPTERS)


@pytest.mark.parametrize("form", FORMS)
def test_cut_heads_and_units_are_as_if_masked(operated: dict[str, Surgery | str], form: str) -> None:
    found = surgery(operated, form)
    assert found.cut < TOLERANCE
    assert found.changed > 1e-2


@pytest.mark.parametrize("form", [form for form in FORMS if form != "gpt2, scaled"])
def test_a_removed_layer_is_as_if_never_built(operated: dict[str, Surgery | str], form: str) -> None:
    found = surgery(operated, form)
    assert isinstance(found.fewer, float), found.fewer
    assert found.fewer < TOLERANCE


@pytest.mark.parametrize("form", FORMS)
def test_what_is_saved_loads_as_it_was_cut(operated: dict[str, Surgery | str], form: str) -> None:
    found = surgery(operated, form)
    assert (found.loaded, found.loaded_again) == (0, 0)
    assert found.parameters == found.stored


@pytest.mark.parametrize("form", FORMS)
def test_a_pruned_model_is_pruned_again_and_its_numbers_are_the_first_models(operated: dict[str, Surgery | str], form: str) -> None:
    found = surgery(operated, form)
    assert found.again < TOLERANCE
    assert found.shape["layers"] == [0, 1, 2]
    assert found.shape["heads"] == [[1, 3], [0, 1, 2, 3], [2]]
    assert [widths[0] for widths in found.shape["ffn"]] == [8, 24, 3]
    if form == "gpt2, scaled":
        assert found.shape_again["heads"] == [[1], [0], [2]]
        return
    assert found.shape_again["layers"] == [0, 2]
    # Of heads 1 and 3 the second stayed, of 2 and 0, in this order, too.
    assert found.shape_again["heads"] == [[3], [0]]
    assert [widths[0] for widths in found.shape_again["ffn"]] == [3, 8]


def test_each_ffn_of_a_mobilebert_layer_has_its_own_width(operated: dict[str, Surgery | str]) -> None:
    assert surgery(operated, "mobilebert").shape["ffn"] == [[8, 7, 6], [24, 23, 22], [3, 2, 1]]


def test_layers_that_depend_on_their_number_stay(found: Found) -> None:
    assert "no layer can go" in str(surgery(found.forms, "gpt2, scaled").fewer)
    told, untouched = found.convolution
    assert "so that layer cannot go" in told
    assert untouched


def _drop_first_of_convolution() -> tuple[str, bool]:
    from edgekit.errors import ConfigError

    model = models.build("deberta-v2, convolution")
    before = models.logits(model)
    try:
        architectures.keep(model, models.KEPT[1:])
    except ConfigError as error:
        return str(error), bool((models.logits(model) == before).all())
    return "", False


def test_an_architecture_without_adapter_is_named_with_those_there_are() -> None:
    with pytest.raises(CheckpointError, match="'fnet'.*bert, .*deberta-v2, distilbert, .*gpt2, .*mobilebert"):
        architectures.adapter("fnet")


def test_tokens_before_the_padding_of_a_roberta_stay() -> None:
    assert Worker(timeout_s=100).run(_keep_tokens, range(2, 20)).value == "counts positions from its padding token's number, 1"
    assert Worker(timeout_s=100).run(_keep_tokens, range(20)).value == "20"


def _keep_tokens(kept: range) -> str:
    model = models.build("roberta", pad_token_id=1)
    try:
        architectures.keep_tokens(model, kept)
    except CheckpointError as error:
        return error.message.rpartition(", before")[0]
    return str(model.config.vocab_size)


# Pruned folders that are not as they should be ------------------------------------------------------------------------


def _edit(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        shape = config[architectures.KEY]
        for name, value in changes.items():
            (config if name in config else shape)[name] = value
        (folder / "config.json").write_text(json.dumps(config))

    return edit


WRONG: dict[str, tuple[Callable[[Path], None], str]] = {
    "null": (_edit(edgekit_pruning=None), "does not fit the model's layers"),
    "a list": (_edit(edgekit_pruning=[1, 2]), "does not fit the model's layers"),
    "a layer too many": (_edit(num_hidden_layers=4), "does not fit the model's layers"),
    "a head too many": (_edit(heads=[[0, 1, 2, 3, 4], [0], [1]]), "does not fit the model's layers"),
    "no head": (_edit(heads=[[], [0], [1]]), "does not fit the model's layers"),
    "wider than whole": (_edit(ffn=[[49], [24], [3]]), "does not fit the model's layers"),
    "two FFNs": (_edit(ffn=[[8, 8], [24], [3]]), "does not fit the model's layers"),
    "width in words": (_edit(ffn=[["8"], [24], [3]]), "does not fit the model's layers"),
    "other widths": (_edit(ffn=[[9], [24], [3]]), "the weights do not fit config.json"),
    "heads that do not divide": (_edit(num_attention_heads=5), "no model can be built from config.json"),
    "padding outside": (_edit(pad_token_id=50), "no model can be built from config.json"),
}


def _load_each(room: Path) -> dict[str, str]:
    found = {}
    for name in WRONG:
        try:
            load_model(Checkpoint.read(room / name))
            found[name] = "loads"
        except CheckpointError as error:
            found[name] = str(error)
    return found


def _start(folder: Path) -> tuple[list[int], list[int], list[int]]:
    """Head counts and FFN widths of a pruned config without weights, and the classes of one with weights and of this one."""
    source = Checkpoint.read(folder)
    whole = start_model(source, source.task.settings({}, ("a", "b", "c", "d")))
    (folder / "model.safetensors").unlink()
    empty = start_model(source, source.task.settings({}, ("a", "b")))
    parts = architectures.layers(empty)
    return (
        [part.heads.count for part in parts],
        [part.ffns[0].width for part in parts],
        [whole.classifier.out_features, empty.classifier.out_features],
    )


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_shape_is_told_in_one_line(found: Found, name: str) -> None:
    told = found.wrong[name]
    assert WRONG[name][1] in told
    assert f"{name}:" in told
    assert "\n" not in told


def test_training_starts_from_a_pruned_shape_with_and_without_weights(found: Found) -> None:
    assert found.started == ([2, 4, 1], [8, 24, 3], [4, 2])
