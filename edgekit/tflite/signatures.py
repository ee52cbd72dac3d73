"""Give a .tflite file in memory the signature or the metadata it should have, without touching the rest of it.

A new front with the new root table and what is new is put before the old bytes, whose offsets are relative and stay true.
So a file of any size costs one copy, and weights keep the alignment that the runtime maps them with."""

import math
import re
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from edgekit.errors import ModelFormatError
from edgekit.tflite import flatbuffer, schema
from edgekit.tflite.flatbuffer import DEFAULT_KEY, FIRST_EXTERNAL_OFFSET, Entry
from edgekit.tflite.tree import named

# Weights are aligned to at most this many bytes; the front is padded to it.
_ALIGNMENT = 64
_BUFFER_ALIGNMENT = 16
# Places in the root's vtable.
_SUBGRAPHS, _BUFFERS, _METADATA, _SIGNATURES = 8, 12, 16, 18
# In a signature's.
_SUBGRAPH_INDEX = 12
# Of what a subgraph's table refers to and keeps: tensors, operators, name.
_OF_GRAPH = (4, 10, 12)
# Fields in the schema: of the root table, `version` to `external_buffers`, and of a subgraph, `tensors` to `debug_metadata_index`.
_KNOWN_FIELDS, _KNOWN_GRAPH_FIELDS = 10, 6
_PREFIX = "serving_default_"
_Item = TypeVar("_Item")


def rename(model: bytes, names: Mapping[str, str], *, origin: str = "model") -> bytes:
    """Rename ends, old name to new, in every signature. Raises `ModelFormatError` if a name is in none or two become the same."""
    entries = flatbuffer.parse(model, origin).entries
    known = {name for entry in entries for name in (*entry.inputs, *entry.outputs)}
    if unknown := sorted(set(names) - known):
        raise ModelFormatError(
            f"{origin}: no signature has an input or output {', '.join(unknown)}; there are: {', '.join(sorted(known)) or 'none'}"
        )

    def renamed(tensors: Mapping[str, int]) -> dict[str, int]:
        result = {names.get(name, name): index for name, index in tensors.items()}
        if len(result) != len(tensors):
            new = ", ".join(names.values())
            raise ModelFormatError(f"{origin}: the new names {new} would name two tensors alike; choose others")
        return result

    entries = tuple(replace(entry, inputs=renamed(entry.inputs), outputs=renamed(entry.outputs)) for entry in entries)
    return b"".join(_with_front(model, origin, entries=entries))


def repeat(model: bytes, copies: Mapping[str, str], *, origin: str = "model") -> bytes:
    """Give outputs once more under other names, new name to the one that is there, in every signature and by index."""
    file = flatbuffer.parse(model, origin)
    entries, ends = [], {}
    for entry in file.entries:
        graph = file.subgraphs[entry.subgraph]
        more = {name: entry.outputs[other] for name, other in copies.items()}
        entries.append(replace(entry, outputs={**entry.outputs, **more}))
        ends[entry.subgraph] = graph.inputs, (*graph.outputs, *more.values())
    return b"".join(_with_front(model, origin, entries=entries, ends=ends))


def order(model: bytes, inputs: Sequence[str], outputs: Sequence[str], *, origin: str = "model") -> bytes:
    """Bring inputs and outputs into the order of these names, in every signature and by index; others come last as they are."""
    file = flatbuffer.parse(model, origin)
    entries, ends = [], {}
    for entry in file.entries:
        graph = file.subgraphs[entry.subgraph]
        first = {name: entry.inputs[name] for name in _sorted(entry.inputs, inputs)}
        last = {name: entry.outputs[name] for name in _sorted(entry.outputs, outputs)}
        entries.append(Entry(entry.key, entry.subgraph, first, last))
        ends[entry.subgraph] = _sorted(graph.inputs, first.values()), _sorted(graph.outputs, last.values())
    graphs = {index: (file.subgraphs[index].inputs, file.subgraphs[index].outputs) for index in ends}
    same = all([*one.inputs, *one.outputs] == [*two.inputs, *two.outputs] for one, two in zip(entries, file.entries, strict=True))
    return model if same and ends == graphs else b"".join(_with_front(model, origin, entries=entries, ends=ends))


def _sorted(items: Iterable[_Item], first: Iterable[_Item]) -> tuple[_Item, ...]:
    """The items in the order of `first`, one that is there several times at each of its places, then the others as they are."""
    places: dict[_Item, list[int]] = defaultdict(list)
    for number, item in enumerate(first):
        places[item].append(number)
    placed = [(places[item].pop(0) if places[item] else math.inf, item) for item in items]
    return tuple(item for _, item in sorted(placed, key=lambda pair: pair[0]))


def add_signature(model: bytes, *, origin: str = "model") -> bytes:
    """Add `serving_default` to a model without a signature, named after its tensors; one that has any is returned as it is.

    `serving_default_ids:0` becomes `ids`; what is no letter, digit or underscore becomes one. Raises `ModelFormatError`."""
    file = flatbuffer.parse(model, origin)
    if file.entries:
        return model
    entry = file.entry()
    plain = (tensor.name.removeprefix(_PREFIX).removesuffix(":0") for tensor in file.subgraphs[entry.subgraph].tensors)
    names = [re.sub(r"\W", "_", name, flags=re.ASCII) for name in plain]
    inputs, outputs = (flatbuffer.by_name(names, tuple(ends.values())) for ends in (entry.inputs, entry.outputs))
    return b"".join(_with_front(model, origin, entries=[Entry(DEFAULT_KEY, entry.subgraph, inputs, outputs)]))


def set_metadata(
    model: bytes | memoryview, name: str, content: bytes, *, origin: str = "model"
) -> tuple[bytearray, bytes | memoryview | bytearray]:
    """Set the metadata entry `name`, such as TFLITE_METADATA, to `content`; one of that name that is there gives way.

    Returns the new front and what comes behind it, which is `model` itself where nothing in it changes."""
    flatbuffer.parse(model, origin)
    return _with_front(model, origin, metadata=(name, content))


def only(model: bytes | memoryview, entry: Entry) -> dict[int, bytes]:
    """Bytes by place that leave `model` only the signature `entry` and its subgraph, for a runtime that prepares them all."""
    root = schema.Model.GetRootAs(model, 0)
    key = entry.key.encode()
    number = next(index for index in range(root.SignatureDefsLength()) if root.SignatureDefs(index).SignatureKey() == key)
    signature = root.SignatureDefs(number)._tab
    changes: dict[int, int] = {}
    for slot, target in ((_SUBGRAPHS, root.Subgraphs(entry.subgraph)._tab.Pos), (_SIGNATURES, signature.Pos)):
        first = root._tab.Vector(root._tab.Offset(slot))
        # Number of elements, and the first of them.
        changes |= {first - 4: 1, first: target - first}
    if index := signature.Offset(_SUBGRAPH_INDEX):
        changes[signature.Pos + index] = 0
    return {place: struct.pack("<I", value) for place, value in changes.items()}


def _with_front(
    model: bytes | memoryview,
    origin: str,
    *,
    entries: Sequence[Entry] | None = None,
    metadata: tuple[str, bytes] | None = None,
    ends: Mapping[int, tuple[Sequence[int], Sequence[int]]] | None = None,
) -> tuple[bytearray, bytes | memoryview | bytearray]:
    """A new root table with new signatures, or with one more buffer for a metadata entry, and `model` to put behind it.

    `ends` are other inputs and outputs of subgraphs, by the place of each."""
    import flatbuffers

    old = schema.Model.GetRootAs(model, 0)
    # Fields of the root that are offsets, by their place in the vtable; the version is a number.
    fields: dict[int, Callable[[Any, int], None]] = {
        6: schema.ModelAddOperatorCodes,
        8: schema.ModelAddSubgraphs,
        10: schema.ModelAddDescription,
        _BUFFERS: schema.ModelAddBuffers,
        14: schema.ModelAddMetadataBuffer,
        _METADATA: schema.ModelAddMetadata,
        _SIGNATURES: schema.ModelAddSignatureDefs,
        20: schema.ModelAddExternalBufferGroups,
        22: schema.ModelAddExternalBuffers,
    }
    graphs = [old.Subgraphs(index) for index in range(old.SubgraphsLength())] if ends else []
    if _fields(old) > _KNOWN_FIELDS or any(_fields(graph) > _KNOWN_GRAPH_FIELDS for graph in graphs):
        raise ModelFormatError(f"{origin}: written with a newer schema than this version knows; it cannot be changed")

    builder = flatbuffers.Builder(1024)
    placeholder = builder.CreateString("")
    new: dict[int, int] = {}
    # What the first elements of a new vector stand for: tables of the old body, by their position there, or new ones.
    kept: dict[int, list[int | None]] = {}
    if ends:
        kept[_SUBGRAPHS] = [None if index in ends else graph._tab.Pos for index, graph in enumerate(graphs)]
        own = {index: _pack_graph(builder, graphs[index], *ends[index], placeholder) for index in ends}
        new[_SUBGRAPHS] = vector(builder, [own.get(index, placeholder) for index in range(len(graphs))])
    if entries is not None:
        tables = (schema.SignatureDefT(named(one.inputs), named(one.outputs), one.key, one.subgraph) for one in entries)
        new[_SIGNATURES] = vector(builder, [table.Pack(builder) for table in tables])
    if metadata is not None:
        name, content = metadata
        items = (old.Metadata(index) for index in range(old.MetadataLength()))
        kept[_METADATA] = [item._tab.Pos for item in items if item.Name() != name.encode()]
        kept[_BUFFERS] = [old.Buffers(index)._tab.Pos for index in range(old.BuffersLength())]
        buffer = _pack_buffer(builder, content)
        item = schema.MetadataT(name=name, buffer=len(kept[_BUFFERS])).Pack(builder)
        new[_BUFFERS] = vector(builder, [*[placeholder] * len(kept[_BUFFERS]), buffer])
        new[_METADATA] = vector(builder, [*[placeholder] * len(kept[_METADATA]), item])
    targets = {slot: _target(old, slot) for slot in fields if slot not in new and old._tab.Offset(slot)}
    schema.ModelStart(builder)
    schema.ModelAddVersion(builder, old.Version())
    for slot, offset in {**dict.fromkeys(targets, placeholder), **new}.items():
        fields[slot](builder, offset)
    builder.Finish(schema.ModelEnd(builder), file_identifier=flatbuffer.IDENTIFIER)

    front = bytearray(builder.Output())
    front.extend(bytes(-len(front) % _ALIGNMENT))
    written = schema.Model.GetRootAs(front, 0)
    root = written._tab
    places = {root.Pos + root.Offset(slot): target for slot, target in targets.items()}
    for slot, positions in kept.items():
        first = root.Vector(root.Offset(slot))
        places |= {first + 4 * index: position for index, position in enumerate(positions) if position is not None}
    for index in ends or ():
        table = written.Subgraphs(index)._tab
        places |= {table.Pos + table.Offset(slot): _target(graphs[index], slot) for slot in _OF_GRAPH if table.Offset(slot)}
    for place, target in places.items():
        struct.pack_into("<I", front, place, len(front) + target - place)
    return front, _shifted(model, old, len(front))


def vector(builder: Any, items: Sequence[int]) -> int:
    """A vector of the offsets `items` in a flatbuffer that is being built."""
    builder.StartVector(4, len(items), 4)
    for item in reversed(items):
        builder.PrependUOffsetTRelative(item)
    return int(builder.EndVector())


def _pack_graph(builder: Any, graph: Any, inputs: Sequence[int], outputs: Sequence[int], placeholder: int) -> int:
    """A subgraph with these ends; what else it refers to is put in place of `placeholder` later."""
    vectors = [builder.CreateNumpyVector(np.array(indices, np.int32)) for indices in (inputs, outputs)]
    fields = (schema.SubGraphAddTensors, schema.SubGraphAddOperators, schema.SubGraphAddName)
    schema.SubGraphStart(builder)
    for slot, add in zip(_OF_GRAPH, fields, strict=True):
        if graph._tab.Offset(slot):
            add(builder, placeholder)
    schema.SubGraphAddInputs(builder, vectors[0])
    schema.SubGraphAddOutputs(builder, vectors[1])
    schema.SubGraphAddDebugMetadataIndex(builder, graph.DebugMetadataIndex())
    return int(schema.SubGraphEnd(builder))


def _pack_buffer(builder: Any, content: bytes) -> int:
    """Aligned as the schema wants it, which flatbuffers' Python builder does not read."""
    builder.StartVector(1, len(content), _BUFFER_ALIGNMENT)
    builder.head -= len(content)
    builder.Bytes[builder.head : builder.head + len(content)] = content
    data = builder.EndVector()
    schema.BufferStart(builder)
    schema.BufferAddData(builder, data)
    return int(schema.BufferEnd(builder))


def _fields(model: Any) -> int:
    table = model._tab
    vtable = table.Pos - struct.unpack_from("<i", table.Bytes, table.Pos)[0]
    return int(struct.unpack_from("<H", table.Bytes, vtable)[0] - 4) // 2


def _target(model: Any, slot: int) -> int:
    return int(model._tab.Indirect(model._tab.Pos + model._tab.Offset(slot)))


def _shifted(model: bytes | memoryview, old: Any, shift: int) -> bytes | memoryview | bytearray:
    """`model` behind `shift` bytes: data outside the flatbuffer is addressed from the start of the file, so those offsets move."""
    fields = [(old.Buffers(index)._tab, 6) for index in range(old.BuffersLength())]
    for graph in map(old.Subgraphs, range(old.SubgraphsLength())):
        fields += [(graph.Operators(index)._tab, 22) for index in range(graph.OperatorsLength())]
    places = (table.Pos + offset for table, slot in fields if (offset := table.Offset(slot)))
    offsets = {place: struct.unpack_from("<Q", model, place)[0] for place in places}
    moved = {place: offset + shift for place, offset in offsets.items() if offset >= FIRST_EXTERNAL_OFFSET}
    if not moved:
        return model
    body = bytearray(model)
    for place, offset in moved.items():
        struct.pack_into("<Q", body, place, offset)
    return body
