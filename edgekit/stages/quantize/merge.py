"""One file of several that are the same model at several lengths or batch sizes: what they have in common is stored once."""

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.errors import ConversionError, UnsupportedOpError
from edgekit.stages.quantize.forms import Form, output
from edgekit.stages.quantize.prepare import read_graph
from edgekit.system import pickles
from edgekit.tflite import flatbuffer, schema, tree
from edgekit.tflite.tree import listed

LENGTHS, BATCHES = "--sequence-lengths", "--batch-size"


def merge(files: Mapping[str, Path], target: Path, *, origin: str, option: str) -> None:
    """Write the single-signature files as one with a signature for each by its key, for whoever gave `option`; in a worker child.

    A runtime which knows no signatures runs the first. Constants, and the tables that describe tensors and ops, are stored once
    where they are equal. Raises `UnsupportedOpError` for files above 2 GB and graphs that call others."""
    merger = _Merger(origin, option)
    for key, file in files.items():
        # Mapped: the tree's arrays are views of it, and all graphs are held until they are written.
        merger.add(key, flatbuffer.mapped(file))
    tree.write(merger.tree, target)


class _Merger:
    def __init__(self, origin: str, option: str) -> None:
        self.origin, self.option = origin, option
        self.tree: Any = None
        self.codes: dict[bytes, int] = {}
        self.buffers: dict[bytes, int] = {}
        self.tables: dict[bytes, _Once] = {}

    def add(self, key: str, model: memoryview) -> None:
        one = tree.load(model)
        if one is None:
            raise UnsupportedOpError(f"{self.origin}: is above 2 GB; leave {self.option} out")
        if len(one.subgraphs) != 1:
            raise UnsupportedOpError(f"{self.origin}: its graph calls others (control flow); leave {self.option} out")
        entry = flatbuffer.parse(model, self.origin).entry()
        graph, codes, buffers = one.subgraphs[0], one.operatorCodes, one.buffers
        if self.tree is None:
            self.tree, one.operatorCodes, one.buffers = one, [], [schema.BufferT()]
            one.subgraphs, one.signatureDefs, one.metadataBuffer = [], [], None
            for item in listed(one.metadata):
                item.buffer = self._buffer(buffers[item.buffer])
        for tensor in listed(graph.tensors):
            tensor.buffer = self._buffer(buffers[tensor.buffer])
        for operator in listed(graph.operators):
            operator.opcodeIndex = self._place(self.codes, self.tree.operatorCodes, codes[operator.opcodeIndex])
        graph.tensors = [self._once(tensor) for tensor in listed(graph.tensors)]
        graph.operators = [self._once(operator) for operator in listed(graph.operators)]
        graph.name = key.encode()
        self.tree.subgraphs.append(graph)
        ends = tree.named(entry.inputs), tree.named(entry.outputs)
        self.tree.signatureDefs.append(schema.SignatureDefT(*ends, key, len(self.tree.subgraphs) - 1))

    def _buffer(self, buffer: Any) -> int:
        """The place of the same constant; buffer 0 is that of tensors that are computed."""
        if buffer.data is None:
            return 0
        digest = hashlib.sha256(memoryview(buffer.data)).digest()
        if digest not in self.buffers:
            self.tree.buffers.append(buffer)
            self.buffers[digest] = len(self.tree.buffers) - 1
        return self.buffers[digest]

    def _place(self, known: dict[bytes, int], tables: list[Any], table: Any) -> int:
        content = pickle.dumps(table)
        if content not in known:
            tables.append(table)
            known[content] = len(tables) - 1
        return known[content]

    def _once(self, table: Any) -> "_Once":
        # What is equal pickles alike; where it does not, a table is stored twice and nothing is wrong.
        return self.tables.setdefault(pickle.dumps(table), _Once(table))


class _Once:
    """A table that is written once, however many vectors refer to it; a weight's scales by channel are many."""

    def __init__(self, table: Any) -> None:
        self._table, self._place = table, 0

    def Pack(self, builder: Any) -> int:
        self._place = self._place or int(self._table.Pack(builder))
        return self._place


def same_names(model: Path, other: Path, option: str) -> dict[str, str]:
    """Tensors' and ops' (see `forms.output`) names of a model in `other`, the same at another length or batch size.

    Raises `ConversionError`, which names `option`, where their ops differ."""
    graphs = [read_graph(path) for path in (model, other)]
    ours, theirs = (graph.operators for graph in graphs)
    kinds, others = ([(op.name, len(op.inputs), len(op.outputs)) for op in graph.operators] for graph in graphs)
    if kinds != others:
        raise ConversionError(
            f"{model.name}: the graph has other ops at another size ({len(ours)} and {len(theirs)}); "
            f"leave {option} out, or try the other --bridge"
        )
    names = {}
    for one, two in zip(ours, theirs, strict=True):
        names[output(graphs[0], one)] = output(graphs[1], two)
        for a, b in zip((*one.inputs, *one.outputs), (*two.inputs, *two.outputs), strict=True):
            if a >= 0 and b >= 0:
                names[graphs[0].tensors[a].name] = graphs[1].tensors[b].name
    return names


def carry_calibration(calibration: Path, names: Mapping[str, str], target: Path) -> None:
    """Write what was calibrated at one length or batch size under the names at another: the same ranges give the same integers."""
    # In the parent, of what a child wrote.
    parts = pickles.loads(calibration.read_bytes())
    target.write_bytes(pickle.dumps(tuple({names[name]: part[name] for name in part if name in names} for part in parts)))


def carry_form(form: Form, names: Mapping[str, str]) -> Form:
    """The form with its ops named as at another length or batch size."""
    wide, floating = (frozenset(names.get(op, op) for op in ops) for ops in (form.wide, form.floating))
    return replace(form, wide=wide, floating=floating)
