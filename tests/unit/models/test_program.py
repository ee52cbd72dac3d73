"""Programs of torch.export: what is loaded, how free sizes are fixed, and what a file may not bring along."""

import pytest

from edgekit.system.worker import Worker
from tests.unit.models import programs

NET = "image:float32:(1, 3, 8, 8) meta_a:float32:(1, 4) -> logits:(1, 2) x:(1, 4)"


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return Worker(timeout_s=300).run(programs.sound_and_strange, tmp_path_factory.mktemp("programs")).value


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("net", NET),
        ("texts", "input_ids:int64:(1, 8) attention_mask:int64:(1, 8) -> output_0:(1, 3)"),
        # No longer than the program allows.
        ("long texts", "input_ids:int64:(1, 24) attention_mask:int64:(1, 24) -> output_0:(1, 3)"),
        # The batch is no less than it allows, other sizes are those of its example.
        ("large", "input:float32:(2, 3, 16, 20) -> output_0:(2, 2, 14, 18)"),
        ("places", "x:float32:(1, 4) unread:float32:(1, 2) -> boxes:(1, 4) scores_0:(1,)"),
        ("quiet", "x:float32:(1, 4) -> output_0:(1, 4)"),
        ("wide batch", "image:float32:(3, 3, 8, 8) meta_a:float32:(3, 4) -> logits:(3, 2) x:(3, 4)"),
        # Of these files torch would evaluate, import or unpickle what is not needed.
        ("size", NET),
        ("guard", NET),
        ("structure", NET.replace("logits", "output_0").replace("x:(1, 4)", "output_1:(1, 4)")),
        ("examples", NET),
    ],
)
def test_ends_have_the_program_s_names_and_no_size_is_free(answers: dict[str, str], name: str, ends: str) -> None:
    assert answers[name] == ends


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hub", "calls torch.hub.load, which is not PyTorch's own"),
        ("library", "calls torch.ops.load_library, which is not"),
        ("foreign op", "calls torch.ops.mine.twice.default, which is not"),
        ("method", "calls _operator.methodcaller, which is not"),
        ("extension", "calls #x:os, which is not"),
        ("class", "calls torch.ops.aten.__class__.mro, which is not"),
        ("reads a file", "calls torch.ops.aten.from_file.default, which is not known to compute"),
        ("writes a file", "calls torch.ops.aten.save.default, which is not known to compute"),
        ("name", "is no name of a tensor or op"),
        ("parameter", "is no name of a tensor or op"),
        ("custom object", "calls a Python object, which is not loaded"),
        ("opaque object", "x is a Python object, pickled"),
        ("pickled weight", "linear.bias is a Python object, pickled"),
        ("no values", "linear.bias has no values, it was exported from fake tensors"),
        ("compiled", "holds compiled code"),
        ("older", "holds its weights as a pickle"),
        ("version", "is of version 7 of the format"),
        ("no json", "is damaged"),
        ("no graph", "is damaged"),
        ("flipped", "is damaged (net/data/weights/weight_0)"),
        ("truncated", "is no program that torch.export.save"),
        ("empty", "is empty"),
        ("text", "is no .pt2 file"),
        ("hollow", "is no .pt2 file"),
        ("zip", "is no program that torch.export.save"),
        ("script", "is no program that torch.export.save"),
        ("counts", "changes slice_1 as it runs"),
        ("counts quietly", "changes slice_1 as it runs"),
        ("trains", "torch.ops.aten.dropout.default trains; call .eval()"),
        ("half", "input input is float16"),
    ],
)
def test_what_does_more_than_compute_is_refused(answers: dict[str, str], name: str, words: str) -> None:
    assert answers[name].startswith("ModelFormatError: ")
    assert f"{name}.pt2: " in answers[name]
    assert words in answers[name]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("other sides", "--input-shape image=3,3,8,9 does not fit image=?,3,8,8"),
        ("two batches", "--input-shape says 3 and 2 for"),
        ("no such input", "there is no input pixels; it has image, meta_a"),
        ("small side", "the program wants 4 to be at least 8 and at most 64"),
    ],
)
def test_shapes_that_the_program_does_not_take_are_refused(answers: dict[str, str], name: str, words: str) -> None:
    assert answers[name].startswith("InputError: ")
    assert words in answers[name]


def test_nothing_of_any_file_ran(answers: dict[str, str]) -> None:
    assert answers["left"] == "False"
