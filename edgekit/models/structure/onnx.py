"""An .onnx file without its weights: the fields of onnx.proto that tell what it is made of.

The format: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from edgekit.models import channels
from edgekit.models.structure.base import FREE, Axis, SourceTensor, Structure, Tally, bytes_of, counted
from edgekit.system.protobuf import Message, Span, signed

# TensorProto.DataType, from 1.
_NAMES = (
    "float32", "uint8", "int8", "uint16", "int16", "int32", "int64", "string", "bool", "float16", "float64",
    "uint32", "uint64", "complex64", "complex128", "bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2",
    "float8_e5m2fnuz", "uint4", "int4", "float4_e2m1fn", "float8_e8m0fnu", "uint2", "int2",
)  # fmt: skip
_DTYPES = dict(enumerate(_NAMES, 1))
_NUMERIC = {*_NAMES} - {"string"}
# TypeProto's fields but `tensor_type`.
_NO_TENSORS = {4: "sequence", 5: "map", 7: "opaque", 8: "sparse tensor", 9: "optional"}
_OWN = ("", "ai.onnx")
_READ = (*_OWN, "ai.onnx.ml")
# Attributes are read of these ops alone: they hold graphs or constants, or decide where channels lie.
_WITH_GRAPHS = ("If", "Loop", "Scan", "SequenceMap")
_POOLS = ("AveragePool", "MaxPool")
_DEEPEST = 32
_MOST_AXES = 64
# Bytes of one value in TensorProto's fields of numbers; varints have one at least.
_NUMBERS = {4: 4, 5: 1, 7: 1, 10: 8, 11: 1}


def read(path: Path) -> Structure:
    """The structure of the model in an .onnx file. Raises `ModelFormatError`."""
    with Message(path, "ONNX model", "export it again") as message:
        return _Reader(message).structure()


@dataclass
class _Node:
    op: str = ""
    domain: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    attributes: list[Span] = field(default_factory=list)


class _Reader:
    def __init__(self, message: Message) -> None:
        self.message, self.folder = message, message.path.parent
        self.tally = Tally()
        self.ops: Counter[tuple[str, str]] = Counter()
        # By location: how far the data in it reach.
        self.external: dict[str, int] = {}
        self.nodes: list[channels.Node] = []
        # Functions with an op that slides: a call of one does so.
        self.sliding: set[str] = set()

    def structure(self) -> Structure:
        message, graphs, functions, opsets = self.message, [], [], {}
        about: dict[int, str] = {}
        version = 0
        for number, value in message.fields(message.whole):
            if number == 1 and isinstance(value, int):
                version = value
            elif number in (2, 3):
                about[number] = message.text(value)
            elif isinstance(value, int):
                continue
            elif number == 7:
                graphs.append(value)
            elif number == 8:
                domain, opset = self._opset(value)
                opsets[domain] = opset
            elif number == 25:
                functions.append(value)
        if not graphs:
            raise message.damaged("it has no graph")
        inputs, outputs = self._graph(graphs[-1], 0, top=True)
        if not outputs:
            raise message.damaged("its graph has no outputs")
        nodes, self.nodes = self.nodes, []
        own = {self._function(span) for span in functions}
        nodes = [("Conv" if op in self.sliding else op, read, written) for op, read, written in nodes]
        versions = [f"{'opset' if domain in _OWN else domain} {opset}" for domain, opset in sorted(opsets.items())]
        files, obstacles = self._files()
        obstacles += [
            f"{what} {tensor.name} is no tensor of numbers, which TFLite needs; cut the graph {cut} it"
            for what, cut, tensors in (("input", "after", inputs), ("output", "before", outputs))
            for tensor in tensors
            if tensor.dtype not in _NUMERIC
        ]
        named = [("input", tensor) for tensor in inputs] + [("output", tensor) for tensor in outputs]
        if shapeless := [f"{what} {tensor.name}" for what, tensor in named if tensor.shape is None and tensor.dtype in _NUMERIC]:
            verb = "has" if len(shapeless) == 1 else "have"
            obstacles.append(f"{' and '.join(shapeless)} {verb} no shape; export it with shapes")
        foreign = sorted({f"{domain}.{op}" for op, domain in self.ops if domain not in _READ and (op, domain) not in own})
        if foreign:
            obstacles.append(f"no TFLite form of op {', '.join(foreign)}; export the model without it")
        if not inputs:
            obstacles.append("the graph has no inputs; give a model that computes something from its input")
        return Structure(
            form=", ".join(["ONNX", *versions, f"IR {version}"]),
            producer=" ".join(about[number] for number in sorted(about) if about[number]),
            inputs=inputs,
            outputs=outputs,
            ops=counted(self.ops),
            weights=self.tally.weights,
            files=files,
            slid=channels.slid_over([tensor.name for tensor in inputs], nodes),
            obstacles=tuple(obstacles),
        )

    def _opset(self, span: Span) -> tuple[str, int]:
        domain, version = "", 0
        for number, value in self.message.fields(span):
            if number == 1:
                domain = self.message.text(value)
            elif number == 2 and isinstance(value, int):
                version = signed(value)
        return domain, version

    def _function(self, span: Span) -> tuple[str, str]:
        """Its name and domain. Its ops are put where it is called before a conversion."""
        before = len(self.nodes)
        name = domain = ""
        for number, value in self.message.fields(span):
            if number == 1:
                name = self.message.text(value)
            elif number == 10:
                domain = self.message.text(value)
            elif number == 7 and isinstance(value, tuple):
                self._node(value, 0, top=True)
        if any(op in self.sliding or channels.slides([op]) for op, *_ in self.nodes[before:]):
            self.sliding.add(name)
        return name, domain

    def _graph(self, span: Span, depth: int, *, top: bool) -> tuple[tuple[SourceTensor, ...], tuple[SourceTensor, ...]]:
        """Inputs, without constants that old files list among them, and outputs."""
        if depth > _DEEPEST:
            raise self.message.damaged(f"graphs inside graphs, {_DEEPEST} deep")
        inputs, outputs, constants = [], [], set()
        for number, value in self.message.fields(span):
            if isinstance(value, int):
                continue
            if number == 1:
                self._node(value, depth, top=top)
            elif number == 5:
                constants.add(self._tensor(value))
            elif number == 15:
                constants.update(self._tensor(values) for values in self.message.spans(value, 1))
            elif number == 11 and top:
                inputs.append(self._end(value))
            elif number == 12 and top:
                outputs.append(self._end(value))
        return tuple(item for item in inputs if item.name not in constants), tuple(outputs)

    def _node(self, span: Span, depth: int, *, top: bool) -> None:
        node = _Node()
        for number, value in self.message.fields(span):
            if number in (1, 2):
                (node.inputs if number == 1 else node.outputs).append(self.message.text(value))
            elif number == 4:
                node.op = self.message.text(value)
            elif number == 5 and isinstance(value, tuple):
                node.attributes.append(value)
            elif number == 7:
                node.domain = self.message.text(value)
        self.ops[node.op, "" if node.domain in _OWN else node.domain] += 1
        attributes = node.attributes if node.op in (*_WITH_GRAPHS, *_POOLS, "Constant") else []
        sizes: dict[str, list[int]] = {}
        for attribute in attributes:
            name, numbers = self._attribute(attribute, depth)
            sizes[name] = numbers
        gathered = channels.is_gathered(sizes.get("kernel_shape", ()), sizes.get("dilations", ()), len(node.outputs))
        # What a branch of an `If` does is no part of the graph that a conversion sees.
        if top:
            self.nodes.append(("Gather" if node.op in _POOLS and gathered else node.op, node.inputs, node.outputs))

    def _attribute(self, span: Span, depth: int) -> tuple[str, list[int]]:
        """Its name and numbers; what graphs and constants it has are counted."""
        name, numbers = "", []
        for number, value in self.message.fields(span):
            if number == 1:
                name = self.message.text(value)
            elif number == 8:
                numbers += self.message.integers(value)
            elif isinstance(value, int):
                continue
            elif number == 5:
                self._tensor(value)
            elif number in (6, 11):
                self._graph(value, depth + 1, top=False)
        return name, numbers

    def _tensor(self, span: Span) -> str:
        """Count a constant and give its name. Raises `ModelFormatError` where it has other than its shape's bytes."""
        shape: list[int] = []
        name, dtype, stored, raw, external = "", FREE, 0, False, {}
        for number, value in self.message.fields(span):
            if number == 1:
                shape += self.message.integers(value)
            elif number == 2 and isinstance(value, int):
                dtype = _DTYPES.get(value, FREE)
            elif number == 8:
                name = self.message.text(value)
            elif number in _NUMBERS:
                stored += _NUMBERS[number] if isinstance(value, int) else value[1] - value[0]
            elif isinstance(value, int):
                continue
            elif number == 6:
                stored += value[1] - value[0]
            elif number == 9:
                raw, stored = True, value[1] - value[0]
            elif number == 13:
                entry = self.message.texts(value)
                external[entry.get(1, "")] = entry.get(2, "")
        if min(shape, default=0) < 0 or len(shape) > _MOST_AXES:
            raise self.message.damaged(f"tensor {name} has the shape {shape[:_MOST_AXES]}")
        size = bytes_of(dtype, shape)
        if "location" in external:
            stored = self._external(name, external, size)
        elif size is not None and (stored != size if raw else size > 0 and not stored):
            raise self.message.damaged(f"tensor {name} has {stored:,} bytes, and {dtype} {shape} takes {size:,}")
        self.tally.add(dtype, shape, stored if dtype == "string" else None)
        return name

    def _external(self, name: str, entries: dict[str, str], size: int | None) -> int:
        offset, length = (entries.get(key, "") or "0" for key in ("offset", "length"))
        if not all(text.isascii() and text.isdigit() and len(text) < 20 for text in (offset, length)):
            raise self.message.damaged(f"tensor {name} lies at {offset[:20]!r} of another file")
        stored = int(length) or size or 0
        place = entries["location"]
        self.external[place] = max(self.external.get(place, 0), int(offset) + stored)
        return stored

    def _files(self) -> tuple[dict[str, int], list[str]]:
        """Files with the weights, and what is wrong with them."""
        files: dict[str, int] = {}
        wrong = []
        for place, end in self.external.items():
            parts = PurePosixPath(place)
            # Nothing outside of the model's own folder is looked at.
            file = self.folder / place if place.isprintable() and not parts.is_absolute() and ".." not in parts.parts else None
            if file is None or not file.is_file():
                wrong.append(f"its weights lie in {place}, which is not there; put it beside the file, or save it as one file")
                continue
            files[place] = file.stat().st_size
            if files[place] < end:
                wrong.append(f"{place} has {files[place]:,} bytes, its weights reach to {end:,}; copy or download it again")
        return files, wrong

    def _end(self, span: Span) -> SourceTensor:
        name, dtype, shape = "", FREE, None
        for number, value in self.message.fields(span):
            if number == 1:
                name = self.message.text(value)
            elif number == 2 and isinstance(value, tuple):
                dtype, shape = self._type(value)
        return SourceTensor(name, dtype, shape)

    def _type(self, span: Span) -> tuple[str, tuple[Axis, ...] | None]:
        dtype: str = FREE
        shape: tuple[Axis, ...] | None = None
        for kind, described in self.message.fields(span):
            if kind != 1 or isinstance(described, int):
                dtype = _NO_TENSORS.get(kind, dtype)
                continue
            for number, value in self.message.fields(described):
                if number == 1 and isinstance(value, int):
                    dtype = _DTYPES.get(value, FREE)
                elif number == 2 and isinstance(value, tuple):
                    shape = tuple(self._axes(value))
                    if len(shape) > _MOST_AXES:
                        raise self.message.damaged(f"a shape of {len(shape):,} axes")
        return dtype, shape

    def _axes(self, span: Span) -> Iterator[Axis]:
        for axis in self.message.spans(span, 1):
            size: Axis = FREE
            for number, value in self.message.fields(axis):
                if number == 1 and isinstance(value, int) and signed(value) > 0:
                    size = signed(value)
                elif number == 2:
                    size = self.message.text(value) or FREE
            yield size
