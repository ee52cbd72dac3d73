"""An .onnx file made ready for whatever converts it: each road to TFLite starts from the same graph."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.errors import ConversionError, UnsupportedOpError, one_line
from edgekit.models import channels
from edgekit.stages.export import branches, dequantize, gather, graph
from edgekit.stages.export.lower import lower


@dataclass(frozen=True)
class Fixes:
    """What the user fixes of an ONNX file's inputs, by name: shapes, and values, which make constants of them."""

    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    values: Mapping[str, Sequence[float]] = field(default_factory=dict)


AS_IT_IS = Fixes()


@dataclass(frozen=True)
class Ends:
    """Inputs and outputs of an ONNX file, in its order.

    `channels_last` are those inputs whose channels move from axis 1 to the last, `fixed` the file to compare with, which takes
    those in `values` as well; `names` maps a converted model's names to the ONNX file's where they differ. Of the inputs in
    `positive` logarithms or roots are taken, so that they have no negative values. `deciding` chooses what is computed."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    channels_last: tuple[str, ...]
    fixed: Path
    names: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Sequence[float]] = field(default_factory=dict)
    positive: tuple[str, ...] = ()
    deciding: str | None = None

    @property
    def advice(self) -> str:
        """What helps where a node has no form in TFLite."""
        if self.deciding is None:
            return "export the model without it"
        return f"its input {self.deciding} decides what is computed: fix it with --input-value {self.deciding}=..."


def prepare(
    onnx_file: Path,
    room: Path,
    *,
    foreign: bool,
    max_length: int,
    fixes: Fixes = AS_IT_IS,
    fold: bool = True,
    keep_layout: bool = False,
) -> tuple[Any, Ends]:
    """The graph for a converter, which may write in `room`.

    A `foreign` file is checked, its constants folded and its quantized ops rewritten first; of our own exports constants are folded
    with `fold`. With `keep_layout` no input's channels move. See `fix_shapes` for `max_length`.

    Raises `ModelFormatError`, `UnsupportedOpError` and `InputError`."""
    import onnx

    fixed = onnx_file
    if foreign:
        model = graph.read(onnx_file)
        graph.to_float32(model)
        graph.count_from_front(model)
        fixed = room / "fixed.onnx"
        # ONNX Runtime follows fixed shapes into branches that are never taken, and refuses the file if they do not fit there.
        if branching := any(node.op_type == "If" for node in model.graph.node):
            onnx.save(model, fixed)
        free = graph.fix_shapes(onnx_file, model, max_length, fixes.shapes)
        if not branching:
            onnx.save(model, fixed)
        if free:
            graph.require_runs(onnx_file, fixed, graph.sizes(model), free, fixes.values)
        graph.fix_values(onnx_file, model, fixes.values)
        model = graph.without_functions(model)
        dequantize.to_float(model)
    else:
        model = onnx.load(onnx_file)
    # Before it is folded: what a logarithm changes nothing of is simplified away.
    rooted = {node.input[0] for node in model.graph.node if node.op_type in ("Log", "Sqrt")}
    positive = tuple(name for name in graph.input_names(model) if name in rooted)
    if foreign or (fold and graph.has_constant_branch(model)):
        model = graph.simplified(model)
    graph.add_initial_states(model)
    gather.flatten(model)
    lower(model)
    graph.refuse_domains(onnx_file, model)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    names = tuple(graph.input_names(model)), tuple(graph.output_names(model))
    moved = () if keep_layout else _channels_first(model)
    deciding = branches.deciding_input(model)
    return model, Ends(*names, moved, fixed, values=fixes.values, positive=positive, deciding=deciding)


@contextlib.contextmanager
def converted(path: Path, ends: Ends, ops: Mapping[str, str]) -> Iterator[None]:
    """Raise what onnx2tf throws or exits with inside the block as an error about `path`.

    `ops` has the type of each node by name, so that the one that it stops at is told."""
    try:
        yield
    except SystemExit as error:
        raise ConversionError(
            f"{path}: onnx2tf gave up (exit code {error.code}); run with --debug, or export the model in another way"
        ) from None
    except Exception as error:  # whatever its ops' builders raise
        text = one_line(error)
        # Version 1 has the name in the error, version 2 in its words.
        found = getattr(error, "onnx_op_name", None) or next((name for name in ops if _is_named(name, text)), "")
        where = f"op {ops[found]} ({found})" if found in ops else "the graph"
        raise UnsupportedOpError(f"{path}: onnx2tf cannot convert {where}: {text}; {ends.advice}") from error


def _is_named(name: str, text: str) -> bool:
    return re.search(rf"\b(op|node)={re.escape(name)}( |$)", text) is not None


def slides(model: Any) -> bool:
    """Whether some op of the graph slides over space."""
    return channels.slides(node.op_type for node in model.graph.node)


def _channels_first(model: Any) -> tuple[str, ...]:
    shapes, inputs = graph.sizes(model), [item.name for item in model.graph.input]
    slid = channels.slid_over(inputs, ((node.op_type, node.input, node.output) for node in model.graph.node))
    return channels.channels_first({name: shapes[name] for name in inputs}, slid)
