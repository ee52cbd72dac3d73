"""Give a .tflite file in memory the signature or the metadata it should have, without touching the rest of it.

A new front with the new root table and what is new is put before the old bytes, whose offsets are relative and stay true.
So a file of any size costs one copy, and weights keep the alignment that the runtime maps them with.
"""

import re
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgekit.errors import ModelFormatError
from edgekit.tflite import flatbuffer
from edgekit.tflite.flatbuffer import DEFAULT_KEY, FIRST_EXTERNAL_OFFSET, Entry

# Weights are aligned to at most this many bytes; the front is padded to it.
_ALIGNMENT = 64
_BUFFER_ALIGNMENT = 16
# Places in the root's vtable.
_SUBGRAPHS, _BUFFERS, _METADATA, _SIGNATURES = 8, 12, 16, 18
# In a signature's.
_SUBGRAPH_INDEX = 12
# Fields of the root table in the schema, `version` to `external_buffers`.
_KNOWN_FIELDS = 10
_PREFIX = re.compile(r"^serving_default_")


def rename(model: bytes, names: Mapping[str, str], *, origin: str = "model") -> bytes:
    """Rename inputs and outputs in every signature, old name to new; `origin` is what errors call the model.

    Raises `ModelFormatError` if a name is in no signature or two would become the same.
    """
    entries = flatbuffer.parse(model, origin).entries
    known = {name for entry in entries for name in (*entry.inputs, *entry.outputs)}
    if unknown := sorted(set(names) - known):
        raise ModelFormatError(
            f"{origin}: no signature has an input or output {', '.join(unknown)}; there are: {', '.join(sorted(known)) or 'none'}"
        )

    def renamed(tensors: Mapping[str, int]) -> dict[str, int]:
        result = {names.get(name, name): index for name, index in tensors.items()}
        if len(result) != len(tensors):
            raise ModelFormatError(
                f"{origin}: the new names {', '.join(names.values())} would name two tensors alike; choose others"
            )
        return result

    return _with_signatures(
        model, [Entry(entry.key, entry.subgraph, renamed(entry.inputs), renamed(entry.outputs)) for entry in entries], origin
    )


def order_outputs(model: bytes, names: Sequence[str], *, origin: str = "model") -> bytes:
    """Bring the outputs of every signature into the order of `names`; those that are not among them come last."""
    entries = flatbuffer.parse(model, origin).entries
    place = {name: number for number, name in enumerate(names)}

    def ordered(outputs: Mapping[str, int]) -> dict[str, int]:
        return dict(sorted(outputs.items(), key=lambda item: place.get(item[0], len(place))))

    if all(list(ordered(entry.outputs)) == list(entry.outputs) for entry in entries):
        return model
    return _with_signatures(
        model, [Entry(entry.key, entry.subgraph, entry.inputs, ordered(entry.outputs)) for entry in entries], origin
    )


def add_signature(model: bytes, *, origin: str = "model") -> bytes:
    """Add `serving_default` to a model without a signature, named after its tensors; one that has any is returned as it is.

    `serving_default_ids:0` becomes `ids`; what is no letter, digit or underscore becomes one. Raises `ModelFormatError`.
    """
    file = flatbuffer.parse(model, origin)
    if file.entries:
        return model
    entry = file.entry()
    names = [_sanitised(tensor.name) for tensor in file.subgraphs[entry.subgraph].tensors]
    inputs = flatbuffer.by_name(names, tuple(entry.inputs.values()))
    outputs = flatbuffer.by_name(names, tuple(entry.outputs.values()))
    return _with_signatures(model, [Entry(DEFAULT_KEY, entry.subgraph, inputs, outputs)], origin)


def set_metadata(
    model: bytes | memoryview, name: str, content: bytes, *, origin: str = "model"
) -> tuple[bytearray, bytes | memoryview | bytearray]:
    """Set the metadata entry `name`, such as TFLITE_METADATA, to `content`; one of that name that is there gives way.

    Returns the new front and what comes behind it, which is `model` itself where nothing in it changes.
    """
    flatbuffer.parse(model, origin)
    return _with_front(model, origin, metadata=(name, content))


def only(model: bytes | memoryview, entry: Entry) -> dict[int, bytes]:
    """Bytes by place that leave `model` the signature `entry` and its subgraph alone, as the first; the rest stays unread.

    For a runtime that prepares every subgraph of a file: a copy with a few bytes changed.
    """
    from ai_edge_litert import schema_py_generated as schema

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


def _sanitised(name: str) -> str:
    return re.sub(r"\W", "_", _PREFIX.sub("", name).removesuffix(":0"), flags=re.ASCII)


def _with_signatures(model: bytes, entries: Sequence[Entry], origin: str) -> bytes:
    return b"".join(_with_front(model, origin, entries=entries))


def _with_front(
    model: bytes | memoryview, origin: str, *, entries: Sequence[Entry] | None = None, metadata: tuple[str, bytes] | None = None
) -> tuple[bytearray, bytes | memoryview | bytearray]:
    """A new root table with new signatures, or with one more buffer for a metadata entry, and `model` to put behind it."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

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
    if _fields(old) > _KNOWN_FIELDS:
        raise ModelFormatError(f"{origin}: written with a newer schema than this version knows; it cannot be changed")

    builder = flatbuffers.Builder(1024)
    placeholder = builder.CreateString("")
    new: dict[int, int] = {}
    # What the first elements of a new vector stand for: tables of the old body, by their position there.
    kept: dict[int, list[int]] = {}
    if entries is not None:
        new[_SIGNATURES] = _vector(builder, [_pack(builder, schema, entry) for entry in entries])
    if metadata is not None:
        name, content = metadata
        items = (old.Metadata(index) for index in range(old.MetadataLength()))
        kept[_METADATA] = [item._tab.Pos for item in items if item.Name() != name.encode()]
        kept[_BUFFERS] = [old.Buffers(index)._tab.Pos for index in range(old.BuffersLength())]
        buffer = _pack_buffer(builder, schema, content)
        item = schema.MetadataT(name=name, buffer=len(kept[_BUFFERS])).Pack(builder)
        new[_BUFFERS] = _vector(builder, [*[placeholder] * len(kept[_BUFFERS]), buffer])
        new[_METADATA] = _vector(builder, [*[placeholder] * len(kept[_METADATA]), item])
    targets = {slot: _target(old, slot) for slot in fields if slot not in new and old._tab.Offset(slot)}
    schema.ModelStart(builder)
    schema.ModelAddVersion(builder, old.Version())
    for slot, vector in {**dict.fromkeys(targets, placeholder), **new}.items():
        fields[slot](builder, vector)
    builder.Finish(schema.ModelEnd(builder), file_identifier=flatbuffer.IDENTIFIER)

    front = bytearray(builder.Output())
    front.extend(bytes(-len(front) % _ALIGNMENT))
    root = schema.Model.GetRootAs(front, 0)._tab
    places = {root.Pos + root.Offset(slot): target for slot, target in targets.items()}
    for slot, positions in kept.items():
        first = root.Vector(root.Offset(slot))
        places |= {first + 4 * index: position for index, position in enumerate(positions)}
    for place, target in places.items():
        struct.pack_into("<I", front, place, len(front) + target - place)
    return front, _shifted(model, old, len(front))


def _vector(builder: Any, items: Sequence[int]) -> int:
    builder.StartVector(4, len(items), 4)
    for item in reversed(items):
        builder.PrependUOffsetTRelative(item)
    return int(builder.EndVector())


def _pack_buffer(builder: Any, schema: Any, content: bytes) -> int:
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


def _pack(builder: Any, schema: Any, entry: Entry) -> int:
    signature = schema.SignatureDefT(
        inputs=[schema.TensorMapT(name, index) for name, index in entry.inputs.items()],
        outputs=[schema.TensorMapT(name, index) for name, index in entry.outputs.items()],
        signatureKey=entry.key,
        subgraphIndex=entry.subgraph,
    )
    return int(signature.Pack(builder))


def _shifted(model: bytes | memoryview, old: Any, shift: int) -> bytes | memoryview | bytearray:
    """`model` behind `shift` bytes: data outside the flatbuffer is addressed from the start of the file, so those offsets move."""
    places = []
    for index in range(old.BuffersLength()):
        table = old.Buffers(index)._tab
        places.append(table.Pos + table.Offset(6) if table.Offset(6) else 0)
    for graph in (old.Subgraphs(index) for index in range(old.SubgraphsLength())):
        for index in range(graph.OperatorsLength()):
            table = graph.Operators(index)._tab
            places.append(table.Pos + table.Offset(22) if table.Offset(22) else 0)
    offsets = {place: struct.unpack_from("<Q", model, place)[0] for place in filter(None, places)}
    moved = {place: offset + shift for place, offset in offsets.items() if offset >= FIRST_EXTERNAL_OFFSET}
    if not moved:
        return model
    body = bytearray(model)
    for place, offset in moved.items():
        struct.pack_into("<Q", body, place, offset)
    return body
