"""A SavedModel without its variables: the signature that is converted, and the ops that it reaches.

The format: saved_model.proto, meta_graph.proto, graph.proto, function.proto and types.proto in
https://github.com/tensorflow/tensorflow/tree/master/tensorflow/core."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from edgekit.models.structure.base import FREE, Axis, SourceTensor, Structure, Tally, counted
from edgekit.system.protobuf import Message, Span, signed

DEFAULT_KEY = "serving_default"
_INITIALIZATION = "__saved_model_init_op"
# DataType, from 1.
_NAMES = (
    "float32", "float64", "int32", "uint8", "int16", "int8", "string", "complex64", "int64", "bool", "qint8",
    "quint8", "qint32", "bfloat16", "qint16", "quint16", "uint16", "complex128", "float16", "resource", "variant",
    "uint32", "uint64", "float8_e5m2", "float8_e4m3fn",
)  # fmt: skip
_DTYPES = dict(enumerate(_NAMES, 1))
_VARIABLES = ("VarHandleOp", "VariableV2", "Variable")
# What holds values, hands them on or calls another function computes nothing itself.
_SILENT = (*_VARIABLES, "Const", "Placeholder", "Identity", "NoOp", "ReadVariableOp", "PartitionedCall", "StatefulPartitionedCall")
_MOST_AXES = 64


@dataclass(frozen=True)
class _Node:
    """An op of a graph: names of its inputs, and where its attributes lie."""

    op: str
    inputs: tuple[str, ...]
    attributes: tuple[Span, ...]


def read(path: Path) -> Structure:
    """The structure of the SavedModel in a folder. Raises `ModelFormatError`."""
    with Message(path / "saved_model.pb", "SavedModel", "save it again") as message:
        return _Reader(message).structure()


class _Reader:
    def __init__(self, message: Message) -> None:
        self.message, self.path = message, message.path.parent
        self.tally = Tally()
        self.ops: Counter[tuple[str, str]] = Counter()
        self.nodes: dict[str, _Node] = {}
        self.functions: dict[str, list[Span]] = {}
        self.has_variables = False

    def structure(self) -> Structure:
        signatures: dict[str, Span] = {}
        version = ""
        for number, value in self.message.fields(self._graph()):
            if isinstance(value, int):
                continue
            if number == 1:
                version = self._about(value)[1]
            elif number == 2:
                self._read_graph(value)
            elif number == 5:
                key, signature = self._entry(value)
                signatures[key] = signature
        keys = sorted(key for key in signatures if key != _INITIALIZATION)
        chosen = DEFAULT_KEY if DEFAULT_KEY in keys else next(iter(keys), "")
        inputs, outputs, fetched = self._signature(signatures[chosen]) if chosen else ((), (), [])
        self._count(fetched)
        files = self._files()
        obstacles = [] if keys else ["the SavedModel has no signature; save it with one"]
        if len(keys) > 1 and chosen != DEFAULT_KEY:
            obstacles.append(f"has the signatures {', '.join(keys)} and no {DEFAULT_KEY}; save it with the one to convert alone")
        if keys and not inputs:
            obstacles.append("its signature takes no named inputs; save the model with a serving signature")
        if self.has_variables and not any(name.startswith("variables/") for name in files):
            obstacles.append("its variables are not there; copy the whole folder")
        others = ", ".join(key for key in keys if key != chosen)
        return Structure(
            form=f"SavedModel, signature {chosen}" if chosen else "SavedModel",
            producer=f"TensorFlow {version}" if version else "",
            inputs=inputs,
            outputs=outputs,
            ops=counted(self.ops),
            weights=self.tally.weights,
            files=files,
            obstacles=tuple(obstacles),
            remarks=(f"other signatures: {others}",) if others else (),
        )

    def _graph(self) -> Span:
        """The graph for serving, else the first."""
        graphs = list(self.message.spans(self.message.whole, 2))
        if not graphs:
            raise self.message.damaged("it has no graph")
        for graph in graphs if len(graphs) > 1 else ():
            if "serve" in self._about(next(self.message.spans(graph, 1), (0, 0)))[0]:
                return graph
        return graphs[0]

    def _about(self, span: Span) -> tuple[list[str], str]:
        """The tags of a graph, and TensorFlow's version."""
        tags, version = [], ""
        for number, value in self.message.fields(span):
            if number == 4:
                tags.append(self.message.text(value))
            elif number == 5:
                version = self.message.text(value)
        return tags, version

    def _entry(self, span: Span) -> tuple[str, Span]:
        """Key and value of an entry of a map of messages."""
        key, place = "", (0, 0)
        for number, value in self.message.fields(span):
            if number == 1:
                key = self.message.text(value)
            elif number == 2 and isinstance(value, tuple):
                place = value
        return key, place

    def _read_graph(self, span: Span) -> None:
        for number, value in self.message.fields(span):
            if isinstance(value, int):
                continue
            if number == 1:
                name, node = self._node(value)
                self.nodes[name] = node
            elif number == 2:
                for function in self.message.spans(value, 1):
                    name = ""
                    for signature in self.message.spans(function, 1):
                        name = next((self.message.text(text) for text in self.message.spans(signature, 1)), "")
                    self.functions[name] = list(self.message.spans(function, 3))

    def _node(self, span: Span) -> tuple[str, _Node]:
        name = op = ""
        inputs, attributes = [], []
        for number, value in self.message.fields(span):
            if number == 1:
                name = self.message.text(value)
            elif number == 2:
                op = self.message.text(value)
            elif number == 3:
                inputs.append(self.message.text(value).removeprefix("^").split(":")[0])
            elif number == 5 and isinstance(value, tuple):
                attributes.append(value)
        return name, _Node(op, tuple(inputs), tuple(attributes))

    def _signature(self, span: Span) -> tuple[tuple[SourceTensor, ...], tuple[SourceTensor, ...], list[str]]:
        """Inputs, outputs, and the nodes that give the outputs."""
        ends: dict[int, list[SourceTensor]] = {1: [], 2: []}
        fetched = []
        for number, value in self.message.fields(span):
            if number not in ends or isinstance(value, int):
                continue
            key, place = self._entry(value)
            dtype, shape = FREE, None
            for field, part in self.message.fields(place):
                if field == 1 and number == 2:
                    fetched.append(self.message.text(part).split(":")[0])
                elif field == 2 and isinstance(part, int):
                    dtype = _DTYPES.get(part, FREE)
                elif field == 3 and isinstance(part, tuple):
                    shape = self._shape(part)
            ends[number].append(SourceTensor(key, dtype, shape))
        inputs, outputs = (tuple(sorted(tensors, key=lambda tensor: tensor.name)) for tensors in ends.values())
        return inputs, outputs, fetched

    def _shape(self, span: Span) -> tuple[Axis, ...] | None:
        axes: list[Axis] = []
        for number, value in self.message.fields(span):
            if number == 3 and value:
                return None
            if number == 2 and isinstance(value, tuple):
                sizes = [signed(size) for field, size in self.message.fields(value) if field == 1 and isinstance(size, int)]
                # Of a size of 0 nothing is written.
                size = sizes[-1] if sizes else 0
                axes.append(FREE if size < 0 else size)
        if len(axes) > _MOST_AXES:
            raise self.message.damaged(f"a shape of {len(axes):,} axes")
        return tuple(axes)

    def _count(self, fetched: list[str]) -> None:
        """Count what the nodes `fetched` need, each function once, however often it is called."""
        seen: set[str] = set()
        called: list[str] = []
        while fetched:
            name = fetched.pop()
            if name in self.nodes and name not in seen:
                seen.add(name)
                called += self._note(self.nodes[name])
                fetched += self.nodes[name].inputs
        run: set[str] = set()
        while called:
            name = called.pop()
            if name in self.functions and name not in run:
                run.add(name)
                for span in self.functions[name]:
                    called += self._note(self._node(span)[1])

    def _note(self, node: _Node) -> list[str]:
        """Count a node with its values. Gives the functions that it calls."""
        if node.op not in _SILENT and node.op not in self.functions:
            self.ops[node.op, ""] += 1
        self.has_variables = self.has_variables or node.op in _VARIABLES
        called = [node.op]
        dtype, shape = FREE, None
        for entry in node.attributes:
            key, place = self._entry(entry)
            for number, value in self.message.fields(place):
                if isinstance(value, int):
                    dtype = _DTYPES.get(value, FREE) if (number, key) == (6, "dtype") else dtype
                elif number == 10:
                    called += [self.message.text(text) for text in self.message.spans(value, 1)]
                elif number == 1:
                    for function in self.message.spans(value, 9):
                        called += [self.message.text(text) for text in self.message.spans(function, 1)]
                elif (number, key) == (7, "shape"):
                    shape = self._shape(value)
                elif number == 8 and node.op == "Const":
                    shape = next((self._shape(part) for part in self.message.spans(value, 2)), ())
        if node.op in (*_VARIABLES, "Const") and shape is not None and all(isinstance(size, int) for size in shape):
            self.tally.add(dtype, [size for size in shape if isinstance(size, int)])
        return called

    def _files(self) -> dict[str, int]:
        folders = [self.path / name for name in ("variables", "assets")]
        files = [file for folder in folders if folder.is_dir() for file in sorted(folder.iterdir()) if file.is_file()]
        return {str(file.relative_to(self.path)): file.stat().st_size for file in files}
