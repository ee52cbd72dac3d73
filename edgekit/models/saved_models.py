"""SavedModel folders as messages, read and changed before TensorFlow loads them. Needs TensorFlow."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgekit.errors import ModelFormatError, one_line

_MODEL = "saved_model.pb"
# Of the files of a SavedModel folder, the one that says what another has to be.
_FINGERPRINT = "fingerprint.pb"


def read(source: Path) -> Any:
    """The message in a SavedModel folder. Raises `ModelFormatError`."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    try:
        saved.ParseFromString((source / _MODEL).read_bytes())
    except (DecodeError, OSError) as error:
        raise ModelFormatError(f"{source}: TensorFlow cannot load it ({one_line(error)}); save it again as a SavedModel") from error
    return saved


def with_batch_of_one(source: Path, room: Path) -> Path:
    """The SavedModel folder `source`, or where it keeps lists of tensors with a free first axis, one in `room` where that is 1.

    Recurrent layers keep their steps in such lists, (batch, units) each, and TFLiteConverter takes none of a free size. All else is
    as it was; the weights are those of `source`. Raises `ModelFormatError`."""
    import tensorflow as tf

    saved, changed = read(source), False
    for constant in (one for graph in saved.meta_graphs for one in _element_shapes(graph.graph_def)):
        shape = tf.make_ndarray(constant)
        if shape.ndim == 1 and shape.size and shape[0] < 0:
            shape = shape.copy()
            shape[0], changed = 1, True
            constant.CopyFrom(tf.make_tensor_proto(shape))
    if not changed:
        return source
    room.mkdir()
    for file in source.iterdir():
        if file.name not in (_MODEL, _FINGERPRINT):
            (room / file.name).symlink_to(file.absolute())
    (room / _MODEL).write_bytes(saved.SerializeToString())
    return room


def _element_shapes(graph: Any) -> Iterator[Any]:
    """The constants that say which shape the elements of the graph's lists have."""
    for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
        constants = {node.name: node.attr["value"].tensor for node in nodes if node.op == "Const"}
        for node in nodes:
            if node.op.startswith("TensorList"):
                names = (name.split(":")[0] for name in node.input)
                yield from (constants[name] for name in names if name in constants)
