import pytest

from edgekit.models import channels


@pytest.mark.parametrize(
    ("shape", "slid", "moves"),
    [
        ((1, 3, 8, 6), True, True),
        ((1, 3, 8, 6), False, True),  # an image
        ((1, 5, 8, 6), False, False),
        ((1, 4, 9), True, True),
        ((1, 4, 9), False, False),
        ((1, 2, 3, 4, 5), True, True),
        ((1, 4, 4, 4), True, False),  # nobody could tell
        ((1, 4), True, False),
        ((1, 2, 3, 4, 5, 6), True, False),
    ],
)
def test_which_inputs_take_their_channels_last(shape: tuple[int, ...], slid: bool, moves: bool) -> None:
    assert channels.channels_first({"x": shape}, {"x"} if slid else ()) == (("x",) if moves else ())


def test_an_op_slides_over_what_its_axes_come_from() -> None:
    nodes: list[channels.Node] = [
        ("Mul", ["gain", "sound"], ["louder"]),
        ("Pad", ["louder", "pads"], ["padded"]),
        ("Gather", ["state", "first"], ["before"]),
        ("Unsqueeze", ["before", "axes"], ["column"]),
        ("Conv", ["padded", "kernel"], ["heard"]),
        ("Conv", ["column", "weights"], ["remembered"]),
        ("Add", ["heard", "offset"], ["y"]),
    ]
    inputs = ("sound", "gain", "state", "kernel", "offset")
    assert channels.slid_over(inputs, nodes) == {"sound", "gain"}


def test_where_the_channels_go() -> None:
    assert channels.channels_last((1, 3, 8, 6)) == (1, 8, 6, 3)


@pytest.mark.parametrize(
    ("kernel", "dilations", "outputs", "gathered"),
    [
        ((2, 2), (), 1, False),
        ((2, 2), (2, 1), 1, True),
        ((2, 2, 2), (1, 1, 1), 1, True),
        ((2, 2, 2), (), 2, False),
        ((), (), 1, False),
    ],
)
def test_which_pools_are_made_of_gathers(kernel: tuple[int, ...], dilations: tuple[int, ...], outputs: int, gathered: bool) -> None:
    assert channels.is_gathered(kernel, dilations, outputs) == gathered


@pytest.mark.parametrize(
    ("axis", "rank", "integers", "size"),
    [(0, 4, False, 1), (1, 2, True, 64), (1, 2, False, None), (1, 3, True, None), (2, 4, False, None)],
)
def test_what_fills_a_free_axis(axis: int, rank: int, integers: bool, size: int | None) -> None:
    assert channels.usual_size(axis, rank, 64, integers=integers) == size
