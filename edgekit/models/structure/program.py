"""A torch.export program (.pt2): the graph, its signature and its weights' shapes, as JSON in a zip archive; nothing is unpickled.

The format: torch/_export/serde/schema.py and torch/export/pt2_archive/constants.py in https://github.com/pytorch/pytorch."""

import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edgekit.models.structure.base import (
    FREE,
    Axis,
    FreeSize,
    SourceTensor,
    Structure,
    Tally,
    counted,
    damaged_unless_read,
    member_json,
)

# ScalarType, from 1.
_NAMES = (
    "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "complex32", "complex64",
    "complex128", "bool", "bfloat16",
)  # fmt: skip
DTYPES = {
    **dict(enumerate(_NAMES, 1)),
    28: "uint16",
    29: "float8_e4m3fn",
    30: "float8_e5m2",
    31: "float8_e4m3fnuz",
    32: "float8_e5m2fnuz",
}
_GRAPH = re.compile(r"(.*/)?models/[^/]+\.json")
# Before torch 2.8.
_OLD_GRAPH = "serialized_exported_program.json"
_SYMBOL = re.compile(r"Symbol\('(\w+)'[^()]*\)|Integer\((\d+)\)")
_LONGEST_EXPRESSION = 200
# Those that edgekit converts no program in.
OTHER_FLOATS = {"float16", "float64", "complex32", "complex64", "complex128", "bfloat16"}
_MOST_AXES = 64
# A size has no end where it is as large as that.
_ENDLESS = 2**31


def read(path: Path) -> Structure:
    """The structure of a torch.export program. Raises `ModelFormatError`; call it in a worker child, for JSON fills memory."""
    with damaged_unless_read(path, "torch.export program", "save it again with torch.export.save"):
        return _structure(_content(path))


def _content(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        graphs = sorted(name for name in names if _GRAPH.fullmatch(name) or name == _OLD_GRAPH)
        if not graphs:
            pickled = any(name.endswith("data.pkl") for name in names)
            raise ValueError("it holds a TorchScript module or pickled weights" if pickled else "it holds no graph")
        return member_json(archive, graphs[0])


def _structure(program: Any) -> Structure:
    module = program["graph_module"]
    graph, signature = module["graph"], module["signature"]
    tensors = graph["tensor_values"]
    tally = Tally()
    for spec in signature["input_specs"]:
        kind, inside = next(iter(spec.items()))
        if kind in ("parameter", "buffer", "tensor_constant"):
            held = _tensor(inside["arg"]["name"], tensors)
            # A weight whose size is a symbol is none.
            tally.add(held.dtype, [size for size in held.shape or () if isinstance(size, int)])
    inputs, others = _users(signature["input_specs"], "user_input", tensors)
    outputs, _ = _users(signature["output_specs"], "user_output", tensors)
    version = program.get("torch_version")
    obstacles = [] if inputs else ["the program takes no tensors; export one that computes something from its input"]
    dtypes = {group.dtype for group in tally.weights} | {tensor.dtype for tensor in inputs}
    if strange := sorted(dtypes & OTHER_FLOATS):
        obstacles.append(f"computes in {' and '.join(strange)}; export the module in float32, after .float()")
    sizes = _sizes([tensor.name for tensor in inputs], tensors, program.get("range_constraints") or {})
    remarks = [f"{name} is {size}" for name, size in sizes.items() if size.least != size.most]
    if others:
        remarks.append(f"takes {', '.join(others)} besides, which are fixed in it")
    return Structure(
        form="torch.export program",
        producer=f"torch {version}" if isinstance(version, str) else "",
        inputs=inputs,
        outputs=outputs,
        ops=counted(_ops(graph)),
        weights=tally.weights,
        sizes=sizes,
        obstacles=tuple(obstacles),
        remarks=tuple(remarks),
    )


def _users(specs: Any, kind: str, tensors: Any) -> tuple[tuple[SourceTensor, ...], list[str]]:
    """The tensors of a caller, and the names of what else is passed."""
    arguments = [next(iter(spec[kind]["arg"].items())) for spec in specs if kind in spec]
    names = [inside["name"] for form, inside in arguments if form == "as_tensor"]
    others = [(form, inside) for form, inside in arguments if form != "as_tensor"]
    called = [str(inside.get("name", form)) if isinstance(inside, Mapping) else form for form, inside in others]
    return tuple(_tensor(name, tensors) for name in names), called


def _tensor(name: Any, tensors: Any) -> SourceTensor:
    described = tensors[name]
    sizes = described["sizes"]
    if len(sizes) > _MOST_AXES:
        raise ValueError(f"{name} has {len(sizes)} axes")
    return SourceTensor(str(name), DTYPES.get(described["dtype"], FREE), tuple(_axis(size) for size in sizes))


def _axis(size: Mapping[str, Any]) -> Axis:
    """A size, the symbol of a free one, or how it is computed from others."""
    if isinstance(number := size.get("as_int"), int):
        return number
    return _SYMBOL.sub(r"\1\2", str(size["as_expr"]["expr_str"])[:_LONGEST_EXPRESSION]) or FREE


def _sizes(names: Iterable[str], tensors: Any, ranges: Any) -> dict[str, FreeSize]:
    """What the free axes of these tensors may be: one that is computed from others has the example's size."""
    sizes: dict[str, FreeSize] = {}
    for described in (size for name in names for size in tensors[name]["sizes"] if "as_int" not in size):
        example = (described["as_expr"].get("hint") or {}).get("as_int")
        axis, bounds = _axis(described), ranges.get(_axis(described))
        if bounds is None:
            sizes[str(axis)] = FreeSize(example or 1, example, example)
            continue
        least, most = (bounds.get(key) for key in ("min_val", "max_val"))
        sizes[str(axis)] = FreeSize(max(int(least or 0), 1), most if isinstance(most, int) and most < _ENDLESS else None, example)
    return sizes


def _ops(graph: Any) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    for node in graph["nodes"]:
        target = str(node["target"]).removeprefix("torch.ops.")
        domain, _, name = target.partition(".")
        counts[(name, "" if domain == "aten" else domain) if name else (target, "")] += 1
    return counts
