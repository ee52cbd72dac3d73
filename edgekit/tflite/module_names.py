"""The names that litert-torch gives tensors: which module of a torch model, and which of its modules, computes them."""

import re
from collections import Counter
from typing import Any

from edgekit.tflite.tree import listed, text

_SHORT = re.compile(r"[\w.]+;\d+")


def module_path(name: str) -> list[str]:
    """The modules' attribute names of `package.Class_attribute/…;3` or of `attribute.attribute;3`, or one empty name."""
    if _SHORT.fullmatch(name):
        return name.partition(";")[0].split(".")
    # Of the modules whose ops were fused, the last is the one that gives the result.
    parts = next((part for part in reversed(name.split(";")) if "/" in part), name.split(";")[0]).split("/")
    if not any("." in part and "_" in part.rpartition(".")[2] and not part.startswith("tf.") for part in parts):
        return [""]
    return [last.partition("_")[2] or last for last in (part.rpartition(".")[2] for part in parts)]


def shorten(graph: Any) -> bool:
    """Call the tensors of a tree's graph by attributes alone, each with a number; whether there was one to shorten.

    With all classes and packages they take half a MB in MiniLM's file."""
    counts: Counter[str] = Counter()
    for tensor in listed(graph.tensors):
        name = text(tensor.name)
        if "/" not in name or (path := module_path(name)) == [""]:
            # A class within a function, and nothing inside it.
            path = [name.partition(";")[0].rpartition(".")[2]] if "<locals>" in name else []
        # What the exporter wraps a model in has no attribute's name, or that of a module.
        wrapped = path.index("module") + 1 if "module" in path else 0
        if short := ".".join(path[wrapped:] or path[-1:]):
            tensor.name = f"{short};{counts[short]}".encode()
            counts[short] += 1
    return bool(counts)
