"""The .tflite format's schema as ai-edge-litert ships it, imported when it is first looked into."""

import functools
from typing import Any


def __getattr__(name: str) -> Any:
    from ai_edge_litert import schema_py_generated

    return globals().setdefault(name, getattr(schema_py_generated, name))


@functools.cache
def names(enumeration: str) -> dict[int, str]:
    """The schema's name of each value of an enumeration, such as `BuiltinOperator`."""
    return {value: name for name, value in vars(__getattr__(enumeration)).items() if isinstance(value, int)}
