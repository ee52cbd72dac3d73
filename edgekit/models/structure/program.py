"""A torch.export program (.pt2): the graph, its signature and its weights' shapes, as JSON in a zip archive; nothing is unpickled.

The format: torch/_export/serde/schema.py and torch/export/pt2_archive/constants.py in https://github.com/pytorch/pytorch."""

import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError, ModelFormatError, one_line
from edgekit.models.structure.base import FREE, Axis, SourceTensor, Structure, Tally, counted
from edgekit.system.headers import NO_MODEL
from edgekit.system.serial import parse_json

# ScalarType, from 1.
_NAMES = (
    "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "complex32", "complex64",
    "complex128", "bool", "bfloat16",
)  # fmt: skip
_DTYPES = {
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
_SYMBOL = re.compile(r"Symbol\('(\w+)'|^(\w+)$")
_MOST_JSON_BYTES = 2**27
_MOST_AXES = 64


def read(path: Path) -> Structure:
    """The structure of a torch.export program. Raises `ModelFormatError`; call it in a worker child, for JSON fills memory."""
    try:
        return _structure(path, _content(path))
    except EdgekitError:
        raise
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError, EOFError) as error:
        cause = one_line(error) if isinstance(error, OSError | ValueError) else "its graph is described in another way"
        raise _refusal(path, cause) from error
    except (zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise _refusal(path, one_line(error)) from error


def _refusal(path: Path, cause: str) -> ModelFormatError:
    return ModelFormatError(f"{path}: not a whole torch.export program ({cause}); save it again with torch.export.save")


def _content(path: Path) -> Any:
    with path.open("rb") as stream:
        head = stream.read(64)
    for start, remark in NO_MODEL.items():
        if head.startswith(start):
            raise ModelFormatError(f"{path}: {remark}")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        graphs = sorted(name for name in names if _GRAPH.fullmatch(name) or name == _OLD_GRAPH)
        if not graphs:
            what = (
                "holds a TorchScript module or pickled weights" if any(name.endswith("data.pkl") for name in names) else "no graph"
            )
            raise _refusal(path, what)
        with archive.open(graphs[0]) as stream:
            content = stream.read(_MOST_JSON_BYTES + 1)
    if len(content) > _MOST_JSON_BYTES:
        raise ValueError(f"its graph takes more than {_MOST_JSON_BYTES >> 20} MB")
    return parse_json(content)


def _structure(path: Path, program: Any) -> Structure:
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
    remarks = tuple(
        f"{name} is {_bound(bounds.get('min_val'))} to {_bound(bounds.get('max_val'))}"
        for name, bounds in (program.get("range_constraints") or {}).items()
    )
    if others:
        remarks += (f"takes {', '.join(others)} besides, which are fixed in it",)
    return Structure(
        form="torch.export program",
        producer=f"torch {version}" if isinstance(version, str) else "",
        inputs=inputs,
        outputs=outputs,
        ops=counted(_ops(graph)),
        weights=tally.weights,
        obstacles=tuple(obstacles),
        remarks=remarks,
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
    return SourceTensor(str(name), _DTYPES.get(described["dtype"], FREE), tuple(_axis(size) for size in sizes))


def _axis(size: Mapping[str, Any]) -> Axis:
    if isinstance(number := size.get("as_int"), int):
        return number
    symbol = _SYMBOL.search(str(size["as_expr"]["expr_str"]))
    return symbol[1] or symbol[2] if symbol else FREE


def _ops(graph: Any) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    for node in graph["nodes"]:
        target = str(node["target"]).removeprefix("torch.ops.")
        domain, _, name = target.partition(".")
        counts[(name, "" if domain == "aten" else domain) if name else (target, "")] += 1
    return counts


def _bound(value: Any) -> str:
    return str(value) if isinstance(value, int) else "any"
