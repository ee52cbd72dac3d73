"""Programs of `torch.export` as `.pt2` files: taken apart, looked through, and put together again from what computes.

`torch.export.load` unpickles, evaluates what a file says of its shapes, runs the guards that it holds, and calls any attribute of
torch as an op. So nothing of a file reaches it but tensors as raw bytes, and a graph of which every name, op and value was checked.
Needs torch; call it in a worker child, which has its temporary folder to itself."""

import json
import math
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import DISK_FULL, InputError, ModelFormatError, one_line
from edgekit.models.structure.program import DTYPES, OTHER_FLOATS
from edgekit.system import archives
from edgekit.system.serial import parse_json

_ZIP = b"PK\x03\x04"
_MODEL, _FORMAT, _EXAMPLES = "models/model.json", "archive_format", "data/sample_inputs/model.pt"
# Folder, configuration and the beginnings of the names of tensors: others are pickles of objects.
_PAYLOADS = (
    ("data/weights/", "data/weights/model_weights_config.json", "weight_"),
    ("data/constants/", "data/constants/model_constants_config.json", "tensor_"),
)
_COMPILED = "data/aotinductor/"
_SCHEMA = 8
_AGAIN = "export the module again with torch.export.save of PyTorch 2.9 or later"
# Names become those of variables in the Python code that torch writes for a graph.
_NAME, _PATH = re.compile(r"[A-Za-z_]\w*|", re.ASCII), re.compile(r"[\w.]*", re.ASCII)
_PATHS = {"parameter_name", "buffer_name", "tensor_constant_name", "target", "as_operator"}
# What an op is told in words, by the name of its argument; others, such as filename, are not for computing.
_WORDS = (
    "activation approximate assert_msg driver equation indexing interpolation mode norm ord p pad_mode padding padding_side reduce "
    "rounding_mode side UPLO"
)
_WORD_ARGUMENTS = frozenset(_WORDS.split())
_VALUE = re.compile(r"(Optional\[|List\[)*(Tensor|int|float|bool|number|complex|str|Device|Generator|NoneType)\]*")
_OTHER_OPS = re.compile(
    r"_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|not_)|math\.(ceil|floor|trunc)"
    r"|torch\.sym_(float|int|ite|max|min|not|sum)|torch\._sym_sqrt"
    r"|torch\.ops\.higher_order\.(cond|scan|while_loop|wrap_with_autocast|wrap_with_set_grad_enabled)"
)
# Kinds of inputs that the file holds the values of.
_TENSORS = ("parameter", "buffer", "tensor_constant")
# Of inputs, what TFLite has.
_INPUT_DTYPES = {"bool", "float32", "int8", "int16", "int32", "int64", "uint8"}


@dataclass(frozen=True)
class Input:
    """Of a program: what torch calls a tensor of `dtype`, and its `shape` with no size free."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Program:
    """`module` takes the tensors of `inputs` by position and returns a tuple of those that `outputs` names."""

    module: Any
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]

    def example(self) -> tuple[Any, ...]:
        """Zeros, or ones for whole numbers, which may be divided by."""
        import torch

        made = []
        for item in self.inputs:
            dtype = getattr(torch, item.dtype)
            made.append((torch.zeros if dtype.is_floating_point else torch.ones)(item.shape, dtype=dtype))
        return tuple(made)


def load(source: Path, max_length: int, shapes: Mapping[str, Sequence[int]]) -> Program:
    """The program in a .pt2 file, with every free size fixed: by `shapes`, the batch to 1, the length of token ids to `max_length`
    where the program allows it, others to those of the example that it was exported with.

    Raises `ModelFormatError` for what is no such file, holds more than tensors and ops that compute, keeps a state or is not in
    float32, and `InputError` for `shapes` that do not fit."""
    import torch
    from torch.export.pt2_archive import PT2ArchiveReader, PT2ArchiveWriter

    with source.open("rb") as stream:
        start = stream.read(len(_ZIP))
    if start != _ZIP:
        cause = "is empty" if not start else "is no .pt2 file of torch.export.save"
        raise ModelFormatError(f"{source}: {cause}; {_AGAIN}")
    try:
        reader = PT2ArchiveReader(str(source))
        names = reader.get_file_names()
        sizes = {name: reader.archive_file.get_record_size(name) for name in names}
    except (RuntimeError, AssertionError, UnicodeDecodeError) as error:
        raise ModelFormatError(f"{source}: is no program that torch.export.save of PyTorch 2.9 or later wrote; {_AGAIN}") from error
    _check_records(source, sizes)
    _check_sums(source)
    try:
        program = _Described(source, parse_json(reader.read_bytes(_MODEL)))
        inputs = program.inputs(max_length, shapes)
        with tempfile.TemporaryDirectory() as folder:
            clean = Path(folder) / "clean.pt2"
            with PT2ArchiveWriter(str(clean)) as writer:
                writer.write_string(_MODEL, json.dumps(program.checked(inputs)))
                writer.write_bytes(_EXAMPLES, b"")
                for place, listing, start_of_name in _PAYLOADS:
                    config = _payload(source, parse_json(reader.read_bytes(listing)), start_of_name, sizes, place)
                    writer.write_string(listing, json.dumps(config))
                    for name in sorted({entry["path_name"] for entry in config["config"].values()}):
                        writer.write_bytes(place + name, reader.read_bytes(place + name))
            module = torch.export.load(clean).module(check_guards=False)
    except (ModelFormatError, InputError, MemoryError):
        raise
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, RecursionError) as error:
        raise ModelFormatError(f"{source}: is damaged ({one_line(error)}); {_AGAIN}") from error
    except Exception as error:  # what torch raises on graphs that do not fit together shares no base class
        if getattr(error, "errno", None) in DISK_FULL:
            raise
        raise ModelFormatError(f"{source}: torch cannot load it ({one_line(error)}); {_AGAIN}") from error
    return Program(_flat(module, program.constants, program.kept), inputs, program.outputs)


def _check_records(source: Path, sizes: Mapping[str, int]) -> None:
    if compiled := [name for name in sizes if name.startswith(_COMPILED)]:
        raise ModelFormatError(f"{source}: holds compiled code ({compiled[0]}), which is not run; save the exported program itself")
    if older := [name for name in sizes if name.endswith(".pt") and name != _EXAMPLES]:
        raise ModelFormatError(f"{source}: holds its weights as a pickle ({older[0]}), as PyTorch 2.8 and older did; {_AGAIN}")
    for name in (_FORMAT, _MODEL, *(listing for _, listing, _ in _PAYLOADS)):
        if name not in sizes:
            raise ModelFormatError(f"{source}: holds no {name}; {_AGAIN}")
    # torch compresses nothing.
    if sum(sizes.values()) > source.stat().st_size:
        raise ModelFormatError(f"{source}: unpacks to more than it holds; {_AGAIN}")


def _check_sums(source: Path) -> None:
    """Raise `ModelFormatError` where a record is not what was written, which torch reads all the same."""
    try:
        with zipfile.ZipFile(source) as archive:
            if sum(member.file_size for member in archive.infolist()) > source.stat().st_size:
                raise ModelFormatError(f"{source}: unpacks to more than it holds; {_AGAIN}")
            damaged = archive.testzip()
    except archives.DAMAGED as error:
        raise ModelFormatError(f"{source}: is damaged ({one_line(error)}); {_AGAIN}") from error
    if damaged is not None:
        raise ModelFormatError(f"{source}: is damaged ({damaged}); {_AGAIN}")


def _payload(source: Path, listed: Any, start: str, sizes: Mapping[str, int], place: str) -> dict[str, Any]:
    """The configuration of weights or constants, all of which are tensors as raw bytes."""
    config = {}
    for name, entry in listed["config"].items():
        path, meta = entry["path_name"], entry.get("tensor_meta")
        if entry["use_pickle"] or not meta or not re.fullmatch(rf"{start}\w+", path, re.ASCII):
            raise ModelFormatError(
                f"{source}: {name} is a Python object, pickled ({path}), which is not loaded; export the module without it"
            )
        if _PATH.fullmatch(name) is None:
            raise ModelFormatError(f"{source}: calls a tensor {name!r}, which is no name; {_AGAIN}")
        shape = [size["as_int"] for size in meta["sizes"]]
        if math.prod(shape) and not sizes[place + path]:
            raise ModelFormatError(
                f"{source}: {name} has no values, it was exported from fake tensors; export a module with weights"
            )
        if entry["is_param"]:
            _refuse_dtype(source, name, meta["dtype"])
        config[name] = {
            "path_name": path,
            "is_param": bool(entry["is_param"]),
            "use_pickle": False,
            "tensor_meta": _checked(source, {**meta, "requires_grad": False}),
        }
    return {"config": config}


def _refuse_dtype(source: Path, name: str, dtype: int) -> None:
    if (called := DTYPES.get(dtype)) in OTHER_FLOATS:
        raise ModelFormatError(f"{source}: {name} is {called}; export the module in float32, after .float()")


class _Described:
    """What model.json says. `constants` are the values that inputs were given for good, by place, `kept` the places of outputs that
    are tensors, which `outputs` names."""

    def __init__(self, source: Path, content: Any) -> None:
        self.source, self.content = source, content
        version = content["schema_version"]["major"]
        if version != _SCHEMA:
            raise ModelFormatError(f"{source}: is of version {version} of the format, edgekit reads {_SCHEMA}; {_AGAIN}")
        self.graph, signature = content["graph_module"]["graph"], content["graph_module"]["signature"]
        self.specs = signature["input_specs"]
        self.user_inputs: list[str | None] = []
        self.constants: dict[int, Any] = {}
        for spec in self.specs:
            self._note_input(spec)
        if not any(self.user_inputs):
            raise ModelFormatError(f"{source}: the program has no inputs; give one that computes something from its input")
        self.results = self._results(signature["output_specs"])
        self.kept = [place for place, result in enumerate(self.results) if "as_tensor" in result]
        call = next(entry["signature"] for entry in content["graph_module"]["module_call_graph"] if entry["fqn"] == "")
        fields = content["graph_module"].get("treespec_namedtuple_fields") or {}
        paths = [*_leaves(parse_json(call["out_spec"])[1], fields)]
        if len(paths) != len(self.results):
            raise ModelFormatError(f"{source}: has {len(self.results)} outputs and {len(paths)} places for them; {_AGAIN}")
        self.outputs = _named([paths[place] for place in self.kept])

    def _note_input(self, spec: Mapping[str, Any]) -> None:
        ((kind, held),) = spec.items()
        if kind == "user_input" and "as_tensor" in held["arg"]:
            self.user_inputs.append(held["arg"]["as_tensor"]["name"])
        elif kind in ("user_input", "constant_input"):
            ((form, value),) = (held["arg"] if kind == "user_input" else held["value"]).items()
            if form not in ("as_none", "as_int", "as_float", "as_bool", "as_string"):
                raise ModelFormatError(
                    f"{self.source}: takes a number, not a tensor ({form}); export it with a tensor in its place"
                )
            self.constants[len(self.user_inputs)] = None if form == "as_none" else value
            self.user_inputs.append(None)
        elif kind not in _TENSORS:
            raise ModelFormatError(f"{self.source}: holds a {kind}, which is not loaded; export the module without it")

    def _results(self, specs: Sequence[Mapping[str, Any]]) -> list[Any]:
        results = []
        for spec in specs:
            ((kind, held),) = spec.items()
            if kind == "user_output":
                results.append(held["arg"])
                continue
            changed = next((value for name, value in held.items() if name.endswith("_name")), "")
            advice = "export it after .eval(), with states as inputs and outputs"
            raise ModelFormatError(f"{self.source}: changes {changed or 'its state'} as it runs ({kind}); {advice}")
        return results

    def inputs(self, max_length: int, shapes: Mapping[str, Sequence[int]]) -> tuple[Input, ...]:
        """The tensors that the program takes, in its order, each size fixed."""
        names = [name for name in self.user_inputs if name is not None]
        if unknown := sorted({*shapes} - {*names}):
            raise InputError(f"{self.source}: there is no input {', '.join(unknown)}; it has {', '.join(names)}")
        fixed: dict[str, int] = {}
        metas = {name: self.graph["tensor_values"][name] for name in names}
        for name, shape in shapes.items():
            self._take(name, metas[name]["sizes"], shape, fixed)
        inputs = []
        for name, meta in metas.items():
            _refuse_dtype(self.source, f"input {name}", meta["dtype"])
            dtype = DTYPES.get(meta["dtype"])
            if dtype not in _INPUT_DTYPES:
                raise ModelFormatError(f"{self.source}: input {name} has a dtype that TFLite lacks ({meta['dtype']}); {_AGAIN}")
            tokens = len(meta["sizes"]) == 2 and dtype != "float32"
            wanted = [1, max_length] if tokens else [1]
            shape = [
                self._size(name, size, wanted[axis] if axis < len(wanted) else None, fixed)
                for axis, size in enumerate(meta["sizes"])
            ]
            inputs.append(Input(name, tuple(shapes.get(name, shape)), dtype))
        return tuple(inputs)

    def _take(self, name: str, sizes: Sequence[Any], shape: Sequence[int], fixed: dict[str, int]) -> None:
        if len(shape) != len(sizes) or any(size.get("as_int", given) != given for size, given in zip(sizes, shape, strict=True)):
            own = ",".join(str(size.get("as_int", "?")) for size in sizes)
            raise InputError(f"{self.source}: --input-shape {name}={','.join(map(str, shape))} does not fit {name}={own}")
        for size, given in zip(sizes, shape, strict=True):
            if (symbol := _symbol(size)) is not None and fixed.setdefault(symbol, given) != given:
                raise InputError(
                    f"{self.source}: --input-shape says {fixed[symbol]} and {given} for one size of the program, {symbol}"
                )
            if symbol is not None and self._bounded(symbol, given) != given:
                low, high = self._range(symbol)
                most = "" if high is None else f" and at most {high}"
                raise InputError(f"{self.source}: --input-shape {name}: the program wants {given} to be at least {low}{most}")

    def _size(self, name: str, size: Mapping[str, Any], wanted: int | None, fixed: dict[str, int]) -> int:
        if "as_int" in size:
            return int(size["as_int"])
        symbol, hint = _symbol(size), (size["as_expr"].get("hint") or {}).get("as_int")
        if symbol in fixed:
            return fixed[symbol]
        # A size that is computed from others fits the example's alone.
        chosen = hint if wanted is None or symbol is None else self._bounded(symbol, wanted)
        if chosen is None:
            raise InputError(f"{self.source}: input {name} has a free size; give --input-shape {name}=1,…")
        if symbol is not None:
            fixed[symbol] = int(chosen)
        return int(chosen)

    def _range(self, symbol: str) -> tuple[int, int | None]:
        bounds = (self.content.get("range_constraints") or {}).get(symbol) or {}
        return max(int(bounds.get("min_val") or 0), 1), bounds.get("max_val")

    def _bounded(self, symbol: str, size: int) -> int:
        low, high = self._range(symbol)
        return max(low, size if high is None else min(size, int(high)))

    def refuse_state(self) -> None:
        """Raise `ModelFormatError` where the graph writes into what is kept from run to run."""
        kept = {held["arg"]["name"] for spec in self.specs for kind, held in spec.items() if kind in _TENSORS}
        self._refuse_writes(self.graph, kept | {name for name in self.user_inputs if name is not None})

    def _refuse_writes(self, graph: Mapping[str, Any], kept: set[str]) -> None:
        """`kept` are names of tensors, to which their views are added."""
        for node in graph["nodes"]:
            given = {item["name"]: item["arg"] for item in node["inputs"]}
            inner = [item["arg"]["as_graph"]["graph"] for item in node["inputs"] if "as_graph" in item["arg"]]
            if inner and not kept.isdisjoint(_tensors([item["arg"] for item in node["inputs"]])):
                for part in inner:
                    self._refuse_writes(part, {*_tensors(part["inputs"])})
            if (schema := _schema(node["target"])) is None:
                continue
            touched = [
                argument
                for argument in schema.arguments
                if argument.alias_info and not kept.isdisjoint(_tensors(given.get(argument.name)))
            ]
            if any(argument.alias_info.is_write for argument in touched):
                name = next(name for name in _tensors(given[touched[0].name]) if name in kept)
                raise ModelFormatError(f"{self.source}: {node['name']} changes {name} as it runs; make states inputs and outputs")
            if touched:
                kept |= {*_tensors(node["outputs"])}

    def checked(self, inputs: Sequence[Input]) -> dict[str, Any]:
        """model.json anew, from what was checked: one flat list of tensors in, one out, no guards, no remarks, no free size."""
        graph = _checked(self.source, self.graph)
        self.refuse_state()
        for item in inputs:
            graph["tensor_values"][item.name]["sizes"] = [{"as_int": size} for size in item.shape]
        signature = _checked(self.source, self.content["graph_module"]["signature"])
        call: dict[str, Any] = {
            "inputs": [],
            "outputs": [],
            "in_spec": _flat_spec(len(self.user_inputs), called=True),
            "out_spec": _flat_spec(len(self.results)),
            "forward_arg_names": None,
        }
        return {
            "graph_module": {
                "graph": graph,
                "signature": signature,
                "module_call_graph": [{"fqn": "", "signature": call}],
                "metadata": {},
                "treespec_namedtuple_fields": {},
            },
            "opset_version": {"aten": int(self.content["opset_version"]["aten"])},
            "range_constraints": {},
            "schema_version": {"major": _SCHEMA, "minor": int(self.content["schema_version"]["minor"])},
            "verifiers": ["TRAINING"],
            "torch_version": "",
            "guards_code": [],
        }


def _flat(program: Any, constants: Mapping[int, Any], kept: Sequence[int]) -> Any:
    """The program as a module with its constant inputs filled in and its tensors alone as outputs."""
    import torch

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.program = program

        def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            given = list(tensors)
            for place, value in constants.items():
                given.insert(place, value)
            results = self.program(*given)
            return tuple(results[place] for place in kept)

    module = Flat()
    # An exported module has no eval().
    module.training = program.training = False
    return module


def _tensors(argument: Any) -> Iterator[str]:
    """Names of the tensors in a part of a graph, but for those inside graphs in it."""
    if isinstance(argument, list):
        for part in argument:
            yield from _tensors(part)
    elif isinstance(argument, dict):
        for kind, part in argument.items():
            if kind == "as_tensor":
                yield part["name"]
            elif kind == "as_tensors":
                yield from (tensor["name"] for tensor in part)
            elif kind != "as_graph":
                yield from _tensors(part)


def _symbol(size: Mapping[str, Any]) -> str | None:
    """The name of a free size, None for one that is fixed or computed from others."""
    text = size["as_expr"]["expr_str"] if "as_expr" in size else ""
    match = re.fullmatch(r"(?:Symbol\('(\w+)'[^()]*\)|(\w+))", text, re.ASCII)
    return (match[1] or match[2]) if match else None


def _checked(source: Path, value: Any, key: str = "", group: str = "") -> Any:
    """A part of a graph anew, without remarks, on the CPU, and with the example's sizes where they are free.

    What torch says of a graph's tensors is not used but for the inputs: the graph is traced once more."""
    if isinstance(value, list):
        return [_checked(source, item, key, group) for item in value]
    if isinstance(value, dict):
        if "as_custom_obj" in value:
            raise ModelFormatError(f"{source}: calls a Python object, which is not loaded; export the module without it")
        if "as_expr" in value:
            hint = (value["as_expr"].get("hint") or {}).get("as_int", 1)
            return {"sym_bool_values": {"as_bool": True}, "sym_float_values": {"as_float": 1.0}}.get(group, {"as_int": int(hint)})
        if value.keys() == {"type", "index"}:
            return {"type": "cpu", "index": None}
        if "target" in value and "inputs" in value:
            _refuse_op(source, value["target"], value["inputs"])
            value = {**value, "metadata": {}}
        if "as_operator" in value:
            _refuse_op(source, value["as_operator"], ())
        return {
            _word(source, name, ""): _checked(source, item, name, name if name.startswith("sym_") else group)
            for name, item in value.items()
        }
    return _word(source, value, key) if isinstance(value, str) else value


def _word(source: Path, text: str, key: str) -> str:
    """A name as it may stand in code; what an op is told in words stands there in quotes."""
    if key in ("as_string", "as_strings") or (_PATH if key in _PATHS else _NAME).fullmatch(text):
        return text
    raise ModelFormatError(f"{source}: {text[:80]!r} is no name of a tensor or op, so edgekit does not load it; {_AGAIN}")


def _refuse_op(source: Path, target: str, inputs: Sequence[Mapping[str, Any]]) -> None:
    """Raise `ModelFormatError` unless an op is known to compute and do nothing else."""
    if _OTHER_OPS.fullmatch(target):
        return
    schema = _schema(target)
    if schema is None:
        raise ModelFormatError(f"{source}: calls {target[:80]}, which is not PyTorch's own; export the module without it")
    ends = [*schema.arguments, *schema.returns]
    for end in ends:
        if not _VALUE.fullmatch(str(end.type)) or ("str" in str(end.type) and end.name not in _WORD_ARGUMENTS):
            raise ModelFormatError(
                f"{source}: calls {target}, which is not known to compute and do nothing else; export the module without it"
            )
    given = {item["name"]: item["arg"] for item in inputs}
    shares = [given[name].get("as_float") for name in ("p", "dropout") if name in given]
    if any(given.get(name, {}).get("as_bool") for name in ("train", "training")) and shares != [0]:
        raise ModelFormatError(f"{source}: {target} trains; call .eval() on the module before torch.export")
    if unknown := {*given} - {argument.name for argument in schema.arguments}:
        raise ModelFormatError(f"{source}: gives {target} an argument {sorted(unknown)[0][:80]!r} that it does not have; {_AGAIN}")


def _schema(target: str) -> Any:
    """What an op of PyTorch's own takes and gives; None for anything else."""
    import torch

    match = re.fullmatch(r"torch\.ops\.(aten|prims)\.([a-z_]\w*)\.([A-Za-z]\w*)", target, re.ASCII)
    packet = getattr(getattr(torch.ops, match[1]), match[2], None) if match else None
    return getattr(getattr(packet, match[3], None), "_schema", None) if match else None


def _flat_spec(count: int, *, called: bool = False) -> str:
    """How torch writes a tuple of `count` tensors, or the arguments of a call with these."""
    leaf: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
    spec: dict[str, Any] = {"type": "builtins.tuple", "context": "null", "children_spec": [leaf] * count}
    if called:
        no_names = {"type": "builtins.dict", "context": "[]", "children_spec": []}
        spec = {"type": "builtins.tuple", "context": "null", "children_spec": [spec, no_names]}
    return json.dumps([1, spec])


def _leaves(spec: Any, fields: Mapping[str, Any], path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """For each tensor of a structure the keys and numbers that lead to it."""
    if spec["type"] is None:
        yield path
        return
    children, context = spec["children_spec"], spec["context"]
    keys: Any = (fields.get(context) or {}).get("field_names") if isinstance(context, str) else None
    if keys is None and isinstance(context, str):
        keys = parse_json(context)
    # Classes of other libraries list the names of their fields, some of them beside those that were left empty.
    if isinstance(keys, list) and keys and isinstance(keys[0], list):
        keys = keys[0]
    if not isinstance(keys, list) or len(keys) != len(children):
        keys = range(len(children))
    for key, child in zip(keys, children, strict=True):
        yield from _leaves(child, fields, (*path, key))


def _named(paths: Sequence[tuple[Any, ...]]) -> tuple[str, ...]:
    """A name for each output: its key in what the program returns, else its number."""
    names: list[str] = []
    for path in paths:
        name = "_".join(re.sub(r"\W", "_", str(key), flags=re.ASCII) for key in path) or "0"
        name = name if not name[0].isdigit() else f"output_{name}"
        names.append(f"{name}_{len(names)}" if name in names else name)
    return tuple(names)
