"""One tree, one exit code for each branch, one line for each message."""

import pickle
from collections.abc import Iterator

import pytest

from edgekit import errors
from edgekit.errors import EdgekitError


def _tree(root: type[EdgekitError]) -> Iterator[type[EdgekitError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


OURS = [kind for kind in _tree(EdgekitError) if kind.__module__ in ("edgekit", "edgekit.errors")]


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.ConfigError, 2),
        (errors.InputError, 3),
        (errors.ConversionError, 4),
        (errors.WorkerError, 5),
        (errors.OutputError, 6),
    ],
)
def test_every_branch_keeps_its_exit_code(kind: type[EdgekitError], code: int) -> None:
    assert {child.exit_code for child in _tree(kind)} == {code}


def test_every_class_stands_in_the_drawn_tree() -> None:
    assert errors.__doc__ is not None
    drawn = set(errors.__doc__.split())
    assert {kind.__name__ for kind in OURS} <= drawn


@pytest.mark.parametrize("kind", OURS)
def test_survives_the_way_from_a_child(kind: type[EdgekitError]) -> None:
    raised = kind("model.onnx: broken; export it again", "Traceback …")
    raised.detail = "changed later"
    copy = pickle.loads(pickle.dumps(raised))
    assert type(copy) is kind
    assert (str(copy), copy.detail) == ("model.onnx: broken; export it again", "changed later")


def test_the_message_is_one_line() -> None:
    assert str(EdgekitError("a file:\n  the\tcause\r\n\nwhat next ")) == "a file: the cause what next"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("not\n  a multiple", "not a multiple"),
        ("", "RuntimeError"),
        ("\x1b[96mThis is step 2/3\x1b[0m of it", "This is step 2/3 of it"),
        ("Depth of output is 3 for '{{node conv}} = Conv2D[T=DT_FLOAT]' with input shapes: [1,3]", "Depth of output is 3"),
        ("{{function_node __wrapped__Sub}} cannot compute Sub [Op:Sub] name: ", "cannot compute Sub"),
        ("word " * 60, "word " * 39 + "…"),
    ],
)
def test_a_librarys_words_end_where_a_word_does(words: str, line: str) -> None:
    assert errors.one_line(RuntimeError(words)) == line
