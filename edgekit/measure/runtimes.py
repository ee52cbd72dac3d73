"""What can be run and by which runtime: .tflite files, .onnx and .ort files, TorchScript .pt files, checkpoint folders.

One process runs one kind of them: torch and TensorFlow never share a process, and a .tflite file needs neither."""

import importlib
import inspect
import struct
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgekit.data.samples import as_fed
from edgekit.errors import CheckpointError, ModelFormatError, one_line
from edgekit.models import weights
from edgekit.models.checkpoint import Checkpoint
from edgekit.spec import Signature, TensorSpec
from edgekit.system import artifacts
from edgekit.system.serial import parse_json, read_json
from edgekit.system.worker import Worker
from edgekit.tflite import flatbuffer

Array = np.ndarray[Any, np.dtype[Any]]


class Runtime(StrEnum):
    """What runs a file; the value is its name for people."""

    LITERT = "LiteRT"
    ONNX = "ONNX Runtime"
    TORCHSCRIPT = "TorchScript"
    PYTORCH = "PyTorch"


_BY_SUFFIX = {".onnx": Runtime.ONNX, ".ort": Runtime.ONNX, ".pt": Runtime.TORCHSCRIPT}
_MODULES = {
    Runtime.LITERT: ("ai_edge_litert.interpreter",),
    Runtime.ONNX: ("onnxruntime",),
    Runtime.TORCHSCRIPT: ("torch",),
    Runtime.PYTORCH: ("torch", "transformers"),
}
# Inputs of a checkpoint or a TorchScript file that names none, in the order in which `edgekit export` writes them.
_TOKEN_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_NUMPY = {"float": "float32", "double": "float64"}
# Indices, shapes and flags are no weights, though they are stored among them.
_NO_WEIGHTS = ("INT64", "I64", "BOOL", "STRING")
_MOST_HEADER_BYTES = 100_000_000


class Runnable(Protocol):
    """A loaded model: `load_ms` is what reading and preparing it took.

    One inference takes up to `batch` rows. `ops`, `delegated_ops` and `partitions` are those of LiteRT's CPU delegate, None in the
    other runtimes."""

    load_ms: float
    signature: Signature

    @property
    def batch(self) -> int: ...
    @property
    def ops(self) -> int | None: ...
    @property
    def delegated_ops(self) -> int | None: ...
    @property
    def partitions(self) -> int | None: ...

    def set_inputs(self, inputs: Mapping[str, Array]) -> None:
        """Store one row, arrays by input name, each with a leading axis of 1; or up to `batch` rows."""

    def invoke(self) -> None:
        """Run on what was stored and nothing else, so that it can be timed."""

    def outputs(self) -> dict[str, Array]:
        """Results of the last `invoke` by name, the model's first output first."""


@dataclass(frozen=True)
class Description:
    """What is known before anything runs.

    `signature` has -1 where an axis is free. `files` hold the weights. `parameters` counts the stored weight values, each
    buffer once: floats and quantized integers, not indices, shapes and flags; None where the format does not tell."""

    runtime: Runtime
    signature: Signature
    files: tuple[Path, ...]
    parameters: int | None


def runtime_of(path: Path) -> Runtime:
    """By the name's end; a folder is a checkpoint, and any other file is given to LiteRT, which tells what it is instead.

    Raises `ModelFormatError` if there is nothing at `path`."""
    if path.is_dir():
        return Runtime.PYTORCH
    flatbuffer.check_exists(path)
    return _BY_SUFFIX.get(path.suffix.lower(), Runtime.LITERT)


def prepare(path: Path) -> None:
    """Import what runs `path`, so that it is in place before the memory or time that the model takes is counted."""
    for module in _MODULES[runtime_of(path)]:
        importlib.import_module(module)


def load(path: Path, threads: int) -> Runnable:
    """Load `path` in this process, to run on `threads` threads; call it in a worker, since a broken file can end the process.

    Raises `ModelFormatError` (`CheckpointError` for a folder) if it is broken, `UnsupportedOpError` for ops that LiteRT lacks."""
    runtime = runtime_of(path)
    if runtime is Runtime.LITERT:
        from edgekit.tflite import loading

        return loading.load(path, threads=threads)
    if runtime is Runtime.ONNX:
        return _Onnx(path, threads)
    return _Checkpoint(path, threads) if runtime is Runtime.PYTORCH else _TorchScript(path, threads)


def describe(path: Path) -> Description:
    """Inputs, outputs, weight files and parameters of what lies at `path`; a child opens what needs its runtime for that.

    Raises `ModelFormatError` and `CheckpointError` if it is broken, as far as that shows without running it."""
    runtime = runtime_of(path)
    if runtime is Runtime.LITERT:
        content = flatbuffer.read(path)
        return Description(runtime, content.signature(content.entry()), (path,), _tflite_parameters(content))
    if runtime is Runtime.PYTORCH:
        return _describe_checkpoint(path)
    return Worker().run(_describe_onnx if runtime is Runtime.ONNX else _describe_torchscript, path).value


def weight_files(path: Path) -> tuple[Path, ...]:
    """The files whose sizes make up the size of `path`: a checkpoint's weights, else the file itself."""
    return tuple(weights.weight_files(path)) if path.is_dir() else (path,)


class _NoDelegate:
    """Runtimes without LiteRT's delegate have no counts of it, and are fed a row at a time."""

    batch: int = 1
    ops: int | None = None
    delegated_ops: int | None = None
    partitions: int | None = None


class _Onnx(_NoDelegate):
    """An .onnx or .ort file in ONNX Runtime's CPU provider."""

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        onnxruntime.set_default_logger_severity(4)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        self._path = path
        started = time.perf_counter()
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no public base class
            raise ModelFormatError(
                f"{path}: ONNX Runtime cannot load it ({one_line(error)}); export or download it again"
            ) from None
        self.load_ms = (time.perf_counter() - started) * 1e3
        self.signature = Signature(_onnx_specs(self._session.get_inputs()), _onnx_specs(self._session.get_outputs()))
        self._feed: dict[str, Array] = {}
        self._found: list[Any] = []

    def set_inputs(self, inputs: Mapping[str, Array]) -> None:
        _check_names(self._path, self.signature, inputs)
        self._feed = {
            # Not ascontiguousarray, which makes a row of a scalar.
            spec.name: np.asarray(as_fed(inputs[spec.name], len(spec.shape)), spec.dtype, order="C")
            for spec in self.signature.inputs
        }

    def invoke(self) -> None:
        try:
            self._found = self._session.run(None, self._feed)
        except Exception as error:
            raise ModelFormatError(f"{self._path}: ONNX Runtime stops during inference ({one_line(error)})") from None

    def outputs(self) -> dict[str, Array]:
        return {spec.name: np.asarray(value) for spec, value in zip(self.signature.outputs, self._found, strict=True)}


class _Torch(_NoDelegate):
    """A module that takes tensors by position or by name and gives tensors."""

    signature: Signature
    load_ms: float

    def __init__(self, path: Path, threads: int) -> None:
        import torch

        self._torch = torch
        torch.set_num_threads(threads)
        torch.set_num_interop_threads(1)
        self._path = path
        self._feed: dict[str, Any] = {}
        self._found: Mapping[str, Any] = {}

    def set_inputs(self, inputs: Mapping[str, Array]) -> None:
        self._feed = {name: self._torch.from_numpy(np.array(array)) for name, array in inputs.items()}

    def invoke(self) -> None:
        try:
            with self._torch.inference_mode():
                self._found = self._call()
        except Exception as error:  # a module raises whatever it likes
            raise ModelFormatError(f"{self._path}: PyTorch stops during inference ({one_line(error)})") from None

    def outputs(self) -> dict[str, Array]:
        for name, value in self._found.items():
            if not isinstance(value, self._torch.Tensor):
                raise ModelFormatError(f"{self._path}: its {name} is a {type(value).__name__}; give a model that returns tensors")
        return {name: value.float().numpy() for name, value in self._found.items()}

    def _call(self) -> Mapping[str, Any]:
        """The outputs by name, the first one first."""
        raise NotImplementedError


class _TorchScript(_Torch):
    """A .pt file as `edgekit export --format torchscript` writes it: token tensors by position."""

    def __init__(self, path: Path, threads: int) -> None:
        super().__init__(path, threads)
        started = time.perf_counter()
        self._module = _torchscript(path).eval()
        self.load_ms = (time.perf_counter() - started) * 1e3
        self.signature = _torchscript_signature(self._module)

    def set_inputs(self, inputs: Mapping[str, Array]) -> None:
        _check_names(self._path, self.signature, inputs)
        super().set_inputs({name: inputs[name] for name in self.signature.input_names})

    def _call(self) -> Mapping[str, Any]:
        outputs = self._module(*self._feed.values())
        if isinstance(outputs, Mapping):
            return outputs
        listed = outputs if isinstance(outputs, list | tuple) else [outputs]
        return {f"output_{number}": value for number, value in enumerate(listed)}


class _Checkpoint(_Torch):
    """A checkpoint folder in eager PyTorch, with the attention kernels that transformers chooses."""

    def __init__(self, path: Path, threads: int) -> None:
        super().__init__(path, threads)
        started = time.perf_counter()
        source = Checkpoint.read(path)
        self._model = weights.load_model(source)
        self.load_ms = (time.perf_counter() - started) * 1e3
        self.signature = _checkpoint_signature(source)
        # Segments are for models that know them; DistilBERT, for one, does not.
        self._taken = inspect.signature(self._model.forward).parameters

    def set_inputs(self, inputs: Mapping[str, Array]) -> None:
        super().set_inputs({name: array for name, array in inputs.items() if name in self._taken})

    def _call(self) -> Mapping[str, Any]:
        outputs = self._model(**self._feed)
        return {spec.name: outputs[spec.name] for spec in self.signature.outputs}


def _check_names(path: Path, signature: Signature, inputs: Mapping[str, Array]) -> None:
    if missing := [name for name in signature.input_names if name not in inputs]:
        raise ModelFormatError(f"{path}: input {missing[0]} is not in the data, which has {', '.join(sorted(inputs)) or 'none'}")


def _onnx_specs(listed: Any) -> tuple[TensorSpec, ...]:
    specs = []
    for item in listed:
        kind = item.type.removeprefix("tensor(").removesuffix(")")
        shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in item.shape)
        specs.append(TensorSpec(item.name, shape, _NUMPY.get(kind, kind)))
    return tuple(specs)


def _describe_onnx(path: Path) -> Description:
    signature = _Onnx(path, threads=1).signature
    if path.suffix.lower() == ".ort":
        return Description(Runtime.ONNX, signature, (path,), None)
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    parameters, beside = 0, set()
    for tensor in graph.initializer:
        if onnx.TensorProto.DataType.Name(tensor.data_type) not in _NO_WEIGHTS:
            parameters += int(np.prod(tensor.dims, dtype=np.int64))
        beside |= {path.parent / entry.value for entry in tensor.external_data if entry.key == "location"}
    return Description(Runtime.ONNX, signature, (path, *sorted(beside)), parameters)


def _describe_torchscript(path: Path) -> Description:
    import torch

    module = _torchscript(path)
    # A frozen module keeps its weights as constants of the graph.
    stored = [*module.parameters()]
    for node in module.graph.findAllNodes("prim::Constant"):
        if node.hasAttribute("value") and node.kindOf("value") == "t":
            stored.append(node.t("value"))
    parameters = sum(tensor.numel() for tensor in stored if tensor.dtype not in (torch.int64, torch.bool))
    return Description(Runtime.TORCHSCRIPT, _torchscript_signature(module), (path,), parameters or None)


def _torchscript(path: Path) -> Any:
    import torch

    if not zipfile.is_zipfile(path):
        raise ModelFormatError(f"{path}: not a TorchScript file; write it with edgekit export --format torchscript")
    if not _is_exported(path):
        raise ModelFormatError(
            f"{path}: is a program that PyTorch would run, and has no manifest of edgekit beside it that vouches for it; "
            "write it with edgekit export --format torchscript"
        )
    try:
        return torch.jit.load(str(path), map_location="cpu")
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelFormatError(
            f"{path}: not a whole TorchScript file ({one_line(error)}); write it with edgekit export --format torchscript"
        ) from None


def _is_exported(path: Path) -> bool:
    """Whether the manifest beside a file names its hash."""
    try:
        manifest = read_json(path.with_name(f"{path.name}.json"))
        return bool(manifest["kind"] == "torchscript" and manifest["sha256"] == artifacts.sha256(path))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _torchscript_signature(module: Any) -> Signature:
    """The tensors that `forward` takes; a name that tracing has numbered (`input_ids.1`) loses its number."""
    named = [item.debugName().partition(".")[0] for item in list(module.graph.inputs())[1:]]
    known = named if set(named) <= set(_TOKEN_INPUTS) else _TOKEN_INPUTS[: len(named)]
    return Signature(_token_specs(tuple(known)), ())


def _describe_checkpoint(path: Path) -> Description:
    signature, files = _checkpoint_signature(Checkpoint.read(path)), weights.weight_files(path)
    if not files:
        raise CheckpointError(f"{path}: holds no weights (model.safetensors); give a folder that save_pretrained wrote")
    counts = [_safetensors_parameters(file) for file in files if file.suffix == ".safetensors"]
    return Description(Runtime.PYTORCH, signature, tuple(files), sum(counts) or None)


def _checkpoint_signature(source: Checkpoint) -> Signature:
    """Tokens in, the task's outputs out, of each of which only the last axis is told: its classes."""
    outputs = tuple(TensorSpec(name, (1, len(source.labels)), "float32") for name in source.task.outputs)
    return Signature(_token_specs(_TOKEN_INPUTS[:2]), outputs)


def _token_specs(names: tuple[str, ...]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, (1, -1), "int32") for name in names)


def _safetensors_parameters(file: Path) -> int:
    """Weight values by the header alone. The format: https://github.com/huggingface/safetensors#format"""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > _MOST_HEADER_BYTES:
                raise ValueError("its header is too long")
            header = parse_json(stream.read(length))
        header.pop("__metadata__", None)
        shapes = [entry["shape"] for entry in header.values() if entry["dtype"] not in _NO_WEIGHTS]
        return sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, struct.error):
        raise CheckpointError(f"{file}: not a readable safetensors file; copy or download it again") from None


def _tflite_parameters(content: flatbuffer.ModelFile) -> int | None:
    """Elements of constant float tensors and of integer ones that have a scale."""
    counted: dict[int | str, int] = {}
    for graph in content.subgraphs:
        for tensor in graph.tensors:
            if tensor.data_bytes and (tensor.dtype.startswith(("float", "bfloat")) or tensor.scales or tensor.blockwise):
                counted[tensor.buffer or tensor.name] = int(np.prod(tensor.shape, dtype=np.int64))
    return sum(counted.values()) or None
