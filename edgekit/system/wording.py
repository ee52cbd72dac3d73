"""Numbers and names as a person reads them."""

_LONGEST_NAME = 100


def count(number: int, noun: str) -> str:
    """So many of something: "1 op", "1,200 ops"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def short(name: str) -> str:
    """A name without its middle, where it is long: a converter joins the names of all ops that it fused."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME // 2]}…{name[1 - _LONGEST_NAME // 2 :]}"
