"""An .onnx file as a graph that a converter can take: checked, shapes fixed, old opsets and quantized ops rewritten."""

import importlib.util
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import EdgekitError, InputError, ModelFormatError, UnsupportedOpError, one_line, thrown_as
from edgekit.models.channels import usual_size
from edgekit.stages.export import branches

_DOMAINS = ("", "ai.onnx")
# Of classical models, some of whose ops can be rewritten.
_ML = "ai.onnx.ml"
# ONNX Runtime and onnx2tf both know every op of this opset; below the first, broadcasting had other rules.
_OLDEST, _MODERN = 7, 13
_FUNCTIONS = {
    *("AffineGrid", "Attention", "CastLike", "CenterCropPad", "NegativeLogLikelihoodLoss", "RMSNormalization"),
    *("RotaryEmbedding", "SoftmaxCrossEntropyLoss"),
}
_NUMPY = {"float": "float32", "double": "float64"}
# What protobuf writes in one piece.
_MOST_BYTES = 2**31 - 1


def read(path: Path) -> Any:
    """The sound model in `path`. Raises `ModelFormatError`, and `UnsupportedOpError` naming ops that are none of ONNX's own."""
    import onnx
    import onnx.inliner

    try:
        model = onnx.load(path, load_external_data=False)
        outside = [tensor for tensor in model.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
        places = {entry.value for tensor in outside for entry in tensor.external_data if entry.key == "location"}
        if missing := sorted(place for place in places if not (path.parent / place).is_file()):
            raise ModelFormatError(
                f"{path}: its weights lie in {missing[0]}, which is not there; put it beside the file, or save it as one file"
            )
        size = path.stat().st_size + sum((path.parent / place).stat().st_size for place in places)
        if size > _MOST_BYTES:
            raise UnsupportedOpError(
                f"{path}: is {size / 1e9:.1f} GB with its weights, and one message of ONNX holds 2; convert a smaller model"
            )
        onnx.load_external_data_for_model(model, str(path.parent))
    except EdgekitError:
        raise
    except Exception as error:  # protobuf and OS errors share no base class
        raise ModelFormatError(f"{path}: not an ONNX model ({one_line(error)}); export it again") from error
    if not model.HasField("graph") or not model.graph.output:
        raise ModelFormatError(f"{path}: not an ONNX model, or one without outputs; export it again")
    # Before the checker, which would complain about a custom op's domain and not name the op.
    if model.functions:
        with thrown_as(ModelFormatError, f"{path}: has functions that cannot be put where they are called ({{}}); export it again"):
            model = onnx.inliner.inline_local_functions(model)
    refuse_domains(path, model, (*_DOMAINS, _ML))
    try:
        onnx.checker.check_model(model)
    except Exception as error:
        raise ModelFormatError(f"{path}: not a sound ONNX model ({one_line(error)}); export it again") from error
    return _modern(model)


def count_from_front(model: Any) -> None:
    """Write axes of a Transpose that are counted from behind, as torch may, as ONNX wants them, in place."""
    for node in _nodes(model.graph):
        for order in (attribute.ints for attribute in node.attribute if node.op_type == "Transpose" and attribute.name == "perm"):
            order[:] = [axis % len(order) for axis in order]


def without_functions(model: Any) -> Any:
    """The model with ops that converters do not have in the ops that ONNX's specification makes them of."""
    import onnx.inliner
    from onnx import helper

    names = [("", name) for name in sorted({node.op_type for node in _nodes(model.graph)} & _FUNCTIONS)]
    if not names:
        return model
    try:
        typed = onnx.shape_inference.infer_shapes(model)
        # What the inliner does not know the type of it does not take.
        constants = (
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in typed.graph.initializer
        )
        typed.graph.value_info.extend(constants)
        return onnx.inliner.inline_selected_functions(typed, names, inline_schema_functions=True)
    except Exception:  # a form that the specification does not make of others may still convert as it is
        return model


def op_types(model: Any) -> dict[str, str]:
    """The type of each node of the top graph by its name."""
    return {node.name: node.op_type for node in model.graph.node}


def input_names(model: Any) -> list[str]:
    """What the model is fed with, in its order; constants that old files list among the inputs left out."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [item.name for item in model.graph.input if item.name not in constants]


def output_names(model: Any) -> list[str]:
    return [item.name for item in model.graph.output]


def fix_shapes(path: Path, model: Any, max_length: int, shapes: Mapping[str, Sequence[int]]) -> list[str]:
    """Fix every free axis, in place: the batch to 1, the length of token inputs to `max_length`, others by `shapes`.

    Gives the inputs of which a size was taken that nobody named. Raises `InputError` naming an input whose shape stays free and
    `UnsupportedOpError` for inputs or outputs that are no tensors."""
    names = input_names(model)
    if unknown := sorted(set(shapes) - set(names)):
        raise InputError(f"{path}: there is no input {', '.join(unknown)}; it has {', '.join(names) or 'none'}")
    if not names:
        raise UnsupportedOpError(f"{path}: the graph has no inputs; give a model that computes something from its input")
    inputs = [item for item in model.graph.input if item.name in names]
    for what, cut, items in (("output", "before", model.graph.output), ("input", "after", inputs)):
        if strange := [item.name for item in items if not _is_numeric(item)]:
            cause = f"{what} {strange[0]} is no tensor of numbers, which TFLite needs"
            raise UnsupportedOpError(f"{path}: {cause}; cut the graph {cut} it")
    free = [item.name for item in inputs if item.name not in shapes and _is_free(item)]
    for item in inputs:
        _fix_shape(path, item, max_length, shapes.get(item.name))
    # Free sizes of the outputs and of what lies between go, which shape inference then fills from the inputs.
    del model.graph.value_info[:]
    for item in model.graph.output:
        for dimension in item.type.tensor_type.shape.dim:
            if dimension.dim_value <= 0:
                dimension.Clear()
    return free


def fix_values(path: Path, model: Any, values: Mapping[str, Sequence[float]]) -> None:
    """Make constants of the inputs that have `values`, in place: one for all of an input or as many as it holds. Needs its shape.

    Raises `InputError` naming an input that is not there or does not take them."""
    import onnx
    from onnx import numpy_helper

    for name, numbers in values.items():
        item = next((item for item in model.graph.input if item.name == name), None)
        if item is None:
            raise InputError(f"{path}: there is no input {name}; it has {', '.join(input_names(model)) or 'none'}")
        shape = [axis.dim_value for axis in item.type.tensor_type.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(item.type.tensor_type.elem_type)
        if len(numbers) not in (1, math.prod(shape)):
            raise InputError(f"{path}: input {name} holds {math.prod(shape)} numbers, --input-value gives {len(numbers)}")
        array = filled(numbers, shape, dtype)
        if dtype.kind != "f" and not np.isin(array, numbers).all():
            raise InputError(f"{path}: input {name} is {dtype}, which holds no {numbers[0]:g}; give it another --input-value")
        model.graph.input.remove(item)
        model.graph.initializer.append(numpy_helper.from_array(array, name))


def filled(numbers: Sequence[float], shape: Sequence[int], dtype: Any) -> np.ndarray:
    """An array of `numbers`, or all of the one that there is."""
    array = np.array(numbers).astype(dtype)
    return array.reshape(shape) if len(array) > 1 else np.full(shape, array[0])


def open_session(path: Path) -> Any:
    """The file in ONNX Runtime, on the CPU and without its warnings. Raises what that raises."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    # Integer products of processors without VNNI saturate, so that quantized graphs are computed in float here.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def dtype_of(end: Any) -> str:
    """numpy's name of the dtype of a session's input or output."""
    kind = end.type.removeprefix("tensor(").removesuffix(")")
    return _NUMPY.get(kind, kind)


def _is_free(item: Any) -> bool:
    return any(axis.dim_value <= 0 for axis in item.type.tensor_type.shape.dim)


def require_runs(
    path: Path,
    fixed: Path,
    shapes: Mapping[str, Sequence[int]],
    names: Sequence[str],
    values: Mapping[str, Sequence[float]],
) -> None:
    """Raise `InputError` if ONNX Runtime cannot run the file `fixed` with inputs of `shapes`; those of `names` were taken so."""
    try:
        session = open_session(fixed)
    except Exception:  # told where outputs are compared
        return
    dtypes = {item.name: dtype_of(item) for item in session.get_inputs()}
    try:
        session.run(None, {name: filled(values.get(name, (0,)), shapes[name], dtype) for name, dtype in dtypes.items()})
    except Exception as error:  # its exceptions share no public base class
        taken = " and ".join(f"{name} {list(shapes[name])}" for name in names)
        raise InputError(
            f"{path}: does not run with {taken}, where free axes were taken so ({one_line(error)}); "
            f"give their sizes with --input-shape {names[0]}=..."
        ) from error


def _fix_shape(path: Path, item: Any, max_length: int, sizes: Sequence[int] | None) -> None:
    import onnx

    kind = item.type.tensor_type
    if not kind.HasField("shape"):
        if sizes is None:
            raise InputError(f"{path}: input {item.name} has no shape; give it with --input-shape {item.name}=1,...")
        for size in sizes:
            kind.shape.dim.add().dim_value = size
        return
    axes = kind.shape.dim
    if sizes is not None and len(sizes) != len(axes):
        raise InputError(f"{path}: input {item.name} has {len(axes)} axes, --input-shape gives {len(sizes)}")
    integers = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)).kind in "iu"
    usual = [usual_size(place, len(axes), max_length, integers=integers) for place in range(len(axes))]
    taken = sizes or [axis.dim_value if axis.dim_value > 0 else size or 0 for axis, size in zip(axes, usual, strict=True)]
    if free := [place for place, size in enumerate(taken) if not size]:
        shape = ",".join(str(axis.dim_value or axis.dim_param or "?") for axis in axes)
        which = f"axis {free[0]}" if len(free) == 1 else f"axes {', '.join(map(str, free))}"
        example = ",".join(str(size or "?") for size in taken)
        raise InputError(
            f"{path}: {which} of input {item.name} ({shape}) {'is' if len(free) == 1 else 'are'} free; "
            f"give {'its size' if len(free) == 1 else 'their sizes'} with --input-shape {item.name}={example}"
        )
    for axis, size in zip(axes, taken, strict=True):
        axis.dim_value = size


def _is_numeric(item: Any) -> bool:
    import onnx

    kind = item.type.tensor_type.elem_type
    return bool(item.type.HasField("tensor_type")) and kind not in (onnx.TensorProto.STRING, onnx.TensorProto.UNDEFINED)


def to_float32(model: Any) -> None:
    """Make every float16, bfloat16 and float64 tensor float32, which is what TFLite computes in, in place."""
    import onnx
    from onnx import numpy_helper

    kinds = onnx.TensorProto
    others = (kinds.FLOAT16, kinds.BFLOAT16, kinds.DOUBLE)
    for graph in _graphs(model.graph):
        attributes = [attribute for node in graph.node for attribute in node.attribute]
        for tensor in (*graph.initializer, *(attribute.t for attribute in attributes if attribute.HasField("t"))):
            if tensor.data_type in others:
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
        for item in (*graph.input, *graph.output, *graph.value_info):
            if item.type.tensor_type.elem_type in others:
                item.type.tensor_type.elem_type = kinds.FLOAT
        for attribute in attributes:
            # Cast has its type in `to`, others such as EyeLike in `dtype`.
            if attribute.name in ("to", "dtype") and attribute.i in others:
                attribute.i = kinds.FLOAT


def simplified(model: Any) -> Any:
    """The model with constants folded, constant branches in their place and shapes inferred, as far as that can be done."""
    # onnxsim imports torch where it finds it, for a part that is not used here; TensorFlow shares this process.
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        import onnxsim
    finally:
        del sys.modules["torch"]
    try:
        # Its own way to put branches in their place gets the order of nodes wrong where one holds another.
        while True:
            model = onnxsim.simplify(model, skipped_optimizers=["eliminate_if_with_const_cond"])[0]
            if not branches.inline(model):
                return model
    except Exception:  # a graph that onnxsim cannot fold may still convert as it is
        return model


def sizes(model: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of inputs, outputs and what lies between, where they are known; a free size is 0."""
    return {
        item.name: tuple(dimension.dim_value for dimension in item.type.tensor_type.shape.dim)
        for item in (*model.graph.input, *model.graph.value_info, *model.graph.output)
    }


def has_constant_branch(model: Any) -> bool:
    """Whether some op works on constants alone, which onnx2tf does not take; torch folds only small ones itself."""
    constants = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            constants.update(node.output)
        elif node.input and all(name in constants for name in node.input if name):
            return True
    return False


def add_initial_states(model: Any) -> None:
    """Give every recurrent node the zeros to start from that ONNX lets it leave out and onnx2tf does not, in place."""
    from onnx import numpy_helper

    shapes = sizes(model)
    for number, node in enumerate(model.graph.node):
        states = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}.get(node.op_type, ())
        shape = shapes.get(node.input[0], ()) if states else ()
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if len(shape) != 3 or shape[1] < 1 or "hidden_size" not in attributes or "layout" in attributes:
            continue
        both = "direction" in attributes and attributes["direction"].s == b"bidirectional"
        zeros = np.zeros((2 if both else 1, shape[1], attributes["hidden_size"].i), np.float32)
        for place in states:
            node.input.extend([""] * (place + 1 - len(node.input)))
            if not node.input[place]:
                node.input[place] = f"initial_state_{number}_{place}"
                model.graph.initializer.append(numpy_helper.from_array(zeros, node.input[place]))


def store_constants(model: Any) -> None:
    """Make initializers of the Constant nodes of the top graph, in place: some of onnx2tf 1's ops take no others."""
    from onnx import numpy_helper

    kept = []
    for node in model.graph.node:
        values = {attribute.name: attribute.t for attribute in node.attribute} if node.op_type == "Constant" else {}
        if "value" in values:
            model.graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(values["value"]), node.output[0]))
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)


def rename_ends(model: Any, safe: re.Pattern[str]) -> dict[str, str]:
    """Give inputs and outputs whose names `safe` does not match others, in place; new name to old."""
    names = [name for name in (*input_names(model), *output_names(model)) if not safe.fullmatch(name)]
    renamed = {name: f"edgekit_{number}" for number, name in enumerate(dict.fromkeys(names))}
    for node in _nodes(model.graph):
        for listed in (node.input, node.output):
            listed[:] = [renamed.get(name, name) for name in listed]
    for item in (*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer):
        item.name = renamed.get(item.name, item.name)
    return {new: old for old, new in renamed.items()}


def drop_copies(model: Any) -> dict[str, str]:
    """Leave out, in place, the outputs that are another output once more; the name of each with that of the other.

    They are what ops that change nothing make of it, which converters leave out with all their names."""
    shapes, outputs = sizes(model), output_names(model)
    fed = set(input_names(model)) | {tensor.name for tensor in model.graph.initializer}
    origins: dict[str, str] = {}
    for node in model.graph.node:
        if node.input and _changes_nothing(node, shapes):
            origins[node.output[0]] = origins.get(node.input[0], node.input[0])
    kept: dict[str, str] = {}
    # The value itself before what is made of it.
    for name in sorted(outputs, key=lambda name: name in origins):
        if (origin := origins.get(name, name)) not in fed:
            kept.setdefault(origin, name)
    copies = {name: kept[origin] for name in outputs if kept.get(origin := origins.get(name, name), name) != name}
    left = [item for item in model.graph.output if item.name not in copies]
    del model.graph.output[:]
    model.graph.output.extend(left)
    return copies


def _changes_nothing(node: Any, shapes: Mapping[str, Sequence[int]]) -> bool:
    same = shapes.get(node.output[0], ()) == shapes.get(node.input[0])
    match node.op_type:
        case "Identity" | "Dropout":
            return True
        case "Flatten" | "Reshape" | "Squeeze" | "Unsqueeze":
            return same
        case "Transpose":
            order = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"), [0, -1])
            return order == sorted(order)
    return False


def move_channels_last(model: Any, names: Sequence[str]) -> None:
    """Have the inputs `names` take their channels on the last axis instead of axis 1, in place."""
    from onnx import helper

    moves = []
    for item in model.graph.input:
        if item.name not in names:
            continue
        axes = item.type.tensor_type.shape.dim
        old = [axis.dim_value for axis in axes]
        for axis, size in zip(axes, [old[0], *old[2:], old[1]], strict=True):
            axis.dim_value = size
        inner, order = f"{item.name}/channels_first", [0, len(axes) - 1, *range(1, len(axes) - 1)]
        for node in model.graph.node:
            node.input[:] = [inner if name == item.name else name for name in node.input]
        moves.append(helper.make_node("Transpose", [item.name], [inner], name=inner, perm=order))
    nodes = [*moves, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def refuse_unknown_ops(path: Path, model: Any) -> None:
    """Raise `UnsupportedOpError` naming the ops that this environment's onnx2tf has no TensorFlow form of."""
    spec = importlib.util.find_spec("onnx2tf")
    if spec is None or not spec.submodule_search_locations:
        raise EdgekitError("onnx2tf is not installed; install edgekit again")
    handlers = {file.stem for file in (Path(spec.submodule_search_locations[0]) / "ops").glob("[A-Z]*.py")}
    _refuse(path, {node.op_type for node in _nodes(model.graph) if node.op_type not in handlers})


def refuse_domains(path: Path, model: Any, domains: Sequence[str] = _DOMAINS) -> None:
    """Raise `UnsupportedOpError` naming the ops that are of none of these domains."""
    _refuse(path, {f"{node.domain}.{node.op_type}" for node in _nodes(model.graph) if node.domain not in domains})


def _refuse(path: Path, ops: set[str]) -> None:
    if ops:
        raise UnsupportedOpError(f"{path}: no TFLite form of op {', '.join(sorted(ops))}; export the model without it")


def _graphs(graph: Any) -> list[Any]:
    bodies = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return [graph, *(inner for body in bodies for inner in _graphs(body))]


def _nodes(graph: Any) -> list[Any]:
    return [node for one in _graphs(graph) for node in one.node]


def _modern(model: Any) -> Any:
    import onnx

    version = next((item.version for item in model.opset_import if item.domain in _DOMAINS), _MODERN)
    if version >= _OLDEST:
        return model
    try:
        return onnx.version_converter.convert_version(model, _MODERN)
    except Exception:  # an op whose old form has no newer one may still convert as it is
        return model
