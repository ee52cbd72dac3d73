"""Programs of torch.export, sound ones and those that a stranger might hand in; what needs torch runs in a worker's child."""

import collections
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError
from edgekit.models import program

MODEL, WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"
CONSTANTS, EXAMPLES = "data/constants/model_constants_config.json", "data/sample_inputs/model.pt"
Pair = collections.namedtuple("Pair", "boxes scores")


def write_sound(folder: Path) -> None:
    """`net.pt2` with inputs `image` (free, 3, 8, 8) and `meta_a` (free, 4), outputs `logits` and `x`, and others."""
    import torch
    from torch import nn
    from torch.export import Dim

    def save(name: str, module: Any, *inputs: Any, free: Any = None, named: dict[str, Any] | None = None) -> None:
        torch.export.save(torch.export.export(module, inputs, named, dynamic_shapes=free), folder / f"{name}.pt2")

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.norm, self.linear = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)

        def forward(self, image: Any, meta: Any) -> Any:
            x = self.norm(self.convolution(image)).relu().mean((2, 3)) + meta["a"]
            return {"logits": self.linear(x), "x": x}

    batch, length, side = Dim("batch"), Dim("length", max=24), Dim("side", min=8, max=64)
    free = {"image": {0: batch}, "meta": {"a": {0: batch}}}
    save("net", Net().eval(), torch.randn(2, 3, 8, 8), free=free, named={"meta": {"a": torch.randn(2, 4)}})

    class Texts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.linear = nn.Embedding(9, 4), nn.Linear(4, 3)

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.linear((self.table(input_ids) * attention_mask[..., None]).sum(1))

    ids = torch.ones(2, 12, dtype=torch.int64)
    save("texts", Texts().eval(), ids, ids, free=({0: batch, 1: length}, {0: batch, 1: length}))
    save("large", nn.Conv2d(3, 2, 3).eval(), torch.randn(2, 3, 16, 20), free=({0: Dim("many", min=2), 2: side},))

    class Places(nn.Module):
        def forward(self, x: Any, times: int, unread: Any, absent: Any = None) -> Any:
            return Pair(x * times + torch.arange(4.0), (x.sum(1), None))

    torch.utils._pytree._register_namedtuple(Pair, serialized_type_name="tests.Pair")
    save("places", Places(), torch.randn(1, 4), 3, torch.randn(1, 2))

    class Counts(nn.Module):
        def __init__(self, quietly: bool) -> None:
            super().__init__()
            self.quietly = quietly
            self.register_buffer("seen", torch.zeros(1, 4))

        def forward(self, x: Any) -> Any:
            with torch.set_grad_enabled(not self.quietly):
                self.seen[:, 1:].add_(1)
            return x + self.seen

    class Quiet(nn.Module):
        def forward(self, x: Any) -> Any:
            with torch.no_grad():
                return (x * 2).add_(1)

    save("counts", Counts(quietly=False).eval(), torch.randn(1, 4))
    save("counts quietly", Counts(quietly=True).eval(), torch.randn(1, 4))
    save("quiet", Quiet(), torch.randn(1, 4))
    save("trains", nn.Sequential(nn.Linear(4, 4), nn.Dropout()).train(), torch.randn(1, 4))
    save("half", nn.Linear(4, 4).half().eval(), torch.randn(1, 4).half())
    torch.jit.trace(nn.Linear(4, 4), torch.randn(1, 4)).save(str(folder / "script.pt2"))


def changed(source: Path, target: Path, parts: Mapping[str, Callable[[Any], bytes]]) -> None:
    """`source` with other records, or with more."""
    from torch.export.pt2_archive import PT2ArchiveReader, PT2ArchiveWriter

    reader = PT2ArchiveReader(str(source))
    names = [name for name in reader.get_file_names() if name.startswith(("models/", "data/"))]
    with PT2ArchiveWriter(str(target)) as writer:
        for name in [*names, *(name for name in parts if name not in names)]:
            content = reader.read_bytes(name) if name in names else b""
            writer.write_bytes(name, parts[name](content) if name in parts else content)


def as_json(change: Callable[[Any], None]) -> Callable[[bytes], bytes]:
    def rewrite(content: bytes) -> bytes:
        change(parsed := json.loads(content))
        return json.dumps(parsed).encode()

    return rewrite


class Spoils:
    """Writes a file where it is unpickled."""

    def __init__(self, left: Path) -> None:
        self.left = left

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.left}",)


def strange(folder: Path, left: Path) -> dict[str, Path]:
    """By what is wrong with each; `net.pt2` is there already. Code in them would write `left`."""
    import torch

    code = f"__import__('os').system('touch {left}')"

    def graph(change: Callable[[Any], None]) -> dict[str, Callable[[bytes], bytes]]:
        return {MODEL: as_json(lambda content: change(content["graph_module"]["graph"]))}

    def node(**values: str) -> dict[str, Callable[[bytes], bytes]]:
        return graph(lambda held: held["nodes"][2].update(values))

    def parameter(content: Any) -> None:
        content["graph_module"]["signature"]["input_specs"][0]["parameter"]["parameter_name"] = f'c"); {code}; ("'

    def payload(**values: Any) -> Callable[[bytes], bytes]:
        return as_json(lambda content: content["config"].update(values))

    def pickled_weight(content: Any) -> None:
        content["config"]["linear.bias"]["use_pickle"] = True

    def no_values(content: Any) -> None:
        content["config"]["linear.bias"]["path_name"] = "weight_none"

    def custom(held: Any) -> None:
        held["nodes"][2]["inputs"][0]["arg"] = {"as_custom_obj": {"name": "x", "class_fqn": "__torch__.X"}}

    def version(content: Any) -> None:
        content["schema_version"]["major"] = 7

    examples = io.BytesIO()
    torch.save((Spoils(left),), examples)
    opaque = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    files = {}
    for name, parts in {
        "hub": node(target="torch.hub.load"),
        "library": node(target="torch.ops.load_library"),
        "foreign op": node(target="torch.ops.mine.twice.default"),
        "method": node(target="_operator.methodcaller"),
        "extension": node(target="#x:os"),
        "reads a file": node(target="torch.ops.aten.from_file.default"),
        "writes a file": node(target="torch.ops.aten.save.default"),
        "class": node(target="torch.ops.aten.__class__.mro"),
        "name": node(name=f"x; {code}; y"),
        "parameter": {MODEL: as_json(parameter)},
        "custom object": graph(custom),
        "opaque object": {CONSTANTS: payload(x=opaque), "data/constants/opaque_obj_0": lambda _: pickle.dumps(Spoils(left))},
        "pickled weight": {WEIGHTS: as_json(pickled_weight), "data/weights/weight_none": lambda _: examples.getvalue()},
        "no values": {WEIGHTS: as_json(no_values), "data/weights/weight_none": lambda _: b""},
        "compiled": {"data/aotinductor/model/model.so": lambda _: b"\x7fELF"},
        "older": {"data/weights/model.pt": lambda _: examples.getvalue()},
        "version": {MODEL: as_json(version)},
        "no json": {MODEL: lambda content: content[:-9]},
        "no graph": {MODEL: lambda _: b"{}"},
    }.items():
        files[name] = folder / f"{name}.pt2"
        changed(folder / "net.pt2", files[name], parts)
    content = (folder / "net.pt2").read_bytes()
    archive = io.BytesIO()
    zipfile.ZipFile(archive, "w").close()
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as zipped:
        zipped.writestr("a/b", b"c")
    for name, bytes_ in {
        "truncated": content[: len(content) // 2],
        "flipped": content[: (at := content.index(b"data/weights/weight_0") + 200)] + bytes([content[at] ^ 1]) + content[at + 1 :],
        "empty": b"",
        "text": b"no archive",
        "hollow": archive.getvalue(),
        "zip": other.getvalue(),
    }.items():
        files[name] = folder / f"{name}.pt2"
        files[name].write_bytes(bytes_)
    return files


def harmless(folder: Path, left: Path) -> dict[str, Path]:
    """What torch itself would run or unpickle, and edgekit does not even look at."""
    import torch

    code = f"__import__('os').system('touch {left}') or True"

    def size(content: Any) -> None:
        held = content["graph_module"]["graph"]["tensor_values"]["conv2d"]["sizes"]
        held[0]["as_expr"]["expr_str"] = code

    def structure(content: Any) -> None:
        kind = {"default_factory_module": "antigravity", "default_factory_name": "x", "dict_context": ["logits", "x"]}
        leaf: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
        spec = [1, {"type": "collections.defaultdict", "context": kind, "children_spec": [leaf, leaf]}]
        content["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = json.dumps(spec)

    examples = io.BytesIO()
    torch.save((Spoils(left),), examples)
    files = {}
    for name, parts in {
        "size": {MODEL: as_json(size)},
        "guard": {MODEL: as_json(lambda content: content.update(guards_code=[code]))},
        "structure": {MODEL: as_json(structure)},
        "examples": {EXAMPLES: lambda _: examples.getvalue()},
    }.items():
        files[name] = folder / f"{name}.pt2"
        changed(folder / "net.pt2", files[name], parts)
    return files


def said(file: Path, max_length: int = 8, shapes: Mapping[str, tuple[int, ...]] | None = None) -> str:
    """What loading says of a file, or its ends and the shapes of what it computes."""
    try:
        loaded = program.load(file, max_length, shapes or {})
        results = [tuple(result.shape) for result in loaded.module(*loaded.example())]
    except EdgekitError as error:
        return f"{type(error).__name__}: {error.message}"
    given = " ".join(f"{item.name}:{item.dtype}:{item.shape}" for item in loaded.inputs)
    return f"{given} -> {' '.join(f'{name}:{shape}' for name, shape in zip(loaded.outputs, results, strict=True))}"


def sound_and_strange(folder: Path) -> dict[str, str]:
    """What is said of each file."""
    write_sound(folder)
    sound = {file.stem: file for file in sorted(folder.iterdir())}
    left = folder / "left"
    answers = {name: said(file) for name, file in (sound | strange(folder, left) | harmless(folder, left)).items()}
    net = folder / "net.pt2"
    answers["wide batch"] = said(net, shapes={"image": (3, 3, 8, 8)})
    answers["other sides"] = said(net, shapes={"image": (3, 3, 8, 9)})
    answers["two batches"] = said(net, shapes={"image": (3, 3, 8, 8), "meta_a": (2, 4)})
    answers["no such input"] = said(net, shapes={"pixels": (1,)})
    answers["small side"] = said(folder / "large.pt2", shapes={"input": (2, 3, 4, 20)})
    answers["long texts"] = said(folder / "texts.pt2", max_length=64)
    answers["left"] = str(left.exists())
    return answers
