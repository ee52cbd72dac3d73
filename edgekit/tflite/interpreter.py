"""Run a .tflite file with ai-edge-litert: real values in and out, inputs and outputs by name."""

import contextlib
import copy
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import DatasetError, ModelFormatError, UnsupportedOpError
from edgekit.spec import TensorSpec
from edgekit.system import rooms
from edgekit.tflite import flatbuffer, signatures

_DELEGATE = "DELEGATE"
# Custom ops that hold a graph already compiled for one chip.
_COMPILED = {"edgetpu-custom-op": "an Edge TPU", "DISPATCH_OP": "an NPU"}


class Model:
    """A loaded .tflite file, called through one signature; XNNPACK is applied as the interpreter does by default.

    `load_ms` is the time that reading the file and allocating its tensors took, `file` what it is made of, `metadata` its
    TFLITE_METADATA, empty without one. `batch` is how many rows of tokens an inference takes, see `Signature.batch`; `signature` is
    that of one row. A malformed file can crash the process: load files of unknown origin in a worker."""

    def __init__(
        self,
        path: Path,
        *,
        threads: int = 2,
        signature_key: str | None = None,
        keep_tensors: bool = False,
        mapped: bool = False,
        delegate: bool = True,
        alone: bool = False,
        file: flatbuffer.ModelFile | None = None,
    ) -> None:
        """Load `path` and allocate its tensors; with `keep_tensors` what each op computes stays readable by `tensor`.

        Without `delegate` every op runs on the runtime's own kernels. The delegate prepares all signatures of a file, each with
        weights of its own; with `alone` the others are left out, at the cost of a copy of the file. `file` is what
        `flatbuffer.read` gave, if it was read. `mapped` leaves the file on disk, which saves time and memory; it is checked less.

        Raises `ModelFormatError` if it is no .tflite file, has no such signature or cannot be prepared, and
        `UnsupportedOpError` with the names of Flex or custom ops that the interpreter lacks."""
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        self.file = file or flatbuffer.read(path)
        self.metadata = self.file.model_metadata
        if names := self.file.flex_ops:
            raise UnsupportedOpError(
                f"{path}: needs TensorFlow's kernels for {', '.join(names)}; convert the model again with built-in ops only"
            )
        self._entry = self.file.entry(signature_key)
        self._subgraph = 0 if alone else self._entry.subgraph
        self.path = path
        self.signature_key = self._entry.key
        self._describe()
        self.ops = len(self.file.subgraphs[0].operators)
        started = time.perf_counter()
        resolvers = OpResolverType.AUTO, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        try:
            with self._alone(path) if alone else contextlib.nullcontext(path) as place:
                content = {"model_path": str(place)} if mapped or alone else {"model_content": path.read_bytes()}
                self._interpreter = Interpreter(
                    **content,
                    num_threads=threads,
                    experimental_preserve_all_tensors=keep_tensors,
                    experimental_op_resolver_type=resolvers[not delegate],
                )
            self._runtime: Any = self._interpreter._interpreter
            self._runtime.AllocateTensors(self._subgraph)
        except (ValueError, RuntimeError) as error:
            raise self._failure("cannot be loaded", error) from None
        self.load_ms = (time.perf_counter() - started) * 1e3
        self.prepare_ms = 0.0
        self._shapes = self._allocated_shapes()

    def _describe(self) -> None:
        signature = self.file.signature(self._entry)
        self.batch, self.signature, self._inputs = signature.batch, signature.of_one_row(), signature.inputs
        self._rows = self.batch

    @contextlib.contextmanager
    def _alone(self, path: Path) -> Iterator[Path]:
        """A copy of the file with this signature alone; once it is mapped, its name may go."""
        changes = signatures.only(flatbuffer.mapped(path), self._entry)
        with tempfile.NamedTemporaryFile(suffix=".tflite", dir=rooms.rooms()) as copied:
            shutil.copyfile(path, copied.name)
            for place, value in changes.items():
                os.pwrite(copied.fileno(), value, place)
            yield Path(copied.name)

    def with_signature(self, key: str) -> "Model":
        """The same loaded file by another signature, so one runs at a time; it took `prepare_ms`. Raises `ModelFormatError`."""
        if key == self.signature_key:
            return self
        other = copy.copy(self)
        other._entry = self.file.entry(key)
        other._subgraph, other.signature_key = other._entry.subgraph, key
        other._describe()
        started = time.perf_counter()
        try:
            self._runtime.AllocateTensors(other._subgraph)
        except (ValueError, RuntimeError) as error:
            raise self._failure(f"cannot be loaded (signature {key})", error) from None
        other.prepare_ms = (time.perf_counter() - started) * 1e3
        other._shapes = other._allocated_shapes()
        return other

    def _allocated_shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(self._runtime.TensorSize(index, self._subgraph).tolist()) for name, index in self._entry.inputs.items()}

    @property
    def partitions(self) -> int:
        """Partitions of the first subgraph that the delegate runs, at the shapes last set."""
        return sum(self._runtime.NodeName(node) == _DELEGATE for node in range(self._runtime.NumNodes()))

    @property
    def delegated_ops(self) -> int:
        """How many ops of the first subgraph are inside those partitions."""
        return len(self.delegated)

    @property
    def delegated(self) -> set[int]:
        """Their places in the subgraph: what lies between a partition's outputs and its inputs."""
        runtime = self._runtime
        nodes = range(runtime.NumNodes())
        delegates = {node for node in nodes if runtime.NodeName(node) == _DELEGATE}
        producers = {int(tensor): node for node in nodes if node not in delegates for tensor in runtime.NodeOutputs(node)}
        inside: set[int] = set()
        for delegate in delegates:
            seen = {int(tensor) for tensor in runtime.NodeInputs(delegate)}
            pending = [int(tensor) for tensor in runtime.NodeOutputs(delegate)]
            while pending:
                tensor = pending.pop()
                if tensor in producers and tensor not in seen:
                    inside.add(producers[tensor])
                    pending.extend(int(item) for item in runtime.NodeInputs(producers[tensor]))
                seen.add(tensor)
        return inside

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One inference: arrays by input name in, arrays by output name out.

        Quantized inputs take real values (float32, or any dtype but the file's own) and are quantized by the file's
        scale; an array of the file's own dtype is taken as stored. Quantized outputs come back as float32. Ids and
        masks are cast to the file's integer dtype. Free axes take the size of the data. A file that takes `batch` rows is given
        as many or fewer: it is filled up with the last of them, of which no outputs are given. Raises `ModelFormatError` for
        names and shapes that do not fit or an inference that fails, `DatasetError` for values that do not fit."""
        self.set_inputs(inputs)
        self.invoke()
        return self.outputs()

    def set_inputs(self, inputs: Mapping[str, np.ndarray]) -> None:
        """Store one sample, see `run`; what the graph keeps of an earlier one in variables is gone."""
        expected = self.signature.input_names
        if set(inputs) != set(expected):
            missing = ", ".join(sorted(set(expected) - set(inputs)))
            surplus = ", ".join(sorted(set(inputs) - set(expected)))
            raise ModelFormatError(
                f"{self.path}: {f'input {missing} is missing' if missing else f'there is no input {surplus}'}; "
                f"the file takes {', '.join(expected) or 'no inputs'}, the data has {', '.join(sorted(inputs)) or 'none'}"
            )
        stored = {spec.name: self._stored(spec, self._filled(np.asarray(inputs[spec.name]))) for spec in self._inputs}
        changed = {name: value.shape for name, value in stored.items() if value.shape != self._shapes[name]}
        try:
            for name, shape in changed.items():
                self._runtime.ResizeInputTensor(self._entry.inputs[name], np.array(shape, np.int32), False, self._subgraph)
            if changed:
                self._runtime.AllocateTensors(self._subgraph)
                self._shapes.update(changed)
            self._runtime.ResetVariableTensors()
            for name, value in stored.items():
                self._runtime.SetTensor(self._entry.inputs[name], value, self._subgraph)
        except (ValueError, RuntimeError) as error:
            raise self._failure("does not take these inputs", error) from None

    def invoke(self) -> None:
        """Run the graph on what `set_inputs` stored; nothing else, so that it can be timed. Raises `ModelFormatError`."""
        try:
            self._runtime.Invoke(self._subgraph)
        except (ValueError, RuntimeError) as error:
            raise self._failure("stops during inference", error) from None

    def outputs(self) -> dict[str, np.ndarray]:
        """Results of the last `invoke` by output name, dequantized to float32 where the file says how."""
        try:
            outputs = {
                spec.name: dequantize(self._runtime.GetTensor(self._entry.outputs[spec.name], self._subgraph), spec)
                for spec in self.signature.outputs
            }
        except (ValueError, RuntimeError) as error:
            raise self._failure("has no readable output", error) from None
        return outputs if self._rows == self.batch else {name: output[: self._rows] for name, output in outputs.items()}

    def tensor(self, index: int) -> np.ndarray:
        """A copy of the tensor at `index` of the signature's subgraph, as stored; see `keep_tensors`."""
        try:
            return np.asarray(self._runtime.GetTensor(index, self._subgraph))
        except (ValueError, RuntimeError) as error:
            raise self._failure(f"has no readable tensor {index}", error) from None

    def _filled(self, rows: np.ndarray) -> np.ndarray:
        if self.batch > 1:
            self._rows = len(rows) if rows.ndim else 0
            return filled(rows, self.batch) if 0 < self._rows < self.batch else rows
        return rows

    def _stored(self, spec: TensorSpec, value: np.ndarray) -> np.ndarray:
        if value.ndim == len(spec.shape) + 1 and value.shape[0] == 1:
            value = value[0]  # a row of an input that has no batch axis of its own
        sizes = zip(spec.shape, value.shape, strict=False)
        if value.ndim != len(spec.shape) or not all(own in (-1, size) for own, size in sizes):
            shape = ", ".join("any" if size == -1 else str(size) for size in spec.shape)
            raise ModelFormatError(f"{self.path}: input {spec.name} takes shape ({shape}), the data has {value.shape}")
        try:
            return quantize(value, spec)
        except (ModelFormatError, DatasetError) as error:
            raise type(error)(f"{self.path}: {error}") from None

    def _failure(self, what: str, error: Exception) -> ModelFormatError | UnsupportedOpError:
        text = str(error)
        if "unresolved custom op" in text:
            names = self.file.custom_ops
            advice = "convert the model again with built-in ops only"
            if chips := [_COMPILED[name] for name in names if name in _COMPILED]:
                advice = f"it is compiled for {chips[0]}: give the file it was made from"
            return UnsupportedOpError(
                f"{self.path}: needs custom op {', '.join(names)}, which the plain interpreter does not have; {advice}", text
            )
        return ModelFormatError(f"{self.path}: {what}: {text.strip()[:300] or type(error).__name__}; convert it again", text)


def filled(rows: np.ndarray, batch: int) -> np.ndarray:
    """Rows (n, …) and copies of the last one, (batch, …)."""
    return np.concatenate([rows, np.repeat(rows[-1:], batch - len(rows), axis=0)])


def quantize(values: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """`values` as the file stores them: round(value / scale) + zero_point, half to even, clipped to the dtype.

    Without a scale they are cast, and an array of the dtype itself is returned as it is. Raises `ModelFormatError` for
    a dtype that numpy lacks (string, int4) and `DatasetError` for a value that is not finite or outside the dtype."""
    target: np.dtype[Any] = np.dtype(object)
    with contextlib.suppress(TypeError):
        target = np.dtype(spec.dtype)
    if target.kind not in "biufc":
        raise ModelFormatError(f"input {spec.name} is a {spec.dtype} tensor; give a file whose inputs are numbers")
    if values.dtype == target:
        return values
    if values.dtype.kind not in "biuf":
        raise DatasetError(f"input {spec.name} takes numbers ({spec.dtype}), the data holds {values.dtype}")
    if target.kind not in "iu":
        return values.astype(target)
    if not np.isfinite(values).all():
        raise DatasetError(f"input {spec.name} holds a value that is not finite; mend the data")
    limits = np.iinfo(target)
    if spec.scale is not None:
        levels = np.rint(values / np.float64(spec.scale)) + (spec.zero_point or 0)
        return np.clip(levels, limits.min, limits.max).astype(target)
    if beyond := [end for end in (values.max(initial=0), values.min(initial=0)) if not limits.min <= end <= limits.max]:
        raise DatasetError(f"input {spec.name} holds {beyond[0]}, which {spec.dtype} cannot; check the ids")
    if values.dtype.kind == "f" and (values != np.rint(values)).any():
        raise DatasetError(f"input {spec.name} takes whole numbers ({spec.dtype}), the data holds fractions")
    return values.astype(target)


def dequantize(stored: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """Real values (float32) of a tensor with scale: (stored - zero_point) * scale; without one, `stored` as it is."""
    if spec.scale is None:
        return stored
    return (stored.astype(np.float32) - np.float32(spec.zero_point or 0)) * np.float32(spec.scale)
