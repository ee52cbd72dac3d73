"""Which TensorFlow Lite runtime first has the op versions that a file uses; the facts are in op_versions.toml."""

import re
import tomllib
from dataclasses import dataclass
from importlib.resources import files

from edgekit.tflite.flatbuffer import ModelFile, Operator, Subgraph

_TABLES = tomllib.loads(files("edgekit.tflite").joinpath("op_versions.toml").read_text(encoding="utf-8"))
_FIRST = {op: releases.split() for op, releases in _TABLES["runtimes"].items()}
_INTEGER, _HYBRID, _INT4_WEIGHTS = _TABLES["integer"], _TABLES["hybrid"], _TABLES["int4_weights"]


@dataclass(frozen=True)
class OpVersion:
    """One op version that a file uses: `stated` in the file, `needed` by its tensors where that is more, else the same.

    `runtime` is the TensorFlow Lite release that first has it ("2.16"), empty where that is not known."""

    name: str
    stated: int
    needed: int
    runtime: str


@dataclass(frozen=True)
class Requirements:
    """`minimum` is the oldest runtime that has all known ops of `ops`; those in `unknown`, custom and Flex ops come on top."""

    minimum: str
    ops: tuple[OpVersion, ...]
    unknown: tuple[str, ...]
    custom: tuple[str, ...]
    flex: tuple[str, ...]


def requirements(file: ModelFile) -> Requirements:
    """What a runtime has to have for `file`, op by op, sorted by runtime and name."""
    found = set()
    for graph in file.subgraphs:
        for operator in graph.operators:
            if not operator.custom:
                needed = max(operator.version, _needed(graph, operator))
                found.add(OpVersion(operator.name, operator.version, needed, first_runtime(operator.name, needed)))
    ops = sorted(found, key=lambda op: (_number(op.runtime), op.name, op.needed, op.stated))
    return Requirements(
        minimum=max((op.runtime for op in ops), key=_number, default=""),
        ops=tuple(ops),
        unknown=tuple(dict.fromkeys(f"{op.name} version {op.needed}" for op in ops if not op.runtime)),
        custom=file.custom_ops,
        flex=file.flex_ops,
    )


def needed_runtime(file: ModelFile) -> str:
    """The oldest runtime for `file`: what it states, or what its known ops need where that is later, which quantizers forget."""
    return max((file.min_runtime_version, requirements(file).minimum), key=_number)


def first_runtime(name: str, version: int) -> str:
    """The release that first has `version` of the op, empty where the table does not know it."""
    releases = _FIRST.get(name, [])
    return releases[version - 1].strip("-") if 1 <= version <= len(releases) else ""


def _needed(graph: Subgraph, operator: Operator) -> int:
    """The version that the dtypes of its tensors call for: quantizers change dtypes and may leave the stated version as it was."""
    tensors = [graph.tensors[index] if index != -1 else None for index in operator.inputs]
    first, second = (tensors[place] if place < len(tensors) else None for place in (0, 1))
    if first is None:
        return 1
    if second is not None and second.dtype == "int4":
        return _INT4_WEIGHTS.get(operator.name, 1)
    per_channel = second is not None and second.scales > 1
    if operator.name == "EMBEDDING_LOOKUP":
        return 4 if per_channel else 1
    if first.dtype == "float32" and second is not None and second.dtype == "int8":
        return _HYBRID.get(operator.name, (1, 1))[per_channel]
    if first.dtype == "float16":
        return 3 if operator.name == "DEQUANTIZE" else 1
    if first.dtype in ("int8", "int16"):
        return _INTEGER.get(operator.name, (1, 1))[first.dtype == "int16"]
    return 1


def _number(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", release))
